from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toy_engine import toy_run

from vistruct.checkpoint.load import load_model
from vistruct.engine.run import build
from vistruct.engine.ship import ship
from vistruct.errors import UserError


@pytest.fixture
def run_dir(tmp_path) -> Path:
    state = build(toy_run(), tmp_path)
    (tmp_path / "run.yaml").write_text("")
    ship(state)
    return tmp_path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(path)
    return caught.value.what


def test_a_model_is_found_from_its_run_or_by_itself(run_dir):
    for path in (run_dir, run_dir / "model"):
        task, card = load_model(path)
        assert card.path == run_dir / "model"
        assert not task.training


def test_a_run_that_has_not_finished_says_so(run_dir):
    (run_dir / "model" / "model.json").unlink()
    assert "not finished" in refused(run_dir)


def test_a_place_without_a_model_says_so(tmp_path):
    assert "no model here" in refused(tmp_path)
    assert "no such file or directory" in refused(tmp_path / "nowhere")


def test_damaged_weights_are_refused(run_dir):
    file = run_dir / "model" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert "not those that model.json was written for" in refused(run_dir)
    file.unlink()
    assert "not those that model.json was written for" in refused(run_dir)


def test_weights_that_are_no_numbers_are_refused_and_files_have_the_rights_of_any_other(tmp_path):
    state = build(toy_run(), tmp_path)
    ship(state)
    (tmp_path / "any").touch()
    rights = (tmp_path / "any").stat().st_mode
    assert [one.stat().st_mode for one in tmp_path.rglob("*.safetensors")] == [rights, rights]
    with torch.no_grad():
        next(state.model.parameters()).view(-1)[0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        ship(state)
    assert refused(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}'])
def test_a_card_that_cannot_be_read_is_refused(run_dir, content):
    (run_dir / "model" / "model.json").write_text(content)
    assert refused(run_dir)


def test_the_card_says_what_a_stranger_needs(run_dir):
    values = json.loads((run_dir / "model" / "model.json").read_text())
    assert values["parameters"] == 546
    assert values["info"]["class_names"] == ["toy"]
    assert (values["input"]["channels"], values["input"]["intake"]) == (3, None)
    text = (run_dir / "model" / "README.md").read_text()
    assert "random weights" in text
    assert "Licence" in text
    backbone = json.loads((run_dir / "backbone" / "backbone.json").read_text())
    assert backbone["config"]["kind"] == "toy_engine:ToyBackboneConfig"
    assert backbone["source"]["started_from"] == "random weights"

"""Runs of a model that points: cut off and resumed, packed, padded, recomputed, on several ranks, with another task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from several_processes import train_in_ranks
from toy_pointing import pointing, pointing_run, pointing_task, squares
from toy_vlm import configure, gradients

from vistruct.checkpoint.tensors import read_tensors, sha256
from vistruct.config import Pack, Run
from vistruct.contracts import GroundedPrediction
from vistruct.engine.train import train
from vistruct.inference.model import load
from vistruct.recipes import detect
from vistruct.recipes.small import small_vit
from vistruct.vlm.tiling import Tiling


class Interrupted(Exception):
    pass


def lines(out_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("workers", "pack"), [(0, None), (2, Pack(tokens=300, tiles=4))])
def test_a_run_that_was_cut_off_ends_bit_identical(tmp_path: Path, workers: int, pack: Pack | None) -> None:
    run = pointing_run(tmp_path / "data", pointing_task("paper"), pack, workers=workers)

    def interrupt(step: int, _: dict[str, float]) -> None:
        if step == 5:  # between two checkpoints
            raise Interrupted

    train(run, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(run, tmp_path / "cut", on_step=interrupt)
    train(run, tmp_path / "cut")
    one, other = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "cut"))
    assert sha256(one) == sha256(other)
    assert all("box.loss_l1" in line for line in lines(tmp_path / "cut"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert train_in_ranks(1, ranked(folder), folder / "run") == [0]
    return folder / "run"


def ranked(folder: Path, **settings: Any) -> Run:
    return pointing_run(folder / "data", steps=4, save_every=100, **settings)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ranks_take_the_same_steps_as_one(tmp_path: Path, alone: Path, parallel: str) -> None:
    """A sample on each, of which some have nothing to draw, and one no image; regions are drawn by sample."""
    assert train_in_ranks(2, ranked(tmp_path, parallel=parallel), tmp_path / "run") == [0, 0]
    one, two = lines(alone), lines(tmp_path / "run")
    for name in ("loss", "loss_answers", "box.loss_l1", "box.loss_giou", "grad_norm"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=2e-3, abs=1e-6), name
    first, second = (read_tensors(folder / "model" / "model.safetensors") for folder in (alone, tmp_path / "run"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("rows", ["grouped", "padded"])
def test_padded_rows_teach_what_packed_ones_do(rows: str) -> None:
    task = pointing()
    batch = task.collator([squares("a", 1, 2), squares("b", 2, 3)])
    packed, units = {name: term.item() for name, term in task(batch).terms.items()}, task.units(batch)
    configure(task, rows=rows)
    assert {name: term.item() for name, term in task(batch).terms.items()} == pytest.approx(packed, rel=1e-4)
    assert task.units(batch) == units


def test_what_is_recomputed_teaches_the_same() -> None:
    task = pointing()
    batch = task.train().collator([squares("a", 1, 2), squares("b", 2, 3)])
    kept = gradients(task, [batch])
    task.language.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for name, gradient in gradients(task, [batch]).items():
        torch.testing.assert_close(gradient, kept[name], atol=1e-5, rtol=1e-4)


def test_it_learns_beside_detection_over_one_backbone(tmp_path: Path) -> None:
    vit = small_vit(stem="conv")
    own = detect.tiny().only
    talk = pointing_run(tmp_path / "data", pointing_task(backbone=vit, tiling=Tiling(size=64, max_tiles=1))).only
    boxes = own.model_copy(update={"task": own.task.model_copy(update={"backbone": vit}), "batch": 1})
    run = pointing_run(tmp_path / "data", steps=2, draw="every")
    out = train(Run.model_validate(dict(run) | {"streams": {"boxes": boxes, "talk": talk}}), tmp_path / "run")
    assert {"boxes.loss_box", "talk.loss_answers", "talk.box.loss_l1"} <= lines(out)[-1].keys()
    found, said = (read_tensors(out / "model" / name / "model.safetensors") for name in ("boxes", "talk"))
    shared = [name for name in found if name.startswith("backbone.")]
    assert shared
    assert all(torch.equal(found[name], said[name]) for name in shared)
    answer = load(out, task="talk").predict(tmp_path / "data" / "0.png", ask="find all trees ?").prediction
    assert isinstance(answer, GroundedPrediction)

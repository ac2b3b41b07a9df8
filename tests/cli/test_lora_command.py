"""`--lora FILE`, in every command that takes a model: added once, to the weights it belongs to, and what it changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch.testing import assert_close

from vistruct.checkpoint.load import load_model
from vistruct.cli.main import main
from vistruct.config import Lora, Move, with_values
from vistruct.engine.train import train
from vistruct.recipes import classify


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A model; the same with adapters trained in its backbone; another model."""
    folder = tmp_path_factory.mktemp("lora")
    base = with_values(classify.tiny(), steps=4)
    found = {"base": train(base, folder / "base")}
    rules = (
        Move(pattern="*", mode="frozen"),
        Move(pattern="backbone", mode="lora", lora=Lora(rank=2, scale=1.0, parts=("q", "v"))),
    )
    optim = base.optim.model_copy(update={"lr": 3e-2})
    tuned = with_values(base, start=found["base"], init=None, move=rules, optim=optim)
    found["tuned"] = train(tuned, folder / "tuned")
    found["other"] = train(base.model_copy(update={"seed": 1}), folder / "other")
    return found


def run_main(capsys: Any, *args: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    said = capsys.readouterr()
    return int(caught.value.code or 0), said.out, said.err


def evaluated(capsys: Any, *words: object) -> Any:
    code, out = run_main(capsys, "eval", *words, "--json")[:2]
    assert code == 0
    return json.loads(out)


def test_eval_measures_without_and_with_them_and_says_how_sure_the_difference_is(capsys, runs):
    base, tuned = (evaluated(capsys, runs[name])["evaluations"]["val"] for name in ("base", "tuned"))
    found = evaluated(capsys, runs["base"], "--lora", runs["tuned"])
    numbers = found["evaluations"]["val"]
    assert {name: one["before"] for name, one in numbers.items()} == pytest.approx(base, nan_ok=True)
    assert {name: one["after"] for name, one in numbers.items()} == pytest.approx(tuned, nan_ok=True)
    assert numbers["OA"]["difference"] == pytest.approx(tuned["OA"] - base["OA"])
    low, high = numbers["OA"]["interval"]
    assert low <= numbers["OA"]["difference"] <= high
    assert numbers["OA"]["over"] == "images"
    assert Path(found["written"]).name == "eval-lora-tuned.json"
    assert json.loads(Path(found["written"]).read_text())["val"] == numbers
    assert json.loads((runs["base"] / "eval.json").read_text())["val"] == base  # its own result is left as it was


def test_a_model_with_adapters_added_gives_what_the_one_gives_that_trained_them(runs):
    added, card = load_model(runs["base"], lora=runs["tuned"] / "adapters")
    trained, own = load_model(runs["tuned"])
    assert_close(dict(added.named_parameters()), dict(trained.named_parameters()), rtol=0, atol=1e-5)
    assert card.values["adapters"][0]["digest"] == own.values["adapters"][0]["digest"]


@pytest.mark.parametrize(
    ("model", "lora", "said"),
    [
        ("tuned", ("tuned",), "in the weights already"),
        ("other", ("tuned",), "beside other weights"),
        ("base", ("tuned", "tuned"), "--lora twice"),
        ("base", ("base",), "no adapters here"),
    ],
)
def test_what_can_be_known_to_be_wrong_is_refused(capsys, runs, model, lora, said):
    words = [word for name in lora for word in ("--lora", runs[name])]
    code, _, err = run_main(capsys, "eval", runs[model], *words)
    assert code == 2
    assert said in err


def test_a_copy_of_the_numbers_alone_is_still_known_by_what_is_in_the_model(capsys, runs, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(runs["tuned"] / "adapters", copied)
    (copied / "base.json").unlink()
    code, _, err = run_main(capsys, "predict", runs["tuned"], tmp_path, "--lora", copied)
    assert code == 2
    assert "in the weights already" in err

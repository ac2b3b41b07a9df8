"""A model that points, from its run to what is asked of it: with regions, history, a command, boxes in the text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from public_folders import ship_task
from toy_pointing import POINTING, pointing, squares

from vistruct.cli.main import main
from vistruct.config import with_values
from vistruct.contracts import GroundedPrediction, Region
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.inference.answers import commands_of
from vistruct.inference.conversation import conversation
from vistruct.inference.kind import Asked, Exchange
from vistruct.inference.model import Model, load
from vistruct.inference.scenes import Case
from vistruct.metrics.grounded import GroundedConfig, Grounding
from vistruct.recipes.vtplug import tune
from vistruct.samples import trees
from vistruct.tasks import instruct
from vistruct.vlm.grammar import Grammar, write_command

CLICK = Region(kind="point", xy=((120.0, 80.0),))
IMAGE = trees().test.with_suffix(".jpg")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = with_values(tune.tiny(), steps=2, evals={}, workers=0)
    return train(run, tmp_path_factory.mktemp("runs") / "tune")


def test_a_run_answers_with_regions_and_a_history(run_dir: Path) -> None:
    model = load(run_dir)
    first = model.predict(IMAGE, ask="What is <region>?", regions=(CLICK,)).prediction
    assert isinstance(first, GroundedPrediction)
    before = Exchange(question="What is <region>?", regions=(CLICK,), answer=first)
    box = Region(kind="box", xy=((20.0, 30.0), (90.0, 110.0)))
    second = model.predict(IMAGE, ask="And <region>?", regions=(box,), history=(before,)).prediction
    assert second.question == "And <region>?"
    assert second.truth is None
    with pytest.raises(UserError, match="not told what to answer with"):
        model.predict(IMAGE, ask="What is <region>?", regions=(CLICK,), command="box")


def test_a_run_answers_on_the_command_line(run_dir: Path, tmp_path: Path) -> None:
    asks = ["--ask", "What is <region> beside <region>?", "--region", "point:120,80", "--region", "box:20,30,90,110"]
    with pytest.raises(SystemExit) as end:
        main(["predict", str(run_dir), str(IMAGE), *asks, "--out", str(tmp_path / "o")])
    assert not end.value.code
    (line,) = (tmp_path / "o" / "answers.jsonl").read_text().splitlines()
    assert json.loads(line)["question"] == "What is <region> beside <region>?"


def shipped(folder: Path, **grammar: Any) -> Model:
    config = POINTING.model_copy(update={"grammar": Grammar(**grammar)})
    return load(ship_task(folder / "model", pointing(config, max_new_tokens=8)))


def test_a_model_that_is_told_its_task_is_told_what_to_answer_with(tmp_path: Path, capsys: Any) -> None:
    model = shipped(tmp_path, command=True)
    case = Case(pictures=(torch.zeros(3, 30, 40, dtype=torch.uint8),), name="a")
    first = squares("a", 1)
    for command, task in [("mask", "segmentation"), ("gcg_detection", "gcg_detection"), ("text", "vqa")]:
        sample = conversation(case, Asked(question="Where?", command=command))
        batch = model.task.traits.predict_collator([sample])
        said = model.task.tokenizer.decode(batch.input_ids)
        assert write_command(sample.turns[-1]) in said
        assert f"task name: {task}\n" in said
    assert commands_of(model)[:2] == ("box", "mask")  # what its own decoders draw stands first
    answered = model.predict(case.pictures[0], ask="Where?", command="mask").prediction
    assert answered.truth is None
    assert answered.question == "Where?"
    with pytest.raises(UserError, match="must be told"):
        model.predict(first.images[0], ask="Where?")
    with pytest.raises(UserError, match="no such unit") as wrong:
        model.predict(first.images[0], ask="Where?", command="boxs")
    assert "box" in wrong.value.fix
    asks = ["predict", str(tmp_path / "model"), str(IMAGE), "--ask", "Where?", "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit) as end:
        main(asks)
    assert end.value.code == 2
    assert "--command box" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([*asks, "--command", "box"])
    assert not end.value.code


def test_boxes_in_the_text_are_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model of the first stage writes is measured as what is drawn is."""
    task = pointing(POINTING.model_copy(update={"grammar": Grammar(coordinates=True)})).eval()
    sample = squares("a", 1)
    asked = task.traits.predict_collator([sample])
    x0, y0, x1, y1 = (sample.objects.boxes_xyxy[0] / 56).tolist()
    text = f"trees[{x0:.3f},{y0:.3f},{x1:.3f},{y1:.3f};0.900,0.250,0.500,0.750], [not 1,2] said"
    monkeypatch.setattr(instruct, "answer_tokens", lambda *_: [task.tokenizer.encode(text)] * 3)
    found = task.predict(asked)[0]
    assert found.answer == text
    assert found.found.words == "trees, [not 1,2] said"
    assert [(phrase.unit, phrase.rows, phrase.start) for phrase in found.found.phrases] == [("box", (0, 1), 5)]
    expected = torch.stack([sample.objects.boxes_xyxy[0], torch.tensor([28.0, 14.0, 50.4, 42.0])])
    torch.testing.assert_close(found.found.objects.boxes_xyxy, expected, atol=0.05, rtol=0)
    assert found.truth is not None
    assert found.truth.words == "trees."
    torch.testing.assert_close(found.truth.objects.boxes_xyxy, sample.objects.boxes_xyxy, atol=0.05, rtol=0)
    metric = Grounding(GroundedConfig())
    metric.update([metric.condense(found)])
    numbers = metric.compute()
    assert numbers["f1_50"] == pytest.approx(0.5)

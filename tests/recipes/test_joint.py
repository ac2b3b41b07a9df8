"""The joint recipe: two tasks over one backbone from the command line to two models and a backbone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import read_run, run_to_yaml
from vistruct.contracts import BoxPrediction, MapPrediction
from vistruct.errors import UserError
from vistruct.files.images import read_image
from vistruct.inference.model import load
from vistruct.recipes import joint
from vistruct.recipes.options import parse
from vistruct.runs import train_and_report
from vistruct.samples import trees


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_and_report(joint.tiny(), tmp_path_factory.mktemp("runs") / "joint")


def test_both_tasks_are_measured_drawn_and_asked_alone_and_the_backbone_is_one(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {"boxes.loss_class", "boxes.loss_box", "fields.loss_pixels"} <= lines[0].keys()
    assert {"boxes/AP50", "fields/mIoU"} <= lines[-1].keys()
    drawn = {path.name for path in (run_dir / "samples").iterdir()}
    assert {"first_batch_boxes.png", "first_batch_fields.png", "predictions_boxes.png"} <= drawn
    image = read_image(trees().test.with_suffix(".jpg"))[:, :300, :400]
    assert isinstance(load(run_dir, task="boxes").predict(image), BoxPrediction)
    assert isinstance(load(run_dir / "model" / "fields").predict(image), MapPrediction)
    boxes, fields = (read_tensors(run_dir / "model" / name / "model.safetensors") for name in ("boxes", "fields"))
    shared = [name for name in boxes if name.startswith("backbone.")]
    assert shared
    assert all(torch.equal(boxes[name], fields[name]) for name in shared)
    page = (run_dir / "report.html").read_text()
    assert "train boxes" in page
    assert "train fields" in page


def test_its_file_is_its_own_input(run_dir):
    assert read_run(run_dir / "run.yaml") == joint.tiny()


def asked(*words: str) -> dict[str, object]:
    return parse(joint.recipe, words)


def test_a_command_line_says_tasks_and_their_own_options(tmp_path):
    boxes = f"boxes=detect:{trees().train}"
    cells = f"cells=detect:{trees().test}"
    words = ("--option", "boxes.batch=4", "--option", "cells.head=retina", "--weight", "cells=0.5", "--draw=one")
    run = joint.recipe(**asked("--task", boxes, "--task", cells, *words))  # ty: ignore[invalid-argument-type]
    assert (run.streams["boxes"].batch, run.streams["cells"].weight, run.draw) == (4, 0.5, "one")
    assert run.streams["cells"].task.head.kind == "retina"
    assert run.streams["cells"].task.backbone == run.streams["boxes"].task.backbone
    (tmp_path / "run.yaml").write_text(run_to_yaml(run))
    assert read_run(tmp_path / "run.yaml") == run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", f"boxes=detect:{trees().train}"], "1 task, where several"),
        (["--task", "boxes=detct:x", "--task", "b=detect:y"], "'detct'"),
        (["--task", "boxes", "--task", "b=detect:y"], "NAME=KIND:PATH"),
        (["--task", "boxes=detect:nowhere.json", "--task", "b=detect:y"], "no such file"),
        (["--option", "boxs.batch=4"], "no task 'boxs'"),
        (["--option", "boxes.bach=4"], "did you mean 'batch'"),
        (["--option", "boxes.lr=4"], "is the whole run's"),
        (["--option", "boxes.batch=many"], "boxes.batch"),
        (["--weight", "boxes=heavy"], "--weight"),
    ],
)
def test_words_that_do_not_fit_are_answered_with_what_would(words, said):
    both = ["--task", f"boxes=detect:{trees().train}", "--task", f"cells=detect:{trees().test}"]
    with pytest.raises(UserError) as caught:
        joint.recipe(**asked(*(words if "--task" in words else [*both, *words])))  # ty: ignore[invalid-argument-type]
    assert said in str(caught.value)

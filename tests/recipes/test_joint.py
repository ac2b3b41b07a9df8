"""The joint recipe: two tasks over one backbone from the command line to two models and a backbone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from vistruct.checkpoint.export import export
from vistruct.checkpoint.load import model_dir
from vistruct.checkpoint.tensors import read_tensors
from vistruct.cli.inspect import gather
from vistruct.cli.show import data_of
from vistruct.config import MAIN, read_run, run_to_yaml
from vistruct.contracts import BoxPrediction, MapPrediction
from vistruct.data.loading.loader import check_split
from vistruct.data.reading import Named
from vistruct.engine.run import build
from vistruct.engine.step import train_step
from vistruct.engine.train import loader_of
from vistruct.errors import UserError
from vistruct.files.images import read_image
from vistruct.inference.model import load
from vistruct.recipes import detect, joint
from vistruct.recipes.options import parse
from vistruct.recipes.small import small_vit
from vistruct.runs import train_and_report
from vistruct.samples import trees
from vistruct.samples.made_captions import karpathy_file
from vistruct.settings import with_settings


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
    assert isinstance(load(run_dir, task="boxes").predict(image).prediction, BoxPrediction)
    assert isinstance(load(run_dir / "model" / "fields").predict(image).prediction, MapPrediction)
    boxes, fields = (read_tensors(run_dir / "model" / name / "model.safetensors") for name in ("boxes", "fields"))
    shared = [name for name in boxes if name.startswith("backbone.")]
    assert shared
    assert all(torch.equal(boxes[name], fields[name]) for name in shared)
    page = (run_dir / "report.html").read_text()
    assert "train boxes" in page
    assert "train fields" in page


def test_what_a_task_learned_from_is_shown_by_its_name_or_its_model(run_dir):
    own = read_run(run_dir / "run.yaml").streams["fields"].data
    assert data_of(run_dir, task="fields") == data_of(run_dir / "model" / "fields") == own
    with pytest.raises(UserError, match="several tasks: boxes, fields") as caught:
        data_of(run_dir)
    assert caught.value.fix == "--task boxes"


def test_who_needs_one_task_of_several_is_told_all_of_them(run_dir):
    with pytest.raises(UserError) as caught:
        model_dir(run_dir, MAIN)
    assert caught.value.what == "this run has several tasks: boxes, fields"
    assert all(str(run_dir / "model" / name) in caught.value.fix for name in ("boxes", "fields"))


def test_a_finished_run_is_called_so_and_its_backbone_needs_no_task(run_dir, tmp_path):
    assert {"state": "finished", "models": "boxes, fields"}.items() <= gather(run_dir).items()
    whole, one = (
        export(place, tmp_path / name, format="backbone-plain").path / "backbone.safetensors"
        for name, place in (("whole", run_dir), ("one", run_dir / "model" / "fields"))
    )
    assert whole.read_bytes() == one.read_bytes()


def test_a_batch_that_does_not_divide_is_answered_with_its_setting():
    with pytest.raises(UserError, match="batch=3 does not divide") as caught:
        check_split(3, world=2, accumulate=1, where="streams.boxes.batch")
    assert caught.value.fix == "--set streams.boxes.batch=4 or streams.boxes.batch=2"
    fixed = with_settings(joint.tiny(), ["streams.boxes.batch=4", "streams.boxes.trunk="])
    assert (fixed.streams["boxes"].batch, fixed.streams["boxes"].trunk) == (4, "")


def test_a_setting_may_name_a_term_of_the_loss_and_no_field_that_a_part_lacks():
    run = with_settings(joint.tiny(), ["streams.boxes.loss_weights.box=2", "streams.boxes.loss_weights.class=3"])
    assert run.streams["boxes"].loss_weights == {"box": 2.0, "class": 3.0}
    assert with_settings(detect.tiny(), ["loss_weights.box=2"]).only.loss_weights == {"box": 2.0}
    for wrong, near in (("streams.box.batch=2", "boxes"), ("streams.boxes.bach=2", "batch"), ("stps=2", "steps")):
        with pytest.raises(UserError, match=f"did you mean '{near}'"):
            with_settings(joint.tiny(), [wrong])
    with pytest.raises(UserError, match="no YAML"):
        with_settings(joint.tiny(), ["trainable=[{pattern: backbone"])


def test_a_kind_that_cannot_keep_what_another_was_told_says_how_it_is_set_whole():
    with pytest.raises(UserError, match="unknown key") as caught:
        with_settings(detect.tiny(), ["task.backbone.kind=eva_vit"])
    setting = caught.value.fix
    assert setting == "--set 'task.backbone={kind: eva_vit}'"
    whole = with_settings(detect.tiny(), [setting.removeprefix("--set ").strip("'")])
    assert whole.only.task.backbone.kind == "eva_vit"


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
        (["--option", "boxes.batch=many"], "\n--option boxes.batch=INT"),
        (["--weight", "boxes=heavy"], "--weight"),
        (["--weight", "boxes"], "--weight boxes=FLOAT"),
        (["--task", f"../x=detect:{trees().train}", "--task", "b=detect:y"], "small letters"),
    ],
)
def test_words_that_do_not_fit_are_answered_with_what_would(words, said):
    both = ["--task", f"boxes=detect:{trees().train}", "--task", f"cells=detect:{trees().test}"]
    with pytest.raises(UserError) as caught:
        joint.recipe(**asked(*(words if "--task" in words else [*both, *words])))  # ty: ignore[invalid-argument-type]
    assert said in str(caught.value)


def test_a_weight_without_end_is_refused_and_no_evaluation_takes_the_place_of_another(tmp_path):
    both = ("--task", f"boxes=detect:{trees().train}", "--task", f"cells=detect:{trees().train}")
    with pytest.raises(ValidationError, match="finite"):
        joint.recipe(**asked(*both, "--weight", "boxes=inf"))  # ty: ignore[invalid-argument-type]
    talk = tmp_path / "talk.jsonl"
    talk.touch()
    tasks = ("--task", f"talk=instruct:{talk}", "--task", f"talk_answers=detect:{trees().train}")
    vals = ("--option", f"talk.val={talk}", "--option", f"talk_answers.val={trees().test}")
    with pytest.raises(UserError, match="two evaluations are called 'talk_answers'"):
        joint.recipe(**asked(*tasks, *vals))  # ty: ignore[invalid-argument-type]


def test_captions_learn_beside_boxes(tmp_path):
    run = joint.recipe(
        task=(Named(f"boxes=detect:{trees().train}"), Named(f"words=caption:{karpathy_file()}")),
        option=(
            *(Named(f"boxes.{text}") for text in ("size=256", "overlap=64", "fraction=0.1", "batch=2")),
            *(Named(f"words.{text}") for text in ("split=train", "val_split=val", "size=64", "batch=2")),
        ),
        steps=1,
    )
    small = small_vit(stem="conv")
    streams = {
        name: one.model_copy(update={"task": one.task.model_copy(update={"backbone": small})})
        for name, one in run.streams.items()
    }
    state = build(run.model_copy(update={"streams": streams, "workers": 0}), tmp_path)
    figures = train_step(state, next(iter(loader_of(state))))
    assert {"boxes.loss_box", "words.loss_words"} <= figures.keys()
    assert run.evals["words"].metric.kind == "captions"

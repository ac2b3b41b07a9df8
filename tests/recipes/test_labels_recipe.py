"""The recipe of the labels themselves: one sample, one pass, a detector and a segmenter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import read_run
from vistruct.contracts import BoxPrediction, JointBatch, MapPrediction
from vistruct.data.formats.maps.painted_objects import BACKGROUND
from vistruct.engine.run import build
from vistruct.engine.train import loader_of, train
from vistruct.files.images import read_image
from vistruct.inference.model import load
from vistruct.recipes import detect, find, labels
from vistruct.samples import trees


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(labels.tiny(), tmp_path_factory.mktemp("runs") / "labels")


def test_the_tiny_twin_leaves_two_models_over_one_backbone(run_dir: Path) -> None:
    assert find("labels").tiny() == labels.tiny() == read_run(run_dir / "run.yaml")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {"boxes.loss_box", "filled.loss_pixels"} <= lines[0].keys()
    assert {"boxes_val/AP50", "filled_val/IoU/tree"} <= lines[-1].keys()
    image = read_image(trees().test.with_suffix(".jpg"))[:, :300, :400]
    assert isinstance(load(run_dir, task="boxes").predict(image).prediction, BoxPrediction)
    assert isinstance(load(run_dir, task="filled").predict(image).prediction, MapPrediction)
    boxes, filled = (read_tensors(run_dir / "model" / name / "model.safetensors") for name in ("boxes", "filled"))
    shared = [name for name in boxes if name.startswith("backbone.")]
    assert shared
    assert all(torch.equal(boxes[name], filled[name]) for name in shared)


def test_both_learn_from_the_same_samples_and_boxes_are_the_pixels_that_are_painted(tmp_path: Path) -> None:
    run = labels.tiny()
    state = build(run.model_copy(update={"evals": {}}), tmp_path)
    (batch,) = next(iter(loader_of(state)))
    assert isinstance(batch, JointBatch)
    boxes, filled = batch.parts
    assert boxes.ids == filled.ids
    assert state.sources["filled"].dataset.info.map_class_names == (BACKGROUND, "tree")


def test_the_detector_is_that_of_the_recipe_detect() -> None:
    asked = {"data": trees().train, "val": trees().test, "steps": 7, "size": 256, "overlap": 64, "rot90": True}
    alone, both = detect.recipe(**asked), labels.recipe(**asked, map_head="linear")
    assert both.streams["boxes"].task == alone.only.task
    assert both.streams["filled"].samples == "boxes"
    assert (alone.keep_model, both.keep_model) == ("best", "last")  # two tasks have no common number
    apart = {"streams": {}, "evals": {}, "recipe": "", "keep_model": "last"}
    assert both.model_copy(update=apart) == alone.model_copy(update=apart)

"""The detection recipe: its tiny twin runs to a model that predicts; a backbone decides the sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vistruct.backbones.intern_image import InternImageConfig
from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.vit_rvsa import MTP_B
from vistruct.config import read_run, run_to_yaml
from vistruct.contracts import BoxPrediction
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.files.images import read_image
from vistruct.inference.model import load
from vistruct.recipes import find, oriented
from vistruct.recipes.detect import VIT_S, architecture, pyramid_strides, recipe, tiny
from vistruct.samples import trees
from vistruct.samples.made_scenes import dota_folder
from vistruct.settings import with_settings


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "detect"
    train(tiny(), out)
    return out


def test_the_tiny_twin_trains_measures_and_leaves_a_model_that_predicts(run_dir: Path) -> None:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    figures = {key: value for line in lines for key, value in line.items()}
    assert any(key.endswith("AP50") for key in figures)
    found = load(run_dir).predict(read_image(trees().test.with_suffix(".jpg"))[:, :300, :400]).prediction
    assert isinstance(found, BoxPrediction)
    assert found.class_names == ("tree",)


def test_a_run_of_the_recipe_is_its_own_input(run_dir: Path, tmp_path: Path) -> None:
    assert find("detect").tiny() == tiny() == read_run(run_dir / "run.yaml")
    full = recipe(data=Path("a.json"), val=Path("b.json"), backbone=Path("weights.safetensors"))
    (tmp_path / "run.yaml").write_text(run_to_yaml(full))
    assert read_run(tmp_path / "run.yaml") == full
    changed = with_settings(full, ["task.head.nms_iou=0.5", "data.tiles.overlap=64"])
    assert changed.only.task.head.nms_iou == 0.5


def test_a_runs_backbone_decides_the_architecture_and_is_loaded(run_dir: Path, tmp_path: Path) -> None:
    for place in (run_dir, run_dir / "backbone"):
        run = recipe(data=trees().train, backbone=place, channels=16, steps=1, batch=1)
        assert run.only.task.backbone == tiny().only.task.backbone
        assert run.only.task.neck.strides == (4, 8, 16, 32)
        assert run.init == place
        assert run.optim.layer_decay < 1


def test_a_detector_of_the_other_kind_of_boxes_is_no_start(run_dir: Path) -> None:
    with pytest.raises(UserError, match=r"horizontal boxes \(fcos") as caught:
        oriented.recipe(data=dota_folder(), split="train", start=run_dir)
    assert caught.value.fix.startswith("vistruct train detect")
    run = oriented.recipe(data=dota_folder(), split="train", start=run_dir, head="oriented_fcos")
    task: Any = run.only.task
    assert task.head.kind == "oriented_fcos"


def test_public_weights_mean_the_published_size_and_none_a_small_one() -> None:
    assert architecture(Path("weights.safetensors"))[0] == InternVitConfig()
    assert architecture(None)[0].width == 384


@pytest.mark.parametrize("config", [InternImageConfig(width=16, groups=(1, 2, 4, 8)), MTP_B], ids=lambda c: c.kind)
def test_a_backbone_with_several_maps_gets_a_pyramid_on_these(config: Any, tmp_path: Path) -> None:
    (tmp_path / "backbone.json").write_text(json.dumps({"config": config.model_dump(mode="json")}))
    run = recipe(data=trees().train, backbone=tmp_path, steps=1)
    assert run.only.task.backbone == config
    assert run.only.task.neck.kind == "fpn"


def test_an_adapter_around_a_timm_vit_learns_is_shipped_and_predicts(tmp_path: Path) -> None:
    vit = "{kind: timm, name: test_vit, options: {depth: 2}}"
    adapter = f"task.backbone={{kind: vit_adapter, vit: {vit}, groups: [[0, 0], [1, 1]], heads: 4, conv_width: 8}}"
    run = with_settings(tiny(), [adapter, "task.neck={kind: fpn, channels: 16}", "steps=2", "evals={}"])
    train(run, tmp_path / "run")
    found = load(tmp_path / "run").predict(read_image(trees().test.with_suffix(".jpg"))[:, :100, :150]).prediction
    assert isinstance(found, BoxPrediction)
    again = recipe(data=trees().train, backbone=tmp_path / "run" / "backbone", channels=16)
    assert (again.only.task.backbone, again.only.task.neck.kind) == (run.only.task.backbone, "fpn")


@pytest.mark.parametrize(
    ("patch", "strides"),
    [
        (16, (4, 8, 16, 32)),
        (14, (7, 14, 28, 56)),
        (8, (4, 8, 16, 32)),
        (32, (8, 16, 32, 64)),
        (7, (7, 14, 28, 56)),
    ],
)
def test_pyramid_strides_follow_the_patch(patch: int, strides: tuple[int, ...]) -> None:
    assert pyramid_strides(patch) == strides


def test_the_other_head_fits_the_same_pyramid() -> None:
    run = recipe(data=trees().train, head="faster_rcnn", steps=10)
    assert run.only.task.head.kind == "faster_rcnn"
    assert run.only.task.head.build(run.only.task.neck.build(VIT_S.build().specs).specs, 1).config == run.only.task.head

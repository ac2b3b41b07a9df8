"""MTP's fourteen fine-tuning recipes: the true layouts are read, all parts train and measure on every kind of backbone,
and the settings are those of the 95 published configurations."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from vistruct.config import read_run, run_to_yaml
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.image_classes import ClassDataConfig
from vistruct.engine.train import train
from vistruct.inference.model import load
from vistruct.recipes import RECIPES, find
from vistruct.recipes.mtp.fine_tuning import Model


@dataclass(frozen=True)
class Row:
    """A data set in the published table, whatever the backbone."""

    size: int
    head: str
    classes: int
    steps: int
    batch: int
    rate: float  # of RVSA
    shape: str
    warmup: int
    drops: tuple[int, ...] = ()


TABLE = {
    "mtp.eurosat": Row(224, "pooled", 10, 100 * 253, 64, 6e-5, "cosine", 5 * 253),
    "mtp.resisc45": Row(224, "pooled", 45, 200 * 99, 64, 6e-5, "cosine", 5 * 99),
    "mtp.xview": Row(416, "retina", 60, 12 * 2510, 8, 1e-4, "step", 500, (8, 11)),
    "mtp.dior": Row(800, "faster_rcnn", 20, 12 * 2932, 4, 1e-4, "step", 500, (8, 11)),
    "mtp.dior_r": Row(800, "oriented_rcnn", 20, 12 * 2932, 4, 1e-4, "step", 500, (8, 11)),
    "mtp.fair1m_v2": Row(800, "oriented_rcnn", 37, 12 * 10_467, 4, 1e-4, "step", 500, (8, 11)),
    "mtp.dota_v1": Row(1024, "oriented_rcnn", 15, 12 * 17_082, 4, 1e-4, "step", 500, (8, 11)),
    "mtp.dota_v1_5": Row(1024, "oriented_rcnn", 16, 12 * 17_082, 4, 1e-4, "step", 500, (8, 11)),
    "mtp.dota_v2": Row(1024, "oriented_rcnn", 18, 40 * 4389, 4, 1e-4, "step", 500, (24, 32, 38)),
    "mtp.spacenet_v1": Row(384, "upernet", 2, 80_000, 8, 6e-5, "cosine", 1500),
    "mtp.loveda": Row(512, "upernet", 7, 80_000, 8, 6e-5, "cosine", 1500),
    "mtp.oscd": Row(224, "unet", 2, 100 * 26, 32, 6e-5, "cosine", 5 * 26),
    "mtp.whu_cd": Row(256, "unet", 2, 200 * 167, 32, 6e-5, "cosine", 5 * 167),
    "mtp.levir_cd": Row(256, "unet", 2, 150 * 223, 32, 6e-5, "cosine", 5 * 223),
    "mtp.svcd": Row(256, "unet", 2, 200 * 313, 32, 6e-5, "cosine", 5 * 313),
}
EPOCHS = {"mtp.dota_v2": 40}
MODELS: tuple[Model, ...] = get_args(Model)
MEASURED = {"pooled": "OA", "upernet": "mIoU", "unet": "F1"}


def test_the_table_is_of_all_recipes_of_fine_tuning() -> None:
    assert set(TABLE) == {name for name in RECIPES if name.startswith("mtp.")} - {"mtp.pretrain"}


@pytest.mark.parametrize(
    ("name", "model"),
    [(name, "rvsa_b") for name in TABLE] + [(name, "intern_xl") for name in {TABLE[n].head: n for n in TABLE}.values()],
)
def test_the_tiny_twin_trains_measures_and_is_loaded_again(name: str, model: Model, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    run = find(name).tiny(model)
    assert run.only.task.backbone.kind == ("intern_image" if model == "intern_xl" else "vit_rvsa")
    out = train(run, tmp_path / name)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert all(map(math.isfinite, losses))
    (evaluation,) = run.evals
    assert f"{evaluation}/{MEASURED.get(TABLE[name].head, 'AP50')}" in lines[-1]
    assert load(out).class_names == run.only.data.build().info.class_names
    assert read_run(out / "run.yaml") == run


def side_of(data: Any) -> int:
    """Pixels of what a step sees."""
    if isinstance(data, ClassDataConfig):
        assert data.augment is not None
        assert data.augment.resized_crop is not None
        return data.augment.resized_crop.height
    if isinstance(data, BoxDataConfig) and (data.augment is None or data.augment.crop is None):
        return data.tiles.size if data.tiles is not None else data.resize.height  # ty: ignore[unresolved-attribute]
    return data.augment.crop[0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", TABLE)
def test_the_settings_are_the_published_ones(name: str, model: Model, tmp_path: Path) -> None:
    row, intern = TABLE[name], model == "intern_xl"
    run = find(name).recipe(data=Path("data"), model=model)
    task: Any = run.only.task
    data: Any = run.only.data
    assert (run.steps, run.only.batch, run.clip_norm) == (row.steps, row.batch, None)
    assert (task.head.kind, task.size_divisor if "classify" not in task.kind else 32) == (row.head, 32)
    assert side_of(data) == row.size
    assert data.classes is None or len(data.classes) == row.classes
    rate = row.rate if not intern or row.rate == 1e-4 else 2e-5
    assert (run.optim.lr, run.optim.weight_decay, run.optim.betas) == (rate, 0.05, (0.9, 0.999))
    assert run.optim.layer_decay == (0.94 if intern else 0.9)
    schedule = run.schedule
    assert (schedule.shape, schedule.warmup_steps, schedule.warmup_from) == (row.shape, row.warmup, 1e-6)
    epochs = EPOCHS.get(name, 12)
    assert schedule.drops_at == tuple(row.steps // epochs * epoch for epoch in row.drops)
    assert task.backbone.drop_path == (0.2 if intern else 0.3)
    assert task.backbone.recompute == (row.size >= 800)
    if not intern:
        assert (task.backbone.width, task.backbone.depth) == ((768, 12) if model == "rvsa_b" else (1024, 24))
        assert task.backbone.image_size == row.size
        assert task.backbone.full_rel_pos == (row.rate != 1e-4)  # detectors know no relative positions
        assert len(task.backbone.out_indices) == (1 if row.head == "pooled" else 4)
        assert task.backbone.pyramid == ("none" if row.head in ("pooled", "unet") else "blocks")
    published = find(name).recipe(data=Path("data"), model=model, as_published=True)
    assert published.optim.layer_decay == (1.0 if intern else 0.9)
    assert published.model_copy(update={"optim": run.optim}) == run
    (tmp_path / "run.yaml").write_text(run_to_yaml(run))
    assert read_run(tmp_path / "run.yaml") == run


@pytest.mark.parametrize(("model", "lowest"), [("rvsa_b", 0.254), ("rvsa_l", 0.0718)])
def test_the_lowest_layer_learns_at_the_rate_of_the_published_logs(model: Model, lowest: float) -> None:
    run = find("mtp.dior").recipe(data=Path("data"), model=model)
    with torch.device("meta"):
        vit = run.only.task.backbone.build()
    layer, layers = vit.traits.layer_of("pos_embed")
    assert run.optim.layer_decay ** (layers + 1 - layer) == pytest.approx(lowest, rel=2e-3)


def test_heads_are_those_of_the_configurations() -> None:
    head = {name: find(name).recipe(data=Path("data")).only.task.head for name in TABLE}
    dior, xview = head["mtp.dior"], head["mtp.xview"]
    assert (dior.rpn.beta, dior.roi.beta, dior.roi.sampling, dior.rpn.least_iou) == (0, 0, 0, 0.3)  # L1, as MMDetection
    assert (dior.nms_iou, dior.max_detections, dior.score_threshold) == (0.5, 100, 0.05)
    assert (xview.anchor_scale, xview.octave_scales, xview.ratios) == (4, 3, (0.5, 1, 2))
    assert (xview.max_detections, xview.nms_iou, xview.max_candidates, xview.least_iou) == (100, 0.5, 1000, 0)
    neck = find("mtp.xview").recipe(data=Path("data")).only.task.neck
    assert (neck.skip, neck.extra_levels, neck.extra, neck.channels) == (1, 2, "conv", 256)
    oriented = head["mtp.dota_v1"]
    assert (oriented.nms_iou, oriented.max_detections) == (0.1, 2000)
    assert (oriented.rpn.nms_iou, oriented.rpn.proposals, oriented.rpn.candidates) == (0.8, 2000, 2000)
    assert (oriented.roi.sampling, oriented.roi.beta, oriented.rpn.beta) == (2, 1.0, 1 / 9)
    assert (head["mtp.loveda"].channels, head["mtp.loveda"].bins) == (512, (1, 2, 3, 6))
    assert (head["mtp.svcd"].channels, head["mtp.svcd"].dropout) == ((512, 256, 128, 64), 0.1)
    assert head["mtp.eurosat"].norm == "none"
    measured = find("mtp.eurosat").recipe(data=Path("data")).evals["val"].data.resize
    assert (measured.height, measured.middle) == (224, 224 / 256)


def test_the_unet_ends_at_the_pixels_after_its_four_blocks() -> None:
    for model, stride in zip(MODELS, (1, 1, 2), strict=False):
        task: Any = find("mtp.whu_cd").recipe(data=Path("data"), model=model).only.task
        with torch.device("meta"):
            head = task.head.build(task.backbone.build().specs, 2)
        assert (len(head.blocks), head.stride, task.fusion) == (4, stride, "difference")


def test_what_is_left_out_of_training_is_measured() -> None:
    for name in TABLE:
        recipe, data = find(name).recipe, Path("data")
        own = recipe(data=data)
        learned = name.startswith("mtp.dota_") or name in ("mtp.fair1m_v2", "mtp.loveda")
        assert len(own.evals) == (0 if learned else 1)
        assert len(recipe(data=data, split="train").evals) == 1
        for one in own.evals.values():
            assert one.data.augment is None


def test_xviews_images_are_in_one_split_each() -> None:
    run = find("mtp.xview").tiny()
    learned = {record.image_id for record in run.only.data.build().records}
    measured = {record.image_id for record in run.evals["val"].data.build().records}
    assert learned | measured == {"5.tif", "6.tif", "7.tif"}
    assert not learned & measured

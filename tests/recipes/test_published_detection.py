"""ViTP's published detection recipes and the generic oriented one: the true layouts are read, all parts train and
measure, and the hyper-parameters are the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vistruct.config import read_run, run_to_yaml
from vistruct.data.boxes import BoxDataConfig
from vistruct.engine.train import train
from vistruct.inference.model import load
from vistruct.recipes import find
from vistruct.samples.made_scenes import SIDE, dota_folder, scenes

PUBLISHED = ["vitp.dior", "vitp.dior_r", "vitp.dota_v2", "vitp.rsar", "vitp.sardet100k", "vitp.ssdd"]
# head, classes, pixels, rate, layer decay, epochs, images in an epoch, epochs where the rate drops
TABLE: dict[str, tuple[Any, ...]] = {
    "vitp.dior": ("cascade_rcnn", 20, 800, 2e-5, 0.90, 12, 11_725, (8, 11)),
    "vitp.dior_r": ("oriented_rcnn", 20, 800, 2.5e-5, 0.95, 12, 11_725, (8, 11)),
    "vitp.dota_v2": ("oriented_rcnn", 18, 1024, 2.5e-5, 0.95, 12, 17_556, (8, 11)),
    "vitp.rsar": ("oriented_rcnn", 6, 800, 2.5e-5, 0.95, 12, 78_837, (8, 11)),
    "vitp.sardet100k": ("cascade_rcnn", None, 1024, 1e-5, 0.95, 12, 94_493, (8, 11)),
    "vitp.ssdd": ("mask_rcnn", None, 608, 1e-5, 0.90, 24, 928, (16, 22)),
}


@pytest.mark.parametrize("name", [*PUBLISHED, "oriented"])
def test_the_tiny_twin_trains_measures_and_predicts(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    run = find(name).tiny()
    out = train(run, tmp_path / name)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    figures = {key for line in lines for key in line}
    assert any(key.endswith("/AP50") for key in figures)
    assert ("test/mask/AP" in figures) == (name == "vitp.ssdd")
    model = load(out)
    found: Any = model.predict(scenes(("ship",))[2].pixels).prediction
    assert (found.objects.boxes_cxcywha is not None) == (run.only.task.head.kind.startswith("oriented"))
    assert (found.objects.masks is not None) == (name == "vitp.ssdd")
    assert read_run(out / "run.yaml") == run


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_settings_are_the_published_ones(name: str, tmp_path: Path) -> None:
    run = find(name).recipe(data=Path("data"), backbone=Path("ViTP_ViT_L_300M_rs.safetensors"))
    task, data, optim = run.only.task, run.only.data, run.optim
    head, classes, pixels, lr, decay, epochs, images, drops = TABLE[name]
    assert task.head.kind == head
    assert classes is None or len(data.classes) == classes
    assert (data.resize.height if data.resize else data.tiles.size) == pixels == task.backbone.vit.image_size
    assert (optim.lr, optim.layer_decay, optim.weight_decay, optim.betas) == (lr, decay, 0.05, (0.9, 0.999))
    assert run.steps == pytest.approx(epochs * images / 8, abs=0.5)
    assert run.schedule.drops_at == tuple(run.steps * epoch // epochs for epoch in drops)
    assert (run.schedule.warmup_steps, run.schedule.warmup_from) == (500, 1 / 3)
    assert (run.only.batch, run.clip_norm) == (8, 35.0)
    vit = task.backbone.vit
    assert (vit.width, vit.depth, vit.heads, vit.patch, vit.drop_path) == (1024, 24, 16, 16, 0.1)
    assert task.backbone.groups == ((0, 7), (8, 11), (12, 15), (16, 23))
    (tmp_path / "run.yaml").write_text(run_to_yaml(run))
    assert read_run(tmp_path / "run.yaml") == run


def test_the_made_scenes_come_back_from_disk_as_they_were_drawn() -> None:
    data = BoxDataConfig(annotation=dota_folder(), split="train").build()
    first = scenes(("plane", "ship"))[0]
    record = data.records[0]
    assert record.size_hw == (SIDE, SIDE)
    assert record.objects.quads is not None
    assert abs(record.objects.quads - first.quads).max() < 1e-4
    assert [data.info.class_names[label] for label in record.objects.labels] == list(first.names)

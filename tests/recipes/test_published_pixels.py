"""ViTP's published recipes for every pixel, its medical ones, and the generic ones: the true layouts are read, all
parts train and measure, and the hyper-parameters are the published ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from vistruct.config import read_run, run_to_yaml
from vistruct.inference.model import load
from vistruct.recipes import find
from vistruct.runs import train_and_report

# pixels, classes, rate, weight decay, layer decay, steps, warm-up, shape, batch, UPerNet's channels, (window, stride)
TABLE: dict[str, tuple[Any, ...]] = {
    "vitp.isaid": (896, 16, 1.5e-5, 0.05, 0.90, 80_000, 1500, "cosine", 16, 512, (896, 448)),
    "vitp.loveda": (512, 7, 1e-5, 0.1, 0.90, 80_000, 1500, "cosine", 8, 512, (512, 384)),
    "vitp.uavid": (768, 8, 1e-5, 0.05, 0.90, 80_000, 1500, "cosine", 8, 512, (768, 512)),
    "vitp.levir_cd": (256, 2, 1e-4, 0.05, 0.90, 80_000, 1500, "cosine", 32, 1024, (256, 128)),
    "vitp.s2looking": (512, 2, 2e-5, 0.05, 0.90, 120_000, 1000, "poly", 8, 512, (512, 256)),
    "vitp.svcd": (256, 2, 2e-5, 0.05, 0.94, 120_000, 1000, "poly", 32, 512, None),
    "vitp.whu_cd": (256, 2, 2e-5, 0.05, 0.90, 120_000, 1000, "poly", 32, 512, None),
}
PAIRS = ["vitp.levir_cd", "vitp.s2looking", "vitp.svcd", "vitp.whu_cd", "change"]
MEDICAL = ["vitp.amos2022", "vitp.brats2021", "vitp.covid_quex"]


@pytest.mark.parametrize("name", [*TABLE, *MEDICAL, "segment", "change", "classify"])
def test_the_tiny_twin_trains_measures_and_is_loaded_again(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("vistruct.runs.write_run_report", lambda out_dir: None)
    torch.set_num_threads(1)
    run = find(name).tiny()
    out = train_and_report(run, tmp_path / name)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert min(losses[-2:]) < losses[0]
    (evaluation,) = run.evals
    main = {"change": "F1", "classify": "OA", **dict.fromkeys(PAIRS, "F1")}.get(name, "mDice")
    assert math.isfinite(lines[-1][f"{evaluation}/{main}"])
    kept = json.loads((out / "evaluations" / f"{evaluation}.json").read_text())
    assert kept["numbers"][main] == pytest.approx(lines[-1][f"{evaluation}/{main}"])
    assert kept["details"]["images"]
    assert {path.name for path in (out / "samples").iterdir()} >= {"first_batch.png", f"predictions_{evaluation}.png"}
    assert load(out).class_names == tuple(kept["details"]["class_names"])
    assert read_run(out / "run.yaml") == run


@pytest.mark.parametrize("name", TABLE)
def test_the_settings_are_the_published_ones(name: str, tmp_path: Path) -> None:
    folder = find(name).tiny().only.data.root  # ty: ignore[unresolved-attribute]
    run = find(name).recipe(data=folder, backbone=Path("ViTP_ViT_L_300M_rs.safetensors"))
    pixels, classes, lr, decay, layer_decay, steps, warmup, shape, batch, width, window = TABLE[name]
    task: Any = run.only.task
    data: Any = run.only.data
    optim, schedule, vit = run.optim, run.schedule, task.backbone.vit
    assert len(data.build().info.class_names) == classes
    assert vit.image_size == pixels == data.augment.crop[0]
    assert (optim.lr, optim.weight_decay, optim.layer_decay, optim.betas) == (lr, decay, layer_decay, (0.9, 0.999))
    assert (run.steps, schedule.warmup_steps, schedule.shape, run.only.batch, run.clip_norm) == (
        steps,
        warmup,
        shape,
        batch,
        None,
    )
    assert (task.head.kind, task.head.channels, task.head.bins, task.head.dropout) == (
        "upernet",
        width,
        (1, 2, 3, 6),
        0.1,
    )
    assert task.fusion == ("concat" if name in PAIRS else None)
    assert (window is None) == (task.slide is None)
    if window is not None:
        assert (task.slide.size, task.slide.size - task.slide.overlap) == window
    assert (vit.width, vit.depth, vit.heads, vit.patch, vit.drop_path) == (1024, 24, 16, 16, 0.1)
    assert task.backbone.groups == ((0, 7), (8, 11), (12, 15), (16, 23))
    (tmp_path / "run.yaml").write_text(run_to_yaml(run))
    assert read_run(tmp_path / "run.yaml") == run


@pytest.mark.parametrize("name", [name for name in TABLE if "cd" in name or name == "vitp.s2looking"])
def test_training_and_measured_pairs_are_other_pairs(name: str) -> None:
    run = find(name).tiny()
    parts: list[Any] = [run.only.data, run.evals["test"].data]
    learned, measured = ({record.images for record in part.build().records} for part in parts)
    assert learned
    assert measured
    assert not learned & measured


def test_the_medical_recipes_say_what_is_our_choice_and_that_nothing_is_published() -> None:
    for name in MEDICAL:
        said = " ".join((find(name).__doc__ or "").split())
        assert "there is no code and no configuration of it" in said
        assert "our choice" in said

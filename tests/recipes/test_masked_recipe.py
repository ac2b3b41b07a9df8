"""Hidden pixels as a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from vistruct.checkpoint.tensors import sha256
from vistruct.cli.main import main
from vistruct.config import run_from_dict, run_to_yaml, with_values
from vistruct.data.reading import Mixing
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.recipes import masked
from vistruct.samples.made_classes import eurosat_folder


def test_a_run_that_was_cut_off_ends_with_the_same_bits_and_leaves_a_backbone(tmp_path: Path) -> None:
    run = masked.tiny().model_copy(update={"save_every": 2})
    train(run, tmp_path / "whole")

    class Cut(Exception):
        pass

    def cut(done: int, _metrics: dict[str, float]) -> None:
        if done == 3:
            raise Cut

    with pytest.raises(Cut):
        train(run, tmp_path / "cut", on_step=cut)
    train(run, tmp_path / "cut")
    files = [tmp_path / name / "backbone" / "backbone.safetensors" for name in ("whole", "cut")]
    assert sha256(files[0]) == sha256(files[1])
    again = masked.recipe(data=(eurosat_folder(),), model="small", start=tmp_path / "whole", steps=1, size=32, batch=2)
    assert again.only.task.backbone == run.only.task.backbone  # ty: ignore[unresolved-attribute]


@pytest.mark.parametrize("target", ["hog", "spectrum", "positions"])
def test_every_target_is_trained_on(target: masked.Told, tmp_path: Path) -> None:
    run = masked.recipe(data=(eurosat_folder(),), target=target, model="small", steps=2, size=32, batch=2)
    run = run_from_dict(yaml.safe_load(run_to_yaml(with_values(run, log_every=1))))
    losses: list[float] = []
    train(run, tmp_path / "run", on_step=lambda _done, metrics: losses.append(metrics["loss"]))
    assert len(losses) == 2
    assert min(losses) > 0


def test_pairs_of_dates_are_trained_on_and_each_image_is_measured(tmp_path: Path) -> None:
    for place in "ab":
        (tmp_path / "images" / place).mkdir(parents=True)
        for date in range(2):
            pixels = np.random.default_rng(ord(place) + date * 99).integers(0, 255, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / place / f"{place}{date}.png")
    data, dates = (tmp_path / "images" / "a",), Mixing(groups="folder")
    val = (tmp_path / "images" / "b",)
    run = masked.recipe(
        data=data, val=val, mixing=dates, pairs=True, model="small", steps=1, size=32, batch=2,
    )  # fmt: skip
    numbers: dict[str, float] = {}
    train(run, tmp_path / "run", on_step=lambda _done, metrics: numbers.update(metrics))
    assert numbers["loss"] > 0
    with pytest.raises(UserError, match="--target beside pairs"):
        masked.recipe(data=data, mixing=dates, pairs=True, target="hog")


def test_published_settings() -> None:
    run = masked.recipe(data=(Path("images"),))
    assert (run.only.batch, run.steps, run.optim.lr, run.schedule.warmup_steps) == (4096, 250_000, 2.4e-3, 12_500)
    assert (run.only.task.backbone.width, run.only.task.decoder.depth) == (768, 8)  # ty: ignore[unresolved-attribute]
    hog: Any = masked.recipe(data=(Path("images"),), target="hog", square=2)
    assert (hog.clip_norm, hog.optim.lr, hog.steps // hog.schedule.warmup_steps) == (0.02, 2e-4 * 2048 / 256, 10)
    hidden = hog.only.task.corruption
    assert (hidden.hidden, hidden.square, hidden.blocks, hidden.replaced) == (0.4, 2, True, True)
    spectrum: Any = masked.recipe(data=(Path("images"),), target="spectrum")
    assert (spectrum.clip_norm, spectrum.optim.lr) == (3.0, 3e-4 * 2048 / 512)
    with pytest.raises(UserError, match="no patches are hidden"):
        masked.recipe(data=(Path("images"),), target="spectrum", hidden=0.5)
    places: Any = masked.recipe(data=(Path("images"),), target="positions", size=192)
    assert (places.only.task.target.grid, places.only.task.decoder.depth) == ((12, 12), 2)
    assert places.steps // places.schedule.warmup_steps == 80


def test_a_run_that_measured_nothing_is_measured_on_a_folder_of_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = sorted(path for path in eurosat_folder().rglob("*") if path.is_dir() and any(path.glob("*.jpg")))
    run = masked.tiny()
    train(run.model_copy(update={"evals": {}, "steps": 2}), tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(tmp_path / "run"), "--data", str(classes[0].parent), "--json"])
    told = capsys.readouterr()
    assert ended.value.code in (0, None), told.err
    assert "effective_rank" in told.out

"""Does an oriented detector find objects equally well whichever way the scene lies?

Trains the oriented head on the western half of a shipped scene, turned at random, with several seeds; then turns the
eastern half by known angles and measures AP50 on each. Only what lies inside the circle that stays in view is measured,
so that every angle has the same objects. If the spread over angles is no larger than that over seeds at one angle, the
angle does not matter.

    uv run python benchmarks/angles.py [--seeds 3] [--steps 300] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from vistruct.backbones.timm_model import TimmConfig
from vistruct.config import AdamW, Eval, Run, Schedule, with_values
from vistruct.contracts import Objects, Record, Sample
from vistruct.data.boxes import with_corners
from vistruct.data.formats.boxes import dota
from vistruct.data.formats.read import read
from vistruct.engine.evaluate import evaluate
from vistruct.engine.train import train
from vistruct.files.images import read_image
from vistruct.heads.oriented_fcos import OrientedFcosConfig
from vistruct.inference.model import load
from vistruct.necks.fpn import FpnConfig
from vistruct.pictures.objects import draw_prediction
from vistruct.recipes import oriented
from vistruct.samples import trees
from vistruct.transforms.fill import MEAN_COLOUR
from vistruct.transforms.rotate import rotate

ANGLES = tuple(range(0, 180, 15))  # degrees, clockwise
MARGIN = 40  # pixels on both sides of the circle's rim, where objects need not be found


def halves(folder: Path) -> tuple[Path, Path]:
    """The scene's western and eastern halves as DOTA folders; a crown belongs where its centre is."""
    found, _ = read(trees().train, "boxes")
    records, names = found.records, found.class_names
    record = with_corners(records[0])
    pixels = read_image(record.images[0])
    width = pixels.shape[2]
    middle = width // 2
    made = []
    for name, left, right in (("west", 0, middle), ("east", middle, width)):
        assert record.objects.quads is not None
        centre = record.objects.quads[:, :, 0].mean(axis=1)
        own = record.keep((centre >= left) & (centre < right))
        assert own.objects.quads is not None
        made.append(
            write_scene(folder / name, pixels[:, :, left:right], own.objects.quads - np.float32([left, 0]), names)
        )
    return made[0], made[1]


def turned_scene(east: Path, degrees: int, folder: Path) -> Path:
    """The measured half turned by an angle inside its inscribed circle."""
    found, _ = read(east, "boxes")
    records, names = found.records, found.class_names
    record, pixels = records[0], read_image(records[0].images[0])
    height, width = pixels.shape[1:]
    radius = min(height, width) / 2
    top = (height - width) // 2  # the square in the middle
    assert record.objects.quads is not None
    away = np.linalg.norm(record.objects.quads.mean(axis=1) - np.array([width / 2, height / 2]), axis=1)
    inside = record.keep(away < radius + MARGIN)
    assert inside.objects.quads is not None
    rim = torch.from_numpy(away[away < radius + MARGIN] >= radius - MARGIN)
    sample = Sample(
        id="scene",
        image_id="scene",
        seed=0,
        images=[pixels[:, top : top + width]],
        objects=Objects(
            boxes_xyxy=torch.from_numpy(inside.objects.boxes_xyxy - np.float32([0, top, 0, top])),
            labels=torch.from_numpy(inside.objects.labels),
            is_difficult=rim,
            quads=torch.from_numpy(inside.objects.quads - np.float32([0, top])),
        ),
    )
    seen = rotate(sample, math.radians(degrees))
    image = Image.fromarray(seen.images[0].permute(1, 2, 0).numpy())
    circle = Image.new("1", image.size)
    ImageDraw.Draw(circle).ellipse([0, 0, 2 * radius, 2 * radius], fill=1)
    image = Image.composite(image, Image.new("RGB", image.size, MEAN_COLOUR), circle)
    assert seen.objects.quads is not None
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return write_scene(folder, pixels, seen.objects.quads.numpy(), names, seen.objects.is_difficult.numpy())


def write_scene(
    folder: Path, pixels: torch.Tensor, quads: np.ndarray, names: Sequence[str], is_difficult: np.ndarray | None = None
) -> Path:
    """A DOTA folder of one image."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    image = folder / "images" / "scene.png"
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(image)
    hulls = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
    labels = np.zeros(len(quads), np.int64)
    size_hw = (pixels.shape[1], pixels.shape[2])
    difficult = np.zeros(len(quads), bool) if is_difficult is None else is_difficult
    record = Record(
        id=image.name,
        images=(image,),
        size_hw=size_hw,
        objects=Objects(boxes_xyxy=hulls, labels=labels, is_difficult=difficult, quads=quads),
    )
    dota.write(folder, [record], names)
    return folder


def training(data: Path, steps: int, seed: int, head: str) -> Run:
    """The oriented recipe on the training half at half size, with a backbone that learns on two cores."""
    run = oriented.recipe(
        data=data,
        timm="resnet10t",
        head=head,
        steps=steps,
        size=384,
        overlap=96,
        batch=8,
        lr=1e-3,
        rotate=0.9,
        seed=seed,
    )
    task: Any = run.only.task
    light = {
        "backbone": TimmConfig(name="resnet10t", out_indices=(2, 3, 4)),
        "neck": FpnConfig(channels=64, extra_levels=0),
        "head": OrientedFcosConfig(num_convs=2) if head == "oriented_fcos" else task.head,
    }
    quick = {
        "task": task.model_copy(update=light),
        "data": run.only.data.model_copy(update={"resize": 0.5}),
        "optim": AdamW(lr=1e-3, weight_decay=0.05),
        "schedule": Schedule(warmup_steps=steps // 10),
        "workers": 0,
    }
    return with_values(run, **quick)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--head", default="oriented_fcos", choices=list(oriented.HEADS))
    options.add_argument("--out", type=Path, default=None)
    asked = options.parse_args()
    out = asked.out or Path(tempfile.mkdtemp())
    west, east = halves(out)
    scenes = {degrees: turned_scene(east, degrees, out / f"turned_{degrees:03d}") for degrees in ANGLES}
    table: list[list[float]] = []
    for seed in range(asked.seeds):
        began = time.process_time()
        run = training(west, asked.steps, seed, asked.head)
        where = train(run, out / f"seed{seed}")
        model = load(where)
        row = []
        for folder in scenes.values():
            data = run.only.data.model_copy(update={"annotation": folder, "augment": None, "fraction": 1.0})
            metric = run.evals["val"].metric if run.evals else oriented.OrientedBoxesConfig(thresholds=(0.5,))
            row.append(evaluate(model.task, Eval(data=data, metric=metric), model.device, 8)["AP50"])
        table.append(row)
        print(f"seed {seed}: AP50 {' '.join(f'{v:.3f}' for v in row)}  ({time.process_time() - began:.0f} s of CPU)")
    means = [statistics.mean(column) for column in zip(*table, strict=True)]
    print("degrees:    " + " ".join(f"{degrees:5d}" for degrees in ANGLES))
    print("mean AP50:  " + " ".join(f"{mean:.3f}" for mean in means))
    print(f"over angles: {min(means):.3f} to {max(means):.3f}, standard deviation {statistics.stdev(means):.3f}")
    if len(table) > 1:
        pooled = math.sqrt(statistics.mean(statistics.variance(column) for column in zip(*table, strict=True)))
        print(f"over seeds, at one angle: standard deviation {pooled:.3f}")
    for degrees in (0, 30, 75):
        picture(scenes[degrees], out / "seed0", out / f"found_{degrees:03d}.jpg")
    print(out)


def picture(folder: Path, run: Path, path: Path) -> None:
    """What a model found in a turned scene, beside the truth."""
    records = read(folder, "boxes")[0].records
    found = load(run).predict(read_image(records[0].images[0])).prediction
    draw_prediction(read_image(records[0].images[0]), found, truth=records[0], min_score=0.3).save(path, quality=92)


if __name__ == "__main__":
    main()

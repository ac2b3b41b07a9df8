"""Draw docs/mtp_trees.jpg: what the tasks of one run of the recipe `labels` say of a part of the shipped test scene.

Run:  python scripts/draw_tasks.py RUN [FILE]     (RUN: for example runs/demo/default/study/pretrained/labels-1a2b3c)
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vistruct.contracts import BoxPrediction, MapPrediction, Sample
from vistruct.data.formats.read import read
from vistruct.files.images import read_image
from vistruct.inference.model import Model, load
from vistruct.pictures.areas import beside
from vistruct.pictures.maps import draw_map
from vistruct.pictures.objects import draw_prediction, draw_sample
from vistruct.recipes.labels import BOXES, FILLED
from vistruct.samples import trees

PART = (760, 330, 1160, 730)  # xyxy of the scene, pixels
SEEN = 96  # pixels, at which the pictures of the demo are learned


def _in_its_size(model: Model) -> Model:
    """The model with windows as large as what it was shown, in place of the whole part made as small as that."""
    windowed = model.in_windows(SEEN, SEEN // 2)
    shown = windowed.input.model_copy(update={"resize": None})
    return replace(windowed, card=replace(windowed.card, input=shown))


def main(run: Path, file: Path) -> None:
    (scene,) = read(trees().test, "boxes")[0].records
    part = read_image(scene.images[0], PART)
    inside = (scene.objects.boxes_xyxy[:, :2] < PART[2:]).all(1) & (scene.objects.boxes_xyxy[:, 2:] > PART[:2]).all(1)
    truth = scene.objects.keep(inside).tensors()
    truth.boxes_xyxy.sub_(torch.tensor(PART[:2] * 2)).clamp_(0, PART[2] - PART[0])
    found, filled = (_in_its_size(load(run, task=name)).predict(part).prediction for name in (BOXES, FILLED))
    assert isinstance(found, BoxPrediction)
    assert isinstance(filled, MapPrediction)
    ranked = np.sort(found.objects.scores.numpy())[::-1]
    score = float(ranked[min(len(truth), len(ranked)) - 1]) if len(ranked) else 1.0
    sample = Sample(id="part", image_id="part", seed=0, images=[part], objects=truth)
    panels = [
        ("annotated", draw_sample(sample, ("tree",))),
        ("boxes: as many of the best as there are crowns", draw_prediction(part, found, truth, min_score=score)),
        ("filled", draw_map(part, torch.as_tensor(filled.label_map), ("background", "tree"))),
    ]
    widest = max(picture.width for _, picture in panels)
    same = [
        (name, picture.resize((widest, round(picture.height * widest / picture.width)))) for name, picture in panels
    ]
    sheet = beside(same)
    sheet = sheet.resize((1200, round(sheet.height * 1200 / sheet.width)))
    sheet.save(file, quality=72)
    print(f"{file}: {file.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/mtp_trees.jpg"))

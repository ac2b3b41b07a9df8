"""A data set in COCO's panoptic layout: three images, two things and two kinds of stuff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [
    {"id": 92, "name": "grass", "isthing": 0, "supercategory": "ground"},
    {"id": 3, "name": "car", "isthing": 1, "supercategory": "vehicle"},
    {"id": 1, "name": "person", "isthing": 1, "supercategory": "person"},
    {"id": 187, "name": "sky", "isthing": 0, "supercategory": "ground"},
]
NAMES = ("person", "car", "grass", "sky")
IDS = {1: 0, 3: 1, 92: 2, 187: 3}


def make_panoptic(folder: Path, split: str = "val2017", size: int = 64) -> dict[str, np.ndarray]:
    """Writes the set; gives the ids int64[H, W] of each image. Void is a border of two pixels below the sky."""
    rng = np.random.default_rng(0)
    truth, images, annotations = {}, [], []
    (folder / split).mkdir(parents=True)
    (folder / "annotations" / f"panoptic_{split}").mkdir(parents=True)
    for number in range(3):
        ids = np.zeros((size, size), np.int64)
        segments: list[dict[str, Any]] = []
        pixels = rng.integers(0, 40, (size, size, 3))

        def put(area: Any, category: int, colour: int, is_crowd: int = 0) -> None:
            segment = int(rng.integers(1, 2**24))
            ids[area] = segment  # noqa: B023
            pixels[area] += np.array([colour, 255 - colour, colour // 2]) * 3 // 4  # noqa: B023
            told = {"id": segment, "category_id": category, "iscrowd": is_crowd, "area": 1, "bbox": [0, 0, 1, 1]}
            segments.append(told)  # noqa: B023

        put(np.s_[: size // 2 - 2], 187, 10)
        put(np.s_[size // 2 :], 92, 90)
        for i in range(number):
            x = 6 + 26 * i
            put(np.s_[size // 2 + 4 : size // 2 + 18, x : x + 14], (3, 1)[i], 200, int(number == 2 and i == 1))
        name = f"00000{number}"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / split / f"{name}.jpg", quality=95)
        colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        Image.fromarray(colours).save(folder / "annotations" / f"panoptic_{split}" / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.jpg", "width": size, "height": size})
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
        truth[f"{name}.jpg"] = ids
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))
    return truth

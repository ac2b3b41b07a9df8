"""What was found in each image, kept on disk image by image, so that work that was cut short goes on.

    predictions/parts/settings.json         what decides the results: the model and how it was asked
    predictions/parts/@a%2Fport.png.json    one image: its size, when it was changed, the detections, or what else

A part is there complete or not at all. Where the settings are others than those of the parts, all parts are removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from vistruct.contracts import BoxPrediction, MaskPatch
from vistruct.files.text import write_text
from vistruct.ops.mask_runs import patch_runs

FORMAT = 2
_LONGEST_NAME = 180  # most file systems hold names of 255 bytes


@dataclass(frozen=True, kw_only=True)
class Found:
    """One image and what is in it."""

    size_hw: tuple[int, int]
    prediction: BoxPrediction


class Parts:
    """The folder of parts for one model and one way to ask it."""

    def __init__(self, folder: Path, settings: dict[str, Any], class_names: tuple[str, ...]) -> None:
        """Open or begin; parts of other settings are removed, and `num_removed` says how many."""
        self.folder, self.class_names, self.num_removed = Path(folder), class_names, 0
        wanted = json.loads(json.dumps({"format": FORMAT, **settings}))
        file = self.folder / "settings.json"
        if _read_json(file) != wanted:
            for part in self.folder.glob("*.json") if self.folder.is_dir() else ():
                self.num_removed += part != file
                part.unlink()
            write_text(file, [json.dumps(wanted, indent=2), "\n"])

    def file(self, name: str) -> Path:
        """Where the part of an image of this name is; no two names share one."""
        flat = quote(name, safe=" ")
        if len(flat) > _LONGEST_NAME:
            flat = f"{flat[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return self.folder / f"@{flat}.json"  # the sign keeps them apart from the settings

    def has(self, name: str, *images: Path) -> bool:
        """Whether there is a part about this image (or pair, or volume of several files) as it is now."""
        values = _read_json(self.file(name))
        return values is not None and values["image"] == name and values["state"] == _state(*images)

    def read(self, name: str) -> Found:
        """What `write` was given, bit for bit."""
        return _unpacked(name, self.read_values(name), self.class_names)

    def write(self, name: str, image: Path, found: Found) -> None:
        """Keep what was found in an image."""
        self.write_values(name, [image], _packed(found))

    def read_values(self, name: str) -> dict[str, Any]:
        """What `write_values` was given."""
        return json.loads(self.file(name).read_text(encoding="utf-8"))["values"]

    def write_values(self, name: str, images: Sequence[Path], values: dict[str, Any]) -> None:
        """Keep plain json about an image, a pair or a volume."""
        part = {"image": name, "state": _state(*images), "values": values}
        write_text(self.file(name), [json.dumps(part), "\n"])


def _state(*images: Path) -> list[list[int]]:
    """Size in bytes and time of change of every file, a folder's (a DICOM series') taken together."""
    return [_size_and_time(image) for image in images]


def _size_and_time(image: Path) -> list[int]:
    files = [image, *image.iterdir()] if image.is_dir() else [image]
    found = [file.stat() for file in files]
    return [sum(one.st_size for one in found), max(one.st_mtime_ns for one in found)]


def _read_json(file: Path) -> dict[str, Any] | None:
    """None where there is no such file, or one that somebody has damaged: it is made anew."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _packed(found: Found) -> dict[str, Any]:
    prediction = found.prediction
    oriented, masks = prediction.boxes_cxcywha, prediction.masks
    return {
        "size_hw": found.size_hw,
        "boxes_xyxy": prediction.boxes_xyxy.tolist(),
        "scores": prediction.scores.tolist(),
        "labels": prediction.labels.tolist(),
        "boxes_cxcywha": None if oriented is None else oriented.tolist(),
        "masks": None if masks is None else [_packed_mask(mask) for mask in masks],
    }


def _packed_mask(mask: MaskPatch) -> dict[str, Any]:
    height, width = mask.pixels.shape
    runs = patch_runs(mask.pixels, 0, 0, (height, width)).tolist()
    return {"x": int(mask.x), "y": int(mask.y), "size_hw": [height, width], "runs": runs}


def _unpacked(name: str, values: dict[str, Any], class_names: tuple[str, ...]) -> Found:
    height, width = values["size_hw"]
    oriented, masks = values["boxes_cxcywha"], values["masks"]
    prediction = BoxPrediction(
        id=name,
        image_id=name,
        boxes_xyxy=torch.tensor(values["boxes_xyxy"], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(values["scores"], dtype=torch.float32),
        labels=torch.tensor(values["labels"], dtype=torch.int64),
        class_names=class_names,
        boxes_cxcywha=None if oriented is None else torch.tensor(oriented, dtype=torch.float32).reshape(-1, 5),
        masks=None if masks is None else tuple(_unpacked_mask(mask) for mask in masks),
    )
    return Found(size_hw=(height, width), prediction=prediction)


def _unpacked_mask(values: dict[str, Any]) -> MaskPatch:
    height, width = values["size_hw"]
    runs = np.asarray(values["runs"], np.int64)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs)  # outside, inside, outside, ... down the columns
    return MaskPatch(pixels=columns.reshape(width, height).T, x=values["x"], y=values["y"])

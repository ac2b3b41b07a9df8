"""Which parts of the images become pictures to ask about.

Objects should be large enough in a picture to be seen and few enough to be told apart, so the side of a crop
follows the objects unless a size is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vistruct.contracts import Record, Window
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.issues import IssueCounter
from vistruct.windows.tiles import Tiles, windows

WHOLE_UP_TO = 1024  # pixels, longer side: up to here an image is one picture
OBJECTS_WIDE = (1.5, 3.0)  # side of a crop in median object sides, smallest and largest
SMALLEST = 32  # pixels; below, a picture shows nothing to anybody
ON_OBJECT = 0.6  # chance that a random crop is placed around an object; the others fall anywhere
TOO_SMALL = "image left out: smaller than a crop"


@dataclass(frozen=True, kw_only=True)
class CropSide:
    """Smallest and largest side of a crop in pixels, and where that comes from."""

    low: int
    high: int
    median_object: float | None = None  # pixels; None: the size was given

    def __str__(self) -> str:
        pixels = f"{self.low} px" if self.low == self.high else f"{self.low} to {self.high} px"
        if self.median_object is None:
            return pixels
        return f"{pixels} (by the median object side of {self.median_object:.1f} px)"


def crop_side(records: Sequence[Record], given: tuple[int, int] | None) -> CropSide:
    """The given range, or 1.5 to 3 times the median object side, at least 32 pixels.

    Raises:
        UserError: no range of pixels, or larger than every image.
    """
    shortest = max(min(size_of(record)) for record in records)
    if given is not None:
        low, high = given
        if not 0 < low <= high:
            raise UserError(f"crop_size={given} is no range of pixels", fix="two sizes, the smaller first")
        if low > shortest:
            raise UserError(f"no image is {low} pixels wide and high", fix=f"a crop size of at most {shortest}")
        return CropSide(low=low, high=high)
    boxes = np.concatenate([record.objects.boxes_xyxy[~record.objects.is_crowd] for record in records])
    if not len(boxes):
        raise UserError("no object says how large a crop should be", fix="give a crop size in pixels")
    median = float(np.median(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))))
    low, high = (min(shortest, max(SMALLEST, round(factor * median))) for factor in OBJECTS_WIDE)
    return CropSide(low=low, high=high, median_object=median)


def cover(records: Sequence[Record], given: tuple[int, int] | None, side: CropSide) -> list[tuple[Record, Window]]:
    """Every image once: small ones whole, large ones under windows without gaps.

    Windows have the largest side and share a third of it, the size of a median object. Where a size was
    given, an image is small if one window shows it all; else up to 1024 pixels.
    """
    plan: list[tuple[Record, Window]] = []
    for record in records:
        height, width = size_of(record)
        if given is None and max(height, width) <= WHOLE_UP_TO:
            plan.append((record, (0, 0, width, height)))
            continue
        tiles = Tiles(size=side.high, overlap=side.high // 3)
        plan += [(record, window) for window in windows((height, width), tiles)]
    return plan


def cut(
    records: Sequence[Record], crops: int, side: CropSide, rng: np.random.Generator, report: IssueCounter
) -> list[tuple[Record, Window]]:
    """So many random square crops, spread over the images by their area.

    An image smaller than a size that was given is left out and counted; where the size follows the objects,
    the crop is as large as the image allows.
    """
    fitting = []
    for record in records:
        if side.median_object is None and min(size_of(record)) < side.low:
            report.note(TOO_SMALL, record.id)
        else:
            fitting.append(record)
    area = np.array([np.prod(size_of(record)) for record in fitting], float)
    plan: list[tuple[Record, Window]] = []
    for at in rng.choice(len(fitting), size=crops, p=area / area.sum()):
        record = fitting[at]
        height, width = size_of(record)
        low, high = min(side.low, height, width), min(side.high, height, width)
        length = int(rng.integers(low, high + 1))
        x, y = int(rng.integers(width - length + 1)), int(rng.integers(height - length + 1))
        boxes = record.objects.boxes_xyxy
        if len(boxes) and rng.random() < ON_OBJECT:
            box = boxes[rng.integers(len(boxes))]
            corner = (box[:2] + box[2:]) / 2 - rng.uniform(0.15, 0.85, 2) * length
            x, y = (int(np.clip(v, 0, end - length)) for v, end in zip(corner, (width, height), strict=True))
        plan.append((record, (x, y, x + length, y + length)))
    return plan


def size_of(record: Record) -> tuple[int, int]:
    """(height, width) in pixels."""
    return record.size_hw or image_size(record.images[0])

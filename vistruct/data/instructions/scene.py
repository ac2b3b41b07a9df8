"""One picture as the question writers see it: its objects, where they are, and how places are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REGIONS = (
    "upper left", "upper middle", "upper right",
    "middle left", "centre", "middle right",
    "lower left", "lower middle", "lower right",
)  # fmt: skip
HALVES = ("left half", "right half", "upper half", "lower half")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The annotated objects of one picture.

    `boxes_xyxy` float[N, 4] in pixels, `labels` int[N] into `names`; `doubtful_xyxy` float[M, 4] are objects that
    the picture's border cuts so far that they count neither as there nor as not there.
    """

    size_hw: tuple[int, int]
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    doubtful_xyxy: np.ndarray

    def of(self, label: int) -> np.ndarray:
        """float[K, 4], the boxes of one class."""
        return self.boxes_xyxy[self.labels == label]

    def box_text(self, box: np.ndarray | Sequence[float]) -> str:
        """`<box>[[x1, y1, x2, y2]]</box>` in thousandths of the picture."""
        return f"<box>[{self.numbers(box)}]</box>"

    def boxes_text(self, boxes: np.ndarray) -> str:
        """Several boxes in one pair of marks."""
        return f"<box>[{', '.join(self.numbers(box) for box in boxes)}]</box>"

    def numbers(self, box: np.ndarray | Sequence[float]) -> str:
        height, width = self.size_hw
        scale = (width, height, width, height)
        return str([min(1000, max(0, round(1000 * float(v) / s))) for v, s in zip(box, scale, strict=True)])

    def region_of(self, boxes: np.ndarray) -> np.ndarray:
        """int[K], which of REGIONS each box's centre lies in."""
        height, width = self.size_hw
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        column = np.clip((3 * x / width).astype(int), 0, 2)
        return np.clip((3 * y / height).astype(int), 0, 2) * 3 + column

    def region_xyxy(self, region: int) -> np.ndarray:
        height, width = self.size_hw
        row, column = divmod(region, 3)
        return np.array(
            [column * width / 3, row * height / 3, (column + 1) * width / 3, (row + 1) * height / 3]
        )

    def in_half(self, boxes: np.ndarray, half: int) -> np.ndarray:
        """bool[K], whether each box's centre lies in one of HALVES."""
        height, width = self.size_hw
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        return (x < width / 2, x >= width / 2, y < height / 2, y >= height / 2)[half]

    def covered(self, box: np.ndarray) -> float:
        """Largest share of `box` that any object, doubtful ones included, covers."""
        everything = np.concatenate([self.boxes_xyxy, self.doubtful_xyxy])
        if not len(everything):
            return 0.0
        low, high = np.maximum(everything[:, :2], box[:2]), np.minimum(everything[:, 2:], box[2:])
        return float(
            np.prod(np.clip(high - low, 0, None), axis=1).max() / max(np.prod(box[2:] - box[:2]), 1e-9)
        )


def plural(name: str) -> str:
    """English plural of a class name; good enough for class names, which are short."""
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"


def article(name: str) -> str:
    """`a tree`, `an aircraft`."""
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def several(count: int, name: str) -> str:
    """`no trees`, `1 tree`, `7 trees`."""
    return f"{count or 'no'} {name if count == 1 else plural(name)}"

"""One picture as the question writers see it: its objects, where they are, and how places are called.

An object that the picture's border cuts so far that it counts neither as there nor as not there is
*doubtful*, and so is a crowd, which may hold any number. No answer may depend on them: the writers ask
`possible` and keep silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

REGIONS = (
    "upper left", "upper middle", "upper right",
    "middle left", "centre", "middle right",
    "lower left", "lower middle", "lower right",
)  # fmt: skip
HALVES = ("left half", "right half", "upper half", "lower half")
CROWD = 1_000_000  # objects that a crowd may stand for


def _no_numbers() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The annotated objects of one picture.

    `boxes_xyxy` float[N, 4] in pixels, clipped to the picture; `labels` int[N] into `names`. Of the doubtful,
    `doubtful_xyxy` float[M, 4] is the visible part, `doubtful_labels` int[M] (empty: of any class) and
    `doubtful_most` int[M] how many objects each may be (empty: one).
    """

    size_hw: tuple[int, int]
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    doubtful_xyxy: np.ndarray
    doubtful_labels: np.ndarray = field(default_factory=_no_numbers)
    doubtful_most: np.ndarray = field(default_factory=_no_numbers)

    def of(self, label: int) -> np.ndarray:
        """float[K, 4], the boxes of one class."""
        return self.boxes_xyxy[self.labels == label]

    def doubtful_of(self, label: int) -> np.ndarray:
        """float[K, 4], what is visible of the doubtful of one class."""
        return self.doubtful_xyxy[self._may_be(label)]

    def cut_of(self, label: int) -> np.ndarray:
        """float[K, 4], what is visible of those doubtful objects that are no crowd."""
        may_be = self._may_be(label)
        return self.doubtful_xyxy[may_be & (self.doubtful_most < CROWD) if len(self.doubtful_most) else may_be]

    def possible(self, label: int, area_xyxy: np.ndarray | None = None) -> int:
        """How many more of a class may be in an area (the whole picture if None) than its boxes say."""
        may_be = self._may_be(label)
        boxes = self.doubtful_xyxy[may_be]
        most = self.doubtful_most[may_be] if len(self.doubtful_most) else np.ones(len(boxes), np.int64)
        return int(most.sum() if area_xyxy is None else most[overlap(boxes, area_xyxy) > 0].sum())

    def _may_be(self, label: int) -> np.ndarray:
        if not len(self.doubtful_labels):
            return np.ones(len(self.doubtful_xyxy), bool)
        return self.doubtful_labels == label

    def box_text(self, box: np.ndarray | Sequence[float]) -> str:
        """`<box>[[x1, y1, x2, y2]]</box>` in thousandths of the picture."""
        return f"<box>[{self.numbers(box)}]</box>"

    def boxes_text(self, boxes: np.ndarray) -> str:
        """Several boxes in one pair of marks."""
        return f"<box>[{', '.join(self.numbers(box) for box in boxes)}]</box>"

    def numbers(self, box: np.ndarray | Sequence[float]) -> str:
        """`[x1, y1, x2, y2]`, integers from 0 to 1000."""
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
        """float[4], pixels of one of REGIONS."""
        height, width = self.size_hw
        row, column = divmod(region, 3)
        return np.array([column * width, row * height, (column + 1) * width, (row + 1) * height]) / 3

    def in_half(self, boxes: np.ndarray, half: int) -> np.ndarray:
        """bool[K], whether each box's centre lies in one of HALVES."""
        height, width = self.size_hw
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        return (x < width / 2, x >= width / 2, y < height / 2, y >= height / 2)[half]

    def half_xyxy(self, half: int) -> np.ndarray:
        """float[4], pixels of one of HALVES."""
        height, width = self.size_hw
        x, y = width / 2, height / 2
        return np.array([(0, 0, x, height), (x, 0, width, height), (0, 0, width, y), (0, y, width, height)][half])

    def covered(self, box: np.ndarray) -> float:
        """How far `box` and any object, doubtful ones included, cover each other: the larger of both shares."""
        everything = np.concatenate([self.boxes_xyxy, self.doubtful_xyxy])
        if not len(everything):
            return 0.0
        smaller = np.minimum(np.prod(everything[:, 2:] - everything[:, :2], axis=1), np.prod(box[2:] - box[:2]))
        return float((overlap(everything, box) / np.maximum(smaller, 1e-9)).max())


def overlap(boxes: np.ndarray, area_xyxy: np.ndarray) -> np.ndarray:
    """float[K], square pixels that each box shares with one area."""
    low, high = np.maximum(boxes[:, :2], area_xyxy[:2]), np.minimum(boxes[:, 2:], area_xyxy[2:])
    return np.prod(np.clip(high - low, 0, None), axis=1)

"""What annotations say: of a file before it is decoded (Record) and beside its pixels (Sample)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

Role = Literal["system", "user", "assistant"]
RGB = tuple[int, int, int]  # 0 to 255
Pixels = Literal["uint8", "uint16", "float32", "raw"]  # 1 is 255, 65535, 1; raw: float32 in the unit of the files
IGNORED = -1  # in a label map: a pixel that is neither learned nor counted


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation; `<image>` in a user's text marks where an image goes."""

    role: Role
    text: str


def _no_boxes() -> np.ndarray:
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the annotations say of one image, of a window of it, or of a slice of a volume, before decoding anything.

    Boxes are float32[N, 4] xyxy in pixels of the window (of the image where there is no window); `labels` are
    int64[N] indices into `DataInfo.class_names`. Where objects are annotated more closely, `boxes_xyxy` are the hulls.
    """

    id: str  # unique in its data set; names the image (and window) in every message
    images: tuple[Path, ...]  # one; several for pairs (before, after), bands in files of their own, and chats
    size_hw: tuple[int, int] | None = None  # pixels, of the window if there is one; None: not known before decoding
    window_xyxy: tuple[int, int, int, int] | None = None  # the part of images[0] that this record is about
    image_id: str = ""  # the whole image's record id; equal to `id` unless this is a window
    boxes_xyxy: np.ndarray = field(default_factory=_no_boxes)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    is_crowd: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # bool[N]: many objects in one box
    is_difficult: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # bool[N]: need not be found
    quads: np.ndarray | None = None  # float32[N, 4, 2], corners (x, y) one after the other; None: horizontal boxes only
    masks: tuple[Any, ...] | None = None  # N COCO segmentations (polygons or RLE), pixels of the *whole* image
    keypoints: np.ndarray | None = None  # float32[N, K, 3]: x, y, COCO's visibility (0 not annotated, 1 hidden, 2 seen)
    label_map: Path | None = None  # raster with the class of every pixel, on the grid of images[0]
    slice: int | None = None  # of a volume: which, from 0
    image_labels: tuple[int, ...] | None = None  # classes of the image as a whole: one, or any number (multi-label)
    group: str = ""  # what must not straddle training and test: a patient, a scene, a flight; "": nothing known
    notes: Mapping[str, str] = field(default_factory=dict)  # what else a format says of the image: gsd, source, ...
    turns: tuple[Turn, ...] = ()
    families: tuple[str, ...] = ()  # of each answer, the kind of its question; empty: not known
    max_tiles: int | None = None  # of its images together; None: as the task has it

    def __post_init__(self) -> None:
        if not self.image_id:
            object.__setattr__(self, "image_id", self.id)
        for flag in ("is_crowd", "is_difficult"):
            if len(getattr(self, flag)) != len(self.labels):
                if len(getattr(self, flag)):
                    raise ValueError(f"{self.id}: {len(getattr(self, flag))} {flag} for {len(self.labels)} labels")
                object.__setattr__(self, flag, np.zeros(len(self.labels), bool))

    def keep(self, kept: np.ndarray) -> Self:
        """The same with some of its objects: bool[N] or int64[K]."""
        numbers = np.flatnonzero(kept) if kept.dtype == bool else kept
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[numbers],
            labels=self.labels[numbers],
            is_crowd=self.is_crowd[numbers],
            is_difficult=self.is_difficult[numbers],
            quads=None if self.quads is None else self.quads[numbers],
            masks=None if self.masks is None else tuple(self.masks[i] for i in numbers),
            keypoints=None if self.keypoints is None else self.keypoints[numbers],
        )


@dataclass(kw_only=True)
class Sample:
    """One decoded record. Everything random about it derives from `seed`, never from a global state."""

    id: str
    image_id: str
    seed: int
    images: list[Tensor]  # each uint8, uint16 or float32[C, H, W], all of one type; three channels are RGB
    boxes_xyxy: Tensor = field(default_factory=lambda: torch.zeros(0, 4))  # float[N, 4], pixels of images[0]
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))  # int64[N]
    is_crowd: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))  # bool[N]
    is_difficult: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))  # bool[N]
    quads: Tensor | None = None  # float[N, 4, 2], corners (x, y) one after the other; None: horizontal boxes only
    masks: Tensor | None = None  # bool[N, H, W]
    keypoints: Tensor | None = None  # float[N, K, 3]: x, y, COCO's visibility
    label_map: Tensor | None = None  # int16[H, W], the class of every pixel of images[0], or IGNORED
    image_labels: tuple[int, ...] | None = None  # classes of the image as a whole
    turns: tuple[Turn, ...] = ()
    families: tuple[str, ...] = ()
    max_tiles: int | None = None
    origin_xy: tuple[float, float] = (0.0, 0.0)  # this sample's top left corner in the whole image, pixels
    scale_xy: tuple[float, float] = (1.0, 1.0)  # sample pixels to a pixel of the whole image

    def __post_init__(self) -> None:
        if len(self.is_crowd) != len(self.labels):
            self.is_crowd = torch.zeros(len(self.labels), dtype=torch.bool)
        if len(self.is_difficult) != len(self.labels):
            self.is_difficult = torch.zeros(len(self.labels), dtype=torch.bool)

    def keep(self, kept: Tensor) -> Self:
        """The same with some of its objects: bool[N] or int64[K]."""
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[kept],
            labels=self.labels[kept],
            is_crowd=self.is_crowd[kept],
            is_difficult=self.is_difficult[kept],
            quads=None if self.quads is None else self.quads[kept],
            masks=None if self.masks is None else self.masks[kept],
            keypoints=None if self.keypoints is None else self.keypoints[kept],
        )

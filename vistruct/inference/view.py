"""What of a case and its prediction can be looked at on a page that pans and zooms: pictures, outlines, areas, words
and numbers. Each kind of prediction says its own (`Kind.frames`, `Kind.view`); the room `web` shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vistruct.contracts import RGB


@dataclass(frozen=True, kw_only=True)
class Frames:
    """What there is to see of a case before anything is asked."""

    size_hw: tuple[int, int]  # pixels, of the whole image or of a slice
    count: int  # slices of a volume; 1: an image
    read: Callable[[int], Sequence[Tensor]]  # of one, small enough to be drawn: number[C, h, w]; of a pair two


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One object, in pixels of the whole image."""

    name: str  # of its class, or the words for it
    colour: RGB
    rings: Sequence[np.ndarray] = ()  # float[N, 2] each, x and y; one within another is a hole
    is_area: bool = False  # the rings go around a mask; else they are a box
    score: float | None = None
    keypoints: np.ndarray | None = None  # float[K, 3]: x, y, visibility


@dataclass(frozen=True, kw_only=True)
class Areas:
    """A class of every pixel or voxel."""

    labels: np.ndarray  # integer[H, W], of a volume [S, H, W], in memory or on disk; what is negative has none
    names: Sequence[str]
    colours: Sequence[RGB]
    bare: int | None = None  # the class that is left as the image is


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """Words within `View.words`, and what they speak of."""

    start: int
    end: int  # behind them
    colour: RGB
    marks: tuple[int, ...]  # rows of `View.marks`


@dataclass(frozen=True, kw_only=True)
class View:
    """A prediction to look at."""

    columns: tuple[str, ...] = ()  # heads of the table
    rows: Sequence[tuple[str | int | float, ...]] = ()
    marks: Sequence[Mark] = ()
    areas: Areas | None = None
    words: str = ""  # that are said of the image
    spoken: tuple[Spoken, ...] = ()
    notes: tuple[str, ...] = ()  # what else a person should know

"""Images of any size through a model that looks at windows: probabilities from top to bottom, in constant memory.

Windows overlap and every pixel's probabilities are the weighted mean of those of the windows that see it. The weights
are a product of one vector along each axis, normalised beforehand so that they sum to one at every pixel: nothing has
to be counted or divided afterwards, and a row is finished as soon as the last window over it is. A band of as many
rows as the windows under way need is all that is held, in blocks that are given out as they are, without a copy.

Source: slide inference of MMSegmentation (`blend="even"`) and MONAI's `sliding_window_inference` (importance map).
Differs: both hold the whole image's probabilities, and the counts, until the end; MONAI's weights are a Gaussian over
    the whole window, ours fall over the overlap alone, in a straight line and never to zero. MONAI's function takes the
    whole image as a tensor, so that it could not be used for files larger than memory; the tests and
    `benchmarks/slide.py` compare with it where it can.
Shapes: T images looked at together (1; 2 for a pair), C channels, K classes, image of H x W.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import Window
from vistruct.errors import UserError
from vistruct.ops.values import flipped
from vistruct.transforms.geometry import resized
from vistruct.windows.tiles import starts
from vistruct.windows.views import Flip, Views

Read = Callable[[Window], Tensor]  # xyxy in pixels of the file -> number[T, C, h, w]
Look = Callable[[Tensor], Tensor]  # number[B, T, C, h, w] -> float[B, K, h, w], probabilities
AXES = {"none": (), "horizontal": (-1,), "vertical": (-2,), "diagonal": (-2, -1)}


class Slide(Part):
    """Windows in which an image is looked at; published settings name the stride, which is size - overlap."""

    size: int | None = Field(512, gt=0)  # pixels that the model is shown, both sides; None: the whole image at once
    overlap: int = Field(128, ge=0)  # pixels shared by neighbours
    batch: int = Field(8, gt=0)  # windows in one pass, each flip of one counted
    blend: Literal["smooth", "even"] = "smooth"  # weights fall towards a window's borders; or are all the same

    @model_validator(mode="after")
    def _overlap_leaves_a_stride(self) -> Slide:
        if self.size is not None and self.overlap >= self.size:
            raise UserError(
                f"overlap={self.overlap} is not below size={self.size}", where="slide", fix="half of it is usual"
            )
        return self


WHOLE = Slide(size=None, overlap=0, batch=1)  # one view after the other: each may be all that fits into memory


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Rows y0 to y1 (exclusive) of an image, over its whole width."""

    y0: int
    y1: int
    probabilities: Tensor  # float32[K, y1 - y0, W], on the device where the model answered


@torch.no_grad()
def slide(
    read: Read,
    size_hw: tuple[int, int],
    slide: Slide | None,
    look: Look,
    views: Views | None = None,
    *,
    shown_hw: tuple[int, int] | None = None,
    show: Callable[[int], None] | None = None,
) -> Iterator[Strip]:
    """Look at an image of any size, window by window and in every view.

    A scale means that things appear so many times as large: windows of size / scale pixels of the file are resized to
    `size`. An image no larger than a window is read and shown as it is. Views are undone on the probabilities, which
    are then averaged; all views advance together, so that the band stays as high as a few windows.

    Args:
        read: the pixels inside a window of the file; it is called once for each window and scale.
        size_hw: of the file, pixels.
        slide: how it is cut; None: it is looked at as a whole, one view after the other.
        look: the model; what it is given is of one size in all calls of a scale, and what it gives is of that size.
        views: flips and scales; None: as it is.
        shown_hw: the height and width to which the image is brought before anything else; None: its own.
        show: told how many windows are done, of `num_windows`.

    Yields:
        Strips without gaps from the first row to the last, on the grid of the file.
    """
    slide = slide or WHOLE
    flips = views.flips if views is not None else ("none",)
    grids = _grids(size_hw, slide, views, shown_hw)
    share = 1 / len(grids)  # of each scale in the mean
    lines = min((grid.y_starts for grid in grids), key=len)  # any rows would do; these are finished one by one
    band, done = _Band([*lines, size_hw[0]], size_hw[1]), 0
    while not band.is_done:
        grid = min(grids, key=lambda one: one.finished)  # the scale that holds the others back
        numbers = range(grid.next, min(grid.next + max(1, slide.batch // len(flips)), grid.num_windows))
        pixels = torch.stack([read(grid.window(number)) for number in numbers])
        for number, found in zip(numbers, _seen(pixels, grid, slide.batch, flips, look), strict=True):
            band.add(grid.window(number), found, grid.weight(number, share, found.device))
        grid.next = numbers.stop
        done += len(numbers)
        if show is not None:
            show(done)
        yield from band.take(min(one.finished for one in grids))


def num_windows(
    size_hw: tuple[int, int], slide: Slide | None, views: Views | None = None, shown_hw: tuple[int, int] | None = None
) -> int:
    """How many windows `slide` reads, over all scales."""
    return sum(grid.num_windows for grid in _grids(size_hw, slide or WHOLE, views, shown_hw))


def _grids(
    size_hw: tuple[int, int], slide: Slide, views: Views | None, shown_hw: tuple[int, int] | None
) -> list[_Grid]:
    """One of each scale."""
    (height, width), (shown_h, shown_w) = size_hw, shown_hw or size_hw
    return [
        _Grid(_axis(height, shown_h / height * scale, slide), _axis(width, shown_w / width * scale, slide), slide.blend)
        for scale in (views.scales if views is not None else (1.0,))
    ]


@dataclass(frozen=True)
class _Axis:
    """How one side of an image is cut into windows."""

    length: int  # pixels of the file
    window: int  # pixels of the file
    overlap: int  # pixels of the file
    shown: int  # pixels that the model is given in the place of a window's

    @property
    def starts(self) -> list[int]:
        return starts(self.length, self.window, self.overlap)

    def weights(self, blend: str) -> Tensor:
        """float32[N, window]: the part that each window has in each of its pixels; they sum to one there."""
        steps = torch.arange(1, self.window + 1, dtype=torch.float64)
        ramp = torch.minimum(steps, steps.flip(0)).clamp(max=self.overlap + 1 if blend == "smooth" else 1)
        total = torch.zeros(self.length, dtype=torch.float64)
        for start in self.starts:
            total[start : start + self.window] += ramp
        return torch.stack([ramp / total[start : start + self.window] for start in self.starts]).float()


def _axis(length: int, factor: float, slide: Slide) -> _Axis:
    if slide.size is None or length <= (window := max(1, round(slide.size / factor))):
        return _Axis(length, length, 0, max(1, round(length * factor)))
    return _Axis(length, window, min(window - 1, round(slide.overlap / factor)), slide.size)


class _Grid:
    """The windows of one scale, row by row, and how far they are."""

    def __init__(self, y: _Axis, x: _Axis, blend: str) -> None:
        self.y_starts, self.x_starts = y.starts, x.starts
        self.y_weights, self.x_weights = y.weights(blend), x.weights(blend)
        self.window_hw, self.shown_hw, self.height = (y.window, x.window), (y.shown, x.shown), y.length
        self.next = 0  # the first window that has not been looked at
        self.last_weight: tuple[Tensor, Tensor, Tensor] | None = None  # along y, along x, their product

    @property
    def num_windows(self) -> int:
        return len(self.y_starts) * len(self.x_starts)

    @property
    def finished(self) -> int:
        """Rows above this one have been looked at in all their windows."""
        row = self.next // len(self.x_starts)
        return self.y_starts[row] if row < len(self.y_starts) else self.height

    def window(self, number: int) -> Window:
        row, column = divmod(number, len(self.x_starts))
        (height, width), y, x = self.window_hw, self.y_starts[row], self.x_starts[column]
        return x, y, x + width, y + height

    def weight(self, number: int, share: float, device: torch.device) -> Tensor:
        """float32[h, w] of a window; those inside of an image have all the same, so the last one is kept."""
        row, column = divmod(number, len(self.x_starts))
        along_y, along_x = self.y_weights[row], self.x_weights[column]  # on the CPU: nobody waits for comparisons
        if self.last_weight is not None:
            last_y, last_x, product = self.last_weight
            if torch.equal(last_y, along_y) and torch.equal(last_x, along_x):
                return product
        product = (share * along_y[:, None] * along_x).to(device)
        self.last_weight = (along_y, along_x, product)
        return product


class _Band:
    """The rows of an image that are under way, summed up in blocks: one that is finished is given out as it is."""

    def __init__(self, lines: Sequence[int], width: int) -> None:
        self.lines, self.width = lines, width  # rows where blocks begin, and where the last one ends
        self.blocks: dict[int, Tensor] = {}  # float32[K, rows, W] of those under way
        self.next = 0  # the first block that has not been given out

    @property
    def is_done(self) -> bool:
        return self.next == len(self.lines) - 1

    def add(self, window: Window, probabilities: Tensor, weight: Tensor) -> None:
        x0, y0, x1, y1 = window
        for number in range(bisect_right(self.lines, y0) - 1, bisect_left(self.lines, y1)):
            top, bottom = self.lines[number], self.lines[number + 1]
            if number not in self.blocks:
                shape = (len(probabilities), bottom - top, self.width)
                self.blocks[number] = probabilities.new_zeros(shape, dtype=torch.float32)
            first, last = max(y0, top), min(y1, bottom)
            seen, its_weight = probabilities[:, first - y0 : last - y0], weight[first - y0 : last - y0]
            self.blocks[number][:, first - top : last - top, x0:x1].addcmul_(seen, its_weight)

    def take(self, finished: int) -> Iterator[Strip]:
        """The blocks that end at this row or above it."""
        while not self.is_done and self.lines[self.next + 1] <= finished:
            y0, y1 = self.lines[self.next : self.next + 2]
            yield Strip(y0=y0, y1=y1, probabilities=self.blocks.pop(self.next))
            self.next += 1


def _seen(pixels: Tensor, grid: _Grid, batch: int, flips: Sequence[Flip], look: Look) -> Tensor:
    """float32[B, K, h, w] on the grid of the windows, the mean over flips; `batch` images go into one pass."""
    shown = resized(pixels, grid.shown_hw)
    views = torch.cat([flipped(shown, AXES[flip]) for flip in flips]) if tuple(flips) != ("none",) else shown
    if views.device.type == "cpu" and torch.cuda.is_available():
        views = views.pin_memory()  # its way to the device then needs nobody to wait
    parts = [look(part) for part in views.split(batch)]
    found = parts[0] if len(parts) == 1 else torch.cat(parts)
    mean = torch.zeros((), device=found.device)
    for one, flip in zip(found.float().chunk(len(flips)), flips, strict=True):
        one = one.flip(AXES[flip]) if AXES[flip] else one
        mean = one if len(flips) == 1 else mean + one / len(flips)
    if tuple(mean.shape[-2:]) == grid.window_hw:
        return mean
    return F.interpolate(mean, grid.window_hw, mode="bilinear", align_corners=False)

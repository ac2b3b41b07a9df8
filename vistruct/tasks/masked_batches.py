"""What is taken from an image before an encoder sees it, and the batches in which that is drawn.

Source: MAE (arXiv:2111.06377): patches at random; Pixio (arXiv:2512.15715): squares of them; BEiT (arXiv:2106.08254)
    and iBOT (arXiv:2111.07832): rectangles one after the other, of log-uniform aspect; MFM (arXiv:2206.07706):
    frequencies outside or inside of a circle; DropPos (arXiv:2309.03576): positions of patches that are shown.
Differs: all is drawn from the sample's seed; where rectangles no longer fit, single cells fill up the share, so that as
    many patches are hidden of every image.
Shapes: B images of L = h * w patches of p pixels, K of them shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.ops.spectra import is_slow
from vistruct.tasks.pixels import stacked

TRIES = 10  # of a rectangle


class HidePatches(Part):
    """Patches are gone: from what the encoder is given, or from the image that it sees whole."""

    kind: Literal["patches"] = "patches"
    hidden: float = Field(0.75, gt=0, lt=1)  # share that is hidden, rounded up to whole squares but for one
    square: int = Field(1, gt=0)  # patches a side of what is hidden or shown together; Pixio: 4
    blocks: bool = False  # hidden in rectangles; False: scattered
    replaced: bool = False  # a learned patch of pixels stands in their place; False: the encoder is not given them
    unplaced: float = Field(0.0, ge=0, lt=1)  # share of those shown of which it is not told where they lie, rounded up

    @property
    def drops(self) -> bool:
        """Whether the encoder is not given all patches."""
        return not self.replaced


class FilterFrequencies(Part):
    """Fine things are gone from the whole image, or coarse ones."""

    kind: Literal["frequencies"] = "frequencies"
    radius: float = Field(16 / 224, gt=0, lt=0.5)  # cycles a pixel, up to which things are coarse
    low_pass: float = Field(0.5, ge=0, le=1)  # how often (chance) the fine ones are removed, else the coarse
    drops: ClassVar[bool] = False
    unplaced: ClassVar[float] = 0.0


Corruption = Annotated[HidePatches | FilterFrequencies, Field(discriminator="kind")]


@dataclass(kw_only=True)
class MaskedBatch:
    """Images of one size, and what of them is taken away."""

    ids: list[str]
    image_ids: list[str]
    images: Tensor  # uint8, uint16 or float32[B, C, H, W]
    shown: Tensor  # int64[B, K], patches row by row, rising
    is_hidden: Tensor  # bool[B, L], patches that are to be told: where frequencies are removed, all of them
    beside: Tensor | None = None  # like images, of the same places, shown whole; None: there are none
    is_unplaced: Tensor | None = None  # bool[B, K], whose places the encoder is not told; None: it is told all
    is_removed: Tensor | None = None  # bool[B, H, W], frequencies, the mean first; None: of patches

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        found = {one.name: vars(self)[one.name] for one in fields(self)}
        tensors = {name: one for name, one in found.items() if isinstance(one, Tensor)}
        return replace(self, **{name: one.to(device, non_blocking=True) for name, one in tensors.items()})


@dataclass(frozen=True, kw_only=True)
class MaskedCollator:
    """Samples -> MaskedBatch. Holds no weights, so that it travels to worker processes."""

    channels: int
    patch: int  # pixels
    corruption: Corruption
    images: Literal["one", "two", "first"] = "one"  # of a sample; of two the first is hidden; first: of however many

    def __call__(self, samples: list[Sample]) -> MaskedBatch:
        shape = samples[0].images[0].shape
        told, size_hw = self.corruption, (shape[1], shape[2])
        square = told.square if isinstance(told, HidePatches) else 1
        for sample in samples:
            self._check(sample, shape, self.patch * square)
        down, across = (side // self.patch for side in size_hw)
        is_unplaced = is_removed = None
        if isinstance(told, HidePatches):
            is_hidden = torch.stack([_hidden(told, (down // square, across // square), one.seed) for one in samples])
            shown = torch.stack([(~one).nonzero()[:, 0] for one in is_hidden])
            if told.unplaced:
                is_unplaced = torch.stack([_unplaced(told, shown.shape[1], one.seed) for one in samples])
        else:
            is_removed = torch.stack([_removed(told, size_hw, one.seed) for one in samples])
            is_hidden = torch.ones(len(samples), down * across, dtype=torch.bool)
            shown = torch.arange(down * across).expand(len(samples), -1)
        return MaskedBatch(
            ids=[sample.id for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            images=stacked([sample.images[0] for sample in samples], size_hw),
            shown=shown,
            is_hidden=is_hidden,
            beside=stacked([sample.images[1] for sample in samples], size_hw) if self.images == "two" else None,
            is_unplaced=is_unplaced,
            is_removed=is_removed,
        )

    def _check(self, sample: Sample, shape: torch.Size, side: int) -> None:
        taken = {"one": 1, "two": 2, "first": len(sample.images)}[self.images]
        if len(sample.images) != taken:
            what = f"images in a sample: {len(sample.images)}, where {taken} should be"
            fix = "use data with one image each (kind: images)" if taken == 1 else "use data of pairs: --pairs"
            raise UserError(what, where=sample.id, fix=fix)
        for found in [image.shape for image in sample.images[: 2 if self.images == "two" else 1]]:
            if found[0] != self.channels:
                what = f"an image of {found[0]} channels, the model takes {self.channels}"
                raise UserError(what, where=sample.id, fix="choose --bands")
            if found != shape:
                what = f"images of {found[2]} x {found[1]} and {shape[2]} x {shape[1]} pixels in one batch"
                raise UserError(what, where=sample.id, fix="--size N brings all to one size")
        if shape[1] % side or shape[2] % side:
            what = f"{shape[2]} x {shape[1]} pixels are no whole number of patches"
            raise UserError(what, where=sample.id, fix=f"--size N, a multiple of {side}")


def _hidden(told: HidePatches, grid_hw: tuple[int, int], seed: int) -> Tensor:
    """bool[L], of a grid of squares."""
    cells = (drawn_blocks if told.blocks else drawn_squares)(grid_hw, told.hidden, derive(seed, "hidden"))
    return cells.repeat_interleave(told.square, 0).repeat_interleave(told.square, 1).flatten()


def _unplaced(told: HidePatches, count: int, seed: int) -> Tensor:
    """bool[K]."""
    draw = torch.Generator().manual_seed(derive(seed, "unplaced"))
    return torch.rand(count, generator=draw).argsort() >= int(count * (1 - told.unplaced))


def _removed(told: FilterFrequencies, size_hw: tuple[int, int], seed: int) -> Tensor:
    """bool[H, W]."""
    draw = torch.Generator().manual_seed(derive(seed, "frequencies"))
    coarse = is_slow(size_hw, told.radius)
    return ~coarse if float(torch.rand((), generator=draw, dtype=torch.float64)) < told.low_pass else coarse


def drawn_squares(grid_hw: tuple[int, int], share: float, seed: int) -> Tensor:
    """bool[h, w], true at so large a share of the cells, rounded up; one at least is false."""
    cells = grid_hw[0] * grid_hw[1]
    noise = torch.rand(cells, generator=torch.Generator().manual_seed(seed))
    is_hidden = torch.ones(cells, dtype=torch.bool)
    is_hidden[noise.argsort()[: _shown(cells, share)]] = False
    return is_hidden.view(grid_hw)


def drawn_blocks(grid_hw: tuple[int, int], share: float, seed: int) -> Tensor:
    """bool[h, w], true at as many cells as `drawn_squares` hides, most of them in rectangles."""
    height, width = grid_hw
    draw = torch.Generator().manual_seed(seed)
    is_hidden = torch.zeros(grid_hw, dtype=torch.bool)
    left, least = height * width - _shown(height * width, share), max(1, (min(grid_hw) // 3) ** 2)

    def place(most: int) -> int:
        """Hide one rectangle of at most so many cells; how many of them were not hidden before."""
        for _ in range(TRIES):
            area, aspect, down, across = torch.rand(4, generator=draw, dtype=torch.float64).tolist()
            cells, ratio = least + area * (most - least), math.exp((2 * aspect - 1) * math.log(0.3))
            high, wide = round(math.sqrt(cells * ratio)), round(math.sqrt(cells / ratio))
            if not (0 < high <= height and 0 < wide <= width):
                continue
            top, first = int(down * (height - high + 1)), int(across * (width - wide + 1))
            block = is_hidden[top : top + high, first : first + wide]
            new = int((~block).sum())
            if 0 < new <= most:
                block[:] = True
                return new
        return 0

    while left >= least and (new := place(left)):
        left -= new
    free = (~is_hidden).flatten().nonzero()[:, 0]
    is_hidden.view(-1)[free[torch.randperm(len(free), generator=draw)[:left]]] = True
    return is_hidden


def _shown(cells: int, share: float) -> int:
    return max(1, int(cells * (1 - share)))

"""What self-distillation sees of an image: views, and which of their patches are hidden.

Source: the blocks of BEiT as iBOT (arXiv:2111.07832) draws them.
Shapes: B images, G global and N local views of each, L patches of a global one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.tasks.pixels import stacked
from vistruct.transforms.geometry import resized
from vistruct.transforms.views import ViewsConfig, views

TALLEST = 10 / 3  # height to width of a block of hidden patches, and the inverse
TRIES = 10  # for the place of a block


@dataclass(kw_only=True)
class ViewsBatch:
    """Views of each image; to predict, the whole image as its one global view."""

    ids: list[str]
    image_ids: list[str]
    whole: Tensor  # uint8, uint16 or float32[B, G, C, S, S]
    parts: Tensor  # likewise [B, N, C, s, s]; N may be 0
    is_hidden: Tensor  # bool[B, G, L]
    whose: Tensor  # int64[B], a number for each image or window
    seeds: Tensor  # int64[B], of the samples

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        moved = {name: one for name, one in vars(self).items() if isinstance(one, Tensor)}
        return replace(self, **{name: one.to(device, non_blocking=True) for name, one in moved.items()})


@dataclass(frozen=True, kw_only=True)
class ViewsCollator:
    """Samples -> ViewsBatch. Holds no weights, so that it travels to worker processes."""

    channels: int
    patch: int  # pixels
    global_views: tuple[ViewsConfig, ...]
    local_views: tuple[ViewsConfig, ...] = ()
    hidden: tuple[float, float] = (0.0, 0.0)
    hidden_chance: float = 0.0
    as_it_is: bool = False  # the whole image at the size of a global view: to predict

    def __call__(self, samples: list[Sample]) -> ViewsBatch:
        for sample in samples:
            self._check(sample)
        size = self.global_views[0].size
        if self.as_it_is:
            whole = stacked([resized(one.images[0], (size, size)) for one in samples], (size, size))[:, None]
        else:
            whole = self._cut(samples, self.global_views, 0)
        hidden = [self._hidden(one, number) for one in samples for number in range(whole.shape[1])]
        return ViewsBatch(
            ids=[sample.id for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            whole=whole,
            parts=self._cut(samples, self.local_views, len(self.global_views)) if self.local_views else whole[:, :0],
            is_hidden=torch.stack(hidden).view(len(samples), whole.shape[1], -1),
            whose=torch.tensor([derive(sample.id) for sample in samples]),
            seeds=torch.tensor([sample.seed for sample in samples]),
        )

    def _cut(self, samples: list[Sample], groups: tuple[ViewsConfig, ...], first: int) -> Tensor:
        cut = [view.pixels for one in samples for n, group in enumerate(groups, first) for view in views(one, group, n)]
        size = groups[0].size
        return stacked(cut, (size, size)).unflatten(0, (len(samples), -1))

    def _hidden(self, sample: Sample, number: int) -> Tensor:
        side, seed = self.global_views[0].size // self.patch, derive(sample.seed, "hidden", number)
        chance, share = torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
        least, most = self.hidden
        drawn = least + (most - least) * share if chance < self.hidden_chance else 0.0
        return drawn_blocks((side, side), drawn, derive(seed, "blocks"))

    def _check(self, sample: Sample) -> None:
        if len(sample.images) != 1:
            what = f"{len(sample.images)} images in a sample, where the task takes one"
            raise UserError(what, where=sample.id, fix="use data with one image each (kind: images)")
        if len(sample.images[0]) != self.channels:
            what = f"an image of {len(sample.images[0])} channels, the model takes {self.channels}"
            raise UserError(what, where=sample.id, fix="choose --bands")


def drawn_blocks(grid_hw: tuple[int, int], share: float, seed: int) -> Tensor:
    """bool[h * w], true at so large a share of the cells at most, in blocks; so many that the next has no room.

    Source: the blocks of BEiT as iBOT draws them: area even from a ninth of the shorter side's square to what is left,
        aspect log-even from 0.3 to its inverse, ten tries for a place.
    """
    height, width = grid_hw
    drawn = torch.zeros(grid_hw, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    left, least, was = int(share * height * width), (min(grid_hw) // 3) ** 2, -1
    while 0 < left != was:
        was = left
        for _ in range(TRIES):
            area, tall, y, x = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
            size, aspect = min(least, left) + area * (left - min(least, left)), TALLEST ** (2 * tall - 1)
            high, wide = round(math.sqrt(size * aspect)), round(math.sqrt(size / aspect))
            if not (0 < high <= height and 0 < wide <= width):
                continue
            top, side = int(y * (height - high + 1)), int(x * (width - wide + 1))
            block = drawn[top : top + high, side : side + wide]
            if 0 < (new := int((~block).sum())) <= left:
                block[:] = True
                left -= new
                break
    return drawn.flatten()

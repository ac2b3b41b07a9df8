"""What the language model reads where a question shows a region: a few tokens of its content, place and kind.

`pooled`, the default, is two tokens. The first is the mean of the patches that the region covers, each weighed by how
much of it is covered, brought to the language model by the projector of all visual tokens: it follows the region to a
fraction of a patch, whatever its size, and says nothing of where it is, so that a mirrored image gives the same. The
second says where the region is (octaves of waves of its box) and how it is shown (an embedding of the kind).

`published` is the prompt encoder of REF-VLM: nine parts and a token of the mask, between patches and projector.
Source: REF-VLM (arXiv:2503.07413) and its public code, with what that does: the nine parts are runs of the raster and
    not cells; the mask's token is the same for every mask; a region that falls between the samples of the grid vanishes
    and leaves the embeddings alone; kinds are not told apart. `legacy` is the older encoder, after Osprey
    (arXiv:2312.10032), with a projector of its own.
Shapes: R regions, T pictures of L = h * w patches, D width of patches, W of the language model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import Prompt
from vistruct.errors import UserError

KINDS: tuple[Prompt, ...] = get_args(Prompt)  # in the order of their embeddings
Project = Callable[[Tensor], Tensor]  # float[..., D * shuffle^2] -> float[..., W]
_PARTS = 9  # of a published prompt


class RegionTokensConfig(Part):
    """How a region is read."""

    style: Literal["pooled", "published"] = "pooled"
    # Of the published style: weighed sums; a convolution over patches outside of which all is 0; the older encoder.
    strategy: Literal["pooling", "embedding", "legacy"] = "pooling"
    mask_token: bool = True  # a tenth token
    octaves: int = Field(8, gt=0)  # of the pooled style: waves of a place, the shortest 2^(1 - octaves) of the picture

    @model_validator(mode="after")
    def _fits(self) -> RegionTokensConfig:
        if self.style == "pooled" and (self.strategy != "pooling" or not self.mask_token):
            raise ValueError("strategy and mask_token are of style=published: set it, or leave them out")
        return self

    @property
    def tokens_per_region(self) -> int:
        """How many tokens stand for each region."""
        if self.style == "pooled" or self.strategy == "legacy":
            return 2
        return _PARTS + self.mask_token

    def raster_hw(self, picture_hw: tuple[int, int], grid_hw: tuple[int, int]) -> tuple[int, int]:
        """On which grid regions are drawn (`picture.coverage`, `picture.published_rasters`): patches, or pixels."""
        return grid_hw if self.style == "pooled" else picture_hw

    def build(self, width: int, language_width: int, grid_hw: tuple[int, int], shuffle: int = 1) -> RegionTokens:
        """
        Args:
            width: D.
            language_width: W.
            grid_hw: patches of a picture.
            shuffle: patches that the projector takes at once, per side.

        Raises:
            UserError: a published style that does not fit these.
        """
        if self.style == "pooled":
            return Pooled(self, language_width, shuffle)
        if shuffle != 1:
            what = (
                f"published region tokens go through the projector patch by patch, and it takes {shuffle} x {shuffle}"
            )
            raise UserError(
                what, where="region tokens", fix="--set task.shuffle=1, or --set task.pointing.regions.style=pooled"
            )
        if self.strategy == "legacy":
            return Legacy(width, language_width, grid_hw)
        cells = grid_hw[0] * grid_hw[1]
        is_square = grid_hw[0] == grid_hw[1] and grid_hw[0] % 3 == 0
        if cells % _PARTS or (self.strategy == "embedding" and not is_square):
            what = f"a grid of {grid_hw[0]} x {grid_hw[1]} patches is not cut in nine"
            raise UserError(what, where="task.tiling.size", fix="a multiple of 3 patches, such as 336 pixels of 14")
        return Published(self, width, grid_hw)


class Pooled(nn.Module):
    """The mean of what a region covers, and a token of its place and kind: float[R, 2, W]."""

    def __init__(self, config: RegionTokensConfig, language_width: int, shuffle: int) -> None:
        super().__init__()
        self.config, self.repeats = config, shuffle**2
        self.place = nn.Linear(8 * config.octaves, language_width)
        self.kind = nn.Embedding(len(KINDS), language_width)
        nn.init.normal_(self.kind.weight, std=0.3)  # about what places come to: neither drowns the other

    def forward(
        self,
        patches: Tensor,
        grid_hw: tuple[int, int],
        coverage: Tensor,
        pictures: Tensor,
        kinds: Tensor,
        boxes: Tensor,
        project: Project,
    ) -> Tensor:
        """See `RegionTokens`."""
        _check(patches, grid_hw)
        weights = coverage.flatten(1)
        if weights.shape[1] != patches.shape[1]:
            raise ValueError(f"regions on {coverage.shape[1:]} cells for {grid_hw} patches")
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
        mean = _of_pictures(weights.to(patches.dtype)[:, None], patches, pictures)[:, 0]  # [R, D]
        content = project(mean.repeat(1, self.repeats))  # a cell all of whose patches are alike
        place = self.place(octaves(boxes, self.config.octaves).to(self.place.weight.dtype)) + self.kind(kinds)
        return torch.stack([content, place.to(content.dtype)], dim=1)


class Published(nn.Module):
    """Nine parts and a token of the mask, each with an embedding of its number: float[R, 9 or 10, W]."""

    def __init__(self, config: RegionTokensConfig, width: int, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        if config.strategy == "embedding":
            side = grid_hw[0] // 3
            self.patch_embedding = nn.Conv2d(width, width, side, stride=side, bias=False)
        if config.mask_token:
            self.mask_embedding = nn.Linear(1, width)
        self.position_embedding = nn.Embedding(config.tokens_per_region, width)

    def forward(
        self,
        patches: Tensor,
        grid_hw: tuple[int, int],
        coverage: Tensor,
        pictures: Tensor,
        kinds: Tensor,
        boxes: Tensor,
        project: Project,
    ) -> Tensor:
        """See `RegionTokens`; kinds and boxes are not looked at, and coverage is above 0 or not."""
        _check(patches, grid_hw)
        weights = on_grid(coverage, grid_hw).to(patches.dtype)  # [R, L]
        if self.config.strategy == "pooling":
            runs = torch.zeros(len(weights), _PARTS, weights.shape[1], dtype=weights.dtype, device=weights.device)
            length = weights.shape[1] // _PARTS
            for part in range(_PARTS):
                run = slice(part * length, (part + 1) * length)
                runs[:, part, run] = weights[:, run]
            tokens = _of_pictures(runs, patches, pictures)
        else:
            shown = [patches[t] for t in pictures.tolist()]  # not by indexing, whose gradient is another in every run
            shown = torch.stack(shown or [patches.new_zeros(patches.shape[1:])])[: len(weights)] * weights[..., None]
            tokens = self.patch_embedding(shown.transpose(1, 2).unflatten(2, grid_hw)).flatten(2).transpose(1, 2)
        if self.config.mask_token:
            mask = self.mask_embedding(weights.mean(1, keepdim=True))  # of a mean, for the layer is linear
            tokens = torch.cat([tokens, mask[:, None]], dim=1)
        return project(tokens + self.position_embedding.weight)


class Legacy(nn.Module):
    """A mean of patches, and all of the mask on its grid: float[R, 2, W]."""

    def __init__(self, width: int, language_width: int, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.vpt_feats_proj = nn.Linear(width, language_width)
        self.mask_embedding = nn.Linear(grid_hw[0] * grid_hw[1], language_width)

    def forward(
        self,
        patches: Tensor,
        grid_hw: tuple[int, int],
        coverage: Tensor,
        pictures: Tensor,
        kinds: Tensor,
        boxes: Tensor,
        project: Project,
    ) -> Tensor:
        """See `RegionTokens`; `project` is not asked."""
        _check(patches, grid_hw)
        weights = on_grid(coverage, grid_hw).to(patches.dtype)
        mean = _of_pictures(weights[:, None], patches, pictures)[:, 0]
        return torch.stack([self.vpt_feats_proj(mean), self.mask_embedding(weights)], dim=1)


RegionTokens = Pooled | Published | Legacy
"""`(patches, grid_hw, coverage, pictures, kinds, boxes, project) -> float[R, n, W]`.

patches: float[T, L, D] of whole pictures, row by row. grid_hw: h, w.
coverage: float[R, ...] in [0, 1], on the grid that `RegionTokensConfig.raster_hw` says.
pictures: int64[R] on the CPU, which one each region is in. kinds: int64[R], numbers in `KINDS`.
boxes: float[R, 4], xyxy around each region, parts of its picture. project: what brings patches to the language model.
"""


def octaves(boxes: Tensor, count: int) -> Tensor:
    """float[R, 4] in [0, 1] -> float32[R, 8 * count]: sines and cosines of half a turn, a turn, two turns, ..."""
    turns = 2.0 ** torch.arange(count, device=boxes.device) * math.pi
    angle = boxes.float()[..., None] * turns  # [R, 4, count]
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(1)


def on_grid(rasters: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Rasters float[R, H, W] -> float32[R, h * w] that sum to 1, or 0 all over where nothing is left of one.

    As published: bilinear without antialiasing, so that only the pixels next to a cell's middle are looked at.
    """
    if not len(rasters):
        return rasters.new_zeros(0, grid_hw[0] * grid_hw[1])
    found = F.interpolate(rasters.float()[:, None], grid_hw, mode="bilinear")[:, 0].flatten(1) > 0
    return found / (found.sum(1, keepdim=True) + 1e-8)


def _check(patches: Tensor, grid_hw: tuple[int, int]) -> None:
    if patches.shape[1] != grid_hw[0] * grid_hw[1]:
        raise ValueError(f"{patches.shape[1]} patches are no whole picture of {grid_hw[0]} x {grid_hw[1]}")


def _of_pictures(weights: Tensor, patches: Tensor, pictures: Tensor) -> Tensor:
    """Weights float[R, n, L] of each region's picture among float[T, L, D] -> sums float[R, n, D].

    Picture by picture, as products: their gradient is the same in every run, unlike that of chosen rows.
    """
    numbers = pictures.tolist()
    rows = [[r for r, number in enumerate(numbers) if number == t] for t in range(len(patches))]
    parts = [weights[own].flatten(0, 1) @ patches[t] for t, own in enumerate(rows) if own]
    if not parts:
        return weights.new_zeros(0, weights.shape[1], patches.shape[2])
    order = torch.tensor([r for own in rows for r in own], device=weights.device).argsort()
    return torch.cat(parts).unflatten(0, (-1, weights.shape[1])).index_select(0, order)

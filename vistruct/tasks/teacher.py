"""A teacher that stands still: a backbone with weights of a file, outside of the task's module tree.

It is in no state dict and in no checkpoint, has no gradient and is not shipped; the engine loads its weights before the
first step and notes their sum and licence in the model card. In a model that a run left there is none.
Shapes: images [B, C, H, W] as a batch has them -> map float[B, D, h, w], which lies over the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import Backbone, DataInfo, FeatureSpec
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart
from vistruct.tasks.features import least_divisor
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise


class TeacherConfig(Part):
    """A frozen backbone, and how it is shown images."""

    backbone: BackbonePart
    weights: Path  # a run, a backbone directory, or a file that `--backbone` would take
    level: int = -1  # which of its maps teaches
    bands: tuple[int, ...] | None = None  # of the images, those that it looks at, in its order; None: all
    mean: tuple[float, ...] = IMAGENET_MEAN  # of its own channels in [0, 1]; of raw values in their unit
    std: tuple[float, ...] = IMAGENET_STD

    def build(self, info: DataInfo, where: str) -> Teacher:
        """One without weights yet, for images as the data have them.

        Args:
            where: of this part, in messages: task.teacher.

        Raises:
            UserError: it looks at other channels, or has no such map; values that its mean is not of.
        """
        if info.pixels == "raw" and (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD):
            what = "images in the unit of their files, and a teacher of colours from 0 to 1"
            fix = "give a range that becomes 0 to 1: --low and --high"
            raise UserError(what, where=f"{where}.mean", fix=f"{fix}; or {where}.mean and .std in that unit by --set")
        return Teacher(self, info.channels, where)


class Teacher(nn.Module):
    """images [B, C, H, W] -> float[B, D, h, w] without a graph; no parameter or buffer of it is kept."""

    def __init__(self, config: TeacherConfig, channels: int, where: str) -> None:
        super().__init__()
        self.config, self.weights = config, config.weights
        with torch.device("meta"):  # no memory for its weights
            outline = config.backbone.build()
        self.spec = spec_of(outline.specs, config.level, where)
        self.divisor = least_divisor(outline)
        taken = outline.traits.channels
        wrong = [band for band in config.bands or () if not 0 <= band < channels]
        if wrong or taken != (channels if config.bands is None else len(config.bands)):
            asked = "" if config.bands is None else f", of which bands {list(config.bands)} are asked for"
            what = f"the teacher takes {taken} channels, and images have {channels}{asked}"
            usual = [min(band, channels - 1) for band in range(taken)]
            fix = f"say which of them it sees, numbered from 0 to {channels - 1}: --set {where}.bands={usual}"
            raise UserError(what, where=config.weights, fix=fix)
        self.normalise = Normalise(config.mean, config.std, taken)
        self.held: tuple[Any, ...] = ()  # a tuple, which makes it no part of this module
        self.kept: Callable[[Tensor], Sequence[Tensor]] | None = None

    @property
    def is_there(self) -> bool:
        """Whether it has begun; in a model that was loaded it has not."""
        return bool(self.held)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its map beside its weights and what it sees."""
        return {"of": self.config.backbone.model_dump(mode="json"), "level": self.config.level}

    def begin(self) -> Backbone:
        """The backbone with random weights, frozen, for whoever loads its own; from now on it is there."""
        built: Any = self.config.backbone.build()
        self.held = (built.requires_grad_(False).eval(),)
        return built

    def keep(self, kept: Callable[[Tensor], Sequence[Tensor]]) -> None:
        """From now on ask this in place of `look`: it gives the same, and may remember."""
        self.kept = kept

    def look(self, seen: Tensor) -> list[Tensor]:
        """Normalised images float[B, C, H, W] -> the one map that teaches."""
        return [self.held[0](seen)[self.config.level]]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """To another device it comes along."""
        for backbone in self.held:
            backbone._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        if not self.held:
            raise RuntimeError("a teacher is asked before it was loaded: engine.teachers")
        return (self.kept or self.look)(self.seen(images))[0].float()

    def seen(self, images: Tensor) -> Tensor:
        """Its bands, normalised; where it cannot take their sides enlarged a little, so that its map covers them."""
        seen = images if self.config.bands is None else images[:, list(self.config.bands)]
        seen = self.normalise(seen)
        sides = [-(-side // self.divisor) * self.divisor for side in seen.shape[2:]]
        if sides != list(seen.shape[2:]):
            seen = F.interpolate(seen, sides, mode="bilinear", antialias=True)
        return seen


def spec_of(specs: tuple[FeatureSpec, ...], level: int, where: str) -> FeatureSpec:
    """
    Raises:
        UserError: no such map.
    """
    if not -len(specs) <= level < len(specs):
        what = f"no map {level}: the backbone has {len(specs)}, of strides {', '.join(str(s.stride) for s in specs)}"
        raise UserError(what, where=f"{where}.level", fix=f"--set {where}.level=-1 is the last of them")
    return specs[level]

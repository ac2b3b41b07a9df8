"""The feature maps that a head is built on: of a backbone, with a neck or without, and the sizes that both take."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from vistruct.contracts import Backbone, FeatureSpec, Neck, TokenBackbone
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart, NeckPart


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a task puts below its head; it registers the parts under names of its own."""

    backbone: Backbone
    neck: Neck | None
    specs: tuple[FeatureSpec, ...]  # of the maps that a head gets
    size_divisor: int  # pixels; sides of padded images are multiples of it


def features(
    backbone: BackbonePart,
    neck: NeckPart | None,
    *,
    channels: int,
    size_divisor: int | None = None,
    shared: Backbone | None = None,
) -> Features:
    """Build a neck on a backbone.

    Args:
        neck: None: a head gets the backbone's maps.
        channels: of the data's images.
        size_divisor: pixels; None: the least that fits.
        shared: a backbone that exists already, taken in place of a new one.

    Raises:
        UserError: images of other channels than the backbone takes; a divisor that does not fit the strides.
    """
    built = backbone_for(backbone, channels, shared)
    bottom = None if neck is None else neck.build(built.specs)
    strides = [spec.stride for spec in (*built.specs, *(() if bottom is None else bottom.specs))]
    least = least_divisor(built) if bottom is None else math.lcm(least_divisor(built), least_divisor(bottom))
    if size_divisor is not None and size_divisor % least:
        raise UserError(
            f"size_divisor={size_divisor} is not a multiple of the strides {sorted(set(strides))}",
            where="task.size_divisor",
            fix=f"use a multiple of {least}",
        )
    specs = built.specs if bottom is None else bottom.specs
    return Features(backbone=built, neck=bottom, specs=tuple(specs), size_divisor=size_divisor or least)


def backbone_for(part: BackbonePart, channels: int, shared: Backbone | None) -> Backbone:
    """A new backbone, or the shared one.

    Raises:
        UserError: images of the data have other channels than the backbone takes.
    """
    backbone = part.build() if shared is None else shared
    if not isinstance(backbone, Backbone):
        fix = "give it specs, and traits = BackboneTraits()"
        raise UserError(f"what {part.kind} builds is no backbone", where="task.backbone", fix=fix)
    taken = backbone.traits.channels
    if taken != channels:
        raise UserError(
            f"the data have images of {channels} channels, the backbone takes {taken}",
            where="task.backbone",
            fix=f"--bands with {taken} numbers chooses among them; or --set task.backbone.channels={channels}",
        )
    return backbone


def tokens_of(part: BackbonePart, shared: Backbone | None) -> TokenBackbone:
    """A new backbone of colours that gives tokens, or the shared one.

    Raises:
        UserError: it gives none; as `backbone_for`.
    """
    backbone = backbone_for(part, 3, shared)
    if not isinstance(backbone, TokenBackbone):
        what = f"a backbone of kind {part.kind} gives no tokens for a language model"
        raise UserError(what, where="task.backbone", fix="use a plain ViT: kind intern_vit, eva_vit, or timm")
    return backbone


def tokens_of_tiles(part: BackbonePart, size: int, shuffle: int, shared: Backbone | None) -> TokenBackbone:
    """As `tokens_of`, for tiles of `size` pixels of which `shuffle`^2 patches become one visual token.

    Raises:
        UserError: a backbone without tokens, or tiles that are no whole number of visual tokens.
    """
    backbone = tokens_of(part, shared)
    cell = backbone.patch * shuffle
    if size % cell:
        what = f"tiles of {size} pixels are not a multiple of patch * shuffle = {cell}"
        raise UserError(what, where="task.tiling.size", fix=f"--set task.tiling.size={size // cell * cell or cell}")
    return backbone


def least_divisor(part: Backbone | Neck) -> int:
    """Pixels; sides of what it is shown are multiples of it."""
    return part.traits.least_divisor or math.lcm(*(spec.stride for spec in part.specs))


def check_in_place(ids: Iterable[str], origins_xy: Iterable[tuple[float, float]]) -> None:
    """
    Raises:
        UserError: a sample was flipped or turned (its origin is NaN), so that nothing leads back to its file.
    """
    for sample_id, origin_xy in zip(ids, origins_xy, strict=True):
        if not all(map(math.isfinite, origin_xy)):
            raise UserError(
                "predictions about a flipped or turned image cannot be put back in place",
                where=sample_id,
                fix="evaluate on data without augment",
            )

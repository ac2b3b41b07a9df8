"""Test-time augmentation: the same images flipped and at other scales, and what was found there put together.

A view is made of the padded batch and undone on its detections, so that it needs nothing of the data and serves
evaluation and prediction alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, ValidationError, field_validator
from torch import Tensor
from torchvision.ops import batched_nms

from vistruct.config import Part
from vistruct.contracts import Detections, cat
from vistruct.errors import UserError
from vistruct.ops.oriented import cxcywha_to_quads, cxcywha_to_xyxy, quads_to_cxcywha
from vistruct.ops.oriented_nms import oriented_batched_nms

Flip = Literal["none", "horizontal", "vertical", "diagonal"]  # diagonal: both, half a turn


class Views(Part):
    """Every flip at every scale; `none` at 1 is the image as it is."""

    flips: tuple[Flip, ...] = Field(("none", "horizontal"), min_length=1)
    scales: tuple[float, ...] = Field((1.0,), min_length=1)  # of both sides

    @field_validator("scales")
    @classmethod
    def _positive(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < scale < 100 for scale in scales):
            raise ValueError("scales are factors above 0, for example 0.75, 1 and 1.25")
        return scales


def views_of(flips: Sequence[str], scales: Sequence[float]) -> Views | None:
    """Test-time augmentation as asked for: the image itself, each flip of it, all of these at every scale; None: none.

    Raises:
        UserError: no such flip, or a scale that is no factor.
    """
    if not flips and not scales:
        return None
    values: Any = {"flips": tuple(dict.fromkeys(["none", *flips])), "scales": tuple(scales or (1.0,))}
    try:
        return Views(**values)
    except ValidationError:
        raise UserError(
            f"no such view: flips {', '.join(flips)}, scales {', '.join(map(str, scales))}",
            where="--flip, --scale",
            fix="flips are horizontal, vertical and diagonal; scales are factors like 0.75 and 1.25",
        ) from None


@dataclass(frozen=True, kw_only=True)
class View:
    """One way to look at a batch, and the sizes it then has."""

    images: Tensor  # float[B, 3, H', W']
    sizes_hw: list[tuple[int, int]]  # before padding, pixels
    flip: Flip
    factors_xy: tuple[float, float]  # pixels of this view to a pixel of the batch


def view(images: Tensor, sizes_hw: Sequence[tuple[int, int]], flip: Flip, scale: float, divisor: int) -> View:
    """Look at normalised images in one way.

    Args:
        images: float[B, 3, H, W], 0 in the padding.
        sizes_hw: B real sizes, pixels.
        divisor: H' and W' are multiples of it.
    """
    axes = {"none": [], "horizontal": [2], "vertical": [1], "diagonal": [1, 2]}[flip]
    if axes:
        images = images.clone()
        for image, (h, w) in zip(images, sizes_hw, strict=True):  # each in its own frame: padding stays behind
            image[:, :h, :w] = image[:, :h, :w].flip(axes)
    height, width = images.shape[-2:]
    new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
    factors_xy = (new_w / width, new_h / height)
    if scale != 1:
        images = F.interpolate(images, (new_h, new_w), mode="bilinear", antialias=True)
        images = F.pad(images, (0, -new_w % divisor, 0, -new_h % divisor))
    sizes = [(min(new_h, math.ceil(h * factors_xy[1])), min(new_w, math.ceil(w * factors_xy[0]))) for h, w in sizes_hw]
    return View(images=images, sizes_hw=sizes, flip=flip, factors_xy=factors_xy)


def undo(found: Detections, seen: View, size_hw: tuple[int, int]) -> Detections:
    """Detections of a view in pixels of the batch; `size_hw` is the image's real size there."""
    height, width = size_hw
    x, y = seen.factors_xy
    boxes = found.boxes_xyxy / found.boxes_xyxy.new_tensor([x, y, x, y])
    oriented, masks = found.boxes_cxcywha, found.masks
    quads = None
    if oriented is not None:
        quads = cxcywha_to_quads(oriented) / oriented.new_tensor([x, y])
    if seen.flip in ("horizontal", "diagonal"):
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
        quads = quads if quads is None else torch.stack([width - quads[..., 0], quads[..., 1]], dim=-1)
        masks = masks if masks is None else masks.flip(2)
    if seen.flip in ("vertical", "diagonal"):
        boxes = torch.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], dim=1)
        quads = quads if quads is None else torch.stack([quads[..., 0], height - quads[..., 1]], dim=-1)
        masks = masks if masks is None else masks.flip(1)
    if quads is not None:
        oriented = quads_to_cxcywha(quads)
        boxes = cxcywha_to_xyxy(oriented)
    return replace(found, boxes_xyxy=boxes, boxes_cxcywha=oriented, masks=masks)


def joined(views: Sequence[Detections], nms_iou: float, max_detections: int) -> Detections:
    """What several views of one image found, doubles suppressed, best score first; of one view what it found."""
    if len(views) == 1:
        return views[0]
    every = cat(views)
    if every.boxes_cxcywha is not None:
        keep = oriented_batched_nms(every.boxes_cxcywha, every.scores, every.labels, nms_iou)
    else:
        keep = batched_nms(every.boxes_xyxy, every.scores, every.labels, nms_iou)
    return every.keep(keep[:max_detections])

"""Predictions, which are about files, as they lie in a sample: a part of an image, perhaps resized."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistruct.contracts import IGNORED, BoxPrediction, MapPrediction, MaskPatch, Sample
from vistruct.ops.oriented import cxcywha_to_quads, quads_to_cxcywha


def boxes_in_sample(prediction: BoxPrediction, sample: Sample) -> BoxPrediction:
    """A prediction in pixels of the whole image, in those of a sample that shows a part of it, on the CPU."""

    def moved(points: Tensor) -> Tensor:
        return (points - points.new_tensor(sample.origin_xy)) * points.new_tensor(sample.scale_xy)

    found = prediction.objects.to(torch.device("cpu"))
    corners, oriented, masks = found.boxes_xyxy.float().reshape(-1, 2, 2), found.boxes_cxcywha, found.masks
    if oriented is not None and sample.scale_xy[0] == sample.scale_xy[1]:
        boxes = oriented.float()
        sides = boxes[:, 2:4] * sample.scale_xy[0]
        oriented = torch.cat([moved(boxes[:, :2]), sides, boxes[:, 4:]], dim=1)
    elif oriented is not None:  # a rectangle becomes a parallelogram: the smallest rectangle around it
        oriented = quads_to_cxcywha(moved(cxcywha_to_quads(oriented.float())))
    return replace(
        prediction,
        objects=replace(
            found,
            boxes_xyxy=moved(corners).reshape(-1, 4),
            boxes_cxcywha=oriented,
            masks=None if masks is None else tuple(_mask_in_sample(mask, sample) for mask in masks),
        ),
    )


def map_in_sample(prediction: MapPrediction, sample: Sample) -> Tensor:
    """int16[H, W], a prediction on the grid of the file, on that of a sample; IGNORED where nothing was predicted."""
    height, width = sample.images[0].shape[1:]
    x0, y0 = prediction.window_xyxy[:2] if prediction.window_xyxy is not None else (0, 0)
    (left, top), (scale_x, scale_y) = sample.origin_xy, sample.scale_xy
    columns = ((torch.arange(width, dtype=torch.float64) + 0.5) / scale_x + left - x0).floor().long()
    rows = ((torch.arange(height, dtype=torch.float64) + 0.5) / scale_y + top - y0).floor().long()
    found = prediction.label_map.cpu()
    is_inside = ((rows >= 0) & (rows < found.shape[0]))[:, None] & ((columns >= 0) & (columns < found.shape[1]))[None]
    if not is_inside.any():
        return torch.full((height, width), IGNORED, dtype=torch.int16)
    said = found[rows.clamp(0, found.shape[0] - 1)[:, None], columns.clamp(0, found.shape[1] - 1)[None]]
    return said.to(torch.int16).masked_fill(~is_inside, IGNORED)


def _mask_in_sample(mask: MaskPatch, sample: Sample) -> MaskPatch:
    """Resized to whole pixels, and its corner rounded to one: half a pixel off at most."""
    (x0, y0), (sx, sy) = sample.origin_xy, sample.scale_xy
    height, width = mask.pixels.shape
    size = max(1, round(width * sx)), max(1, round(height * sy))
    pixels = np.asarray(Image.fromarray(mask.pixels).resize(size)) if size != (width, height) else mask.pixels
    return MaskPatch(pixels=pixels, x=round((mask.x - x0) * sx), y=round((mask.y - y0) * sy))

"""Large images as overlapping windows: records cut up for training, predictions put together again.

Choose `overlap` no smaller than the largest object: then every object is seen whole in some window.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision.ops import batched_nms, box_area

from vistruct.config import Part
from vistruct.contracts import BoxPrediction, Record
from vistruct.data.images import image_size
from vistruct.data.report import Report
from vistruct.errors import UserError

NOWHERE_WHOLE = "box left out: no window shows enough of it"
EMPTY_WINDOW = "window left out: no objects in it"

BORDER_PX = 4.0  # a detection that ends this close to its window's edge may go on outside
_ROWS = 512  # cut-off boxes compared at once, so that a scene of 20,000 detections needs megabytes

Window = tuple[int, int, int, int]


class Tiles(Part):
    """How large images are cut into windows; images no larger than a window stay whole."""

    size: int = Field(512, gt=0)  # pixels, both sides
    overlap: int = Field(64, ge=0)  # pixels shared by neighbours; as large as the largest object, if that can be
    min_kept: float = Field(0.4, gt=0, le=1)  # share of a box's area a window must show for the box to count there
    skip_empty: bool = False  # leave out windows without objects

    @model_validator(mode="after")
    def _overlap_leaves_a_stride(self) -> Tiles:
        if self.overlap >= self.size:
            raise UserError(f"overlap={self.overlap} is not below size={self.size}", fix="overlap=64 suits most data")
        return self


def windows(size_hw: tuple[int, int], tiles: Tiles) -> list[Window]:
    """Windows that cover an image without gaps, row by row.

    Neighbours share at least `tiles.overlap` pixels; the last row and column are moved inwards so that every
    window is full size. A side of the image that is shorter than a window is covered as it is.

    Returns:
        xyxy in pixels, right and bottom exclusive; at least one.
    """
    height, width = size_hw
    return [
        (x, y, min(x + tiles.size, width), min(y + tiles.size, height))
        for y in _starts(height, tiles)
        for x in _starts(width, tiles)
    ]


def _starts(length: int, tiles: Tiles) -> list[int]:
    if length <= tiles.size:
        return [0]
    stride = tiles.size - tiles.overlap
    return [*range(0, length - tiles.size, stride), length - tiles.size]


def tile_records(records: Sequence[Record], tiles: Tiles) -> tuple[list[Record], Report]:
    """Cut whole-image records into one record a window.

    A box is clipped to each window that shows at least `min_kept` of its area and left out of the others; a
    crowd stays wherever any of it shows, because it says where not to count. An image of a single window
    keeps its id.

    Returns:
        Records with ids like `scene.jpg@0_0_512_512`, image by image and row by row; and what was left out:
        boxes that no window kept (counted once), and empty windows if `skip_empty`.

    Raises:
        ValueError: a record is a window already.
    """
    cut: list[Record] = []
    report = Report()
    for record in records:
        if record.window_xyxy is not None:
            raise ValueError(f"{record.id} is a window already")
        is_kept_somewhere = np.zeros(len(record.boxes_xyxy), bool)
        size_hw = record.size_hw or image_size(record.images[0])
        all_windows = windows(size_hw, tiles)
        for window in all_windows:
            clipped, kept = _boxes_in(record, window, tiles.min_kept)
            is_kept_somewhere |= kept
            window_id = f"{record.id}@{'_'.join(str(edge) for edge in window)}" if len(all_windows) > 1 else record.id
            if tiles.skip_empty and not kept.any():
                report.note(EMPTY_WINDOW, window_id)
                continue
            cut.append(
                dataclasses.replace(
                    record.keep(kept),
                    id=window_id,
                    image_id=record.image_id,
                    size_hw=(window[3] - window[1], window[2] - window[0]),
                    window_xyxy=window,
                    boxes_xyxy=clipped[kept],
                )
            )
        for number in np.flatnonzero(~is_kept_somewhere):
            report.note(NOWHERE_WHOLE, f"{record.id}: box {number}")
    return cut, report


def _boxes_in(record: Record, window: Window, min_kept: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes clipped to a window, in its pixels (float32[N, 4]), and which of them stay (bool[N])."""
    boxes = record.boxes_xyxy
    x0, y0, x1, y1 = window
    clipped = np.clip(boxes, [x0, y0, x0, y0], [x1, y1, x1, y1])
    shown = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1)
    whole = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    enough = shown >= (min_kept - 1e-6) * whole  # less than rounding in float32
    kept = (shown > 0) & (enough | record.is_crowd)
    return (clipped - [x0, y0, x0, y0]).astype(np.float32), kept


def merge_windows(predictions: Sequence[BoxPrediction], overlap_iou: float = 0.5) -> list[BoxPrediction]:
    """Put the detections of an image's windows together so that an object comes out once.

    An image that was looked at in one piece comes out as it went in. Else two rules, class by class:

    1. A box that ends at an edge of its window inside the image may be a cut-off part. It is dropped if a
       larger box from another window covers half of it or more and has at least half its score.
    2. Of the rest, non-maximum suppression keeps the best of those that overlap by more than `overlap_iou`.

    An object larger than the windows' overlap may be whole in no window; its parts then stay parts.

    Args:
        predictions: in pixels of the whole image, any order; a prediction without a window covers its whole
            image.
        overlap_iou: in [0, 1].

    Returns:
        One prediction for each image, in order of first appearance, best score first, without a window.

    Raises:
        ValueError: predictions of one image differ in their class names.
    """
    by_image: dict[str, list[BoxPrediction]] = defaultdict(list)
    for prediction in predictions:
        by_image[prediction.image_id].append(prediction)
    return [_merge(image_id, parts, overlap_iou) for image_id, parts in by_image.items()]


def _merge(image_id: str, parts: list[BoxPrediction], overlap_iou: float) -> BoxPrediction:
    if len({part.class_names for part in parts}) > 1:
        raise ValueError(f"{image_id}: predictions with different class names cannot be merged")
    if len(parts) == 1:
        best = parts[0].scores.argsort(descending=True, stable=True)
        return _whole(parts[0], parts[0].boxes_xyxy[best], parts[0].scores[best], parts[0].labels[best])
    boxes = torch.cat([part.boxes_xyxy for part in parts])
    scores = torch.cat([part.scores for part in parts])
    labels = torch.cat([part.labels for part in parts])
    window = torch.cat([torch.full((len(part.scores),), number) for number, part in enumerate(parts)])
    is_cut = torch.cat([_is_cut(part, parts) for part in parts])

    stays = ~_is_part(boxes, scores, labels, window.to(boxes.device), is_cut)
    boxes, scores, labels = boxes[stays], scores[stays], labels[stays]
    best = batched_nms(boxes.float(), scores.float(), labels, overlap_iou)
    return _whole(parts[0], boxes[best], scores[best], labels[best])


def _whole(part: BoxPrediction, boxes_xyxy: Tensor, scores: Tensor, labels: Tensor) -> BoxPrediction:
    """A prediction about all of the image that `part` is a window of."""
    return BoxPrediction(
        id=part.image_id,
        image_id=part.image_id,
        boxes_xyxy=boxes_xyxy,
        scores=scores,
        labels=labels,
        class_names=part.class_names,
    )


def _is_cut(part: BoxPrediction, parts: list[BoxPrediction]) -> Tensor:
    """bool[N], true where a box ends at an edge of its window beyond which another window goes on."""
    boxes = part.boxes_xyxy
    if part.window_xyxy is None:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    every = [other.window_xyxy for other in parts if other.window_xyxy is not None]
    x0, y0, x1, y1 = part.window_xyxy
    is_cut = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if x0 > min(w[0] for w in every):
        is_cut |= boxes[:, 0] <= x0 + BORDER_PX
    if y0 > min(w[1] for w in every):
        is_cut |= boxes[:, 1] <= y0 + BORDER_PX
    if x1 < max(w[2] for w in every):
        is_cut |= boxes[:, 2] >= x1 - BORDER_PX
    if y1 < max(w[3] for w in every):
        is_cut |= boxes[:, 3] >= y1 - BORDER_PX
    return is_cut


def _is_part(boxes: Tensor, scores: Tensor, labels: Tensor, window: Tensor, is_cut: Tensor) -> Tensor:
    """bool[N], true where a cut box is explained by a larger one from another window."""
    area = box_area(boxes)
    is_part = torch.zeros_like(is_cut)
    for rows in is_cut.nonzero().squeeze(1).split(_ROWS):
        low = torch.maximum(boxes[rows, None, :2], boxes[None, :, :2])  # [R, N, 2]
        high = torch.minimum(boxes[rows, None, 2:], boxes[None, :, 2:])
        covered = (high - low).clamp(min=0).prod(dim=2)  # [R, N]
        explains = covered >= 0.5 * area[rows, None]
        explains &= area[None, :] > area[rows, None]  # strictly, so that two boxes never drop each other
        explains &= scores[None, :] >= 0.5 * scores[rows, None]
        explains &= labels[None, :] == labels[rows, None]
        explains &= window[None, :] != window[rows, None]
        is_part[rows] = explains.any(dim=1)
    return is_part

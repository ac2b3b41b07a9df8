"""Large images as overlapping windows: where they lie, and records cut up for training. `merge.py` joins again.

Choose `overlap` no smaller than the largest object: then every object is seen whole in some window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field, model_validator

from vistruct.config import Part
from vistruct.contracts import Record, Window
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.issues import IssueCounter
from vistruct.ops.window_area import area_in_window, polygon_area
from vistruct.transforms.crop import MIN_IGNORED_PX2

NOWHERE_WHOLE = "box left out: no window shows enough of it"
EMPTY_WINDOW = "window left out: no objects in it"


class Tiles(Part):
    """How large images are cut into windows; images no larger than a window stay whole."""

    size: int = Field(512, gt=0)  # pixels, both sides
    overlap: int = Field(64, ge=0)  # pixels shared by neighbours; as large as the largest object, if that can be
    min_kept: float = Field(0.4, gt=0, le=1)  # share of an object's area a window must show for it to count there
    else_ignore: bool = False  # objects that show less are neither objects nor background; false: background
    skip_empty: bool = False  # leave out windows without objects

    @model_validator(mode="after")
    def _overlap_leaves_a_stride(self) -> Tiles:
        if self.overlap >= self.size:
            raise UserError(f"overlap={self.overlap} is not below size={self.size}", fix=f"--overlap {self.size // 4}")
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
        for y in starts(height, tiles.size, tiles.overlap)
        for x in starts(width, tiles.size, tiles.overlap)
    ]


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Where the windows of one side begin: `size - overlap` apart, the last one moved inwards; at least one."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def tile_records(records: Sequence[Record], tiles: Tiles) -> tuple[list[Record], IssueCounter]:
    """Cut whole-image records into one record a window.

    An object stays in each window that shows at least `min_kept` of its area (of its quad, else of its box) and is
    left out of the others; a crowd, or what is ignored, stays wherever any of it shows: it says where not to count.
    Boxes are clipped to the window. Quads are not, they may reach beyond it, and `boxes_xyxy` are then their hulls
    (why: `transforms/crop.py`). Keypoints outside become not annotated; masks remain those of the whole image. An
    image of a single window keeps its id.

    Returns:
        Records with ids like `scene.jpg@0_0_512_512`, image by image and row by row; and what was left out:
        objects that no window kept (counted once), and empty windows if `skip_empty`.

    Raises:
        ValueError: a record is a window already.
    """
    cut: list[Record] = []
    report = IssueCounter()
    for record in records:
        if record.window_xyxy is not None:
            raise ValueError(f"{record.id} is a window already")
        is_kept_somewhere = np.zeros(len(record.objects), bool)
        size_hw = record.size_hw or image_size(record.images[0])
        all_windows = windows(size_hw, tiles)
        places = record.objects.outlines
        whole = polygon_area(torch.from_numpy(places)).numpy()  # [N], px^2
        for window, (near, shown) in zip(all_windows, _shown(places, whole, all_windows), strict=True):
            enough = shown >= (tiles.min_kept - 1e-6) * whole[near]  # less than rounding in float32
            kept = (shown > 0) & (enough | ~record.objects.is_single[near])
            ignored = ~kept & (shown >= MIN_IGNORED_PX2) & tiles.else_ignore
            is_kept_somewhere[near[kept]] = True
            window_id = f"{record.id}@{'_'.join(str(edge) for edge in window)}" if len(all_windows) > 1 else record.id
            if tiles.skip_empty and not kept.any():
                report.note(EMPTY_WINDOW, window_id)
                continue
            cut.append(_cut(record, window, near[kept | ignored], window_id, ignored[kept | ignored]))
        for number in np.flatnonzero(~is_kept_somewhere):
            report.note(NOWHERE_WHOLE, f"{record.id}: box {number}")
    return cut, report


def _shown(places: np.ndarray, whole: np.ndarray, all_windows: list[Window]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each window the objects whose hulls meet it (int64[M]), and how much of each it shows (float64[M], px^2).

    Args:
        places: float[N, 4, 2], corners of the objects.
        whole: float64[N], their areas.
    """
    if not len(places):
        return [(np.zeros(0, np.int64), whole)] * len(all_windows)
    low, high = places.min(axis=1), places.max(axis=1)  # [N, 2]
    edges = np.array(all_windows)  # [W, 4]
    meets = (low < edges[:, None, 2:]).all(axis=2) & (high > edges[:, None, :2]).all(axis=2)  # [W, N]
    window, near = np.nonzero(meets)
    shown = whole[near]
    is_cut = ((low[near] < edges[window, :2]) | (high[near] > edges[window, 2:])).any(axis=1)
    cut_places, cutting = torch.from_numpy(places[near[is_cut]]), torch.from_numpy(edges[window[is_cut]])
    shown[is_cut] = area_in_window(cut_places, cutting).numpy()
    ends = np.searchsorted(window, np.arange(1, len(all_windows)))
    return list(zip(np.split(near, ends), np.split(shown, ends), strict=True))


def _cut(record: Record, window: Window, numbers: np.ndarray, window_id: str, ignored: np.ndarray) -> Record:
    """The record of one window, with the objects of these `numbers`; `ignored` says which of them are not learnt."""
    x0, y0, x1, y1 = window
    kept = record.objects.keep(numbers)
    corner = np.array([x0, y0], np.float32)
    keypoints, quads = kept.keypoints, kept.quads
    if keypoints is not None:
        places = keypoints[..., :2] - corner
        is_inside = ((places >= 0) & (places < [x1 - x0, y1 - y0])).all(axis=-1) & (keypoints[..., 2] > 0)
        keypoints = np.where(is_inside[..., None], np.concatenate([places, keypoints[..., 2:]], axis=-1), 0)
        keypoints = keypoints.astype(np.float32)
    if quads is not None:
        quads = (quads - corner).astype(np.float32)
        boxes = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
    else:
        boxes = np.clip(kept.boxes_xyxy, [x0, y0, x0, y0], [x1, y1, x1, y1]) - [x0, y0, x0, y0]
    return dataclasses.replace(
        record,
        id=window_id,
        size_hw=(y1 - y0, x1 - x0),
        window_xyxy=window,
        objects=dataclasses.replace(
            kept,
            boxes_xyxy=boxes.astype(np.float32),
            is_ignored=kept.is_ignored | ignored,
            quads=quads,
            keypoints=keypoints,
        ),
    )

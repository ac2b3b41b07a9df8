"""Objects as points: every move of an image is one affine map, and what marks an object goes through it.

Quads and keypoints are moved exactly. `boxes_xyxy` are the hulls of what is known best of an object: of its moved
quad; without quads, of the moved corners of its box, which is exact for flips, quarter turns and resizing, and
larger than the object after any other rotation (there `rotate` prefers the hull of the mask, if there is one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vistruct.contracts import Sample


def affine(rows: Sequence[Sequence[float]]) -> Tensor:
    """float64[2, 3] of (x, y) -> (a x + b y + c, d x + e y + f), in pixels whose edges are whole numbers."""
    return torch.tensor(rows, dtype=torch.float64)


def move_points(points: Tensor, matrix: Tensor) -> Tensor:
    """Move points float[..., 2] by `matrix` float64[2, 3]; computed in float64, the points' dtype is kept."""
    moved = points.double() @ matrix[:, :2].T + matrix[:, 2]
    return moved.to(points.dtype)


def outlines(sample: Sample) -> Tensor:
    """float[N, 4, 2], what is known of where each object is: its quad, else the corners of its box."""
    return box_corners(sample.boxes_xyxy) if sample.quads is None else sample.quads


def box_corners(boxes_xyxy: Tensor) -> Tensor:
    """float[N, 4] -> float[N, 4, 2], from the top left clockwise on screen."""
    x0, y0, x1, y1 = boxes_xyxy.unbind(1)
    return torch.stack([x0, y0, x1, y0, x1, y1, x0, y1], dim=1).unflatten(1, (4, 2))


def hulls(polygons: Tensor) -> Tensor:
    """float[N, K, 2] -> float[N, 4], the xyxy boxes around them."""
    return torch.cat([polygons.amin(dim=1), polygons.amax(dim=1)], dim=1)


def move_objects(sample: Sample, matrix: Tensor) -> dict[str, Any]:
    """The fields of a sample that hold points, moved: `boxes_xyxy`, `quads` and `keypoints`.

    Keypoints keep their numbers: after a mirroring, a left one is still called left. Keypoints that are not annotated
    (visibility 0) stay as they are.
    """
    moved: dict[str, Any] = {"boxes_xyxy": hulls(move_points(outlines(sample), matrix))}
    if sample.quads is not None:
        moved["quads"] = move_points(sample.quads, matrix)
    if sample.keypoints is not None:
        places = move_points(sample.keypoints[..., :2], matrix)
        is_known = sample.keypoints[..., 2:] > 0
        places = torch.where(is_known, places, sample.keypoints[..., :2])
        moved["keypoints"] = torch.cat([places, sample.keypoints[..., 2:]], dim=-1)
    return moved

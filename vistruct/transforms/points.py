"""Objects as points: every move of an image is one affine map, and what marks an object goes through it.

Quads and keypoints are moved exactly. `boxes_xyxy` are the hulls of what is known best of an object: of its moved
quad; without quads, of the moved corners of its box, which is exact for flips, quarter turns and resizing, and
larger than the object after any other rotation (there `rotate` prefers the hull of the mask, if there is one).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vistruct.contracts import Objects


def affine(rows: Sequence[Sequence[float]]) -> Tensor:
    """float64[2, 3] of (x, y) -> (a x + b y + c, d x + e y + f), in pixels whose edges are whole numbers."""
    return torch.tensor(rows, dtype=torch.float64)


def move_points(points: Tensor, matrix: Tensor) -> Tensor:
    """Move points float[..., 2] by `matrix` float64[2, 3]; computed in float64, the points' dtype is kept."""
    moved = points.double() @ matrix[:, :2].T + matrix[:, 2]
    return moved.to(points.dtype)


def hulls(polygons: Tensor) -> Tensor:
    """float[N, K, 2] -> float[N, 4], the xyxy boxes around them."""
    return torch.cat([polygons.amin(dim=1), polygons.amax(dim=1)], dim=1)


def move_objects(objects: Objects[Tensor], matrix: Tensor, move: Callable[[Tensor], Tensor]) -> Objects[Tensor]:
    """Boxes, quads and keypoints moved by `matrix`, masks [N, H, W] by `move`; all else stays.

    Keypoints keep their numbers: after a mirroring, a left one is still called left. Keypoints that are not annotated
    (visibility 0) stay as they are.
    """
    if len(objects) == 0 and objects.masks is None:
        return objects  # as of images without labels: nothing is to be moved
    keypoints = objects.keypoints
    if keypoints is not None:
        places = move_points(keypoints[..., :2], matrix)
        places = torch.where(keypoints[..., 2:] > 0, places, keypoints[..., :2])
        keypoints = torch.cat([places, keypoints[..., 2:]], dim=-1)
    return dataclasses.replace(
        objects,
        boxes_xyxy=hulls(move_points(objects.outlines, matrix)),
        quads=None if objects.quads is None else move_points(objects.quads, matrix),
        keypoints=keypoints,
        masks=None if objects.masks is None else move(objects.masks),
    )

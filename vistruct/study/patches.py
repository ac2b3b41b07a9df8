"""Where the probes look: places in a scene, chosen by the scene and a seed alone.

No backbone has a say in it, whatever its stride: all are compared on the same patches and crops.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vistruct.errors import UserError
from vistruct.ops.seeds import derive

MAX_TRIES = 200  # draws of labelled crops before a scene is said to hold one kind of ground only


def object_patches(
    image: Tensor, boxes_xyxy: Tensor | np.ndarray, side: int, seed: int, *, margin: int = 8
) -> tuple[Tensor, Tensor]:
    """One patch on each object, then as many of the ground between them.

    A patch is centred on its object, or shifted inwards where it would leave the image. Ground patches are
    drawn without repeats from all places whose centre is at least `margin` pixels outside every box; they may
    show objects off their centre.

    Args:
        image: uint8[3, H, W].
        boxes_xyxy: float[N, 4] inside the image, pixels.
        side: of a patch, pixels.

    Returns:
        patches uint8[2N, 3, side, side] and labels int64[2N], 1 for objects (first) and 0 for ground.

    Raises:
        UserError: no objects; the image is smaller than a patch, or has fewer than N places of ground.
        ValueError: NaN in a box.
    """
    boxes = _checked(boxes_xyxy)
    if not len(boxes):
        raise UserError("the scene has no objects to cut out", fix="use a scene with objects")
    height, width = image.shape[1:]
    last_y, last_x = height - side, width - side
    if min(last_y, last_x) < 0:
        raise UserError(
            f"the scene of {width} x {height} pixels is smaller than a patch of {side}",
            fix=f"use patches of {min(height, width)} pixels or fewer",
        )
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    corners = (centres - side / 2).round().long()
    objects = torch.stack([corners[:, 0].clamp(0, last_x), corners[:, 1].clamp(0, last_y)], dim=1)  # [N, 2] xy

    # A corner is free if its patch's centre is: paint every grown box over the map of all corners.
    is_free = torch.ones(last_y + 1, last_x + 1, dtype=torch.bool)
    grown = boxes - side / 2 + torch.tensor([-margin, -margin, margin, margin])
    for x0, y0, x1, y1 in grown.tolist():
        # Strictly inside is taken, the edge itself is free: integers k with x0 < k < x1.
        xs = slice(max(int(np.floor(x0)) + 1, 0), max(int(np.ceil(x1)), 0))
        ys = slice(max(int(np.floor(y0)) + 1, 0), max(int(np.ceil(y1)), 0))
        is_free[ys, xs] = False
    free = is_free.nonzero().flip(1)  # [F, 2] xy
    if len(free) < len(boxes):
        raise UserError(
            f"the scene has {len(free)} places of ground {margin} px outside every box, not {len(boxes)}",
            fix="use a smaller patch or margin, or a scene that objects do not fill",
        )
    chosen = torch.randperm(len(free), generator=generator("ground patches", seed))[: len(boxes)]
    labels = torch.tensor([1] * len(boxes) + [0] * len(boxes), dtype=torch.int64)
    return cut(image, torch.cat([objects, free[chosen]]), side), labels


def places(size_hw: tuple[int, int], side: int) -> Tensor:
    """int64[N, 2] xy, upper left corners of squares side by side, row by row; what is left at the edges is none."""
    height, width = size_hw
    return torch.cartesian_prod(torch.arange(0, height - side + 1, side), torch.arange(0, width - side + 1, side)).flip(
        1
    )


def cut(image: Tensor, corners_xy: Tensor, side: int) -> Tensor:
    """[K, C, side, side]: the squares of `image` [C, H, W] at K upper left corners int64[K, 2], K >= 1."""
    return torch.stack([image[:, y : y + side, x : x + side] for x, y in corners_xy.tolist()])


@dataclass(frozen=True, kw_only=True)
class DenseCrops:
    """Where the dense probe looks; upper left corners, int64[..., 2] xy in pixels."""

    labelled: Tensor  # [draws, most shots, 2], in the left third; the first k of a draw are its k shots
    tested: Tensor  # [T, 2], side by side over the right two thirds


def dense_crops(
    size_hw: tuple[int, int],
    boxes_xyxy: Tensor | np.ndarray,
    crop: int,
    most: int,
    draws: int,
    seed: int,
    fewest: int = 1,
) -> DenseCrops:
    """Choose crops by scene and seed alone: whatever the backbone and its stride.

    A draw is repeated until its first `fewest` crops show both objects and ground in at least a twentieth of
    their pixels. Tested crops lie in rows without overlap; what is left at the right and lower edges, less
    than a crop, is not tested.

    Raises:
        UserError: the left third or the rest is narrower than a crop, or never shows both.
    """
    boxes = _checked(boxes_xyxy)
    height, width = size_hw
    border = width // 3
    if border < crop or height < crop:
        raise UserError(
            f"the left third of a scene of {width} x {height} pixels does not hold a crop of {crop}",
            fix=f"use crops of {min(border, height)} pixels or fewer",
        )
    pixel_x, pixel_y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    is_object = _inside(boxes, pixel_x, pixel_y).float()
    labelled = []
    for draw in range(draws):
        source = generator("labelled crops", seed, draw)
        for _ in range(MAX_TRIES):
            x = torch.randint(border - crop + 1, (most,), generator=source)
            y = torch.randint(height - crop + 1, (most,), generator=source)
            corners = torch.stack([x, y], dim=1)
            share = float(cut(is_object[None], corners[:fewest], crop).mean())
            if 0.05 <= share <= 0.95:
                labelled.append(corners)
                break
        else:
            raise UserError(
                f"{fewest} crops of {crop} px of the scene's left third never show both objects and ground",
                fix="use larger crops or more shots, or a scene with objects in its left third",
            )
    xs = torch.arange(border, width - crop + 1, crop)
    ys = torch.arange(0, height - crop + 1, crop)
    return DenseCrops(labelled=torch.stack(labelled), tested=torch.cartesian_prod(ys, xs).flip(1))


def cell_labels(boxes_xyxy: Tensor | np.ndarray, corners_xy: Tensor, crop: int, stride: int) -> Tensor:
    """bool[K, crop/stride, crop/stride]: whether the centre of each cell of each crop is inside a box."""
    boxes = _checked(boxes_xyxy)
    centre = (torch.arange(crop // stride) + 0.5) * stride
    found = [_inside(boxes, centre + x, centre + y) for x, y in corners_xy.tolist()]
    return torch.stack(found)


def generator(*parts: int | str) -> torch.Generator:
    """A source of randomness for what `parts` name."""
    return torch.Generator().manual_seed(derive(*parts))


def _inside(boxes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """bool[h, w]: whether (x[j], y[i]) is inside any box; the left and upper edges are, the others not."""
    in_x = (x >= boxes[:, 0:1]) & (x < boxes[:, 2:3])  # [N, w]
    in_y = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:4])  # [N, h]
    return torch.einsum("nh,nw->hw", in_y.float(), in_x.float()) > 0


def _checked(boxes_xyxy: Tensor | np.ndarray) -> Tensor:
    boxes = torch.as_tensor(boxes_xyxy).float().reshape(-1, 4)
    if not boxes.isfinite().all():
        raise ValueError("a box holds NaN or infinity")
    return boxes

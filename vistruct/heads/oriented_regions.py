"""Which oriented boxes say nothing about background, because they lie in a crowd or on a difficult object."""

from __future__ import annotations

import torch
from torch import Tensor

from vistruct.heads.matching import BACKGROUND, PAIRS_AT_ONCE, UNUSED
from vistruct.ops.oriented_iou import oriented_iou


def covered_share_oriented(boxes: Tensor, regions: Tensor) -> Tensor:
    """The largest part of each box's area that lies in one of the regions.

    Args:
        boxes: float[N, 5], cxcywha, pixels and radians.
        regions: float[K, 5], likewise.

    Returns:
        float[N] in [0, 1]; 0 where there is no region or the box has no area.
    """
    if len(regions) == 0 or len(boxes) == 0:
        return boxes.new_zeros(len(boxes))
    of_region = regions[:, 2:4].prod(dim=1)  # [K], px^2
    shares = []
    for piece in boxes.split(max(1, PAIRS_AT_ONCE // len(regions))):
        iou = oriented_iou(piece, regions)  # [n, K]
        of_box = piece[:, 2:4].prod(dim=1)[:, None]  # [n, 1], px^2
        shared = iou / (1 + iou) * (of_box + of_region)
        shares.append((shared / of_box.clamp(min=1e-9)).amax(dim=1).clamp(max=1))
    return torch.cat(shares)


def ignore_regions(matched: Tensor, boxes: Tensor, regions: Tensor, share: float) -> Tensor:
    """The same matches with background boxes that lie in a region taken out of use.

    A box whose IoU with a region is some number has at least that share of its area in it. So with the IoU below
    which boxes count as background for `share`, a box that would stand for the region's object if it were to be
    found, or would count for nothing beside it, is never called background.

    Args:
        matched: int64[N], as from `match_boxes`.
        boxes: float[N, 5], cxcywha.
        regions: float[K, 5], cxcywha.
        share: of a box's area; from here on it is no evidence for background.

    Returns:
        int64[N].
    """
    if len(regions) == 0:
        return matched
    background = (matched == BACKGROUND).nonzero().squeeze(1)
    covered = background[covered_share_oriented(boxes[background], regions) >= share]
    return matched.index_fill(0, covered, UNUSED)

"""Which object each anchor or proposal stands for, and which of them a step learns from.

Source: the assignment rule of Ren et al., "Faster R-CNN", arXiv:1506.01497, section 3.1.2, as torchvision's
    `Matcher` has it; the sampling is that of the same section.
Differs from torchvision: the table of overlaps is never held as a whole, so that 2,000 objects on 200,000 anchors
    fit in memory; an object that overlaps no box at all takes none (there it takes all that overlap nothing).
Shapes: N boxes (anchors, proposals), M objects, K crowd regions.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from torchvision.ops import box_iou

from vistruct.ops.seeds import derive, of_all_ranks
from vistruct.ops.window_area import covered_share

BACKGROUND = -1
UNUSED = -2  # neither object nor background: no evidence for either
CROWD_SHARE = 0.5  # of a box's area in a crowd region: from here on it is no evidence for background
PAIRS_AT_ONCE = 2_000_000  # of box and object, 8 MB an array


def match_boxes(
    boxes_xyxy: Tensor,
    objects_xyxy: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality: bool = False,
    least_iou: float = 0.0,
) -> Tensor:
    """The object that each box stands for: the one it overlaps most.

    Args:
        boxes_xyxy: float[N, 4].
        objects_xyxy: float[M, 4].
        positive_iou: from this IoU on a box stands for its object.
        negative_iou: below this IoU it is background, at most `positive_iou`; in between it is unused.
        low_quality: whether the boxes that overlap an object most of all (ties included) also stand for the object
            that they overlap most, however little that is.
        least_iou: but not where the object's best overlap is below this.

    Returns:
        int64[N], an index into the objects, `BACKGROUND` or `UNUSED`.
    """
    matched = torch.full((len(boxes_xyxy),), BACKGROUND, dtype=torch.int64, device=boxes_xyxy.device)
    if len(boxes_xyxy) == 0 or len(objects_xyxy) == 0:
        return matched
    best = boxes_xyxy.new_zeros(len(objects_xyxy))  # of each object, over the boxes so far
    tops: list[tuple[Tensor, Tensor, Tensor]] = []  # IoU, object and box: the best so far, not always in the end
    nearest = torch.empty_like(matched)
    start = 0
    matters = min(negative_iou, least_iou) if low_quality else negative_iou  # an IoU below it changes nothing
    for chunk in boxes_xyxy.split(max(1, PAIRS_AT_ONCE // len(objects_xyxy))):
        rows = slice(start, start + len(chunk))
        start += len(chunk)
        near = _may_overlap(chunk, objects_xyxy, matters)  # of a pyramid's anchors a chunk is a strip of the image
        if len(near) == 0:
            continue
        iou = box_iou(chunk, objects_xyxy[near])  # [n, m]
        value, index = iou.max(dim=1)
        index = near[index]
        nearest[rows] = index
        matched[rows] = torch.where(value >= positive_iou, index, torch.where(value < negative_iou, BACKGROUND, UNUSED))
        if low_quality:
            top = iou.amax(dim=0)  # [m]
            box, obj = ((iou == top) & (iou > 0)).nonzero(as_tuple=True)
            tops.append((top[obj], near[obj], box + rows.start))
            best[near] = torch.maximum(best[near], top)
    if tops:
        iou, obj, box = (torch.cat(column) for column in zip(*tops, strict=True))
        taken = box[(iou == best[obj]) & (iou >= least_iou)]
        matched[taken] = nearest[taken]
    return matched


def _may_overlap(boxes_xyxy: Tensor, objects_xyxy: Tensor, iou: float) -> Tensor:
    """int64[m]: the objects that touch the boxes' common hull, and whose IoU with one of them may reach `iou`."""
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(dim=1)
    of_object = (objects_xyxy[:, 2:] - objects_xyxy[:, :2]).prod(dim=1)
    low, high = boxes_xyxy[:, :2].amin(dim=0), boxes_xyxy[:, 2:].amax(dim=0)
    touches = ((objects_xyxy[:, :2] <= high) & (objects_xyxy[:, 2:] >= low)).all(dim=1)
    hair = 0.999 * iou  # rounding must not decide
    return (touches & (of_object >= hair * area.amin()) & (of_object * hair <= area.amax())).nonzero().squeeze(1)


def ignore_crowds(matched: Tensor, boxes_xyxy: Tensor, crowds_xyxy: Tensor) -> Tensor:
    """The same matches with background boxes that lie mostly in a crowd region taken out of use.

    Args:
        matched: int64[N].
        boxes_xyxy: float[N, 4].
        crowds_xyxy: float[K, 4].

    Returns:
        int64[N].
    """
    if len(crowds_xyxy) == 0:
        return matched
    pieces = boxes_xyxy.split(max(1, PAIRS_AT_ONCE // (2 * len(crowds_xyxy))))
    share = torch.cat([covered_share(piece, crowds_xyxy) for piece in pieces])
    return torch.where((matched == BACKGROUND) & (share > CROWD_SHARE), UNUSED, matched)


def draw_samples(matched: Tensor, num: int, positive_share: float, generator: torch.Generator | None = None) -> Tensor:
    """A random part of the boxes in use, from torch's global generator, which the engine seeds at every step.

    Args:
        matched: int64[N].
        num: of boxes at most.
        positive_share: part of `num` that may stand for objects; what they leave is filled with background.
        generator: on the device of `matched`; None: the global one.

    Returns:
        int64[S], indices into `matched`: first those that stand for objects, then background.
    """
    positive = (matched >= 0).nonzero().squeeze(1)
    negative = (matched == BACKGROUND).nonzero().squeeze(1)
    device = matched.device
    positive = positive[torch.randperm(len(positive), generator=generator, device=device)[: int(num * positive_share)]]
    negative = negative[torch.randperm(len(negative), generator=generator, device=device)[: num - len(positive)]]
    return torch.cat([positive, negative])


def sampler_of(boxes: Tensor) -> torch.Generator:
    """The source of what is drawn for an image with these objects float[M, 4 or 5], on their device.

    It follows from the step, whose seed the engine gives torch on every rank, and from the objects: not from the
    image's place in the batch, nor from how the batch was split.
    """
    objects = hashlib.sha256(boxes.cpu().numpy().tobytes()).hexdigest()
    seed = derive(of_all_ranks(torch.initial_seed()), "samples", objects)
    return torch.Generator(device=boxes.device).manual_seed(seed)

"""Windows cut out of a sample, margins put around it, and the rule for objects that a border cuts.

An object stays if enough of it shows: the share of the area of its quad (else its box) that lies inside.

- With quads, what stays stays whole: the quad reaches beyond the border, as annotations at the border of an image
  do, and `boxes_xyxy` remain the hulls of the quads. A quad cut to the window would be another rectangle, of other
  width, height and angle, than what a detector should learn to see there.
- Without quads the box is clipped to the window; where there is a mask, to the part of the mask that shows.
- Where enough is any of it (`min_kept` 0, the rule of DETR and Mask2Former), boxes alone say what stays and are clipped
  as boxes, whatever is left of a mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vistruct.contracts import IGNORED, Objects, Sample
from vistruct.ops.values import from_unit
from vistruct.ops.window_area import area_in_window, polygon_area
from vistruct.transforms.fill import fill_of
from vistruct.transforms.points import affine, move_objects

MOST_REDRAWS = 10
MIN_IGNORED_PX2 = 4.0  # of an object that is cut off, the least area worth saying "not background" about


def crop(
    sample: Sample, window_xyxy: tuple[int, int, int, int], min_kept: float = 0.4, *, else_ignore: bool = False
) -> Sample:
    """Cut out a window that lies inside the image.

    Objects of which less than `min_kept` of the area shows are removed (a crowd, or what is ignored, stays while any
    of it shows). Crops being drawn anew each time, this is no property of the data and is not counted.

    Args:
        min_kept: in [0, 1].
        else_ignore: those that still show a little stay as `is_ignored`, learnt neither as objects nor as background.

    Raises:
        ValueError: the window is empty or not inside the image.
    """
    x0, y0, x1, y1 = window_xyxy
    if any(not (0 <= x0 < x1 <= image.shape[2] and 0 <= y0 < y1 <= image.shape[1]) for image in sample.images):
        sizes = [tuple(image.shape[1:]) for image in sample.images]
        raise ValueError(f"window {window_xyxy} is not inside images of (height, width) {sizes}")
    moved = dataclasses.replace(
        sample,
        images=[image[:, y0:y1, x0:x1].clone() for image in sample.images],
        objects=move_objects(
            sample.objects, affine([[1, 0, -x0], [0, 1, -y0]]), lambda masks: masks[:, y0:y1, x0:x1].clone()
        ),
        label_map=None if sample.label_map is None else sample.label_map[y0:y1, x0:x1].clone(),
        origin_xy=(sample.origin_xy[0] + x0 / sample.scale_xy[0], sample.origin_xy[1] + y0 / sample.scale_xy[1]),
    )
    had_mask = has_pixels(sample.objects)
    return settle(moved, moved.objects.outlines, min_kept, had_mask=had_mask, else_ignore=else_ignore)


def random_crop(
    sample: Sample,
    size_hw: tuple[int, int],
    generator: torch.Generator,
    min_kept: float = 0.4,
    *,
    max_share: float = 1.0,
) -> Sample:
    """Cut out a window of a given size anywhere; a side that is shorter already stays as it is.

    Source: MMSegmentation's RandomCrop, `cat_max_ratio`. Differs: a class may have exactly its share.

    Args:
        max_share: of the pixels of a label map that are counted, the most that one class may have in the window; else
            it is drawn again, ten times at most, and the last one is taken as it is. 1, or no label map: any window.
    """
    for _ in range(MOST_REDRAWS):
        window = _draw_window(sample, size_hw, generator)
        if max_share == 1 or sample.label_map is None or _largest_share(sample.label_map, window) <= max_share:
            return crop(sample, window, min_kept)
    return crop(sample, _draw_window(sample, size_hw, generator), min_kept)


def _draw_window(sample: Sample, size_hw: tuple[int, int], generator: torch.Generator) -> tuple[int, int, int, int]:
    height, width = sample.images[0].shape[1:]
    crop_height, crop_width = min(size_hw[0], height), min(size_hw[1], width)
    x0 = int(torch.randint(width - crop_width + 1, (), generator=generator))
    y0 = int(torch.randint(height - crop_height + 1, (), generator=generator))
    return x0, y0, x0 + crop_width, y0 + crop_height


def _largest_share(label_map: Tensor, window_xyxy: tuple[int, int, int, int]) -> float:
    """Of the counted pixels in a window, the part that the most frequent class has; 1 where none is counted."""
    x0, y0, x1, y1 = window_xyxy
    counts = torch.bincount((label_map[y0:y1, x0:x1].flatten() - IGNORED).int())[1:]  # IGNORED, the lowest, is first
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def pad(
    sample: Sample, size_hw: tuple[int, int], offset_yx: tuple[int, int] = (0, 0), fill: float | None = None
) -> Sample:
    """Put a margin around a sample, of the mean colour, IGNORED in its label map.

    Args:
        size_hw: of the result, pixels.
        offset_yx: where the image's top left pixel comes to lie; (0, 0): the margin is at the bottom and right.
        fill: in place of the mean colour, from 0 to 1 in every channel.

    Raises:
        ValueError: the image does not fit there.
    """
    height, width = sample.images[0].shape[1:]
    y, x = offset_yx
    margin = [x, size_hw[1] - x - width, y, size_hw[0] - y - height]  # left, right, top, bottom
    if min(margin) < 0:
        raise ValueError(f"an image of {height} x {width} at {offset_yx} is not inside {size_hw[0]} x {size_hw[1]}")
    return dataclasses.replace(
        sample,
        images=[_padded(image, margin, fill) for image in sample.images],
        objects=move_objects(
            sample.objects, affine([[1, 0, x], [0, 1, y]]), lambda masks: F.pad(masks, margin, value=False)
        ),
        label_map=None if sample.label_map is None else F.pad(sample.label_map, margin, value=IGNORED),
        origin_xy=(sample.origin_xy[0] - x / sample.scale_xy[0], sample.origin_xy[1] - y / sample.scale_xy[1]),
    )


def _padded(image: Tensor, margin: list[int], fill: float | None) -> Tensor:
    left, right, top, bottom = margin
    height, width = image.shape[1:]
    colour = (
        image.new_tensor(fill_of(image)) if fill is None else from_unit(torch.full((len(image),), fill), image.dtype)
    )
    sheet = colour[:, None, None].repeat(1, top + height + bottom, left + width + right)
    sheet[:, top : top + height, left : left + width] = image
    return sheet


def settle(
    sample: Sample, places: Tensor, min_kept: float, *, had_mask: Tensor | None, else_ignore: bool = False
) -> Sample:
    """Apply the rule above to a sample whose image has been cut and whose objects have been moved, but not yet cut.

    Args:
        places: float[N, 4, 2], where each object is now, inside the image or not.
        had_mask: bool[N], whether an object's mask had any pixels before; None: no masks.
    """
    objects = sample.objects
    if len(objects) == 0:
        return sample
    size_hw = sample.images[0].shape[1:]
    shown = area_in_window(places, torch.tensor([0, 0, size_hw[1], size_hw[0]]))
    enough = shown >= (min_kept - 1e-6) * polygon_area(places)  # less than rounding in float32
    kept = (shown > 0) & (enough | ~objects.is_single)
    pixels = has_pixels(objects)
    if min_kept > 0 and pixels is not None and had_mask is not None:
        kept &= pixels | ~had_mask
    if else_ignore:
        ignored = ~kept & (shown >= MIN_IGNORED_PX2)
        objects = dataclasses.replace(objects, is_ignored=objects.is_ignored | ignored)
        kept |= ignored
    return dataclasses.replace(sample, objects=_within(objects.keep(kept), size_hw, by_mask=min_kept > 0))


def _within(objects: Objects[Tensor], size_hw: Sequence[int], *, by_mask: bool) -> Objects[Tensor]:
    """Boxes without quads clipped to the image, keypoints outside of it no longer annotated."""
    height, width = size_hw
    boxes, keypoints = objects.boxes_xyxy, objects.keypoints
    if objects.quads is None:
        clipped = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
        pixels = has_pixels(objects)
        if by_mask and pixels is not None:
            is_cut = (clipped != boxes).any(dim=1) & pixels
            clipped[is_cut] = mask_hulls(objects.masks[is_cut]).to(boxes.dtype)
        boxes = clipped
    if keypoints is not None:
        places = keypoints[..., :2]
        is_inside = ((places >= 0) & (places < places.new_tensor([width, height]))).all(dim=-1, keepdim=True)
        keypoints = torch.where(is_inside, keypoints, 0.0)
    return dataclasses.replace(objects, boxes_xyxy=boxes, keypoints=keypoints)


def has_pixels(objects: Objects[Tensor]) -> Tensor | None:
    """bool[N], whether the mask of an object has any pixel; None without masks."""
    return None if objects.masks is None else objects.masks.flatten(1).any(dim=1)


def mask_hulls(masks: Tensor) -> Tensor:
    """int64[N, 4], xyxy around the pixels of masks bool[N, H, W], right and bottom exclusive.

    An empty mask gives a box of negative size.
    """
    bounds = []
    for axis in (1, 2):  # columns, then rows
        line = masks.any(dim=axis)  # [N, W] or [N, H]
        places = torch.arange(line.shape[1], device=masks.device).expand_as(line)
        bounds.append(places.masked_fill(~line, line.shape[1]).amin(dim=1))
        bounds.append(places.masked_fill(~line, -1).amax(dim=1) + 1)
    x0, x1, y0, y1 = bounds
    return torch.stack([x0, y0, x1, y1], dim=1)


def stretched(label_map: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """int16[h, w] -> int16[size_hw]: padded to multiples of 32 with IGNORED, and stretched, away from what it is about.

    Source: MTP's public code pads images to the size of the crop and their labels to the next multiple of 32; its loss
    then brings one to the size of the other. A third of its samples are so.
    """
    height, width = label_map.shape
    padded = F.pad(label_map, (0, -width % 32, 0, -height % 32), value=IGNORED)
    rows, columns = (
        torch.arange(size) * own // size for size, own in zip(size_hw, padded.shape, strict=True)
    )  # nearest, as labels are resized
    return padded[rows][:, columns]

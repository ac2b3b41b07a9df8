"""The picture: a square that shows a whole image, stretched or centred on padding, and what is asked or found in it.

The language side, its decoders and its region tokens look at one square. Here is where an image lies in it, how
objects move into it and back to pixels of the image, and how much of each cell of a grid over it a region covers.

Source: LLaVA's `expand2square` for `fit: pad` (whole pixels, the smaller half of the margin first), which REF-VLM
    (arXiv:2503.07413) uses; InternVL's thumbnail for `fit: stretch`.
Differs: coverage is an area, from 0 to 1, and the stroke of a point or scribble grows with the image, so that nothing
    that is shown vanishes on a coarse grid; masks of small objects keep a cell. `published_rasters` has the original's
    way: discs of 10 pixels, and 0 or 1 for each pixel.
Shapes: R regions, N objects, an image of H x W pixels, a picture of S x S, a grid of h x w cells over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from vistruct.contracts import Objects, Region, Shown
from vistruct.errors import UserError
from vistruct.transforms.crop import mask_hulls
from vistruct.transforms.points import affine, move_objects, move_points

Fit = Literal["stretch", "pad"]
POINT_RADIUS, SCRIBBLE_RADIUS = 1 / 32, 1 / 64  # of a stroke, as parts of the picture's side
_FINE = 8  # samples along a cell's side where a stroke is drawn
_PUBLISHED_RADIUS = 10  # pixels


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where an image lies in its picture."""

    size_hw: tuple[int, int]  # of the image, pixels
    fit: Fit = "stretch"

    @property
    def square_hw(self) -> tuple[int, int]:
        """Of what the picture shows, in pixels of the image: a square where it is padded."""
        longest = max(self.size_hw)
        return self.size_hw if self.fit == "stretch" else (longest, longest)

    @property
    def corner_yx(self) -> tuple[int, int]:
        """The image's first pixel in that."""
        down, along = ((whole - own) // 2 for whole, own in zip(self.square_hw, self.size_hw, strict=True))
        return down, along

    def matrix(self, side: float = 1.0) -> Tensor:
        """float64[2, 3], from pixels of the image to those of a picture of this side; 1: to parts of it."""
        (high, wide), (y, x) = self.square_hw, self.corner_yx
        return affine([[side / wide, 0, x * side / wide], [0, side / high, y * side / high]])

    def back_matrix(self, side: float = 1.0) -> Tensor:
        """float64[2, 3], from pixels of a picture of this side to those of the image."""
        (high, wide), (y, x) = self.square_hw, self.corner_yx
        return affine([[wide / side, 0, -x], [0, high / side, -y]])

    def into(self, objects: Objects[Tensor], side: int) -> Objects[Tensor]:
        """Objects of the image in pixels of a picture of this side.

        Args:
            objects: masks bool[N, H, W], or float32 if soft (NaN where a depth is not known), like all else in pixels
                of the image.

        Returns:
            Masks [N, side, side] of the same type: a pixel that is mostly object; of an object smaller than that the
            pixels with most of it; where they are soft the mean over what is known of a pixel's share of the image,
            0 where that is nothing.
        """
        return move_objects(objects, self.matrix(side), lambda masks: self._masks_into(masks, side))

    def _masks_into(self, masks: Tensor, side: int) -> Tensor:
        if not len(masks):
            return masks.new_zeros(0, side, side)
        if masks.is_floating_point():
            known = masks.isfinite()
            covered = self.covered(masks.where(known, 0), (side, side))
            image = _image(self, (side, side)).to(covered) if known.all() else self.covered(known, (side, side))
            return (covered / image.clamp(min=1e-6)).clamp(max=1)
        covered = self.covered(masks, (side, side))
        most = covered.flatten(1).amax(1)[:, None, None]
        return (covered > 0) & (covered >= most / 2)

    def back(self, found: Objects[Tensor], side: int, threshold: float | None = 0.5) -> Objects[Tensor]:
        """What was found in a picture of this side, in pixels of the image and within it.

        Args:
            found: masks are probabilities float[N, h, w] over the whole picture, at any resolution.
            threshold: above which a pixel belongs to a mask; None: masks stay as soft as they are.

        Returns:
            Masks bool[N, H, W], float32 where there is no threshold.
        """
        out = move_objects(found, self.back_matrix(side), lambda masks: self.masks_back(masks, threshold))
        high, wide = self.size_hw
        edges, keypoints = out.boxes_xyxy.new_tensor([wide, high, wide, high]), out.keypoints
        if keypoints is not None:
            places = torch.minimum(keypoints[..., :2].clamp(min=0), keypoints.new_tensor([wide, high]))
            keypoints = torch.cat([places, keypoints[..., 2:]], dim=-1)
        return replace(out, boxes_xyxy=torch.minimum(out.boxes_xyxy.clamp(min=0), edges), keypoints=keypoints)

    def masks_back(self, masks: Tensor, threshold: float | None = 0.5) -> Tensor:
        """Masks float[N, h, w] over the picture as bool[N, H, W] of the image, or float32 without a threshold."""
        (y, x), (high, wide) = self.corner_yx, self.size_hw
        out = torch.empty(
            len(masks), high, wide, dtype=torch.float32 if threshold is None else torch.bool, device=masks.device
        )
        for number, mask in enumerate(masks):  # one at a time: the image may be large
            whole = F.interpolate(mask.float()[None, None], self.square_hw, mode="bilinear")[0, 0]
            part = whole[y : y + high, x : x + wide]
            out[number] = part if threshold is None else part > threshold
        return out

    def covered(self, masks: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """The mean of each mask [N, H, W] over each cell of a grid over the picture: float32[N, h, w], exact.

        Padding counts as 0.
        """
        edges = [self._edges(axis, cells).to(masks.device) for axis, cells in enumerate(grid_hw)]
        found = torch.zeros(len(masks), *grid_hw, device=masks.device)
        for number, (x0, y0, x1, y1) in enumerate(mask_hulls(masks != 0).tolist()):
            if x0 < x1:
                rows = _mean_between(masks[number, y0:y1, x0:x1], edges[0] - y0)
                found[number] = _mean_between(rows.T, edges[1] - x0).T
        return found.clamp_(0, 1)

    def _edges(self, axis: int, cells: int) -> Tensor:
        """float64[cells + 1], where the cells of an axis of the picture begin and end, in pixels of the image."""
        return torch.arange(cells + 1, dtype=torch.float64) * self.square_hw[axis] / cells - self.corner_yx[axis]


def shown(frames: Sequence[Frame], side: int) -> Shown:
    """What of pictures of this side is image: the pixels that show nothing but image, at least one."""
    sizes, corners = [], []
    for frame in frames:
        starts_ends = []
        for own, whole, corner in zip(frame.size_hw, frame.square_hw, frame.corner_yx, strict=True):
            start = min(-(-corner * side // whole), side - 1)  # rounded up
            starts_ends.append((start, max((corner + own) * side // whole, start + 1)))
        corners.append(tuple(start for start, _ in starts_ends))
        sizes.append(tuple(end - start for start, end in starts_ends))
    return Shown(sizes_hw=tuple(sizes), padded_hw=(side, side), corners_yx=tuple(corners))


def coverage(regions: Sequence[Region], frame: Frame, grid_hw: tuple[int, int]) -> Tensor:
    """How much of each cell of a grid over the picture each region covers.

    A box and a mask cover what they cover; a point is a disc and a scribble a line with round ends, both as thick as
    the picture asks for (`POINT_RADIUS`, `SCRIBBLE_RADIUS`).

    Returns:
        float32[R, h, w] in [0, 1]; each region has some of it.

    Raises:
        UserError: a region that shows nothing of the image.
    """
    rows = [_covered(region, frame, grid_hw) for region in regions]
    for region, row in zip(regions, rows, strict=True):
        if not row.any():
            high, wide = frame.size_hw
            what = f"a {region.kind} that shows nothing of the image of {wide} x {high} pixels"
            raise UserError(what, where="region", fix=f"give pixels from 0,0 to {wide},{high}")
    return torch.stack(rows) if rows else torch.zeros(0, *grid_hw)


def _covered(region: Region, frame: Frame, grid_hw: tuple[int, int]) -> Tensor:
    if region.mask is not None:
        return frame.covered(_as_mask(region, frame)[None], grid_hw)[0]
    places = torch.tensor(region.xy, dtype=torch.float64).view(-1, 2)
    if region.kind == "box":
        return _box(places, frame, grid_hw)
    radius = POINT_RADIUS if region.kind == "point" else SCRIBBLE_RADIUS
    return torch.minimum(_stroke(move_points(places, frame.matrix()), radius, grid_hw), _image(frame, grid_hw))


def _image(frame: Frame, grid_hw: tuple[int, int]) -> Tensor:
    """float32[h, w], how much of each cell is image."""
    return _box(torch.tensor([[0.0, 0.0], [*frame.size_hw[::-1]]], dtype=torch.float64), frame, grid_hw)


def _as_mask(region: Region, frame: Frame) -> Tensor:
    mask = torch.from_numpy(np.ascontiguousarray(region.mask))
    if tuple(mask.shape) != frame.size_hw:
        (high, wide), (rows, columns) = frame.size_hw, mask.shape
        what = f"a {region.kind} of {columns} x {rows} pixels for an image of {wide} x {high}"
        raise UserError(what, where="region", fix="draw it on the grid of the image")
    return mask


def _box(corners: Tensor, frame: Frame, grid_hw: tuple[int, int]) -> Tensor:
    """float32[h, w] of the box between two corners float64[2, 2] in any order, a pixel of the image at least."""
    parts = []
    for axis, cells in enumerate(grid_hw):
        places, own = corners[:, 1 - axis], float(frame.size_hw[axis])
        start, end = float(places.min()), float(places.max())
        short = max(1.0 - (end - start), 0.0) / 2
        start, end = max(start - short, 0.0), min(end + short, own)
        edges = frame._edges(axis, cells)
        shared = edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)
        parts.append(shared.clamp(min=0) / (edges[1] - edges[0]))
    return (parts[0][:, None] * parts[1]).float()


def _stroke(line: Tensor, radius: float, grid_hw: tuple[int, int]) -> Tensor:
    """float32[h, w], a line through float64[K, 2] with round ends, all in parts of the picture."""
    y, x = ((torch.arange(cells * _FINE, dtype=torch.float64) + 0.5) / (cells * _FINE) for cells in grid_hw)
    near = torch.full((len(y), len(x)), float("inf"), dtype=torch.float64)
    for start, end in pairwise(line) if len(line) > 1 else [(line[0], line[0])]:
        (x0, y0), (run, rise) = start.tolist(), (end - start).tolist()
        long = max(run * run + rise * rise, 1e-12)
        along = (((x - x0) * run)[None] + ((y - y0) * rise)[:, None]).div(long).clamp(0, 1)
        near = torch.minimum(near, (x - x0 - along * run).square() + (y[:, None] - y0 - along * rise).square())
    fine = 1 / (_FINE * min(grid_hw))
    inside = ((radius - near.sqrt()) / fine + 0.5).clamp(0, 1)  # an edge as wide as a sample
    return inside.view(grid_hw[0], _FINE, grid_hw[1], _FINE).mean((1, 3)).float()


def _mean_between(rows: Tensor, edges: Tensor) -> Tensor:
    """[L, K] -> float64[cells, K]: its mean between one edge and the next, in rows, 0 beyond the first and the last."""
    length = len(rows)
    sums = F.pad(rows.cumsum(0, dtype=torch.float64), (0, 0, 1, 0))  # [L + 1, K], up to each row
    at = edges.clamp(0, length)
    low = at.floor().long().clamp(max=length - 1)
    upto = torch.lerp(sums[low], sums[low + 1], (at - low)[:, None])
    return upto.diff(dim=0) / (edges[1] - edges[0])


def places(regions: Sequence[Region], frame: Frame) -> Tensor:
    """float32[R, 4], xyxy around what each region shows, in parts of the picture."""
    boxes = []
    for region in regions:
        if region.mask is None:
            around = torch.tensor(region.xy, dtype=torch.float64).view(-1, 2)
        else:
            around = mask_hulls(_as_mask(region, frame)[None])[0].double().view(2, 2)
        boxes.append(torch.stack([around.amin(0), around.amax(0)]))
    corners = torch.stack(boxes) if boxes else torch.zeros(0, 2, 2, dtype=torch.float64)
    return move_points(corners, frame.matrix()).clamp(0, 1).flatten(1).float()


def published_rasters(regions: Sequence[Region], frame: Frame, side: int) -> Tensor:
    """Regions as the original draws them: on the image in its square, then brought to the picture by Pillow's bicubic.

    Returns:
        float32[R, side, side] of 0 and 1; a region that is small may have nothing.
    """
    (high, wide), (y, x) = frame.square_hw, frame.corner_yx
    rows, columns = np.mgrid[:high, :wide]
    drawn = []
    for region in regions:
        sheet = np.zeros((high, wide), np.uint8)
        places = [(px + x, py + y) for px, py in region.xy]
        if region.mask is not None:
            sheet[y : y + frame.size_hw[0], x : x + frame.size_hw[1]] = _as_mask(region, frame).numpy()
        elif region.kind == "box":
            # Their boxes are parts of the square, of three decimals, before they are drawn.
            (x0, y0), (x1, y1) = (
                (int(round(px / wide, 3) * wide), int(round(py / high, 3) * high)) for px, py in places
            )
            sheet[y0:y1, x0:x1] = 1
        elif region.kind == "point":
            (px, py) = places[0]
            sheet[(columns - int(px)) ** 2 + (rows - int(py)) ** 2 <= _PUBLISHED_RADIUS**2] = 1
        else:  # theirs are painted: dilated by as much
            board = Image.fromarray(sheet)
            ImageDraw.Draw(board).line(places, fill=1, width=_PUBLISHED_RADIUS, joint="curve")
            sheet = np.array(board)
        drawn.append(torch.from_numpy(np.array(Image.fromarray(sheet).resize((side, side), Image.Resampling.BICUBIC))))
    return torch.stack(drawn).float() if drawn else torch.zeros(0, side, side)

"""Masks of annotated boxes: of one image, by a promptable segmenter or by filling, and the rules for what is rejected.

Source: SAMRS (Wang et al., arXiv:2305.02034): a box is the prompt, one mask is asked for, 20 boxes at a time, and the
image is looked at once for all of them.
Differs: prompts are clipped to the image; large images are looked at in tiles; a mask that is empty, or lies mostly
outside of its box, is rejected, and said to be.
Shapes: N objects of an image of H x W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from vistruct.contracts import MaskPatch, Record, Window
from vistruct.errors import UserError, closest
from vistruct.files.filled import Fill, filled, patch_of
from vistruct.files.images import read_image
from vistruct.files.intake import Intake
from vistruct.inference.boxes import packed_mask, unpacked_mask
from vistruct.inference.segmenter import Prompts, Segmenter
from vistruct.issues import IssueCounter
from vistruct.ops.mask_runs import encode_patch
from vistruct.windows.tiles import Tiles, windows

PROMPTS = {
    "box": "the horizontal box; of an oriented one its hull",
    "hull": "the hull of the oriented box",
    "quad": "the oriented box as a mask prompt",
    "point": "the centre of the box",
}
Else = Literal["none", "ellipse", "box"]

EMPTY = "mask rejected: nothing in it"
UNSURE = "mask rejected: predicted IoU below --min-iou"
OUTSIDE = "mask rejected: less of it lies inside its box than --min-inside"
SPARSE = "mask rejected: it covers less of its box than --min-covered"
CROWD = "crowd: its box filled, as the region that it is"
OWN = "mask of the annotations kept"
ELSE: dict[Else, str] = {
    "none": "object left without a mask",
    "ellipse": "object with its ellipse in place of a rejected mask",
    "box": "object with its box in place of a rejected mask",
}
NO_TILE = "object that no tile shows whole with its margin: given a window of its own"
_SAME_PX = 0.51  # corners of a polygon and of a box that are the same, written in whole pixels


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How masks are made, and which of them count."""

    fill: Fill | None = None  # without a model; None: by a segmenter
    prompts: tuple[tuple[str, ...], ...] = (("box",),)  # names of one are told together; masks of several are united
    batch: int = 20  # objects at a time
    tile: int = 1024  # pixels; larger images are looked at in tiles
    margin: int = 64  # pixels around an object that its tile shows, where the image has them
    min_iou: float | None = None  # the segmenter's own estimate; None: any
    min_inside: float = 0.5  # share of a mask that lies inside its box, in [0, 1]
    min_covered: float = 0.0  # share of its box that a mask covers, in [0, 1]
    otherwise: Else = "none"  # in place of what is rejected
    existing: Literal["keep", "replace"] | None = None  # masks that the annotations have; None: a question

    @property
    def looked(self) -> dict[str, Any]:
        """What decides masks before any rule, in words for json."""
        names = ("fill", "prompts", "tile", "margin") if self.fill is None else ("fill",)
        return {name: vars(self)[name] for name in names}


@dataclass(frozen=True, kw_only=True)
class Found:
    """One object's mask before any rule."""

    mask: MaskPatch
    inside: float  # share of it inside the object's box, oriented where it is; 0 where the mask is empty
    covered: float  # share of that box that it covers
    iou: float | None = None  # as the segmenter estimates; None: filled


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one object."""

    mask: Any  # a COCO segmentation; []: none
    by: str  # "segmenter", "ellipse", "box", "annotations", "crowd" or "none"
    reason: str = ""  # why its first mask was rejected
    iou: float | None = None  # of that mask, as in `Found`; None: nothing was asked for it
    inside: float | None = None
    covered: float | None = None


def prompts_of(texts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """`["box", "point+quad"]` as (("box",), ("point", "quad")).

    Raises:
        UserError: a name that is none, or two boxes in one prompt.
    """
    found = tuple(tuple(text.split("+")) for text in texts)
    for text, names in zip(texts, found, strict=True):
        for name in names:
            if name not in PROMPTS:
                raise UserError(f"no prompt {name!r}", where=f"--prompt {text}", fix=closest(name, PROMPTS))
        if len(set(names)) < len(names) or {"box", "hull"} <= set(names):
            raise UserError("a prompt says the same twice", where=f"--prompt {text}", fix="--prompt box")
    return found


def own_masks(record: Record) -> tuple[Any, ...]:
    """N segmentations that the annotations have; () where there is none, or where it is but the object's box again."""
    objects = record.objects
    masks: tuple[Any, ...] = ((),) * len(objects) if objects.masks is None else objects.masks
    return tuple(
        () if not mask or _is_box(mask, corners) else mask
        for mask, corners in zip(masks, objects.outlines, strict=True)
    )


def tiles_of(
    hulls_xyxy: np.ndarray, size_hw: tuple[int, int], tile: int, margin: int
) -> tuple[list[tuple[Window, np.ndarray]], int]:
    """Where each object is looked at: in the tile around it, of those that show it whole with its margin.

    Args:
        hulls_xyxy: float[N, 4].
        tile: pixels along each side; neighbours share a quarter.
        margin: pixels around an object, where the image has them.

    Returns:
        Windows row by row, those of objects that no tile shows whole behind them, with int64[K], their objects; and how
        many objects have a window of their own.
    """
    height, width = size_hw
    grid = np.array(windows(size_hw, Tiles(size=tile, overlap=tile // 4)))  # [W, 4]
    edge = np.array([width, height, width, height], np.float64)
    needed = np.clip(hulls_xyxy + np.array([-margin, -margin, margin, margin]), 0, edge)
    chosen: dict[Window, list[int]] = {tuple(window): [] for window in grid.tolist()}
    alone = 0
    for number, need in enumerate(needed):
        holds = (grid[:, :2] <= need[:2]).all(axis=1) & (grid[:, 2:] >= need[2:]).all(axis=1)
        if holds.any():
            off = np.abs((grid[:, :2] + grid[:, 2:]) - (need[:2] + need[2:])).max(axis=1)
            window = tuple(grid[np.where(holds, off, np.inf).argmin()].tolist())
        else:
            alone += 1
            window = _around(need, size_hw, tile)
        chosen.setdefault(window, []).append(number)
    return [(window, np.array(rows, np.int64)) for window, rows in chosen.items() if rows], alone


def _around(need: np.ndarray, size_hw: tuple[int, int], tile: int) -> Window:
    """The window of at least a tile that shows `need` in its middle, as far as the image goes."""
    low, high = np.floor(need[:2]), np.ceil(need[2:])
    size = np.array(size_hw[::-1], np.float64)
    sides = np.minimum(np.maximum(high - low, tile), size)
    start = np.clip(np.floor((low + high - sides) / 2), 0, size - sides)
    (x0, y0), (x1, y1) = start.astype(int).tolist(), (start + sides).astype(int).tolist()
    return x0, y0, x1, y1


def look(
    record: Record, rows: np.ndarray, asked: Asked, segmenter: Segmenter | None, intake: Intake | None
) -> tuple[dict[int, Found], int]:
    """The masks of some objects of a whole image.

    Args:
        rows: int64[K], which.

    Returns:
        The masks by the numbers of the objects; how many objects are larger than a tile.

    Raises:
        UserError: an image that cannot be read.
    """
    assert record.size_hw is not None
    outlines, whole = record.objects.outlines, (0, 0, record.size_hw[1], record.size_hw[0])
    found: dict[int, Found] = {}
    if asked.fill is not None or segmenter is None:
        for row in rows.tolist():
            found[row] = _measured(filled(outlines[row], asked.fill or "ellipse", whole), outlines[row], whole, None)
        return found, 0
    places, alone = tiles_of(record.objects.boxes_xyxy[rows], record.size_hw, asked.tile, asked.margin)
    for window, numbers in places:
        mine = rows[numbers]
        image = read_image(record.images[0], None if window == whole else window, intake=intake)
        encoded = segmenter.encode(image)
        several = [
            segmenter.masks(encoded, _prompts(record, mine, window, names), asked.batch) for names in asked.prompts
        ]
        for row, answers in zip(mine.tolist(), zip(*several, strict=True), strict=True):
            pixels = np.logical_or.reduce([pixels for pixels, _ in answers])
            mask = patch_of(pixels, window[0], window[1])
            found[row] = _measured(mask, outlines[row], whole, min(iou for _, iou in answers))
    return found, alone


def _prompts(record: Record, rows: np.ndarray, window: Window, names: Sequence[str]) -> Prompts:
    """What is said of some objects, in pixels of a window and clipped to it."""
    x0, y0, x1, y1 = window
    corner, size = torch.tensor([x0, y0]), torch.tensor([x1 - x0, y1 - y0])
    boxes = torch.from_numpy(record.objects.boxes_xyxy[rows]).double() - corner.repeat(2)
    quads = torch.from_numpy(record.objects.outlines[rows]).double() - corner
    nothing, most = torch.zeros(2).double(), size.double()
    return Prompts(
        boxes_xyxy=boxes.clamp(nothing.repeat(2), most.repeat(2)) if {"box", "hull"} & set(names) else None,
        points_xy=quads.mean(dim=1).clamp(nothing, most) if "point" in names else None,
        quads=quads if "quad" in names else None,
    )


def _measured(mask: MaskPatch, corners: np.ndarray, whole: Window, iou: float | None) -> Found:
    box, area = filled(corners, "box", whole), int(mask.pixels.sum())
    shared = int((_cut(box, mask) & mask.pixels).sum())
    size = int(box.pixels.sum())
    return Found(mask=mask, inside=shared / area if area else 0.0, covered=shared / size if size else 0.0, iou=iou)


def _cut(mask: MaskPatch, like: MaskPatch) -> np.ndarray:
    """bool[h, w], a mask where another one's part of the image is."""
    height, width = like.pixels.shape
    pixels = np.zeros((height, width), bool)
    x0, y0 = max(mask.x, like.x), max(mask.y, like.y)
    x1, y1 = min(mask.x + mask.pixels.shape[1], like.x + width), min(mask.y + mask.pixels.shape[0], like.y + height)
    if x0 < x1 and y0 < y1:
        inside = mask.pixels[y0 - mask.y : y1 - mask.y, x0 - mask.x : x1 - mask.x]
        pixels[y0 - like.y : y1 - like.y, x0 - like.x : x1 - like.x] = inside
    return pixels


def judged(
    record: Record, own: Sequence[Any], found: dict[int, Found], asked: Asked, issues: IssueCounter
) -> list[Outcome]:
    """What becomes of each object of an image; everything that is not simply a new mask is counted."""
    assert record.size_hw is not None
    whole, outcomes = (0, 0, record.size_hw[1], record.size_hw[0]), []
    for number, corners in enumerate(record.objects.outlines):
        where = f"{record.id}: object {number}"
        if own[number] and (asked.existing == "keep" or record.objects.is_crowd[number]):
            issues.note(OWN, where, "kept")
            outcomes.append(Outcome(mask=own[number], by="annotations"))
        elif record.objects.is_crowd[number]:
            issues.note(CROWD, where, "repaired")
            outcomes.append(Outcome(mask=_runs(filled(corners, "box", whole), record), by="crowd"))
        else:
            one = found[number]
            told: dict[str, Any] = {"iou": one.iou, "inside": one.inside, "covered": one.covered}
            reason = fault(one, asked)
            if not reason:
                outcomes.append(Outcome(mask=_runs(one.mask, record), by=asked.fill or "segmenter", **told))
                continue
            issues.note(reason, where, "left out" if asked.otherwise == "none" else "repaired")
            instead = None if asked.otherwise == "none" else filled(corners, asked.otherwise, whole)
            by = asked.otherwise if instead is not None and instead.pixels.any() else "none"
            issues.note(ELSE[by], where, "kept" if by == "none" else "repaired")
            mask = _runs(instead, record) if instead is not None and by != "none" else []
            outcomes.append(Outcome(mask=mask, by=by, reason=reason, **told))
    return outcomes


def fault(found: Found, asked: Asked) -> str:
    """Why a mask is rejected; "": it is not."""
    if not found.mask.pixels.any():
        return EMPTY
    if found.iou is not None and asked.min_iou is not None and found.iou < asked.min_iou:
        return UNSURE
    if found.iou is not None and found.inside < asked.min_inside:
        return OUTSIDE
    return SPARSE if found.iou is not None and found.covered < asked.min_covered else ""


def _runs(mask: MaskPatch, record: Record) -> dict[str, Any]:
    assert record.size_hw is not None
    runs = encode_patch(mask.pixels, mask.x, mask.y, record.size_hw)
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode()}


def _is_box(mask: Any, corners: np.ndarray) -> bool:
    """Whether a segmentation is one polygon with the corners of the object's box, from whichever on."""
    if isinstance(mask, dict) or len(mask) != 1 or len(mask[0]) not in (8, 10):
        return False
    points = np.asarray(mask[0], np.float64).reshape(-1, 2)
    off = np.abs(points[:, None] - corners[None].astype(np.float64)).max(axis=2)  # [4 or 5, 4]
    return bool((off.min(axis=1) <= _SAME_PX).all() and (off.min(axis=0) <= _SAME_PX).all())


def packed(found: dict[int, Found], alone: int, record: Record) -> dict[str, Any]:
    """Plain json of what `look` found in an image, and of the objects that it was found for."""
    rows = [
        {"row": row, "mask": packed_mask(one.mask), "inside": one.inside, "covered": one.covered, "iou": one.iou}
        for row, one in found.items()
    ]
    return {"objects": digest(record), "alone": alone, "rows": rows}


def unpacked(values: dict[str, Any]) -> dict[int, Found]:
    """Back from that."""
    return {
        one["row"]: Found(mask=unpacked_mask(one["mask"]), inside=one["inside"], covered=one["covered"], iou=one["iou"])
        for one in values["rows"]
    }


def digest(record: Record) -> str:
    """Of where the objects are, and which of them are crowds: what masks depend on beside the image."""
    objects = record.objects
    parts: Iterator[bytes] = (one.tobytes() for one in (objects.outlines, objects.boxes_xyxy, objects.is_crowd))
    return hashlib.sha256(b"".join(parts)).hexdigest()

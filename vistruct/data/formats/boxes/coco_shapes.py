"""Everything in a COCO annotation beside its bbox: masks, key points, and oriented boxes.

COCO itself has no oriented boxes. Of a whole data set they are taken from

    bbox            [cx, cy, w, h, angle]; its unit and direction: `coco_angles`
    rotation        in `attributes`: bbox before it is turned, see there
    quad            [x1, y1, ..., x4, y4], as `coco.write` writes them beside a mask
    segmentation    one polygon of four corners for every single object, not all of them upright: what SSDD, or DOTA
                    made into COCO, put there. They stay masks too, unless `info` says
                    "segmentation": "oriented boxes", as `coco.write` does for records without masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from vistruct.data.formats.boxes import coco_angles
from vistruct.data.formats.boxes.coco_angles import Angles
from vistruct.data.formats.boxes.objects import ROUNDING_PX, Corners
from vistruct.issues import IssueCounter

POLYGON_SHORT = "polygon left out of its mask: fewer than three points"
POLYGON_NOT_FINITE = "polygon left out of its mask: NaN or infinite"
POINT_NOT_FINITE = "key point left out: NaN or infinite"

ORIENTED = "oriented boxes"  # what `info` says of `segmentation`
ATTRIBUTES = "attributes"  # the column of what else an annotation says, as CVAT and others have it

Orientation = Literal["none", "bbox", "quad", "segmentation", "rotation"]
Fault = tuple[str, str]  # what cannot be understood, in the same words for all of its kind; and the value


def orientation(content: dict[str, Any], angles: Angles = "auto") -> Orientation:
    """Where the oriented boxes of a data set are."""
    entries = [entry for entry in content["annotations"] if isinstance(entry, dict)]
    if means_boxes(content):
        return "segmentation"
    if any(isinstance(entry.get("bbox"), list) and len(entry["bbox"]) == 5 for entry in entries):
        return "bbox"
    if any("quad" in entry for entry in entries):
        return "quad"
    single = [entry.get("segmentation") for entry in entries if not entry.get("iscrowd")]
    if single and all(map(_is_quad, single)) and any(not _is_upright(one[0]) for one in single):
        return "segmentation"
    return "rotation" if angles != "upright" and any(map(coco_angles.rotation, entries)) else "none"


def means_boxes(content: dict[str, Any]) -> bool:
    """Whether a json says that its segmentations are oriented boxes, and not masks."""
    info = content.get("info")
    return isinstance(info, dict) and info.get("segmentation") == ORIENTED


def corners(entry: dict[str, Any], where: Orientation, angles: Angles = "auto") -> Corners | None:
    """The four corners of an annotation that `faults` finds nothing wrong with; None: it has only a bbox."""
    if where == "bbox":
        return coco_angles.five_numbers(entry["bbox"], angles)
    if where == "rotation":
        return coco_angles.rotated(entry) if coco_angles.rotation(entry) else None
    flat = entry.get("quad") if where == "quad" else _only_polygon(entry) if where == "segmentation" else None
    return None if flat is None else [(flat[i], flat[i + 1]) for i in (0, 2, 4, 6)]


def faults(entry: dict[str, Any], where: Orientation, size_hw: tuple[int, int], num_points: int) -> Iterator[Fault]:
    """Why the shape of an annotation cannot be understood, if so.

    Args:
        num_points: key points that its category has; 0: any number.
    """
    if where == "quad" and not (are_numbers(entry.get("quad")) and len(entry["quad"]) == 8):
        yield "quad is [x1, y1, ..., x4, y4] in pixels, this is another", f"{entry.get('quad')!r:.60}"
    yield from segmentation_faults(entry.get("segmentation"), size_hw)
    if where == "rotation":
        yield from coco_angles.rotation_faults(entry)
    points = entry.get("keypoints")
    if points is not None and points != []:
        if not are_numbers(points) or len(points) % 3 or not all(value in (0, 1, 2) for value in points[2::3]):
            yield "keypoints are x, y, visibility (0, 1 or 2) of each, these are not", f"{points!r:.60}"
        elif num_points and len(points) != 3 * num_points:
            yield "another number of key points than their category has", f"{len(points) // 3}, not {num_points}"


def mask(entry: dict[str, Any], here: str, report: IssueCounter) -> Any:
    """The segmentation as it is written, without polygons that cover nothing; [] where there is none."""
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, dict):
        return segmentation
    kept = []
    for polygon in segmentation or ():
        if not all(map(math.isfinite, polygon)):
            report.note(POLYGON_NOT_FINITE, here)
        elif len(polygon) < 6:
            report.note(POLYGON_SHORT, here)
        else:
            kept.append(polygon)
    return kept


def key_points(entry: dict[str, Any], here: str, report: IssueCounter) -> list[float]:
    """x, y, visibility of each; zeros for one that is no number; [] where there are none."""
    flat = [float(value) for value in entry.get("keypoints") or ()]
    for start in range(0, len(flat), 3):
        if not math.isfinite(flat[start]) or not math.isfinite(flat[start + 1]):
            report.note(POINT_NOT_FINITE, here)
            flat[start : start + 3] = (0.0, 0.0, 0.0)
    return flat


def mask_area(segmentation: Any) -> float:
    """Pixels of a mask; of polygons the sum of their own areas."""
    if isinstance(segmentation, dict):
        return float(sum(run_lengths(segmentation["counts"])[1::2]))
    total = 0.0
    for polygon in segmentation:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        x, y = (points - points[0]).T
        total += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return total


def segmentation_faults(segmentation: Any, size_hw: tuple[int, int] | None) -> Iterator[Fault]:
    """Why a mask cannot be understood, if so; None as its image's size: not known."""
    if isinstance(segmentation, dict):
        yield from _run_faults(segmentation, size_hw)
    elif segmentation is not None and not isinstance(segmentation, list):
        what = "segmentation is a list of polygons, or run lengths with size and counts, this is neither"
        yield what, f"{segmentation!r:.60}"
    else:
        for polygon in segmentation or ():
            if not are_numbers(polygon) or len(polygon) % 2:
                yield "a polygon is a list of x, y, x, y, ... in pixels, this is not", f"{polygon!r:.60}"
                break


def run_lengths(counts: list[int] | str | bytes) -> list[int]:
    """Lengths of the runs, column by column, the first being of background.

    COCO's text has 6 bits a character from 48 up: five of the number, low ones first, and one that says there are
    more; from the fourth number on, what is said is the difference to the one two before.

    Raises:
        ValueError: text that ends in the middle of a number, or has other characters.
    """
    if isinstance(counts, list):
        return counts
    codes = np.frombuffer(counts.encode("latin-1", "replace") if isinstance(counts, str) else counts, np.uint8)
    codes = codes.astype(np.int64) - 48
    if ((codes < 0) | (codes > 63)).any() or (len(codes) and codes[-1] & 32):
        raise ValueError("no run lengths")
    if len(codes) == 0:
        return []
    last = np.flatnonzero((codes & 32) == 0)  # of each number
    first = np.concatenate(([0], last[:-1] + 1))
    length = last - first + 1
    if length.max() > 12:  # beyond 60 bits
        raise ValueError("no run lengths")
    place = np.arange(len(codes)) - np.repeat(first, length)
    numbers = np.add.reduceat((codes & 31) << (5 * place), first)
    numbers -= np.where(codes[last] & 16, np.int64(1) << (5 * length), 0)  # the highest bit is the sign
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers.tolist()


def _run_faults(segmentation: dict[str, Any], size_hw: tuple[int, int] | None) -> Iterator[Fault]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or not isinstance(counts, list | str):
        yield "run lengths have size and counts, these have others", ", ".join(segmentation) or "nothing"
    elif len(size) != 2 or {*map(type, size)} != {int}:
        yield "size is [height, width] in pixels, this is another", f"{size!r:.60}"
    elif size_hw is not None and size != list(size_hw):
        yield "run lengths for an image of another size (width, height)", f"{size[::-1]}, not {list(size_hw)[::-1]}"
    elif isinstance(counts, list) and not all(isinstance(one, int) for one in counts):
        yield "counts are whole numbers, these are not", f"{counts!r:.60}"
    else:
        try:
            runs = run_lengths(counts)
        except ValueError:
            runs = [-1]
        if any(run < 0 for run in runs) or sum(runs) != size[0] * size[1]:
            yield "run lengths that do not add up to the pixels of the image", f"{size[1]} x {size[0]}"


def _is_quad(segmentation: Any) -> bool:
    return (
        isinstance(segmentation, list)
        and len(segmentation) == 1
        and are_numbers(segmentation[0])
        and len(segmentation[0]) == 8
    )


def _only_polygon(entry: dict[str, Any]) -> Sequence[float] | None:
    return entry["segmentation"][0] if _is_quad(entry.get("segmentation")) else None


def _is_upright(flat: Sequence[float]) -> bool:
    """Whether all sides are horizontal or vertical."""
    xs, ys = flat[0::2], flat[1::2]
    return all(min(abs(xs[i] - xs[i - 1]), abs(ys[i] - ys[i - 1])) <= ROUNDING_PX for i in range(4))


def are_numbers(value: Any) -> bool:
    """Whether it is a list of whole or decimal numbers; of json, so true and false have a type of their own."""
    return isinstance(value, list) and {*map(type, value)} <= {int, float}

"""How a question shows an object: as its box, a click in it, a stroke through it, or its mask.

Whatever moves an image moves its objects (`transforms.points.move_objects`), and what is shown is made from them when
rows of tokens are: so a prompt is scaled, flipped and cropped with its image, and its kind stays.

Clicks and strokes are inside of the mask, and away from its edge, as those of people are; where there is no mask,
inside of the quad or the box. An object that is itself a click or a stroke (a point, the painted mask of a scribble)
gives a click at the same place, a stroke along the same way.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from vistruct.contracts import Objects, Prompt, Region
from vistruct.errors import UserError

_STOPS = 6  # corners of a stroke
_MOST_PIXELS = 4096  # of a mask that a stroke is drawn through; of more, as many evenly


def region_of(objects: Objects[Tensor], row: int, kind: Prompt, seed: int | None = None) -> Region:
    """What a question shows of one object.

    Args:
        objects: of an image, in its pixels.
        seed: of the place of a click, and of a stroke's way; None: the middle of the object, all along it.

    Raises:
        UserError: a mask is to be shown of an object that has none.
    """
    draw = None if seed is None else np.random.default_rng(seed)
    mask = None if objects.masks is None else objects.masks[row].numpy() > 0
    if kind == "box":
        x0, y0, x1, y1 = objects.boxes_xyxy[row].tolist()
        return Region(kind="box", xy=((x0, y0), (x1, y1)))
    if mask is None or not mask.any():
        if kind == "mask":
            what = f"object {row} is to be shown by its mask, and it has none"
            raise UserError(what, where="prompts", fix="give it a mask, or show it as a box")
        return Region(kind=kind, xy=_in_outline(objects, row, kind, draw))
    if kind == "mask":
        return Region(kind="mask", mask=mask)
    return Region(kind=kind, xy=_click(mask, draw) if kind == "point" else _stroke(mask, draw))


def _in_outline(
    objects: Objects[Tensor], row: int, kind: Prompt, draw: np.random.Generator | None
) -> tuple[tuple[float, float], ...]:
    """A click, or a straight stroke along the longer side, in an object's quad or box; or the click that it is."""
    keypoints = objects.keypoints
    if kind == "point" and keypoints is not None and keypoints.shape[1] == 1 and keypoints[row, 0, 2] > 0:
        return (_pair(keypoints[row, 0, :2].double().numpy()),)
    corners = objects.outlines[row].double().numpy()  # [4, 2]
    middle, along, across = corners.mean(0), (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    if np.linalg.norm(across) > np.linalg.norm(along):
        along, across = across, along
    if kind == "point":
        a, b = (0.0, 0.0) if draw is None else draw.uniform(-0.5, 0.5, 2)
        return (_pair(middle + a * along + b * across),)
    ends, sides = (
        ((-0.7, 0.7), (0.0, 0.0))
        if draw is None
        else (draw.uniform((-0.9, 0.4), (-0.4, 0.9)), draw.uniform(-0.4, 0.4, 2))
    )
    return tuple(_pair(middle + a * along + b * across) for a, b in zip(ends, sides, strict=True))


def _click(mask: np.ndarray, draw: np.random.Generator | None) -> tuple[tuple[float, float], ...]:
    """The middle of the pixel that is farthest from the edge, or of any that is at least half as far."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    own = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    depth = distance_transform_edt(np.pad(own, 1))[1:-1, 1:-1]
    inner = np.argwhere(depth >= depth.max() * (1 - 1e-9 if draw is None else 0.5))
    if draw is None:  # of several as far, the one nearest the object's middle
        y, x = inner[np.square(inner - np.argwhere(own).mean(0)).sum(1).argmin()]
    else:
        y, x = inner[draw.integers(len(inner))]
    return ((float(columns[0] + x) + 0.5, float(rows[0] + y) + 0.5),)


def _stroke(mask: np.ndarray, draw: np.random.Generator | None) -> tuple[tuple[float, float], ...]:
    """Through pixels of the mask along its longer axis: in each part of it near the middle of its width."""
    places = np.argwhere(mask)[:, ::-1] + 0.5  # [n, 2], x and y
    places = places[:: -(-len(places) // _MOST_PIXELS)]
    centred = places - places.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    along, across = centred @ axes[:, 1], centred @ axes[:, 0]
    order = along.argsort(kind="stable")
    if draw is not None:  # a part of its length, two thirds at least, and not quite in the middle
        left = int(draw.integers(len(order) // 3 + 1))
        start = int(draw.integers(left + 1))
        order = order[start : len(order) - (left - start)]
    line = []
    for part in np.array_split(order, min(_STOPS, len(order))):
        aim = np.median(across[part]) if draw is None else np.quantile(across[part], draw.uniform(0.25, 0.75))
        line.append(_pair(places[part[np.abs(across[part] - aim).argmin()]]))
    return tuple(line)


def _pair(place: np.ndarray) -> tuple[float, float]:
    return float(place[0]), float(place[1])

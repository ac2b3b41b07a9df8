"""Images that were cut by others' tools: which part of which image a name says it is, and predictions moved there.

    P0706__1__824___0            DOTA's splitting tool: name, rate of enlargement, x, y; mmrotate's has the size of the
                                 patch in the place of the rate: numbers from 16 on are one
    port.tif@0_448_512_960       ours: x0, y0, x1, y1
    {name}_{x}_{y}               any other, as a template; also {rate}, {x1}, {y1} and {any}

x and y are those of the enlarged image where there is a rate, else pixels of the image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from vistruct.contracts import BoxPrediction, MaskPatch
from vistruct.errors import UserError
from vistruct.windows.merge import merge_windows

DOTA = "{name}__{rate}__{x}___{y}"
OURS = "{name}@{x}_{y}_{x1}_{y1}"
KNOWN = (DOTA, OURS)  # names that can be nothing else

_NUMBER = r"\d+(?:\.\d+)?"
_PLACES = {"name": r"(?P<name>.+)", "any": r"[^/]*?"} | {
    place: f"(?P<{place}>{_NUMBER})" for place in ("x", "y", "x1", "y1", "rate")
}
_LEAST_SIZE = 16.0  # in the place of a rate: no image is enlarged so much, and no patch is as small


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A part of an image: its pixel (u, v) is (x + u) / rate, (y + v) / rate of the whole."""

    name: str  # of the whole image
    x: float
    y: float
    rate: float = 1.0
    size_wh: tuple[float, float] | None = None  # pixels of the patch, where its name says them


def pattern_of(template: str) -> re.Pattern[str]:
    """What finds the places of a template in a name without folders and ending.

    Raises:
        UserError: no name, no x or no y in it, or a word that means nothing.
    """
    parts = re.split(r"\{(\w*)\}", template)
    words = parts[1::2]
    named = [word for word in words if word != "any"]
    if not {"name", "x", "y"} <= set(named) <= set(_PLACES) or len(set(named)) < len(named):
        what = f"no template of the names of patches: {template}"
        raise UserError(what, where="--patches", fix="--patches '{name}_{x}_{y}'; also {rate}, {x1}, {y1}, {any}")
    text = "".join(_PLACES[part] if at % 2 else re.escape(part) for at, part in enumerate(parts))
    return re.compile(text)


def patch_of(stem: str, patterns: Sequence[re.Pattern[str]]) -> Patch | None:
    """What a name without folders and ending says; None: it is no patch's."""
    for pattern in patterns:
        found = pattern.fullmatch(stem)
        if found is None:
            continue
        said = {place: float(text) for place, text in found.groupdict().items() if place != "name"}
        rate, x, y = said.get("rate", 1.0), said["x"], said["y"]
        size = (said["x1"] - x, said["y1"] - y) if {"x1", "y1"} <= said.keys() else None
        if rate >= _LEAST_SIZE:
            size, rate = (rate, rate), 1.0
        return Patch(name=found["name"], x=x, y=y, rate=rate or 1.0, size_wh=size)
    return None


def in_whole(prediction: BoxPrediction, patch: Patch, image_id: str) -> BoxPrediction:
    """What was found in a patch, in pixels of the whole image and with its window where that is known.

    Raises:
        UserError: masks of an enlarged image.
    """
    objects, corner = prediction.objects, torch.tensor([patch.x, patch.y], dtype=torch.float64)
    columns = {"boxes_xyxy": (objects.boxes_xyxy.double() + corner.repeat(2)) / patch.rate}
    if objects.boxes_cxcywha is not None:
        moved = objects.boxes_cxcywha.double().clone()
        moved[:, :2] += corner
        moved[:, :4] /= patch.rate
        columns["boxes_cxcywha"] = moved
    if objects.masks is not None:
        if patch.rate != 1:
            what = "masks of an enlarged image cannot be joined"
            raise UserError(what, where=prediction.id, fix="cut it at its own size")
        x, y = int(patch.x), int(patch.y)
        columns["masks"] = tuple(MaskPatch(pixels=m.pixels, x=m.x + x, y=m.y + y) for m in objects.masks)
    window = None
    if patch.size_wh is not None:
        width, height = patch.size_wh
        edges = (patch.x, patch.y, patch.x + width, patch.y + height)
        window = (edges[0] / patch.rate, edges[1] / patch.rate, edges[2] / patch.rate, edges[3] / patch.rate)
    return replace(prediction, image_id=image_id, window_xyxy=window, objects=replace(objects, **columns))


def joined_patches(predictions: Sequence[BoxPrediction]) -> list[BoxPrediction]:
    """Those of `in_whole`, one an image, as windows of our own are joined: see `merge.py`.

    Where no size of a patch is known, nothing is taken for cut off, and the best of those that overlap stays.
    """
    return merge_windows(predictions)

"""Regions as the page draws them (json), as questions show them (`Region`): checked, as anything from outside is."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from vistruct.contracts import Region
from vistruct.errors import UserError

MOST_REGIONS, MOST_POINTS = 32, 4000
_Points = Annotated[list[tuple[float, float]], Field(min_length=1, max_length=MOST_POINTS)]


class _Stroke(BaseModel):
    xy: _Points
    radius: float = Field(gt=0, le=10_000, allow_inf_nan=False)


class _Drawn(BaseModel):
    kind: Literal["point", "box", "scribble"]
    xy: _Points


class _Painted(BaseModel):
    kind: Literal["mask"]
    strokes: list[_Stroke] = Field(min_length=1, max_length=MOST_POINTS)


_Regions = TypeAdapter(Annotated[list[_Drawn | _Painted], Field(max_length=MOST_REGIONS)])


def regions_of(text: str, size_hw: tuple[int, int]) -> tuple[Region, ...]:
    """
    Args:
        text: json of page.js: `{"kind": "box", "xy": [[x, y], [x, y]]}`, a mask with `strokes` of a `radius`; pixels of
            the image.
        size_hw: of the image.

    Raises:
        UserError: not of that form, too many, or not on the image.
    """
    try:
        drawn = _Regions.validate_json(text)
    except ValidationError as error:
        what = f"what was drawn cannot be read: {error.errors()[0]['msg']}"
        raise UserError(what, where="the prompts", fix=f"draw it again, at most {MOST_REGIONS} regions") from None
    return tuple(_region(one, size_hw) for one in drawn)


def _region(one: _Drawn | _Painted, size_hw: tuple[int, int]) -> Region:
    height, width = size_hw
    if isinstance(one, _Painted):
        mask = _painted(one, size_hw)
        if not mask.any():
            raise UserError("a mask that covers nothing of the image", where="the prompts", fix="paint on the image")
        return Region(kind="mask", mask=mask)
    places = np.array(one.xy)
    if not np.isfinite(places).all():
        raise UserError("a place that is no number", where="the prompts", fix="draw it again")
    places = places.clip(0, (width, height))
    if one.kind == "box":
        places = np.stack([places.min(axis=0), places.max(axis=0)])
        if (places[1] <= places[0]).any():
            raise UserError("a box without an area", where="the prompts", fix="draw from one corner to the other")
    return Region(kind=one.kind, xy=tuple((float(x), float(y)) for x, y in places))


def _painted(one: _Painted, size_hw: tuple[int, int]) -> np.ndarray:
    """bool[H, W] under round strokes."""
    picture = Image.new("1", (size_hw[1], size_hw[0]))
    draw = ImageDraw.Draw(picture)
    for stroke in one.strokes:
        line, r = [(x, y) for x, y in stroke.xy if np.isfinite([x, y]).all()], stroke.radius
        if len(line) > 1:
            draw.line(line, fill=1, width=max(1, round(2 * r)))
        for x, y in line:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=1)
    return np.asarray(picture)

"""Objects on a picture: upright boxes, turned ones, masks and points, legible for one object and for two thousand.

Upright boxes are drawn on whole pixels, so that a label one pixel off shows. Everything slanted is drawn larger on a
sheet of its own and reduced, so that its edges are smooth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from vistruct.contracts import MaskPatch
from vistruct.pictures.primitives import Colour, dashes, enlarge, name_chip, outline, typeface

MAX_CHIPS = 24  # more objects than this carry no text, only colour
MAX_PLAIN = 200  # more than this, with thin lines, are drawn without rims on a darker ground
DIMMED = 0.55  # brightness of such a ground
FILL, FAINT_FILL = 0.35, 0.14  # opacity of a mask, and of one that is dashed
RIM = (0, 0, 0, 120)
SMOOTH_PX = 2048  # pictures with a longer side are drawn without smoothing: they are looked at from afar

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One object to be drawn, in pixels of its image."""

    box_xyxy: Sequence[float]
    colour: Colour
    quad: Sequence[Point] | None = None  # drawn instead of the box
    front: int | None = None  # the quad's edge (0: from its first corner to its second) that gets a mark
    mask: MaskPatch | None = None
    keypoints: Sequence[tuple[float, float, float]] = ()  # x, y, COCO's visibility
    text: str = ""
    is_dashed: bool = False
    has_outline: bool = True  # False: its box only says where the text goes

    @property
    def is_finite(self) -> bool:
        """Whether it can be drawn at all."""
        return all(map(math.isfinite, [*self.box_xyxy, *(side for corner in self.quad or () for side in corner)]))

    @property
    def short_side(self) -> float:
        """Pixels."""
        if self.quad is None:
            return min(self.box_xyxy[2] - self.box_xyxy[0], self.box_xyxy[3] - self.box_xyxy[1])
        return min(math.dist(self.quad[i], self.quad[i - 1]) for i in range(len(self.quad)))


def draw_shapes(image: Image.Image, shapes: Sequence[Shape]) -> tuple[Image.Image, str]:
    """The picture, enlarged where it is small, with its objects; and how many of them could not be drawn.

    Text is written where it covers no object. Many small objects get thin lines, so that they are seen themselves.
    """
    picture, scale = enlarge(image)
    drawn = [shape for shape in shapes if shape.is_finite]
    width = max(2, round(max(picture.size) / 650))
    if len(drawn) > MAX_CHIPS:  # thick lines would hide small objects
        middle = sorted(shape.short_side * scale for shape in drawn)[len(drawn) // 2]
        width = min(width, max(1, round(middle / 10)))
    with_rim = len(drawn) <= MAX_PLAIN or width > 1
    if not with_rim:
        picture = ImageEnhance.Brightness(picture).enhance(DIMMED)

    masked = [(shape.mask, shape) for shape in drawn if shape.mask is not None]
    for mask, shape in sorted(masked, key=lambda pair: -pair[0].pixels.size):  # small ones on top
        _fill(picture, mask, scale, shape.colour, FAINT_FILL if shape.is_dashed else FILL, width)
    draw = ImageDraw.Draw(picture, "RGBA")
    for shape in drawn:
        if shape.quad is None and shape.has_outline:
            box = [scale * side for side in shape.box_xyxy]
            if shape.mask is None:
                outline(draw, box, shape.colour, width, shape.is_dashed, with_rim)
            else:
                outline(draw, box, shape.colour, 1, shape.is_dashed, with_rim=shape.is_dashed)
    _slanted(picture, drawn, scale, width, with_rim)
    if len(drawn) <= MAX_CHIPS:
        font = typeface(max(12, round(max(picture.size) / 50)))
        hulls = [[scale * side for side in shape.box_xyxy] for shape in drawn]
        taken = list(hulls)
        for shape, hull in zip(drawn, hulls, strict=True):
            if shape.text:
                name_chip(ImageDraw.Draw(picture, "RGBA"), hull, shape.text, shape.colour, font, taken, picture.size)
    bad = len(shapes) - len(drawn)
    return picture, f"{bad} boxes not finite, not drawn" if bad else ""


def _fill(picture: Image.Image, mask: MaskPatch, scale: float, colour: Colour, opacity: float, width: int) -> None:
    """A translucent mask with a clear edge, in place."""
    height, wide = mask.pixels.shape
    size = (max(1, round(wide * scale)), max(1, round(height * scale)))
    if not mask.pixels.any():
        return
    finer = 2 if size[0] * size[1] < 1_000_000 else 1  # the edge is found on a finer grid, and is smooth after it
    room = width + 2
    large = Image.fromarray(mask.pixels.astype(np.uint8) * 255).resize(
        (size[0] * finer, size[1] * finer), Image.Resampling.BICUBIC
    )
    sheet = Image.new("L", ((size[0] + 2 * room) * finer, (size[1] + 2 * room) * finer))
    sheet.paste(large.point(lambda value: 255 if value >= 128 else 0), (room * finer, room * finer))
    # A mean that is full or not empty is a minimum or a maximum, at a cost that does not grow with the window.
    inner = sheet.filter(ImageFilter.BoxBlur(width * finer - finer // 2)).point(lambda value: 255 * (value == 255))
    outer = sheet.filter(ImageFilter.BoxBlur(finer)).point(lambda value: 255 * (value > 0))
    sheets = (inner, sheet, outer)
    core, solid, halo = (np.asarray(one.reduce(finer), np.float32)[..., None] / 255 for one in sheets)  # [h, w, 1]
    strength, shade = opacity * core + 0.95 * (solid - core), 0.4 * (halo - solid)

    x, y = round(mask.x * scale) - room, round(mask.y * scale) - room
    left, top = max(0, x), max(0, y)
    right, bottom = min(picture.width, x + strength.shape[1]), min(picture.height, y + strength.shape[0])
    if left >= right or top >= bottom:
        return
    shown = slice(top - y, bottom - y), slice(left - x, right - x)
    strength = strength[shown]
    ground = np.asarray(picture.crop((left, top, right, bottom)), np.float32)
    blended = ground * (1 - strength - shade[shown]) + np.array(colour, np.float32) * strength
    picture.paste(Image.fromarray(blended.round().astype(np.uint8)), (left, top))


def _slanted(picture: Image.Image, shapes: Sequence[Shape], scale: float, width: int, with_rim: bool) -> None:
    """Quads with a mark at their front, and points, in place."""
    if not any(shape.quad is not None or len(shape.keypoints) for shape in shapes):
        return
    longest = max(picture.size)
    finer = 1 if longest > SMOOTH_PX else 2 if longest > SMOOTH_PX // 2 else 3
    sheet = Image.new("RGBA", (picture.width * finer, picture.height * finer))
    draw = ImageDraw.Draw(sheet)  # replaces what is there: all rims first, so that none darkens a line
    zoom = scale * finer
    pen = round(1.2 * width * finer)  # slanted lines look thinner than upright ones
    lines = [(_strokes(shape, zoom, width * finer), shape) for shape in shapes if shape.quad is not None]
    for strokes, _ in lines if with_rim else ():
        for stroke in strokes:
            draw.line(stroke, RIM, pen + 3 * finer, joint="curve")
    for strokes, shape in lines:
        for stroke in strokes:
            draw.line(stroke, (*shape.colour, 255), pen, joint="curve")
        if shape.front is not None and not shape.is_dashed and width > 1:
            _mark(draw, shape, zoom, width * finer)
    for shape in shapes:
        for x, y, seen in shape.keypoints:
            if seen and math.isfinite(x) and math.isfinite(y):
                _point(draw, (x * zoom, y * zoom), (1.2 + 1.3 * width) * finer, shape.colour, is_hollow=seen < 2)
    picture.paste(Image.alpha_composite(picture.convert("RGBA"), sheet.reduce(finer)).convert("RGB"))


def _strokes(shape: Shape, zoom: float, width: int) -> list[list[Point]]:
    """The lines that make up a quad: one around it, or dashes along its edges."""
    corners = [(x * zoom, y * zoom) for x, y in shape.quad or ()]
    if not shape.is_dashed:
        return [[*corners, corners[0], corners[1]]]  # past the first corner, so that it is round as well
    around = [*corners[1:], corners[0]]
    return [piece for a, b in zip(corners, around, strict=True) for piece in dashes(a, b, 4 * width)]


def _mark(draw: ImageDraw.ImageDraw, shape: Shape, zoom: float, width: int) -> None:
    """An arrow head within the quad that touches the middle of its front edge; none where there is no room."""
    corners = [np.array(corner) * zoom for corner in shape.quad or ()]
    a, b = corners[shape.front or 0], corners[((shape.front or 0) + 1) % 4]
    tip, centre = (a + b) / 2, sum(corners) / 4
    depth, breadth = float(np.linalg.norm(centre - tip)), float(np.linalg.norm(b - a))
    size = min(0.45 * breadth, 0.6 * depth, 5.5 * width)
    if size < 2 * width:
        return
    inwards = (centre - tip) / depth
    aside = (b - a) / breadth
    tip = tip + inwards * width / 2
    points = [tip, tip + inwards * size + aside * 0.62 * size, tip + inwards * size - aside * 0.62 * size]
    draw.polygon([(float(x), float(y)) for x, y in points], fill=(*shape.colour, 255))


def _point(draw: ImageDraw.ImageDraw, at: Point, radius: float, colour: Colour, is_hollow: bool) -> None:
    x, y = at
    for r, fill in ((radius * 1.35, (0, 0, 0, 200)), (radius, (*colour, 255))):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    if is_hollow:
        r = radius * 0.5
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(0, 0, 0, 200))

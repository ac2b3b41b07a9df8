"""The pen: colours, thin readable boxes, name chips and legend strips, on PIL images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vistruct.ops.values import from_unit, full_scale

Colour = tuple[int, int, int]
# After Okabe and Ito's colour-blind-safe palette; lighter, so that it does not drown in vegetation.
PALETTE: tuple[Colour, ...] = (
    (255, 176, 46), (86, 196, 255), (240, 130, 190), (245, 232, 80),
    (255, 105, 50), (60, 220, 170), (110, 150, 255),
)  # fmt: skip
# The same seven, and those that stay farthest apart from all before them, to normal and to colour-blind eyes.
CLASS_COLOURS: tuple[Colour, ...] = (
    *PALETTE,
    (135, 45, 255), (120, 105, 75), (180, 240, 135), (165, 60, 165), (60, 120, 120), (180, 150, 105), (105, 90, 225),
    (225, 225, 255), (210, 15, 15), (165, 255, 225), (135, 195, 90), (45, 165, 135), (210, 120, 210),
)  # fmt: skip
PAPER, INK, FAINT = (22, 25, 30), (233, 236, 240), (150, 158, 168)
NARROW = 320  # pixels: a legend is at least so wide, below a sliver too
MIN_SIDE = 512  # pixels: the long side of a drawn image is at least this


def outline(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    colour: Colour,
    width: int,
    dashed: bool = False,
    with_rim: bool = True,
) -> None:
    """A box (xyxy, pixels) as a thin line, with a dark rim so that it shows on any ground."""
    x1, y1, x2, y2 = round(box[0]), round(box[1]), round(box[2]) - 1, round(box[3]) - 1
    x2, y2 = max(x1, x2), max(y1, y2)
    if not dashed:
        if with_rim:
            draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0, 120), width=1)
        draw.rectangle((x1, y1, x2, y2), outline=(*colour, 255), width=width)
        return
    dash = max(4, 3 * width)
    pieces = []  # like the solid line, the dashes lie inside the box
    for x in range(x1, x2 + 1, 2 * dash):
        right = min(x + dash - 1, x2)
        pieces += [(x, y1, right, min(y1 + width - 1, y2)), (x, max(y2 - width + 1, y1), right, y2)]
    for y in range(y1, y2 + 1, 2 * dash):
        bottom = min(y + dash - 1, y2)
        pieces += [(x1, y, min(x1 + width - 1, x2), bottom), (max(x2 - width + 1, x1), y, x2, bottom)]
    for a, b, c, d in pieces if with_rim else ():
        draw.rectangle((a - 1, b - 1, c + 1, d + 1), fill=(0, 0, 0, 90))
    for piece in pieces:
        draw.rectangle(piece, fill=(*colour, 255))


def dashes(a: tuple[float, float], b: tuple[float, float], dash: float) -> list[list[tuple[float, float]]]:
    """The line from `a` to `b` in dashes about as long as `dash`, with gaps of the same length; it begins and ends
    with half a dash or more, so that the corners of a polygon are always there."""
    length = math.dist(a, b)
    parts = 2 * max(1, round(length / (2 * dash)))  # half a dash, gap, dash, gap, ..., dash, gap, half a dash
    at = [0.0, 0.5 / parts]
    while at[-1] < 1 - 1e-9:
        at += [at[-1] + 1 / parts, min(1.0, at[-1] + 2 / parts)]
    points = [(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t) for t in at]
    return [[points[i], points[i + 1]] for i in range(0, len(points) - 1, 2)]


def enlarge(image: Image.Image, min_side: int = MIN_SIDE) -> tuple[Image.Image, float]:
    """An RGB copy whose long side is at least `min_side` pixels, and the factor that this took."""
    factor = max(1.0, min_side / max(image.size))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC), factor


def name_chip(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    text: str,
    colour: Colour,
    font: Any,
    taken: list[list[float]],
    size: tuple[int, int],
) -> None:
    """Write a name beside its box, at the first corner where it covers nothing; nowhere if there is none."""
    wide, high = font.getlength(text) + 8, font.size + 5
    x1, y1, x2, y2 = box
    for x, y in ((x1, y1 - high - 1), (x2 - wide, y1 - high - 1), (x1, y2 + 1), (x2 - wide, y2 + 1)):
        place = [x, y, x + wide, y + high]
        inside = x >= 0 and y >= 0 and place[2] <= size[0] and place[3] <= size[1]
        if inside and not any(_overlap(place, other) for other in taken):
            draw.rounded_rectangle(place, radius=3, fill=(*colour, 255))
            draw.text((x + 4, y + high / 2), text, (15, 17, 20), font, anchor="lm")
            taken.append(place)
            return


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def with_legend(
    picture: Image.Image,
    entries: Sequence[tuple[Colour, str, bool]],
    note: str,
    *,
    filled: bool = False,
    size: int | None = None,
) -> Image.Image:
    """The picture with a dark strip below: a swatch and a text for each entry, then the note.

    Args:
        entries: colour, text, and whether the line is dashed (the area hatched).
        note: without a swatch; "": none.
        filled: the swatches are areas and not lines.
        size: of the text, pixels; None: as fits the width of a single picture.
    """
    size = size or max(14, round(picture.width / 48))
    width = max(picture.width, NARROW)
    font, pad, line = typeface(size), round(size * 0.7), round(size * 1.6)
    placed, x, y = [], pad, pad
    for colour, text, is_dashed in [*entries, *([(None, note, False)] if note else [])]:
        text = fit(text, font, width - 3 * pad - size)
        wide = font.getlength(text) + (size * 1.5 if colour else 0)
        if x > pad and x + wide > width - pad:
            x, y = pad, y + line
        placed.append((x, y, colour, text, is_dashed))
        x += wide + 1.3 * size
    if not placed:
        return picture
    canvas = Image.new("RGB", (width, picture.height + y + line + pad // 3), PAPER)
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas, "RGBA")
    for x, y, colour, text, is_dashed in placed:
        top = picture.height + y
        if colour and filled:
            _area(canvas, x, top + 1, size, colour, is_dashed)
            x += size * 1.5
        elif colour:
            outline(draw, (x, top + 1, x + size, top + size + 1), colour, max(2, size // 7), is_dashed)
            x += size * 1.5
        draw.text((x, top + size / 2 + 1), text, INK if colour else FAINT, font, anchor="lm")
    return canvas


def _area(canvas: Image.Image, x: float, y: float, size: int, colour: Colour, is_hatched: bool) -> None:
    """A filled swatch, in place."""
    corner = round(x), round(y)
    swatch = Image.new("RGB", (size, size), PAPER if is_hatched else colour)
    if is_hatched:
        swatch.paste(colour, mask=Image.fromarray(hatch((size, size), max(2, size // 6)).astype(np.uint8) * 255))
    canvas.paste(swatch, corner)
    ImageDraw.Draw(canvas).rectangle((*corner, corner[0] + size, corner[1] + size), outline=FAINT)


def hatch(size_hw: tuple[int, int], width: int) -> np.ndarray:
    """bool[H, W], true on slanted stripes `width` pixels wide, a third of the area."""
    y, x = np.indices(size_hw, sparse=True)
    return (x + y) % (3 * width) < width


def fit(text: str, font: Any, width: float) -> str:
    """The text, its end replaced by an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def typeface(size: int) -> Any:
    """Pillow's own scalable font; it knows Latin text only."""
    return ImageFont.load_default(size)


def to_rgb(image: Tensor, channels: Sequence[int] | None = None, like: Tensor | None = None) -> Tensor:
    """Any number of channels as three that can be shown.

    Args:
        image: uint8, uint16 or float32[C, H, W]; see `to_bytes`.
        channels: numbers of one or three of them; None: the only one, the first, second and first of two (magenta and
            green, which all eyes tell apart), the first three of more.
        like: see `to_bytes`.

    Returns:
        uint8[3, H, W].

    Raises:
        ValueError: two channels are chosen, or more than three, or one that is not there.
    """
    count = image.shape[0]
    chosen = list(channels) if channels is not None else {1: [0], 2: [0, 1, 0]}.get(count, [0, 1, 2])
    if len(chosen) not in (1, 3) or any(not 0 <= one < count for one in chosen):
        raise ValueError(f"channels {chosen} of an image that has {count}; choose one or three")
    return to_bytes(image, like)[chosen * 3 if len(chosen) == 1 else chosen]


def to_bytes(image: Tensor, like: Tensor | None = None) -> Tensor:
    """What a screen can show: uint8 as it is, 16 bits and floats from 0 to 1 in 256 levels; values in a unit of their
    own from their 2nd to their 98th percentile, each channel by itself.

    Args:
        image: uint8, uint16 or float32[C, H, W].
        like: an image of as many channels whose percentiles are taken, for one brightness of both; None: its own.
    """
    if image.dtype == torch.uint8:
        return image
    values = image.cpu().float() / full_scale(image.dtype)
    known = values if like is None else like.cpu().float()
    if image.dtype == torch.float32 and not 0 <= float(known.min()) <= float(known.max()) <= 1:
        low, high = np.percentile(known.flatten(1).numpy(), (2, 98), axis=1)
        spread = torch.from_numpy(np.maximum(high - low, 1e-12)).float()
        values = (values - torch.from_numpy(low).float()[:, None, None]) / spread[:, None, None]
    return from_unit(values, torch.uint8)


def to_pil(image: Tensor, like: Tensor | None = None) -> Image.Image:
    """number[C, H, W] -> PIL, in colour; see `to_rgb`."""
    return Image.fromarray(to_rgb(image, like=like).permute(1, 2, 0).contiguous().cpu().numpy())

"""A conversation beside its image: boxes named in the text are drawn, dropped visual tokens are shaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vistruct.contracts import Sample, Turn
from vistruct.pictures.primitives import (
    FAINT,
    INK,
    MIN_SIDE,
    PALETTE,
    PAPER,
    Colour,
    enlarge,
    fit,
    outline,
    to_pil,
    typeface,
    with_legend,
)

BOX = re.compile(r"<box>\s*(\[\[.*?\]\])\s*</box>", re.DOTALL)  # integers 0-1000 of the image, InternVL's notation
QUAD = re.compile(r"\[\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*\]")
TAG = re.compile(r"</?ref>|<image>")
MAX_NUMBERED = 6  # boxes in one group; more share one chip that counts them
PANEL, TALLEST = 560, 1600  # pixels, width and greatest height of the dialogue
VOICES: dict[str, tuple[str, Colour]] = {
    "user": ("Question", (86, 196, 255)),
    "assistant": ("Answer", (60, 220, 170)),
    "system": ("System", FAINT),
}


@dataclass(frozen=True)
class Run:
    """A word, or a chip where it has a colour."""

    text: str
    colour: Colour | None = None


@dataclass(frozen=True)
class _Spot:
    """A box mentioned in the text: xyxy in 0-1000 of the first image."""

    box: tuple[int, ...]
    colour: Colour
    number: int | None


def draw_conversation(
    sample: Sample, kept: Tensor | None = None, grid_hw: tuple[int, int] | None = None
) -> Image.Image:
    """The sample's images on the left, what is said about them on the right.

    Args:
        sample: any number of images (they are stacked); boxes and dropped tokens refer to the first.
        kept: bool[L] (true at tokens that stay) or int64[K] (their indices), row-major; None: all stay.
        grid_hw: rows and columns of the first image's visual tokens; needed with `kept`.

    Raises:
        ValueError: `kept` without `grid_hw`, or one that does not fit it.
    """
    turns, spots = _read(sample.turns)
    panel, rest = dialogue(turns)
    side = min(max(MIN_SIDE, panel.height // max(1, len(sample.images))), 720)  # beside much text, a larger image
    pictures = [enlarge(to_pil(image), side)[0] for image in sample.images]
    note = ""
    if pictures and kept is not None:
        pictures[0], note = _shade(pictures[0], kept, grid_hw)
    if pictures and spots:
        _draw_spots(pictures[0], spots)
    if pictures and note:
        pictures[0] = with_legend(pictures[0], [], note)
    gap = 14
    wide = max((p.width for p in pictures), default=0)
    tall = sum(p.height + gap for p in pictures) - gap if pictures else 0
    canvas = Image.new(
        "RGB", (wide + panel.width + (3 if pictures else 2) * gap, max(tall, panel.height) + 2 * gap), PAPER
    )
    y = gap
    for picture in pictures:
        canvas.paste(picture, (gap, y))
        y += picture.height + gap
    canvas.paste(panel, (wide + (2 if pictures else 1) * gap, gap))
    return with_legend(canvas, [], f"{rest} more turns are not shown") if rest else canvas


def _read(turns: tuple[Turn, ...]) -> tuple[list[tuple[str, list[Run]]], list[_Spot]]:
    """Split each turn into words and chips, and collect the boxes that the chips stand for."""
    spots: list[_Spot] = []
    known: dict[tuple[int, ...], _Spot] = {}  # a box asked about twice keeps its number
    read = []
    for turn in turns:
        runs: list[Run] = []
        for index, part in enumerate(BOX.split(TAG.sub("", turn.text))):
            if index % 2 == 0:
                runs += [Run(word) for word in re.findall(r"\n|[^\s]+", part.strip(" "))]
                continue
            quads = [tuple(int(v) for v in quad) for quad in QUAD.findall(part)]
            if not quads:
                runs.append(Run(part))  # not four integers: shown as it was written
            elif len(quads) > MAX_NUMBERED:
                colour = PALETTE[len(spots) % len(PALETTE)]
                spots += [_Spot(quad, colour, None) for quad in quads]
                runs.append(Run(f"{len(quads)} boxes", colour))
            else:
                for quad in quads:
                    if quad not in known:
                        number = len(known) + 1
                        known[quad] = _Spot(quad, PALETTE[(number - 1) % len(PALETTE)], number)
                        spots.append(known[quad])
                    runs.append(Run(f"box {known[quad].number}", known[quad].colour))
        while runs and runs[0].text == "\n":
            runs.pop(0)  # what is left of "<image>\n"
        read.append((turn.role, runs))
    return read, spots


def _draw_spots(picture: Image.Image, spots: list[_Spot]) -> None:
    draw, font = ImageDraw.Draw(picture, "RGBA"), typeface(max(14, max(picture.size) // 45))
    width = max(2, round(max(picture.size) / 300)) - (len(spots) > 2 * MAX_NUMBERED)
    for spot in sorted(spots, key=lambda s: s.number is not None):  # the numbered ones on top
        x1, y1, x2, y2 = (v / 1000 * side for v, side in zip(spot.box, picture.size * 2, strict=True))
        outline(draw, (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), spot.colour, width)
        if spot.number is None:
            continue
        text, side = str(spot.number), font.size + 4
        wide = max(side, font.getlength(text) + 8)
        x = min(max(0, x1), picture.width - wide)
        y = y1 - side if y1 >= side else min(y2, picture.height - side)  # above the box, else below: not on it
        draw.rounded_rectangle((x, y, x + wide, y + side), radius=3, fill=spot.colour)
        draw.text((x + wide / 2, y + side / 2), text, (15, 17, 20), font, anchor="mm")


def _shade(picture: Image.Image, kept: Tensor, grid_hw: tuple[int, int] | None) -> tuple[Image.Image, str]:
    if grid_hw is None:
        raise ValueError("kept tokens can only be drawn with grid_hw")
    rows, columns = grid_hw
    kept = kept.detach().cpu().flatten()
    if kept.dtype != torch.bool:
        chosen = torch.zeros(rows * columns, dtype=torch.bool)
        chosen[kept] = True
        kept = chosen
    if len(kept) != rows * columns:
        raise ValueError(f"{len(kept)} tokens do not fill a grid of {rows} x {columns}")
    mask = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(mask)
    for index in (~kept).nonzero().flatten().tolist():
        row, column = divmod(index, columns)
        draw.rectangle(
            (
                round(column * picture.width / columns),
                round(row * picture.height / rows),
                round((column + 1) * picture.width / columns) - 1,
                round((row + 1) * picture.height / rows) - 1,
            ),
            fill=255,
        )
    dim = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, PAPER), 0.82)
    share = int(kept.sum()) / max(1, len(kept))
    note = f"the model saw {int(kept.sum())} of {len(kept)} visual tokens ({share:.0%}); the others are shaded"
    return Image.composite(dim, picture, mask), note


def dialogue(
    turns: list[tuple[str, list[Run]]], width: int = PANEL, max_height: int = TALLEST
) -> tuple[Image.Image, int]:
    """The turns as word-wrapped text, each under who speaks, and how many of them did not fit into `max_height`."""
    font, small, line = typeface(18), typeface(13), 27
    placed: list[tuple[float, float, Run]] = []
    heads: list[tuple[float, str, Colour]] = []
    y, shown = 0.0, 0
    for role, runs in turns:
        lines = _wrap(runs, font, width)
        if y and y + 22 + line * len(lines) > max_height:
            break
        title, colour = VOICES.get(role, (role, FAINT))
        heads.append((y, title, colour))
        y += 22
        for words in lines:
            placed += [(x, y, run) for x, run in words]
            y += line
        y += 14 if role == "assistant" else 4
        shown += 1
    panel = Image.new("RGB", (width, max(1, round(y))), PAPER)
    draw = ImageDraw.Draw(panel)
    for top, title, colour in heads:
        draw.text((0, top + 10), title, colour, small, anchor="lm")
    for x, top, run in placed:
        middle = top + line / 2
        if run.colour:
            wide = font.getlength(run.text) + 12
            draw.rounded_rectangle((x, middle - 11, x + wide, middle + 11), radius=5, fill=run.colour)
            draw.text((x + 6, middle), run.text, (15, 17, 20), font, anchor="lm")
        else:
            draw.text((x, middle), run.text, INK, font, anchor="lm")
    return panel, len(turns) - shown


def _wrap(runs: list[Run], font: Any, width: int) -> list[list[tuple[float, Run]]]:
    """Lines of (x, run); a word or chip wider than the line is cut with an ellipsis."""
    lines: list[list[tuple[float, Run]]] = [[]]
    x, space = 0.0, font.getlength(" ")
    for run in runs:
        if run.text == "\n":
            lines.append([])
            x = 0.0
            continue
        run = Run(fit(run.text, font, width - 12 * bool(run.colour)), run.colour)
        wide = font.getlength(run.text) + (12 if run.colour else 0)
        # punctuation right after a chip belongs to it
        tight = bool(lines[-1]) and lines[-1][-1][1].colour is not None and run.text[0] in ".,;:?!)"
        if lines[-1] and x + wide > width:
            lines.append([])
            x = 0.0
        elif tight:
            x -= space - 2
        lines[-1].append((x, run))
        x += wide + space
    return lines

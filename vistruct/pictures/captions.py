"""An image with what people say of it below, and what a model says."""

from __future__ import annotations

from PIL import Image, ImageDraw

from vistruct.contracts import Sample
from vistruct.pictures.classes import SIDE, framed
from vistruct.pictures.objects import FOUND
from vistruct.pictures.primitives import FAINT, INK, PAPER, Colour, fit, typeface

MOST = 5  # captions of people that are shown
_SIZE, _PAD = 17, 12


def draw_captions(sample: Sample, said: str | None = None) -> Image.Image:
    """The image, and below it the captions of people; a model's is above those and green.

    Args:
        said: by a model; None: the truth alone.
    """
    font = typeface(_SIZE)
    shown: list[tuple[str, Colour]] = [] if said is None else [(said or "(nothing)", FOUND)]
    shown += [(caption, INK if said is None else FAINT) for caption in sample.captions[:MOST]]
    if len(sample.captions) > MOST:
        shown.append((f"and {len(sample.captions) - MOST} more", FAINT))
    picture, line = framed(sample), round(_SIZE * 1.45)
    rows = [(row, colour, not at) for text, colour in shown for at, row in enumerate(_wrapped(text))]
    gaps = sum(is_first for _, _, is_first in rows)
    canvas = Image.new("RGB", (SIDE, picture.height + _PAD + line * len(rows) + gaps * 6 + _PAD // 2), PAPER)
    canvas.paste(picture, (0, 0))
    draw, y = ImageDraw.Draw(canvas), picture.height + _PAD // 2
    for row, colour, is_first in rows:
        y += 6 if is_first else 0
        draw.text((_PAD, y), row, colour, font)
        y += line
    return canvas


def _wrapped(text: str) -> list[str]:
    """Lines that fit into the width."""
    font, width = typeface(_SIZE), SIDE - 2 * _PAD
    lines = [""]
    for word in text.split():
        word = fit(word, font, width)
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines

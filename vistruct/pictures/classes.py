"""An image with its class, or classes, and what was said of it: the highest scores as bars."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from vistruct.contracts import ClassPrediction, Sample
from vistruct.pictures.objects import FALSE_ALARM, FOUND, MISSED
from vistruct.pictures.primitives import FAINT, INK, PAPER, Colour, fit, to_pil, typeface

SIDE = 448  # pixels: width of the picture; the image is at most as high
BARS = 5  # highest scores shown; true classes below them follow
MOST = 8  # lines below an image
TRACK: Colour = (44, 49, 57)


def draw_classes(
    sample: Sample, prediction: ClassPrediction | None = None, class_names: Sequence[str] = ()
) -> Image.Image:
    """The image, below it its classes; with a prediction: the five highest scores as bars, and true classes below them.

    Green is a true class that was said, orange one that was said and is not true, blue a true one that was not said;
    other scores are grey. Said is the highest score, of several labels all from 0.5 on.

    Args:
        sample: with its first image; `image_labels` None: the truth is not known, and what was said is white.
        prediction: None: the truth alone.
        class_names: of the truth, where there is no prediction.
    """
    names = prediction.class_names if prediction is not None else class_names
    known = sample.image_labels is not None
    truth = list(sample.image_labels or ())
    lines: list[tuple[str, float | None, Colour]]
    if prediction is None:
        words = ", ".join(names[label] for label in truth) if known else "class not known"
        lines = [(words or "no class", None, INK if truth else FAINT)]
    else:
        scores = prediction.scores.float().cpu().tolist()
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        said = {i for i in order if scores[i] >= 0.5} if prediction.is_multi_label else set(order[:1])
        shown = order[:BARS]
        missing = [i for i in order[BARS:] if i in truth]
        lines = [(names[i], scores[i], _colour(i, said, truth if known else None)) for i in (shown + missing)[:MOST]]
    picture = framed(sample)
    size, pad = 17, 12
    line = round(size * 1.75)
    canvas = Image.new("RGB", (SIDE, picture.height + pad * 2 + line * len(lines) - (line - size) // 2), PAPER)
    canvas.paste(picture, (0, 0))
    draw, font = ImageDraw.Draw(canvas), typeface(size)
    for number, (name, score, colour) in enumerate(lines):
        middle = picture.height + pad + number * line + size / 2
        if score is None:
            draw.text((pad, middle), fit(name, font, SIDE - 2 * pad), colour, font, anchor="lm")
            continue
        left, right = round(SIDE * 0.5), SIDE - pad - 52
        draw.text((pad, middle), fit(name, font, left - 2 * pad), colour, font, anchor="lm")
        draw.rounded_rectangle((left, middle - 6, right, middle + 6), 4, fill=TRACK)
        reach = left + (right - left) * min(max(score, 0.0), 1.0)
        if reach > left + 2:
            draw.rounded_rectangle((left, middle - 6, reach, middle + 6), 4, fill=colour)
        draw.text((SIDE - pad, middle), f"{score:.2f}", INK, font, anchor="rm")
    return canvas


def framed(sample: Sample) -> Image.Image:
    """The image in a frame of one width, all of it."""
    if not sample.images:
        return Image.new("RGB", (SIDE, 1), PAPER)
    image = to_pil(sample.images[0])
    factor = SIDE / max(image.size)
    how = Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.LANCZOS
    image = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), how)
    frame = Image.new("RGB", (SIDE, image.height), PAPER)
    frame.paste(image, ((SIDE - image.width) // 2, 0))
    return frame


def _colour(label: int, said: set[int], truth: list[int] | None) -> Colour:
    if truth is None:
        return INK if label in said else FAINT
    if label in truth:
        return FOUND if label in said else MISSED
    return FALSE_ALARM if label in said else FAINT

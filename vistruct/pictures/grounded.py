"""An answer that points, drawn: its phrases have the colours of what they speak of, and the truth stands beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from vistruct.contracts import REGION_MARK, Grounded, GroundedPrediction, MaskPatch, Objects, Region, Sample, Turn
from vistruct.pictures.areas import beside, stacked
from vistruct.pictures.chat import Run, dialogue
from vistruct.pictures.objects import patch_of
from vistruct.pictures.primitives import FAINT, INK, PALETTE, PAPER, Colour, fit, to_pil, typeface, with_legend
from vistruct.pictures.shapes import Shape, draw_shapes

GAP = 14
MOST = 4  # answers about one image
DEPTH = 0.8  # opacity of a depth
NAME = 150  # pixels of a phrase at an object
MARKS = re.compile(r"<image>\s*")

Colours = dict[str, Colour]  # of phrases, by their words in small letters


def draw_grounded(
    image: Image.Image | Tensor, prediction: GroundedPrediction, regions: Sequence[Region] = ()
) -> Image.Image:
    """What was answered, on the image and as text below it; the truth beside it, where somebody knows it.

    A phrase of the truth has the colour of the same words in the answer. Regions that the question shows are white and
    dashed, and numbered in its text.

    Args:
        image: what the objects' pixels refer to; PIL or uint8[3, H, W].
        regions: what the question shows, in the order of its marks.
    """
    picture = image if isinstance(image, Image.Image) else to_pil(image)
    found, truth = prediction.found, prediction.truth
    colours: Colours = {}
    for phrase in (*found.phrases, *(truth.phrases if truth is not None else ())):
        colours.setdefault(phrase.text.lower(), PALETTE[len(colours) % len(PALETTE)])
    drawn = [("answer", _with_objects(picture, found, colours, regions))]
    turns = [("user", _question(prediction.question, len(regions))), ("assistant", _runs(found, colours))]
    if truth is not None:
        drawn.append(("truth", _with_objects(picture, truth, colours, regions)))
        turns.append(("Truth", _runs(truth, colours)))
    if found.plan:
        plan = ", ".join(f"{number} x {name} ({unit})" for name, unit, number in found.plan)
        turns.append(("Plan", [Run(word) for word in plan.split()]))
    pictures = beside(drawn) if len(drawn) > 1 else drawn[0][1]
    panel, _ = dialogue(turns, width=pictures.width)
    canvas = Image.new("RGB", (pictures.width + 2 * GAP, pictures.height + panel.height + 3 * GAP), PAPER)
    canvas.paste(pictures, (GAP, GAP))
    canvas.paste(panel, (GAP, pictures.height + 2 * GAP))
    broken = ", ".join(dict.fromkeys(found.defects))
    return with_legend(canvas, [], f"the answer's form is broken: {broken}" if broken else "", size=15)


def draw_grounded_sample(sample: Sample, found: Sequence[GroundedPrediction]) -> Image.Image:
    """The answers to a sample's questions below each other, with the regions that the questions show."""
    questions = [turn for turn in sample.turns if turn.role == "user"]
    shown = [regions_of(turn, sample.objects) for turn in questions]
    known = shown if len(shown) == len(found) else [()] * len(found)
    drawn = [
        draw_grounded(sample.images[0], one, regions) for one, regions in zip(found[:MOST], known[:MOST], strict=True)
    ]
    if not drawn:
        return with_legend(to_pil(sample.images[0]), [], "nothing was asked")
    sheet = stacked(drawn) if len(drawn) > 1 else drawn[0]
    return with_legend(sheet, [], f"{len(found) - MOST} more answers are not shown", size=15) if found[MOST:] else sheet


def regions_of(turn: Turn, objects: Objects[Tensor]) -> tuple[Region, ...]:
    """What the marks of a question show; of a scribble, which is drawn anew each time, the object that it is on."""
    found = []
    for number, rows in enumerate(turn.points):
        kind = turn.prompts[number] if number < len(turn.prompts) else "box"
        for row in rows:
            x1, y1, x2, y2 = objects.boxes_xyxy[row].tolist()
            mask = objects.masks[row] if isinstance(objects.masks, Tensor) else None
            if kind == "point":
                found.append(Region(kind=kind, xy=(((x1 + x2) / 2, (y1 + y2) / 2),)))
            elif kind == "box" or mask is None:
                found.append(Region(kind="box", xy=((x1, y1), (x2, y2))))
            else:
                found.append(Region(kind=kind, mask=(mask >= 0.5 if mask.is_floating_point() else mask).cpu().numpy()))
    return tuple(found)


def _question(text: str, num_regions: int) -> list[Run]:
    """Words, with a chip for each region."""
    runs: list[Run] = []
    parts = MARKS.sub("", text).split(REGION_MARK)
    for number, part in enumerate(parts):
        runs += [Run(word) for word in part.split()]
        if number < len(parts) - 1:
            runs.append(Run(f"region {number + 1}" if max(num_regions, len(parts) - 1) > 1 else "region", INK))
    return runs


def _runs(side: Grounded, colours: Colours) -> list[Run]:
    """The words, phrases as chips that say of how many objects they speak."""
    runs, at, before = [], 0, (0, 0)
    for phrase in sorted(side.phrases, key=lambda phrase: phrase.start):
        if phrase.end and (phrase.start, phrase.end) == before:  # the same words, in another unit
            continue
        before = phrase.start, phrase.end
        start, end = phrase.start, max(phrase.start, phrase.end)
        if start < at:  # within another phrase, or nobody says where: behind it
            start = end = at
        runs += [Run(word) for word in side.words[at:start].split()]
        many = f" x {len(phrase.rows)}" if len(phrase.rows) != 1 else ""
        colour = colours[phrase.text.lower()] if phrase.rows else FAINT
        runs.append(Run(f"{phrase.text}{many}", colour))
        at = end
    runs += [Run(word) for word in side.words[at:].split()]
    return runs or [Run("(nothing)")]


def _with_objects(image: Image.Image, side: Grounded, colours: Colours, regions: Sequence[Region]) -> Image.Image:
    font = typeface(14)
    objects = side.objects
    numbers = [str(number) if len(regions) > 1 else "" for number in range(1, len(regions) + 1)]
    shapes = [shape for pair in zip(regions, numbers, strict=True) if (shape := _region_shape(*pair)) is not None]
    scored = bool((objects.scores < 1).any())
    for phrase in side.phrases:
        colour = colours[phrase.text.lower()]
        for row in phrase.rows:
            text = fit(phrase.text, font, NAME) + (f" {float(objects.scores[row]):.2f}" if scored else "")
            shape = Shape(box_xyxy=objects.boxes_xyxy[row].tolist(), colour=colour, text=text)
            if phrase.unit == "depth":
                image = _with_depth(image, objects.masks[row], colour)
                continue
            if phrase.unit == "mask" and objects.masks is not None:
                shape = replace(shape, mask=_patch(objects.masks[row]))
            if phrase.unit == "keypoint" and objects.keypoints is not None:
                x, y, seen = objects.keypoints[row].T.tolist()
                shape = replace(shape, keypoints=tuple(zip(x, y, seen, strict=True)))
            if phrase.unit == "point":
                x1, y1, x2, y2 = shape.box_xyxy
                dot = ((x1 + x2) / 2, (y1 + y2) / 2, 2.0)
                shape = replace(shape, keypoints=(dot,), has_outline=False)
            shapes.append(shape)
    picture, note = draw_shapes(image, shapes)
    _scribble(picture, regions, picture.width / image.width)
    return with_legend(picture, [], note)


def _patch(mask: Tensor | MaskPatch) -> MaskPatch | None:
    """None of run lengths, which are of the whole image."""
    if isinstance(mask, Tensor):
        return patch_of(mask)
    if not isinstance(mask, MaskPatch):
        return None
    return mask if mask.pixels.dtype == bool else MaskPatch(pixels=mask.pixels >= 0.5, x=mask.x, y=mask.y)


def _region_shape(region: Region, text: str) -> Shape | None:
    """None of an empty mask; of a line only where its number goes."""
    if region.mask is not None:
        rows, columns = np.nonzero(region.mask)
        if not len(rows):
            return None
        x, y = int(columns.min()), int(rows.min())
        mask = MaskPatch(pixels=region.mask[y : int(rows.max()) + 1, x : int(columns.max()) + 1], x=x, y=y)
        box = (x, y, x + mask.pixels.shape[1], y + mask.pixels.shape[0])
        return Shape(box_xyxy=box, colour=INK, mask=mask, is_dashed=True, text=text)
    xs, ys = zip(*region.xy, strict=True)
    hull = Shape(box_xyxy=(min(xs), min(ys), max(xs), max(ys)), colour=INK, is_dashed=True, text=text)
    if region.kind == "box":
        return hull
    dots = ((xs[0], ys[0], 1.0),) if region.kind == "point" else ()
    return replace(hull, keypoints=dots, has_outline=False)


def _scribble(picture: Image.Image, regions: Sequence[Region], scale: float) -> None:
    """The lines of a question, in place."""
    draw = ImageDraw.Draw(picture, "RGBA")
    width = max(3, round(max(picture.size) / 200))
    for region in regions:
        if region.kind == "scribble" and region.mask is None:
            line = [(x * scale, y * scale) for x, y in region.xy]
            draw.line(line, (0, 0, 0, 140), width + 3, joint="curve")
            draw.line(line, (*INK, 255), width, joint="curve")


def _with_depth(image: Image.Image, mask: Tensor | MaskPatch, colour: Colour) -> Image.Image:
    """The image under a depth: dark is 0, the colour 1; bare where it is not known."""
    values = np.zeros((image.height, image.width, 1), np.float32)
    if isinstance(mask, Tensor):
        values[..., 0] = mask.cpu().float().numpy()
    else:
        height, width = mask.pixels.shape
        values[mask.y : mask.y + height, mask.x : mask.x + width, 0] = mask.pixels
    ground = np.asarray(image.convert("RGB"), np.float32)
    cover = DEPTH * np.isfinite(values)
    blended = ground * (1 - cover) + np.nan_to_num(values) * np.array(colour, np.float32) * cover
    return Image.fromarray(blended.round().astype(np.uint8))

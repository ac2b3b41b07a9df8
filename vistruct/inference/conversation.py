"""What a model is asked about an image: the question, what it shows, and what was said before, as a sample."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vistruct.contracts import (
    IMAGE_MARK,
    OBJECT_MARK,
    PHRASE_CLOSE,
    PHRASE_OPEN,
    REGION_MARK,
    Grounded,
    GroundedPrediction,
    Objects,
    Phrase,
    Region,
    Sample,
    Turn,
    cat,
)
from vistruct.errors import UserError
from vistruct.inference.kind import Asked
from vistruct.inference.scenes import Case, as_pixels
from vistruct.vlm.grammar import is_unit, wanted, without_tokens
from vistruct.vlm.picture import SCRIBBLE_RADIUS


def conversation(case: Case, asked: Asked) -> Sample:
    """The conversation so far, which ends with the question; its objects are what was shown and found."""
    pixels = [as_pixels(image, case.name) for image in case.pictures]
    turns: list[Turn] = []
    regions: list[Region] = []
    found: list[Objects[Tensor]] = []
    asks = [(one.question, one.regions) for one in asked.history] + [(asked.question or "", asked.regions)]
    shown = sum(len(own) for _, own in asks)
    for number, (question, own) in enumerate(asks):
        text = with_places(question, len(pixels), case.name) if number == 0 else question.replace(IMAGE_MARK, "")
        turns.append(
            Turn(
                role="user",
                text=with_regions(text, len(own)),
                points=tuple((len(regions) + at,) for at in range(len(own))),
                prompts=tuple(region.kind for region in own),
            )
        )
        regions += own
        if number < len(asked.history):
            answer = asked.history[number].answer
            if isinstance(answer, GroundedPrediction):
                turns.append(turn_of(answer.found, shown + sum(map(len, found))))
                found.append(answer.found.objects)
            else:
                turns.append(Turn(role="assistant", text=answer.answer, is_taught=False))
    if asked.command is not None:
        turns.append(wanted(asked.command))
    size_hw = (int(pixels[0].shape[1]), int(pixels[0].shape[2])) if pixels else (1, 1)
    return Sample(
        id=case.name,
        image_id=case.name,
        seed=0,
        images=pixels,
        turns=tuple(turns),
        objects=objects_of(regions, found, size_hw),
    )


def with_regions(text: str, regions: int) -> str:
    """The question with a `<region>` for each region; without any they are named behind it.

    Raises:
        UserError: as many marks as regions not.
    """
    marks = text.count(REGION_MARK)
    if marks == 0 and regions:
        return f"{text} {' '.join([REGION_MARK] * regions)}"
    if marks != regions:
        what = f"{marks} {REGION_MARK} marks in the question for {regions} regions"
        raise UserError(what, where=f"ask={text!r}", fix=f"write one {REGION_MARK} for every region, or none at all")
    return text


def turn_of(found: Grounded, first: int) -> Turn:
    """An answer as a turn of the conversation that goes on; its objects are those from number `first` on.

    Whatever a model wrote: what cannot be written again (a phrase of blanks, a unit of several words) is words alone.
    """
    spans: dict[tuple[int, int], list[Phrase]] = {}  # one may have several units, and others in it
    for phrase in found.phrases:
        if phrase.rows and is_unit(phrase.unit) and found.words[phrase.start : phrase.end].strip():
            spans.setdefault((phrase.start, phrase.end), []).append(phrase)
    text, points, units = "", [], []
    edges = sorted({0, len(found.words), *itertools.chain(*spans)})
    for edge, following in itertools.zip_longest(edges, edges[1:], fillvalue=len(found.words)):
        for span in sorted((span for span in spans if span[1] == edge), reverse=True):  # the inner ones first
            text += PHRASE_CLOSE + OBJECT_MARK * len(spans[span])
            points += [tuple(first + row for row in phrase.rows) for phrase in spans[span]]
            units += [phrase.unit for phrase in spans[span]]
        text += PHRASE_OPEN * sum(span[0] == edge for span in spans)
        text += without_tokens(found.words[edge:following])
    return Turn(role="assistant", text=text, points=tuple(points), units=tuple(units), is_taught=False)


def objects_of(
    regions: Sequence[Region], found: Sequence[Objects[Tensor]], size_hw: tuple[int, int]
) -> Objects[Tensor]:
    """Regions that are shown, then objects that were found before, as a sample has them."""
    boxes, masks = [], []
    clicks = np.zeros((len(regions), 1, 3), np.float32)
    for row, region in enumerate(regions):
        mask = np.zeros(size_hw, bool) if region.mask is None else region.mask
        if region.kind == "scribble" and region.mask is None:
            mask = _painted(region.xy, size_hw)
        if region.kind == "point":
            clicks[row, 0] = (*region.xy[0], 2)
        if mask.shape != size_hw:
            what = f"a mask of {mask.shape[1]} x {mask.shape[0]} pixels for an image of {size_hw[1]} x {size_hw[0]}"
            raise UserError(what, where="regions", fix="draw it on the grid of the image")
        rows, columns = mask.nonzero()
        if region.kind in ("mask", "scribble") and not len(rows):
            raise UserError(f"a {region.kind} that shows nothing", where="regions", fix="draw something on the image")
        places = [[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]] if len(rows) else region.xy
        boxes.append([*np.min(places, axis=0), *np.max(places, axis=0)])
        masks.append(mask)
    own = Objects(
        labels=torch.full((len(regions),), -1),
        boxes_xyxy=torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
        keypoints=torch.from_numpy(clicks),
        masks=torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *size_hw, dtype=torch.bool),
    )
    num = sum(map(len, found))
    before = Objects(
        labels=torch.full((num,), -1),
        boxes_xyxy=torch.cat([one.boxes_xyxy for one in found]) if found else torch.zeros(0, 4),
        keypoints=torch.zeros(num, 1, 3),
        masks=torch.zeros(num, *size_hw, dtype=torch.bool),
    )
    return cat([own, before])


def with_places(ask: str, num_images: int, where: str) -> str:
    """The question with one `<image>` for each image; without any, several are put in front as InternVL names them.

    Raises:
        UserError: the question has marks, and not as many as there are images.
    """
    marks = ask.count(IMAGE_MARK)
    if marks == 0:
        names = [IMAGE_MARK] if num_images == 1 else [f"Image-{i}: {IMAGE_MARK}" for i in range(1, num_images + 1)]
        return "\n".join([*names, ask])
    if marks != num_images:
        what = f"{marks} {IMAGE_MARK} marks in the question for {num_images} images"
        raise UserError(what, where=where, fix=f"write one {IMAGE_MARK} for every image, or none at all")
    return ask


def _painted(line: Sequence[tuple[float, float]], size_hw: tuple[int, int]) -> np.ndarray:
    """bool[H, W], a line as thick as the image asks for."""
    sheet = Image.new("1", (size_hw[1], size_hw[0]))
    ImageDraw.Draw(sheet).line(
        list(line), fill=1, width=max(1, round(2 * SCRIBBLE_RADIUS * max(size_hw))), joint="curve"
    )
    return np.array(sheet)

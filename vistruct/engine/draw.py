"""Pictures of what goes in and what comes out: labelled samples, predictions against truth, contact sheets.

Pure functions from the contracts to PIL images; files are somebody else's business. Small images are
enlarged before anything is drawn, so that lines stay crisp; large ones keep their size. (`draw_chat.py` draws
conversations.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.ops import box_iou

from vistruct.contracts import BoxPrediction, Sample
from vistruct.engine.draw_chat import draw_conversation as draw_conversation
from vistruct.engine.ink import (
    FAINT,
    MIN_SIDE,
    PALETTE,
    PAPER,
    Colour,
    enlarge,
    fit,
    name_chip,
    outline,
    to_pil,
    typeface,
    with_legend,
)

FOUND, FALSE_ALARM, MISSED = (70, 235, 140), (255, 140, 26), (90, 190, 255)
MAX_CHIPS = 24  # more objects than this carry no text, only colour


class Labelled(Protocol):
    """What a `Record` and a `Sample` share: boxes float[N, 4] xyxy in pixels, and class indices int64[N]."""

    @property
    def boxes_xyxy(self) -> Any: ...

    @property
    def labels(self) -> Any: ...


def draw_sample(sample: Sample, class_names: Sequence[str]) -> Image.Image:
    """The first image of a sample with its boxes; crowd boxes dashed; a legend counts the objects by class.

    A name is written at a box only where it covers no object. A sample without an image or without boxes is
    drawn as it is.
    """
    if not sample.images:
        return with_legend(Image.new("RGB", (MIN_SIDE, MIN_SIDE // 8), PAPER), [], "no image")
    boxes, labels = sample.boxes_xyxy.float(), sample.labels.tolist()
    crowd = sample.is_crowd.tolist() or [False] * len(labels)
    names = [_name(class_names, label) for label in labels]
    colours = [PALETTE[label % len(PALETTE)] for label in labels]
    texts = names if len(set(names)) > 1 else [""] * len(names)  # one class: the legend says it all
    picture, note = _boxes(to_pil(sample.images[0]), boxes, colours, texts, crowd)
    counts = Counter(names)
    legend = [(colours[names.index(n)], f"{n} {k}", False) for n, k in counts.most_common(12)]
    rest = len(counts) - len(legend)
    return with_legend(
        picture, legend, _join("no objects" if not names else "", f"{rest} more classes" * (rest > 0), note)
    )


def draw_prediction(
    image: Image.Image | Tensor,
    prediction: BoxPrediction,
    truth: Labelled | None = None,
    *,
    min_score: float = 0.3,
    min_iou: float = 0.5,
) -> Image.Image:
    """Detections on their image; with truth: green is found, orange a false alarm, dashed blue was missed.

    Args:
        image: what the boxes' pixels refer to; PIL or uint8[3, H, W].
        prediction: boxes below `min_score` are not drawn, and the legend says how many.
        truth: the annotated objects of the same image.
        min_score: in [0, 1].
        min_iou: overlap from which a detection of the right class counts as found.
    """
    shown = prediction.scores >= min_score
    boxes, scores, labels = (
        t[shown].cpu() for t in (prediction.boxes_xyxy.float(), prediction.scores, prediction.labels)
    )
    below = int((~shown).sum())
    note = f"{below} below score {min_score:g}" if below else ""
    image = image if isinstance(image, Image.Image) else to_pil(image)
    names = [_name(prediction.class_names, int(label)) for label in labels]
    texts = [f"{n} {s:.2f}" for n, s in zip(names, scores.tolist(), strict=True)]
    if truth is None:
        colours = [PALETTE[int(label) % len(PALETTE)] for label in labels]
        picture, skipped = _boxes(image, boxes, colours, texts, [False] * len(boxes))
        counts = Counter(names)
        legend = [(colours[names.index(n)], f"{n} {k}", False) for n, k in counts.most_common(12)]
        return with_legend(picture, legend, _join("nothing found" if not names else "", note, skipped))
    true_boxes = torch.as_tensor(truth.boxes_xyxy, dtype=torch.float32).reshape(-1, 4).cpu()
    true_labels = torch.as_tensor(truth.labels).cpu()
    hit, found = match(boxes, scores, labels, true_boxes, true_labels, min_iou=min_iou)
    missed = true_boxes[~found]
    colours = [FOUND if h else FALSE_ALARM for h in hit.tolist()] + [MISSED] * len(missed)
    dashed = [False] * len(boxes) + [True] * len(missed)
    picture, skipped = _boxes(image, torch.cat([boxes, missed]), colours, texts + [""] * len(missed), dashed)
    legend = [
        (FOUND, f"found {int(hit.sum())}", False),
        (FALSE_ALARM, f"false alarm {int((~hit).sum())}", False),
        (MISSED, f"missed {len(missed)}", True),
    ]
    return with_legend(picture, legend, _join(note, skipped))


def match(
    boxes: Tensor, scores: Tensor, labels: Tensor, true_boxes: Tensor, true_labels: Tensor, *, min_iou: float
) -> tuple[Tensor, Tensor]:
    """Pair detections with objects of the same class, best score first, each with its best free object.

    Args:
        boxes: float[N, 4], xyxy.
        scores: float[N].
        labels: int64[N].
        true_boxes: float[M, 4], xyxy.
        true_labels: int64[M].
        min_iou: least overlap of a pair, in (0, 1].

    Returns:
        bool[N], the detections that have an object, and bool[M], the objects that have a detection.
    """
    hit, found = torch.zeros(len(boxes), dtype=torch.bool), torch.zeros(len(true_boxes), dtype=torch.bool)
    if not len(boxes) or not len(true_boxes):
        return hit, found
    iou = box_iou(boxes, true_boxes)  # [N, M]
    iou[labels[:, None] != true_labels[None]] = 0.0
    for index in scores.argsort(descending=True, stable=True).tolist():
        free = iou[index].masked_fill(found, 0.0)
        best = int(free.argmax())
        if free[best] >= min_iou:
            hit[index] = found[best] = True
    return hit, found


def contact_sheet(
    images: Sequence[Image.Image],
    columns: int = 3,
    captions: Sequence[str] | None = None,
    *,
    cell: int | None = None,
) -> Image.Image:
    """Images side by side, all of one width, each with a caption below.

    Args:
        images: at least one.
        columns: most images in a row.
        captions: one for each image; too long ones are cut.
        cell: pixels, width of an image; by default 480, in a single column that of the widest image.

    Raises:
        ValueError: no images, or another number of captions.
    """
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    columns, gap, font = min(columns, len(images)), 12, typeface(15)
    cell = cell or (max(image.width for image in images) if columns == 1 else 480)
    thumbs = []
    for image in images:
        factor = cell / image.width
        size = (
            cell,
            min(2 * cell, max(1, round(image.height * factor))),
        )  # a sliver does not make the sheet endless
        thumbs.append(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    strip = 26 if captions else 0
    rows = [thumbs[i : i + columns] for i in range(0, len(thumbs), columns)]
    heights = [max(t.height for t in row) + strip for row in rows]
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, sum(heights) + gap * (len(rows) + 1)), PAPER)
    draw, y = ImageDraw.Draw(sheet), gap
    for row_index, row in enumerate(rows):
        for column, thumb in enumerate(row):
            x = gap + column * (cell + gap)
            sheet.paste(thumb, (x, y))
            if captions:
                text = fit(captions[row_index * columns + column], font, cell)
                draw.text((x, y + thumb.height + 5), text, FAINT, font)
        y += heights[row_index] + gap
    return sheet


def _boxes(
    image: Image.Image, boxes: Tensor, colours: Sequence[Colour], texts: Sequence[str], dashed: Sequence[bool]
) -> tuple[Image.Image, str]:
    """Draw boxes, and text where it covers no box; also says how many boxes could not be drawn."""
    picture, scale = enlarge(image)
    finite = torch.isfinite(boxes).all(dim=1).tolist()
    pixels = (boxes * scale).nan_to_num(0).tolist()
    few = sum(finite) <= MAX_CHIPS
    sides = [min(b[2] - b[0], b[3] - b[1]) for b, ok in zip(pixels, finite, strict=True) if ok]
    tiny = len(sides) > MAX_CHIPS and sorted(sides)[len(sides) // 2] < 16  # a thick line would hide the objects
    width = 1 if tiny else max(2, round(max(picture.size) / 650))
    draw = ImageDraw.Draw(picture, "RGBA")
    for box, colour, is_dashed, ok in zip(pixels, colours, dashed, finite, strict=True):
        if ok:
            outline(draw, box, colour, width, is_dashed)
    if few:
        font = typeface(max(12, round(max(picture.size) / 50)))
        taken = [box for box, ok in zip(pixels, finite, strict=True) if ok]
        for box, colour, text, ok in zip(pixels, colours, texts, finite, strict=True):
            if ok and text:
                name_chip(draw, box, text, colour, font, taken, picture.size)
    bad = finite.count(False)
    return picture, f"{bad} boxes not finite, not drawn" if bad else ""


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _name(class_names: Sequence[str], label: int) -> str:
    return class_names[label] if 0 <= label < len(class_names) else f"class {label}"

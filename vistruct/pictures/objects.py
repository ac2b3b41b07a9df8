"""Pictures of what goes in and what comes out: labelled samples, predictions against truth, contact sheets.

Pure functions from the contracts to PIL images; files are somebody else's business. Small images are
enlarged before anything is drawn, so that lines stay crisp; large ones keep their size. (`draw_shapes.py` draws the
objects, `draw_chat.py` conversations.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.ops import box_iou

from vistruct.contracts import BoxPrediction, MaskPatch, Objects, Sample
from vistruct.ops.oriented import cxcywha_to_quads, quads_to_cxcywha, xyxy_to_cxcywha
from vistruct.ops.oriented_iou import oriented_iou
from vistruct.ops.window_area import covered_share
from vistruct.pictures.chat import draw_conversation as draw_conversation
from vistruct.pictures.primitives import (
    FAINT,
    MIN_SIDE,
    PALETTE,
    PAPER,
    Colour,
    fit,
    to_pil,
    typeface,
    with_legend,
)
from vistruct.pictures.shapes import Shape, draw_shapes

FOUND, FALSE_ALARM, MISSED = (70, 235, 140), (255, 140, 26), (90, 190, 255)
UNCOUNTED = (196, 202, 210)  # crowds and difficult objects, and what was found there
ANNOTATED_FRONT, BOX_FRONT = 0, 1  # the edge from the first corner as annotated; the edge that an angle points to


def draw_sample(sample: Sample, class_names: Sequence[str]) -> Image.Image:
    """The first image of a sample with its boxes, quads, masks and points; a legend counts the objects by class.

    Crowds, difficult and ignored ones are dashed. The arrow head in a quad is at the edge from its first corner to its
    second. A name is written at a box only where it covers no object. A sample without an image or without boxes is
    drawn as it is.
    """
    if not sample.images:
        return with_legend(Image.new("RGB", (MIN_SIDE, MIN_SIDE // 8), PAPER), [], "no image")
    objects = sample.objects
    labels = objects.labels.tolist()
    names = [_name(class_names, label) for label in labels]
    colours = [PALETTE[label % len(PALETTE)] for label in labels]
    texts = names if len(set(names)) > 1 else [""] * len(names)  # one class: the legend says it all
    boxes = objects.boxes_xyxy.float().tolist()
    quads = None if objects.quads is None else objects.quads.float().tolist()
    points = None if objects.keypoints is None else objects.keypoints.float().tolist()
    shapes = [
        Shape(
            box_xyxy=boxes[i],
            colour=colours[i],
            quad=None if quads is None else quads[i],
            front=ANNOTATED_FRONT,
            mask=None if objects.masks is None else patch_of(objects.masks[i]),
            keypoints=() if points is None else points[i],
            text=texts[i],
            is_dashed=bool(objects.is_crowd[i] or objects.is_difficult[i] or objects.is_ignored[i]),
        )
        for i in range(len(labels))
    ]
    picture, note = draw_shapes(to_pil(sample.images[0]), shapes)
    counts = Counter(names)
    rest = len(counts) - 12
    flags = {"crowd": objects.is_crowd, "difficult": objects.is_difficult}
    flags["ignored"] = objects.is_ignored & ~objects.is_difficult  # what a border cut
    dashed = [f"{int(flag.sum())} {word}" for word, flag in flags.items() if flag.any()]
    notes = (
        "no objects" if not names else "",
        f"{rest} more classes" if rest > 0 else "",
        f"dashed: {', '.join(dashed)}" if dashed else "",
        note,
    )
    return with_legend(picture, _class_legend(names, colours), _join(*notes))


def draw_prediction(
    image: Image.Image | Tensor,
    prediction: BoxPrediction,
    truth: Objects[np.ndarray] | Objects[Tensor] | None = None,
    *,
    min_score: float = 0.3,
    min_iou: float = 0.5,
) -> Image.Image:
    """Detections on their image; with truth: green is found, orange a false alarm, dashed blue was missed.

    Oriented boxes are drawn and compared as such (the arrow head is where the angle points to), masks are drawn and
    their boxes compared. Crowds and difficult objects are dashed grey, and so is what was found there.

    Args:
        image: what the boxes' pixels refer to; PIL or uint8[3, H, W].
        prediction: boxes below `min_score` are not drawn, and the legend says how many.
        truth: the annotated objects of the same image.
        min_score: in [0, 1].
        min_iou: overlap from which a detection of the right class counts as found.
    """
    is_shown = prediction.objects.scores.cpu() >= min_score
    below = int((~is_shown).sum())
    shown = prediction.keep(is_shown.to(prediction.objects.scores.device))
    note = f"{below} below score {min_score:g}" if below else ""
    image = image if isinstance(image, Image.Image) else to_pil(image)
    names = [_name(prediction.class_names, label) for label in shown.objects.labels.tolist()]
    texts = [f"{n} {s:.2f}" for n, s in zip(names, shown.objects.scores.tolist(), strict=True)]
    if truth is None:
        colours = [PALETTE[label % len(PALETTE)] for label in shown.objects.labels.tolist()]
        picture, skipped = draw_shapes(image, _found_shapes(shown, colours, texts))
        rest = len(set(names)) - 12
        more = f"{rest} more classes" if rest > 0 else ""
        notes = _join("nothing found" if not names else "", more, note, skipped)
        return with_legend(picture, _class_legend(names, colours), notes)
    truth = truth.tensors().to(torch.device("cpu"))
    owner, spared = _judge(shown, truth, min_iou)
    verdicts = torch.where(spared, 2, torch.where(owner >= 0, 0, 1)).tolist()
    uncounted = ~truth.is_single | truth.is_difficult
    found = torch.zeros(len(uncounted), dtype=torch.bool)
    found[owner[owner >= 0]] = True
    shapes = _truth_shapes(truth, uncounted.nonzero().squeeze(1).tolist(), UNCOUNTED)
    missed = (~found & ~uncounted).nonzero().squeeze(1).tolist()
    shapes += _truth_shapes(truth, missed, MISSED)
    shapes += _found_shapes(shown, [(FOUND, FALSE_ALARM, UNCOUNTED)[verdict] for verdict in verdicts], texts)
    picture, skipped = draw_shapes(image, shapes)
    legend = [
        (FOUND, f"found {verdicts.count(0)}", False),
        (FALSE_ALARM, f"false alarm {verdicts.count(1)}", False),
        (MISSED, f"missed {len(missed)}", True),
    ]
    if uncounted.any():
        legend.append((UNCOUNTED, f"crowd or difficult {int(uncounted.sum())}", True))
    if spared.any():
        legend.append((UNCOUNTED, f"found there {int(spared.sum())}", False))
    return with_legend(picture, legend, _join(note, skipped))


def _judge(shown: BoxPrediction, truth: Objects[Tensor], min_iou: float) -> tuple[Tensor, Tensor]:
    """int64[N], the object that each detection has found, -1 for none; bool[N], detections that do not count, because
    that object is difficult or because they lie in a crowd."""
    labels, crowd, hulls = truth.labels, ~truth.is_single, truth.boxes_xyxy.float()
    found_hulls, classes = shown.objects.boxes_xyxy.float().cpu(), shown.objects.labels.cpu()
    boxes, true_boxes = found_hulls, hulls
    if shown.objects.boxes_cxcywha is not None:
        boxes, true_boxes = shown.objects.boxes_cxcywha.float().cpu(), xyxy_to_cxcywha(hulls)
        if truth.quads is not None:
            true_boxes = quads_to_cxcywha(truth.quads.float())
    single = labels.masked_fill(crowd, -1)  # no detection is one of a crowd
    owner = match(boxes, shown.objects.scores.cpu(), classes, true_boxes, single, min_iou=min_iou)
    spared = owner >= 0
    spared[spared.clone()] = truth.is_difficult[owner[spared]]
    for label in classes[owner < 0].unique():
        rows = (owner < 0) & (classes == label)
        spared[rows] = covered_share(found_hulls[rows], hulls[crowd & (labels == label)]) > min_iou
    return owner, spared


def match(
    boxes: Tensor, scores: Tensor, labels: Tensor, true_boxes: Tensor, true_labels: Tensor, *, min_iou: float
) -> Tensor:
    """Pair detections with objects of the same class, best score first, each with its best free object.

    Args:
        boxes: float[N, 4] xyxy, or float[N, 5] cxcywha.
        scores: float[N].
        labels: int64[N].
        true_boxes: float[M, 4] or float[M, 5], like `boxes`.
        true_labels: int64[M].
        min_iou: least overlap of a pair, in (0, 1].

    Returns:
        int64[N], the number of each detection's object; -1 where it has none.
    """
    owner = torch.full((len(boxes),), -1)
    if not len(boxes) or not len(true_boxes):
        return owner
    iou = oriented_iou(boxes, true_boxes) if boxes.shape[1] == 5 else box_iou(boxes, true_boxes)  # [N, M]
    iou[labels[:, None] != true_labels[None]] = 0.0
    for index in scores.argsort(descending=True, stable=True).tolist():
        best = int(iou[index].argmax())
        if iou[index, best] >= min_iou:
            owner[index] = best
            iou[:, best] = 0.0  # taken
    return owner


def patch_of(mask: Tensor) -> MaskPatch:
    """The part of bool[H, W] (soft: float, from a half on) where the object is; one empty pixel where it is nowhere."""
    pixels = (mask >= 0.5 if mask.is_floating_point() else mask).cpu().numpy()
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return MaskPatch(pixels=np.zeros((1, 1), bool), x=0, y=0)
    y, x = int(rows[0]), int(columns[0])
    return MaskPatch(pixels=pixels[y : rows[-1] + 1, x : columns[-1] + 1], x=x, y=y)


def _found_shapes(shown: BoxPrediction, colours: Sequence[Colour], texts: Sequence[str]) -> list[Shape]:
    oriented = shown.objects.boxes_cxcywha
    quads = None if oriented is None else cxcywha_to_quads(oriented.float().cpu()).tolist()
    return [
        Shape(
            box_xyxy=box,
            colour=colours[i],
            quad=None if quads is None else quads[i],
            front=BOX_FRONT,
            mask=None if shown.objects.masks is None else shown.objects.masks[i],
            text=texts[i],
        )
        for i, box in enumerate(shown.objects.boxes_xyxy.float().tolist())
    ]


def _truth_shapes(truth: Objects[Tensor], numbers: Sequence[int], colour: Colour) -> list[Shape]:
    """Those objects, dashed."""
    quads, masks = truth.quads, truth.masks
    return [
        Shape(
            box_xyxy=[float(side) for side in truth.boxes_xyxy[i]],
            colour=colour,
            quad=None if quads is None else [(float(x), float(y)) for x, y in quads[i]],
            mask=patch_of(masks[i]) if isinstance(masks, Tensor) else None,  # a record's are not in its pixels
            is_dashed=True,
        )
        for i in numbers
    ]


def _class_legend(names: Sequence[str], colours: Sequence[Colour]) -> list[tuple[Colour, str, bool]]:
    """The twelve commonest classes with their numbers."""
    return [(colours[names.index(name)], f"{name} {count}", False) for name, count in Counter(names).most_common(12)]


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


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _name(class_names: Sequence[str], label: int) -> str:
    return class_names[label] if 0 <= label < len(class_names) else f"class {label}"

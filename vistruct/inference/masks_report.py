"""The report of masks that were made of boxes: how many, how sure, what was rejected and why, and pictures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vistruct.contracts import MaskPatch, Window
from vistruct.data.convert import Parts as Source
from vistruct.files.filled import filled
from vistruct.files.images import read_image
from vistruct.inference.cache import Parts
from vistruct.inference.masks_from_boxes import Asked, Outcome, unpacked
from vistruct.issues import IssueCounter
from vistruct.pictures.objects import FALSE_ALARM, FOUND, MISSED, UNCOUNTED
from vistruct.pictures.primitives import to_pil, with_legend
from vistruct.pictures.shapes import Shape, draw_shapes
from vistruct.reports.page import Bar, Report, literal, styled

if TYPE_CHECKING:
    from PIL import Image

    from vistruct.inference.mask_files import Judged

REJECTED_SHOWN, OTHERS_SHOWN = 6, 6  # images in the report
REJECTED_DRAWN = 12  # rejected masks in a picture; of more only the boxes, or they would hide it
_SIDE = 768  # pixels of an image that is larger are shown, around what matters
_NEW, _REJECTED, _INSTEAD, _OLD = "mask", "rejected", "filled in its place", "crowd, or kept from the annotations"
_COLOURS = {_NEW: FOUND, _REJECTED: FALSE_ALARM, _INSTEAD: MISSED, _OLD: UNCOUNTED}


def masks_report(
    path: Path,
    done: Sequence[Judged],
    source: Source,
    asked: Asked,
    issues: IssueCounter,
    parts: Parts,
    broken: Sequence[str],
) -> str:
    """The page as html.

    Args:
        path: of the data set.
        parts: what was found before any rule, for the pictures.
        broken: names of the images that could not be read.
    """
    every = [outcome for one in done for outcome in one.outcomes]
    how = f"filled: {asked.fill}" if asked.fill else f"prompts: {', '.join('+'.join(p) for p in asked.prompts)}"
    page = Report("Masks of boxes", f"{literal(str(path))}, {how}")
    rejected = sum(bool(one.reason) for one in every)
    ious = [one.iou for one in every if one.iou is not None]
    page.key_numbers(
        [
            (len(done), "images", f"{sum(not one.outcomes for one in done)} without a box"),
            (len(every), "objects"),
            (sum(bool(one.mask) for one in every), "with a mask"),
            (rejected, "masks rejected", f"{rejected / len(every):.1%}" if every else ""),
            *([(float(np.median(ious)), "median predicted IoU")] if ious else []),
        ]
    )
    if broken:
        page.callout(f"{len(broken)} images could not be read and are left out: {', '.join(map(literal, broken[:5]))}")
    rows = [
        [reason, count, issues.effects[reason], literal(issues.places(reason))] for reason, count in _sorted(issues)
    ]
    if rows:
        page.table(["what happened", "objects", "they are", "first of them"], rows, caption="Everything but a new mask")
    page.text("## Class by class")
    page.table(
        [
            "class",
            "objects",
            "with a mask",
            "rejected",
            "median inside its box",
            "median covered",
            "median predicted IoU",
        ],
        _by_class(done, source.class_names),
        caption="Inside: share of a mask that lies in its box; covered: share of the box. Before any rule",
    )
    if len(every) > 1:
        page.figure(_histograms(every), "How sure, and how well masks and boxes agree: all masks before any rule")
    _pictures(page, done, parts, source)
    return page.to_html()


def _sorted(issues: IssueCounter) -> list[tuple[str, int]]:
    return sorted(issues.counts.items(), key=lambda pair: -pair[1])


def _by_class(done: Sequence[Judged], class_names: Sequence[str]) -> list[list[Any]]:
    by: dict[int, list[Outcome]] = defaultdict(list)
    for one in done:
        for label, outcome in zip(one.record.objects.labels.tolist(), one.outcomes, strict=True):
            by[label].append(outcome)
    return [
        [
            literal(class_names[label]),
            len(some),
            sum(bool(one.mask) for one in some),
            sum(bool(one.reason) for one in some),
            *(_median([vars(one)[name] for one in some]) for name in ("inside", "covered", "iou")),
        ]
        for label, some in sorted(by.items())
    ]


def _median(values: Sequence[float | None]) -> Bar | None:
    known = [value for value in values if value is not None]
    return Bar(float(np.median(known))) if known else None


def _histograms(every: Sequence[Outcome]) -> Any:
    from matplotlib.figure import Figure

    names = {"iou": "predicted IoU", "inside": "inside its box", "covered": "of its box covered"}
    values = {title: [vars(one)[name] for one in every if vars(one)[name] is not None] for name, title in names.items()}
    values = {title: some for title, some in values.items() if some}
    with styled():
        figure = Figure(figsize=(9.0, 2.6), layout="constrained")
        for axes, (title, some) in zip(
            np.atleast_1d(figure.subplots(1, max(1, len(values)))), values.items(), strict=False
        ):
            axes.hist(np.clip(some, 0, 1), bins=20, range=(0, 1))
            axes.set(title=title, xlim=(0, 1), ylabel="objects" if axes.get_subplotspec().is_first_col() else "")
    return figure


def _pictures(page: Report, done: Sequence[Judged], parts: Parts, source: Source) -> None:
    with_boxes = [one for one in done if one.outcomes]
    faulty = [one for one in with_boxes if any(outcome.reason for outcome in one.outcomes)]
    faulty.sort(key=lambda one: -sum(bool(outcome.reason) for outcome in one.outcomes))
    shown = faulty[:REJECTED_SHOWN]
    rest = [one for one in with_boxes if one not in shown]
    shown += rest[:: max(1, -(-len(rest) // OTHERS_SHOWN))][:OTHERS_SHOWN]
    if shown:
        page.text("## Pictures\n\nThose with the most rejected masks first, then some of all.")
    for one in shown:
        counts = Counter(outcome.reason for outcome in one.outcomes if outcome.reason)
        told = "; ".join(f"{count} x {reason}" for reason, count in counts.items()) or "nothing rejected"
        page.figure(draw_masks(one, parts, source), f"{literal(one.name)}: {len(one.outcomes)} objects, {told}")


def draw_masks(one: Judged, parts: Parts, source: Source) -> Image.Image:
    """An image, or the part of a large one around what was rejected, with its boxes and masks.

    Raises:
        UserError: it cannot be read.
    """
    assert one.record.size_hw is not None
    objects, found = one.record.objects, unpacked(parts.read(one.name))
    is_faulty = np.array([bool(outcome.reason) for outcome in one.outcomes])
    window = _around(objects.boxes_xyxy[is_faulty] if is_faulty.any() else objects.boxes_xyxy, one.record.size_hw)
    x0, y0, x1, y1 = window
    whole = (0, 0, one.record.size_hw[1], one.record.size_hw[0])
    shapes, counts = [], Counter[str]()
    for number, (outcome, corners) in enumerate(zip(one.outcomes, objects.outlines, strict=True)):
        box = objects.boxes_xyxy[number]
        if (box[:2] >= (x1, y1)).any() or (box[2:] <= (x0, y0)).any():
            continue
        masks: dict[str, MaskPatch | None] = {}
        if outcome.by in ("annotations", "crowd"):
            masks[_OLD] = filled(corners, "box", whole) if outcome.by == "crowd" else None
        elif outcome.reason:
            if outcome.by != "none":
                masks[_INSTEAD] = filled(corners, "ellipse" if outcome.by == "ellipse" else "box", whole)
            masks[_REJECTED] = found[number].mask if counts[_REJECTED] < REJECTED_DRAWN else None
        else:
            masks[_NEW] = found[number].mask
        for kind, mask in masks.items():
            counts[kind] += 1
            shapes.append(
                Shape(
                    box_xyxy=(box - [x0, y0, x0, y0]).tolist(),
                    colour=_COLOURS[kind],
                    quad=None if objects.quads is None else [(float(x) - x0, float(y) - y0) for x, y in corners],
                    mask=None if mask is None else _shown(mask, window),
                    is_dashed=kind in (_REJECTED, _OLD),
                )
            )
    picture, note = draw_shapes(to_pil(read_image(one.record.images[0], window, intake=source.intake)), shapes)
    legend = [
        (_COLOURS[kind], f"{kind} {counts[kind]}", kind in (_REJECTED, _OLD)) for kind in _COLOURS if counts[kind]
    ]
    hidden = counts[_REJECTED] - REJECTED_DRAWN
    more = f"of {hidden} rejected the boxes alone" if hidden > 0 else ""
    part = "" if window == whole else f"pixels {x0}-{x1}, {y0}-{y1} of {whole[2]} x {whole[3]}"
    return with_legend(picture, legend, ", ".join(text for text in (more, part, note) if text))


def _shown(mask: MaskPatch, window: Window) -> MaskPatch:
    """The part of a mask in a window, in its pixels."""
    left, top = max(0, window[0] - mask.x), max(0, window[1] - mask.y)
    pixels = mask.pixels[top : max(top, window[3] - mask.y), left : max(left, window[2] - mask.x)]
    return MaskPatch(pixels=pixels, x=mask.x + left - window[0], y=mask.y + top - window[1])


def _around(boxes: np.ndarray, size_hw: tuple[int, int]) -> Window:
    """The window that shows most of these in a large image, the first of them surely."""
    height, width = size_hw
    side_x, side_y = min(_SIDE, width), min(_SIDE, height)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2  # [N, 2]
    starts = np.clip(centres - (side_x / 2, side_y / 2), 0, (width - side_x, height - side_y)).astype(int)
    inside = (centres[None] >= starts[:, None]) & (centres[None] < starts[:, None] + (side_x, side_y))  # [N, N, 2]
    x, y = starts[inside.all(axis=2).sum(axis=1).argmax()].tolist()
    return x, y, x + side_x, y + side_y

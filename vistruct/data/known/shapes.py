"""Masks, phrases and conversations as public sources write them; what cannot be used is counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vistruct.contracts import IMAGE_MARK
from vistruct.data.formats.boxes import coco_shapes
from vistruct.data.formats.boxes.objects import Told as Drawn
from vistruct.data.instructions.known import Said, Told
from vistruct.data.known.source import Board, BoxForm, words
from vistruct.files.masks import hull_of_runs
from vistruct.issues import IssueCounter

BAD_MASK = "mask left out: it is no polygon and no run lengths of its image"
NO_PLACE = "phrase left out: it is no part of its caption"
NO_TALK = "conversation left out: questions and answers do not take turns"
OVERLAP = "phrase left out: it overlaps another of its caption"

Span = tuple[int, int]


def mask_of(segmentation: Any, where: str, report: IssueCounter, size_hw: tuple[int, int] | None = None) -> Any:
    """COCO's polygons (all of them) or run lengths; () where there is no mask.

    Args:
        size_hw: of the image, which run lengths must be of; None: not known.
    """
    if segmentation is None or segmentation == []:
        return ()
    if next(coco_shapes.segmentation_faults(segmentation, size_hw), None) is not None:
        report.note(BAD_MASK, where)
        return ()
    return coco_shapes.mask({"segmentation": segmentation}, where, report) or ()


def hull_of(mask: Any) -> list[float]:
    """x0, y0, x1, y1 around a mask that `mask_of` gave, in pixels; no area where it has none."""
    if isinstance(mask, dict):
        return list(map(float, hull_of_runs(mask)))
    xs, ys = [x for one in mask for x in one[0::2]], [y for one in mask for y in one[1::2]]
    return [min(xs), min(ys), max(xs), max(ys)] if xs else [0.0] * 4


def add_mask(
    board: Board, segmentation: Any, where: str, *, name: str = "", box: Any = None, form: BoxForm = "xyxy"
) -> int | None:
    """The row of an object with its mask; the mask's hull where no box is told. None: left out, and counted."""
    mask = mask_of(segmentation, where, board.report, board.image.size_hw)
    if box is None and not mask:
        return None
    told = Drawn(mask=mask)
    return (
        board.add(hull_of(mask), where, name=name, told=told)
        if box is None
        else board.add(box, where, form=form, name=name, told=told)
    )


def told(
    text: object, found: Iterable[tuple[Any, tuple[int, ...] | None, str]], where: str, report: IssueCounter
) -> Told | None:
    """A caption with the phrases in it; None: it has no words, counted.

    Args:
        text: as its source has it, to which the spans belong.
        found: of each phrase its span (first sign, and behind the last), its rows (None: left out), and its place.
    """
    plain = words(text, where, report)
    if plain is None or not isinstance(text, str):
        return None
    places = _places(text)
    phrases: list[Said] = []
    for span, rows, here in sorted((one for one in found if one[1]), key=lambda one: _order(one[0])):
        start, end = _within(text, span)
        if start >= end:
            report.note(NO_PLACE, here)
        elif phrases and places[start] < phrases[-1].end:
            report.note(OVERLAP, here)
        else:
            start, end = places[start], places[end - 1] + 1
            phrases.append(Said(text=plain[start:end], rows=rows or (), start=start, end=end))
    return Told(text=plain, phrases=tuple(phrases))


def pairs(turns: Any, where: str, report: IssueCounter) -> list[tuple[str, str]]:
    """The questions and answers of a conversation as LLaVA writes it, without marks of the image; [] of any other, and
    counted."""
    given = [one if isinstance(one, dict) else {} for one in turns] if isinstance(turns, list) else []
    texts = [text.replace(IMAGE_MARK, " ") for one in given if isinstance(text := one.get("value"), str)]
    speakers = [one.get("from") for one in given]
    if not given or speakers != ["human", "gpt"] * (len(given) // 2) or len(texts) < len(given):
        report.note(NO_TALK, where)
        return []
    return list(zip(texts[::2], texts[1::2], strict=True))


def _order(span: Any) -> Span:
    """The first come first, of those that begin together the longest."""
    return (span[0], -span[1]) if _is_span(span) else (0, 0)


def _within(text: str, span: Any) -> Span:
    """A span without the blanks at its ends; empty where it is none of this text."""
    if not _is_span(span) or not 0 <= span[0] < span[1] <= len(text):
        return 0, 0
    part = text[span[0] : span[1]]
    return span[0] + len(part) - len(part.lstrip()), span[0] + len(part.rstrip())


def _is_span(span: Any) -> bool:
    return isinstance(span, list | tuple) and len(span) == 2 and all(type(one) is int for one in span)


def _places(text: str) -> list[int]:
    """Where each sign of a text that is no blank stands once blanks are single."""
    places, at, is_gap = [], 0, False
    for sign in text:
        if sign.isspace():
            is_gap = at > 0
            places.append(at)
            continue
        at += is_gap
        is_gap = False
        places.append(at)
        at += 1
    return places

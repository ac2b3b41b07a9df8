"""Boxes in answers: reading them, and how many are right at an IoU of 0.5.

Boxes are integers from 0 to 1000 of the image, xyxy, as InternVL writes them: `<box>[[x1, y1, x2, y2], ...]</box>`, or
the brackets alone. Text around the marks, such as `<ref>ship</ref>`, is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from vistruct.metrics.yardstick import commonest, standard_error

MIN_IOU = 0.5
NOTHING = {"none", "nothing", "no"}  # an answer that says: no box
_QUAD = r"\[\s*\d+\s*,\s*\d+\s*,\s*\d+\s*,\s*\d+\s*\]"
_QUADS = re.compile(rf"\s*(?:\[\s*{_QUAD}(?:\s*,\s*{_QUAD})*\s*\]|{_QUAD}(?:\s*,\s*{_QUAD})*)\s*")
_MARKED = re.compile(r"<box>(.*?)</box>", re.DOTALL)

CONSTANTS = 300  # commonest truths that are tried as the constant answer about single boxes
SET_CONSTANTS = 10  # the same, where whole sets have to be matched


def boxes_in(text: str) -> np.ndarray | None:
    """The boxes that a text gives.

    Returns:
        int64[N, 4]; no rows where the text says that there is none; None where it is malformed: neither boxes nor
        "none", an open bracket, not four integers, beyond 0 to 1000, or a right edge left of the left one.
    """
    marked = _MARKED.findall(text)
    if text.count("<box>") != len(marked) or text.count("</box>") != len(marked):
        return None
    parts = marked or _bracketed(text)
    if not parts:
        said = text.strip().lower().removesuffix(".")
        return np.zeros((0, 4), np.int64) if said in NOTHING else None
    if not all(_QUADS.fullmatch(part) for part in parts):
        return None
    numbers = [int(number[:5]) for part in parts for number in re.findall(r"\d+", part)]  # 5 digits are too large
    boxes = np.array(numbers, np.int64).reshape(-1, 4)
    is_sound = boxes.max() <= 1000 and (boxes[:, :2] <= boxes[:, 2:]).all()
    return boxes if is_sound else None


def _bracketed(text: str) -> list[str]:
    """Outermost brackets with a digit in them, the last one perhaps still open."""
    found, start, depth = [], 0, 0
    for at, sign in enumerate(text):
        if sign == "[":
            start = start if depth else at
            depth += 1
        elif sign == "]" and depth:
            depth -= 1
            if not depth:
                found.append(text[start : at + 1])
    return [part for part in [*found, text[start:] if depth else ""] if re.search(r"\d", part)]


def is_boxes(text: str) -> bool:
    """Whether a text is boxes and nothing else that is said; names in `<ref>` may stand beside them."""
    rest = re.sub(r"<ref>.*?</ref>", "", text, flags=re.DOTALL)
    boxes = boxes_in(rest)
    rest = _MARKED.sub("", rest)
    for part in _bracketed(rest):
        rest = rest.replace(part, "")
    return boxes is not None and len(boxes) > 0 and not re.search(r"\w", rest)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64[N, M], intersection over union of each of `a` [N, 4] with each of `b` [M, 4].

    Two boxes without any area have 1 where they are equal: an object may be thinner than a thousandth.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - common
    equal = (a[:, None] == b[None]).all(axis=2)
    return np.where(union > 0, common / np.maximum(union, 1), equal.astype(float))


def num_matched(found: np.ndarray, wanted: np.ndarray) -> int:
    """The most boxes that can be paired one to one at MIN_IOU; the order of the boxes does not matter.

    Source: Kuhn's augmenting paths.
    """
    near = iou(found, wanted) >= MIN_IOU
    owner: dict[int, int] = {}  # wanted -> found

    def place(at: int, seen: set[int]) -> bool:
        for other in near[at].nonzero()[0].tolist():
            if other not in seen:
                seen.add(other)
                if other not in owner or place(owner[other], seen):
                    owner[other] = at
                    return True
        return False

    return sum(place(at, set()) for at in range(len(found)))


def single_box_scores(answers: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    """Of questions for one box. Of several boxes in an answer the first counts.

    Returns:
        `acc50`: share of answers at MIN_IOU or above, and its standard `error`; `iou`: their mean, 0 for a malformed
        one; `malformed`: share without any box; `constant`: the largest acc50 that one of the commonest truths would
        have as the only answer.
    """
    wanted = np.stack([_boxes(truth)[0] for truth in truths])
    found = [boxes_in(answer) for answer in answers]
    none = np.full(4, -1)  # meets nothing
    first = np.stack([none if boxes is None or not len(boxes) else boxes[0] for boxes in found])
    own = np.array([iou(a[None], b[None])[0, 0] for a, b in zip(first, wanted, strict=True)])
    constants = np.stack([_boxes(truth)[0] for truth in commonest(truths, CONSTANTS)])
    return {
        "acc50": float((own >= MIN_IOU).mean()),
        "error": standard_error(own >= MIN_IOU),
        "iou": float(own.mean()),
        "malformed": float((first < 0).any(axis=1).mean()),
        "constant": float((iou(constants, wanted) >= MIN_IOU).mean(axis=1).max()),
    }


def box_set_scores(answers: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    """Of questions for all boxes of a kind: boxes are paired one to one within each question, then counted over all.

    Returns:
        `f1_50`, `precision50` and `recall50`, NaN where nothing is found or wanted; `malformed`: share of answers that
        are neither boxes nor "none", which give no box; `constant`: the largest f1_50 that one of the commonest
        truths would have as the only answer.
    """
    wanted = [_boxes(truth) for truth in truths]
    found = [boxes_in(answer) for answer in answers]
    given = [np.zeros((0, 4), np.int64) if boxes is None else boxes for boxes in found]
    right = sum(num_matched(a, b) for a, b in zip(given, wanted, strict=True))
    num_given, num_wanted = sum(map(len, given)), sum(map(len, wanted))
    constants = [_boxes(truth) for truth in commonest(truths, SET_CONSTANTS)]
    best = max(
        _f1(sum(num_matched(boxes, other) for other in wanted), len(boxes) * len(wanted), num_wanted)
        for boxes in constants
    )
    return {
        "f1_50": _f1(right, num_given, num_wanted),
        "precision50": right / num_given if num_given else float("nan"),
        "recall50": right / num_wanted if num_wanted else float("nan"),
        "malformed": sum(boxes is None for boxes in found) / len(found),
        "constant": best,
    }


def _f1(right: int, num_given: int, num_wanted: int) -> float:
    both = num_given + num_wanted
    return 2 * right / both if both else 1.0  # nothing wanted and nothing given


def _boxes(truth: str) -> np.ndarray:
    boxes = boxes_in(truth)
    assert boxes is not None  # a family whose truths are not boxes is measured otherwise
    return boxes

"""Boxes in answers: how many are right at an IoU of 0.5.

How boxes are written is told by `data.formats.chat.text_boxes`; ours are integers from 0 to 1000 of the image. Truths
in another scale are measured in theirs: an intersection over union is the same in every scale of an image's sides.
Text around the boxes, such as `<ref>ship</ref>`, is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vistruct.data.formats.chat.text_boxes import Scale, read_boxes, scale_of
from vistruct.metrics.yardstick import commonest, standard_error

MIN_IOU = 0.5
_FULL: dict[Scale, float] = {"0 to 1": 1, "0 to 1000": 1000, "pixels": np.inf}  # the largest number of a box

CONSTANTS = 300  # commonest truths that are tried as the constant answer about single boxes
SET_CONSTANTS = 10  # the same, where whole sets have to be matched


def boxes_in(text: str, scale: Scale = "0 to 1000") -> np.ndarray | None:
    """The boxes that a text gives in a scale.

    Returns:
        float64[N, 4]; no rows where the text says that there is none; None where it is malformed, see `read_boxes`,
        or beyond the scale; of 0 to 1000 also where a number is not whole.
    """
    boxes = read_boxes(text)
    if boxes is None or not len(boxes):
        return boxes
    is_whole = scale != "0 to 1000" or (boxes == boxes.round()).all()
    return boxes if is_whole and boxes.max() <= _FULL[scale] else None


def scale_in(truths: Sequence[str]) -> Scale:
    """The scale of a family's boxes: pixels where one of them can be nothing else, shares where all are."""
    boxes = [found for truth in truths if (found := read_boxes(truth)) is not None and len(found)]
    return scale_of(np.concatenate(boxes)) if boxes else "0 to 1000"


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
    return np.where(union > 0, common / np.where(union > 0, union, 1), equal.astype(float))


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
    scale = scale_in(truths)
    found = [boxes_in(answer, scale) for answer in answers]
    none = np.full(4, -1.0)  # meets nothing
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
    scale = scale_in(truths)
    found = [boxes_in(answer, scale) for answer in answers]
    given = [np.zeros((0, 4)) if boxes is None else boxes for boxes in found]
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
    boxes = read_boxes(truth)
    assert boxes is not None  # a family whose truths are not boxes is measured otherwise
    return boxes

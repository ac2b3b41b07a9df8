"""What one question adds to the figures of what is drawn: each figure is a sum over questions, divided by another.

Pairs are made one to one within a question, as many (or as near) as there can be, whatever the order of the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from vistruct.metrics.drawn import NOTHING, Drawn, Plan, Question, overlaps, together
from vistruct.metrics.grounding import MIN_IOU
from vistruct.metrics.vqa import normalised

Alike = Callable[[Sequence[str], Sequence[str]], np.ndarray]  # words said, words of the truth -> float[N, M]
Sums = dict[str, tuple[float, float]]  # by figure: what is added above and below
AREAS = ("box", "mask")  # units whose overlap is an IoU; others have names of their own


def drawn_sums(
    question: Question,
    unit: str,
    alike: Callable[[Sequence[str], Sequence[str]], np.ndarray],
    *,
    is_single: bool,
    is_one_phrase: bool,
    sigmas: Sequence[float] | None = None,
) -> Sums:
    """The sums of one question and unit; see `Grounding.compute` for what they are of.

    Args:
        alike: bool[N, M], which words said are the same as which of the truth.
        is_single: whether questions of the family ask for one object at most: it counts where it is, whatever it is
            called, and of several the one that the model is surest of.
        is_one_phrase: whether they ask for one thing at most, so that all masks of an answer are one region.
    """
    found, truth = question.found.get(unit, NOTHING), question.truth.get(unit, NOTHING)
    n, m = len(found), len(truth)
    sums: Sums = {
        "count": (float(n == m), 1.0),
        "count_mae": (float(abs(n - m)), 1.0),
        "no_answer": (float(m > 0 and n == 0), float(m > 0)),
    }
    if unit == "depth":
        shares = np.array(question.depths, np.float64).reshape(-1, 2).sum(axis=0)
        return sums | {
            name: (float(total), float(len(question.depths)))
            for name, total in zip(("abs_rel", "delta1"), shares, strict=True)
        }
    overlap = overlaps(unit, found, truth, sigmas)
    is_named = alike(found.names, truth.names)
    is_near = overlap >= MIN_IOU
    right = _paired((is_near & (is_named | is_single)).astype(float))
    placed = _paired(is_near * (1 + is_named / (2 + 2 * min(n, m))))  # of equally many pairs those of the same words
    sums |= {
        "f1_50": (2.0 * len(right), float(n + m)),
        "precision50": (float(len(right)), float(n)),
        "recall50": (float(len(right)), float(m)),
        "named": (float(sum(is_named[i, j] for i, j in placed)), float(len(placed))),
    }
    if unit != "point":
        nearness = float(sum(overlap[i, j] for i, j in _paired(overlap)))
        sums["OKS" if unit == "keypoint" else "mIoU"] = (nearness, float(m))
    else:
        sums["distance"] = _distance(found, truth)
    if is_single:
        own = float(overlap[found.scores.argmax(), 0]) if n and m else float(n == m)
        sums["inside" if unit == "point" else "acc50"] = (float(own >= MIN_IOU), 1.0)
        if unit not in ("point", "keypoint"):
            sums["iou"] = (own, 1.0)
    if unit == "mask" and is_one_phrase:
        both, either = together(found, truth)
        sums["cIoU"] = (both, either)
        sums["gIoU"] = (both / either if either else float(n == m == 0), 1.0)
    return sums


def plan_sums(question: Question) -> Sums:
    """Of an answer as a whole: its plan, its form, and whether it draws in another unit than it should."""
    sums: Sums = {"broken": (float(bool(question.defects)), 1.0)}
    if question.truth:
        sums["wrong_unit"] = (float(bool(question.found.keys() - question.truth.keys())), 1.0)
    if question.true_plan or question.plan:
        plan = _multiset(question.plan)
        sums["plan"] = (float(plan == _multiset(question.true_plan)), 1.0)
        sums["plan_kept"] = (float(plan == _multiset(question.drawn)), 1.0)
    return sums


def same_words(said: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """float64[N, M], 1 where two are the same but for capitals, marks, articles, and numbers as words."""
    return exactly([normalised(text) for text in said], [normalised(text) for text in wanted])


def exactly(said: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """float64[N, M], 1 where two are letter by letter the same."""
    return np.array([[float(a == b) for b in wanted] for a in said]).reshape(len(said), len(wanted))


def _multiset(plan: Plan) -> Counter[tuple[str, str, int]]:
    return Counter((normalised(name), unit, number) for name, unit, number in plan)


def _paired(weights: np.ndarray) -> list[tuple[int, int]]:
    """One to one, with the largest sum of weights; pairs without any weight are none."""
    rows, columns = linear_sum_assignment(weights, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if weights[i, j] > 0]


def _distance(found: Drawn, truth: Drawn) -> tuple[float, float]:
    """Pixels from each point to the middle of its object's box, paired so that they are shortest; and how many."""
    apart = np.linalg.norm(found.centres[:, None] - truth.centres[None], axis=2)
    pairs = linear_sum_assignment(apart)
    return float(apart[pairs].sum()), float(len(pairs[0]))

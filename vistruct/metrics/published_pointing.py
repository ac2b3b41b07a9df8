"""The figures that the evaluators of REF-VLM (published as VT-PLUG) compute, to stand beside what others report.

Source: MacavityT/REF-VLM at cdfeccd, what its evaluators compute (see tests/golden/vtplug_metrics); the rules are:
    boxes are relative to the square around the image, which lies in its middle, and rounded to three decimals;
    referring boxes: one of as many as there are is compared with that in the same place of the list, else the best
        pair counts, and no answer is a box of no area;
    referring masks: the first of each side; samples without an answer are left out, the mean is over 1e-5 more;
    sets: pairs by falling overlap, whatever they are called, and the mean over the pairs of an image, then over images;
        by class each found object has that overlap which is the best with objects of the most similar words;
    recall: the same pairs, counted until the first whose overlap or similarity of words is below 0.5;
    short answers: what stands behind "the answer is ", up to a full stop, in small letters; a true answer of one word
        need only occur.
Differs: an image without an answer, or with none to be found, is 0 in the mean over images; the original crashes.
None of these is sound: see docs/vtplug.md. METEOR, which it reports too, needs Java or WordNet and is not here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vistruct.errors import UserError
from vistruct.metrics.drawn import NOTHING, Drawn, Question, keep, overlaps, together
from vistruct.metrics.drawn_numbers import Alike
from vistruct.metrics.grounding import MIN_IOU, iou

MASKED = 1e-5  # added to the number of samples


def published_scores(questions: Sequence[Question], unit: str, alike: Alike) -> dict[str, float]:
    """`acc50` and `iou` of one box at most, `cIoU` and `gIoU` of one mask at most, else `mIoU`, `mIoU_class`, `recall`;
    nothing of other units.

    Raises:
        UserError: boxes of an image whose size nobody says.
    """
    sides = [(one.found.get(unit, NOTHING), one.truth.get(unit, NOTHING)) for one in questions]
    is_single = max(len(truth) for _, truth in sides) <= 1
    if unit == "mask":
        shared = [overlaps(unit, *pair) for pair in sides]
    elif unit == "box":
        boxes = [
            (squared(one, f.boxes_xyxy), squared(one, t.boxes_xyxy))
            for one, (f, t) in zip(questions, sides, strict=True)
        ]
        if is_single:
            return referring_boxes(boxes)
        shared = [rounded_iou(*pair) for pair in boxes]
    else:
        return {}
    if is_single:
        return referring_masks([_first(*pair) for pair in sides])
    words = [np.asarray(alike(found.names, truth.names), np.float64) for found, truth in sides]
    whole, by_class = (mean_overlap(shared, words, by_class=flag) for flag in (False, True))
    return {"mIoU": whole, "mIoU_class": by_class, "recall": recall(shared, words)}


def squared(question: Question, boxes_xyxy: np.ndarray) -> np.ndarray:
    """Pixels -> float64[N, 4], relative to the square around the image."""
    if question.size_hw is None:
        what = "boxes as published are relative to the image, and nobody says how large it is"
        raise UserError(what, where=question.id, fix="leave `published` out of the metric")
    height, width = question.size_hw
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    return (boxes_xyxy + np.array([left, top, left, top])) / side


def rounded_iou(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """float64[N, M], of boxes float64[N, 4] and float64[M, 4] to three decimals."""
    return iou(found.round(3), truth.round(3))


def referring_boxes(boxes: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Of relative boxes xyxy found and true of each question: `acc50`, `iou`."""
    own, hits = [], []
    for found, truth in boxes:
        shared = rounded_iou(found if len(found) else np.zeros((1, 4)), truth)
        own.append(float(np.diag(shared).mean() if len(found) == len(truth) else shared.max(initial=0.0)))
        hits.append(own[-1] > MIN_IOU)
    return {"acc50": float(np.mean(hits)), "iou": float(np.mean(own))}


def referring_masks(areas: Sequence[tuple[float, float] | None]) -> dict[str, float]:
    """Of the pixels that the first masks share, and that either has; None where there is no answer."""
    said = [pair for pair in areas if pair is not None]
    both, either = np.array(said, np.float64).reshape(-1, 2).T
    own = np.divide(both, either, out=np.ones(len(said)), where=either > 0)
    total = either.sum()
    return {
        "cIoU": float(both.sum() / total) if total else float("nan"),
        "gIoU": float(own.sum() / (len(own) + MASKED)),
    }


def mean_overlap(shared: Sequence[np.ndarray], alike: Sequence[np.ndarray], by_class: bool = False) -> float:
    """Over images, of float[N, M] overlaps and similarities of words of each."""
    own = []
    for overlap, words in zip(shared, alike, strict=True):
        if not overlap.size:
            own.append(0.0)
        elif by_class:
            own.append(float(np.where(words == words.max(axis=1, keepdims=True), overlap, 0).max(axis=1).mean()))
        else:
            own.append(float(np.mean([overlap[i, j] for i, j in _falling(overlap)])))
    return float(np.mean(own))


def recall(shared: Sequence[np.ndarray], alike: Sequence[np.ndarray]) -> float:
    """Over all objects of all images together."""
    right = 0
    for overlap, words in zip(shared, alike, strict=True):
        for i, j in _falling(overlap):
            if overlap[i, j] < MIN_IOU or words[i, j] < MIN_IOU:
                break
            right += 1
    wanted = sum(overlap.shape[1] for overlap in shared)
    return right / wanted if wanted else float("nan")


def short_answer(text: str) -> str:
    """What a sentence answers: "The answer is Red. Or so." -> red."""
    small = text.lower()
    return small.rpartition("the answer is ")[2].partition(".")[0].strip()


def is_right(answer: str, truths: Sequence[str]) -> bool:
    """Whether a short answer counts: as one of those of several people, or as the only one."""
    said = short_answer(answer)
    wanted = [short_answer(text) for text in truths]
    is_word = len(wanted) == 1 and len(wanted[0].split()) == 1
    return wanted[0] in said if is_word else said in wanted


def short_answers(answers: Sequence[str], truths: Sequence[Sequence[str]]) -> dict[str, float]:
    """`accuracy`; where every truth is yes or no `precision`, `recall` and `f1` of yes, and `yes`, how often it is
    said: any answer that does not begin so is no there."""
    wanted = [short_answer(first) for first, *_ in truths]
    if not set(wanted) <= {"yes", "no"}:
        return {"accuracy": float(np.mean([is_right(a, told) for a, told in zip(answers, truths, strict=True)]))}
    said, true = np.array([short_answer(a).startswith("yes") for a in answers]), np.array(wanted) == "yes"
    right = float((said & true).sum())
    return {
        "accuracy": float((said == true).mean()),
        "precision": right / said.sum() if said.any() else 0.0,
        "recall": right / true.sum() if true.any() else 0.0,
        "f1": 2 * right / (said.sum() + true.sum()) if said.any() or true.any() else 0.0,
        "yes": float(said.mean()),
    }


def _falling(overlap: np.ndarray) -> list[tuple[int, int]]:
    """Pairs, each time the best that is left."""
    left, pairs = overlap.copy(), []
    for _ in range(min(overlap.shape)):
        i, j = divmod(int(left.argmax()), left.shape[1])
        pairs.append((i, j))
        left[i, :] = left[:, j] = -1.0
    return pairs


def _first(found: Drawn, truth: Drawn) -> tuple[float, float] | None:
    first = np.zeros(1, np.int64)
    if not len(found):
        return None
    return together(keep(found, first), keep(truth, first) if len(truth) else truth)

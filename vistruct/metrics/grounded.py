"""What a model gets right that answers and points: what it draws by unit, how it counts and plans, what it says.

Every prediction brings its truth. Questions are measured by family; docs/vtplug.md explains each figure.
Source: accuracy of boxes at an IoU of 0.5 and the sets of referring expressions (Yu et al., arXiv:1608.00272); cIoU and
    gIoU with questions about nothing (Liu et al., GRES, arXiv:2306.00968); AP and OKS, cocodataset.org; absolute
    relative error and delta 1 of depth (Eigen et al., arXiv:1406.2283).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from pydantic import Field

from vistruct.config import Part
from vistruct.contracts import AnswerPrediction, GroundedPrediction
from vistruct.errors import UserError
from vistruct.metrics.answers import DIRECTIONS, Answers
from vistruct.metrics.drawn import NOTHING, Question, condensed
from vistruct.metrics.drawn_numbers import Alike, Sums, drawn_sums, exactly, plan_sums, same_words
from vistruct.metrics.drawn_precision import average_precisions
from vistruct.metrics.forms import form_of_family
from vistruct.metrics.published_pointing import published_scores, short_answers
from vistruct.metrics.yardstick import standard_error

Scores = dict[str, float]
ALIKE: dict[str, Alike] = {"normalised": same_words, "exact": exactly}
MORE = ("f1_50", "precision50", "recall50", "acc50", "iou", "mIoU", "cIoU", "gIoU", "AP", "AP50", "OKS", "inside",
        "delta1", "named", "count", "plan", "plan_kept")  # fmt: skip
LESS = ("abs_rel", "distance", "count_mae", "no_answer", "wrong_unit", "broken")
TOTALS = ("f1_50", "count", "count_mae", "plan", "plan_kept", "wrong_unit", "broken")  # over all units and families
OWN = ("gIoU", "iou", "OKS", "inside", "f1_50", "delta1")  # an answer's own score: the first that it has
SHARES = ("acc50", "inside", "delta1")  # means over questions, whose standard error is given
SHOWN = 2000  # answers that details keep


class GroundedConfig(Part):
    """How many are asked, and when two phrases are the same words."""

    kind: Literal["grounded"] = "grounded"
    limit: int | None = Field(None, gt=0)  # samples, a random choice that never changes; None: all
    words: str = "normalised"  # or "exact", or "module:function" of words said and true words -> float[N, M] in [0, 1]
    min_alike: float = Field(0.5, gt=0, le=1)  # from which on words that such a function compares are the same
    sigmas: tuple[float, ...] | None = None  # of each key point, see `drawn.py`; None: COCO's
    published: bool = False  # add what the evaluators of REF-VLM compute, see `published_pointing.py`

    def build(self, dataset: Any) -> Grounding:
        """The data set is not asked: every prediction brings its truth.

        Raises:
            UserError: `words` names no function.
        """
        return Grounding(self)

    def usual(self, data: Any) -> str:
        """F1 of all that is drawn."""
        return "f1_50"

    def higher_is_better(self, number: str) -> bool | None:
        """Of scores more is better, of errors and missing answers less; counts and constant answers are no merit."""
        figure = number.partition("/")[0].removeprefix("published_")
        return True if figure in MORE else False if figure in LESS else DIRECTIONS.get(figure)


class Grounding:
    """Collects answers that point; families are measured apart, and each unit of a family."""

    def __init__(self, config: GroundedConfig | None = None) -> None:
        self.config = config or GroundedConfig()
        self.likeness = alike_of(self.config.words)
        self.asked: list[Question] = []
        self.answers = Answers()  # the words
        self.sums: dict[str, dict[str, list[float]]] = {}  # see `details`
        self.scores: dict[int, float] = {}  # of questions by their place in `asked`

    @staticmethod
    def condense(prediction: GroundedPrediction) -> Question:
        """What is sent of a prediction to the rank that measures: its masks as run lengths."""
        return condensed(prediction)

    def update(self, predictions: Sequence[GroundedPrediction | Question]) -> None:
        """Add answers, in any number and order."""
        self.asked += [condensed(one) if isinstance(one, GroundedPrediction) else one for one in predictions]

    def compute(self) -> Scores:
        """The figures; NaN where there is nothing to divide by.

        Returns:
            Of each family, as `NUMBER/family`, or `NUMBER/family (unit)` where it asks for several units:
            `f1_50`, `precision50` and `recall50` of objects paired one to one at an IoU (or OKS) of 0.5 or above, or
            of points in their objects, the words of the phrase being right; `named`, the part of those in the right
            place whose words are; `mIoU` (or `OKS`) over the true objects, 0 for one that is missing, whatever it is
            called; `AP` and `AP50`. Of families that ask for one object at most, in the place of these two, `acc50`
            and `iou` of the one that is drawn (of several the surest), a missing one being wrong, and none right
            where there is none; the words do not count. Of masks of one phrase `cIoU` and `gIoU` of all of an answer
            together. Of points `inside` and `distance` in pixels; of depth `abs_rel` and `delta1`. `count`, part of
            the answers with as many objects as there are, and `count_mae`; `no_answer`, part without any where there
            are some; `plan`, part whose plan is the true one, `plan_kept`, whose plan says what they draw;
            `wrong_unit`; `broken`, part with a defect of form. What is said is measured as `Answers.compute` tells,
            of families that draw nothing, or describe.
            The same without a family over everything, and as `NUMBER/all (unit)` over several families.
        """
        known = [one for one in self.asked if one.has_truth]
        totals: Scores = {"f1_50": float("nan"), "questions": float(len(known))}  # the usual one first, always there
        counted = {
            "unnamed": sum(not one.family for one in known),
            "no_truth": len(self.asked) - len(known),
            "no_keypoints": sum(one.has_unseen for one in known),
        }
        totals |= {name: float(number) for name, number in counted.items() if number}
        families: dict[str, list[int]] = {}
        for place, one in enumerate(self.asked):
            if one.has_truth:
                families.setdefault(one.family, []).append(place)
        figures: Scores = {}
        of_unit: dict[str, list[tuple[str, list[int]]]] = {}
        for family, places in sorted(families.items()):
            ones = [self.asked[place] for place in places]
            units = list(dict.fromkeys(unit for one in ones for unit in one.truth))
            self._say(family, ones, units)
            if self.config.published and not units:
                figures |= _published_words(family, ones)
            for unit in units:
                asked = [p for p in places if unit in self.asked[p].truth or not self.asked[p].truth]
                label = family or f"({unit})"
                label = f"{label} ({unit})" if family and len(units) > 1 else label
                figures |= self._unit(unit, label, asked)
                of_unit.setdefault(unit, []).append((label, asked))
            for place in places if units else ():
                self._add(plan_sums(self.asked[place]), [None, family or None], place)
        for unit, groups in of_unit.items():
            if len(groups) > 1:
                figures |= self._all(unit, groups)
        words = self.answers.compute()
        totals |= {name: value for name, value in words.items() if "/" not in name and name not in totals}
        totals |= {name: ratio(own) for name, own in self.sums.items() if "/" not in name}
        figures = {name: value for name, value in words.items() if "/" in name} | figures
        return {**totals, **figures, **{name: ratio(own) for name, own in self.sums.items() if "/" in name}}

    def details(self) -> dict[str, Any]:
        """Plain json: `per_image`, of each number that is a ratio of sums, by image, what is divided by what;
        `answers`, by question, what was asked and said and the truth; `defects`, how often each was met."""
        defects: dict[str, int] = {}
        for one in self.asked:
            for defect in one.defects:
                defects[defect] = defects.get(defect, 0) + 1
        answers = [
            {"id": one.id, "family": one.family, "question": one.question, "said": one.words, "truth": one.true_words,
             "score": self.scores.get(place)}
            for place, one in enumerate(self.asked[:SHOWN]) if one.has_truth
        ]  # fmt: skip
        return {"per_image": self.answers.by_image | self.sums, "answers": answers, "defects": defects}

    def _say(self, family: str, ones: Sequence[Question], units: Sequence[str]) -> None:
        """Hand the words on, of families that draw nothing, whose form is told, or whose truths are descriptions."""
        told = [one for one in ones if one.true_words or not units]
        truths = [one.true_words for one in told]
        if units and not ones[0].form and (not truths or form_of_family("", truths) != "caption"):
            return
        self.answers.update(
            [
                AnswerPrediction(id=one.id, image_id=one.image_id, question=one.question, answer=one.words,
                                 truth=one.true_words, family=family, others=one.others, form=one.form)
                for one in told
            ]
        )  # fmt: skip

    def _unit(self, unit: str, label: str, places: Sequence[int]) -> Scores:
        ones = [self.asked[place] for place in places]
        truths = [one.truth.get(unit, NOTHING) for one in ones]
        is_single = max(map(len, truths)) <= 1
        is_one_phrase = max(len(set(truth.names)) for truth in truths) <= 1
        told: list[float] = []
        for place, one in zip(places, ones, strict=True):
            sums = drawn_sums(one, unit, self._alike, is_single=is_single, is_one_phrase=is_one_phrase,
                              sigmas=self.config.sigmas)  # fmt: skip
            self._add(sums, [None, label], place)
            own, share = (
                next((sums[name][0] / sums[name][1] for name in names if name in sums and sums[name][1]), None)
                for names in (OWN, SHARES)
            )
            self.scores |= {} if own is None else {place: own}
            told += [] if share is None else [share]
        figures = {f"questions/{label}": float(len(ones))}
        if told:
            figures[f"error/{label}"] = standard_error(np.array(told))
        if not is_single and unit not in ("point", "depth"):
            figures |= self._precisions(unit, label, ones)
        if self.config.published:
            scores = published_scores(ones, unit, self.likeness)
            figures |= {f"published_{name}/{label}": value for name, value in scores.items()}
        return figures

    def _all(self, unit: str, groups: Sequence[tuple[str, list[int]]]) -> Scores:
        """The figures of a unit over several families."""
        label = f"all ({unit})"
        figures = {f"questions/{label}": float(sum(len(places) for _, places in groups))}
        names = dict.fromkeys(name.partition("/")[0] for group, _ in groups for name in self._names(group))
        for name in names:
            own = self.sums.setdefault(f"{name}/{label}", {})
            for group, _ in groups:
                for image, (above, below) in self.sums.get(f"{name}/{group}", {}).items():
                    sums = own.setdefault(image, [0.0, 0.0])
                    sums[0] += above
                    sums[1] += below
        sets = [self.asked[p] for _, places in groups for p in places if self._is_set(unit, places)]
        if sets and unit not in ("point", "depth"):
            figures |= self._precisions(unit, label, sets)
        return figures

    def _names(self, label: str) -> list[str]:
        return [name for name in self.sums if name.partition("/")[2] == label]

    def _is_set(self, unit: str, places: Sequence[int]) -> bool:
        return max(len(self.asked[place].truth.get(unit, NOTHING)) for place in places) > 1

    def _precisions(self, unit: str, label: str, ones: Sequence[Question]) -> Scores:
        found = average_precisions(ones, unit, self.likeness, self.config.min_alike, self.config.sigmas)
        return {f"{name}/{label}": value for name, value in found.items()}

    def _alike(self, said: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
        return np.asarray(self.likeness(said, wanted)) >= self.config.min_alike

    def _add(self, sums: Sums, labels: Sequence[str | None], place: int) -> None:
        for label in labels:
            for name, (above, below) in sums.items():
                if label is None and name not in TOTALS:
                    continue
                own = self.sums.setdefault(name if label is None else f"{name}/{label}", {})
                one = own.setdefault(self.asked[place].image_id, [0.0, 0.0])
                one[0] += above
                one[1] += below


def _published_words(family: str, ones: Sequence[Question]) -> Scores:
    told = [one for one in ones if one.true_words]
    scores = short_answers([one.words for one in told], [(one.true_words, *one.others) for one in told]) if told else {}
    return {f"published_{name}/{family or '(words)'}": value for name, value in scores.items()}


def ratio(by_image: dict[str, list[float]]) -> float:
    """Of the sums over all images; NaN of nothing."""
    above, below = np.array(list(by_image.values()), np.float64).reshape(-1, 2).sum(axis=0)
    return float(above / below) if below else float("nan")


@lru_cache(maxsize=8)
def alike_of(words: str) -> Alike:
    """The function that `GroundedConfig.words` names.

    Raises:
        UserError: there is none.
    """
    if words in ALIKE:
        return ALIKE[words]
    module, colon, name = words.partition(":")
    fix = f"one of {', '.join(ALIKE)}, or module:function of a module that can be imported"
    if not colon:
        raise UserError(f"no way to compare words {words!r}", where="metric.words", fix=fix)
    try:
        found = vars(importlib.import_module(module)).get(name)
    except ModuleNotFoundError as error:
        raise UserError(f"no module {error.name!r}", where=f"metric.words: {words}", fix=fix) from None
    if not callable(found):
        raise UserError(f"{module} has no function {name!r}", where="metric.words", fix=fix)
    return found

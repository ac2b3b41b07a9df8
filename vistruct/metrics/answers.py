"""What a model that answers questions gets right, by family of questions.

Every number stands beside that of the best answer which does not look: always the same one. docs/evaluation.md
explains each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from vistruct.config import Part
from vistruct.contracts import AnswerPrediction
from vistruct.metrics import captions
from vistruct.metrics.forms import Form, cells_in, form_of, form_of_family, mapped_name, number_in, plain, polarity
from vistruct.metrics.grounding import box_set_scores, scale_in, single_box_scores
from vistruct.metrics.vqa import agreement, normalised
from vistruct.metrics.yardstick import commonest, standard_error

Scores = dict[str, float]

# The number of a form that stands for it in tables; where it is not the accuracy, its name says what it is.
MAIN: dict[Form, str] = {
    "words": "accuracy",
    "yes_no": "accuracy",
    "number": "accuracy",
    "box": "acc50",
    "boxes": "f1_50",
    "map": "cells",
    "caption": "cider_d",
    "vqa": "accuracy",
}
MEASURES = (*dict.fromkeys(MAIN.values()), "delta1")  # of families, the first that it has

SCALES = {"0 to 1": "boxes_0_to_1", "pixels": "boxes_in_pixels"}  # questions whose boxes are no integers to 1000
DIRECTIONS = {
    **dict.fromkeys((*MAIN.values(), "accuracy_macro", "iou", "precision50", "recall50", "bleu4", "rouge_l"), True),
    **dict.fromkeys(("mae", "no_number", "neither", "malformed"), False),
}


class AnswersConfig(Part):
    """How many are asked."""

    kind: Literal["answers"] = "answers"
    limit: int | None = Field(None, gt=0)  # samples, a random choice that never changes; None: all

    def build(self, dataset: Any) -> Answers:
        """The data set is not asked: every prediction brings its truth."""
        return Answers()

    def usual(self, data: Any) -> str:
        """The accuracy over all families that have one."""
        return "accuracy"

    def higher_is_better(self, number: str) -> bool | None:
        """Of scores more is better, of errors and unreadable answers less; counts and constant answers are no merit."""
        return DIRECTIONS.get(number.partition("/")[0])


class Answers:
    """Collects answers to questions; families are measured apart, each by the form of its truths."""

    def __init__(self) -> None:
        self.asked: list[AnswerPrediction] = []
        self.by_image: dict[str, dict[str, list[float]]] = {}  # see `details`

    def update(self, predictions: Sequence[AnswerPrediction]) -> None:
        """Add answers, in any number and order."""
        self.asked += predictions

    def compute(self) -> Scores:
        """The figures.

        Returns:
            `questions`; `accuracy` and `accuracy_macro` over the families that are measured by it, and `constant`,
            the accuracy of each family's best constant answer; for each family `questions/<family>`, its MAIN
            number, `constant/<family>`, `error/<family>` (the standard error of the number, where it is a mean over
            questions) and others by form. A family in brackets is a form: that of questions which
            name no family, `unnamed` of them. Families whose boxes are of another scale than 0 to 1000 say so
            (`boxes_0_to_1/<family>`, `boxes_in_pixels/<family>`). `cider_d` and `bleu4` of all descriptions together
            where several families are of them. `no_truth` questions without an answer to compare with are not
            measured.
        """
        known = [one for one in self.asked if one.truth]
        groups: dict[tuple[str, Form | None], list[AnswerPrediction]] = {}
        for one in known:
            groups.setdefault((one.family or f"({one.form or form_of(one.truth)})", one.form), []).append(one)
        totals = {"questions": float(len(known))}
        totals |= _counted(unnamed=sum(not one.family for one in known), no_truth=len(self.asked) - len(known))
        figures: Scores = {}
        exact: list[tuple[int, float, float]] = []  # questions, accuracy, accuracy of the constant answer
        described: list[list[AnswerPrediction]] = []
        several = Counter(name for name, _ in groups)
        for (name, told), ones in sorted(groups.items(), key=lambda pair: (pair[0][0], pair[0][1] or "")):
            truths = [one.truth for one in ones]
            form = told or form_of_family(name, truths)
            family = name if several[name] == 1 else f"{name} ({form})"
            answers = [one.answer for one in ones]
            if form in AGAINST_ALL:
                scores = AGAINST_ALL[form](answers, [(one.truth, *one.others) for one in ones])
            else:
                scores = SCORES[form](answers, truths)
            described += [ones] if form == "caption" else []
            self._keep(form, family, ones, "accuracy" in scores)
            figures |= {f"questions/{family}": float(len(ones))}
            if form in ("box", "boxes") and (scale := scale_in(truths)) != "0 to 1000":
                figures |= {f"{SCALES[scale]}/{family}": float(len(ones))}
            figures |= {f"{name}/{family}": value for name, value in scores.items()}
            if "accuracy" in scores:
                exact.append((len(ones), scores["accuracy"], scores["constant"]))
        if exact:
            number, right, constant = np.array(exact).T
            totals["accuracy"] = float((number * right).sum() / number.sum())
            totals["accuracy_macro"] = float(right.mean())
            totals["constant"] = float((number * constant).sum() / number.sum())
        if len(described) > 1:
            together = [one for ones in described for one in ones]
            answers, references = [one.answer for one in together], [(one.truth, *one.others) for one in together]
            scores = caption_scores(answers, references)
            totals |= {name: scores[name] for name in ("cider_d", "bleu4")}
            self._add("cider_d", together, captions.cider_d_each(answers, references))
        return {**totals, **figures}

    def details(self) -> dict[str, Any]:
        """`per_image`: of each number that is a mean over questions, by image, the sum over the questions about it and
        how many there are."""
        return {"per_image": self.by_image} if self.by_image else {}

    def _keep(self, form: Form, family: str, ones: Sequence[AnswerPrediction], is_exact: bool) -> None:
        each = each_of(form, [one.answer for one in ones], [(one.truth, *one.others) for one in ones])
        if each is not None:
            self._add(f"{MAIN[form]}/{family}", ones, each)
            if is_exact:
                self._add("accuracy", ones, each)

    def _add(self, number: str, ones: Sequence[AnswerPrediction], each: Sequence[float]) -> None:
        own = self.by_image.setdefault(number, {})
        for one, value in zip(ones, each, strict=True):
            sums = own.setdefault(one.image_id, [0.0, 0.0])
            sums[0] += float(value)
            sums[1] += 1.0


def each_of(form: Form, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Sequence[float] | None:
    """What each question adds to its form's number in `MAIN`; None where that is no mean over questions."""
    if form == "vqa":
        return [agreement(answer, told) for answer, told in zip(answers, references, strict=True)]
    if form == "caption":
        return captions.cider_d_each(answers, references)
    read: Callable[[str], object] | None = {"words": plain, "yes_no": polarity, "number": number_in}.get(form)
    if read is None:
        return None
    return [float(read(answer) == read(told[0])) for answer, told in zip(answers, references, strict=True)]


@dataclass(frozen=True, kw_only=True)
class FamilyScore:
    """A line of a table."""

    family: str
    questions: int
    measure: str  # one of MEASURES
    score: float
    constant: float  # of the best constant answer; NaN of what is drawn
    error: float  # standard error of the score; NaN where it is no mean over questions


def by_family(figures: Mapping[str, float]) -> list[FamilyScore]:
    """The lines of a table, from what `Answers.compute` or `Grounding.compute` gives; none where nothing was asked."""
    families = [name.removeprefix("questions/") for name in figures if name.startswith("questions/")]
    lines = []
    for family in families:
        measure = next(name for name in MEASURES if f"{name}/{family}" in figures)
        lines.append(
            FamilyScore(
                family=family,
                questions=int(figures[f"questions/{family}"]),
                measure=measure,
                score=figures[f"{measure}/{family}"],
                constant=figures.get(f"constant/{family}", float("nan")),
                error=figures.get(f"error/{family}", float("nan")),
            )
        )
    return lines


def _counted(**numbers: int) -> Scores:
    return {name: float(number) for name, number in numbers.items() if number}


# --- one form each: answers and truths to figures


def word_scores(answers: Sequence[str], truths: Sequence[str]) -> Scores:
    """`accuracy`: share of answers that are the truth, compared as `plain` texts."""
    return _exact([plain(text) for text in answers], [plain(text) for text in truths])


def yes_no_scores(answers: Sequence[str], truths: Sequence[str]) -> Scores:
    """`accuracy` of the first word; `yes`: share of answers that say so, 1 or 0 of a model that does not look;
    `neither`: share that says neither."""
    said = [polarity(text) for text in answers]
    share = {word: said.count(word) / len(said) for word in ("yes", "")}
    return {**_exact(said, [polarity(text) for text in truths]), "yes": share["yes"], "neither": share[""]}


def number_scores(answers: Sequence[str], truths: Sequence[str]) -> Scores:
    """`accuracy`: share of equal numbers; `mae`: mean absolute error of the answers that are numbers (NaN where none
    is); `no_number`: share that is none; `mae_constant`: error of the median truth."""
    said = [number_in(text) for text in answers]
    wanted = [number_in(text) for text in truths]
    errors = [abs(a - b) for a, b in zip(said, wanted, strict=True) if a is not None and b is not None]
    true = np.array(wanted, float)
    return {
        **_exact(said, wanted),
        "mae": float(np.mean(errors)) if errors else float("nan"),
        "mae_constant": float(np.abs(true - np.median(true)).mean()),
        "no_number": said.count(None) / len(said),
    }


def map_scores(answers: Sequence[str], truths: Sequence[str]) -> Scores:
    """`cells`: share of cells that are right, a missing one being wrong; `malformed`: share of answers with another
    number of cells; `constant`: of the map of each cell's commonest word."""
    names = [mapped_name(truth) or "" for truth in truths]
    wanted = [cells_in(truth, name) for truth, name in zip(truths, names, strict=True)]
    said = [cells_in(answer, name) for answer, name in zip(answers, names, strict=True)]
    # Every map has as many cells, so that the mean over maps is that over cells.
    right = np.array([sum(map(str.__eq__, a, b)) / len(b) for a, b in zip(said, wanted, strict=True)])
    usual = [Counter(cells).most_common(1)[0][1] for cells in zip(*wanted, strict=True)]  # how often, by cell
    malformed = sum(len(a) != len(b) for a, b in zip(said, wanted, strict=True))
    return {
        "cells": float(right.mean()),
        "error": standard_error(right),
        "malformed": malformed / len(said),
        "constant": sum(usual) / sum(map(len, wanted)),
    }


def caption_scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """`cider_d`, `bleu4` and `rouge_l` against all references of each; `constant`: CIDEr-D of the commonest first."""
    (usual,) = commonest([first for first, *_ in references], 1)
    return {
        "cider_d": captions.cider_d(answers, references),
        "bleu4": captions.bleu(answers, references)[-1],
        "rouge_l": captions.rouge_l(answers, references),
        "constant": captions.cider_d([usual] * len(references), references),
    }


def vqa_scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """`accuracy`: mean `agreement` with all who were asked; `constant`: that of the commonest first answer."""
    right = np.array([agreement(answer, told) for answer, told in zip(answers, references, strict=True)])
    (usual,) = commonest([normalised(first) for first, *_ in references], 1)
    return {
        "accuracy": float(right.mean()),
        "error": standard_error(right),
        "constant": float(np.mean([agreement(usual, told) for told in references])),
    }


def _exact(said: Sequence[object], wanted: Sequence[object]) -> Scores:
    right = np.array([a == b for a, b in zip(said, wanted, strict=True)], float)
    return {
        "accuracy": float(right.mean()),
        "error": standard_error(right),
        "constant": Counter(wanted).most_common(1)[0][1] / len(wanted),
    }


SCORES: dict[Form, Callable[[Sequence[str], Sequence[str]], Scores]] = {
    "words": word_scores,
    "yes_no": yes_no_scores,
    "number": number_scores,
    "box": single_box_scores,
    "boxes": box_set_scores,
    "map": map_scores,
}
AGAINST_ALL: dict[Form, Callable[[Sequence[str], Sequence[Sequence[str]]], Scores]] = {  # that several people gave
    "caption": caption_scores,
    "vqa": vqa_scores,
}

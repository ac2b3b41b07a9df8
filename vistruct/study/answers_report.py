"""The part of a study's report about the models themselves: what they answer, beside what needs no eyes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vistruct.metrics.answers import FamilyScore, by_family
from vistruct.reports.page import AXES, Report, styled
from vistruct.study.figures import ink, plots
from vistruct.study.questions import UNTRAINED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = {"accuracy": "accuracy", "acc50": "Acc@0.5", "f1_50": "F1@0.5", "cells": "right cells", "cider_d": "CIDEr-D"}

Scores = Mapping[str, Sequence[FamilyScore]]  # by start


def write_answers(page: Report, found: Mapping[str, Any]) -> None:
    """Add the section; nothing where no questions were asked.

    Args:
        found: as study.json.
    """
    if not found["questions"]:
        return
    inits, control = asked(found), _control(found)
    scores = {about: {name: _lines(one) for name, one in own.items()} for about, own in found["questions"].items()}
    page.text(
        "## What the models themselves answer\n\n"
        f"The whole models, language and all, were asked about {' and about '.join(scores)}. A score that needs no "
        "eyes is that of the **best constant answer**, the same one to every question of its family, chosen with the "
        "true answers at hand"
        + (f"; another that of **{control}**, which is the control" if control else "")
        + ". Clearly means by more than two standard errors of the difference.\n\n"
        + "\n".join(f"- {line}" for line in sentences(found))
    )
    page.figure(
        answer_bars(scores, found["plan"], inits),
        "Score of each family of questions that has one between 0 and 1; the marks across the bars are the best "
        "constant answer. The untrained model is in the tables only.",
    )
    for about, own in scores.items():
        page.table(
            ["family (measure)", "questions", "constant", UNTRAINED, *inits],
            [_overall(found["questions"][about], own), *_rows(own)],
            _best(own, control),
            caption=f"Answers about {about}. Marked: what is above the constant answer"
            + (" and the control." if control else "."),
        )


def asked(found: Mapping[str, Any]) -> list[str]:
    """The inits that were: those of other tasks than answering have nothing to say."""
    own = next(iter(found["questions"].values()))
    return [name for name in found["plan"]["inits"] if name in own]


def answer_bars(scores: Mapping[str, Scores], plan: Mapping[str, Any], inits: Sequence[str]) -> Figure:
    """Bars by what was asked about, family and init, with the constant answer as a mark across them."""
    colours = ink(list(plan["inits"]), plan["baseline"])
    wide = 0.8 / len(inits)
    with styled():
        figure, axes = plots(len(scores), height=2.6, wide=11.5, columns=1)
        for axis, (about, own) in zip(axes, scores.items(), strict=True):
            lines = [line for line in own[UNTRAINED] if line.measure != "cider_d"]
            for number, init in enumerate(inits):
                values = {line.family: line.score for line in own[init]}
                places = [at + wide * (number - (len(inits) - 1) / 2) for at in range(len(lines))]
                heights = [values[line.family] for line in lines]
                axis.bar(places, heights, wide * 0.9, color=colours[init], label=init)
            axis.hlines(
                [line.constant for line in lines],
                [at - 0.44 for at in range(len(lines))],
                [at + 0.44 for at in range(len(lines))],
                color=AXES, linewidth=2.2, label="best constant answer",
            )  # fmt: skip
            words = [f"{line.family.replace('_', ' ')}\n{MEASURES[line.measure]}" for line in lines]
            axis.set_xticks(range(len(lines)), words)
            axis.tick_params(axis="x", labelsize=9, length=0)
            axis.grid(axis="x", visible=False)
            axis.set_title(about)
            axis.set_ylim(0, 1)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return figure


def differences(after: Sequence[FamilyScore], before: Sequence[FamilyScore]) -> tuple[list[str], list[str]]:
    """The families that are clearly better and clearly worse; those without a standard error are not compared."""
    better, worse = [], []
    for a, b in zip(after, before, strict=True):
        if abs(a.score - b.score) > 2 * math.hypot(a.error, b.error):
            (better if a.score > b.score else worse).append(a.family.replace("_", " "))
    return better, worse


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What can be said of the answers against the control's, and of answers that cannot be read."""
    control, fixed = _control(found), found["plan"]["against"]
    lines = []
    for about, own in found["questions"].items():
        for init in (name for name in asked(found) if control and name not in fixed):
            better, worse = differences(_lines(own[init]), _lines(own[control]))
            found_in = f"clearly better in {_listed(better)}, clearly worse in {_listed(worse)}"
            lines.append(f"{about}, {init} against {control}: {found_in}")
    figures = [one for own in found["questions"].values() for name, one in own.items() if name != UNTRAINED]
    malformed = [value for one in figures for key, value in one.items() if key == "malformed/ground_one"]
    if malformed and min(malformed) > 0.5:
        lines.append(
            f"at least {min(malformed):.0%} of the answers that should be a box are none: where all tokens of an "
            "answer are written at once, none of them reading another, four numbers that must fit are too much"
        )
    return lines


def _control(found: Mapping[str, Any]) -> str | None:
    """The init that learned the same without the content, if one is named and was asked."""
    return next((name for name in found["plan"]["against"][1:] if name in asked(found)), None)


def _listed(families: Sequence[str]) -> str:
    return f"**{len(families)}** ({', '.join(families)})" if families else "**none**"


def _overall(figures: Mapping[str, Mapping[str, float]], scores: Scores) -> list[object]:
    number = sum(line.questions for line in scores[UNTRAINED] if line.measure == "accuracy")
    accuracies = [f"{one['accuracy']:.3f}" for one in figures.values()]
    return ["all with an accuracy", number, f"{figures[UNTRAINED]['constant']:.3f}", *accuracies]


def _rows(scores: Scores) -> list[list[object]]:
    return [
        [f"{line.family} ({MEASURES[line.measure]})", line.questions, f"{line.constant:.3f}"]
        + [f"{own[at].score:.3f}" for own in scores.values()]
        for at, line in enumerate(scores[UNTRAINED])
    ]


def _best(scores: Scores, control: str | None) -> list[tuple[int, int]]:
    return [
        (1 + row, 3 + column)
        for row, line in enumerate(scores[UNTRAINED])
        for column, own in enumerate(scores.values())
        if own[row].score > max(line.constant, *([scores[control][row].score] if control else [0.0]))
    ]


def _lines(figures: Mapping[str, float | None]) -> list[FamilyScore]:
    return by_family({name: math.nan if value is None else value for name, value in figures.items()})

"""The report's part about the models themselves: what they answer about a scene that they were not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vistruct.engine.page import Report, house_style
from vistruct.metrics.answers import FamilyScore, by_family

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEFORE = "untrained"
MEASURES = {
    "accuracy": "right answers",
    "acc50": "boxes with an IoU of 0.5",
    "f1_50": "F1 of boxes at IoU 0.5",
    "cells": "right cells",
    "cider_d": "CIDEr-D, to 10",
}
PART_OF_ONE = tuple(measure for measure in MEASURES if measure != "cider_d")  # what one picture can show side by side


def write_answers(
    page: Report, results: Mapping[str, dict[str, Any]], names: Mapping[str, str], ink: Mapping[str, str]
) -> None:
    """Add the section.

    Args:
        results: of the study's cells; those of `answers-<start>` and `questions` are read.
        names: of each start, in the order shown.
        ink: colour of each.
    """
    scores = {start: by_family(_figures(results, start)) for start in (BEFORE, *names)}
    page.text(
        "## What the models themselves answer\n\n"
        f"{results['questions']['line']} of the test scene, which no model was trained on. A score says something "
        "about seeing only where it is above that of the **best constant answer**, the same one to every question of "
        "its family, chosen with the test scene's answers at hand; and above that of the **shuffled** control, which "
        "has learned how often each answer occurs and nothing else.\n\n"
        + "\n".join(f"- {line}" for line in _sentences(results, scores, names))
    )
    page.figure(
        answer_bars(scores, names, ink),
        "Score of each family of questions that has one between 0 and 1; the marks across the bars are the best "
        "constant answer. The untrained model is in the table only.",
    )
    page.table(
        ["family", "questions", "measure", "best constant answer", "untrained", *names.values()],
        _rows(scores),
        _best(scores),
        caption="Answers about the test scene, by family. Marked: the best of a row, if it beats the constant answer. "
        "Of *random weights* only the backbone is random; projector and language model have learned to read it. A "
        "share of n questions has a standard error of up to 0.5/√n: 0.04 of 150",
    )  # fmt: skip


def answer_bars(
    scores: Mapping[str, Sequence[FamilyScore]], names: Mapping[str, str], ink: Mapping[str, str]
) -> Figure:
    """Bars by family and start, with the constant answer as a mark across them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(house_style()):
        figure, axis = plt.subplots(figsize=(11.5, 3.4))
        plt.close(figure)
        lines = [line for line in scores[BEFORE] if line.measure in PART_OF_ONE]
        wide = 0.8 / len(names)
        for number, start in enumerate(names):
            own = {line.family: line.score for line in scores[start]}
            places = [at + wide * (number - (len(names) - 1) / 2) for at in range(len(lines))]
            axis.bar(places, [own[line.family] for line in lines], wide * 0.9, color=ink[start], label=names[start])
        axis.hlines(
            [line.constant for line in lines],
            [at - 0.44 for at in range(len(lines))],
            [at + 0.44 for at in range(len(lines))],
            color=mpl.rcParams["text.color"], linewidth=2.2, label="best constant answer",
        )  # fmt: skip
        axis.set_xticks(range(len(lines)), [f"{line.family.replace('_', ' ')}\n{_short(line)}" for line in lines])
        axis.tick_params(axis="x", labelsize=9, length=0)
        axis.grid(axis="x", visible=False)
        axis.set_ylim(0, 1)
        figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure


def _short(line: FamilyScore) -> str:
    return {"accuracy": "accuracy", "acc50": "Acc@0.5", "f1_50": "F1@0.5", "cells": "cells"}[line.measure]


def _sentences(
    results: Mapping[str, dict[str, Any]], scores: Mapping[str, Sequence[FamilyScore]], names: Mapping[str, str]
) -> list[str]:
    constant = _figures(results, BEFORE).get("constant", float("nan"))
    lines = [f"the best constant answers: {constant:.3f} of the questions with short answers"]
    for start in (BEFORE, *names):
        above = sum(line.score > line.constant for line in scores[start])
        accuracy = _figures(results, start).get("accuracy", float("nan"))
        name = names.get(start, "untrained, all weights random")
        lines.append(f"{name}: {accuracy:.3f}; above the constant answer in {above} of {len(scores[start])} families")
    malformed = _figures(results, "plain").get("malformed/ground_one", 0.0)
    if malformed > 0.5:
        lines.append(
            f"{malformed:.0%} of the answers that should be a box are none: these models write all tokens of an answer "
            "at once, none of them reading another, and four numbers that must fit each other are beyond them"
        )
    return lines


def _rows(scores: Mapping[str, Sequence[FamilyScore]]) -> list[list[object]]:
    return [
        [line.family, line.questions, MEASURES[line.measure], f"{line.constant:.3f}"]
        + [f"{own[at].score:.3f}" for own in scores.values()]
        for at, line in enumerate(scores[BEFORE])
    ]


def _best(scores: Mapping[str, Sequence[FamilyScore]]) -> list[tuple[int, int]]:
    marked = []
    for row, line in enumerate(scores[BEFORE]):
        values = [own[row].score for own in scores.values()]
        if max(values) > line.constant:
            marked.append((row, 4 + values.index(max(values))))
    return marked


def _figures(results: Mapping[str, dict[str, Any]], start: str) -> dict[str, float]:
    figures = results[f"answers-{start}"]["figures"]
    return {name: float("nan") if value is None else float(value) for name, value in figures.items()}

"""The report's part about the models themselves: what they answer about each scene."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vistruct.metrics.answers import FamilyScore, by_family
from vistruct.reports.page import Report, house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEFORE, CONTROL = "untrained", "shuffled"
HEADS = {"random": "random", "plain": "instructions", "vrl": "with VRL", "shuffled": "shuffled"}  # of columns
SCENES = {"train": "the training scene, other crops", "test": "the test scene"}
MEASURES = {"accuracy": "accuracy", "acc50": "Acc@0.5", "f1_50": "F1@0.5", "jobs": "right jobs", "cider_d": "CIDEr-D"}

Scores = Mapping[str, Sequence[FamilyScore]]  # by start


def write_answers(
    page: Report, results: Mapping[str, dict[str, Any]], names: Mapping[str, str], ink: Mapping[str, str]
) -> None:
    """Add the section.

    Args:
        results: of the study's jobs; those of `answers-<start>` and `questions` are read.
        names: of each start, in the order shown.
        ink: colour of each.
    """
    scores = {scene: {start: _lines(results, start, scene) for start in (BEFORE, *names)} for scene in SCENES}
    page.text(
        "## What the models themselves answer\n\n"
        "The whole models, language and all, were asked about both scenes: "
        + "; ".join(f"about {where}, {results['questions'][scene]['line']}" for scene, where in SCENES.items())
        + ". The crops of the training scene are others than those taught, but show the same places. Two scores need "
        "no eyes: that of the **best constant answer**, the same one to every question of its family, chosen with the "
        "true answers at hand; and that of the **shuffled** control, which has learned what can be guessed from a "
        "question alone. Clearly means by more than two standard errors of the difference.\n\n"
        + "\n".join(f"- {line}" for line in _sentences(results, scores, names))
    )
    page.figure(
        answer_bars(scores, names, ink),
        "Score of each family of questions that has one between 0 and 1; the marks across the bars are the best "
        "constant answer. The untrained model is in the tables only.",
    )
    for scene, where in SCENES.items():
        page.table(
            ["family (measure)", "questions", "constant", BEFORE, *(HEADS[start] for start in names)],
            [_overall(results, scene, names), *_rows(scores[scene])],
            _best(scores[scene]),
            caption=f"Answers about {where}. Marked: what is above both the constant answer and the control. "
            "Of *random* only the backbone is random: projector and language model have learned to read it.",
        )


def answer_bars(scores: Mapping[str, Scores], names: Mapping[str, str], ink: Mapping[str, str]) -> Figure:
    """Bars by scene, family and start, with the constant answer as a mark across them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(house_style()):
        figure, axes = plt.subplots(len(scores), 1, figsize=(11.5, 5.2), sharey=True)
        plt.close(figure)
        wide = 0.8 / len(names)
        for axis, (scene, own) in zip(axes, scores.items(), strict=True):
            lines = [line for line in own[BEFORE] if line.measure != "cider_d"]
            for number, start in enumerate(names):
                values = {line.family: line.score for line in own[start]}
                places = [at + wide * (number - (len(names) - 1) / 2) for at in range(len(lines))]
                heights = [values[line.family] for line in lines]
                axis.bar(places, heights, wide * 0.9, color=ink[start], label=names[start])
            axis.hlines(
                [line.constant for line in lines],
                [at - 0.44 for at in range(len(lines))],
                [at + 0.44 for at in range(len(lines))],
                color=mpl.rcParams["text.color"], linewidth=2.2, label="best constant answer",
            )  # fmt: skip
            words = [f"{line.family.replace('_', ' ')}\n{MEASURES[line.measure]}" for line in lines]
            axis.set_xticks(range(len(lines)), words)
            axis.tick_params(axis="x", labelsize=9, length=0)
            axis.grid(axis="x", visible=False)
            axis.set_title(SCENES[scene])
        axes[0].set_ylim(0, 1)
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


def _sentences(
    results: Mapping[str, dict[str, Any]], scores: Mapping[str, Scores], names: Mapping[str, str]
) -> list[str]:
    lines = []
    for scene, where in SCENES.items():
        for start in (name for name in names if name not in ("random", CONTROL)):
            better, worse = differences(scores[scene][start], scores[scene][CONTROL])
            lines.append(
                f"{where}, {names[start]} against shuffled answers: clearly better in {_listed(better)}, "
                f"clearly worse in {_listed(worse)}"
            )
    malformed = _figures(results, "plain", "train").get("malformed/ground_one", 0.0)
    if malformed > 0.5:
        lines.append(
            f"{malformed:.0%} of the answers that should be a box are none: these models write all tokens of an answer "
            "at once, none of them reading another, and four numbers that must fit each other are beyond them"
        )
    return lines


def _listed(families: Sequence[str]) -> str:
    return f"**{len(families)}** ({', '.join(families)})" if families else "**none**"


def _overall(results: Mapping[str, dict[str, Any]], scene: str, names: Mapping[str, str]) -> list[object]:
    own = {start: _figures(results, start, scene) for start in (BEFORE, *names)}
    number = sum(line.questions for line in _lines(results, BEFORE, scene) if line.measure == "accuracy")
    accuracies = [f"{figures['accuracy']:.3f}" for figures in own.values()]
    return ["all with an accuracy", number, f"{own[BEFORE]['constant']:.3f}", *accuracies]


def _rows(scores: Scores) -> list[list[object]]:
    return [
        [f"{line.family} ({MEASURES[line.measure]})", line.questions, f"{line.constant:.3f}"]
        + [f"{own[at].score:.3f}" for own in scores.values()]
        for at, line in enumerate(scores[BEFORE])
    ]


def _best(scores: Scores) -> list[tuple[int, int]]:
    return [
        (1 + row, 3 + column)
        for row, line in enumerate(scores[BEFORE])
        for column, own in enumerate(scores.values())
        if own[row].score > max(line.constant, scores[CONTROL][row].score)
    ]


def _lines(results: Mapping[str, dict[str, Any]], start: str, scene: str) -> list[FamilyScore]:
    return by_family(_figures(results, start, scene))


def _figures(results: Mapping[str, dict[str, Any]], start: str, scene: str) -> dict[str, float]:
    figures = results[f"answers-{start}"][scene]
    return {name: float("nan") if value is None else float(value) for name, value in figures.items()}

"""The demo's report: what was measured, gain or no gain, with the controls that could explain it away."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vistruct.engine.page import COLOURS, Report, house_style
from vistruct.engine.report import read_metrics, smooth
from vistruct.study.demo import STARTS, Budget, detect_name, detector_scores
from vistruct.study.demo_answers import write_answers
from vistruct.study.demo_cells import draw_conversations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "random": "random weights",
    "plain": "instructions",
    "vrl": "instructions, VRL",
    "shuffled": "shuffled answers (control)",
}
INK = dict(zip(NAMES, ("#7c8591", COLOURS[0], COLOURS[2], COLOURS[1]), strict=True))
HOW = {True: "on the frozen backbone", False: "fine-tuned whole"}
PATCH = "tree or ground, accuracy"
DENSE = "tree at this cell, average precision"


@dataclass(frozen=True)
class Gain:
    """A paired comparison: the same labels, or the same seeds, from two starting points."""

    mean: float
    error: float  # standard error of the mean of the paired differences; NaN with one pair
    wins: int
    pairs: int

    @property
    def is_clear(self) -> bool:
        """More than two standard errors from nothing."""
        return self.pairs > 1 and abs(self.mean) > 2 * self.error

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f} ({self.wins} of {self.pairs} better)"


def gain(after: Sequence[float], before: Sequence[float]) -> Gain:
    """The mean of the paired differences and its standard error."""
    difference = np.asarray(after, float) - np.asarray(before, float)
    n = len(difference)
    error = float(difference.std(ddof=1) / n**0.5) if n > 1 else float("nan")
    return Gain(float(difference.mean()), error, int((difference > 0).sum()), n)


def write_demo_report(
    path: Path, results: Mapping[str, dict[str, Any]], budget: Budget, folder: Path, name: str
) -> Path:
    """Write the report of a finished demo to `path`."""
    probes = {start: results[f"probe-{start}"] for start in STARTS}
    page = Report(
        "What did pretraining buy?",
        "The same small ViT from random weights, and after answering questions about annotated tree crowns; measured "
        "on another place",
    )
    if name == "quick":
        page.callout(
            "**These numbers mean nothing.** `--quick` takes a few steps of everything to show that all parts work. "
            "Run `vistruct demo` for the measurement."
        )
    _headline(page, probes, results, budget)
    page.figure(
        comparison(probes, results, budget),
        f"Frozen backbone with a few labels of the test scene (left, middle; mean and standard deviation over "
        f"{budget.draws} draws of the labels), and detectors trained on {budget.shares[0]:.0%} of the "
        f"windows of the scene's left third and measured on the rest (right; each dot is one of {budget.seeds} seeds).",
    )
    _tables(page, probes, results, budget)
    _controls(page, probes, results, budget)
    write_answers(page, results, NAMES, INK)
    _pictures(page, results, folder, budget)
    _method(page, results, budget)
    return page.write(path)


def _headline(
    page: Report, probes: Mapping[str, dict[str, Any]], results: Mapping[str, dict[str, Any]], budget: Budget
) -> None:
    middle = _shots(probes, "patch")[len(_shots(probes, "patch")) // 2]
    most = _shots(probes, "dense")[-1]
    numbers, sentences = [], []
    for kind, shots, label in (("patch", middle, "labels a class"), ("dense", most, "labelled crops")):
        before, after = probes["random"][kind][shots], probes["plain"][kind][shots]
        what = PATCH if kind == "patch" else DENSE
        numbers.append((f"{np.mean(before):.3f} → {np.mean(after):.3f}", what, f"frozen backbone, {shots} {label}"))
        sentences.append(_sentence(f"{what} with {shots} {label}", gain(after, before)))
    share = budget.shares[0]
    for frozen, how in ((f, HOW[f]) for f in budget.frozen):
        before, after = (
            detector_scores(results, s, share, range(budget.seeds), frozen=frozen) for s in ("random", "plain")
        )
        numbers.append(
            (
                f"{np.mean(before):.3f} → {np.mean(after):.3f}",
                f"detector {how}, AP50",
                f"{share:.0%} of the windows of the left third",
            )
        )
        sentences.append(_sentence(f"AP50 of the detector {how}, {share:.0%} of the windows", gain(after, before)))
    page.key_numbers(numbers)
    page.text(
        "From random weights to instruction pretraining without VRL, paired over the same labels or seeds:\n\n"
        + "\n".join(f"- {s}" for s in sentences)
    )


def _sentence(what: str, difference: Gain) -> str:
    if not difference.is_clear:
        verdict = "**no clear difference**"
    else:
        verdict = "**a gain**" if difference.mean > 0 else "**a loss**"
    return f"{what}: {verdict}, {difference}"


def _shots(probes: Mapping[str, dict[str, Any]], kind: str) -> list[str]:
    return list(probes["random"][kind])  # keys are text after JSON


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if len(values) > 1 else f"{np.mean(values):.3f}"


def _tables(
    page: Report, probes: Mapping[str, dict[str, Any]], results: Mapping[str, dict[str, Any]], budget: Budget
) -> None:
    page.text("## All numbers")
    for kind, caption, unit in (
        ("patch", f"Label-efficiency probe: {PATCH} (half of the patches are trees)", "labels a class"),
        ("dense", f"Dense probe: {DENSE}", "labelled crops"),
    ):
        shots = _shots(probes, kind)
        rows = [[NAMES[s], *(_spread(probes[s][kind][n]) for n in shots)] for s in STARTS]
        page.table(
            ["backbone", *(f"{n} {unit}" for n in shots)], rows, _best(probes, kind, shots), caption=f"{caption}. "
            f"Mean and standard deviation over {budget.draws} draws of the labels; the backbone is frozen.",
        )  # fmt: skip
    rows = []
    for share in budget.shares:
        for frozen, start in ((f, s) for f in budget.frozen for s in STARTS):
            seeds = range(budget.seeds)
            scores = {m: detector_scores(results, start, share, seeds, m, frozen=frozen) for m in ("AP50", "AP")}
            versus = gain(scores["AP50"], detector_scores(results, "random", share, seeds, frozen=frozen))
            rows.append(
                [
                    NAMES[start], "frozen" if frozen else "fine-tuned", f"{share:.0%}", _spread(scores["AP50"]), _spread(scores["AP"]),
                    ", ".join(f"{v:.3f}" for v in scores["AP50"]), "" if start == "random" else str(versus),
                ]
            )  # fmt: skip
    page.table(
        ["start", "backbone", "windows", "AP50", "AP", "AP50 of each seed", "AP50 against random, paired by seed"], rows,
        caption=f"Detector on the right two thirds of the test scene: {budget.detect_steps} steps of 8 windows for each, the "
        f"same settings and seeds for all starts.",
    )  # fmt: skip


def _best(probes: Mapping[str, dict[str, Any]], kind: str, shots: Sequence[str]) -> list[tuple[int, int]]:
    starts = list(STARTS)
    return [
        (int(np.argmax([np.mean(probes[s][kind][n]) for s in starts])), column)
        for column, n in enumerate(shots, start=1)
    ]


def _controls(
    page: Report, probes: Mapping[str, dict[str, Any]], results: Mapping[str, dict[str, Any]], budget: Budget
) -> None:
    page.text(
        "## What could explain it away\n\n"
        "**Normalisation statistics alone.** A pretrained backbone knows the scale of this kind of image. So the "
        "random backbone gets it too: its features are standardised by the training scene instead of by the few "
        "labels.\n\n"
        "**The same steps without the content.** The same questions and answers, each conversation moved to another "
        "picture, the same number of steps: what it gains comes from training as such, not from what was taught."
    )
    shots = _shots(probes, "patch")
    rows = [[NAMES[s], *(_spread(probes[s]["patch_control"][n]) for n in shots)] for s in STARTS]
    page.table(
        ["backbone", *(f"{n} labels a class" for n in shots)], rows,
        caption="Label-efficiency probe with features standardised by the training scene",
    )  # fmt: skip
    lines = []
    for start in ("plain", "vrl"):
        for kind, what in (("patch", PATCH), ("dense", DENSE)):
            n = _shots(probes, kind)[-1]
            lines.append(
                _sentence(
                    f"{NAMES[start]} against shuffled answers, {what}, {n} labels",
                    gain(probes[start][kind][n], probes["shuffled"][kind][n]),
                )
            )
        share = budget.shares[0]
        for frozen, how in ((f, HOW[f]) for f in budget.frozen):
            after, control = (
                detector_scores(results, s, share, range(budget.seeds), frozen=frozen) for s in (start, "shuffled")
            )
            lines.append(
                _sentence(f"{NAMES[start]} against shuffled answers, detector {how}, AP50", gain(after, control))
            )
    page.text("\n".join(f"- {line}" for line in lines))


def comparison(probes: Mapping[str, dict[str, Any]], results: Mapping[str, dict[str, Any]], budget: Budget) -> Figure:
    """The three measurements side by side."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(house_style()):
        figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.9), width_ratios=(1, 1, 0.9), layout="constrained")
        plt.close(figure)
        for axis, kind, title, unit in (
            (axes[0], "patch", PATCH, "labels a class"),
            (axes[1], "dense", DENSE, "labelled crops"),
        ):
            shots = _shots(probes, kind)
            for i, start in enumerate(STARTS):
                values = [probes[start][kind][n] for n in shots]
                axis.errorbar(
                    [k + 0.06 * (i - 1.5) for k in range(len(shots))],
                    [np.mean(v) for v in values],
                    [np.std(v) for v in values],
                    color=INK[start], marker="o", capsize=2, label=NAMES[start],
                    linestyle="--" if start == "shuffled" else "-",
                )  # fmt: skip
            axis.set_xticks(range(len(shots)), shots)
            axis.set_xlabel(unit)
            axis.set_title(title)
        share, axis = budget.shares[0], axes[2]
        for i, start in enumerate(STARTS):
            for group, frozen in enumerate(budget.frozen):
                scores = detector_scores(results, start, share, range(budget.seeds), frozen=frozen)
                at = group + 0.2 * (i - 1.5)
                axis.bar(at, np.mean(scores), color=INK[start], alpha=0.75, width=0.18)
                axis.plot([at] * len(scores), scores, "o", color="#7c8591", markersize=3)
        axis.set_xticks(range(len(budget.frozen)), [HOW[f].removeprefix("on the ") for f in budget.frozen])
        axis.set_title(f"detector, AP50 ({share:.0%} of the windows)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def loss_curves(results: Mapping[str, dict[str, Any]]) -> Figure:
    """Loss of every pretraining over its steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(house_style()):
        figure, axis = plt.subplots(figsize=(7.5, 3.4))
        plt.close(figure)
        for start in ("plain", "vrl", "shuffled"):
            points = read_metrics(Path(results[STARTS[start]]["run"]) / "metrics.jsonl")["loss"]
            steps, values = zip(*points, strict=True)
            axis.plot(steps, smooth(list(values), span=12), color=INK[start], label=NAMES[start])
        axis.set_xlabel("step")
        axis.set_title("loss per answer token")
        axis.legend(frameon=False)
    return figure


def _pictures(page: Report, results: Mapping[str, dict[str, Any]], folder: Path, budget: Budget) -> None:
    page.text("## What it looks like")
    share = budget.shares[0]
    for start in ("random", "plain"):
        picture = results[detect_name(start, share, 0, frozen=True)].get("picture")
        if picture:
            page.figure(
                Image.open(picture).convert("RGB"),
                f"The right two thirds of the test scene, detector on the frozen backbone of **{NAMES[start]}**, seed 0: as many of its best detections as "
                "there are crowns.",
            )
    for path in draw_conversations(Path(results["data"]["true"]), folder / "pictures"):
        page.figure(
            Image.open(path).convert("RGB"),
            "A conversation about a crop of the training scene. Shaded: the visual tokens that VRL (paper) drops for "
            "its first question; each question draws its own.",
        )
    batch = Path(results[detect_name("plain", share, 0, frozen=True)]["run"]) / "samples" / "first_batch.png"
    page.figure(Image.open(batch).convert("RGB"), "The detector's first training batch as the loader gives it.")
    page.figure(
        loss_curves(results),
        "Loss of the pretrainings (moving average). Answers hidden from each other and, under VRL, three quarters of "
        "the visual tokens dropped make it high; shuffled answers can only teach how often each answer occurs.",
    )


def _method(page: Report, results: Mapping[str, dict[str, Any]], budget: Budget) -> None:
    data = results["data"]
    page.text(
        "## How it was measured\n\n"
        "Two aerial scenes of the National Ecological Observatory Network (10 cm), 13 km apart, with hand-drawn tree "
        "crowns: 574 in the training scene, 279 in the test scene. Nothing is ever pretrained on the test scene; probes "
        f"and detectors take their few labels from it. Its left third has {results['target']['num_labelled']} crowns, the "
        f"rest {results['target']['num_tested']}.\n\n"
        f"**Instructions.** {data['line']}, written from the training scene's boxes.\n\n"
        f"**Starts.** One ViT of random weights. {budget.align_steps} steps teach a projector and a small language "
        "model to read it while it stays frozen. From there everything trains for "
        f"{budget.pretrain_steps} steps of 16 pictures: without VRL, with it (every question loses 75 % of its visual "
        "tokens), and with shuffled answers. Then the language model is thrown away.\n\n"
        "**Label-efficiency probe.** 64-pixel patches around every crown of the test scene and as many of ground; "
        "features averaged over the patch; logistic regression on a few labels, tested on all other patches. "
        "**Dense probe.** Is the middle of this 8-pixel cell inside a crown? Labelled crops from the left third of the "
        "scene, tested on the rest. Draws are the same for every backbone.\n\n"
        f"**Detector.** Simple feature pyramid and FCOS, trained on {budget.window}-pixel windows of the test scene's left third: on the frozen backbone, and "
        "fine-tuned whole with a fifth of the head's learning rate in the backbone; windows merged back to one "
        "image of the right two thirds, COCO metrics.\n\n"
        "**Read with care.** One sensor, one region, one class. One pretraining of each kind: the spread is over draws "
        "of labels and seeds of the detector, not over pretrainings. Pretraining needs the training scene's boxes, as "
        "questions: that is what it is for, but it is not free. A clear difference means more than two standard errors of the paired differences; the draws "
        "of a probe share their test patches, so its errors are on the small side."
    )
    page.table(
        ["family", "questions", "commonest answers"],
        data["families"],
        caption="The questions and how balanced they are",
    )
    seconds = {name: _seconds(name, results) for name in results}
    page.details("The cells of this study, and what they returned", json.dumps(seconds, indent=1))


def _seconds(name: str, results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return {k: v for k, v in results[name].items() if k not in ("families", "run", "picture", "true", "shuffled")}

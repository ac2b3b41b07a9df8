"""The demo's report: what was measured, gain or no gain, with the controls that could explain it away."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vistruct.reports.page import COLOURS, Report, house_style
from vistruct.reports.run_report import read_metrics, smooth
from vistruct.study.demo import STARTS, Budget
from vistruct.study.demo_answers import write_answers
from vistruct.study.demo_cells import draw_conversations, draw_scene
from vistruct.study.figures import values_of
from vistruct.study.report import VERDICTS, add_study
from vistruct.study.statistics import paired_gain
from vistruct.study.study import TUNINGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "random": "random weights",
    "plain": "instructions",
    "vrl": "instructions, VRL",
    "shuffled": "shuffled answers (control)",
}
INK = dict(zip(NAMES, ("#7c8591", COLOURS[0], COLOURS[2], COLOURS[1]), strict=True))
HOW = {"probe": "on the frozen backbone", "full": "fine-tuned whole", "lora": "with adapters"}
PATCH = "tree or ground, accuracy"
DENSE = "tree at this job, average precision"


Results = Mapping[str, dict[str, Any]]


def write_demo_report(
    path: Path, results: Results, found: Mapping[str, Any], budget: Budget, folder: Path, name: str
) -> Path:
    """Write the report of a finished demo to `path`.

    Args:
        results: of the jobs before the study.
        found: of the study, as in its study.json.
        folder: of the demo; the study is in its `study/`.
    """
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
    _headline(page, probes, found, budget)
    page.figure(
        comparison(probes, found, budget),
        f"Frozen backbone with a few labels of the test scene (left, middle; mean and standard deviation over "
        f"{budget.draws} draws of the labels), and detectors trained on {budget.shares[0]:.0%} of the "
        f"windows of the scene's left third and measured on the rest (right; each dot is one of {budget.seeds} seeds).",
    )
    _tables(page, probes, budget)
    _controls(page, probes, found, budget)
    write_answers(page, results, NAMES, INK)
    _pictures(page, results, found, folder, budget)
    _method(page, results, budget)
    page.text(
        "# The detectors: a study\n\n"
        "What follows is what `vistruct study` reports of any recipe; `study/study.yaml` in the demo's directory runs it "
        "again."
    )
    add_study(page, found, folder / "study")
    return page.write(path)


def _headline(page: Report, probes: Mapping[str, dict[str, Any]], found: Mapping[str, Any], budget: Budget) -> None:
    middle = _shots(probes, "patch")[len(_shots(probes, "patch")) // 2]
    most = _shots(probes, "dense")[-1]
    numbers, sentences = [], []
    for kind, shots, label in (("patch", middle, "labels a class"), ("dense", most, "labelled crops")):
        before, after = probes["random"][kind][shots], probes["plain"][kind][shots]
        what = PATCH if kind == "patch" else DENSE
        numbers.append((f"{np.mean(before):.3f} → {np.mean(after):.3f}", what, f"frozen backbone, {shots} {label}"))
        sentences.append(_sentence(f"{what} with {shots} {label}", after, before))
    share = budget.shares[0]
    for tuning in budget.tune:
        before, after = (values_of(found["trials"], init=s, fraction=share, tuning=tuning) for s in ("random", "plain"))
        numbers.append(
            (
                f"{np.mean(before):.3f} → {np.mean(after):.3f}",
                f"detector {HOW[tuning]}, AP50",
                f"{share:.0%} of the windows of the left third",
            )
        )
        sentences.append(_sentence(f"AP50 of the detector {HOW[tuning]}, {share:.0%} of the windows", after, before))
    page.key_numbers(numbers)
    page.text(
        "From random weights to instruction pretraining without VRL, paired over the same labels or seeds:\n\n"
        + "\n".join(f"- {s}" for s in sentences)
    )


def _sentence(what: str, after: Sequence[float], before: Sequence[float]) -> str:
    """What is found of pairs, in words that claim no more than both intervals do (see `statistics`)."""
    found = paired_gain(after, before)
    interval = "" if found.student is None else f" ({found.student.low:+.3f} to {found.student.high:+.3f})"
    wins = f"{found.wins} of {found.pairs} better"
    return f"{what}: {VERDICTS[found.verdict]}, {found.mean:+.3f}{interval}, {wins}"


def _shots(probes: Mapping[str, dict[str, Any]], kind: str) -> list[str]:
    return list(probes["random"][kind])  # keys are text after JSON


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if len(values) > 1 else f"{np.mean(values):.3f}"


def _tables(page: Report, probes: Mapping[str, dict[str, Any]], budget: Budget) -> None:
    page.text("## The probes")
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


def _best(probes: Mapping[str, dict[str, Any]], kind: str, shots: Sequence[str]) -> list[tuple[int, int]]:
    starts = list(STARTS)
    return [
        (int(np.argmax([np.mean(probes[s][kind][n]) for s in starts])), column)
        for column, n in enumerate(shots, start=1)
    ]


def _controls(page: Report, probes: Mapping[str, dict[str, Any]], found: Mapping[str, Any], budget: Budget) -> None:
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
            about = f"{NAMES[start]} against shuffled answers, {what}, {n} labels"
            lines.append(_sentence(about, probes[start][kind][n], probes["shuffled"][kind][n]))
        for tuning in budget.tune:
            share = budget.shares[0]
            after, control = (
                values_of(found["trials"], init=s, fraction=share, tuning=tuning) for s in (start, "shuffled")
            )
            about = f"{NAMES[start]} against shuffled answers, detector {HOW[tuning]}, AP50"
            lines.append(_sentence(about, after, control))
    page.text("\n".join(f"- {line}" for line in lines))


def comparison(probes: Mapping[str, dict[str, Any]], found: Mapping[str, Any], budget: Budget) -> Figure:
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
            for group, tuning in enumerate(budget.tune):
                scores = values_of(found["trials"], init=start, fraction=share, tuning=tuning)
                at = group + 0.2 * (i - 1.5)
                axis.bar(at, np.mean(scores), color=INK[start], alpha=0.75, width=0.18)
                axis.plot([at] * len(scores), scores, "o", color="#7c8591", markersize=3)
        axis.set_xticks(range(len(budget.tune)), [TUNINGS[tuning] for tuning in budget.tune])
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


def _pictures(page: Report, results: Results, found: Mapping[str, Any], folder: Path, budget: Budget) -> None:
    page.text("## What it looks like")
    share = budget.shares[0]
    for start in ("random", "plain"):
        (job,) = (
            c
            for c in found["trials"]
            if (c["init"], c["fraction"], c["tuning"], c["seed"]) == (start, share, "probe", 0)
        )
        picture = draw_scene(folder / "study" / job["run"], Path(results["target"]["tested"]))
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
    batch = folder / "study" / job["run"] / "samples" / "first_batch.png"
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
        "**Dense probe.** Is the middle of this 8-pixel job inside a crown? Labelled crops from the left third of the "
        "scene, tested on the rest. Draws are the same for every backbone.\n\n"
        f"**Detector.** Simple feature pyramid and FCOS, trained on {budget.window}-pixel windows of the test scene's left third: on the frozen backbone, and "
        "fine-tuned whole with a fifth of the head's learning rate in the backbone; windows merged back to one "
        "image of the right two thirds, COCO metrics.\n\n"
        "**Read with care.** One sensor, one region, one class. One pretraining of each kind: the spread is over draws "
        "of labels and seeds of the detector, not over pretrainings. Pretraining needs the training scene's boxes, as "
        "questions: that is what it is for, but it is not free. A difference is called clear where two intervals of 95 % leave zero out, the bootstrap's and Student's; the draws "
        "of a probe share their test patches, so its intervals are on the narrow side."
    )
    page.table(
        ["family", "questions", "commonest answers"],
        data["families"],
        caption="The questions and how balanced they are",
    )
    seconds = {name: _seconds(name, results) for name in results}
    page.details("The jobs before the study, and what they returned", json.dumps(seconds, indent=1))


def _seconds(name: str, results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return {k: v for k, v in results[name].items() if k not in ("families", "run", "true", "shuffled")}

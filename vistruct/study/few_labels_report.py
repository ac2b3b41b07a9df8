"""The part of a study's report about few-label probes of frozen backbones, and what could explain them away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vistruct.reports.page import Report, styled
from vistruct.study.figures import ink, plots, values_of
from vistruct.study.study import TUNINGS, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = Mapping[str, Any]  # what study.json says
UNITS = {
    "patch": "labels a class",
    "standardised": "labels a class",
    "dense": "labelled crops",
    "turned": "places a way",
}
KINDS = {
    "patch": "Patches of objects and as many of ground: which is which",
    "standardised": "The same, features standardised by the other scene",
    "dense": "Cells of the feature map: is the middle of this cell inside an object",
    "turned": "A label that no annotation has: is this place shown as it lies, or turned by half a turn",
}


def repeated(plan: Mapping[str, Any]) -> str:
    """What the values of a probe are spread over."""
    draws, many = plan["probes"]["draws"], plan["pretrain_seeds"]
    return f"{draws} draws of the labels" if many == 1 else f"{many} pretrainings, each the mean of {draws} draws"


def measured(found: Found, kind: str) -> str:
    """What a probe gives, in words."""
    what = found["few_labels"]["what"]
    if kind == "turned":
        return "as it lies or half a turn, accuracy"
    return f"{what} at this cell, average precision" if kind == "dense" else f"{what} or ground, accuracy"


def shown_gains(found: Found, against: str) -> list[Mapping[str, Any]]:
    """The gains that are put into words: patches with the middle number of labels, cells and turns with the most."""
    few = found["few_labels"]
    if few is None:
        return []
    labels = {kind: list(by) for kind, by in few["values"].items() if kind != "standardised"}
    chosen = {kind: own[len(own) // 2 if kind == "patch" else -1] for kind, own in labels.items()}
    return [g for g in few["gains"] if g["against"] == against and chosen.get(g["kind"]) == g["labels"]]


def write_few_labels(page: Report, found: Found) -> None:
    """Add the section; nothing where no probes were asked for."""
    few, plan = found["few_labels"], found["plan"]
    if few is None:
        return
    page.text(
        "## With few labels, on the frozen backbone\n\n"
        f"A logistic regression on what the backbone gives before any trial. **Patches:** {plan['probes']['patch']} "
        "pixels around every object of the scene, and as many of ground; features averaged over the patch, learned "
        "from a few and tested on all others. **Cells:** is the middle of this cell inside an object? Labelled "
        "crops from the left third of the scene, tested on the rest. Draws of the labels are the same for every init."
    )
    for kind, by in few["values"].items():
        rows = [[init, *(_spread(values[init]) for values in by.values())] for init in plan["inits"]]
        best = [(int(np.argmax([np.mean(v) for v in values.values()])), n) for n, values in enumerate(by.values(), 1)]
        page.table(
            ["init", *(f"{labels} {UNITS[kind]}" for labels in by)],
            rows,
            best if kind != "standardised" else (),
            caption=f"{KINDS[kind]}: {measured(found, kind)}. Mean and standard deviation over {repeated(plan)}.",
        )
    if "turned" in few["values"]:
        page.text(
            "**As it lies, or turned by half a turn?** Who was taught by boxes was taught what the first two probes "
            "ask. This one asks for what no box says: shadows fall to one side. Half of the places of a regular grid "
            "that are learned from are turned; all others are shown both ways, so that colours, which do not change "
            "with the turn, give exactly 0.5. Its weakness: it is one thing among many, that nobody needs for itself."
        )
    if "standardised" in few["values"]:
        page.text(
            "**Normalisation statistics alone** could explain a gain: a pretrained backbone knows the scale of this "
            "kind of image. So the random backbone gets it too: features are standardised by the other scene instead "
            "of by the few labels."
        )
    page.text("The draws of a probe share their test patches, so that its intervals are on the narrow side.")


def comparison(found: Found) -> Figure:
    """The probes, and the trials on the smallest fraction of the labels, side by side."""
    plan, few = found["plan"], found["few_labels"]
    inits, fraction = list(plan["inits"]), min(plan["fractions"])
    colours, control = ink(inits, plan["baseline"]), plan["against"][1:]
    middle = (len(inits) - 1) / 2
    with styled():
        figure, axes = plots(3, wide=3.85, height=3.9)
        for axis, kind in zip(axes, ("patch", "dense"), strict=False):
            by = few["values"][kind]
            for number, init in enumerate(inits):
                values = [own[init] for own in by.values()]
                axis.errorbar(
                    [place + 0.06 * (number - middle) for place in range(len(by))],
                    [np.mean(v) for v in values],
                    [np.std(v) for v in values],
                    color=colours[init], marker="o", capsize=2, label=init, linestyle="--" if init in control else "-",
                )  # fmt: skip
            axis.set_xticks(range(len(by)), list(by))
            axis.set_xlabel(UNITS[kind])
            axis.set_title(measured(found, kind))
        for number, init in enumerate(inits):
            for group, tuning in enumerate(plan["tune"]):
                scores = values_of(found["trials"], init=init, fraction=fraction, tuning=tuning)
                at = group + 0.8 / len(inits) * (number - middle)
                axes[2].bar(at, np.mean(scores), color=colours[init], alpha=0.75, width=0.72 / len(inits))
                axes[2].plot([at] * len(scores), scores, "o", color="#7c8591", markersize=3)
        axes[2].set_xticks(range(len(plan["tune"])), [TUNINGS[tuning] for tuning in plan["tune"]])
        axes[2].set_title(f"{found['metric'].partition('/')[2]}, {percent(fraction)} of the labels")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if len(values) > 1 else f"{np.mean(values):.3f}"

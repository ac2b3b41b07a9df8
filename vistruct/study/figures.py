"""The plots of a study: gain over labels, learning curves, slices, robustness; in the house's style."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vistruct.reports.page import AXES, COLOURS, styled
from vistruct.reports.run_report import read_metrics, smooth
from vistruct.study.study import TUNINGS, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS = ("o", "s", "^", "D", "v", "P")


def ink(inits: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour for each init; grey for the one that the others are compared with."""
    others = [name for name in inits if name != baseline]
    return {baseline: AXES, **{name: COLOURS[i % len(COLOURS)] for i, name in enumerate(others)}}


def plots(number: int, *, height: float = 3.5, wide: float = 4.2, columns: int = 3) -> tuple[Figure, list[Any]]:
    """Axes in the house's style, in rows; to be called inside `styled()`.

    Args:
        height, wide: inches of each.
        columns: of a row at most.
    """
    from matplotlib import pyplot as plt

    across = min(number, columns)
    down = math.ceil(number / across)
    figure, axes = plt.subplots(down, across, squeeze=False, figsize=(max(5.6, wide * across), height * down))
    plt.close(figure)  # out of pyplot's keeping: it lives as long as its user
    for axis in axes.flat[number:]:
        axis.set_axis_off()
    return figure, list(axes.flat[:number])


def values_of(trials: Iterable[Mapping[str, Any]], **wanted: Any) -> list[float]:
    """The metric of the trials that are asked for, in order of seeds; those that are not finite are left out."""
    chosen = [c for c in trials if all(c[key] == value for key, value in wanted.items())]
    return [c["value"] for c in sorted(chosen, key=lambda c: c["seed"]) if c["value"] is not None]


def by_fraction(found: Mapping[str, Any]) -> Figure:
    """The metric over the label fraction, a plot for each tuning mode; a dot is a seed, the band reaches over all."""
    plan, trials = found["plan"], found["trials"]
    inits, fractions = list(plan["inits"]), sorted(plan["fractions"])
    colours = ink(inits, plan["baseline"])
    with styled():
        figure, axes = plots(len(plan["tune"]))
        for axis, tuning in zip(axes, plan["tune"], strict=True):
            for number, init in enumerate(inits):
                values = [values_of(trials, init=init, tuning=tuning, fraction=fraction) for fraction in fractions]
                places = _places(fractions, number, len(inits))
                known = [(x, v) for x, v in zip(places, values, strict=True) if v]
                if not known:
                    continue
                xs, vs = [x for x, _ in known], [v for _, v in known]
                style = {"color": colours[init], "marker": MARKS[number % len(MARKS)]}
                axis.plot(xs, [np.mean(v) for v in vs], label=init, linestyle="-", markersize=6, **style)
                axis.fill_between(xs, [min(v) for v in vs], [max(v) for v in vs], color=colours[init], alpha=0.15)
                for x, own in known:
                    axis.plot([x] * len(own), own, ".", color=colours[init], alpha=0.6, markersize=4)
            axis.set_title(TUNINGS[tuning])
            axis.set_xlabel("fraction of the labels")
            if len(fractions) > 1:
                axis.set_xscale("log")
            else:
                axis.set_xlim(fractions[0] - 0.05 * len(inits), fractions[0] + 0.05 * len(inits))
            axis.set_xticks(fractions, [percent(fraction) for fraction in fractions])
            axis.minorticks_off()
            axis.set_ylabel(found["metric"].partition("/")[2])
        _level(axes)
        _legend(figure, axes[0], len(inits))
    return figure


def learning_curves(found: Mapping[str, Any], root: Path) -> Figure | None:
    """Loss, and the metric where it was measured on the way, over the steps, at the largest fraction, by tuning mode.

    Returns:
        None where no run has kept its numbers.
    """
    plan, trials = found["plan"], found["trials"]
    fraction, inits = max(plan["fractions"]), list(plan["inits"])
    colours = ink(inits, plan["baseline"])
    series = {
        (c["tuning"], c["init"], c["seed"]): read_metrics(root / c["run"] / "metrics.jsonl")
        for c in trials
        if c["fraction"] == fraction
    }
    if not any("loss" in one for one in series.values()):
        return None
    several = any(len(one.get(found["metric"], ())) > 1 for one in series.values())
    panels = [(tuning, name) for name in ("loss", *([found["metric"]] if several else ())) for tuning in plan["tune"]]
    with styled():
        figure, axes = plots(len(panels), height=3.1, columns=min(3, len(plan["tune"]) if len(plan["tune"]) > 1 else 3))
        for axis, (tuning, name) in zip(axes, panels, strict=True):
            for init in inits:
                for (own_tuning, own_init, seed), one in series.items():
                    if (own_tuning, own_init) != (tuning, init) or name not in one:
                        continue
                    steps, values = zip(*one[name], strict=True)
                    shown = smooth(list(values), span=12) if name == "loss" else values
                    label = init if seed == 0 else None
                    axis.plot(steps, shown, color=colours[init], linewidth=1.4, alpha=0.8, label=label)
            axis.set_title(f"{name.partition('/')[2] or name}, {TUNINGS[tuning]}")
            axis.set_xlabel("step")
        _legend(figure, axes[0], len(inits))
    return figure


def pretraining_losses(found: Mapping[str, Any], root: Path) -> Figure:
    """Loss of every pretraining over its steps; of several repetitions each, the first has the name."""
    colours = ink(list(found["plan"]["inits"]), found["plan"]["baseline"])
    of = {}
    for init, source in found["plan"]["inits"].items():
        of |= dict.fromkeys([source] if isinstance(source, str) else source, init)
    with styled():
        figure, (axis,) = plots(1, wide=7.5, height=3.8)
        told: set[str] = set()
        for name, run in found["pretrained"].items():
            points = read_metrics(root / run / "metrics.jsonl").get("loss", [])
            if points:
                init = of.get(name, name.rpartition(".")[0] if name.rpartition(".")[2].isdecimal() else name)
                steps, values = zip(*points, strict=True)
                label = None if init in told else init
                colour = colours.get(init, AXES)
                axis.plot(steps, smooth(list(values), span=12), color=colour, label=label, linewidth=1.4)
                told.add(init)
        axis.set_xlabel("step")
        axis.set_title("loss")
        _legend(figure, axis, 4)
    return figure


def gains_by_slice(rows: Sequence[Mapping[str, Any]], names: Sequence[str], baseline: str) -> Figure:
    """Gain of each class or size with its interval (Student's; a dot alone has one pair), best first.

    Args:
        rows: of study.json's `slices`, of one fraction and tuning.
        names: metrics to show; the last part is what is written.
    """
    inits = list(dict.fromkeys(row["init"] for row in rows))
    colours = ink([baseline, *inits], baseline)
    mean = {name: np.mean([r["mean"] for r in rows if r["metric"] == name and r["mean"] is not None]) for name in names}
    order = sorted(names, key=lambda name: -mean[name])
    with styled():
        figure, (axis,) = plots(1, height=max(2.2, 0.9 + 0.32 * len(names)), wide=7.2)
        for number, init in enumerate(inits):
            own = {row["metric"]: row for row in rows if row["init"] == init and row["mean"] is not None}
            for place, name in enumerate(order):
                if name not in own:
                    continue
                row, y = own[name], place + 0.22 * (number - (len(inits) - 1) / 2)
                if row["student"]:
                    axis.plot(row["student"], [y, y], color=colours[init], linewidth=1.3, alpha=0.7)
                label = init if place == 0 else None
                axis.plot(row["mean"], y, MARKS[number % len(MARKS)], color=colours[init], label=label)
        axis.axvline(0, color=AXES, linewidth=1)
        axis.set_yticks(range(len(order)), [name.rpartition("/")[2] for name in order])
        axis.set_ylim(len(order) - 0.5, -0.5)
        axis.set_xlabel(f"gain over {baseline}")
        axis.grid(axis="y", visible=False)
        if len(inits) > 1:
            _legend(figure, axis, len(inits))
    return figure


def damage(robustness: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> Figure:
    """What is left of the metric under each corruption: a map of corruption by severity for each model.

    Args:
        robustness: by trial, as `study.robustness` gives it.
        labels: how each trial is called.
    """
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("kept", ["#8c2d04", "#fdd0a2", "#f2f0e6", "#1b9e77"])
    shown = {name: one for name, one in robustness.items() if one.get("trials")}
    with styled():
        kinds = list(dict.fromkeys(c["corruption"] for one in shown.values() for c in one["trials"]))
        levels = sorted({c["severity"] for one in shown.values() for c in one["trials"]})
        figure, axes = plots(len(shown), height=1.3 + 0.33 * len(kinds), wide=3.6)
        for number, (axis, (name, one)) in enumerate(zip(axes, shown.items(), strict=True)):
            table = np.full((len(kinds), len(levels)), np.nan)
            for trial in one["trials"]:
                if trial["value"] is not None:
                    table[kinds.index(trial["corruption"]), levels.index(trial["severity"])] = trial["value"]
            clean = one["clean"] or math.nan
            axis.imshow(table / clean, cmap=colours, vmin=0, vmax=1.15, aspect="auto")
            for y, x in np.argwhere(np.isfinite(table)):
                dark = table[y, x] / clean < 0.35
                axis.text(
                    x, y, f"{table[y, x]:.2f}", ha="center", va="center", fontsize=8, color="#fff" if dark else "#222"
                )
            axis.set_xticks(range(len(levels)), [str(level) for level in levels])
            axis.set_yticks(
                range(len(kinds)), [k.replace("_", " ") for k in kinds] if number == 0 else [""] * len(kinds)
            )
            axis.set_xlabel("severity")
            axis.set_title(f"{labels[name]}\nclean {clean:.3f}")
            axis.grid(visible=False)
    return figure


def _places(fractions: Sequence[float], number: int, total: int) -> list[float]:
    """Where an init's dots stand: beside each other where there is one fraction only."""
    return (
        [fraction + 0.04 * (number - (total - 1) / 2) for fraction in fractions]
        if len(fractions) == 1
        else list(fractions)
    )


def _level(axes: Sequence[Any]) -> None:
    """One scale for all plots."""
    ends = [end for axis in axes for end in axis.get_ylim()]
    for axis in axes:
        axis.set_ylim(min(ends), max(ends))


def _legend(figure: Any, axis: Any, columns: int) -> None:
    handles, labels = axis.get_legend_handles_labels()
    fit = max(1, int(figure.get_figwidth() // 2.4))  # inches of a mark and a name such as instructions.shuffled
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, 4, fit), frameon=False)

"""The report of a comparison: numbers side by side, learning curves in one figure, and what else differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vistruct.reports.measured import parted
from vistruct.reports.page import COLOURS, Report, styled
from vistruct.reports.run_report import smooth
from vistruct.study.compare import Comparison, Number
from vistruct.study.figures import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CURVES = 4  # evaluations in the figure of learning curves


def write_comparison(path: Path, found: Comparison) -> Path:
    """Write the report."""
    a, b = found.a.resolve().name, found.b.resolve().name
    page = Report(f"{a} and {b}", f"Two {found.kind}: **A** is `{found.a}`, **B** is `{found.b}`")
    for warning in found.warnings:
        page.callout(f"**{warning}**")
    overall = [number for number in found.numbers if _is_overall(number.name)]
    page.key_numbers(
        [(f"{_shown(n.a)} → {_shown(n.b)}", n.name, n.said) for n in overall[:4] if n.difference is not None]
    )
    _numbers(page, "Numbers", overall)
    classes = [number for number in found.numbers if number not in overall]
    if classes:
        _numbers(page, "Class by class", sorted(classes, key=lambda n: -(n.difference or 0.0)))
    if any(found.series):
        figure = curves(found)
        if figure is not None:
            page.text("## How they learned").figure(figure, "Losses as moving averages. Solid: A, dashed: B.")
    page.text("## What differs")
    if found.settings:
        page.table(["setting", "A", "B"], [list(row) for row in found.settings], caption="In `run.yaml` or the plan")
    else:
        page.text("No setting differs.")
    if found.data:
        page.table(["data", "A", "B", ""], [list(row) for row in found.data], caption="Fingerprints of the data")
    page.text("## Read with care\n\n" + "\n\n".join(cautions(found)))
    return page.write(path)


def cautions(found: Comparison) -> list[str]:
    """What the numbers do not say."""
    lines = []
    if found.kind == "runs":
        lines.append(
            "Two runs are one pair. How much of a difference is chance in training (the seed) cannot be seen from "
            "them: `vistruct study` repeats with several seeds."
        )
    if any(number.over == "images" for number in found.numbers):
        lines.append(
            "Intervals draw the images anew, the same ones for A and B: they say how much depends on which images "
            "were measured. Images of one scene are less independent than they are taken for."
        )
    intervals = sum(number.interval is not None for number in found.numbers)
    if intervals > 1:
        lines.append(f"{intervals} intervals of 95%: without any difference about one in twenty would leave zero out.")
    return lines


def curves(found: Comparison) -> Figure | None:
    """Loss and evaluations of both over their steps; None where nothing was logged twice."""
    names = [
        name
        for name in dict.fromkeys([*found.series[0], *found.series[1]])
        if (name == "loss" or ("/" in name and _is_overall(name)))
        and any(len(one.get(name, ())) > 1 for one in found.series)
    ][: 1 + MOST_CURVES]
    if not names:
        return None
    with styled():
        figure, axes = plots(len(names), height=3.3, wide=3.4)
        for axis, name in zip(axes, names, strict=True):
            for one, label, style, colour in zip(found.series, "AB", ("-", "--"), COLOURS, strict=False):
                if name in one:
                    steps, values = zip(*one[name], strict=True)
                    shown = smooth(list(values)) if name == "loss" else values
                    axis.plot(steps, shown, style, color=colour, label=label)
            axis.set_title(name)
            axis.set_xlabel("step")
        axes[0].legend()
    return figure


def _is_overall(name: str) -> bool:
    """Whether a number is of all classes together: `val/mask/AP50`, and not `val/IoU/road`."""
    return parted(name.partition("/")[2])[1] is None


def _numbers(page: Report, title: str, numbers: Sequence[Number]) -> None:
    rows = [
        [n.name, n.a, n.b, None if n.difference is None else f"{n.difference:+.4f}", n.said or "–"] for n in numbers
    ]
    clear = [i for i, n in enumerate(numbers) if n.interval is not None and n.interval.excludes_zero]
    page.text(f"## {title}").table(["metric", "A", "B", "B − A", "95% interval"], rows, clear)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

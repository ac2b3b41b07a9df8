"""What was measured, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vistruct.cli.output import note, table

if TYPE_CHECKING:
    from vistruct.study.compare import Number


def show(results: Mapping[str, Mapping[str, float]]) -> None:
    """Print what was measured: answers by family, everything else number by number."""
    from vistruct.metrics.answers import by_family

    rest = []
    for name, figures in results.items():
        lines = by_family(figures)
        if lines:
            rows = [[s.family, s.questions, s.measure, s.score, _known(s.error), _known(s.constant)] for s in lines]
            headers = ["family", "questions", "measure", "score", "± standard error", "best constant answer"]
            table(headers, rows, title=name)
        shown = {part for s in lines for part in (f"questions/{s.family}", f"{s.measure}/{s.family}")}
        shown |= {f"{part}/{s.family}" for s in lines for part in ("constant", "error")}
        rest += [[name, key, float(value)] for key, value in figures.items() if key not in shown]
        if figures.get("unnamed"):
            note(
                f"{figures['unnamed']:.0f} questions of {name} name no family: (brackets) say the form of their answer"
            )
    table(["data", "metric", "value"], rest)


def _known(value: float) -> float | str:
    return "" if value != value else value  # NaN: of a score that is no mean over questions; of what is drawn


def show_before_and_after(results: Mapping[str, Mapping[str, Number]]) -> None:
    """Print each number without and with the adapters, the difference, and how much of it depends on the images."""
    headers = ["data", "metric", "without", "with", "difference", "95% interval"]
    rows = []
    for of, own in results.items():
        for name, one in own.items():
            change = None if one.difference is None else f"{one.difference:+.4f}"
            rows.append([of, name, *(_cell(v) for v in (one.a, one.b)), change or "", one.said])
        unpaired = [name for name, one in own.items() if one.interval is None and one.difference is not None]
        if unpaired:
            shown = ", ".join(unpaired[:6]) + (", ..." if len(unpaired) > 6 else "")
            note(f"{of}: no interval, because what each image adds to them is not kept: {shown}")
    table(headers, rows)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

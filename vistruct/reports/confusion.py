"""A confusion matrix as a figure, for two classes and for thirty; and bars where an image may have several classes.

scikit-learn's `ConfusionMatrixDisplay` was weighed: it draws on an opaque ground with ink of its own, which is
unreadable on a dark page, and has no room for both shares and counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vistruct.reports.page import AXES, COLOURS, printable, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WITH_COUNTS, WITH_SHARES = 8, 20  # classes up to which a cell has both, and has its share
LONGEST = 22  # letters of a class name beside the matrix
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def confusion_figure(
    confusion: np.ndarray | Sequence[Sequence[int]], class_names: Sequence[str], *, normalise: bool = True
) -> Figure:
    """Rows are the truth, columns what was said; the colour of a cell is its share of its row.

    Args:
        confusion: int[K, K], K at least 1.
        class_names: K of them.
        normalise: cells say their share of the row, with the count below where there is room; false: counts alone.

    Raises:
        ValueError: no class, or another number of names than of rows or columns.
    """
    from matplotlib import pyplot as plt

    counts = np.asarray(confusion, np.int64)
    number = len(class_names)
    if not number or counts.shape != (number, number):
        raise ValueError(f"a confusion matrix of {counts.shape} for {number} classes")
    rows = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    names = [_short(name) for name in class_names]
    side = number * (1.0 if number <= WITH_COUNTS else 0.56 if number <= WITH_SHARES else 0.34)
    margin = 0.6 + 0.09 * max(map(len, names))
    with styled():
        figure, axis = plt.subplots(figsize=(max(side, 1.8) + margin + 0.4, max(side, 1.8) + margin))
        plt.close(figure)  # out of pyplot's keeping: it lives as long as its user
        axis.imshow(share, cmap=_fading(), vmin=0, vmax=1, interpolation="nearest")
        small = number > WITH_COUNTS
        turn: dict[str, Any] = {"rotation": 90} if small else {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
        axis.set_xticks(range(number), names, fontsize=8 if small else 10, **turn)
        axis.set_yticks(range(number), names, fontsize=8 if small else 10)
        axis.set_xlabel("said to be")
        axis.set_ylabel("truth")
        axis.grid(False)
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(True)
        if number <= WITH_SHARES:
            for (i, j), count in np.ndenumerate(counts):
                _write(axis, i, j, int(count), share[i, j] if rows[i, 0] else None, normalise, number)
    return figure


def class_bars(class_names: Sequence[str], values: Sequence[float | None], what: str) -> Figure:
    """A bar for each class, the best on top; None and NaN, of classes that do not occur, come last without one.

    Args:
        class_names: K of them.
        values: K, in [0, 1].
        what: the name of the number.
    """
    from matplotlib import pyplot as plt

    known = [None if value is None or np.isnan(value) else float(value) for value in values]
    order = sorted(range(len(known)), key=lambda i: (known[i] is None, -(known[i] or 0.0)))
    with styled():
        figure, axis = plt.subplots(figsize=(7.0, 0.7 + 0.3 * max(2, len(order))))
        plt.close(figure)
        for row, i in enumerate(order):
            value = known[i]
            axis.barh(row, value or 0.0, color=COLOURS[0], height=0.66)
            axis.text((value or 0.0) + 0.01, row, "–" if value is None else f"{value:.2f}", va="center", fontsize=9)
        axis.set_yticks(range(len(order)), [_short(class_names[i]) for i in order], fontsize=9)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.08)
        axis.set_title(what)
        axis.grid(False, axis="y")
        axis.tick_params(axis="y", length=0)
    return figure


def _write(axis: Any, row: int, column: int, count: int, share: float | None, normalise: bool, number: int) -> None:
    """The text of a cell: nothing off the diagonal where it would be a zero, so that what is wrong stands out."""
    if row != column and (not count or (number > WITH_COUNTS and normalise and (share or 0) < 0.005)):
        return
    ink = "#ffffff" if share is not None and share > 0.55 else AXES
    if not normalise:
        text = _brief(count)
    elif number <= WITH_COUNTS:
        text = "none" if share is None else f"{_percent(share)}\n"
    else:
        text = "–" if share is None else f"{100 * share:.0f}"
    size = 11 if number <= WITH_COUNTS else 8
    axis.text(column, row, text, ha="center", va="center", color=ink, fontsize=size)
    if normalise and number <= WITH_COUNTS and share is not None:
        axis.text(column, row + 0.22, _brief(count), ha="center", va="center", color=ink, fontsize=8, alpha=0.85)


def _fading() -> Any:
    """From nothing, so that the page shows through, to the report's green."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    red, green, blue = to_rgb(COLOURS[0])
    return LinearSegmentedColormap.from_list("fading", [(red, green, blue, 0.0), (red, green, blue, 1.0)])


def _percent(share: float) -> str:
    percent = 100 * share
    if 0 < percent < 0.1:
        return "<0.1%"
    return f"{percent:.0f}%" if percent in (0.0, 100.0) else f"{min(percent, 99.9):.1f}%"


def _brief(count: int) -> str:
    """Three digits and a unit."""
    for size, unit in UNITS:
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"

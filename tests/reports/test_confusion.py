"""Confusion matrices as figures: the right number stands in the right cell."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from vistruct.reports.confusion import class_bars, confusion_figure
from vistruct.reports.page import Report, figure_to_svg


def cells(figure) -> dict[tuple[int, int], list[str]]:
    """Texts by (row, column)."""
    found: dict[tuple[int, int], list[str]] = {}
    for text in figure.axes[0].texts:
        x, y = text.get_position()
        found.setdefault((round(y - 0.1), round(x)), []).append(text.get_text().strip())
    return found


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_that_scikit_learn_normalises_by_truth(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, said = generator.integers(0, 5, (2, 300))
    figure = confusion_figure(confusion_matrix(truth, said), list("abcde"))
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown == pytest.approx(confusion_matrix(truth, said, normalize="true"))


def test_a_cell_has_its_share_and_its_count_with_the_truth_in_rows() -> None:
    figure = confusion_figure([[3, 1], [0, 1234567]], ["no", "yes"])
    assert cells(figure) == {(0, 0): ["75.0%", "3"], (0, 1): ["25.0%", "1"], (1, 1): ["100%", "1.23M"]}
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["no", "yes"]
    assert figure.axes[0].get_ylabel() == "truth"


def test_almost_all_is_not_called_all_and_almost_nothing_not_nothing() -> None:
    figure = confusion_figure([[999999, 1], [0, 0]], ["a", "b"])
    assert [cells(figure)[0, i][0] for i in range(2)] == ["99.9%", "<0.1%"]


def test_a_class_that_does_not_occur_says_so() -> None:
    figure = confusion_figure([[5, 0], [0, 0]], ["a", "b"])
    assert cells(figure)[1, 1] == ["none"]
    assert not np.isnan(np.asarray(figure.axes[0].images[0].get_array())).any()


def test_counts_alone_are_shown_where_that_is_asked_for() -> None:
    assert cells(confusion_figure([[3, 1], [0, 0]], ["a", "b"], normalise=False)) == {
        (0, 0): ["3"], (0, 1): ["1"], (1, 1): ["0"],
    }  # fmt: skip


@pytest.mark.parametrize(("number", "texts"), [(1, 2), (8, 16), (9, 9), (20, 20), (21, 0), (30, 0)])
def test_more_classes_have_less_text_in_a_cell(number: int, texts: int) -> None:
    figure = confusion_figure(np.eye(number, dtype=int) * 7, [f"class {i}" for i in range(number)])
    assert len(figure.axes[0].texts) == texts
    assert max(figure.get_size_inches()) < 13


def test_long_names_are_cut() -> None:
    figure = confusion_figure([[1]], ["x" * 90])
    assert figure.axes[0].get_yticklabels()[0].get_text() == "x" * 21 + "…"


def test_a_matrix_of_another_size_than_the_classes_is_refused() -> None:
    for counts, names in (([[1, 2]], ["a"]), ([[1]], ["a", "b"]), (np.zeros((0, 0)), [])):
        with pytest.raises(ValueError, match="a confusion matrix of"):
            confusion_figure(counts, names)


def test_bars_stand_in_order_and_classes_without_a_number_come_last() -> None:
    axis = class_bars(["a", "b", "c", "d"], [0.2, None, 0.9, math.nan], "AP").axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["c", "a", "b", "d"]
    assert [bar.get_width() for bar in axis.patches] == [0.9, 0.2, 0.0, 0.0]
    assert [text.get_text() for text in axis.texts] == ["0.90", "0.20", "–", "–"]


@pytest.mark.parametrize("name", ["$\\frac$", "a$b$^c", "a_{$1$}", "$", "<b>&amp;</b>", "_x", "^", "\\textbf{x}"])
def test_names_that_look_like_formulas_or_marks_are_shown_as_written(name: str) -> None:
    for figure in (confusion_figure([[1, 0], [0, 1]], [name, "b"]), class_bars([name, "b"], [0.5, None], name)):
        tree = ElementTree.fromstring(figure_to_svg(figure))
        assert name in [(text.text or "").strip() for text in tree.iter("{http://www.w3.org/2000/svg}text")]


def test_names_that_no_page_can_hold_do_not_keep_it_from_being_written(tmp_path) -> None:
    names = ["a\x00b", "\udcff", "\x1b[31m", ""]
    figure = confusion_figure(np.eye(4, dtype=int), names)
    ElementTree.fromstring(figure_to_svg(figure))
    page = Report(names[1]).table(["class"], [[name] for name in names]).figure(figure, names[2])
    assert "\ufffd" in page.write(tmp_path / "x.html").read_text(encoding="utf-8")

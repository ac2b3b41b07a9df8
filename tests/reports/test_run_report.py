"""Reports: one file, nothing from outside, and what was measured is what is shown."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import made_evaluations
import pytest
from made_evaluations import keep
from PIL import Image

from vistruct.engine.evaluate import Measured
from vistruct.reports import evaluations as report_evaluations
from vistruct.reports.page import Bar, Report, figure_to_svg, house_style
from vistruct.reports.run_report import curves, read_metrics, smooth, write_run_report

VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """Collects tags with their attributes, checks that they are closed in order, and reads tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.words: list[str] = []
        self.headers: dict[int, int] = {}  # by number of a table's first cell, how many headers it has
        self.sizes: dict[int, int] = {}  # likewise, how many cells
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.first = len(self.cells)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "thead":
            self.headers[self.first] = len(self.cells) - self.first
        if tag == "table":
            self.sizes[self.first] = len(self.cells) - self.first

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def images(self) -> list[tuple[str, bytes]]:
        found = []
        for tag, attributes in self.tags:
            if tag == "img":
                match = re.fullmatch(r"data:([a-z/+]+);base64,(.+)", attributes["src"] or "")
                assert match, "an image that is not in the file"
                found.append((match[1], base64.b64decode(match[2], validate=True)))
        return found


def full_report() -> Report:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(house_style()):
        figure, axis = plt.subplots()
        axis.plot([1, 2], [3, 4], label="a line")
        axis.set_title("curve")
        plt.close(figure)
    report = Report("A <b>title</b> & more", "sub `code`")
    report.callout("**Careful.**").key_numbers([(0.5, "half"), (1234567, "many", "a note"), (None, "unknown")])
    report.text("## Part\nOne *word* and `a<b`.\n\n- first\n- second")
    rows = [["a", 0.123456, "1 ± 2"], ["b", None, "3"]]
    report.table(["name", "value", "x"], rows, highlight=[1, (0, 1)], caption="A table")
    report.figure(figure, "A plot").figure(Image.new("RGB", (30, 20), "red"), "A photograph")
    report.figure(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "Transparent")
    return report.details("more", "<raw> text\nsecond line")


def test_the_page_is_well_formed_and_every_image_in_it_decodes() -> None:
    page = Page(full_report().to_html())
    assert page.open == []
    kinds = [kind for kind, _ in page.images()]
    assert kinds == ["image/svg+xml", "image/jpeg", "image/png"]
    sizes = [Image.open(io.BytesIO(data)).size for kind, data in page.images() if "svg" not in kind]
    assert sizes == [(30, 20), (8, 8)]


def test_nothing_in_the_page_points_outside_the_file() -> None:
    page = Page(full_report().to_html())
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base"}
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name) is None or (attributes[name] or "").startswith(("data:", "#"))
        assert not any(name.startswith("on") for name in attributes)
    style = full_report().to_html().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    svg = page.images()[0][1].decode()
    loaded = re.findall(r"(?:href|src)=\"([^\"]*)\"", svg)
    assert all(link.startswith(("#", "data:")) for link in loaded)
    assert "url(http" not in svg


def test_what_is_written_is_text_and_never_markup() -> None:
    text = full_report().to_html()
    assert "A &lt;b&gt;title&lt;/b&gt; &amp; more" in text
    assert "<code>a&lt;b</code>" in text
    assert "&lt;raw&gt; text\nsecond line" in text
    quoted = Report("t").figure(Image.new("RGB", (2, 2)), 'a "quoted" <caption>').to_html()
    assert 'alt="a &quot;quoted&quot; &lt;caption&gt;"' in quoted


def test_table_cells_hold_the_numbers_that_were_given() -> None:
    page = Page(full_report().to_html())
    assert page.cells == ["name", "value", "x", "a", "0.1235", "1 ± 2", "b", "–", "3"]
    assert "1\u202f234\u202f567" in page.words


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 cells, the table has 2"):
        Report("t").table(["a", "b"], [[1, 2], [1]])


def test_an_empty_table_and_an_empty_report_are_pages() -> None:
    assert Page(Report("t").table(["a"], []).to_html()).cells == ["a"]
    assert Page(Report("").to_html()).open == []


def test_plots_take_the_colour_of_the_page() -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(house_style()):
        figure = Figure()
        figure.subplots().set_title("words")
    svg = figure_to_svg(figure)
    assert "currentColor" in svg
    assert house_style()["text.color"] not in svg
    assert "prefers-color-scheme" in svg
    assert ">words<" in svg  # text stays text


def metrics_file(folder: Path, steps: int = 40) -> Path:
    lines = []
    for step in range(1, steps + 1):
        row = {"step": step, "loss": None if step == 7 else 2.0 / step, "lr": 1e-4, "seconds": 0.5}
        if step % 20 == 0:
            row |= {"val/AP": step / 100, "val/AP50": step / 50}
        lines.append(json.dumps(row))
    file = folder / "metrics.jsonl"
    file.write_text("\n".join(lines) + '\n{"step": 41, "lo')  # cut short by a crash
    return file


def test_metrics_are_read_with_their_gaps_and_without_the_line_that_was_cut_short(tmp_path: Path) -> None:
    series = read_metrics(metrics_file(tmp_path))
    assert len(series["loss"]) == 40
    assert math.isnan(series["loss"][6][1])
    assert series["val/AP"] == [(20, 0.2), (40, 0.4)]
    assert read_metrics(tmp_path / "absent.jsonl") == {}


def test_curves_show_loss_rate_and_repeated_evaluations(tmp_path: Path) -> None:
    figure = curves(metrics_file(tmp_path))
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "loss",
        "learning rate, in 1e-4",
        "evaluation",
    ]
    raw = figure.axes[0].lines[0].get_ydata()
    assert raw[0] == 2.0
    assert math.isnan(raw[6])
    assert list(figure.axes[2].lines[0].get_ydata()) == [0.2, 0.4]


def test_curves_of_no_steps_say_so(tmp_path: Path) -> None:
    assert "no steps logged" in curves(tmp_path / "absent.jsonl").axes[0].texts[0].get_text()


def test_smoothing_of_a_constant_is_the_constant_and_passes_over_gaps() -> None:
    assert smooth([3.0] * 5) == pytest.approx([3.0] * 5)
    assert smooth([1.0, math.nan, 1.0]) == pytest.approx([1.0, 1.0, 1.0])
    assert math.isnan(smooth([math.nan])[0])
    assert smooth([0.0] * 200 + [1.0])[-1] == pytest.approx(2 / 21)  # the weight of the newest of 20


def run_dir(folder: Path) -> Path:
    metrics_file(folder)
    (folder / "run.yaml").write_text("recipe: detect\nsteps: 40\n")
    (folder / "env.json").write_text('{"torch": "9.9"}')
    info = {"num_records": 12, "counts": {"tree": 34}, "dropped": {"box outside its image": 5}}
    (folder / "data.json").write_text(json.dumps({"train": {"main": info}, "evals": {}}))
    rule = {"pattern": "head", "mode": "full", "lr_factor": 0.5, "tensors": 2, "trainable": 10, "frozen": 0}
    (folder / "plan.json").write_text(json.dumps({"trainable": 10, "parameters": 20, "rules": [rule]}))
    (folder / "samples").mkdir()
    Image.new("RGB", (40, 30), "green").save(folder / "samples" / "first_batch.png")
    return folder


def test_a_run_report_tells_what_the_run_directory_holds(tmp_path: Path) -> None:
    path = write_run_report(run_dir(tmp_path))
    assert path == tmp_path / "report.html"
    text = path.read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.images()) == 2  # the curves and the picture
    assert "Training run of the recipe <code>detect</code>" in text
    for row in (["val/AP50", "0.8", "40"], ["tree", "34"], ["train", "box outside its image", "5"]):
        start = page.cells.index(row[0]) if row[0] != "train" else page.cells.index(row[1]) - 1
        assert page.cells[start : start + len(row)] == row
    assert "Parameters: 10 of 20 trainable (50.0%)" in text
    assert rows_below(page, "parts") == [["head", "full", "0.5", "10", "0"]]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_run_report_of_an_empty_directory_names_what_is_missing(tmp_path: Path) -> None:
    text = write_run_report(tmp_path).read_text()
    assert "No steps were logged" in text
    assert "<code>data.json</code> is missing" in text


def rows_below(page: Page, header: str) -> list[list[str]]:
    """The rows of the table whose first header that is."""
    start = page.cells.index(header)
    columns = page.headers[start]
    cells = page.cells[start + columns :]
    return [cells[i : i + columns] for i in range(0, page.sizes[start] - columns, columns)]


def test_a_bar_is_a_number_and_as_long_as_its_share() -> None:
    text = Report("t").table(["name", "x"], [["a", Bar(0.25)], ["b", Bar(math.nan)], ["c", Bar(1.7)]]).to_html()
    assert Page(text).cells == ["name", "x", "a", "0.250", "b", "–", "c", "1.700"]
    assert re.findall(r'class="n bar" style="--share: ([\d.]+)"', text) == ["0.2500", "1.0000"]


@pytest.fixture(scope="module")
def land(tmp_path_factory: pytest.TempPathFactory) -> tuple[Measured, Page]:
    """What an evaluation of label maps found, and the run's report."""
    folder = run_dir(tmp_path_factory.mktemp("land"))
    measured = keep(folder, "land", "pixels", made_evaluations.pixels())
    return measured, Page(write_run_report(folder).read_text())


def test_a_run_report_has_a_row_for_each_class_sorted_by_its_score(land: tuple[Measured, Page]) -> None:
    numbers, page = land[0].numbers, land[1]
    assert page.open == []
    rows = rows_below(page, "class")
    assert [row[0] for row in rows] == sorted(made_evaluations.LAND, key=lambda name: -(numbers[f"IoU/{name}"]))
    for row in rows:
        for place, figure in enumerate(("IoU", "F1", "precision", "recall"), 1):
            value = numbers[f"{figure}/{row[0]}"]
            assert row[place] == ("–" if math.isnan(value) else f"{value:.3f}")
    overall = rows_below(page, "metric")
    assert ["land/mIoU", f"{numbers['mIoU']:.4g}", "40"] in overall
    assert not any("IoU/" in row[0] for row in overall)


def test_a_run_report_names_the_worst_images_first_and_what_is_wrong_in_them(land: tuple[Measured, Page]) -> None:
    details, rows = land[0].details, rows_below(land[1], "image")
    assert len(rows) == report_evaluations.WORST + report_evaluations.BEST
    assert [row[0] for row in rows[:2]] == ["scene 11", "scene 10"]
    assert rows[-1][:2] == ["scene 0", "1.000"]
    right, false, missed = details["images"]["scene 11"][made_evaluations.LAND.index(rows[0][2])]
    assert rows[0][3] == f"{right / (right + false + missed):.3f}"


def test_a_run_report_shows_the_commonest_mistakes(land: tuple[Measured, Page]) -> None:
    confusion, rows = land[0].details["confusion"], rows_below(land[1], "is")
    names = made_evaluations.LAND
    counts = [confusion[names.index(row[0])][names.index(row[1])] for row in rows]
    wrong = sorted((n for i, line in enumerate(confusion) for j, n in enumerate(line) if i != j), reverse=True)
    assert counts == [n for n in wrong[:5] if n]
    assert [row[2] for row in rows] == [f"{n:,}".replace(",", "\u202f") for n in counts]


def test_a_run_report_shows_the_worst_answers_of_a_model_that_points(tmp_path: Path) -> None:
    run_dir(tmp_path)
    measured = keep(tmp_path, "asked", "grounded", made_evaluations.grounded())
    page = Page(write_run_report(tmp_path).read_text())
    assert page.open == []
    rows = rows_below(page, "id")
    assert [row[0] for row in rows] == [f"q{i}" for i in (11, 10, 9, 8, 7, 6, 2, 1, 0)]
    assert rows[0][1] == "Where is <oak> 11?"
    assert rows_below(page, "what is broken") == [["phrase not closed", "1"]]
    (family,) = rows_below(page, "family")
    assert family[0] == "refer"
    assert f"{measured.numbers['acc50/refer']:.3f}" in family


def test_a_run_report_has_every_evaluation_under_its_name(tmp_path: Path) -> None:
    run_dir(tmp_path)
    keep(tmp_path, "brain", "volumes_overlap", made_evaluations.volumes())
    keep(tmp_path, "scenes", "classes", made_evaluations.classes(multi_label=False))
    keep(tmp_path, "tags", "classes", made_evaluations.classes(multi_label=True))
    text = write_run_report(tmp_path).read_text()
    page = Page(text)
    assert page.open == []
    for heading in ("Class by class: <code>brain</code>", "The worst volumes: <code>brain</code>",
                    "What is taken for what: <code>scenes</code>", "The worst images: <code>tags</code>"):  # fmt: skip
        assert f"<h3>{heading}</h3>" in text
    assert "What is taken for what: <code>tags</code>" not in text
    assert len(page.images()) == 5  # curves, two matrices, bars of the average precision, the picture
    assert {"val/AP50", "brain/mDice", "scenes/OA", "tags/mAP"} <= set(page.cells)
    assert [row[0] for row in rows_below(page, "volume")] == ["case 2", "case 1", "case 0"]


def test_a_run_report_has_surface_distances_with_nothing_where_there_is_no_surface(tmp_path: Path) -> None:
    (run_dir(tmp_path) / "evaluations").mkdir()
    details = {"class_names": ["background", "a", "b"], "confusion": [[9, 0, 0], [0, 3, 1], [0, 0, 2]],
               "images": {"x": [[9, 0, 0], [3, 0, 1], [2, 1, 0]]}, "region_names": ["a", "b"],
               "hd95": {"x": [1.5, None], "y": [7.25, 2.0]}}  # fmt: skip
    numbers = {"mDice": 0.8, "Dice/a": 0.9, "Dice/b": 0.7, "mHD95": 3.0, "HD95/a": 0.5, "HD95/b": None}
    kept = {"metric": "volumes_overlap", "step": 3, "numbers": numbers, "details": details}
    (tmp_path / "evaluations" / "ct.json").write_text(json.dumps(kept))
    page = Page(write_run_report(tmp_path).read_text())
    assert rows_below(page, "volume") == [["y", "7.25", "2"], ["x", "1.5", "–"]]
    assert rows_below(page, "class") == [["a", "0.900", "0.5", "4"], ["b", "0.700", "–", "2"]]


def test_classes_that_are_nowhere_are_no_part_of_the_matrix_and_that_is_said(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d", "e", "f")
    metric = made_evaluations.pixels(names, images=1)  # all right, so that the last class is never said
    keep(run_dir(tmp_path), "land", "pixels", metric)
    page = Page(write_run_report(tmp_path).read_text())
    alts = [attributes["alt"] or "" for tag, attributes in page.tags if tag == "img"]
    assert any("1 of the classes are nowhere" in alt for alt in alts)
    svg = page.images()[1][1].decode()
    assert ">e<" in svg
    assert ">f<" not in svg


def test_an_evaluation_in_which_nothing_counted_is_reported(tmp_path: Path) -> None:
    keep(run_dir(tmp_path), "land", "pixels", made_evaluations.pixels(images=0))
    page = Page(write_run_report(tmp_path).read_text())
    assert [row[1:] for row in rows_below(page, "class")] == [["–"] * 4 + ["0"]] * 4


def test_names_with_marks_in_them_are_shown_as_they_are(tmp_path: Path) -> None:
    keep(run_dir(tmp_path), "land", "pixels", made_evaluations.pixels(("**a**", "b<i>", "c_d_e")))
    names = {row[0] for row in rows_below(Page(write_run_report(tmp_path).read_text()), "class")}
    assert names == {"**a**", "b<i>", "c_d_e"}


def test_a_report_of_many_streams_leaves_none_out_and_counts_shared_samples_once(tmp_path: Path) -> None:
    names = [f"{one}_{task}" for one in ("sota", "sior", "fast") for task in ("ss", "is", "rd")]
    info = {"num_records": 12, "counts": {"tree": 34}, "dropped": {"box outside its image": 5}}
    row = {"step": 1, "loss": 3.0} | {f"{name}.loss": 1.0 for name in names} | {f"{name}/AP": 0.5 for name in names}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    streams = {name: {"samples": "" if name.endswith("ss") else f"{name[:-3]}_ss"} for name in names}
    (tmp_path / "run.yaml").write_text(json.dumps({"recipe": "mtp.pretrain", "streams": streams}))
    every = dict.fromkeys(names, info)
    other = info | {"num_records": 7}
    (tmp_path / "data.json").write_text(json.dumps({"train": every, "evals": every | {"sota_rd": other}}))
    (axis,) = curves(tmp_path / "metrics.jsonl").axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axis.lines[1::2]}
    assert len(looks) == 9
    text = write_run_report(tmp_path).read_text()
    assert "<b>36</b><span>training samples" in text
    for name in ("sota_ss", "sota_is", "sota_rd"):
        assert f"<b>0.5</b><span>{name}/AP" in text
    left_out = [row[0] for row in rows_below(Page(text), "data")]
    assert left_out == ["train sota_ss", "train sior_ss", "train fast_ss", "sota_ss", "sota_rd", "sior_ss", "fast_ss"]


def test_curves_leave_single_classes_out(tmp_path: Path) -> None:
    rows = [{"step": step, "val/mIoU": 0.5, "val/IoU/road": 0.4, "val/mask/AP": 0.3} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (axis,) = curves(tmp_path / "metrics.jsonl").axes
    assert [line.get_label() for line in axis.lines] == ["val/mIoU", "val/mask/AP"]

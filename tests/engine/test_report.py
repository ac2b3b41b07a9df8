"""Reports: one file, nothing from outside, and what was measured is what is shown."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from vistruct.engine.page import Report, figure_to_svg, house_style
from vistruct.engine.report import curves, read_metrics, smooth, write_run_report

VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """Collects tags with their attributes, checks that they are closed in order, and reads tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

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
    (folder / "data.json").write_text(json.dumps({"train": info}))
    stamp = "2026-01-31 23:59:59  "
    log = [
        "12 samples",
        "what moves:",
        "head   full   10 move",
        "10 of 20 parameters move (50.0%)",
        "on 1 x cpu",
    ]
    (folder / "train.log").write_text("".join(f"{stamp}{line}\n" for line in log))
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
    for row in (["val/AP50", "0.8", "40"], ["tree", "34"], ["train", "box outside its image", "5"]):
        start = page.cells.index(row[0]) if row[0] != "train" else page.cells.index(row[1]) - 1
        assert page.cells[start : start + len(row)] == row
    assert "head   full   10 move\n10 of 20 parameters move (50.0%)</pre>" in text
    assert "on 1 x cpu" not in text
    assert not list(tmp_path.glob("*.tmp"))


def test_a_run_report_of_an_empty_directory_names_what_is_missing(tmp_path: Path) -> None:
    text = write_run_report(tmp_path).read_text()
    assert "No steps were logged" in text
    assert "<code>data.json</code> is missing" in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_lays_the_page_out_within_its_window(tmp_path: Path, width: int) -> None:
    report = full_report()
    report.table([f"column {i}" for i in range(30)], [["a long cell of text"] * 30])
    report.figure(Image.new("RGB", (3000, 200), "red"), "wide").details("long", "x" * 5000)
    page = report.write(tmp_path / "page.html")
    probe = "<script>document.title = [document.documentElement.scrollWidth, innerWidth, " \
        "[...document.images].every(i => i.naturalWidth > 0)].join(' ')</script></body>"  # fmt: skip
    page.write_text(page.read_text().replace("<details>", "<details open>").replace("</body>", probe))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom",
               page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    title = re.search(r"<title>(\d+) (\d+) (true|false)</title>", done.stdout)
    assert title, done.stderr[-500:]
    assert int(title[1]) <= int(title[2])  # nothing makes the page scroll sideways
    assert title[3] == "true"

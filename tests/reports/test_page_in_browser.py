"""Reports as a browser shows them, on a laptop and on a phone."""

from __future__ import annotations

import json
from pathlib import Path

import made_evaluations
import pytest
import torch
from headless import LAPTOP, PHONE, Browser, assert_sound
from PIL import Image

from vistruct.pictures.maps import draw_map_prediction, draw_pair
from vistruct.reports.page import Bar, Report
from vistruct.reports.run_report import write_run_report

SIZES = [pytest.param(LAPTOP, id="laptop"), pytest.param(PHONE, id="phone")]


def run_dir(folder: Path, *kinds: str) -> Path:
    """A finished run whose evaluations are of those kinds."""
    made = {
        "land": ("pixels", made_evaluations.pixels),
        "many": ("pixels", lambda: made_evaluations.pixels(tuple(f"a class of number {i}" for i in range(26)))),
        "brain": ("volumes_overlap", made_evaluations.volumes),
        "scenes": ("classes", lambda: made_evaluations.classes(multi_label=False)),
        "tags": ("classes", lambda: made_evaluations.classes(multi_label=True)),
    }
    last: dict[str, float] = {}
    for name in kinds:
        metric, make = made[name]
        found = made_evaluations.keep(folder, name, metric, make()).numbers
        last |= {f"{name}/{figure}": value for figure, value in found.items() if value == value}
    rows = [{"step": step, "loss": 2 / step, "lr": 1e-4} | (last if step % 20 == 0 else {}) for step in range(1, 41)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.yaml").write_text("recipe: segment\nsteps: 40\nlong: " + "x" * 2000 + "\n")
    (folder / "data.json").write_text(
        json.dumps({"train": {"main": {"num_records": 9, "counts": {}, "dropped": {}}}, "evals": {}})
    )
    (folder / "samples").mkdir()
    image, labels = torch.zeros(3, 40, 60, dtype=torch.uint8), torch.zeros(40, 60, dtype=torch.int16)
    draw_map_prediction(image, labels, labels, made_evaluations.LAND).save(folder / "samples" / "predictions_land.png")
    draw_pair(image, image, labels, labels).save(folder / "samples" / "first_batch.png")
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds = {"segmentation": ["land"], "everything": ["land", "many", "brain", "scenes", "tags"], "nothing": []}
    made = {name: write_run_report(run_dir(tmp_path_factory.mktemp(name), *which)) for name, which in kinds.items()}
    wide = Report("W" * 300, "`" + "x" * 300 + "`").table([f"column {i}" for i in range(30)], [["a long cell"] * 30])
    wide.table(["name", "bar"], [["n" * 200, Bar(0.5)], ["many words " * 30, Bar(float("nan"))]], [0, (1, 1)])
    wide.figure(Image.new("RGB", (3000, 200), "red"), "wide").figure(Image.new("RGB", (3, 2000)), "high")
    wide.key_numbers([("9" * 60, "l" * 90), (1, "one")]).callout("c" * 400).details("s" * 300, "x" * 5000)
    return made | {"wide": wide.write(tmp_path_factory.mktemp("wide") / "report.html")}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "images", "tables"), [("segmentation", 4, 5), ("everything", 8, 16), ("wide", 2, 2)])
def test_a_report_is_whole_and_within_its_window(
    browser: Browser, pages: dict[str, Path], name: str, images: int, tables: int, size: tuple[int, int]
) -> None:
    seen = browser.look(pages[name], size)
    assert_sound(seen, size)
    assert (len(seen.images), len(seen.tables)) == (images, tables)


@pytest.mark.parametrize("size", SIZES)
def test_the_first_column_of_a_wide_table_stays_while_the_others_are_scrolled(
    browser: Browser, pages: dict[str, Path], size: tuple[int, int]
) -> None:
    table = browser.look(pages["wide"], size).tables[0]
    assert table["scrolled"] > 1000
    assert abs(table["moved"]) <= 1


@pytest.mark.parametrize("size", SIZES)
def test_a_report_of_a_run_that_measured_nothing_is_sound_too(
    browser: Browser, pages: dict[str, Path], size: tuple[int, int]
) -> None:
    assert_sound(browser.look(pages["nothing"], size), size)


def test_what_is_wrong_with_a_page_is_seen(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<body><main><p style="width: 3000px">wide</p><table></table><img alt="" src="data:image/png;base64,xx">'
        '<img alt="a" src="absent.png"></main><script>console.error("said"); absent()</script>'
    )
    for size in (LAPTOP, PHONE):
        seen = browser.look(page, size)
        assert {"said", "net::ERR_FILE_NOT_FOUND"} <= set(seen.errors)
        assert any("absent is not defined" in error for error in seen.errors)
        assert [Path(url).name for url in seen.loaded] == ["absent.png"]
        assert seen.width > 3000
        assert len(seen.sideways) == 1
        assert [image["natural"] for image in seen.images] == [[0, 0], [0, 0]]
        with pytest.raises(AssertionError):
            assert_sound(seen, size)

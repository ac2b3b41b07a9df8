"""What visitors of the page can do and cannot, without the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from web_models import Namer, Squares, model_of, runs, squares

from vistruct.errors import UserError
from vistruct.inference.kind import Asked
from vistruct.web.desk import Desk, streamed
from vistruct.web.prompts import regions_of
from vistruct.web.server import bound
from vistruct.web.shown import MOST_MARKS, shown_frame, shown_table, shown_view


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "images").mkdir()
    squares(tmp_path / "images" / "a.png")
    (tmp_path / "scratch").mkdir()
    return Desk(runs(), [tmp_path / "images"], tmp_path / "scratch")


def test_only_listed_images_can_be_chosen(desk: Desk, tmp_path: Path) -> None:
    secret = squares(tmp_path / "secret.png")
    visit = desk.visit()
    desk.enter(visit, "squares")
    assert list(visit.choices) == ["a.png"]
    for name in (str(secret), "../secret.png", "images/../../secret.png", ""):
        with pytest.raises(UserError, match="no such image here"):
            desk.choose(visit, name)
    with pytest.raises(UserError, match="no such run"):
        desk.enter(visit, "/etc")


def test_what_is_found_is_shown_in_pixels_of_the_file_and_files_hold_what_is_shown(desk: Desk) -> None:
    visit = desk.visit()
    desk.enter(visit, "squares")
    desk.choose(visit, "a.png")
    view = desk.ask(visit, Asked(min_score=0.6), ("geojson",))
    assert [mark.name for mark in view.marks] == ["blue"]
    assert np.array(view.marks[0].rings[0]).min(axis=0).tolist() == [40, 5]
    assert shown_table(view)["rows"] == [["blue", 0.9, 40.0, 5.0, 10.0, 10.0]]
    assert {file.name for file in visit.files} == {"a.png.jpg", "a.geojson"}
    assert len(json.loads(next(f for f in visit.files if f.suffix == ".geojson").read_text())["features"]) == 1
    assert len(desk.ask(visit, Asked(min_score=0.0)).marks) == 2  # written anew from what was found


def test_a_visit_leaves_nothing_and_uploads_do_not_mix(desk: Desk, tmp_path: Path) -> None:
    one, other = desk.visit(), desk.visit()
    for visit in (one, other):
        desk.enter(visit, "squares")
    brought = squares(tmp_path / "mine.png")
    name = desk.bring(one, [brought])
    assert not brought.exists()
    assert name in one.choices
    assert name not in other.choices
    desk.choose(one, name)
    desk.ask(one, Asked())
    again = desk.bring(one, [squares(tmp_path / "mine.png")])
    assert again != name
    desk.enter(one, "pixels")  # what was uploaded stays
    assert {name, again} <= set(one.choices)
    one.end()
    assert not one.folder.exists()
    assert other.folder.exists()


def test_a_pair_needs_two_images_and_a_text_is_none(desk: Desk, tmp_path: Path) -> None:
    visit = desk.visit()
    desk.enter(visit, "changes")
    with pytest.raises(UserError, match="compares before and after"):
        desk.bring(visit, [squares(tmp_path / "one.png")])
    name = desk.bring(visit, [squares(tmp_path / "before.png"), squares(tmp_path / "after.png")])
    assert len(desk.choose(visit, name).read(0)) == 2
    desk.enter(visit, "squares")
    (tmp_path / "text.png").write_text("no image")
    name = desk.bring(visit, [tmp_path / "text.png"])
    with pytest.raises(UserError):
        desk.choose(visit, name)


def test_a_large_raster_is_looked_at_whole_and_shown_small(desk: Desk, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.zeros((700, 3000, 3), np.uint8)
    pixels[600:620, 2400:2430, 0] = 255
    tifffile.imwrite(tmp_path / "images" / "large.tif", pixels, tile=(256, 256), photometric="rgb", compression="zlib")
    visit = desk.visit()
    desk._opened.clear()
    desk.runs = {"squares": lambda: model_of(Squares())}
    desk.enter(visit, "squares")
    frames = desk.choose(visit, "large.tif")
    assert max(frames.read(0)[0].shape[1:]) <= 2048
    view = desk.ask(visit, Asked())
    assert np.array(view.marks[0].rings[0]).min(axis=0).tolist() == [2400, 600]
    assert shown_frame(frames, 0, view)["size"] == [3000, 700]


def test_areas_of_a_map_are_drawn_in_their_colours_and_shares_counted(desk: Desk) -> None:
    visit = desk.visit()
    opened = desk.enter(visit, "pixels")
    frames = desk.choose(visit, "a.png")
    view = desk.ask(visit, Asked())
    seen = shown_frame(frames, 0, view) | shown_view(view)
    assert seen["areas"].startswith("data:image/png;base64,")
    assert {one["name"] for one in seen["legend"]} == {"red", "blue"}
    assert seen["legend"][0]["colour"] == list(opened.model.palette[0])
    assert {"png-a.png", "color-a.png", "legend.json", "areas.csv"} <= {file.name for file in visit.files}


def test_boxes_that_are_drawn_are_identified_and_without_them_it_is_said_how(tmp_path: Path) -> None:
    squares(tmp_path / "a.png")
    desk = Desk({"names": lambda: model_of(Namer())}, [tmp_path], tmp_path)
    visit = desk.visit()
    desk.enter(visit, "names")
    desk.choose(visit, "a.png")
    with pytest.raises(UserError, match="boxes that are given"):
        desk.ask(visit, Asked())
    shown = regions_of(
        '[{"kind": "box", "xy": [[36, 2], [54, 18]]}, {"kind": "box", "xy": [[1, 1], [8, 8]]}]', (60, 60)
    )
    assert [row[0] for row in desk.ask(visit, Asked(regions=shown)).rows] == ["blue", "nothing"]
    with pytest.raises(UserError, match="takes boxes"):
        desk.ask(visit, Asked(regions=regions_of('[{"kind": "point", "xy": [[36, 2]]}]', (60, 60))))


def test_of_very_many_objects_the_surest_are_drawn_and_it_is_said() -> None:
    from vistruct.inference.view import Mark, View

    marks = [Mark(name="a", colour=(1, 2, 3), score=number / 1e4) for number in range(MOST_MARKS + 1)]
    seen = shown_view(View(marks=marks))
    assert len(seen["marks"]) == MOST_MARKS
    assert min(mark["row"] for mark in seen["marks"]) == 1
    assert "4001" in seen["notes"][0]


def test_prompts_are_clipped_painted_and_refused() -> None:
    drawn = [
        {"kind": "box", "xy": [[30, 40], [-5, 10]]},
        {"kind": "point", "xy": [[3.5, 4]]},
        {"kind": "mask", "strokes": [{"radius": 2, "xy": [[10, 10]]}, {"radius": 1, "xy": [[20, 5], [25, 5]]}]},
    ]
    box, point, mask = regions_of(json.dumps(drawn), (20, 50))
    assert box.xy == ((0.0, 10.0), (30.0, 20.0))
    assert point.xy == ((3.5, 4.0),)
    assert mask.mask is not None
    assert mask.mask.shape == (20, 50)
    assert mask.mask[10, 10]
    assert mask.mask[5, 22]
    assert 20 < mask.mask.sum() < 60
    for text in (
        "[", '[{"kind": "disc", "xy": [[1, 2]]}]', '[{"kind": "box", "xy": [[1, 2], [1, 9]]}]',
        '[{"kind": "point", "xy": []}]', json.dumps(drawn[1:2] * 40),
        '[{"kind": "mask", "strokes": [{"radius": 1, "xy": [[-50, -50]]}]}]',
    ):  # fmt: skip
        with pytest.raises(UserError):
            regions_of(text, (20, 50))


def test_a_port_that_is_taken_is_said_or_the_next_is_used() -> None:
    first = bound("127.0.0.1", 0)
    with pytest.raises(UserError, match="is taken"):
        bound("127.0.0.1", first.getsockname()[1])
    with pytest.raises(UserError, match="no address of this machine"):
        bound("192.0.2.1", 0)
    first.close()


def test_what_is_said_comes_before_what_is_done_and_errors_come_through() -> None:
    assert list(streamed(lambda say: [say("a"), say("b"), 7][-1])) == [("said", "a"), ("said", "b"), ("done", 7)]
    with pytest.raises(ZeroDivisionError):
        list(streamed(lambda say: 1 / 0))

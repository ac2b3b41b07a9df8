"""A format of boxes and one of label maps in a module of one's own: no file of vistruct knows of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.config import run_from_dict
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.checks.check import check
from vistruct.data.convert import convert
from vistruct.data.formats import find_format
from vistruct.data.formats.detect import family_of, matching
from vistruct.data.maps import MapDataConfig
from vistruct.data.reading import Reading
from vistruct.errors import UserError
from vistruct.recipes import detect

MODULE = '''
"""Boxes in a table: image, class, x0, y0, x1, y1; label maps that lie beside their images as NAME.truth.png."""

from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.boxes.objects import ImageObjects
from vistruct.data.formats.format import Format, Walked, Writer
from vistruct.data.formats.order import class_order
from vistruct.data.formats.maps.frame import map_format
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.images import image_size
from vistruct.issues import IssueCounter


def walk(path, ask, report, stop):
    rows = [line.split() for line in (path / "boxes.table").read_text().splitlines()]
    names = class_order({row[1] for row in rows})
    found = {}
    for number, (image, name, *edges) in enumerate(rows, 1):
        if len(edges) != 4:
            stop(UserError("four edges", where=f"boxes.table, line {number}", fix="correct this line"))
            continue
        if image not in found:
            found[image] = ImageObjects(image, path / image, image_size(path / image))
        found[image].add_box(tuple(map(float, edges)), names.index(name), f"line {number}", report)
    return Walked(records=[one.record() for one in found.values()], class_names=names)


def write(out, records, class_names):
    (out / "boxes.table").write_text("".join(
        f"{record.id} {class_names[label]} {' '.join(map(str, box))}\\n"
        for record in records for box, label in zip(record.objects.boxes_xyxy.tolist(), record.objects.labels)
    ))
    return IssueCounter()


BOXES = Format(kind="boxes", walk=walk, writer=Writer(write=write, images="."))


def find(path, ask, report, stop):
    images = sorted(path.glob("*.jpg"))
    return [Record(id=one.name, images=(one,), label_map=one.with_suffix(".truth.png")) for one in images]


MAPS = map_format(
    looks_like=lambda path: False, splits=lambda path: (), find=find, coding=(Coding(classes=("sea", "land")),)
)
NUMBER = 3
'''


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "my_formats.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "my_formats", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    for number, name in enumerate(("a", "b")):
        Image.fromarray(np.full((20, 30, 3), 90 + number, np.uint8)).save(root / f"{name}.jpg")
        Image.fromarray(np.full((20, 30), number, np.uint8)).save(root / f"{name}.truth.png")
    (root / "boxes.table").write_text("a.jpg ship 1 2 9 12\na.jpg car 3 3 40 9\nb.jpg ship 5 5 5 9\nb.jpg car 1\n")
    return root


def test_boxes_of_an_outside_format_are_checked_and_trained_on(folder: Path) -> None:
    found = check(folder, Reading(format="my_formats:BOXES"))
    effects = {problem.what: (problem.effect, problem.count) for problem in found.problems}
    assert effects["four edges"] == ("stops training", 1)
    assert effects["box clipped to its image"] == ("repaired", 1)
    assert effects["box left out: no area"] == ("left out", 1)
    data = BoxDataConfig(annotation=folder, format="my_formats:BOXES", classes=("ship", "car"))
    with pytest.raises(UserError, match="four edges"):
        data.build()
    (folder / "boxes.table").write_text("a.jpg ship 1 2 9 12\na.jpg car 3 3 40 9\nb.jpg ship 5 5 7 9\n")
    built = data.build()
    assert built.info.class_names == ("ship", "car")
    assert built.records[0].objects.boxes_xyxy.tolist() == [[1, 2, 9, 12], [3, 3, 30, 9]]
    values = {**detect.tiny().model_dump(mode="json"), "data": data.model_dump(mode="json")}
    assert run_from_dict(json.loads(json.dumps(values))).only.data == data


def test_an_outside_format_is_converted_to_and_from(folder: Path, tmp_path: Path) -> None:
    (folder / "boxes.table").write_text("a.jpg ship 1 2 9 12\nb.jpg car 5 5 7 9\n")
    convert(folder, tmp_path / "coco", "coco", Reading(format="my_formats:BOXES"))
    convert(tmp_path / "coco", tmp_path / "again", "my_formats:BOXES")
    before = BoxDataConfig(annotation=folder, format="my_formats:BOXES").build()
    after = BoxDataConfig(annotation=tmp_path / "again", format="my_formats:BOXES").build()
    assert before.info.counts == after.info.counts
    for one, other in zip(before.records, after.records, strict=True):
        np.testing.assert_array_equal(one.objects.boxes_xyxy, other.objects.boxes_xyxy)


def test_label_maps_of_an_outside_format_are_read_and_checked(folder: Path) -> None:
    data = MapDataConfig(root=folder, format="my_formats:MAPS").build()
    assert data.info.class_names == ("sea", "land")
    assert [data.truth(index).unique().tolist() for index in range(2)] == [[0], [1]]
    found = check(folder, Reading(format="my_formats:MAPS"))
    assert found.ok
    assert found.classes == {"sea": 600, "land": 600}
    turned = MapDataConfig(root=folder, format="my_formats:MAPS", classes=("land", "sea")).build()
    assert turned.truth(0).unique().tolist() == [1]


def test_an_outside_format_is_never_guessed(folder: Path) -> None:
    assert matching(folder, "boxes") == matching(folder, "maps") == []
    assert family_of(folder, "my_formats:MAPS").kind == "maps"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:X", "cannot import 'no_such_module'"),
        ("my_formats:ABSENT", "no 'ABSENT' in my_formats"),
        ("my_formats:NUMBER", "NUMBER is no Format, it is of type int"),
        ("my_formats:MAPS", "no box format: this is a format of label maps"),
    ],
)
def test_what_is_no_format_of_boxes_is_an_error_that_says_so(folder: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_format(name, "boxes")
    with pytest.raises(UserError, match=message):
        BoxDataConfig(annotation=folder, format=name).build()


def test_a_json_file_is_shown_to_formats_of_json_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A format that cannot be json is not even imported for one."""
    import vistruct.data.formats as formats

    asked: list[str] = []
    find = formats.find_format
    monkeypatch.setattr("vistruct.data.formats.detect.find_format", lambda name: asked.append(name) or find(name))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    images, categories = [{"id": 1, "file_name": "a.png"}], [{"id": 1, "name": "ship"}]
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    assert family_of(file).format == "coco"
    of_json = {name for name, one in formats.FORMATS.items() if ".json" in one.files and one.is_guessed}
    assert {"coco", "xview", "chat", "mix"} <= set(asked) <= of_json

"""FAIR1M xml in and out: the published folders, round trips, the file a submission wants, and every kind of damage."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from box_sets import HEIGHT, WIDTH, assert_drawn, make_fair1m, make_voc, read_boxes, save_image, walk_boxes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vistruct.contracts import BoxPrediction, Objects, Record
from vistruct.data.formats.boxes import fair1m, published
from vistruct.data.formats.boxes.objects import CROSSED, DUPLICATE, NO_AREA, NOT_FINITE, OUTSIDE
from vistruct.data.formats.boxes.per_image import TURNED_SIZE
from vistruct.data.formats.detect import detect
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

RING = ("10,10", "30,10", "30,20", "10,20", "10,10")


def item(points: tuple[str, ...] = RING, name: str = "Bus") -> str:
    ring = "".join(f"<point>{point}</point>" for point in points)
    return f"<object><possibleresult><name>{name}</name></possibleresult>\n<points>{ring}</points></object>"


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A folder with one image and an annotation file to be written."""
    save_image(tmp_path / "images" / "a.tif", [])
    (tmp_path / "labelXml").mkdir()
    return tmp_path


def save(root: Path, *objects: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path = root / "labelXml" / "a.xml"
    told = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    body = "\n".join(objects)
    path.write_text(f"<annotation>{told}\n<objects>\n{body}\n</objects></annotation>")
    return path


def read(root: Path, *objects: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> tuple[Record, IssueCounter]:
    save(root, *objects, size=size)
    (record,), _, report = read_boxes(root, format="fair1m")
    return record, report


@pytest.mark.parametrize("split", ["train", "validation"])  # train lies in two parts
def test_the_published_folders_are_read_as_they_were_drawn(tmp_path: Path, split: str) -> None:
    made = make_fair1m(tmp_path)
    assert detect(tmp_path, "boxes") == detect(tmp_path / split, "boxes") == "fair1m"
    records, names, report = read_boxes(tmp_path, split=split)
    assert (names, dict(report.counts)) == (published.FAIR1M, {})
    assert_drawn(records, names, made.truth[split], kind="oriented")
    assert records[0].notes == {"origin": "GF2/GF3"}


def test_parts_are_read_from_their_split_alone_too(tmp_path: Path) -> None:
    made = make_fair1m(tmp_path)
    records, names, _ = read_boxes(tmp_path / "train")
    assert_drawn(records, names, made.truth["train"], kind="oriented")
    assert [record.images[0].parts[-3] for record in records] == ["part1", "part1", "part2"]


def test_there_are_37_classes_and_only_three_have_a_hyphen() -> None:
    assert len(set(published.FAIR1M)) == len(published.FAIR1M) == 37
    assert [name for name in published.FAIR1M if "-" in name] == ["other-airplane", "other-ship", "other-vehicle"]
    assert tuple(sorted(published.FAIR1M, key=str.lower)) == published.FAIR1M  # as MTP numbers them


def test_official_names_come_back_from_every_spelling() -> None:
    for name in published.FAIR1M:
        for spelled in (name, name.replace(" ", "-"), name.replace(" ", "_"), name.lower()):
            assert fair1m.official_name(spelled) == name
    with pytest.raises(UserError, match=r"no class 'Small-Cat'\ndid you mean 'Small Car'"):
        fair1m.official_name("Small-Cat")


def test_writing_and_reading_again_changes_nothing(tmp_path: Path) -> None:
    make_fair1m(tmp_path)
    records, names, _ = read_boxes(tmp_path, split="validation")
    records = [
        Record(
            id=old.id, images=old.images, size_hw=old.size_hw, notes={"origin": "A & B"},
            objects=replace(old.objects, quads=old.objects.outlines * np.float32(1.01)),

        )
        for old in records
    ]  # fmt: skip
    fair1m.write(tmp_path / "out", records, names)
    again, same, report = read_boxes(tmp_path / "out", tmp_path / "validation" / "images")
    assert (same, dict(report.counts)) == (names, {})
    for old, new in zip(records, again, strict=True):
        np.testing.assert_array_equal(new.objects.quads, old.objects.quads)
        assert new.objects.labels.tolist() == old.objects.labels.tolist()
        assert (new.id, new.notes, new.size_hw) == (old.id, old.notes, old.size_hw)


def prediction(image_id: str, names: tuple[str, ...], boxes: list[list[float]]) -> BoxPrediction:
    turned = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)
    return BoxPrediction(
        id=image_id,
        image_id=image_id,
        objects=Objects(
            boxes_xyxy=torch.zeros(len(turned), 4),
            scores=torch.linspace(0.9, 0.1, len(turned)),
            labels=torch.arange(len(turned)) % len(names),
            boxes_cxcywha=turned,
        ),
        class_names=names,
    )


def test_a_submission_holds_every_image_and_the_official_names(tmp_path: Path) -> None:
    names = ("Small-Car", "other-airplane", "A220")
    boxes = [[50.0, 40.0, 20.0, 10.0, 0.3], [60.0, 30.0, 8.0, 4.0, -1.2], [20.0, 20.0, 9.0, 9.0, 0.0]]
    sizes = {"7.tif": (100, 200), "8.tif": (300, 400)}
    files = fair1m.write_predictions(
        tmp_path / "test", [prediction("8.tif", names, boxes)], sizes, version="2.0", team="A & B"
    )
    assert (
        [file.name for file in files]
        == ["7.xml", "8.xml"]
        == sorted(file.name for file in (tmp_path / "test").iterdir())
    )
    empty, full = (ElementTree.parse(file).getroot() for file in files)
    assert (empty.findtext("source/filename"), empty.findall("objects/object")) == ("7.tif", [])
    assert (full.findtext("size/width"), full.findtext("size/height")) == ("400", "300")
    assert (full.findtext("research/version"), full.findtext("research/provider")) == ("2.0", "A & B")
    objects = full.findall("objects/object")
    assert [one.findtext("possibleresult/name") for one in objects] == ["Small Car", "other-airplane", "A220"]
    assert [one.findtext("possibleresult/probability") for one in objects] == ["0.900000", "0.500000", "0.100000"]
    assert {one.findtext("coordinate") for one in objects} == {"pixel"}
    for one, (cx, cy, w, h, angle) in zip(objects, boxes, strict=True):
        ring = np.array([[float(v) for v in (point.text or "").split(",")] for point in one.findall("points/point")])
        assert ring.shape == (5, 2)
        np.testing.assert_array_equal(ring[0], ring[4])
        np.testing.assert_allclose(ring[:4].mean(0), [cx, cy], atol=1e-5)
        along = ring[1] - ring[0]
        np.testing.assert_allclose([np.hypot(*along), np.hypot(*(ring[2] - ring[1]))], [w, h], atol=1e-5)
        assert math.isclose(math.atan2(along[1], along[0]), angle, abs_tol=1e-5)


def test_a_submission_is_read_back_as_annotations(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "8.tif", [])
    found = prediction("8.tif", ("Van", "Bus"), [[50.0, 40.0, 20.0, 10.0, 0.3], [60.0, 30.0, 8.0, 4.0, -1.2]])
    fair1m.write_predictions(tmp_path / "labelXml", [found], {"8.tif": (HEIGHT, WIDTH)})
    (record,), names, _ = read_boxes(tmp_path)
    assert [names[label] for label in record.objects.labels] == ["Van", "Bus"]
    assert record.objects.quads is not None
    np.testing.assert_allclose(record.objects.quads.mean(1), [[50, 40], [60, 30]], atol=1e-4)


def test_horizontal_predictions_are_written_by_their_corners(tmp_path: Path) -> None:
    objects = Objects(boxes_xyxy=torch.tensor([[1.0, 2, 5, 6]]), labels=torch.zeros(1, dtype=torch.int64))
    found = BoxPrediction(id="8", image_id="8", objects=objects, class_names=("Bus",))
    (file,) = fair1m.write_predictions(tmp_path, [found], {"8": (10, 10)})
    points = [point.text for point in ElementTree.parse(file).iter("point")]
    assert points == ["1.0,2.0", "5.0,2.0", "5.0,6.0", "1.0,6.0", "1.0,2.0"]


def test_what_the_server_would_misread_is_refused(tmp_path: Path) -> None:
    found = prediction("8.tif", ("Van",), [[50.0, 40.0, 20.0, 10.0, 0.3]])
    with pytest.raises(UserError, match=r"'8.tif', which is no test image"):
        fair1m.write_predictions(tmp_path, [found], {"9.tif": (1, 1)})
    with pytest.raises(UserError, match=r"two predictions for '8.tif'"):
        fair1m.write_predictions(tmp_path, [found, found], {"8.tif": (1, 1)})
    with pytest.raises(UserError, match="no class 'Ufo'"):
        fair1m.write_predictions(tmp_path, [prediction("8.tif", ("Ufo",), [])], {"8.tif": (1, 1)})
    with pytest.raises(UserError, match="two images would be written as '8'"):
        fair1m.write_predictions(tmp_path, [], {"8.tif": (1, 1), "8.png": (1, 1)})
    assert not list(tmp_path.iterdir())


def test_a_ring_may_be_left_open(one: Path) -> None:
    closed, _ = read(one, item())
    left_open, _ = read(one, item(RING[:4]))
    assert closed.objects.quads is not None
    assert left_open.objects.quads is not None
    assert (
        closed.objects.quads.tolist() == left_open.objects.quads.tolist() == [[[10, 10], [30, 10], [30, 20], [10, 20]]]
    )


def test_a_size_with_sides_swapped_is_counted_and_another_one_stops(one: Path) -> None:
    record, report = read(one, item(), size=(HEIGHT, WIDTH))
    assert (record.size_hw, report.counts) == ((HEIGHT, WIDTH), {TURNED_SIZE: 1})
    with pytest.raises(UserError, match="the image has 128 x 96"):
        read(one, item(), size=(1000, 1000))


def test_what_training_does_without_is_counted_by_its_reason(one: Path) -> None:
    record, report = read(
        one,
        item(),
        item(),
        item(("nan,1", "30,10", "30,20", "10,20")),
        item(("10,10", "30,30", "50,50", "70,70")),
        item(("300,10", "330,10", "330,20", "300,20")),
        item(("50,50", "60,60", "60,50", "50,60")),
    )
    assert report.counts == {DUPLICATE: 1, NOT_FINITE: 1, NO_AREA: 1, OUTSIDE: 1, CROSSED: 1}
    assert len(record.objects) == 2


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (item(RING[:3]), "four corners and the first again, this has 3 points"),
        (item((*RING[:4], "11,10")), "four corners and the first again, this has 5 points"),
        (item(("10 10", *RING[1:])), "a point is x,y, this is '10 10'"),
        (item(("10,10,3", *RING[1:])), "a point is x,y, this is '10,10,3'"),
        (item(("x,10", *RING[1:])), "a coordinate is a number, this is 'x'"),
        (item(name=""), "an object without the name of a class"),
        ("<object><points/></object>", "no <possibleresult/name> in this <object>"),
        ("<object><possibleresult><name>a</name></possibleresult></object>", "no <points> in this <object>"),
    ],
)
def test_a_bad_object_stops_and_is_named_by_its_line(one: Path, bad: str, what: str) -> None:
    path = save(one, item(), bad)
    errors: list[UserError] = []
    (record,), _ = walk_boxes(one, "fair1m", errors.append)
    assert (len(errors), len(record.objects)) == (1, 1)
    assert what in errors[0].what
    assert errors[0].where in (f"{path}, line 5", f"{path}, line 6")
    with pytest.raises(UserError):
        read_boxes(one)


def test_other_xml_is_not_taken_for_it(tmp_path: Path) -> None:
    root = make_voc(tmp_path).root
    assert not fair1m.looks_like(root)
    with pytest.raises(UserError, match="no <objects> in this <annotation>"):
        read_boxes(root, format="fair1m", split="train")


pieces = st.sampled_from(
    ["<object>", "</object>", "<possibleresult>", "<name>", "Bus", "</name>", "</possibleresult>", "<points>",
     "<point>", "1,2", "nan,inf", "</point>", "</points>", "&", "\n", item()]
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.lists(pieces, max_size=12).map("".join), st.text(max_size=40)))
def test_nothing_but_a_user_error_comes_of_any_text(one: Path, body: str) -> None:
    text = f"<annotation><objects>{body}</objects></annotation>"
    (one / "labelXml" / "a.xml").write_bytes(text.encode("utf-8", errors="surrogatepass"))
    errors: list[UserError] = []
    records, names = walk_boxes(one, "fair1m", errors.append)
    assert all(0 <= label < len(names) for record in records for label in record.objects.labels)

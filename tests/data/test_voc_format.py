"""VOC xml, DIOR, DIOR-R and SSDD: against torchvision's reader, made-up sets, a round trip, every kind of damage."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from box_sets import (
    HEIGHT,
    WIDTH,
    assert_drawn,
    make_dior,
    make_dior_r,
    make_ssdd,
    make_voc,
    read_boxes,
    save_image,
    voc_xml,
    walk_boxes,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchvision.datasets import VOCDetection

from vistruct.contracts import Objects, Record
from vistruct.data.formats.boxes import published, voc
from vistruct.data.formats.boxes.objects import CLIPPED, DUPLICATE, NO_AREA, NOT_FINITE, OUTSIDE
from vistruct.data.formats.detect import detect, matching
from vistruct.errors import UserError
from vistruct.issues import IssueCounter


def bndbox(*edges: object) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)
    return f"<bndbox>{''.join(f'<{tag}>{edge}</{tag}>' for tag, edge in tags)}</bndbox>"


def item(box: str, name: str = "car", more: str = "") -> str:
    return f"<object><name>{name}</name>{more}{box}</object>"


GOOD = item(bndbox(11, 21, 30, 40))


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A folder with one image and an annotation file to be written."""
    save_image(tmp_path / "JPEGImages" / "a.jpg", [])
    (tmp_path / "Annotations").mkdir()
    return tmp_path


def save(root: Path, *objects: str, size: str | None = None) -> Path:
    path = root / "Annotations" / "a.xml"
    path.write_text(voc_xml("a", objects, size), encoding="utf-8")
    return path


def read(root: Path, *objects: str, size: str | None = None) -> tuple[Record, tuple[str, ...], IssueCounter]:
    save(root, *objects, size=size)
    (record,), names, report = read_boxes(root, format="voc")
    return record, names, report


@pytest.mark.parametrize("split", ["train", "val"])
def test_voc_is_read_as_it_was_drawn(tmp_path: Path, split: str) -> None:
    made = make_voc(tmp_path)
    assert detect(tmp_path, "boxes") == "voc"
    records, names, report = read_boxes(tmp_path, split=split)
    assert (names, dict(report.counts)) == (made.class_names, {})
    assert_drawn(records, names, made.truth[split], kind="horizontal")


def test_voc_holds_what_torchvision_reads(tmp_path: Path) -> None:
    make_voc(tmp_path, ("car", "dog", "a b", "cat", "x", "y", "z", "u", "v"))
    records, names, _ = read_boxes(tmp_path, split="train+val")
    for record in records:
        root = ElementTree.parse(tmp_path / "Annotations" / f"{Path(record.id).stem}.xml").getroot()
        objects = VOCDetection.parse_voc_xml(root)["annotation"].get("object", [])
        assert [names[label] for label in record.objects.labels] == [entry["name"] for entry in objects]
        assert record.objects.is_difficult.tolist() == [entry["difficult"] == "1" for entry in objects]
        told = [[int(entry["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax")] for entry in objects]
        pixels = np.array(told).reshape(-1, 4)
        covered = np.stack([pixels[:, 2] - pixels[:, 0] + 1, pixels[:, 3] - pixels[:, 1] + 1], axis=1)  # inclusive
        np.testing.assert_array_equal(record.objects.boxes_xyxy[:, 2:] - record.objects.boxes_xyxy[:, :2], covered)
        np.testing.assert_array_equal(record.objects.boxes_xyxy[:, :2], pixels[:, :2] - 1)  # they count from 1


def test_the_whole_image_in_vocs_pixels_is_the_whole_image(one: Path) -> None:
    record, _, report = read(one, item(bndbox(1, 1, WIDTH, HEIGHT)))
    assert (record.objects.boxes_xyxy.tolist(), dict(report.counts)) == ([[0, 0, WIDTH, HEIGHT]], {})


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_dior_is_read_as_it_was_drawn(tmp_path: Path, split: str) -> None:
    made = make_dior(tmp_path)
    assert detect(tmp_path, "boxes") == "dior"
    records, names, report = read_boxes(tmp_path, split=split)
    assert (names, dict(report.counts)) == (published.DIOR, {})
    assert names.index("dam") == 6
    assert_drawn(records, names, made.truth[split], kind="horizontal")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_dior_r_is_read_as_it_was_drawn(tmp_path: Path, split: str) -> None:
    made = make_dior_r(tmp_path)
    assert detect(tmp_path, "boxes") == "dior_r"
    records, names, report = read_boxes(tmp_path, split=split)
    assert (names, dict(report.counts)) == (published.DIOR_R, {})
    assert names.index("dam") == 8
    assert_drawn(records, names, made.truth[split], kind="oriented")


def test_dior_with_both_kinds_of_boxes_must_be_chosen_from(tmp_path: Path) -> None:
    made = make_dior(tmp_path)
    make_dior_r(tmp_path)
    assert matching(tmp_path, "boxes") == ["dior", "dior_r"]
    with pytest.raises(UserError, match="several annotation formats are here: dior, dior_r"):
        read_boxes(tmp_path, split="train")
    records, names, _ = read_boxes(tmp_path, format="dior", split="train")
    assert_drawn(records, names, made.truth["train"], kind="horizontal")
    for folder, format_ in (("Horizontal Bounding Boxes", "dior"), ("Oriented Bounding Boxes", "dior_r")):
        path = tmp_path / "Annotations" / folder
        assert detect(path, "boxes") == format_
        again = read_boxes(path, split="train")[0]
        assert [record.id for record in again] == [record.id for record in records]


def test_train_and_val_of_dior_are_read_together_in_their_order(tmp_path: Path) -> None:
    made = make_dior_r(tmp_path)
    records, names, _ = read_boxes(tmp_path, split="train+val")
    assert_drawn(records, names, made.truth["train"] | made.truth["val"], kind="oriented")


def test_dior_takes_edges_as_they_stand(one: Path) -> None:
    path = save(one, GOOD)
    folder = one / "Annotations" / "Horizontal Bounding Boxes"
    folder.mkdir()
    path.rename(folder / "a.xml")
    (record,), _, _ = read_boxes(one)
    assert record.objects.boxes_xyxy.tolist() == [[11, 21, 30, 40]]


def test_dior_wants_its_kind_of_box(one: Path) -> None:
    path = save(one, GOOD)
    errors: list[UserError] = []
    walk_boxes(path, "dior_r", errors.append)
    assert [error.what for error in errors] == ["no <robndbox> in this <object>"]
    walk_boxes(path, "dior", errors.append)
    assert len(errors) == 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_ssdd_is_read_as_it_was_drawn(tmp_path: Path, split: str) -> None:
    made = make_ssdd(tmp_path)
    records, names, report = read_boxes(tmp_path, split=split)
    assert (names, dict(report.counts)) == (("ship",), {})
    assert_drawn(records, names, made.truth[split], kind="oriented")
    assert records[0].images[0].parent == tmp_path / f"JPEGImages_{split}"


def test_ssdd_without_corners_gives_the_same_from_its_angle(tmp_path: Path) -> None:
    made = make_ssdd(tmp_path)
    for file in (tmp_path / "Annotations_train").iterdir():
        text = file.read_text()
        file.write_text(text[: text.find("<x1>")] + text[text.find("</rotated_bndbox>") :] if "<x1>" in text else text)
    records, names, _ = read_boxes(tmp_path, split="train")
    assert_drawn(records, names, made.truth["train"], kind="oriented", atol=0.051)  # drawn to a tenth


def test_ssdds_horizontal_boxes_are_as_wide_as_they_say(one: Path) -> None:
    box = bndbox(10, 20, 30, 50).replace("</bndbox>", "<bbox_w>20</bbox_w><bbox_h>30</bbox_h></bndbox>")
    record, _, _ = read(one, item(box))
    assert record.objects.boxes_xyxy.tolist() == [[10, 20, 30, 50]]


def test_rolabelimgs_angle_turns_clockwise(one: Path) -> None:
    box = "<robndbox><cx>40</cx><cy>30</cy><w>20</w><h>10</h><angle>{}</angle></robndbox>"
    record, _, _ = read(one, item(box.format(math.pi / 2)), item(box.format(0)))
    assert record.objects.quads is not None
    np.testing.assert_allclose(record.objects.quads[0], [[45, 20], [45, 40], [35, 40], [35, 20]], atol=1e-4)
    np.testing.assert_allclose(record.objects.quads[1], [[30, 25], [50, 25], [50, 35], [30, 35]], atol=1e-4)


def test_an_angle_beyond_a_turn_is_no_radian_and_can_be_said_to_be_degrees(one: Path) -> None:
    box = "<robndbox><cx>40</cx><cy>30</cy><w>20</w><h>10</h><angle>90</angle></robndbox>"
    with pytest.raises(UserError, match=r"looks like degrees(.*\n)*.*--format voc-degrees"):
        read(one, item(box))
    (record,), _, _ = read_boxes(one, format="voc-degrees")
    assert record.objects.quads is not None
    np.testing.assert_allclose(record.objects.quads[0], [[45, 20], [45, 40], [35, 40], [35, 20]], atol=1e-4)


def turned_attribute(name: str, value: object) -> str:
    return f"<attributes><attribute><name>{name}</name><value>{value}</value></attribute></attributes>"


def test_the_rotation_of_an_annotation_tool_turns_the_box_about_its_centre(one: Path) -> None:
    box = bndbox("40.0", "20.0", "70.0", "44.0")
    upright = item(box, more=turned_attribute("occluded", "False"))
    record, _, _ = read(one, item(box, more=turned_attribute("rotation", "30.0")), upright)
    assert record.objects.quads is not None
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    corners = [
        (55 + cos * x - sin * y, 32 + sin * x + cos * y) for x, y in ((-15, -12), (15, -12), (15, 12), (-15, 12))
    ]
    np.testing.assert_allclose(record.objects.quads[0], corners, atol=1e-4)
    record, _, _ = read(one, item(box, more=turned_attribute("rotation", "0.0")))
    assert (record.objects.quads, record.objects.boxes_xyxy.tolist()) == (None, [[40, 20, 70, 44]])


@pytest.mark.parametrize("more", [turned_attribute("angle", 30), "<angle>0.5</angle>", "<rotation>12</rotation>"])
def test_an_angle_in_another_place_is_a_question(one: Path, more: str) -> None:
    with pytest.raises(UserError, match="an angle that nothing says how to read"):
        read(one, item(bndbox(40, 20, 70, 44), more=more))


def test_edges_that_count_from_0_are_said_so_and_stay_what_they_are(one: Path) -> None:
    save(one, item(bndbox("0", "0", "20.0", "16.5")))
    (record,), _, report = read_boxes(one)
    assert (record.objects.boxes_xyxy.tolist(), dict(report.counts)) == ([[0, 0, 20, 16.5]], {voc.FROM_ZERO: 1})
    assert "--format voc-from-0" in voc.FROM_ZERO
    save(one, item(bndbox("10.0", "8.0", "20.0", "16.5")))
    (record,), _, report = read_boxes(one, format="voc-from-0")
    assert (record.objects.boxes_xyxy.tolist(), dict(report.counts)) == ([[10, 8, 20, 16.5]], {})


def test_an_outline_beside_a_box_is_counted(one: Path) -> None:
    outline = "<polygon><x1>1</x1><y1>2</y1><x2>9</x2><y2>2</y2><x3>5</x3><y3>7</y3></polygon>"
    assert dict(read(one, item(bndbox(2, 3, 9, 7), more=outline))[2].counts) == {voc.OUTLINE: 1}


def test_horizontal_objects_among_oriented_ones_get_corners_too(one: Path) -> None:
    box = "<robndbox><cx>40</cx><cy>30</cy><w>20</w><h>10</h><angle>0.3</angle></robndbox>"
    record, _, _ = read(one, GOOD, item(box))
    assert record.objects.quads is not None
    assert record.objects.quads[0].tolist() == [[10, 20], [30, 20], [30, 40], [10, 40]]


def test_writing_and_reading_again_changes_nothing(tmp_path: Path) -> None:
    made = make_voc(tmp_path / "made", ("a & b", "<c>", "d", "e", "f", "g"))
    for file in (tmp_path / "made" / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<name>a & b<", "<name>a &amp; b<").replace(">&<", "><"))
        file.write_text(file.read_text().replace("<name><c></name>", "<name>&lt;c&gt;</name>"))
    records, names, _ = read_boxes(tmp_path / "made", split="train")
    assert set(names) == set(made.class_names)
    voc.write(tmp_path, records, names)
    again, same, report = read_boxes(tmp_path / "Annotations", tmp_path / "made" / "JPEGImages")
    assert same == names
    for old, new in zip(records, again, strict=True):
        np.testing.assert_array_equal(new.objects.boxes_xyxy, old.objects.boxes_xyxy)
        assert new.objects.labels.tolist() == old.objects.labels.tolist()
        assert new.objects.is_difficult.tolist() == old.objects.is_difficult.tolist()
        assert (new.id, new.size_hw) == (old.id, old.size_hw)
    assert all("no annotation file" in reason for reason in report.counts)  # those of the other split


def test_any_edges_are_written_with_all_their_digits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 50, (200, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 40, (200, 2))], axis=1).astype(np.float32)
    save_image(tmp_path / "JPEGImages" / "a.png", [])
    record = Record(
        id="a.png",
        images=(),
        size_hw=(HEIGHT, WIDTH),
        objects=Objects(boxes_xyxy=boxes, labels=np.zeros(200, np.int64)),
    )
    voc.write(tmp_path, [record], ("x",))
    (again,), _, report = read_boxes(tmp_path)
    assert not report.counts
    np.testing.assert_array_equal(again.objects.boxes_xyxy, boxes)


def test_a_name_that_xml_cannot_hold_is_refused(tmp_path: Path) -> None:
    box = np.array([[0, 0, 9, 9]], np.float32)
    record = Record(
        id="a.png", images=(), size_hw=(HEIGHT, WIDTH), objects=Objects(boxes_xyxy=box, labels=np.zeros(1, np.int64))
    )
    with pytest.raises(UserError, match="control character"):
        voc.write(tmp_path, [record], ("a\x00",))


def test_one_broken_file_does_not_hide_what_the_others_are(tmp_path: Path) -> None:
    make_voc(tmp_path)
    (tmp_path / "Annotations" / "000001.xml").write_text("<annotation>")
    assert detect(tmp_path, "boxes") == "voc"
    with pytest.raises(UserError, match=r"no element found(.|\n)*000001\.xml, line 1"):
        read_boxes(tmp_path, split="train")


def test_what_has_no_size_or_is_a_window_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="whole images of known size"):
        voc.write(tmp_path, [Record(id="a.png", images=())], ())


@pytest.mark.parametrize(
    "size", ["", "<size/>", "<size><width>0</width><height>0</height></size>", "<size><width></width></size>"]
)
def test_no_size_is_no_error(one: Path, size: str) -> None:
    record, _, _ = read(one, GOOD, size=size)
    assert record.size_hw == (HEIGHT, WIDTH)


def test_another_size_stops(one: Path) -> None:
    with pytest.raises(UserError, match=r"it says 640 x 480 pixels, the image has 128 x 96"):
        read(one, GOOD, size="<size><width>640</width><height>480</height></size>")
    with pytest.raises(UserError, match="EXIF"):
        read(one, GOOD, size=f"<size><width>{HEIGHT}</width><height>{WIDTH}</height></size>")


def test_shares_of_the_image_stop(one: Path) -> None:
    with pytest.raises(UserError, match="no coordinate is above 1"):
        read(one, item(bndbox(0.1, 0.2, 0.5, 0.9)))


def test_coordinates_may_have_decimals(one: Path) -> None:
    record, _, _ = read(one, item(bndbox("11.5", "21", "30.25", "40")))
    assert record.objects.boxes_xyxy.tolist() == [[10.5, 20, 30.25, 40]]


def test_what_training_does_without_is_counted_by_its_reason(one: Path) -> None:
    record, _, report = read(
        one,
        GOOD,
        GOOD,
        item(bndbox("nan", 21, 30, 40)),
        item(bndbox(50, 21, 30, 40)),  # left and right swapped
        item(bndbox(500, 21, 530, 40)),
        item(bndbox(100, 21, 530, 40)),
        item(bndbox(0, 50, 30, 60)),  # counts from 0?
    )
    assert report.counts == {
        DUPLICATE: 1, NOT_FINITE: 1, NO_AREA: 1, OUTSIDE: 1, CLIPPED: 1, voc.FROM_ZERO: 1,
    }  # fmt: skip
    assert record.objects.boxes_xyxy.tolist() == [[10, 20, 30, 40], [99, 20, 128, 40], [0, 49, 30, 60]]
    assert report.examples[DUPLICATE] == [f"{one / 'Annotations' / 'a.xml'}, line 5"]


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (item(bndbox("x", 21, 30, 40)), "<xmin> is a number, this is 'x'"),
        (item(bndbox("", 21, 30, 40)), "<xmin> is a number, this is ''"),
        (item("<bndbox><xmin>1</xmin></bndbox>"), "no <ymin> in this <bndbox>"),
        (item(""), "no <bndbox> in this <object>"),
        (item("<robndbox><x_left_top>1</x_left_top></robndbox>"), "no <y_left_top> in this <robndbox>"),
        (item(bndbox(1, 1, 2, 2), name=" "), "an object without the name of a class"),
        (f"<object>{bndbox(1, 1, 2, 2)}</object>", "no <name> in this <object>"),
        (item(bndbox(1, 1, 9, 9), more="<difficult>maybe</difficult>"), "<difficult> is 0 or 1, this is 'maybe'"),
    ],
)
def test_a_bad_object_stops_and_is_named_by_its_line(one: Path, bad: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        read(one, GOOD, bad)
    assert caught.value.what == what
    assert caught.value.where == f"{one / 'Annotations' / 'a.xml'}, line 5"
    errors: list[UserError] = []
    (record,), _ = walk_boxes(one, "voc", errors.append)
    assert (len(record.objects), len(errors)) == (1, 1)  # the good one stays


def test_listed_files_that_are_not_there_stop(tmp_path: Path) -> None:
    make_voc(tmp_path)
    (tmp_path / "Annotations" / "000004.xml").unlink()
    with pytest.raises(UserError, match=r"1 of 3 listed annotation files are not on disk: .*000004\.xml"):
        read_boxes(tmp_path, split="val")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("  \n")
    with pytest.raises(UserError, match=r"empty\n.*val\.txt"):
        read_boxes(tmp_path, split="val")


def test_lists_of_one_class_are_no_splits(tmp_path: Path) -> None:
    make_voc(tmp_path)
    with pytest.raises(UserError, match="several splits are here: train, val\n"):
        read_boxes(tmp_path)


def test_other_xml_is_not_taken_for_it(one: Path) -> None:
    for text, what in {
        "<HRSC_Image/>": "VOC's xml is an <annotation>, this is another\n.*: <HRSC_Image>",
        "<annotation><objects/></annotation>": "this is FAIR1M's",  # read as VOC's it would have no objects
        "<a>": "not valid XML",
        "": "not valid XML",
        "no xml": "not valid XML",
    }.items():
        (one / "Annotations" / "a.xml").write_text(text)
        assert not voc.looks_like(one)
        with pytest.raises(UserError, match=what):
            read_boxes(one, format="voc")


pieces = st.sampled_from(
    ["<object>", "</object>", "<name>", "</name>", "<bndbox>", "</bndbox>", "<xmin>", "</xmin>", "1", "nan", "car",
     "&amp;", "<difficult>", "</difficult>", "<size>", "</size>", "<!-- -->", "<![CDATA[x]]>", "&x;", "\n", GOOD]
)  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.lists(pieces, max_size=12).map("".join), st.text(max_size=40)))
def test_nothing_but_a_user_error_comes_of_any_text(one: Path, body: str) -> None:
    path = one / "Annotations" / "a.xml"
    path.write_bytes(f"<annotation>{body}</annotation>".encode("utf-8", errors="surrogatepass"))
    errors: list[UserError] = []
    for name in ("voc", "dior", "dior_r"):
        records, names = walk_boxes(path, name, errors.append)
        for record in records:
            assert np.isfinite(record.objects.boxes_xyxy).all()
            assert all(0 <= label < len(names) for label in record.objects.labels)

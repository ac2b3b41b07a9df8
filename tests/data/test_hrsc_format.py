"""HRSC2016 xml: the published folders with and without kinds of ship, and every kind of damage."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from box_sets import HEIGHT, WIDTH, assert_drawn, make_hrsc, make_voc, read_boxes, save_image, walk_boxes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vistruct.data.formats.boxes import hrsc, published
from vistruct.data.formats.boxes.objects import DUPLICATE, NO_AREA, NOT_FINITE, OUTSIDE
from vistruct.data.formats.detect import detect, matching
from vistruct.errors import UserError


def item(box: str = "50 40 20 10 0.3", kind: str = "100000005", more: str = "") -> str:
    fields = zip(("cx", "cy", "w", "h", "ang"), box.split(), strict=True)
    told = "".join(f"<mbox_{key}>{value}</mbox_{key}>" for key, value in fields)
    return f"<HRSC_Object><Class_ID>{kind}</Class_ID>{more}{told}</HRSC_Object>"


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A folder with one image and an annotation file to be written."""
    save_image(tmp_path / "AllImages" / "a.bmp", [])
    (tmp_path / "Annotations").mkdir()
    return tmp_path


def save(root: Path, *objects: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path = root / "Annotations" / "a.xml"
    told = f"<Img_SizeWidth>{size[0]}</Img_SizeWidth><Img_SizeHeight>{size[1]}</Img_SizeHeight>"
    body = "\n".join(objects)
    path.write_text(f"<HRSC_Image>{told}\n<HRSC_Objects>\n{body}\n</HRSC_Objects></HRSC_Image>")
    return path


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_the_published_folders_are_read_as_they_were_drawn(tmp_path: Path, split: str) -> None:
    made = make_hrsc(tmp_path)
    assert detect(tmp_path, "boxes") == "hrsc"
    records, names, report = read_boxes(tmp_path, split=split)
    assert (names, dict(report.counts)) == (("ship",), {})
    assert_drawn(records, names, made.truth[split], kind="oriented", names=lambda _: "ship", atol=0.051)


def test_kinds_of_ship_are_told_apart_when_asked_for(tmp_path: Path) -> None:
    made = make_hrsc(tmp_path)
    records, names, _ = read_boxes(tmp_path, format="hrsc_classes", split="test")
    assert names == tuple(published.HRSC.values())
    assert len(names) == 31
    assert_drawn(records, names, made.truth["test"], kind="oriented", atol=0.051)
    assert matching(tmp_path, "boxes") == ["hrsc"]


def test_without_lists_train_and_test_are_the_splits(tmp_path: Path) -> None:
    made = make_hrsc(tmp_path)
    for split in ("Train", "Test"):
        for kind, end in (("AllImages", "bmp"), ("Annotations", "xml")):
            (tmp_path / split / kind).mkdir(parents=True)
            for stem in made.truth["trainval" if split == "Train" else "test"]:
                (tmp_path / "FullDataSet" / kind / f"{stem}.{end}").rename(tmp_path / split / kind / f"{stem}.{end}")
    for file in (tmp_path / "ImageSets").iterdir():
        file.unlink()
    records, names, report = read_boxes(tmp_path, split="test")
    assert_drawn(records, names, made.truth["test"], kind="oriented", names=lambda _: "ship", atol=0.051)
    assert not report.counts


def test_train_and_test_beside_the_lists_are_not_read_twice(tmp_path: Path) -> None:
    made = make_hrsc(tmp_path)
    save_image(tmp_path / "Train" / "AllImages" / "x.bmp", [])
    (tmp_path / "Train" / "Annotations").mkdir()
    (tmp_path / "Train" / "Annotations" / "x.xml").write_text("<HRSC_Image/>")
    records, names, _ = read_boxes(tmp_path, split="trainval")
    assert_drawn(records, names, made.truth["trainval"], kind="oriented", names=lambda _: "ship", atol=0.051)


def test_the_angle_turns_clockwise_on_screen(one: Path) -> None:
    save(one, item(f"50 40 20 10 {math.pi / 2}"), item("50 40 20 10 0"), item("50 40 20 10 0.1"))
    (record,), _, _ = read_boxes(one)
    assert record.objects.quads is not None
    np.testing.assert_allclose(record.objects.quads[0], [[55, 30], [55, 50], [45, 50], [45, 30]], atol=1e-4)
    np.testing.assert_allclose(record.objects.quads[1], [[40, 35], [60, 35], [60, 45], [40, 45]], atol=1e-4)
    assert record.objects.quads[2][1][1] > record.objects.quads[2][0][1]  # the right end is lower


def test_an_image_without_ships_is_kept(one: Path) -> None:
    for text in ("<HRSC_Image/>", "<HRSC_Image><HRSC_Objects/></HRSC_Image>"):
        (one / "Annotations" / "a.xml").write_text(text)
        (record,), names, _ = read_boxes(one)
        assert (len(record.objects), names, record.size_hw) == (0, (), (HEIGHT, WIDTH))


def test_what_training_does_without_is_counted_by_its_reason(one: Path) -> None:
    boxes = ["50 40 20 10 0.3"] * 2 + ["nan 1 2 3 0", "50 40 20 0 0", "500 40 20 10 0", "9 9 9 9 inf"]
    save(one, *map(item, boxes), item(more="<difficult>1</difficult>", box="50 40 30 10 0"))
    (record,), _, report = read_boxes(one)
    assert report.counts == {DUPLICATE: 1, NOT_FINITE: 2, NO_AREA: 1, OUTSIDE: 1}
    assert record.objects.is_difficult.tolist() == [False, True]


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (item("x 40 20 10 0"), "<mbox_cx> is a number, this is 'x'"),
        (item().replace("mbox_ang", "angle"), "no <mbox_ang> in this <HRSC_Object>"),
        (item(more="<difficult>7</difficult>"), "<difficult> is 0 or 1, this is '7'"),
    ],
)
def test_a_bad_object_stops_and_is_named_by_its_line(one: Path, bad: str, what: str) -> None:
    path = save(one, item(), bad)
    with pytest.raises(UserError) as caught:
        read_boxes(one)
    assert (caught.value.what, caught.value.where) == (what, f"{path}, line 4")


@pytest.mark.parametrize("kind", ["100000021", "100000023", "100000034", "1", "nan", "inf", "100000001.5"])
def test_an_unknown_kind_stops_only_where_kinds_are_asked_for(one: Path, kind: str) -> None:
    save(one, item(kind=kind))
    assert read_boxes(one)[1] == ("ship",)
    with pytest.raises(UserError, match=f"HRSC2016 has no class '{kind}'"):
        read_boxes(one, format="hrsc_classes")


def test_another_size_stops(one: Path) -> None:
    save(one, item(), size=(640, 480))
    with pytest.raises(UserError, match="it says 640 x 480 pixels, the image has 128 x 96"):
        read_boxes(one)


def test_other_xml_is_not_taken_for_it(tmp_path: Path) -> None:
    root = make_voc(tmp_path).root
    assert not hrsc.looks_like(root)
    with pytest.raises(UserError, match="HRSC's xml is an <HRSC_Image>, this is a <annotation>"):
        read_boxes(root, format="hrsc", split="train")


pieces = st.sampled_from(["<HRSC_Object>", "</HRSC_Object>", "<mbox_cx>", "1", "</mbox_cx>", "nan", "&", "\n", item()])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.lists(pieces, max_size=10).map("".join), st.text(max_size=40)))
def test_nothing_but_a_user_error_comes_of_any_text(one: Path, body: str) -> None:
    text = f"<HRSC_Image><HRSC_Objects>{body}</HRSC_Objects></HRSC_Image>"
    (one / "Annotations" / "a.xml").write_bytes(text.encode("utf-8", errors="surrogatepass"))
    errors: list[UserError] = []
    for name in ("hrsc", "hrsc_classes"):
        records, names = walk_boxes(one, name, errors.append)
        assert all(0 <= label < len(names) for record in records for label in record.objects.labels)


def test_an_angle_beyond_a_turn_is_no_radian(one: Path) -> None:
    save(one, item("40 30 20 10 45"))
    with pytest.raises(UserError, match="looks like degrees"):
        read_boxes(one)

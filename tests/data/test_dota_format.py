"""DOTA text files in and out: made-up sets in the published folders, round trips, and every kind of damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from box_sets import (
    HEIGHT,
    WIDTH,
    assert_drawn,
    make_dota,
    make_fair1m,
    make_hrsc,
    make_rsar,
    make_voc,
    read_boxes,
    save_image,
    walk_boxes,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vistruct.contracts import Objects, Record
from vistruct.data.formats.boxes import dota, fair1m, published
from vistruct.data.formats.boxes.objects import (
    CROSSED,
    DUPLICATE,
    MISSING_IMAGE,
    NO_AREA,
    NOT_FINITE,
    OUTSIDE,
)
from vistruct.data.formats.boxes.per_image import UNANNOTATED
from vistruct.data.formats.detect import detect
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

LINE = "10.0 10.0 30.0 10.0 30.0 20.0 10.0 20.0 ship 0"


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A folder with one image and an annotation file to be written."""
    save_image(tmp_path / "images" / "a.png", [])
    (tmp_path / "labelTxt").mkdir()
    return tmp_path


def read(root: Path, text: str | bytes | None = None) -> tuple[Record, tuple[str, ...], IssueCounter]:
    """The one record of a folder, after its file was written."""
    if text is not None:
        (root / "labelTxt" / "a.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    (record,), names, report = read_boxes(root, format="dota")
    return record, names, report


def faults(root: Path, text: str | bytes) -> list[UserError]:
    """Everything that would stop, collected."""
    (root / "labelTxt" / "a.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    errors: list[UserError] = []
    walk_boxes(root, "dota", errors.append)
    return errors


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_published_folders_are_read_as_they_were_drawn(tmp_path: Path, split: str) -> None:
    made = make_dota(tmp_path)
    assert detect(tmp_path, "boxes") == "dota"
    records, names, report = read_boxes(tmp_path, split=split)
    assert names == made.class_names == published.DOTA_2_0
    assert_drawn(records, names, made.truth[split], kind="oriented")
    assert records[0].notes == {"imagesource": "GoogleEarth", "gsd": "0.146343590398"}
    assert records[0].images == (tmp_path / split / "images" / "P0001.png",)
    assert not report.counts


def test_rsar_is_read_as_it_was_drawn(tmp_path: Path) -> None:
    made = make_rsar(tmp_path)
    records, names, report = read_boxes(tmp_path, split="test")
    assert names == published.RSAR
    assert_drawn(records, names, made.truth["test"], kind="oriented")
    assert [record.notes for record in records] == [{}, {}, {}]
    assert not report.counts


def test_the_folder_of_a_split_and_that_of_its_files_say_the_same(tmp_path: Path) -> None:
    make_rsar(tmp_path)
    whole = read_boxes(tmp_path, split="val")[0]
    for path in (tmp_path / "val", tmp_path / "val" / "annfiles"):
        assert [
            (r.id, r.images, r.objects.quads.tolist()) for r in read_boxes(path)[0] if r.objects.quads is not None
        ] == [(r.id, r.images, r.objects.quads.tolist()) for r in whole if r.objects.quads is not None]
    (single,), _, _ = read_boxes(tmp_path / "val" / "annfiles" / "val_2.txt")
    assert single.id == "val_2.jpg"
    np.testing.assert_array_equal(single.objects.quads, whole[1].objects.quads)


def test_two_splits_together_are_their_records_one_after_the_other(tmp_path: Path) -> None:
    make_dota(tmp_path)
    records, _, _ = read_boxes(tmp_path, split="train+val")
    assert [record.id for record in records] == [
        f"{split}/images/P000{number}.png" for split in ("train", "val") for number in (1, 2, 3)
    ]  # the same names in both: paths instead


def test_several_splits_must_be_chosen_from(tmp_path: Path) -> None:
    make_rsar(tmp_path)
    with pytest.raises(UserError, match="several splits are here: train, val, test"):
        read_boxes(tmp_path)
    with pytest.raises(UserError, match=r"no split 'trian' here\n.*\ndid you mean 'train'"):
        read_boxes(tmp_path, split="trian")


def test_splits_inside_the_folders_are_found(tmp_path: Path) -> None:
    made = make_rsar(tmp_path / "made")
    for split in ("train", "val"):
        shutil.copytree(tmp_path / "made" / split / "images", tmp_path / "other" / "images" / split)
        shutil.copytree(tmp_path / "made" / split / "annfiles", tmp_path / "other" / "labelTxt" / split)
    records, names, report = read_boxes(tmp_path / "other", split="val")
    assert_drawn(records, names, made.truth["val"], kind="oriented")
    assert not report.counts


def test_two_versions_of_the_labels_are_not_mixed(tmp_path: Path) -> None:
    make_dota(tmp_path)
    shutil.copytree(tmp_path / "train" / "labelTxt", tmp_path / "train" / "labelTxt-v1.5")
    assert detect(tmp_path, "boxes") == "dota"
    with pytest.raises(UserError, match="two folders of annotations for the same images"):
        read_boxes(tmp_path, split="train")
    records, _, _ = read_boxes(tmp_path / "train" / "labelTxt-v1.5")
    assert len(records) == 3


@pytest.mark.parametrize("version", [published.DOTA_1_0, published.DOTA_1_5, published.DOTA_2_0])
def test_classes_come_in_the_order_of_their_version(tmp_path: Path, version: tuple[str, ...]) -> None:
    make_dota(tmp_path, version)
    assert read_boxes(tmp_path, split="train")[1] == version


def test_ones_own_classes_are_sorted_even_if_dota_has_them_too(tmp_path: Path) -> None:
    make_dota(tmp_path, ("ship", "harbor"))
    assert read_boxes(tmp_path, split="train")[1] == ("harbor", "ship")


def test_writing_and_reading_again_changes_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = []
    for name in ("a.png", "b.png", "empty.png"):
        save_image(tmp_path / "images" / name, [])
        count = 0 if name == "empty.png" else 7
        quads = (rng.uniform(2, 20, (count, 1, 1)) * np.array([[0, 0], [1, 0.1], [1.3, 1], [0.1, 1.1]])).astype("f4")
        quads += rng.uniform(0, 70, (count, 1, 2)).astype(np.float32)
        records.append(
            Record(
                id=name,
                images=(tmp_path / "images" / name,),
                size_hw=(HEIGHT, WIDTH),
                objects=Objects(
                    boxes_xyxy=np.concatenate([quads.min(1), quads.max(1)], axis=1),
                    labels=rng.integers(0, 3, count),
                    is_difficult=rng.random(count) < 0.5,
                    quads=quads,
                ),
                notes={"imagesource": "a:b c", "gsd": "null"} if name == "a.png" else {},
            )
        )
    dota.write(tmp_path, records, ("b", "a", "c"))
    again, names, report = read_boxes(tmp_path)
    assert (names, dict(report.counts)) == (("a", "b", "c"), {})
    for old, new in zip(records, again, strict=True):
        np.testing.assert_array_equal(
            new.objects.quads, old.objects.quads
        )  # exact: the decimals are as many as float32 needs
        np.testing.assert_array_equal(new.objects.boxes_xyxy, old.objects.boxes_xyxy)
        assert [names[label] for label in new.objects.labels] == [
            ("b", "a", "c")[label] for label in old.objects.labels
        ]
        assert new.objects.is_difficult.tolist() == old.objects.is_difficult.tolist()
        assert (new.id, new.notes, new.images, new.size_hw) == (old.id, old.notes, old.images, old.size_hw)


def test_a_published_file_is_written_as_it_was(tmp_path: Path) -> None:
    make_dota(tmp_path)
    records, names, _ = read_boxes(tmp_path, split="val")
    dota.write(tmp_path / "out", records, names)
    for record in records:
        file = f"{Path(record.id).stem}.txt"
        assert (tmp_path / "out" / "labelTxt" / file).read_text() == (tmp_path / "val/labelTxt" / file).read_text()


def test_horizontal_boxes_are_written_by_their_corners(tmp_path: Path) -> None:
    record = Record(
        id="a.png",
        images=(),
        objects=Objects(boxes_xyxy=np.array([[1, 2, 3.5, 4]], np.float32), labels=np.zeros(1, np.int64)),
    )
    report = dota.write(tmp_path, [record], ("Small Car",))
    assert (tmp_path / "labelTxt/a.txt").read_text() == "1.0 2.0 3.5 2.0 3.5 4.0 1.0 4.0 Small-Car 0\n"
    assert report.counts == {dota.RENAMED: 1}


def test_files_or_classes_that_would_fall_together_are_refused(tmp_path: Path) -> None:
    records = [Record(id=name, images=()) for name in ("x/a.png", "y/a.png")]
    with pytest.raises(UserError, match=r"two images would be written as 'a': 'x/a\.png' and 'y/a\.png'"):
        dota.write(tmp_path, records, ())
    with pytest.raises(UserError, match="two classes would be written as 'a-b'"):
        dota.write(tmp_path, [], ("a b", "a-b"))
    with pytest.raises(UserError, match="a class without a name"):
        dota.write(tmp_path, [], (" ",))
    window = Record(id="w", images=(), window_xyxy=(0, 0, 4, 4))
    with pytest.raises(ValueError, match="whole images"):
        dota.write(tmp_path, [window], ())


@pytest.mark.parametrize(
    ("text", "is_difficult"),
    [
        (LINE, False),
        (LINE[:-2], False),  # no flag
        (LINE[:-1] + "1", True),
        (LINE[:-1] + "2", True),
        ("\ufeff" + LINE, False),
        (LINE.replace(" ", "\t") + "\r\n\r\n", False),
        ("imagesource:X\r\ngsd:null\r\n\r\n" + LINE + "\r\n", False),
        (LINE.replace("10.0", "1e1").replace("30.0", "30"), False),
    ],
    ids=["plain", "no flag", "1", "2", "byte order mark", "tabs", "CRLF", "other numbers"],
)
def test_a_line_is_read_however_it_is_spelled(one: Path, text: str, is_difficult: bool) -> None:
    record, names, report = read(one, text)
    assert record.objects.quads is not None
    assert record.objects.quads.tolist() == [[[10, 10], [30, 10], [30, 20], [10, 20]]]
    assert (record.objects.is_difficult.tolist(), names, dict(report.counts)) == ([is_difficult], ("ship",), {})


def test_an_empty_file_is_an_image_without_objects(one: Path) -> None:
    for text in ("", "\n\n", "imagesource:GoogleEarth\ngsd:0.1\n"):
        record, names, _ = read(one, text)
        assert (len(record.objects), names) == (0, ())
        assert record.objects.quads is not None
        assert record.objects.quads.shape == (0, 4, 2)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("1 2 3 4 5 6 7 8", "this has 8 fields"),
        ("1 2 3 4 5 6 7 8 ship 0 3", "this has 11 fields"),
        ("1 2 3 4 5 6 7 8 small car 0", "this has 11 fields"),
        ("1 2 3 4 5 6 7 x ship 0", "a corner's coordinate is a number, this is 'x'"),
        ("1_0 2 3 4 5 6 7 8 ship 0", "a corner's coordinate is a number, this is '1_0'"),
        ("1,5 2 3 4 5 6 7 8 ship 0", "a corner's coordinate is a number, this is '1,5'"),
        ("1 2 3 4 5 6 7 8 ship yes", "difficult is 0, 1 or 2, this is 'yes'"),
        ("1 2 3 4 5 6 7 8 ship 17", "difficult is 0, 1 or 2, this is '17'"),  # a class number, as some tools write
        ("0 .1 .2 .3 .4 .5 .6 .7 .8", "the ninth field is the name of a class, this is '.8'"),  # YOLO-OBB
    ],
)
def test_a_bad_line_stops_and_is_named(one: Path, line: str, what: str) -> None:
    with pytest.raises(UserError, match="line 2") as caught:
        read(one, f"{LINE}\n{line}\n")
    assert what in caught.value.what
    assert caught.value.where == f"{one / 'labelTxt' / 'a.txt'}, line 2"
    assert caught.value.fix


def test_every_bad_line_is_collected(one: Path) -> None:
    errors = faults(one, f"a\n{LINE}\nb c\n")
    assert [error.where.rpartition(" ")[2] for error in errors] == ["1", "3"]


def test_bytes_that_are_no_utf8_are_named_by_their_line(one: Path) -> None:
    with pytest.raises(UserError, match=r"not UTF-8 text(.|\n)*line 3"):
        read(one, f"{LINE}\n\n".encode() + b"1 2 3 4 5 6 7 8 caf\xe9 0")


def test_what_training_does_without_is_counted_by_its_reason(one: Path) -> None:
    lines = [
        LINE,
        LINE,  # 2
        "nan 10 30 10 30 20 10 20 ship 0",  # 3
        "1e300 10 30 10 30 20 10 20 ship 0",  # 4: infinite in float32
        "10 10 20 20 30 30 40 40 ship 0",  # 5: a line
        "200 10 230 10 230 20 200 20 ship 0",  # 6: right of the image
        "50 50 60 60 60 50 50 60 ship 0",  # 7: sides cross
        "-5 40 15 40 15 60 -5 60 ship 0",  # 8: over the border
    ]
    record, _, report = read(one, "\n".join(lines))
    assert {reason: [place.rpartition(" ")[2] for place in places] for reason, places in report.examples.items()} == {
        DUPLICATE: ["2"],
        NOT_FINITE: ["3", "4"],
        NO_AREA: ["5"],
        OUTSIDE: ["6"],
        CROSSED: ["7"],
    }
    assert record.objects.quads is not None
    assert record.objects.quads[-1].tolist() == [[-5, 40], [15, 40], [15, 60], [-5, 60]]  # as annotated
    assert sorted(map(tuple, record.objects.quads[-2].tolist())) == [(50, 50), (50, 60), (60, 50), (60, 60)]


def test_a_class_may_be_called_by_a_number_where_a_flag_follows(one: Path) -> None:
    assert read(one, LINE.replace("ship", "7"))[1] == ("7",)


def test_a_folder_is_known_by_its_name_or_by_any_good_line(one: Path) -> None:
    (one / "labelTxt" / "a.txt").write_text("1 2 3\n")
    assert detect(one, "boxes") == "dota"  # so that the bad line is named
    (one / "labelTxt").rename(one / "labels")
    assert not dota.looks_like(one)
    (one / "labels" / "b.txt").write_text(f"1 2 3\n{LINE}\n")
    assert dota.looks_like(one)


def test_shares_of_the_image_stop(one: Path) -> None:
    with pytest.raises(UserError, match="no coordinate is above 1"):
        read(one, "0.1 0.1 0.3 0.1 0.3 0.2 0.1 0.2 ship 0")


def test_missing_images_stop_or_are_counted(tmp_path: Path) -> None:
    made = make_rsar(tmp_path)
    (tmp_path / "val" / "images" / "val_1.jpg").unlink()
    with pytest.raises(UserError, match=r"without an image on disk\n1 of 3 have none in .*val_1\.txt"):
        read_boxes(tmp_path, split="val")
    records, names, report = read_boxes(tmp_path, split="val", missing="drop")
    del made.truth["val"]["val_1"]
    assert_drawn(records, names, made.truth["val"], kind="oriented")
    assert report.counts == {MISSING_IMAGE: 1}
    for image in (tmp_path / "val" / "images").iterdir():
        image.unlink()
    with pytest.raises(UserError, match="none of the images is on disk"):
        read_boxes(tmp_path, split="val", missing="drop")


def test_images_without_a_file_are_counted(tmp_path: Path) -> None:
    make_rsar(tmp_path)
    save_image(tmp_path / "val" / "images" / "new.jpg", [])
    records, _, report = read_boxes(tmp_path, split="val")
    assert (len(records), report.counts) == (3, {UNANNOTATED: 1})


def test_images_are_found_whatever_their_capitals_and_ending(tmp_path: Path) -> None:
    made = make_rsar(tmp_path)
    folder = tmp_path / "val" / "images"
    (folder / "val_1.jpg").rename(folder / "VAL_1.JPG")
    records, names, _ = read_boxes(tmp_path, split="val")
    assert records[0].id == "VAL_1.JPG"
    assert_drawn(records[1:], names, {k: v for k, v in made.truth["val"].items() if k != "val_1"}, kind="oriented")
    save_image(folder / "val_2.png", [])
    with pytest.raises(UserError, match="several images could be meant"):
        read_boxes(tmp_path, split="val")


def test_images_elsewhere_are_taken_when_named(tmp_path: Path) -> None:
    made = make_rsar(tmp_path)
    (tmp_path / "val" / "images").rename(tmp_path / "elsewhere")
    records, names, _ = read_boxes(tmp_path, tmp_path / "elsewhere", split="val")
    assert_drawn(records, names, made.truth["val"], kind="oriented")


def test_a_broken_image_stops(tmp_path: Path) -> None:
    make_rsar(tmp_path)
    (tmp_path / "val" / "images" / "val_1.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"val_1\.jpg"):
        read_boxes(tmp_path, split="val")


def test_other_formats_are_not_taken_for_it(tmp_path: Path) -> None:
    for make in (make_fair1m, make_hrsc, make_voc):
        root = make(tmp_path / make.__name__).root
        assert not dota.looks_like(root)
    labels = tmp_path / "yolo" / "labels"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("0 0.1 0.1 0.3 0.1 0.3 0.2 0.1 0.2\n")
    assert not dota.looks_like(tmp_path / "yolo")
    assert not dota.looks_like(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert not dota.looks_like(tmp_path / "empty")


def test_fair1m_becomes_dota_and_back(tmp_path: Path) -> None:
    made = make_fair1m(tmp_path)
    records, names, _ = read_boxes(tmp_path, split="validation")
    report = dota.write(tmp_path / "out", records, names)
    assert report.counts == {dota.RENAMED: sum(" " in name for name in names)}
    again, hyphened, _ = read_boxes(tmp_path / "out", tmp_path / "validation" / "images")
    back = [fair1m.official_name(name) for name in hyphened]
    assert_drawn(again, back, made.truth["validation"], kind="oriented")


pieces = st.sampled_from(
    [LINE, "ship", "0", "nan", "-1e9", "1e400", " ", "\n", ":", "gsd:", "\ufeff", "\x00", "é", "1_0"]
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.lists(pieces, max_size=14).map("".join), st.text(max_size=60), st.binary(max_size=60)))
def test_nothing_but_a_user_error_comes_of_any_text(one: Path, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode("utf-8", errors="surrogatepass")
    (one / "labelTxt" / "a.txt").write_bytes(data)
    errors: list[UserError] = []
    records, names = walk_boxes(one, "dota", errors.append)
    for record in records:
        assert np.isfinite(record.objects.boxes_xyxy).all()
        assert all(0 <= label < len(names) for label in record.objects.labels)

"""YOLO labels in and out: boxes, oriented boxes, masks and key points, in every layout they come in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from box_sets import read_boxes, walk_boxes
from PIL import Image
from tables import with_objects

from vistruct.contracts import Record
from vistruct.data.formats.boxes import yolo
from vistruct.data.formats.boxes.coco_shapes import POINT_NOT_FINITE
from vistruct.data.formats.boxes.coco_walk import NO_MASK
from vistruct.data.formats.boxes.objects import CLIPPED, DUPLICATE, MISSING_IMAGE, NO_AREA, NOT_FINITE, OUTSIDE
from vistruct.data.formats.boxes.yolo_rows import NO_RECTANGLE
from vistruct.data.formats.boxes.yolo_write import NO_OUTLINE, PARTS_LOST
from vistruct.data.formats.detect import detect, family_of
from vistruct.data.formats.format import Ask
from vistruct.data.formats.order import stop_here
from vistruct.data.formats.read import walk
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

HEIGHT, WIDTH = 30, 40
NAMES = ("ship", "car")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)


def data_set(root: Path, rows: dict[str, str], **more: object) -> Path:
    """images/, labels/ and data.yaml; of each image the rows, None standing for no label file."""
    for name, text in rows.items():
        picture(root / "images" / f"{name}.png")
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{name}.txt").write_text(text)
    content = {"train": "images", "names": list(NAMES)} | more
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return root


def test_a_row_is_class_centre_and_sides_in_shares_of_the_image(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": "1 0.5 0.5 0.25 0.2\n\n0 0.1 0.1 0.2 0.2\n", "b": ""})
    (a, b), names, report = read_boxes(tmp_path)
    np.testing.assert_allclose(a.objects.boxes_xyxy, [[15, 12, 25, 18], [0, 0, 8, 6]], atol=1e-5)
    assert (a.objects.labels.tolist(), len(b.objects), names) == ([1, 0], 0, NAMES)
    assert (a.id, a.objects.quads, a.objects.masks, b.id) == ("a.png", None, None, "b.png")
    assert not report.counts


def test_four_corners_are_an_oriented_box(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": "0 0.5 0.1 0.75 0.3 0.6 0.6 0.4 0.5\n", "b": ""})
    (a, b), _, _ = read_boxes(tmp_path)
    np.testing.assert_allclose(a.objects.quads, [[[20, 3], [30, 9], [24, 18], [16, 15]]], atol=1e-5)  # ty: ignore
    np.testing.assert_allclose(a.objects.boxes_xyxy, [[16, 3, 30, 18]], atol=1e-5)
    assert b.objects.quads is not None
    assert b.objects.quads.shape == (0, 4, 2)


def test_rows_of_points_are_masks_those_of_four_too_where_others_have_more(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": "0 0.1 0.1 0.5 0.1 0.3 0.5\n1 0.5 0.5 0.75 0.5 0.75 0.8 0.5 0.8\n"})
    (a,), _, _ = read_boxes(tmp_path)
    assert a.objects.quads is None
    assert a.objects.masks is not None
    np.testing.assert_allclose(a.objects.masks[0], [[4, 3, 20, 3, 12, 15]])
    np.testing.assert_allclose(a.objects.boxes_xyxy, [[4, 3, 20, 15], [20, 15, 30, 24]], atol=1e-5)


def test_key_points_are_read_where_the_yaml_gives_their_shape(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": "0 0.5 0.5 0.2 0.2 0.5 0.4 2 nan 0.1 1\n"}, kpt_shape=[2, 3])
    (a,), _, report = read_boxes(tmp_path)
    np.testing.assert_allclose(a.objects.keypoints, [[[20, 12, 2], [0, 0, 0]]])  # ty: ignore
    assert dict(report.counts) == {POINT_NOT_FINITE: 1}
    data_set(tmp_path, {"a": "0 0.5 0.5 0.2 0.2 0.5 0.4 0.25 0.1\n"}, kpt_shape=[2, 2])
    (a,), _, _ = read_boxes(tmp_path)
    np.testing.assert_allclose(a.objects.keypoints, [[[20, 12, 2], [10, 3, 2]]])  # ty: ignore


BAD_LINES = [
    ("0 0.5 0.5 0.2", "4 fields"),
    ("0 0.5 0.5 0.2 0.2 0.9", "scores"),
    ("0 0.5 0.5 0.2 0.2 0.9 0.1 0.1", "8 fields"),
    ("0 0.5 0.5 0.2 x", "every field"),
    ("0 0,5 0.5 0.2 0.2", "with a point|number"),
    ("ship 0.5 0.5 0.2 0.2", "number"),
    ("1.5 0.5 0.5 0.2 0.2", "whole number"),
    ("-1 0.5 0.5 0.2 0.2", "whole number"),
    ("nan 0.5 0.5 0.2 0.2", "whole number"),
    ("2 0.5 0.5 0.2 0.2", "0 to 1"),
    ("0 120 80 30 20", "shares of the image"),
    ("0 0.5 0.1 0.75 0.3 0.6 0.6 0.4 0.5", "oriented box"),
]


@pytest.mark.parametrize(("line", "words"), BAD_LINES)
def test_a_line_that_makes_no_sense_is_an_error_with_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    data_set(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n", "b": f"\n0 0.4 0.4 0.2 0.2\n{line}\n"})
    with pytest.raises(UserError, match=words) as caught:
        read_boxes(tmp_path)
    assert caught.value.where.startswith(f"{tmp_path / 'labels' / 'b.txt'}, line 3")
    assert caught.value.fix
    errors: list[UserError] = []
    records, _ = walk_boxes(tmp_path, "yolo", errors.append)
    assert len(errors) == 1
    assert [len(record.objects) for record in records] == [1, 1]  # all others are still read


DOUBTFUL = [
    (NOT_FINITE, "0 nan 0.5 0.2 0.2"),
    (NO_AREA, "0 0.5 0.5 0 0.2"),
    (OUTSIDE, "0 1.5 0.5 0.2 0.2"),
    (CLIPPED, "0 1 0.5 0.2 0.2"),
    (DUPLICATE, "0 0.5 0.5 0.2 0.2"),
]


@pytest.mark.parametrize(("reason", "line"), DOUBTFUL)
def test_a_doubtful_box_is_counted_with_file_and_line(tmp_path: Path, reason: str, line: str) -> None:
    data_set(tmp_path, {"a": f"0 0.5 0.5 0.2 0.2\n{line}\n"})
    _, _, report = read_boxes(tmp_path)
    assert dict(report.counts) == {reason: 1}
    assert report.examples[reason] == [f"{tmp_path / 'labels' / 'a.txt'}, line 2"]


@pytest.mark.parametrize("line", ["0 0.5 0.1 0.75 nan 0.6 0.6 0.4 0.5", "0 0.5 0.1 nan 0.3 0.6 0.6"])
def test_a_shape_that_is_not_finite_is_left_out(tmp_path: Path, line: str) -> None:
    data_set(tmp_path, {"a": line})
    (a,), _, report = read_boxes(tmp_path)
    assert len(a.objects) == 0
    assert dict(report.counts) == {NOT_FINITE: 1}


def test_class_numbers_written_as_floats_are_read(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": "1.0 0.5 0.5 0.2 0.2"})
    assert read_boxes(tmp_path)[0][0].objects.labels.tolist() == [1]


def splits_by_folder(root: Path) -> None:
    for split in ("train", "val"):
        picture(root / "images" / split / f"{split}.png")
        (root / "labels" / split).mkdir(parents=True)
        (root / "labels" / split / f"{split}.txt").write_text("0 0.5 0.5 0.2 0.2\n")


def splits_outside(root: Path) -> None:
    for split in ("train", "valid"):
        picture(root / split / "images" / f"{split.removesuffix('id')}.png")
        (root / split / "labels").mkdir(parents=True)
        (root / split / "labels" / f"{split.removesuffix('id')}.txt").write_text("0 0.5 0.5 0.2 0.2\n")


YAMLS = {
    "ultralytics": (splits_by_folder, {"path": "../elsewhere", "train": "images/train", "val": "images/val"}),
    "with path": (splits_by_folder, {"path": ".", "train": ["images/train"], "val": "images/val", "test": None}),
    "export": (splits_outside, {"train": "../train/images", "val": "../valid/images", "nc": 2}),
    "no yaml": (splits_by_folder, None),
    "no yaml, outside": (splits_outside, None),
}


@pytest.mark.parametrize("name", YAMLS)
def test_splits_are_found_in_every_layout(tmp_path: Path, name: str) -> None:
    make, content = YAMLS[name]
    make(tmp_path)
    if content is not None:
        (tmp_path / "data.yaml").write_text(yaml.safe_dump(content | {"names": {0: "ship", 1: "car"}}))
    for split in ("train", "val"):
        (record,), _, _ = read_boxes(tmp_path, split=split)
        assert record.id == f"{split}.png"
        assert len(record.objects) == 1
    both, _, _ = read_boxes(tmp_path, split="train+val")
    assert [record.id for record in both] == ["train.png", "val.png"]
    with pytest.raises(UserError, match="several splits") as caught:
        read_boxes(tmp_path)
    assert "--split" in caught.value.fix
    with pytest.raises(UserError, match="no split 'tset'"):
        read_boxes(tmp_path, split="tset")
    if content is not None:
        assert read_boxes(tmp_path / "data.yaml", split="val")[1] == NAMES


def test_a_text_file_may_list_the_images(tmp_path: Path) -> None:
    splits_by_folder(tmp_path)
    (tmp_path / "train.txt").write_text("./images/val/val.png\nimages/train/train.png\n")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"train": "train.txt", "names": ["ship"]}))
    records, _, _ = read_boxes(tmp_path)
    assert [len(record.objects) for record in records] == [1, 1]


@pytest.mark.parametrize("file", ["classes.txt", "obj.names", "labels/classes.txt"])
def test_class_names_lie_in_a_text_file_where_there_is_no_yaml(tmp_path: Path, file: str) -> None:
    data_set(tmp_path, {"a": "1 0.5 0.5 0.2 0.2"})
    (tmp_path / "data.yaml").unlink()
    (tmp_path / file).write_text("ship\ncar\n")
    _, names, report = read_boxes(tmp_path)
    assert names == NAMES
    assert not report.counts


def test_labels_may_lie_beside_their_images_and_classes_have_numbers_where_nothing_names_them(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("2 0.5 0.5 0.2 0.2")
    (a,), names, report = read_boxes(tmp_path)
    assert (a.objects.labels.tolist(), names) == ([2], ("0", "1", "2"))
    assert dict(report.counts) == {yolo.NO_NAMES: 1}


def test_labels_without_images_and_images_without_labels_are_counted(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"})
    (tmp_path / "labels" / "gone.txt").write_text("0 0.5 0.5 0.2 0.2")
    picture(tmp_path / "images" / "new.png")
    records, _, report = read_boxes(tmp_path)
    assert len(records) == 2
    assert dict(report.counts) == {yolo.NO_IMAGE: 1, yolo.NO_LABELS: 1}


def test_listed_images_that_are_gone_stop_or_drop(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"}, train="list.txt")
    (tmp_path / "list.txt").write_text("images/a.png\nimages/b.png\n")
    with pytest.raises(UserError, match=r"not on disk\n.*1 of 2: "):
        read_boxes(tmp_path)
    records, _, report = read_boxes(tmp_path, missing="drop")
    assert (len(records), dict(report.counts)) == (1, {MISSING_IMAGE: 1})


def test_two_images_of_one_label_file_are_an_error(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"})
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a.jpg")
    with pytest.raises(UserError, match="same label file"):
        read_boxes(tmp_path)


BAD_YAMLS = [
    ("names: [a\n", "not valid yaml"),
    ("train: images\n", "no `names`"),
    ("names: [a]\n", "no train"),
    ("names: {0: a, 2: b}\ntrain: images\n", "without gaps"),
    ("names: [a, a]\ntrain: images\n", "twice"),
    ("names: [a]\nnc: 2\ntrain: images\n", "nc is 2"),
    ("names: [a]\ntrain: images\nkpt_shape: [0, 3]\n", "kpt_shape"),
    ("names: [a]\ntrain: nowhere\n", "no such"),
    ("", "empty"),
]


def test_boxes_and_outlines_are_boxes_and_a_head_of_masks_wants_outlines_alone(tmp_path: Path) -> None:
    outline = "0 0.25 0.2 0.75 0.2 0.75 0.6 0.5 0.8 0.25 0.6\n"
    data_set(tmp_path, {"a": "1 0.5 0.5 0.25 0.2\n" + outline})
    (a,), _, report = read_boxes(tmp_path)
    np.testing.assert_allclose(a.objects.boxes_xyxy, [[15, 12, 25, 18], [10, 6, 30, 24]], atol=1e-5)
    assert dict(report.counts) == {NO_MASK: 1, yolo.HULL: 1}
    assert [bool(mask) for mask in a.objects.masks or ()] == [False, True]
    errors: list[UserError] = []
    found = walk(tmp_path, "boxes", "yolo", Ask(masks=True), IssueCounter(), errors.append)
    assert [error.what for error in errors] == ["a box without an outline, where masks are wanted"]
    assert errors[0].where.endswith("a.txt, line 1")
    assert [len(record.objects) for record in found.records] == [1]


FOUR = "0 0.1 0.1 0.3 0.1 0.35 0.3 0.15 0.3\n"


def test_four_corners_are_masks_where_masks_are_wanted(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": FOUR})
    (a,), _, report = read_boxes(tmp_path)
    assert (a.objects.masks, dict(report.counts)) == (None, {NO_RECTANGLE: 1})
    (wanted,) = walk(tmp_path, "boxes", "yolo", Ask(masks=True), IssueCounter(), stop_here).records
    (named,), _, _ = read_boxes(tmp_path, format="yolo-masks")
    for record in (wanted, named):
        assert record.objects.quads is None
        np.testing.assert_allclose((record.objects.masks or ())[0], [[4, 3, 12, 3, 14, 9, 6, 9]], atol=1e-5)


def test_boxes_among_four_corners_are_a_question_with_two_answers(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": "1 0.5 0.5 0.25 0.2\n" + FOUR})
    with pytest.raises(UserError, match=r"oriented boxes, or outlines(.|\n)*--format yolo-obb .*--format yolo-masks"):
        read_boxes(tmp_path)
    (a,), _, report = read_boxes(tmp_path, format="yolo-obb")
    assert report.counts[yolo.UPRIGHT] == 1
    assert a.objects.quads is not None
    np.testing.assert_allclose(a.objects.quads[0], [[15, 12], [25, 12], [25, 18], [15, 18]], atol=1e-5)
    (a,), _, _ = read_boxes(tmp_path, format="yolo-masks")
    assert (a.objects.quads, len(a.objects)) == (None, 2)


def darknet(root: Path, prefix: str = "", *, data: bool = True) -> None:
    (root / "obj.names").write_text("ship\ncar\n")
    for split, name in {"train": "a", "valid": "b"}.items():
        picture(root / "obj_train_data" / f"{name}.png")
        (root / "obj_train_data" / f"{name}.txt").write_text("1 0.5 0.5 0.25 0.2\n")
        (root / f"{split}.txt").write_text(f"{prefix}obj_train_data/{name}.png\n")
    if data:
        lines = [
            "classes = 2",
            f"train = {prefix}train.txt",
            f"valid = {prefix}valid.txt",
            f"names = {prefix}obj.names",
        ]
        (root / "obj.data").write_text("\n".join(lines))


@pytest.mark.parametrize("prefix", ["", "data/", "/content/darknet/data/", "C:\\work\\data\\"])
@pytest.mark.parametrize("data", [True, False])
def test_darknets_lists_are_splits(tmp_path: Path, prefix: str, data: bool) -> None:
    darknet(tmp_path, prefix, data=data)
    assert detect(tmp_path, "boxes") == "yolo"
    assert family_of(tmp_path).kind == "boxes"
    for split, image in {"train": "a.png", "val": "b.png"}.items():
        (record,), names, report = read_boxes(tmp_path, split=split)
        assert (record.images[0], names) == (tmp_path / "obj_train_data" / image, NAMES)
        assert (record.objects.labels.tolist(), dict(report.counts)) == ([1], {})
        assert not Path(record.id).is_absolute()


def test_lists_of_splits_choose_from_one_folder_of_images(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n", "b": "0 0.5 0.5 0.2 0.2\n"})
    (tmp_path / "data.yaml").unlink()
    for split, name in {"train": "a", "val": "b"}.items():
        (tmp_path / f"{split}.txt").write_text(f"images/{name}.png\n")
    assert [record.id for record in read_boxes(tmp_path, split="train")[0]] == ["images/a.png"]


def test_labels_beside_images_in_a_folder_a_split(tmp_path: Path) -> None:
    for split, name in {"train": "a", "valid": "b"}.items():
        picture(tmp_path / split / f"{name}.png")
        (tmp_path / split / f"{name}.txt").write_text("1 0.5 0.5 0.25 0.2\n")
    assert detect(tmp_path, "boxes") == "yolo"
    assert [record.id for record in read_boxes(tmp_path, split="valid")[0]] == ["b.png"]


def test_images_that_lie_elsewhere_have_the_labels_of_the_data_set(tmp_path: Path) -> None:
    data_set(tmp_path / "set", {"a": "1 0.5 0.5 0.25 0.2\n"})
    (tmp_path / "set" / "images").rename(tmp_path / "pictures")
    (a,), names, report = read_boxes(tmp_path / "set", tmp_path / "pictures")
    assert (a.images[0], a.objects.labels.tolist(), names) == (tmp_path / "pictures" / "a.png", [1], NAMES)
    assert not report.counts
    (tmp_path / "set" / "data.yaml").unlink()
    (a,), _, _ = read_boxes(tmp_path / "set" / "labels", tmp_path / "pictures", format="yolo")
    assert len(a.objects) == 1


def test_different_labels_in_two_places_are_a_question(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": "1 0.5 0.5 0.25 0.2\n"})
    (tmp_path / "images" / "a.txt").write_text("0 0.5 0.5 0.25 0.2\n")
    with pytest.raises(UserError, match="different labels"):
        read_boxes(tmp_path)


def test_the_folder_above_a_yaml_and_that_beside_it_are_a_question(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "set"):
        data_set(root / "train", {"a": "1 0.5 0.5 0.25 0.2\n"})
        (root / "train" / "data.yaml").unlink()
    (tmp_path / "set" / "data.yaml").write_text("train: ../train/images\nnames: [ship, car]\n")
    with pytest.raises(UserError, match="two folders could be meant"):
        read_boxes(tmp_path / "set")


def test_the_same_mistake_has_the_same_words(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": "0 64.5 20 3 4\n0 58.1 20 3 4\n7 0.5 0.5 0.2 0.2\n9 0.5 0.5 0.2 0.2\n0 1\n0 1 2\n"})
    errors: list[UserError] = []
    walk_boxes(tmp_path, "yolo", errors.append)
    assert [errors[number].what == errors[number + 1].what for number in (0, 2, 4)] == [True] * 3


@pytest.mark.parametrize(("text", "words"), BAD_YAMLS)
def test_a_yaml_that_does_not_say_what_it_must_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    data_set(tmp_path, {"a": ""})
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_boxes(tmp_path / "data.yaml")
    assert str(tmp_path) in caught.value.where


def test_several_yaml_files_are_an_error_that_names_them(tmp_path: Path) -> None:
    data_set(tmp_path, {"a": ""})
    (tmp_path / "other.yaml").write_text((tmp_path / "data.yaml").read_text())
    with pytest.raises(UserError, match=r"data\.yaml, other\.yaml"):
        read_boxes(tmp_path)


def records_of(root: Path, **more: object) -> list[Record]:
    picture(root / "in" / "a.png")
    rng = np.random.default_rng(0)
    low, side = rng.uniform(0, 14, (5, 2)), rng.uniform(1, 15, (5, 2))
    boxes = np.concatenate([low, low + side], axis=1).astype(np.float32)
    values = with_objects({"boxes_xyxy": boxes, "labels": np.arange(5) % 2, **more})
    return [Record(id="a.png", images=(root / "in" / "a.png",), size_hw=(HEIGHT, WIDTH), **values)]


def test_boxes_read_back_to_a_ten_thousandth_of_a_pixel(tmp_path: Path) -> None:
    records = records_of(tmp_path)
    report = yolo.write(tmp_path / "out", records, NAMES)
    picture(tmp_path / "out" / "images" / "a.png")
    (again,), names, read = read_boxes(tmp_path / "out")
    np.testing.assert_allclose(again.objects.boxes_xyxy, records[0].objects.boxes_xyxy, atol=1e-4)
    np.testing.assert_array_equal(again.objects.labels, records[0].objects.labels)
    assert names == NAMES
    assert not report.counts
    assert not read.counts


def test_oriented_boxes_read_back_also_over_the_border(tmp_path: Path) -> None:
    quads = np.random.default_rng(0).uniform(-9, 45, (5, 4, 2)).astype(np.float32)
    centre = quads.mean(axis=1, keepdims=True)
    turn = np.arctan2(*(quads - centre).transpose(2, 0, 1)[::-1]).argsort(axis=1)
    quads = np.take_along_axis(quads, turn[..., None], axis=1)
    hulls = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
    records = records_of(tmp_path, quads=quads, boxes_xyxy=hulls)
    yolo.write_oriented(tmp_path / "out", records, NAMES)
    picture(tmp_path / "out" / "images" / "a.png")
    (again,), _, _ = read_boxes(tmp_path / "out")
    assert again.objects.quads is not None
    np.testing.assert_allclose(again.objects.quads, quads, atol=1e-4)
    np.testing.assert_allclose(again.objects.boxes_xyxy, hulls, atol=1e-4)


def test_outlines_read_back_those_of_four_points_too(tmp_path: Path) -> None:
    outlines = [[1, 1, 9, 1, 9, 9, 1, 9], [2, 2, 9, 2, 5, 8]]
    records = records_of(tmp_path)
    one = records[0].keep(np.arange(2))
    masked = one.with_columns(masks=([outlines[0]], [outlines[1]]))
    report = yolo.write(tmp_path / "out", [masked], NAMES)
    picture(tmp_path / "out" / "images" / "a.png")
    (again,), _, _ = read_boxes(tmp_path / "out")
    assert again.objects.masks is not None
    np.testing.assert_allclose(again.objects.masks[0], outlines[:1], atol=1e-5)
    np.testing.assert_allclose(again.objects.masks[1], outlines[1:], atol=1e-5)
    assert not report.counts
    single = replace(one, objects=replace(one.objects.keep(np.arange(1)), masks=([outlines[0]],)))
    yolo.write(tmp_path / "four", [single], NAMES)
    picture(tmp_path / "four" / "images" / "a.png")
    assert read_boxes(tmp_path / "four")[0][0].objects.quads is None  # four corners alone would be an oriented box


def test_what_no_row_has_room_for_is_said(tmp_path: Path) -> None:
    parts = [[1, 1, 3, 1, 3, 3], [5, 5, 20, 5, 20, 25]]
    lengths = {"size": [HEIGHT, WIDTH], "counts": [1200]}
    one = records_of(tmp_path)[0].keep(np.arange(2))
    masked = one.with_columns(masks=(parts, lengths))
    report = yolo.write(tmp_path / "out", [masked], NAMES)
    assert dict(report.counts) == {PARTS_LOST: 1, NO_OUTLINE: 1}
    first = (tmp_path / "out" / "labels" / "a.txt").read_text().splitlines()[0]
    assert [float(word) for word in first.split()[1:]] == pytest.approx([0.125, 1 / 6, 0.5, 1 / 6, 0.5, 5 / 6])


def test_nothing_but_a_user_error_comes_out_of_any_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["0", "1", "0.5", "0.25", "nan", "inf", "-1", "1e9", "x", "", "\n", "\t", "é", "1_0"]
    for _ in range(150):
        text = " ".join(rng.choice(words, rng.integers(1, 24)))
        data_set(tmp_path, {"a": text})
        errors: list[UserError] = []
        report = IssueCounter()
        records, _ = walk_boxes(tmp_path, "yolo", errors.append, report)
        assert all(np.isfinite(record.objects.boxes_xyxy).all() for record in records)

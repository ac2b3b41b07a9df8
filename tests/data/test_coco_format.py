"""COCO json in and out: against pycocotools, round trips, and every kind of damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from box_sets import read_coco
from PIL import Image
from pycocotools.coco import COCO

from vistruct.contracts import BoxPrediction, Objects, Record
from vistruct.data.formats.boxes import coco
from vistruct.data.formats.boxes.coco_walk import FOREIGN_NAME, GROUPING
from vistruct.data.formats.boxes.objects import CLIPPED, DUPLICATE, MISSING_IMAGE, NO_AREA, NOT_FINITE, OUTSIDE
from vistruct.errors import UserError
from vistruct.samples import trees


def document() -> dict[str, Any]:
    """Three images of 40 x 30 pixels, two classes whose ids are not in order, one image without objects."""
    return {
        "images": [
            {"id": 7, "file_name": "b.png", "width": 40, "height": 30},
            {"id": 3, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 5, "file_name": "sub/c.png"},
        ],
        "categories": [{"id": 9, "name": "ship"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 9, "bbox": [1, 2, 10.5, 4], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 40, 30], "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 9, "bbox": [5, 6, 7, 8]},
        ],
    }


Saved = Callable[[dict[str, Any]], Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "sub/c.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / name)

    def save(content: dict[str, Any]) -> Path:
        (tmp_path / "a.json").write_text(json.dumps(content))
        return tmp_path / "a.json"

    return save


def test_reading_equals_pycocotools(saved: Saved) -> None:
    path = saved(document())
    records, class_names, report = read_coco(path)
    reference = COCO(str(path))
    order = sorted(reference.getCatIds())
    assert class_names == tuple(reference.cats[category]["name"] for category in order) == ("car", "ship")
    assert [record.id for record in records] == ["b.png", "a.png", "sub/c.png"]
    for image_id, record in zip((7, 3, 5), records, strict=True):
        annotations = reference.loadAnns(reference.getAnnIds(imgIds=[image_id]))
        expected = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in annotations)]
        np.testing.assert_array_equal(record.objects.boxes_xyxy, np.asarray(expected, np.float32).reshape(-1, 4))
        assert record.objects.labels.tolist() == [order.index(a["category_id"]) for a in annotations]
        assert record.objects.is_crowd.tolist() == [bool(a.get("iscrowd", 0)) for a in annotations]
        assert (record.size_hw, record.image_id) == ((30, 40), record.id)
        assert (record.objects.boxes_xyxy.dtype, record.objects.labels.dtype) == (np.float32, np.int64)
    assert not report.counts


def test_the_sample_reads_as_pycocotools_reads_it() -> None:
    (record,), names, report = read_coco(trees().test)
    reference = COCO(str(trees().test))
    expected = np.array([annotation["bbox"] for annotation in reference.anns.values()], np.float32)
    expected[:, 2:] += expected[:, :2]
    np.testing.assert_array_equal(record.objects.boxes_xyxy, expected)
    assert (names, dict(report.counts)) == (("tree",), {})


def test_what_is_written_reads_back_the_same(saved: Saved, tmp_path: Path) -> None:
    records, names, _ = read_coco(saved(document()))
    coco.write(tmp_path / "again.json", records, names)
    again, names_again, report = read_coco(tmp_path / "again.json")
    assert names_again == names
    assert not report.counts
    for one, other in zip(records, again, strict=True):
        np.testing.assert_array_equal(one.objects.boxes_xyxy, other.objects.boxes_xyxy)
        np.testing.assert_array_equal(one.objects.labels, other.objects.labels)
        np.testing.assert_array_equal(one.objects.is_crowd, other.objects.is_crowd)
        assert (one.id, one.images, one.size_hw) == (other.id, other.images, other.size_hw)
    COCO(str(tmp_path / "again.json"))  # and other tools take it


def test_windows_and_images_of_unknown_size_cannot_be_written(tmp_path: Path) -> None:
    for record in (
        Record(id="a", images=()),
        Record(id="a", images=(), size_hw=(2, 2), window_xyxy=(0, 0, 2, 2)),
    ):
        with pytest.raises(ValueError, match="whole images"):
            coco.write(tmp_path / "a.json", [record], ["x"])


def test_written_predictions_load_as_coco_results(saved: Saved, tmp_path: Path) -> None:
    path = saved(document())
    image_ids, category_ids = coco.read_ids(path)
    assert (image_ids, category_ids) == ({"b.png": 7, "a.png": 3, "sub/c.png": 5}, (2, 9))
    prediction = BoxPrediction(
        id="a.png",
        image_id="a.png",
        objects=Objects(
            boxes_xyxy=torch.tensor([[1.0, 2, 5, 8], [0, 0, 3, 3]]),
            scores=torch.tensor([0.75, 0.5]),
            labels=torch.tensor([1, 0]),
        ),
        class_names=("car", "ship"),
    )
    coco.write_predictions(tmp_path / "found.json", [prediction], image_ids, category_ids)
    found = COCO(str(path)).loadRes(str(tmp_path / "found.json"))
    assert [(a["image_id"], a["category_id"], a["bbox"], a["score"]) for a in found.anns.values()] == [
        (3, 9, [1, 2, 4, 6], 0.75),
        (3, 2, [0, 0, 3, 3], 0.5),
    ]


BAD_BOXES = [
    (NOT_FINITE, [float("nan"), 0, 4, 4], None),
    (NOT_FINITE, [0, 0, float("inf"), 4], None),
    (NO_AREA, [3, 3, 0, 5], None),
    (NO_AREA, [3, 3, 5, -1], None),
    (NO_AREA, [30, 3, 1e-9, 5], None),  # thinner than float32 can say
    (OUTSIDE, [40, 0, 5, 5], None),
    (OUTSIDE, [-9, 0, 9, 5], None),
    (OUTSIDE, [0, 31, 5, 5], None),
    (CLIPPED, [-3, -2, 10, 10], [0, 0, 7, 8]),
    (CLIPPED, [35, 25, 10, 10], [35, 25, 40, 30]),
    (DUPLICATE, [1, 2, 10.5, 4], None),
]


@pytest.mark.parametrize(("reason", "bbox", "kept"), BAD_BOXES)
def test_a_doubtful_box_is_counted_by_reason(
    saved: Saved, reason: str, bbox: list[float], kept: list[float] | None
) -> None:
    content = document()
    content["annotations"].append({"id": 44, "image_id": 3, "category_id": 9, "bbox": bbox})
    records, _, report = read_coco(saved(content))
    assert dict(report.counts) == {reason: 1}
    assert report.examples[reason] == ["a.png: annotation 44"]
    expected = [[1, 2, 11.5, 6]] + ([kept] if kept else [])
    np.testing.assert_array_equal(records[1].objects.boxes_xyxy, np.asarray(expected, np.float32))


def test_the_same_box_of_another_class_is_no_duplicate(saved: Saved) -> None:
    content = document()
    content["annotations"].append({"id": 44, "image_id": 3, "category_id": 2, "bbox": [1, 2, 10.5, 4]})
    records, _, report = read_coco(saved(content))
    assert len(records[1].objects) == 2
    assert not report.counts


def test_rounding_at_the_border_is_no_clipping(saved: Saved) -> None:
    content = document()
    content["annotations"] = [{"id": 1, "image_id": 3, "category_id": 2, "bbox": [29.9, 0, 10.1 + 1e-9, 30]}]
    records, _, report = read_coco(saved(content))
    assert not report.counts
    assert records[1].objects.boxes_xyxy[0, 2] == 40


def broken(change: str) -> dict[str, Any]:
    content = document()
    one = content["annotations"][0]
    match change:
        case "image id":
            one["image_id"] = 77
        case "category id":
            one["category_id"] = 77
        case "three numbers":
            one["bbox"] = [1, 2, 3]
        case "no bbox":
            del one["bbox"]
        case "text in bbox":
            one["bbox"] = ["1", 2, 3, 4]
        case "text as annotation":
            content["annotations"][0] = "box"
        case "no images key":
            del content["images"]
        case "no annotations key":
            del content["annotations"]
        case "no categories":
            content["categories"] = []
        case "no images":
            content["images"] = []
        case "category twice":
            content["categories"][1]["id"] = 9
        case "image twice":
            content["images"][1]["file_name"] = "b.png"
        case "image without id":
            del content["images"][0]["id"]
        case "relative boxes":
            for annotation in content["annotations"]:
                annotation["bbox"] = [0.1, 0.2, 0.5, 0.5]
    return content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("image id", "no image has the id(.|\n)*image_id 77"),
        ("category id", "no category has the id(.|\n)*category_id 77"),
        ("three numbers", r"\[1, 2, 3\]"),
        ("no bbox", "bbox is"),
        ("text in bbox", "bbox is"),
        ("text as annotation", "'box'"),
        ("no images key", "no list of 'images'"),
        ("no annotations key", "no list of 'annotations'"),
        ("no categories", "'categories' is empty"),
        ("no images", "'images' is empty"),
        ("category twice", "repeats an id"),
        ("image twice", "listed twice"),
        ("image without id", "image 0"),
        ("relative boxes", "between 0 and 1"),
    ],
)
def test_what_would_make_training_wrong_is_an_error_with_its_place(saved: Saved, change: str, words: str) -> None:
    path = saved(broken(change))
    with pytest.raises(UserError, match=words) as caught:
        read_coco(path)
    assert caught.value.where.startswith(str(path))
    assert caught.value.fix


def test_captions_in_the_place_of_boxes_are_called_so(saved: Saved) -> None:
    content = document() | {"annotations": [{"id": 1, "image_id": 1, "caption": "a tree"}]}
    del content["categories"]
    with pytest.raises(UserError, match="no list of 'categories'") as caught:
        read_coco(saved(content))
    assert "vistruct train caption" in caught.value.fix


def test_an_unknown_id_names_the_annotation(saved: Saved) -> None:
    with pytest.raises(UserError) as caught:
        read_coco(saved(broken("category id")))
    assert ", annotation 1: " in caught.value.where


def test_missing_images_are_counted_and_the_first_three_named(saved: Saved) -> None:
    content = document()
    content["images"] += [{"id": 100 + n, "file_name": f"gone{n}.png"} for n in range(5)]
    content["annotations"].append({"id": 9, "image_id": 102, "category_id": 2, "bbox": [0, 0, 5, 5]})
    path = saved(content)
    with pytest.raises(UserError, match=r"5 of 8: .*gone0.*gone1.*gone2\.png, \.\.\.") as caught:
        read_coco(path)
    assert "gone3" not in str(caught.value)
    records, _, report = read_coco(path, missing="drop")
    assert len(records) == 3
    assert report.counts == {MISSING_IMAGE: 5}


def test_no_image_on_disk_at_all_is_an_error_even_when_they_may_drop(saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the images"):
        read_coco(saved(document()), tmp_path / "elsewhere", missing="drop")


def test_images_may_lie_in_another_folder(saved: Saved, tmp_path: Path) -> None:
    path = saved(document())
    moved = tmp_path / "deep" / "a.json"
    moved.parent.mkdir()
    path.rename(moved)
    assert len(read_coco(moved, tmp_path)[0]) == 3


def test_an_image_of_another_size_than_the_json_says_is_an_error_with_both_sizes(saved: Saved) -> None:
    content = document()
    content["images"][0]["width"] = 80
    with pytest.raises(UserError, match=r"80 x 30 .* 40 x 30") as caught:
        read_coco(saved(content))
    assert "b.png" in caught.value.where
    content["images"][0].update(width=30, height=40)
    with pytest.raises(UserError) as caught:
        read_coco(saved(content))
    assert "EXIF" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "words", "place"),
    [
        ('{"images": [],\n  "annotations": [,]}', "not valid json", "line 2, column 19"),
        ("", "empty", "a.json"),
        ("  \n", "empty", "a.json"),
        ("[]", "not a list", "a.json"),
    ],
)
def test_a_file_that_is_not_coco_json_says_where(tmp_path: Path, text: str, words: str, place: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_coco(path)
    assert caught.value.where.endswith(place)


def test_a_missing_annotation_file_and_bytes_that_are_no_text_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such annotation"):
        read_coco(tmp_path / "no.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_coco(tmp_path / "a.json")


def test_one_pixel_images_and_an_empty_list_of_annotations_read(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "x"}],
    }
    for listed in ([], [box]):
        (tmp_path / "a.json").write_text(json.dumps({**content, "annotations": listed}))
        (record,), _, report = read_coco(tmp_path / "a.json")
        assert record.objects.boxes_xyxy.shape == (len(listed), 4)
        assert not report.counts


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["/data/set/data/train/a.png", "/data/set/data/train/b.png"], ["a.png", "b.png"]),
        (["C:\\u\\data\\a.png", "C:\\u\\data\\b.png"], ["a.png", "b.png"]),
        (["https://h.org/up/a%2Epng?x=1", "https://h.org/up/b.png"], ["a.png", "b.png"]),
        (["../../up/1/a.png", "../../up/2/b.png"], ["1/a.png", "2/b.png"]),
        (["x\\a.png", "x\\sub\\b.png"], ["a.png", "sub/b.png"]),
    ],
)
def test_paths_of_another_machine_are_looked_up_by_their_end(tmp_path: Path, names: list[str], ids: list[str]) -> None:
    for image in ("a.png", "b.png"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "pictures" / image)
    content = document()
    content["images"] = [{"id": number, "file_name": name} for number, name in zip((7, 3), names, strict=True)]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="--images FOLDER"):
        read_coco(tmp_path / "a.json")
    records, _, report = read_coco(tmp_path / "a.json", tmp_path / "pictures")
    assert [record.id for record in records] == ids
    assert [record.images[0] for record in records] == [tmp_path / "pictures" / name for name in ("a.png", "b.png")]
    assert dict(report.counts) == {FOREIGN_NAME: 2}
    assert list(coco.read_ids(tmp_path / "a.json")[0]) == ids


def test_the_longest_end_that_is_there_is_meant_and_two_of_one_name_are_a_question(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / folder / "a.png")
    content = document() | {"annotations": []}
    content["images"] = [{"id": 1, "file_name": "/d/x/a.png"}, {"id": 2, "file_name": "/d/y/a.png"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    records, _, _ = read_coco(tmp_path / "a.json", tmp_path / "images")
    assert [record.images[0].parent.name for record in records] == ["x", "y"]
    content["images"] = [{"id": 1, "file_name": "/d/a.png"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="several images could be meant"):
        read_coco(tmp_path / "a.json", tmp_path / "images")
    content["images"] = [{"id": 1, "file_name": "/d/z/a.png"}, {"id": 2, "file_name": "/e/z/a.png"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="shares its id or its file with another"):
        read_coco(tmp_path / "a.json", tmp_path / "images" / "x")


def test_images_beside_the_json_come_first_and_two_other_folders_are_a_question(saved: Saved, tmp_path: Path) -> None:
    path = saved(document())
    for folder, colour in (("images", "red"), ("JPEGImages", "blue")):
        for name in ("a.png", "b.png", "sub/c.png"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), colour).save(tmp_path / folder / name)
    assert read_coco(path)[0][0].images == (tmp_path / "b.png",)
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"two folders(.|\n)*--images .*images"):
        read_coco(path)
    assert read_coco(path, tmp_path / "JPEGImages")[0][0].images == (tmp_path / "JPEGImages" / "b.png",)


def test_a_category_that_only_groups_the_others_is_left_out(saved: Saved) -> None:
    content = document()
    content["categories"] = [{"id": 0, "name": "trees-v3", "supercategory": "none"}] + [
        one | {"supercategory": "trees-v3"} for one in content["categories"]
    ]
    _, names, report = read_coco(saved(content))
    assert (names, dict(report.counts)) == (("car", "ship"), {GROUPING: 1})
    assert coco.read_ids(saved(content))[1] == (2, 9)
    content["annotations"][0]["category_id"] = 0  # it has an object: then it is a class
    assert read_coco(saved(content))[1] == ("trees-v3", "car", "ship")
    content = document()
    content["categories"].append({"id": 1, "name": "vehicle", "supercategory": ""})  # an empty class of its own
    assert read_coco(saved(content))[1] == ("vehicle", "car", "ship")


def test_two_annotations_of_one_id_are_an_error(saved: Saved) -> None:
    content = document()
    content["annotations"][2]["id"] = 1
    with pytest.raises(UserError, match="has the id of another one"):
        read_coco(saved(content))

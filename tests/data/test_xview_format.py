"""xView's GeoJSON: its classes, its two classes without a name, and its boxes without a size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_sets import read_boxes, walk_boxes
from PIL import Image

from vistruct.data.boxes import BoxDataConfig
from vistruct.data.convert import convert
from vistruct.data.formats.boxes import xview
from vistruct.data.formats.boxes.objects import CLIPPED, MISSING_IMAGE, NO_AREA
from vistruct.data.formats.boxes.per_image import UNANNOTATED
from vistruct.data.reading import Reading
from vistruct.errors import UserError


def feature(bounds: str, type_id: Any = 18, image: Any = "5.tif") -> dict[str, Any]:
    said = {"bounds_imcoords": bounds, "type_id": type_id, "image_id": image, "cat_id": "104", "ingest_time": "x"}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[0, 0]]]}, "properties": said}


def saved(root: Path, *features: Any) -> Path:
    (root / "train_images").mkdir(exist_ok=True)
    for name in ("5.tif", "40.tif", "100.tif"):
        Image.new("RGB", (40, 30)).save(root / "train_images" / name)
    text = json.dumps({"type": "FeatureCollection", "crs": {}, "features": features})
    (root / "xView_train.geojson").write_text(text)
    return root


def test_boxes_are_read_by_image_with_the_names_of_the_published_table(tmp_path: Path) -> None:
    saved(tmp_path, feature("1,2,11,12", 94, "40.tif"), feature("3,4,5,6", 11), feature("30,20,50,30", 18))
    records, names, report = read_boxes(tmp_path)
    assert [record.id for record in records] == ["5.tif", "40.tif"]
    assert (len(names), names[0], names[-1]) == (60, "Fixed-wing Aircraft", "Tower")
    np.testing.assert_array_equal(records[0].objects.boxes_xyxy, [[3, 4, 5, 6], [30, 20, 40, 30]])
    assert [names[label] for label in records[0].objects.labels] == ["Fixed-wing Aircraft", "Small Car"]
    assert dict(report.counts) == {CLIPPED: 1, UNANNOTATED: 1}


def test_classes_without_a_name_and_boxes_without_a_size_are_counted(tmp_path: Path) -> None:
    saved(tmp_path, feature("1,2,11,12", 75), feature("1,2,11,12", 82), feature("3,4,3,6"), feature("1,1,9,9"))
    records, _, report = read_boxes(tmp_path / "xView_train.geojson")
    assert len(records[0].objects) == 1
    assert dict(report.counts) == {xview.NO_CLASS: 2, NO_AREA: 1, UNANNOTATED: 2}
    assert report.examples[NO_AREA] == ["5.tif: feature 2"]


BAD = [
    (feature("1,2,11"), "bounds_imcoords is"),
    (feature("1,2,11,x"), "bounds_imcoords is"),
    (feature("1,2,11,12", 12345), r"type_id\n.*, feature 1: 12345"),
    (feature("1,2,11,12", "18"), r"type_id\n.*, feature 1: '18'"),
    (feature("1,2,11,12", True), r"type_id\n.*, feature 1: True"),
    (feature("1,2,11,12", image=5), "image_id"),
    ({"type": "Feature", "properties": {}}, "a feature has"),
    ("feature", "a feature has"),
]


@pytest.mark.parametrize(("bad", "words"), BAD)
def test_a_bad_feature_is_an_error_with_its_number(tmp_path: Path, bad: Any, words: str) -> None:
    path = saved(tmp_path, feature("1,1,9,9"), bad) / "xView_train.geojson"
    with pytest.raises(UserError, match=words) as caught:
        read_boxes(tmp_path, format="xview")
    assert caught.value.where.startswith(f"{path}, feature 1")
    errors: list[UserError] = []
    records, _ = walk_boxes(tmp_path, "xview", errors.append)
    assert (len(errors), len(records[0].objects)) == (1, 1)


def test_missing_images_stop_or_drop(tmp_path: Path) -> None:
    saved(tmp_path, feature("1,1,9,9"), feature("1,1,9,9", image="77.tif"))
    with pytest.raises(UserError, match=r"1 of 2: .*77"):
        read_boxes(tmp_path)
    records, _, report = read_boxes(tmp_path, missing="drop")
    assert [record.id for record in records] == ["5.tif"]
    assert report.counts[MISSING_IMAGE] == 1
    with pytest.raises(UserError, match="none of the images"):
        read_boxes(tmp_path, tmp_path / "nowhere", missing="drop")


def test_the_image_that_was_never_published_is_left_out_with_a_word(tmp_path: Path) -> None:
    saved(tmp_path, feature("1,1,9,9"), feature("1,1,9,9", image="1395.tif"))
    records, _, report = read_boxes(tmp_path)
    assert [record.id for record in records] == ["5.tif"]
    assert report.counts[xview.GONE] == 1


@pytest.mark.parametrize(("text", "words"), [("{", "not valid json"), ('{"features": []}', "no list of features")])
def test_a_file_that_is_no_such_geojson_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(UserError, match=words):
        read_boxes(tmp_path / "a.geojson")


def test_there_is_no_split_but_train(tmp_path: Path) -> None:
    saved(tmp_path, feature("1,1,9,9"))
    assert len(read_boxes(tmp_path, split="train")[0]) == 1
    with pytest.raises(UserError, match="no split 'val'"):
        read_boxes(tmp_path, split="val")


def test_what_is_written_is_read_back_by_us_and_by_its_scorer(tmp_path: Path) -> None:
    saved(tmp_path, feature("1,2,11,12", 94, "40.tif"), feature("3,4,5,6", 11), feature("30,20,38,29", 18))
    done = convert(tmp_path, tmp_path / "out", "xview")
    assert not done.lost.counts
    before, after = read_boxes(tmp_path), read_boxes(tmp_path / "out")
    assert after[1] == before[1]
    for old, new in zip(before[0], after[0], strict=True):
        assert (new.id, new.objects.labels.tolist()) == (old.id, old.objects.labels.tolist())
        np.testing.assert_array_equal(new.objects.boxes_xyxy, old.objects.boxes_xyxy)
        assert new.images[0].read_bytes() == old.images[0].read_bytes()
    content = json.loads((tmp_path / "out" / "xView_train.geojson").read_text())
    said = [one["properties"] for one in content["features"]]
    edges = {
        (one["image_id"], one["type_id"]): [int(edge) for edge in one["bounds_imcoords"].split(",")] for one in said
    }
    assert edges == {("5.tif", 11): [3, 4, 5, 6], ("5.tif", 18): [30, 20, 38, 29], ("40.tif", 94): [1, 2, 11, 12]}
    convert(tmp_path, tmp_path / "again", "xview")
    files = [(tmp_path / name / "xView_train.geojson").read_bytes() for name in ("out", "again")]
    assert files[0] == files[1]


def test_parts_of_pixels_and_images_without_a_box_are_counted(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "5.tif")
    Image.new("RGB", (40, 30)).save(tmp_path / "6.tif")
    (tmp_path / "a.csv").write_text(
        "image_path,xmin,ymin,xmax,ymax,label\n5.tif,1.4,2,9.6,8,Helicopter\n5.tif,3.1,3.1,3.4,9,small car\n"
    )
    with pytest.raises(UserError, match="xView has no class"):
        convert(tmp_path / "a.csv", tmp_path / "out", "xview", Reading(join=("ship=Helicopter",)))
    done = convert(tmp_path / "a.csv", tmp_path / "out", "xview")
    assert dict(done.lost.counts) == {xview.ROUNDED: 2}
    (record,), names, _ = read_boxes(tmp_path / "out")
    assert record.objects.boxes_xyxy.tolist() == [[1, 2, 10, 8], [3, 3, 4, 9]]
    assert [names[label] for label in record.objects.labels] == ["Helicopter", "Small Car"]
    report = xview.write(tmp_path / "b", [record.keep(record.objects.labels < 0)], names)
    assert dict(report.counts) == {xview.NO_FEATURE: 1}


def test_images_are_drawn_for_splits_that_are_not_on_disk(tmp_path: Path) -> None:
    """By their names and the seed: a larger part contains a smaller, and every image is in one."""
    boxes = [feature("1,2,11,12", 18, name) for name in ("5.tif", "40.tif", "100.tif")]
    root = saved(tmp_path, *boxes)

    def drawn(split: str, share: float, seed: int = 0) -> set[str]:
        shares = {"train": share, "val": 1 - share}
        data = BoxDataConfig(annotation=root, format="xview", split=split, random_split=shares, split_seed=seed)
        return {record.id for record in data.build(tmp_path / "kept").records}

    assert drawn("train", 2 / 3) | drawn("val", 2 / 3) == {"5.tif", "40.tif", "100.tif"}
    assert len(drawn("train", 2 / 3)) == 2
    assert drawn("train", 1 / 3) < drawn("train", 2 / 3)
    assert drawn("validation", 2 / 3) == drawn("val", 2 / 3)
    assert len({frozenset(drawn("val", 2 / 3, seed)) for seed in range(9)}) > 1
    with pytest.raises(UserError, match="no split 'test'"):
        drawn("test", 2 / 3)
    with pytest.raises(UserError, match="no fractions of one"):
        BoxDataConfig(annotation=root, random_split={"train": 1.5})

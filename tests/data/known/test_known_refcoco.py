"""RefCOCO in its public layout, and merged lines of it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.data.formats.format import Ask
from vistruct.data.known import detect, find_source
from vistruct.data.known.expression_rows import AMBIGUOUS
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

FIRST = "COCO_train2014_000000000001.jpg"


def public(root: Path, protocol: int = 0) -> Path:
    """Two images; the second is of the test split."""
    folder = root / "refcoco"
    folder.mkdir()
    (root / "train2014").mkdir()
    images = []
    for number in (1, 2):
        name = f"COCO_train2014_{number:012}.jpg"
        Image.new("RGB", (60, 48)).save(root / "train2014" / name)
        images.append({"id": number, "file_name": name, "width": 60, "height": 48})
    square = [5.0, 6.0, 15.0, 6.0, 15.0, 16.0, 5.0, 16.0]
    far = [20.0, 20.0, 28.0, 20.0, 28.0, 28.0, 20.0, 28.0]
    instances = {
        "images": images,
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 17, "bbox": [5, 6, 23, 22], "segmentation": [square, far]},
            {"id": 11, "image_id": 1, "category_id": 18, "bbox": [30, 3, 8, 9], "segmentation": [square]},
            {"id": 20, "image_id": 2, "category_id": 18, "bbox": [1, 1, 5, 5], "segmentation": [square]},
        ],
    }
    (folder / "instances.json").write_text(json.dumps(instances))

    def ref(number: int, image: int, split: str, *texts: str) -> dict:
        told = [
            {"tokens": text.split(), "raw": text.upper(), "sent_id": at, "sent": text} for at, text in enumerate(texts)
        ]
        return {"ref_id": number, "ann_id": number, "image_id": image, "split": split, "sentences": told}

    refs = [
        ref(10, 1, "train", "left cat", "the  striped one", "animal"),
        ref(11, 1, "train", "dog", "animal"),
        ref(20, 2, "testA", "only dog"),
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol))
    return folder


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_references_are_read_without_running_anything(tmp_path: Path, protocol: int) -> None:
    folder, report = public(tmp_path, protocol), IssueCounter()
    assert detect(folder) == detect(folder / "refs(unc).p") == ("refcoco",)
    source = find_source("refcoco")
    assert source.splits(folder) == ("testA", "train")
    (known,) = source.read(folder, Ask(split="train"), report)
    assert (known.image, known.size_hw) == (tmp_path / "train2014" / FIRST, (48, 60))
    np.testing.assert_array_equal(known.objects.boxes_xyxy, [[5, 6, 28, 28], [30, 3, 38, 12]])
    assert known.objects.extra["names"] == ("cat", "dog")
    assert len(known.objects.masks[0]) == 2  # both polygons
    assert [(one.text, one.rows) for one in known.expressions] == [
        ("left cat", (0,)),
        ("the striped one", (0,)),
        ("dog", (1,)),
    ]
    assert report.counts == {AMBIGUOUS: 2}  # "animal" is said of both


def test_a_split_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="split"):
        list(find_source("refcoco").read(public(tmp_path), Ask(), IssueCounter()))


def test_a_second_division_is_a_question(tmp_path: Path) -> None:
    folder = public(tmp_path)
    (folder / "refs(google).p").write_bytes((folder / "refs(unc).p").read_bytes())
    with pytest.raises(UserError, match="several divisions"):
        find_source("refcoco").splits(folder)


def test_lines_of_one_image_become_one(tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (60, 48)).save(tmp_path / f"{name}.jpg")
    rows = [
        {"img_path": "a.jpg", "expression": "left", "bbox": [3, 4, 20, 18], "height": 48, "width": 60},
        {"img_path": "a.jpg", "expression": "right", "bbox": [22, 9, 40, 70]},
        {"img_path": "a.jpg", "expression": "nowhere", "bbox": [70, 9, 80, 20]},
        {"img_path": "b.jpg", "expression": "wrong size", "bbox": [3, 4, 20, 18], "height": 60, "width": 48},
        {"img_path": "c.jpg", "expression": "not there", "bbox": [3, 4, 20, 18]},
        {"expression": "no image", "bbox": [3, 4, 20, 18]},
    ]
    path, report = tmp_path / "REC_ref3_train.jsonl", IssueCounter()
    path.write_text("\n".join(map(json.dumps, rows)))
    assert "refcoco" in detect(path)
    (known,) = find_source("refcoco").read(path, Ask(missing="drop"), report)
    assert [(one.text, one.rows) for one in known.expressions] == [("left", (0,)), ("right", (1,))]
    np.testing.assert_array_equal(known.objects.boxes_xyxy, [[3, 4, 20, 18], [22, 9, 40, 48]])  # clipped
    assert known.id == "a.jpg#1"
    assert sum(report.counts.values()) == 6, report.lines()

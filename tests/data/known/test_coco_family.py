"""Sets that are COCO json or pictures of ids: LVIS, COCO-ReM, ADE20k, key points of persons, Cityscapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masked_sets import GOLDEN, golden_turns, image, masks, read, write
from PIL import Image

from vistruct.data.formats.boxes import coco
from vistruct.data.formats.boxes.coco_walk import NO_POINTS
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.annotated import open_annotated
from vistruct.data.instructions.compose import conversations
from vistruct.data.instructions.converse import Tally
from vistruct.data.instructions.known import Known
from vistruct.data.known import detect, find_source, lvis
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE
from vistruct.errors import UserError
from vistruct.issues import IssueCounter


def coco_known(path: Path) -> tuple[list[Known], IssueCounter]:
    """What the COCO reader knows."""
    assert detect(path) == ()
    data = open_annotated(path, AS_FOUND, AS_THEY_ARE, None)
    return [data.known(record) for record in data.records], data.report


def groups(known: Known) -> list[list[int]]:
    """Rows by class, in the order of their first."""
    names = known.objects.extra["names"]
    return [[row for row, name in enumerate(names) if name == one] for one in dict.fromkeys(names)]


@pytest.mark.parametrize("case", ["coco_box", "coco_mask", "ade20k_instances"])
def test_coco_rem_and_ade20k_are_coco_json(tmp_path: Path, case: str) -> None:
    given = GOLDEN[case]["annotation"]
    for one in given["images"]:
        image(tmp_path / "images" / one["file_name"])
    (known,), report = coco_known(write(tmp_path / "annotations" / "instances_train.json", given))
    assert not report.counts
    ((text, golden),) = golden_turns(case, "gpt")
    assert groups(known) == golden
    words = dict.fromkeys(known.objects.extra["names"])
    assert text == ",".join(f"<Phrase>{word}</Phrase><>" for word in words) + "."
    target = GOLDEN[case]["target"]
    if case == "coco_box":
        np.testing.assert_array_equal(known.objects.boxes_xyxy, target["boxes"])
    else:
        assert masks(known) == target["masks"]
    assert known.class_names == ("dog", "cat", "sofa")
    assert known.is_complete


def test_results_of_images_without_numbers_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "ade.json", GOLDEN["ade20k_instances"]["annotation"])
    with pytest.raises(UserError, match="whole numbers"):
        coco.read_ids(path)


@pytest.mark.parametrize("case", ["coco_keypoints", "coco_keypoints_none"])
def test_persons_without_key_points_stay_as_boxes_and_are_counted(tmp_path: Path, case: str) -> None:
    given = json.loads(json.dumps(GOLDEN[case]["annotation"]))
    given["categories"][0]["keypoints"] = [str(number) for number in range(17)]
    image(tmp_path / "val2017" / "a.jpg")
    (known,), report = coco_known(write(tmp_path / "annotations" / "person_keypoints_val2017.json", given))
    assert report.counts == {NO_POINTS: 1}
    seen = [] if known.objects.keypoints is None else (known.objects.keypoints[..., 2] > 0).any(axis=1)
    target = GOLDEN[case]["target"]  # published: persons without key points are dropped
    assert known.objects.boxes_xyxy[np.flatnonzero(seen)].tolist() == target.get("boxes", [])
    if target:
        np.testing.assert_array_equal(known.objects.keypoints[np.flatnonzero(seen)], target["keypoints"])


def lvis_set(root: Path) -> Path:
    """Two images; of the second not every clock is annotated."""
    given: dict[str, Any] = json.loads(json.dumps(GOLDEN["coco_mask"]["annotation"]))
    images, annotations = [], []
    for number in (9, 10):
        image(root / "train2017" / f"{number:012}.jpg")
        images.append({
            "id": number, "coco_url": f"http://images.cocodataset.org/train2017/{number:012}.jpg", "width": 60,
            "height": 48, "neg_category_ids": [3, 99], "not_exhaustive_category_ids": [2] if number == 10 else [],
        })  # fmt: skip
        rows = [one for one in given["annotations"] if one["category_id"] != 3]
        annotations += [{**one, "id": 10 * number + one["id"], "image_id": number} for one in rows]
    names = ("dog", "alarm_clock", "sofa")
    categories = [{"id": id, "name": name} for id, name in enumerate(names, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return write(root / "annotations" / "lvis_v1_train.json", content)


def test_lvis_says_what_an_image_was_searched_for(tmp_path: Path) -> None:
    report = IssueCounter()
    first, second = read("lvis", lvis_set(tmp_path), report)
    assert first.objects.extra["names"] == ("alarm clock", "dog", "alarm clock")
    assert [one["pixels"] for one in masks(first)] == [141, 219, 147]
    assert (first.is_complete, first.class_names) == (True, ("alarm clock", "dog", "sofa"))
    assert not second.is_complete
    assert report.counts == {lvis.NOT_ALL: 1}
    (record,) = conversations(first, np.random.default_rng(0), Tally(), names=["caption-boxes"])
    assert record.turns[1].points == ((0, 2), (1,))  # both kinds, each with all of its objects
    assert not list(conversations(second, np.random.default_rng(0), Tally(), names=["caption-boxes"]))


def test_lvis_trains_detectors_as_coco_json_does(tmp_path: Path) -> None:
    path = lvis_set(tmp_path)
    data = open_annotated(path, AS_FOUND, AS_THEY_ARE, None)
    assert [record.id for record in data.records] == ["train2017/000000000009.jpg", "train2017/000000000010.jpg"]
    assert coco.read_ids(path) == ({record.id: id for record, id in zip(data.records, (9, 10), strict=True)}, (1, 2, 3))


def street(root: Path) -> Path:
    """One image of Cityscapes: a road, a group of cars, two cars, a caravan, and what is not measured."""
    name = "aachen_000000_000019"
    image(root / "leftImg8bit" / "train" / "aachen" / f"{name}_leftImg8bit.png")
    labels = np.full((48, 60), 7, np.uint8)
    labels[:10] = 4
    ids = labels.astype(np.int32)
    for number, (rows, columns) in {
        26: (slice(12, 20), slice(0, 9)), 26000: (slice(12, 20), slice(20, 26)), 26001: (slice(22, 30), slice(20, 26)),
        29000: (slice(32, 40), slice(3, 9)), 24000: (slice(32, 40), slice(30, 33)),
    }.items():  # fmt: skip
        ids[rows, columns], labels[rows, columns] = number, number // 1000 if number >= 1000 else number
    folder = root / "gtFine" / "train" / "aachen"
    folder.mkdir(parents=True)
    Image.fromarray(ids).save(folder / f"{name}_gtFine_instanceIds.png")
    Image.fromarray(labels).save(folder / f"{name}_gtFine_labelIds.png")
    (root / "gtFine" / "test" / "berlin").mkdir(parents=True)
    return root


def test_cityscapes_has_road_users_and_crowds(tmp_path: Path) -> None:
    (known,) = read("cityscapes", street(tmp_path))
    assert find_source("cityscapes").splits(tmp_path) == ("train",)
    assert known.id == "train/aachen/aachen_000000_000019_leftImg8bit.png"
    assert known.objects.extra["names"] == ("car", "person", "car", "car")
    np.testing.assert_array_equal(known.objects.is_crowd, [True, False, False, False])
    np.testing.assert_array_equal(known.objects.boxes_xyxy[1:], [[30, 32, 33, 40], [20, 12, 26, 20], [20, 22, 26, 30]])
    assert [one["pixels"] for one in masks(known)] == [72, 24, 48, 48]
    assert known.class_names == ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")


def test_cityscapes_has_areas_of_classes(tmp_path: Path) -> None:
    (known,) = find_source("cityscapes-semantic").read(street(tmp_path), Ask(), IssueCounter())
    assert known.objects.extra["names"] == ("road", "person", "car")
    whole = 48 * 60 - 10 * 60 - 72 - 2 * 48 - 48 - 24  # of which a caravan of 48 is not measured
    assert [one["pixels"] for one in masks(known)] == [whole, 24, 72 + 96]
    assert {one.text: one.rows for one in known.expressions}["car"] == (2,)
    assert {one.text: one.rows for one in known.expressions}["sky"] == ()
    assert len(known.expressions) == 19

"""Masks, key points and oriented boxes of COCO json, and the folders it lies in."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_sets import read_boxes, read_coco, walk_boxes
from PIL import Image
from pycocotools import mask as peer
from pycocotools.coco import COCO
from tables import assert_same

from vistruct.contracts import Objects, Record
from vistruct.data.formats.boxes import coco
from vistruct.data.formats.boxes.coco_shapes import (
    POINT_NOT_FINITE,
    POLYGON_NOT_FINITE,
    POLYGON_SHORT,
    mask_area,
    run_lengths,
)
from vistruct.data.formats.boxes.coco_walk import NO_MASK
from vistruct.data.formats.boxes.objects import CROSSED, NO_AREA, OUTSIDE
from vistruct.errors import UserError
from vistruct.files.masks import rasterise

HEIGHT, WIDTH = 30, 40
TRIANGLE = [3.5, 4, 30.25, 8, 12, 25]
TURNED = [20.0, 5, 30, 10, 25, 20, 15, 15]


def saved(folder: Path, *annotations: dict[str, Any], **more: Any) -> Path:
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.png")
    listed = [{"id": n, "image_id": 1, "category_id": 1} | one for n, one in enumerate(annotations, start=1)]
    content = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "ship"}]}
    (folder / "a.json").write_text(json.dumps(content | {"annotations": listed} | more))
    return folder / "a.json"


def packed(pixels: np.ndarray) -> dict[str, Any]:
    rle = peer.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


@pytest.mark.parametrize("seed", range(6))
def test_run_lengths_of_text_are_those_that_pycocotools_packed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.repeat(rng.random((37, 11)) < rng.random(), [1, 3, 700][seed % 3], axis=0)
    flat = pixels.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    expected = np.diff([0, *([0] if flat[0] else []), *edges, flat.size]).tolist()
    assert run_lengths(packed(pixels)["counts"]) == expected
    assert mask_area(packed(pixels)) == pixels.sum()


def test_a_polygon_with_whole_corners_has_the_area_that_its_formula_says() -> None:
    assert mask_area([[0, 0, 10, 0, 10, 4, 0, 4], [20, 20, 24, 20, 20, 23]]) == 40 + 6


def test_masks_are_kept_as_they_are_written_and_read_back_the_same(tmp_path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[3:9, 4:20] = True
    loose = {"size": [HEIGHT, WIDTH], "counts": run_lengths(packed(pixels)["counts"])}
    masks = [[TRIANGLE, [1, 1, 5, 1, 5, 9, 2, 9]], packed(pixels), loose]
    boxes = [[1, 1, 29, 24], [4, 3, 16, 6], [4, 3, 16, 6]]
    crowd = [0, 1, 0]
    path = saved(
        tmp_path,
        *({"segmentation": m, "bbox": b, "iscrowd": c} for m, b, c in zip(masks, boxes, crowd, strict=True)),
    )
    (record,), names, report = read_coco(path)
    assert record.objects.masks == tuple(masks)
    assert record.objects.quads is None
    assert not report.counts
    assert (rasterise(masks[1], (0, 0, WIDTH, HEIGHT)) == rasterise(masks[2], (0, 0, WIDTH, HEIGHT))).all()
    coco.write(tmp_path / "again.json", [record], names)
    (again,), _, report = read_coco(tmp_path / "again.json")
    assert_same(again.objects, record.objects)
    assert not report.counts
    written = json.loads((tmp_path / "again.json").read_text())["annotations"]
    assert written[1]["area"] == pixels.sum()


def test_run_lengths_as_bytes_are_written_as_text(tmp_path: Path) -> None:
    pixels = np.ones((HEIGHT, WIDTH), bool)
    rle = peer.encode(np.asfortranarray(pixels.astype(np.uint8)))
    (record,), names, _ = read_coco(saved(tmp_path, {"bbox": [0, 0, 9, 9], "segmentation": packed(pixels)}))
    record.objects.masks[0].update(rle)  # ty: ignore[not-subscriptable]
    coco.write(tmp_path / "b.json", [record], names)
    (again,), _, _ = read_coco(tmp_path / "b.json")
    assert again.objects.masks == (packed(pixels),)


def test_objects_of_one_hull_with_different_outlines_are_two(tmp_path: Path) -> None:
    halves = [[[0, 0, 10, 0, 0, 10]], [[10, 0, 10, 10, 0, 10]]]
    (record,), _, report = read_coco(
        saved(tmp_path, *({"bbox": [0, 0, 10, 10], "segmentation": half} for half in halves))
    )
    assert len(record.objects) == 2
    assert not report.counts


def test_broken_polygons_are_counted_and_the_others_of_their_mask_stay(tmp_path: Path) -> None:
    polygons = [TRIANGLE, [1, 1, 2, 2], [1, 1, float("nan"), 2, 5, 6]]
    box = {"bbox": [1, 1, 29, 24]}
    path = saved(tmp_path, box | {"segmentation": polygons}, {"bbox": [5, 5, 9, 9], "segmentation": []})
    (record,), _, report = read_coco(path)
    assert record.objects.masks == ([TRIANGLE], [])
    assert dict(report.counts) == {POLYGON_SHORT: 1, POLYGON_NOT_FINITE: 1, NO_MASK: 1}
    assert report.examples[POLYGON_SHORT] == ["a.png: annotation 1"]


def test_a_data_set_without_any_mask_has_none(tmp_path: Path) -> None:
    (record,), _, report = read_coco(saved(tmp_path, {"bbox": [1, 1, 5, 5], "segmentation": []}))
    assert record.objects.masks is None
    assert not report.counts


BROKEN = [
    ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "a polygon is"),
    ({"segmentation": [["1", 2, 3, 4, 5, 6]]}, "a polygon is"),
    ({"segmentation": [1, 2, 3, 4, 5, 6]}, "a polygon is"),
    ({"segmentation": "polygon"}, "list of polygons"),
    ({"segmentation": {"counts": [1200]}}, "have size and counts"),
    ({"segmentation": {"size": [40, 30], "counts": [1200]}}, r"30, 40.*40, 30"),
    ({"segmentation": {"size": [30, 40], "counts": [1100]}}, "do not add up"),
    ({"segmentation": {"size": [30, 40], "counts": [1200.5]}}, "whole numbers"),
    ({"segmentation": {"size": [30, 40], "counts": "zz~"}}, "do not add up"),
    ({"segmentation": {"size": [30, 40], "counts": "0"}}, "do not add up"),
    ({"keypoints": [1, 2]}, "visibility"),
    ({"keypoints": [1, 2, 7]}, "visibility"),
    ({"keypoints": [1, 2, 2, 3, 3, 2]}, "key points than their category has"),
    ({"iscrowd": "no"}, "0 or 1"),
]


@pytest.mark.parametrize(("change", "words"), BROKEN)
def test_a_shape_that_cannot_be_understood_stops_with_its_place(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    categories = [{"id": 1, "name": "ship", "keypoints": ["bow"]}]
    path = saved(tmp_path, {"bbox": [1, 1, 5, 5]}, {"bbox": [2, 2, 5, 5]} | change, categories=categories)
    with pytest.raises(UserError, match=words) as caught:
        read_coco(path)
    assert caught.value.where.startswith(f"{path}, annotation 2: ")
    assert not re.search(r"\d{2}", caught.value.what)  # what is the same for all of a kind
    errors: list[UserError] = []
    (record,), _ = walk_boxes(path, "coco", errors.append)
    assert len(errors) == len(record.objects) == 1  # the other one is still read


def test_key_points_read_back_the_same_and_bad_ones_are_counted(tmp_path: Path) -> None:
    first = {"bbox": [1, 1, 9, 9], "keypoints": [1.5, 2, 2, 3, 4, 1], "num_keypoints": 2}
    second = {"bbox": [2, 2, 9, 9], "keypoints": [float("nan"), 2, 2, 0, 0, 0]}
    (record,), names, report = read_coco(saved(tmp_path, first, second, {"bbox": [3, 3, 9, 9]}))
    assert record.objects.keypoints is not None
    expected = [[[1.5, 2, 2], [3, 4, 1]], [[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    np.testing.assert_array_equal(record.objects.keypoints, np.array(expected, np.float32))
    assert dict(report.counts) == {POINT_NOT_FINITE: 1}
    coco.write(tmp_path / "b.json", [record], names)
    (again,), _, _ = read_coco(tmp_path / "b.json")
    assert_same(again.objects, record.objects)
    written = json.loads((tmp_path / "b.json").read_text())["annotations"]
    assert [one["num_keypoints"] for one in written] == [2, 0, 0]


def test_single_polygons_of_four_corners_are_oriented_boxes_and_masks(tmp_path: Path) -> None:
    shape = {"bbox": [15, 5, 15, 15], "segmentation": [TURNED]}
    (record,), _, report = read_coco(saved(tmp_path, shape))
    np.testing.assert_array_equal(record.objects.quads, np.array(TURNED, np.float32).reshape(1, 4, 2))
    np.testing.assert_array_equal(record.objects.boxes_xyxy, [[15, 5, 30, 20]])
    assert record.objects.masks == ([TURNED],)
    assert not report.counts


@pytest.mark.parametrize(
    "other",
    [
        {"bbox": [1, 1, 9, 9], "segmentation": [TRIANGLE]},
        {"bbox": [1, 1, 9, 9], "segmentation": [TURNED, TRIANGLE]},
        {"bbox": [1, 1, 9, 9], "segmentation": []},
        {"bbox": [1, 1, 9, 9]},
    ],
)
def test_one_object_of_another_shape_and_nothing_is_oriented(tmp_path: Path, other: dict[str, Any]) -> None:
    (record,), _, _ = read_coco(saved(tmp_path, {"bbox": [15, 5, 15, 15], "segmentation": [TURNED]}, other))
    assert record.objects.quads is None
    assert record.objects.masks is not None


def test_upright_rectangles_alone_are_masks_and_no_oriented_boxes(tmp_path: Path) -> None:
    (record,), _, _ = read_coco(saved(tmp_path, {"bbox": [1, 1, 4, 5], "segmentation": [[1, 1, 5, 1, 5, 6, 1, 6]]}))
    assert record.objects.quads is None


@pytest.mark.parametrize("degrees", [0, 30, -75, 90, 200])
def test_a_bbox_of_five_numbers_turns_counter_clockwise_on_screen(tmp_path: Path, degrees: float) -> None:
    (record,), _, _ = read_coco(saved(tmp_path, {"bbox": [20, 15, 10, 4, degrees]}))
    assert record.objects.quads is not None
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # the middle of the right side: up (smaller y) where the angle is positive
    middle = (record.objects.quads[0, 1] + record.objects.quads[0, 2]) / 2
    np.testing.assert_allclose(middle, [20 + 5 * cos, 15 - 5 * sin], atol=1e-5)
    sides = np.linalg.norm(record.objects.quads[0] - np.roll(record.objects.quads[0], -1, axis=0), axis=1)
    np.testing.assert_allclose(sides, [10, 4, 10, 4], rtol=1e-5)


def test_boxes_of_four_and_of_five_numbers_do_not_mix(tmp_path: Path) -> None:
    path = saved(tmp_path, {"bbox": [20, 15, 10, 4, 30]}, {"bbox": [1, 1, 5, 5]})
    with pytest.raises(UserError, match="degrees") as caught:
        read_coco(path)
    assert ", annotation 2: " in caught.value.where


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("upright", [False, True])
def test_oriented_boxes_read_back_the_same(tmp_path: Path, masks: bool, upright: bool) -> None:
    quads = np.array([[1, 1, 6, 1, 6, 4, 1, 4], [10, 10, 16, 10, 16, 14, 10, 14] if upright else TURNED], np.float32)
    hulls = [np.concatenate([q.reshape(4, 2).min(0), q.reshape(4, 2).max(0)]) for q in quads]
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    record = Record(
        id="a.png",
        images=(tmp_path / "a.png",),
        size_hw=(HEIGHT, WIDTH),
        objects=Objects(
            boxes_xyxy=np.array(hulls, np.float32),
            labels=np.array([0, 0]),
            is_crowd=np.array([False, True]),
            is_difficult=np.array([True, False]),
            quads=quads.reshape(-1, 4, 2),
            masks=([TRIANGLE], [TURNED]) if masks else None,
        ),
    )
    coco.write(tmp_path / "a.json", [record], ["ship"])
    (again,), _, report = read_coco(tmp_path / "a.json")
    assert_same(again.objects, record.objects)
    assert not report.counts
    COCO(str(tmp_path / "a.json"))


def test_faults_of_oriented_boxes_are_counted_and_crossed_sides_mended(tmp_path: Path) -> None:
    crossed = [20.0, 5, 25, 20, 30, 10, 15, 15]  # the second and third corner swapped
    cut = [-5.0, -5, 5, 5, 0, 10, -10, 0]
    away = [50.0, 5, 60, 10, 55, 20, 45, 15]
    flat = [1.0, 1, 5, 5, 9, 9, 3, 3]
    shapes = [TURNED, crossed, cut, away, flat]
    path = saved(tmp_path, *({"bbox": [0, 0, 1, 1], "quad": quad} for quad in shapes))
    (record,), _, report = read_coco(path)
    assert record.objects.quads is not None
    assert dict(report.counts) == {CROSSED: 1, OUTSIDE: 1, NO_AREA: 1}
    np.testing.assert_array_equal(record.objects.quads[0], record.objects.quads[1])
    np.testing.assert_array_equal(record.objects.quads[2].ravel(), cut)  # as it was drawn
    np.testing.assert_array_equal(record.objects.boxes_xyxy[2], [-10, -5, 5, 10])


def layout(root: Path, annotations: dict[str, str], images: dict[str, str]) -> None:
    """Json files, each with one image, by path: what image it lists; and the images."""
    for place, name in annotations.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        content = {"images": [{"id": 1, "file_name": name}], "categories": [{"id": 1, "name": "x"}], "annotations": []}
        (root / place).write_text(json.dumps(content))
    for place in images.values():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / place)


LAYOUTS = {
    "coco": (
        {"annotations/instances_train2017.json": "1.png", "annotations/instances_val2017.json": "2.png"},
        {"train": "train2017/1.png", "val": "val2017/2.png"},
    ),
    "sardet": (
        {"Annotations/train.json": "1.png", "Annotations/val.json": "2.png"},
        {"train": "JPEGImages/train/1.png", "val": "JPEGImages/val/2.png"},
    ),
    "ssdd": (
        {"annotations/train.json": "1.png", "annotations/test.json": "2.png"},
        {"train": "images/train/1.png", "test": "images/test/2.png"},
    ),
    "flat": ({"train.json": "1.png", "val.json": "2.png"}, {"train": "images/1.png", "val": "images/2.png"}),
    "export": (
        {"train/_annotations.coco.json": "1.png", "valid/_annotations.coco.json": "2.png"},
        {"train": "train/1.png", "valid": "valid/2.png"},
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_and_images_of_a_split_are_found_where_they_are_published(tmp_path: Path, name: str) -> None:
    annotations, images = LAYOUTS[name]
    layout(tmp_path, annotations, images)
    assert coco.looks_like(tmp_path)
    for split, image in images.items():
        (record,), _, _ = read_coco(tmp_path, split=split)
        assert record.images == (tmp_path / image,)
    with pytest.raises(UserError, match="several annotation files") as caught:
        read_coco(tmp_path)
    assert "--split" in caught.value.fix
    with pytest.raises(UserError, match="no split 'nowhere'"):
        read_coco(tmp_path, split="nowhere")
    both = "+".join(images)
    assert [record.images[0] for record in read_coco(tmp_path, split=both)[0]] == [
        tmp_path / image for image in images.values()
    ]


def test_other_json_files_of_coco_are_no_data_sets_of_boxes(tmp_path: Path) -> None:
    layout(tmp_path, {"annotations/instances_val2017.json": "1.png"}, {"val": "val2017/1.png"})
    (tmp_path / "annotations" / "found.json").write_text('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    assert len(read_coco(tmp_path)[0]) == 1


def test_key_point_files_stand_back_behind_instances(tmp_path: Path) -> None:
    names = {f"annotations/{kind}_val2017.json": "1.png" for kind in ("instances", "person_keypoints")}
    layout(tmp_path, names, {"val": "val2017/1.png"})
    assert len(read_coco(tmp_path, split="val")[0]) == 1


def test_a_file_is_the_split_that_its_name_says_and_no_other(tmp_path: Path) -> None:
    layout(tmp_path, {"annotations/instances_val2017.json": "1.png"}, {"val": "val2017/1.png"})
    file = tmp_path / "annotations" / "instances_val2017.json"
    assert len(read_coco(file, split="val")[0]) == 1
    with pytest.raises(UserError, match="not split 'train'"):
        read_coco(file, split="train")


def test_splits_of_different_categories_are_not_joined(tmp_path: Path) -> None:
    layout(tmp_path, {"train.json": "1.png", "val.json": "2.png"}, {"train": "1.png", "val": "2.png"})
    content = json.loads((tmp_path / "val.json").read_text())
    content["categories"][0]["name"] = "y"
    (tmp_path / "val.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="different categories"):
        read_coco(tmp_path, split="train+val")


VALUES = [None, True, -1, 0, 1.5, 10**400, float("nan"), "", "x", [], [1], [[1, 2, 3, 4]], {}, {"counts": 3}]
KEYS = ["id", "image_id", "category_id", "bbox", "segmentation", "keypoints", "iscrowd", "ignore", "quad", "name"]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_an_entry_says_only_user_errors_come_out(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = {"bbox": [1, 1, 9, 9], "segmentation": [TURNED], "keypoints": [1, 2, 2], "iscrowd": 0}
    path = saved(tmp_path, whole, whole)
    good = json.loads(path.read_text())
    for _ in range(60):
        content = json.loads(json.dumps(good))
        part = ["annotations", "images", "categories"][rng.choice(3, p=[0.6, 0.2, 0.2])]
        key = KEYS[rng.integers(len(KEYS))]
        content[part][0][key] = VALUES[rng.integers(len(VALUES))]
        if rng.random() < 0.2:
            content["info"] = VALUES[rng.integers(len(VALUES))]
        path.write_text(json.dumps(content))
        errors: list[UserError] = []
        records, _ = walk_boxes(path, "coco", errors.append)
        assert all(np.isfinite(record.objects.boxes_xyxy).all() for record in records)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' * 100_000, '{"images": 1' + "0" * 5000 + "}"])
def test_json_made_to_hurt_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError):
        read_coco(tmp_path / "a.json")


def rotated_box(degrees: object, **more: Any) -> dict[str, Any]:
    return {"bbox": [10, 8, 12, 6], "segmentation": [], "attributes": {"occluded": False, "rotation": degrees}} | more


@pytest.mark.parametrize("degrees", [30.0, 300, "90.0"])
def test_the_rotation_of_an_annotation_tool_turns_its_box_clockwise(tmp_path: Path, degrees: object) -> None:
    upright = rotated_box(0.0, bbox=[1, 2, 3, 4])
    (record,), _, report = read_coco(saved(tmp_path, rotated_box(degrees), upright))
    angle = math.radians(float(str(degrees)))
    corners = [(-6, -3), (6, -3), (6, 3), (-6, 3)]
    by_hand = [(16 + x * math.cos(angle) - y * math.sin(angle), 11 + x * math.sin(angle) + y * math.cos(angle))
               for x, y in corners]  # fmt: skip
    assert record.objects.quads is not None
    np.testing.assert_allclose(record.objects.quads[0], by_hand, atol=1e-4)
    np.testing.assert_allclose(record.objects.quads[1], [[1, 2], [4, 2], [4, 6], [1, 6]], atol=1e-6)
    assert (record.objects.masks, dict(report.counts)) == (None, {})


def test_rotations_of_nothing_and_rotations_that_mean_nothing_leave_boxes_upright(tmp_path: Path) -> None:
    (record,), _, _ = read_coco(saved(tmp_path, rotated_box(0.0)))
    assert record.objects.quads is None
    (record,), _, _ = read_boxes(saved(tmp_path, rotated_box(30)), format="coco-upright")
    assert record.objects.quads is None


def test_an_outline_beside_a_rotation_is_its_box_before_or_after_the_turn(tmp_path: Path) -> None:
    before = rotated_box(90, segmentation=[[10, 8, 22, 8, 22, 14, 10, 14]])
    after = rotated_box(90, segmentation=[[19, 5, 19, 17, 13, 17, 13, 5]])
    turned = [[19, 5], [19, 17], [13, 17], [13, 5]]
    for one in (before, after):
        (record,), _, _ = read_coco(saved(tmp_path, one, rotated_box(0, bbox=[1, 1, 3, 3])))
        assert record.objects.quads is not None
        np.testing.assert_allclose(record.objects.quads[0], turned, atol=1e-4)
        assert not any(record.objects.masks or ()) or one is after  # a mask that is not turned would be wrong
    with pytest.raises(UserError, match="one of them is wrong"):
        read_coco(saved(tmp_path, rotated_box(30, segmentation=[[10, 8, 22, 8, 16, 14]])))


@pytest.mark.parametrize("more", [{"angle": 30}, {"rotation": 30.5}, {"attributes": {"theta": 0.4}}])
def test_an_angle_under_another_name_is_a_question(tmp_path: Path, more: dict[str, Any]) -> None:
    path = saved(tmp_path, {"bbox": [10, 8, 12, 6]} | more)
    with pytest.raises(UserError, match=r"nothing says how to read(.|\n)*--format coco-upright"):
        read_coco(path)
    assert len(read_boxes(path, format="coco-upright")[0]) == 1


def test_five_numbers_that_look_like_radians_are_a_question_and_every_answer_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path, {"bbox": [20, 15, 10, 4, math.pi / 6]}, {"bbox": [10, 15, 10, 4, 0.0]})
    with pytest.raises(UserError, match=r"look like radians(.|\n)*--format coco-radians, coco-radians-cw"):
        read_coco(path)
    clockwise = {"coco-radians": -1.0, "coco-radians-cw": 1.0, "coco-degrees": -math.pi / 180,
                 "coco-degrees-cw": math.pi / 180}  # fmt: skip
    for name, factor in clockwise.items():
        (record,), _, _ = read_boxes(path, format=name)
        assert record.objects.quads is not None
        side = record.objects.quads[0, 1] - record.objects.quads[0, 0]
        np.testing.assert_allclose(math.atan2(side[1], side[0]), factor * math.pi / 6, atol=1e-5)


def test_boxes_of_five_numbers_that_are_all_upright_are_no_question(tmp_path: Path) -> None:
    assert len(read_coco(saved(tmp_path, {"bbox": [20, 15, 10, 4, 0]}))[0]) == 1

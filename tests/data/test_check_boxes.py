"""`check` on boxes of every format: each kind of trouble by its place, and what training does about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from box_sets import BoxSet, make_dior, make_dota, make_fair1m, make_hrsc, make_sardet, make_ssdd, make_voc
from PIL import Image
from tables import with_objects

from vistruct.contracts import Record
from vistruct.data.boxes import NOT_LEARNED, BoxDataConfig
from vistruct.data.checks.boxes import _pairs
from vistruct.data.checks.check import CheckResult, check
from vistruct.data.formats.boxes import coco, dota
from vistruct.data.formats.boxes.objects import CROSSED, DUPLICATE, NO_AREA, OUTSIDE
from vistruct.data.reading import Reading
from vistruct.errors import UserError

HEIGHT, WIDTH = 60, 80
SAME_TWO, SAME_ONE = "the same box with two classes", "the same box drawn twice"
THIN, CUT = "object thinner than one pixel", "oriented box over the border of its image, as annotated"
THREE, ALIKE = (
    "oriented box of three corners, two being at one place",
    "classes that differ in capitals, spaces or hyphens only",
)
SIZE = "object of implausible size for its class"


def effects(result: CheckResult) -> dict[str, tuple[str, int]]:
    return {problem.what: (problem.effect, problem.count) for problem in result.problems}


def places(result: CheckResult, what: str) -> tuple[str, ...]:
    return next(problem.places for problem in result.problems if problem.what == what)


MAKERS: dict[str, tuple[Callable[[Path], BoxSet], str]] = {
    "dota": (make_dota, "dota"),
    "voc": (make_voc, "voc"),
    "dior": (make_dior, "dior"),
    "fair1m": (make_fair1m, "fair1m"),
    "hrsc": (make_hrsc, "hrsc"),
    "ssdd": (make_ssdd, "voc"),
    "sardet": (make_sardet, "coco"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_clean_data_set_of_any_format_is_clean_and_counted(tmp_path: Path, name: str) -> None:
    make, format_ = MAKERS[name]
    made = make(tmp_path)
    split = next(iter(made.truth))
    result = check(tmp_path, split=split)
    assert result.ok, str(result)
    assert not [problem for problem in result.problems if problem.effect != "kept"]
    assert (result.format, result.splits, result.counts["images"]) == (format_, (split,), len(made.truth[split]))
    assert result.counts["objects"] == sum(map(len, made.truth[split].values())) == sum(result.classes.values())
    assert f"format                 {format_}" in str(result)


def test_without_a_split_all_of_them_are_looked_at(tmp_path: Path) -> None:
    made = make_dota(tmp_path)
    result = check(tmp_path)
    assert result.ok
    assert result.splits == ("train", "val")
    assert result.counts["images"] == 6
    assert result.counts["objects"] == sum(len(one) for split in made.truth.values() for one in split.values())
    assert "splits                 train, val" in str(result)


def test_classes_of_several_splits_are_put_together_by_name(tmp_path: Path) -> None:
    make_dota(tmp_path, ("ship", "plane"))
    (tmp_path / "val" / "labelTxt" / "P0001.txt").write_text("10 10 30 10 30 20 10 20 boat 0\n")
    result = check(tmp_path)
    counts = {"ship": 1, "plane": 2, "boat": 1}
    assert result.classes == counts


def test_an_image_in_two_splits_is_told(tmp_path: Path) -> None:
    make_voc(tmp_path)
    lists = tmp_path / "ImageSets" / "Main"
    lists.joinpath("trainval.txt").write_text(
        lists.joinpath("train.txt").read_text() + lists.joinpath("val.txt").read_text()
    )
    assert not [problem for problem in check(tmp_path).problems if "second split" in problem.what]
    lists.joinpath("val.txt").write_text("000004\n000001\n")
    result = check(tmp_path)
    (told,) = [problem for problem in result.problems if "second split" in problem.what]
    assert (told.effect, told.count) == ("kept", 1)
    assert "000001.jpg (val)" in told.places[0]
    assert result.counts["images"] == 4


def dota_set(root: Path, *lines: str) -> Path:
    (root / "images").mkdir()
    (root / "labelTxt").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "a.png")
    (root / "labelTxt" / "a.txt").write_text("\n".join(lines) + "\n")
    return root


def test_every_fault_of_a_text_file_is_found_in_one_go_with_file_and_line(tmp_path: Path) -> None:
    root = dota_set(
        tmp_path,
        "10 10 30 10 30 20 10 20 ship 0",
        "10 10 30 10 30 20 10 20 ship 0",
        "10 30 30 45 30 30 10 45 ship 0",
        "5 5 5 5 5 5 5 5 ship 0",
        "100 100 110 100 110 110 100 110 ship 0",
        "1 2 3",
        "10 10 30 10 30 20 10 x ship 0",
        "-5 30 10 30 10 40 -5 40 ship 0",
        "40 30 60 30 60 40 60 40 ship 0",
        "10 10 30 10 30 20.1 10 20.1 Ship 0",
        "50 50 50.4 50 50.4 59 50 59 ship 0",
    )
    result = check(root)
    expected = {
        DUPLICATE: ("left out", 1),
        CROSSED: ("repaired", 1),
        NO_AREA: ("left out", 1),
        OUTSIDE: ("left out", 1),
        CUT: ("kept", 1),
        THREE: ("kept", 1),
        SAME_TWO: ("kept", 1),
        THIN: ("kept", 1),
        ALIKE: ("kept", 1),
    }
    assert expected.items() <= effects(result).items()
    file = root / "labelTxt" / "a.txt"
    assert places(result, DUPLICATE) == (f"{file}, line 2",)
    assert places(result, CROSSED) == (f"{file}, line 3",)
    assert places(result, OUTSIDE) == (f"{file}, line 5",)
    assert "Ship and ship" in places(result, SAME_TWO)[0] or "ship and Ship" in places(result, SAME_TWO)[0]
    stops = [place for problem in result.problems if problem.effect == "stops training" for place in problem.places]
    assert stops == [f"{file}, line 6", f"{file}, line 7"]


def test_check_and_training_agree_on_a_folder(tmp_path: Path) -> None:
    lines = ["10 10 30 10 30 20 10 20 ship 0"] * 2 + ["1 2 3"]
    root = dota_set(tmp_path, *lines)
    assert not check(root).ok
    with pytest.raises(UserError) as caught:
        BoxDataConfig(annotation=root).build()
    assert caught.value.where.endswith("line 3")
    (root / "labelTxt" / "a.txt").write_text("\n".join(lines[:2]))
    result = check(root)
    assert result.ok
    info = BoxDataConfig(annotation=root).build().info
    assert dict(info.counts) == result.classes
    left_out = {problem.what: problem.count for problem in result.problems if problem.effect == "left out"}
    assert dict(info.dropped) == left_out == {DUPLICATE: 1}


def test_all_places_are_kept_and_shown_when_asked_for(tmp_path: Path) -> None:
    root = dota_set(tmp_path, *["10 10 30 10 30 20 10 20 ship 0"] * 9)
    result = check(root)
    assert len(places(result, DUPLICATE)) == 8
    assert str(result).count("a.txt, line") == 3
    assert "and 5 more (--json has all)" in str(result)
    assert result.text(99).count("a.txt, line") == 8
    assert len(json.loads(json.dumps(result.to_dict()))["problems"][0]["places"]) == 8


def written(root: Path, boxes: np.ndarray, labels: np.ndarray, names: list[str], **more: object) -> Path:
    Image.new("1", (4000, 3000)).save(root / "a.png")
    values = with_objects({"boxes_xyxy": boxes.astype(np.float32), "labels": labels, **more})
    coco.write(root / "a.json", [Record(id="a.png", images=(), size_hw=(3000, 4000), **values)], names)
    return root / "a.json"


def test_sizes_far_from_those_of_their_class_are_doubted_and_others_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    low, side = rng.uniform(0, 900, (60, 2)), np.exp(rng.normal(3, 0.5, (60, 2)))
    boxes = np.concatenate([low, low + side], axis=1)
    boxes[7] = [0, 0, 4000, 3000]
    boxes[40, 2:] = boxes[40, :2] + 0.05
    path = written(tmp_path, boxes, np.arange(60) % 2, ["car", "ship"])
    result = check(path, decode_at_most=0)
    assert effects(result)[SIZE] == ("kept", 2)
    assert "object 7 at 0, 0 to 4000, 3000: ship" in places(result, SIZE)[0]


def test_a_class_of_few_objects_has_no_usual_size(tmp_path: Path) -> None:
    boxes = np.array([[0, 0, 4000, 3000], [10, 10, 12, 12]])
    assert SIZE not in effects(check(written(tmp_path, boxes, np.zeros(2, np.int64), ["x"]), decode_at_most=0))


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_a_box_drawn_twice_is_found_whichever_its_class(tmp_path: Path, shift: float) -> None:
    boxes = np.array(
        [[10, 10, 60, 60], [200, 10, 290, 60], [10 + shift, 10, 60, 60 - shift], [200 + shift, 10, 290, 60]]
    )
    labels = np.array([0, 1, 1, 1])
    result = check(written(tmp_path, boxes, labels, ["car", "ship"]), decode_at_most=0)
    found = effects(result)
    assert found[SAME_TWO] == ("kept", 1)
    assert "car and ship" in places(result, SAME_TWO)[0]
    assert (found[SAME_ONE] if shift else found[DUPLICATE])[1] == 1


def test_small_neighbours_and_crowds_are_no_repeats(tmp_path: Path) -> None:
    boxes = np.array([[10, 10, 14, 14], [10.5, 10, 14.5, 14], [100, 100, 300, 300], [100, 100, 300, 300]])
    labels, crowd = np.array([0, 1, 0, 1]), np.array([False, False, False, True])
    result = check(written(tmp_path, boxes, labels, ["car", "ship"], is_crowd=crowd), decode_at_most=0)
    assert not {SAME_ONE, SAME_TWO} & set(effects(result))


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_those_that_comparing_everything_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 300, (120, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 90, (120, 2))], axis=1)
    boxes = np.concatenate([boxes, boxes[:40] + rng.uniform(-1.2, 1.2, (40, 4))])
    tolerance = np.minimum(1, 0.02 * (boxes[:, 2:] - boxes[:, :2]).min(axis=1))
    expected = set()
    for one in range(160):
        for other in range(one + 1, 160):
            first = one if boxes[one, 0] <= boxes[other, 0] else other
            if np.abs(boxes[one] - boxes[other]).max() <= tolerance[first]:
                expected.add((one, other))
    assert set(_pairs(boxes, None)) == expected
    assert expected


def test_quads_of_one_hull_that_lean_apart_are_two_objects() -> None:
    quads = np.array([[[0, 10], [10, 0], [30, 20], [20, 30]], [[30, 10], [20, 0], [0, 20], [10, 30]]], float)
    boxes = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
    np.testing.assert_array_equal(boxes[0], boxes[1])
    assert list(_pairs(boxes, None)) == [(0, 1)]
    assert list(_pairs(boxes, quads)) == []
    turned = np.stack([quads[0], np.roll(quads[0], 1, axis=0), quads[0][::-1]])
    assert len(list(_pairs(boxes[[0, 0, 0]], turned))) == 3  # whichever corner comes first


def test_no_objects_are_no_pairs() -> None:
    assert list(_pairs(np.zeros((0, 4)), None)) == []
    assert list(_pairs(np.zeros((1, 4)), None)) == []


def test_masks_key_points_and_oriented_boxes_are_counted(tmp_path: Path) -> None:
    boxes = np.array([[10, 10, 60, 60]])
    quads = np.array([[[10, 20], [20, 10], [60, 50], [50, 60]]], np.float32)
    result = check(
        written(
            tmp_path,
            boxes,
            np.zeros(1, np.int64),
            ["x"],
            quads=quads,
            masks=([[1, 1, 9, 1, 9, 9]],),
            keypoints=np.ones((1, 2, 3), np.float32),
            is_difficult=np.ones(1, bool),
        ),
        decode_at_most=0,
    )
    wanted = ("objects", "oriented boxes", "masks", "objects with key points", "difficult objects")
    assert [result.counts[name] for name in wanted] == [1] * 5


def test_images_without_labels_are_named(tmp_path: Path) -> None:
    root = dota_set(tmp_path, "10 10 30 10 30 20 10 20 ship 0")
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "new.png")
    (root / "labelTxt" / "gone.txt").write_text("10 10 30 10 30 20 10 20 ship 0\n")
    result = check(root)
    words = str(result)
    assert "new.png" in words
    assert "gone.txt" in words
    assert not result.ok


def test_the_format_can_be_named(tmp_path: Path) -> None:
    make_hrsc(tmp_path)
    result = check(tmp_path, Reading(format="hrsc_classes"), split="test")
    assert result.format == "hrsc_classes"
    assert result.counts["classes"] > 1
    assert dota.looks_like(tmp_path) is False


@pytest.mark.parametrize("text", ["names: [a\n", "names: [a]\ntrain: nowhere\n", ""])
def test_a_broken_yaml_is_a_problem_and_no_exception(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    result = check(tmp_path / "data.yaml")
    assert not result.ok
    assert result.format == "yolo"
    assert str(tmp_path) in result.problems[0].places[0]


def crowds(root: Path, is_crowd: list[bool], masks: tuple[object, ...] | None = None) -> Path:
    boxes = np.array([[2, 2, 12, 12], [20, 20, 34, 30], [40, 4, 52, 18]], np.float32)
    more = {} if masks is None else {"masks": masks}
    return written(root, boxes, np.array([0, 1, 1]), ["oak", "pine"], is_crowd=np.array(is_crowd), **more)


def test_a_class_of_crowds_alone_is_named_before_training(tmp_path: Path) -> None:
    path = crowds(tmp_path, [False, True, True])
    result = check(path)
    assert (result.ok, places(result, NOT_LEARNED)) == (True, ("pine",))
    dataset = BoxDataConfig(annotation=path).build()
    assert (dataset.report.counts[NOT_LEARNED], dataset.report.examples[NOT_LEARNED]) == (1, ["pine"])


def test_crowds_alone_stop_training_and_check_says_so(tmp_path: Path) -> None:
    path = crowds(tmp_path, [True, True, True])
    assert not check(path).ok
    with pytest.raises(UserError, match="no object to learn from"):
        BoxDataConfig(annotation=path).build()


def test_masks_that_nobody_drew_stop_before_the_first_image(tmp_path: Path) -> None:
    path = crowds(tmp_path, [False, False, False])
    with pytest.raises(UserError, match=r"these annotations have none(.|\n)*--head faster_rcnn"):
        BoxDataConfig(annotation=path, masks=True).build()


def test_a_class_that_train_does_not_have_is_named(tmp_path: Path) -> None:
    for split, name in {"train": "ship", "val": "plane"}.items():
        (tmp_path / split).mkdir()
        dota_set(tmp_path / split, f"10 10 30 10 30 20 10 20 {name} 0")
    what = "class with objects in another split and none in train: measuring on that split stops"
    result = check(tmp_path)
    assert places(result, what) == ("plane (val)",)
    assert "--classes ship" in next(problem.fix for problem in result.problems if problem.what == what)
    assert what not in effects(check(tmp_path, split="val"))

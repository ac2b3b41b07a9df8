"""Instructions that point, written as a file: from any annotations, in a stream, checked, and moved as a control."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.contracts import Objects, Record
from vistruct.data.checks.check import check
from vistruct.data.formats.boxes import coco
from vistruct.data.formats.chat.objects import NAMES
from vistruct.data.instructions.annotated import areas, cut
from vistruct.data.instructions.control import scaled, shuffle_answers, write_control
from vistruct.data.instructions.known import Known
from vistruct.data.instructions.point import Picture, Pointed, write_lines, write_pointing
from vistruct.data.instructions.tasks import TASKS
from vistruct.errors import UserError
from vistruct.files.masks import decode_rle, rasterise

BOXES = np.array([[5, 5, 25, 35], [60, 10, 90, 50], [30, 40, 55, 58]], np.float32)


def triangle(box: np.ndarray) -> list[list[float]]:
    x0, y0, x1, y1 = map(float, box)
    return [[x0, y0, x1, y0, x0, y1]]


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """A COCO json of three images with two classes and masks; the third image is empty."""
    folder = tmp_path / "data"
    folder.mkdir()
    records = []
    for number, size in enumerate([(100, 60), (200, 120), (100, 60)]):
        Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(folder / f"{number}.png")
        rows = slice(0, 0 if number == 2 else 3)
        boxes = BOXES[rows] * (2 if number == 1 else 1)
        objects = Objects(
            labels=np.array([0, 1, 0])[rows], boxes_xyxy=boxes, masks=tuple(triangle(box) for box in boxes)
        )
        place = folder / f"{number}.png"
        records.append(
            Record(id=place.name, image_id=place.name, images=(place,), size_hw=(size[1], size[0]), objects=objects)
        )
    path = folder / "all.json"
    coco.write(path, records, ("tree", "car"))
    return path


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_seed_writes_the_same_bytes_and_the_summary_counts_them(annotated, tmp_path):
    one = write_pointing(annotated, tmp_path / "a", per_image=3, turns=5)
    two = write_pointing(annotated, tmp_path / "b", per_image=3, turns=5)
    other = write_pointing(annotated, tmp_path / "c", per_image=3, turns=5, seed=1)
    assert one.path.read_bytes() == two.path.read_bytes() != other.path.read_bytes()
    lines = lines_of(one.path)
    families = [family for line in lines for family in line["families"]]
    assert {name: families.count(name) for name in {*families}} == one.tally.families
    assert one.lines == len(lines)
    assert one.missing()["image-keypoints"] == "no key points"
    assert "image-masks" in one.tally.families
    assert {name for name, *_ in one.rows()} | {*one.missing()} == {*TASKS}
    with pytest.raises(UserError, match="no task type") as caught:
        write_pointing(annotated, tmp_path / "d", tasks=["point-boxs"])
    assert "point-box" in caught.value.fix


def test_check_counts_marks_and_names_what_objects_cannot_give(annotated, tmp_path):
    summary = write_pointing(annotated, tmp_path / "a", per_image=4)
    found = check(summary.path)
    assert not [problem for problem in found.problems if problem.effect == "stops training"]
    for (kind, name), count in summary.marks.items():
        assert found.counts[f"{kind} {name.removesuffix(' prompts')}"] == count
    lines = lines_of(summary.path)
    pointing = next(line for line in lines if any(turn.get("units") for turn in line["conversations"]))
    pointing["objects"].pop("masks", None)
    for turn in pointing["conversations"]:
        if "units" in turn:
            turn["units"] = ["mask"] * len(turn["units"])
    strange = json.loads(json.dumps(pointing))
    next(turn for turn in strange["conversations"] if "units" in turn)["units"] = "contour"
    broken = tmp_path / "a" / "broken.jsonl"
    broken.write_text(json.dumps(pointing) + "\n" + json.dumps(strange) + "\n")
    problems = {problem.what: problem for problem in check(broken).problems}
    lacking = problems["unit mask of an object without mask"]
    assert lacking.effect == "left out"
    assert ":1" in lacking.places[0]
    assert problems["unit 'contour', which no decoder of vistruct draws"].effect == "kept"


def test_a_control_moves_what_is_pointed_at_with_its_conversation(annotated, tmp_path):
    summary = write_pointing(annotated, tmp_path / "a", per_image=2, tasks=["image-masks", "class-boxes"])
    control = write_control(summary.path, tmp_path / "far" / "control")
    assert not [problem for problem in check(control).problems if problem.effect == "stops training"]
    own, moved = lines_of(summary.path), lines_of(control)
    texts = [json.dumps(line["conversations"]) for line in own]
    assert sorted(texts) == sorted(json.dumps(line["conversations"]) for line in moved)
    at = {line["id"]: line["conversations"] for line in own}
    for line in moved:  # relative to its image, a box stays where it was
        source = next(one for one in own if one["conversations"] == line["conversations"])
        assert (tmp_path / "a" / source["image"]).resolve() != (control.parent / line["image"]).resolve()
        if "objects" in line:
            size, was = (np.array([one["width"], one["height"]] * 2) for one in (line, source))
            np.testing.assert_allclose(
                np.array(line["objects"]["boxes"]) / size, np.array(source["objects"]["boxes"]) / was, atol=1e-3
            )
    assert at.keys() == {line["id"] for line in moved}
    one_size = [{"image": str(n % 5), "conversations": n, "width": 9, "height": 9, "objects": {}} for n in range(10)]
    assert all(row["image"] != str(row["conversations"] % 5) for row in shuffle_answers(one_size, 0))


def test_masks_and_points_are_scaled_with_their_image():
    mask = np.zeros((10, 20), bool)
    mask[2:6, 4:12] = True
    runs = areas(Record(id="a", images=(Path("a"),)), mask.astype(np.int16), ("background", "sea")).objects.masks[0]
    made = scaled({"boxes": [[4, 2, 12, 6]], "masks": [runs], "keypoints": [[4, 2, 2]]}, (10, 20), (20, 40))
    assert made["boxes"] == [[8, 4, 24, 12]]
    assert made["keypoints"] == [[8, 4, 2]]
    np.testing.assert_array_equal(decode_rle(made["masks"][0]), np.kron(mask, np.ones((2, 2), bool)))
    with pytest.raises(UserError, match="depth"):
        scaled({"masks": [{"depth": "a.png", "most": 1}]}, (10, 20), (20, 40))


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_crop_moves_masks_boxes_and_points_as_its_pixels(turn):
    """The picture itself, painted with the mask, is the witness."""
    from torch import from_numpy

    from vistruct.data.instructions.view import turn_image

    box = np.array([[20, 12, 50, 40]], np.float32)
    points = np.array([[[20.5, 12.5, 2], [5, 5, 2]]], np.float32)  # the triangle's first corner; outside of the window
    objects = Objects(
        labels=np.full(1, -1), boxes_xyxy=box, masks=(triangle(box[0]),), keypoints=points, extra={NAMES: ("a",)}
    )
    known = Known(id="a", image=Path("a"), size_hw=(60, 80), objects=objects, is_complete=True, class_names=("a",))
    window = (10, 8, 70, 48)
    pixels = rasterise(objects.masks[0], window)
    expected = turn_image(from_numpy(pixels[None]), turn)[0].numpy()
    part = cut(known, window, turn)
    np.testing.assert_array_equal(decode_rle(part.objects.masks[0]), expected)
    assert part.size_hw == expected.shape
    ys, xs = np.nonzero(expected)
    x0, y0, x1, y1 = part.objects.boxes_xyxy[0]
    assert (x0, y0) <= (xs.min(), ys.min())
    assert (x1, y1) >= (xs.max(), ys.max())
    x, y, seen = part.objects.keypoints[0, 0]
    assert seen == 2
    assert expected[int(y), int(x)]
    assert part.objects.keypoints[0, 1].tolist() == [0, 0, 0]


def test_what_the_border_cuts_is_neither_there_nor_gone():
    boxes = np.array([[0, 0, 10, 10], [36, 0, 46, 10], [39.5, 20, 49.5, 30], [80, 0, 90, 10]], np.float32)
    objects = Objects(labels=np.full(4, -1), boxes_xyxy=boxes, extra={NAMES: ("a", "a", "a", "b")})
    known = Known(id="a", image=Path("a"), size_hw=(60, 90), objects=objects, is_complete=True, class_names=("a", "b"))
    part = cut(known, (0, 0, 40, 60))
    assert part.objects.is_ignored.tolist() == [False, True]  # four tenths of the second show; nothing of the others
    assert cut(known, (0, 0, 90, 60)) is known


def test_classes_of_a_label_map_are_named_and_drawn_and_never_counted():
    label_map = np.zeros((8, 10), np.int16)
    label_map[1:3, 2:5] = label_map[6, 7] = 2
    known = areas(Record(id="a", images=(Path("a"),)), label_map, ("background", "sea", "land"))
    assert not known.is_complete
    assert [(one.text, one.rows) for one in known.expressions] == [("sea", ()), ("land", (0,))]
    assert known.objects.boxes_xyxy.tolist() == [[2, 1, 8, 7]]
    np.testing.assert_array_equal(decode_rle(known.objects.masks[0]), label_map == 2)


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    """Made-up pictures with words of their own: what is told apart has an end too."""

    def pictures(count: int) -> Iterator[Picture]:
        base = Objects(labels=np.full(2, -1), boxes_xyxy=BOXES[:2], extra={NAMES: ("tree", "car")})
        for number in range(count):
            objects = replace(base, extra={NAMES: (f"thing {number}", "car")})
            yield Picture(
                known=Known(id=str(number), image=Path(f"/a/{number}.jpg"), size_hw=(60, 100), objects=objects)
            )

    def peak(count: int) -> int:
        tracemalloc.start()
        write_lines(pictures(count), tmp_path / str(count), Pointed(path=tmp_path / str(count) / "instructions.jsonl"))
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(20)
    assert peak(600) < peak(200) + 400_000

"""Conversations that point at objects, from the line to the batch: what a mark stands for is never lost."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tables import assert_same
from toy_vlm import tokenizer

from vistruct.contracts import Objects, Sample, Turn
from vistruct.data.checks.check import check
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.formats.chat.turns import OBJECTS, POINTS
from vistruct.transforms.geometry import flip_horizontal
from vistruct.vlm import lacking
from vistruct.vlm.batch import ChatCollator, ChatMeasurer
from vistruct.vlm.grammar import Grammar
from vistruct.vlm.pointed import Pointer
from vistruct.vlm.region_tokens import RegionTokensConfig
from vistruct.vlm.tiling import Tiling

BOXES = [[2, 4, 10, 12], [14, 4, 22, 12], [1, 16, 23, 20]]
LINE = {
    "image": "a.png",
    "objects": {"boxes": BOXES, "labels": ["tree", "tree", "road"], "masks": [[[2, 4, 10, 4, 10, 12]], [], []]},
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is <region>?", "points": [[1]]},
        {"from": "gpt", "value": "A tree."},
        {"from": "human", "value": "Where are the trees and <region>?", "points": [[2, 0]]},
        {"from": "gpt", "value": "Here: <object>, and the road <object>.", "points": [[0, 1], [2]]},
    ],
}


def written(folder: Path, *lines: dict[str, Any]) -> Path:
    Image.new("RGB", (24, 24)).save(folder / "a.png")
    path = folder / "talk.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def collator(**more: Any) -> ChatCollator:
    return ChatCollator(tokenizer=tokenizer(), tiling=Tiling(size=8), tokens_per_tile=3, **more)


def test_marks_and_objects_come_from_the_file_to_the_batch(tmp_path: Path) -> None:
    plain = {"image": "a.png", "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}
    path = written(tmp_path, plain, LINE)
    for _ in range(2):  # the second time the index is kept
        dataset = pickle.loads(pickle.dumps(ChatDataConfig(jsonl=path).build(tmp_path / "cache")))
        samples = [dataset.sample(index, 0) for index in range(2)]
        assert samples[1].objects.boxes_xyxy.tolist() == BOXES
        assert samples[1].objects.extra["names"] == ("tree", "tree", "road")
        assert samples[1].objects.masks[0, 5, 7]
        assert samples[1].objects.masks.sum(dim=(1, 2)).tolist() == [samples[1].objects.masks[0].sum(), 0, 0]
        batch = collator()(samples)
        assert [turn.points for turn in samples[1].turns] == [((1,),), (), ((2, 0),), ((0, 1), (2,))]
        assert [len(objects) for objects in batch.objects] == [0, 3]
        assert_same(batch.objects[1].arrays(), samples[1].objects.arrays())


def test_rows_of_single_questions_point_at_what_they_speak_of(tmp_path: Path) -> None:
    sample = ChatDataConfig(jsonl=written(tmp_path, LINE)).build().sample(0, 0)
    for image_last in (False, True):
        rows = collator(independent=True, image_last=image_last).rows(sample.turns, (), [1])
        assert [[turn.points for turn in row.spoken.turns] for row in rows] == [
            [((1,),), ()],
            [((2, 0),), ((0, 1), (2,))],
        ]
    asked = collator(generate=True)([sample])
    assert [turn.points for turn in asked.answers if turn is not None] == [(), ((0, 1), (2,))]


def test_pointing_changes_no_token(tmp_path: Path) -> None:
    marks = {"conversations": [{k: v for k, v in turn.items() if k != "points"} for turn in LINE["conversations"]]}
    dataset = ChatDataConfig(jsonl=written(tmp_path, LINE, {"image": "a.png", **marks})).build()
    batches = [collator()([dataset.sample(index, 0)]) for index in range(2)]
    assert torch.equal(batches[0].input_ids, batches[1].input_ids)
    assert torch.equal(batches[0].labels, batches[1].labels)
    measure = ChatMeasurer(collator=collator())
    assert measure(dataset.records[0], [(24, 24)]) == measure(dataset.records[1], [(24, 24)])


def test_objects_of_a_conversation_move_with_its_image() -> None:
    image = torch.zeros(3, 24, 24, dtype=torch.uint8)
    image[:, 4:12, 2:10] = 255
    objects = Objects(boxes_xyxy=torch.tensor([[2.0, 4, 10, 12]]), labels=torch.tensor([-1]))
    turns = (Turn(role="user", text="<region>?", points=((0,),)), Turn(role="assistant", text="bright"))
    flipped = flip_horizontal(Sample(id="a", image_id="a", seed=0, images=[image], objects=objects, turns=turns))
    x0, y0, x1, y1 = flipped.objects.boxes_xyxy[0].int().tolist()
    assert flipped.images[0][0, y0:y1, x0:x1].sum() == 255 * 64 == flipped.images[0][0].int().sum()
    assert flipped.turns == turns


def test_objects_of_several_images_say_which_one_they_are_in(tmp_path: Path) -> None:
    Image.new("RGB", (60, 12)).save(tmp_path / "b.png")
    objects = {"boxes": [[2, 4, 10, 12], [40, 1, 59, 11], [40, 1, 61, 11]], "images": [0, 1, 1]}
    turns = [
        {"from": "human", "value": "<image><image><region> or <region>?", "points": [[0], [1]]},
        {"from": "gpt", "value": "<object>", "points": [[2]]},
    ]
    path = written(tmp_path, {"image": ["a.png", "b.png"], "objects": objects, "conversations": turns})
    (sample,) = [ChatDataConfig(jsonl=path).build().sample(0, 0)]
    assert sample.objects.extra["images"] == (0, 1, 1)
    result = check(path)
    beyond = [problem for problem in result.problems if "over the border of its image" in problem.what]
    assert [(one.count, one.effect, one.places) for one in beyond] == [(1, "kept", (f"{path}:1: object 2",))]
    assert (result.counts["objects"], result.counts["marks that point at them"]) == (3, 3)


def test_check_says_which_answers_a_model_that_points_cannot_learn(tmp_path: Path) -> None:
    text = "Here: <Phrase>trees</Phrase><object>, <Phrase>the road</Phrase><object>."
    sound = {**LINE, "conversations": [*LINE["conversations"][:3], {**LINE["conversations"][3], "value": text}]}
    path = written(tmp_path, sound, LINE)
    (problem,) = [one for one in check(path).problems if "a model that points" in one.what]
    assert problem.what.endswith("objects without phrase")
    assert (problem.effect, problem.count, problem.places) == ("kept", 1, (f"{path}:2: turn 4",))
    assert "<Phrase>words</Phrase><object>" in problem.fix


@pytest.mark.parametrize(
    ("objects", "units", "prompts", "why"),
    [
        ({"boxes": BOXES}, ["mask"], ["box"], "unit mask of an object without mask"),
        ({"boxes": BOXES, "masks": [[[2, 4, 10, 4, 10, 12]], None, []]}, ["mask"], ["box"], "unit mask of an object"),
        ({"boxes": BOXES, "masks": [[[2, 4, 10, 4, 10, 12]]] * 3}, ["depth"], ["box"], "unit depth of an object"),
        ({"boxes": BOXES}, ["keypoint"], ["box"], "unit keypoint of an object without key points"),
        ({"boxes": BOXES, "keypoints": [[3, 5, 2]] * 3}, ["keypoint"], ["box"], lacking.OTHER_POINTS),
        ({"boxes": BOXES}, ["box"], ["mask"], "prompt mask of an object without mask"),
        ({"boxes": [[30, 4, 40, 12], *BOXES[1:]]}, ["box"], ["box"], lacking.BEYOND),
        ({"boxes": BOXES, "masks": [{"size": [8, 8], "counts": [60, 4]}] * 3}, ["box"], ["box"], lacking.OTHER_SIZE),
        ({"boxes": BOXES}, ["cuboid"], ["point"], ""),
        ({"boxes": BOXES, "keypoints": [[3, 5, 0, 4, 6, 0]] * 3}, ["keypoint"], ["box"], ""),
    ],
)
def test_what_decoders_cannot_learn_from_is_left_out_before_training(
    tmp_path: Path, objects: dict[str, Any], units: list[str], prompts: list[str], why: str
) -> None:
    turns = [
        {"from": "human", "value": "<image>What is <region>?", "points": [[0]], "prompts": prompts},
        {"from": "gpt", "value": "<Phrase>A tree</Phrase><object>.", "points": [[1]], "units": units},
    ]
    path = written(tmp_path, {"image": "a.png", "objects": objects, "conversations": turns})
    record = ChatDataConfig(jsonl=path).build().records[0]
    pointer = Pointer(
        grammar=Grammar(),
        regions=RegionTokensConfig(),
        object_token=-1,
        region_token=-2,
        tiling=Tiling(size=8),
        size=8,
        grid=2,
        mask_size=8,
        tower=False,
        vary=False,
        mask_units=frozenset({"mask", "depth"}),
        key_points={"keypoint": 2},
    )
    measure = ChatMeasurer(collator=collator(pointer=pointer))(record, [(24, 24)])
    assert measure.is_left_out == bool(why)
    assert measure.reason.startswith(f"left out: {why}" if why else "")
    told = [one.effect for one in check(path).problems if why and one.what.startswith(why)]
    assert told == (["left out"] if why and why != lacking.OTHER_POINTS else [])


def test_objects_in_other_images_or_none_are_nothing_to_point_at(tmp_path: Path) -> None:
    (record,) = ChatDataConfig(jsonl=written(tmp_path, LINE)).build().records
    objects = replace(record.objects, extra={"images": (1, 0, 0)})
    decoders: dict[str, Any] = {"masks": frozenset(), "key_points": {}}
    assert lacking.lacking(objects, record.turns, (24, 24), **decoders) == lacking.OTHER_IMAGE
    assert lacking.lacking(record.objects, record.turns, None, **decoders) == lacking.NO_IMAGE
    assert lacking.lacking(record.objects, record.turns, (24, 24), **decoders) == ""


@pytest.mark.parametrize(
    ("objects", "points", "reason", "words"),
    [
        ({"boxes": BOXES}, [[3]], POINTS, "turn 1 points at object 3, and there are 3"),
        ({"boxes": BOXES}, [[0], [1]], POINTS, "turn 1: 1 x <region> in the text, but points has 2 entries"),
        ({"boxes": [[5, 5, 5, 9]]}, [[0]], OBJECTS, "a box without an area: [5, 5, 5, 9]"),
    ],
)
def test_check_says_where_what_and_how_to_mend_it(
    tmp_path: Path, objects: dict[str, Any], points: list[Any], reason: str, words: str
) -> None:
    turns = [
        {"from": "human", "value": "<image><region>?", "points": points},
        {"from": "gpt", "value": "A"},
    ]
    path = written(tmp_path, LINE, {"image": "a.png", "objects": objects, "conversations": turns})
    result = check(path)
    (problem,) = [one for one in result.problems if one.what == reason]
    assert problem.places == (f"{path}:2",)
    assert words in problem.fix
    assert (result.counts["conversations"], problem.count) == (1, 1)
    assert len(ChatDataConfig(jsonl=path).build()) == 1


def test_numbers_of_a_line_are_read_to_the_last_bit(tmp_path: Path) -> None:
    exact = np.random.default_rng(1).random((3, 2)).astype(np.float32)
    boxes = np.concatenate([exact, exact + np.float32(1)], axis=1)
    line = LINE | {"objects": {"boxes": boxes.tolist()}}
    record = ChatDataConfig(jsonl=written(tmp_path, line)).build().records[0]
    np.testing.assert_array_equal(record.objects.boxes_xyxy, boxes)

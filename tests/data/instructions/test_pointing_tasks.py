"""The task types of instructions that point, from a made picture with everything in it: counted by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vistruct.contracts import Objects, Turn
from vistruct.data.formats.chat.schemas import parse, row
from vistruct.data.instructions.compose import conversations
from vistruct.data.instructions.converse import Tally
from vistruct.data.instructions.known import Known, Said, Told
from vistruct.data.instructions.tasks import TASKS

NAMES = ("tree", "tree", "car", "person")
BOXES = np.array([[10, 10, 50, 70], [100, 20, 140, 60], [60, 80, 120, 110], [150, 70, 180, 115]], np.float32)


def octagon(box: np.ndarray) -> list[list[float]]:
    """A polygon inside a box, which leaves its corners out."""
    x0, y0, x1, y1 = map(float, box)
    a, b = (x1 - x0) / 4, (y1 - y0) / 4
    return [[x0 + a, y0, x1 - a, y0, x1, y0 + b, x1, y1 - b, x1 - a, y1, x0 + a, y1, x0, y1 - b, x0, y0 + b]]


def everything(**changes: object) -> Known:
    keypoints = np.zeros((4, 5, 3), np.float32)
    keypoints[3] = [[165, 75, 2], [160, 85, 2], [170, 85, 1], [160, 110, 2], [0, 0, 0]]
    objects = Objects(
        labels=np.full(4, -1),
        boxes_xyxy=BOXES,
        masks=tuple(octagon(box) for box in BOXES),
        keypoints=keypoints,
        extra={"names": NAMES},
    )
    text = "A person beside a car, and two trees"
    phrases = tuple(
        Said(text=words, rows=rows, start=text.index(words), end=text.index(words) + len(words))
        for words, rows in (("A person", (3,)), ("a car", (2,)), ("two trees", (0, 1)))
    )
    talks = (
        (Turn(role="user", text="Is it day?"), Turn(role="assistant", text="yes", task="vqa")),
        (
            Turn(role="user", text="Hello."), Turn(role="assistant", text="Hello, what is it?"),
            Turn(role="user", text="What is there?"), Turn(role="assistant", text="A car."),
        ),
    )  # fmt: skip
    values = {
        "id": "a", "image": Path("a.jpg"), "size_hw": (120, 200), "objects": objects, "is_complete": True,
        "class_names": ("tree", "car", "person", "boat"), "expressions": (Said(text="the tall tree", rows=(0,)),),
        "regions": (Said(text="a parked car", rows=(2,)),), "sentences": (Told(text=text, phrases=phrases),),
        "talks": talks,
    }  # fmt: skip
    return Known(**{**values, **changes})  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_type_is_written_and_read_again(name):
    tally = Tally()
    found = []
    for seed in range(12):
        found += conversations(everything(), np.random.default_rng(seed), tally, names=[name], turns=2)
    assert found
    for record in found:
        assert set(record.families) == {name}
        talk = parse(json.dumps(row(record, Path())).encode())
        assert talk.turns == record.turns
        np.testing.assert_allclose(talk.objects.boxes_xyxy, record.objects.boxes_xyxy)
    answers = Counter(family for record in found for family in record.families)
    assert answers == (tally.families if name != "image-chat" else {name: 2 * tally.families[name]})

"""The task types of instructions that point, from a made picture with everything in it: counted by hand."""

from __future__ import annotations

import json
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vistruct.contracts import Objects, Record, Turn
from vistruct.data.formats.chat.schemas import parse, row
from vistruct.data.instructions.compose import conversations
from vistruct.data.instructions.converse import Tally
from vistruct.data.instructions.known import Drawn, Known, Said, Told
from vistruct.data.instructions.tasks import TASKS
from vistruct.data.instructions.wordings import WORDINGS
from vistruct.vlm.grammar import Grammar, write_answer

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


def with_depth() -> Known:
    objects = Objects(
        labels=np.full(1, -1),
        boxes_xyxy=np.array([[0, 0, 200, 120]], np.float32),
        masks=({"depth": "/far/a.png", "most": 80.0},),
        extra={"names": ("",)},
    )
    return everything(objects=objects, expressions=(), regions=(), sentences=(), talks=())


def asked(name: str, known: Known, seeds: int = 30) -> list[tuple[Record, Turn, Turn]]:
    """Questions of one task type with their answers, each seed a picture of its own."""
    tally, found = Tally(), []
    for seed in range(seeds):
        for record in conversations(known, np.random.default_rng(seed), tally, names=[name], turns=2):
            found += [(record, *pair) for pair in zip(record.turns[::2], record.turns[1::2], strict=True)]
    return found


def rows_of(record: Record, marks: tuple[tuple[int, ...], ...]) -> list[set[int]]:
    """What marks stand for, as numbers of BOXES; -1: what is none of them."""
    boxes = record.objects.boxes_xyxy
    at = [next((i for i, box in enumerate(BOXES) if np.allclose(box, one)), -1) for one in boxes]
    return [{at[row] for row in rows} for rows in marks]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_type_is_written_and_read_again(name):
    tally = Tally()
    found = []
    for seed in range(12):
        known = everything() if name != "image-depth" else with_depth()
        found += conversations(known, np.random.default_rng(seed), tally, names=[name], turns=2)
    assert found
    for record in found:
        assert set(record.families) == {name}
        talk = parse(json.dumps(row(record, Path())).encode())
        assert talk.turns == record.turns
        np.testing.assert_allclose(talk.objects.boxes_xyxy, record.objects.boxes_xyxy)
        for turn in record.turns[1::2]:
            assert Grammar().object_token not in write_answer(turn, Grammar()).text or turn.points
    answers = Counter(family for record in found for family in record.families)
    assert answers == (tally.families if name != "image-chat" else {name: 2 * tally.families[name]})


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("image-chat", "image-depth")])
def test_what_is_pointed_at_is_what_was_asked_for(name):
    """By the task type's name alone: prompts, units, and which objects, from the numbers above."""
    given, _, answer = name.partition("-")
    unit = {"box": "box", "boxes": "box", "mask": "mask", "masks": "mask", "keypoints": "keypoint", "points": "point"}
    for record, question, said in asked(name, everything(talks=())):
        shown = rows_of(record, question.points)
        meant = rows_of(record, said.points)
        assert question.text.replace("<image>", "").strip()
        assert question.text.count("<region>") == len(shown)
        assert said.text.count("<object>") == len(meant)
        assert said.text.count("<Phrase>") == said.text.count("</Phrase>") == len(meant)
        if given in ("point", "scribble", "mask", "box", "region", "boxes"):
            assert set(question.prompts) == {{"region": "box", "boxes": "box"}.get(given, given)}
        else:
            assert not shown
        if answer in unit or name == "boxes-choice":
            assert set(said.units) <= {unit.get(answer, "box")}
            assert bool(meant) != (said.text == "none")
        if answer in ("box", "mask") and given in ("point", "scribble", "mask", "box") and meant:
            assert meant == shown  # the one that is shown
        if name == "mask-masks":
            assert meant == ([{0, 1} - shown[0]] if shown[0] <= {0, 1} else [])
        if given == "class" and meant:
            assert meant == [{"tree": {0, 1}, "car": {2}, "person": {3}}[said.text.split(">")[1].split("<")[0]]]
        if given == "image" and answer in ("boxes", "masks"):
            assert (
                said.text
                == "<Phrase>tree</Phrase><object>, <Phrase>car</Phrase><object>, <Phrase>person</Phrase><object>"
            )
            assert meant == [{0, 1}, {2}, {3}]
        if given == "caption":
            assert meant == [{3}, {2}, {0, 1}]


def test_expressions_that_are_made_up_fit_one_object_by_arithmetic():
    area = np.prod(BOXES[:, 2:] - BOXES[:, :2], axis=1)
    centre = (BOXES[:, :2] + BOXES[:, 2:]) / 2
    best = {
        "the largest tree": 0 if area[0] > area[1] else 1,
        "the leftmost tree": 0 if centre[0, 0] < centre[1, 0] else 1,
        "the rightmost tree": 0 if centre[0, 0] > centre[1, 0] else 1,
        "the tree nearest to the centre": int(np.linalg.norm(centre[:2] - [100, 60], axis=1).argmin()),
        "the only car": 2,
        "the only person": 3,
    }
    seen = set()
    for record, _, said in asked("expression-box", everything(expressions=()), seeds=60):
        words = said.text.split(">")[1].split("<")[0]
        assert rows_of(record, said.points) == [{best[words]}]
        seen.add(words)
    assert len(seen) >= 5


def test_absence_is_said_and_is_true():
    """A place that shows nothing touches no object; a class that is asked for in vain is the boat."""
    nothing = [pair for pair in asked("point-box", everything()) if pair[2].text == "none"]
    assert 0 < len(nothing) <= 20
    for record, question, _ in nothing:
        (x0, y0, x1, y1) = record.objects.boxes_xyxy[question.points[0][0]]
        low, high = np.maximum(BOXES[:, :2], [x0, y0]), np.minimum(BOXES[:, 2:], [x1, y1])
        assert (np.prod(np.clip(high - low, 0, None), axis=1) < 0.06 * (x1 - x0) * (y1 - y0)).all()
    assert all(
        "boat" in question.text for _, question, said in asked("class-boxes", everything()) if said.text == "none"
    )
    # Where nobody knows that all are there, nothing is said to be absent, and "all" is never asked for.
    partly = everything(is_complete=False)
    assert not asked("class-boxes", partly)
    assert not asked("image-boxes", partly)
    assert all(said.text != "none" for _, _, said in asked("point-box", partly))


def test_a_click_that_could_mean_two_objects_is_not_shown():
    overlapping = BOXES.copy()
    overlapping[1] = BOXES[0] + 5
    plain = Objects(labels=np.full(4, -1), boxes_xyxy=overlapping, extra={"names": NAMES})
    for name in ("point-box", "scribble-box"):
        for record, question, said in asked(name, everything(objects=plain, is_complete=False)):
            assert rows_of(record, question.points) != [{0}]
            assert "tree" not in said.text
    with_masks = everything(is_complete=False, objects=replace(everything().objects, boxes_xyxy=overlapping))
    assert any("tree" in said.text for _, _, said in asked("point-box", with_masks))


def test_prompts_that_come_with_the_data_are_shown_and_never_counted():
    objects = everything().objects
    click = np.array([[28, 38, 32, 42]], np.float32)
    columns = {name: column for name, column in objects.columns().items() if name not in ("masks", "keypoints")}
    more = {name: np.concatenate([column, column[:1]]) for name, column in columns.items() if name != "names"}
    more["boxes_xyxy"] = np.concatenate([BOXES, click])
    drawn = (Drawn(kind="point", row=4, of=0),)
    known = everything(objects=Objects.of({**more, "names": (*NAMES, "")}), drawn=drawn)
    found = asked("point-box", known)
    on_tree = [record.objects.boxes_xyxy[question.points[0][0]].tolist() for record, question, said in found
               if rows_of(record, said.points) == [{0}]]  # fmt: skip
    assert on_tree
    assert all(box == click[0].tolist() for box in on_tree)
    for _, _, said in asked("image-boxes", known):
        assert sum(map(len, said.points)) == 4


def test_wordings_have_the_marks_that_their_questions_need():
    regions = {"label": 1, "description": 1, "is it": 1, "how many like it": 1, "are both": 2, "others mask": 1}
    for kind, wordings in WORDINGS.items():
        assert len({*wordings}) == len(wordings) >= 5
        for wording in wordings:
            fields = {field for _, field, _, _ in string.Formatter().parse(wording) if field}
            assert wording.count("<region>") == regions.get(kind, 1 if kind.startswith("region ") else 0)
            allowed = {"class": {"name", "names"}, "expression": {"phrase"}, "reason": {"name", "names"}}
            assert fields <= allowed.get(kind.partition(" ")[0], {"a_name", "regions"})
            assert fields or kind.partition(" ")[0] not in allowed or kind == "class of image"


def test_all_that_was_said_of_an_image_is_used_and_talks_stay_whole():
    said = tuple(Said(text=f"thing {number}", rows=(number % 4,)) for number in range(9))
    known = everything(expressions=said)
    tally = Tally()
    records = list(conversations(known, np.random.default_rng(0), tally, per_image=None, turns=4))
    text = " ".join(turn.text for record in records for turn in record.turns)
    assert all(f"<Phrase>{one.text}</Phrase>" in text for one in said)
    assert "Hello, what is it?" in text
    assert "Is it day?" in text
    assert all(record.turns[0].text.startswith("<image>") for record in records)
    assert all("<image>" not in turn.text for record in records for turn in record.turns[1:])


def test_captions_that_nobody_wrote_count_what_is_there():
    for name in ("caption-boxes", "caption-masks"):
        for record, _, said in asked(name, everything(sentences=()), seeds=3):
            assert said.text == (
                "The image shows <Phrase>2 trees</Phrase><object>, <Phrase>a car</Phrase><object> "
                "and <Phrase>a person</Phrase><object>."
            )
            assert rows_of(record, said.points) == [{0, 1}, {2}, {3}]

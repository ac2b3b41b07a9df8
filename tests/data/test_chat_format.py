"""Conversations in every schema: what is read, what is left out and why, and that what is written reads back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import assert_same

from vistruct.contracts import Objects, Record, Turn
from vistruct.data.formats.chat import schemas as chat
from vistruct.data.formats.chat.schemas import Talk, parse
from vistruct.data.formats.chat.turns import (
    EMPTY_ANSWER,
    EMPTY_QUESTION,
    FOREIGN,
    MALFORMED,
    MISMATCH,
    NOT_JSON,
    OBJECTS,
    POINTS,
    PREPENDED,
    REASONS,
    REMOTE,
    RESERVED,
    TOOLS,
    UNREAD_IMAGE,
    UNTAUGHT,
    VIDEO,
    Defect,
)
from vistruct.files import text


def line(*turns: tuple[str, str], **more: object) -> dict[str, Any]:
    return {**more, "conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


def messages(*turns: tuple[str, object], **more: object) -> dict[str, Any]:
    return {**more, "messages": [{"role": role, "content": content} for role, content in turns]}


def of(entry: object) -> Talk:
    return parse(entry if isinstance(entry, bytes) else json.dumps(entry).encode())


def texts(talk: Talk) -> list[str]:
    return [turn.text for turn in talk.turns]


def test_a_conversation_is_read_with_its_turns_images_and_id() -> None:
    talk = of(line(("system", "Be brief."), ("human", "<image>\nHow many?"), ("gpt", "3"), image="a.png", id=12))
    assert talk == Talk(
        turns=(
            Turn(role="system", text="Be brief."),
            Turn(role="user", text="<image>\nHow many?"),
            Turn(role="assistant", text="3"),
        ),
        images=("a.png",),
        own_id="12",
    )


@pytest.mark.parametrize(("image", "names"), [("", ()), (None, ()), ([], ()), ("a", ("a",)), (["a"], ("a",))])
def test_image_is_a_path_a_list_or_nothing(image: object, names: tuple[str, ...]) -> None:
    assert of(line(("human", "<image>" * len(names) + "Q"), ("gpt", "A"), image=image)).images == names


def test_several_images_and_turns_keep_their_order() -> None:
    turns = (("human", "<image> <image> differ?"), ("gpt", "Yes"), ("human", "<image>Where?"), ("gpt", "Top"))
    talk = of(line(*turns, image=["b.png", "a.png", "b.png"]))
    assert talk.images == ("b.png", "a.png", "b.png")
    assert texts(talk) == [said for _, said in turns]


def test_a_single_image_without_a_placeholder_goes_before_the_first_question() -> None:
    talk = of(line(("system", "s"), ("human", "Q"), ("gpt", "A"), ("human", "R"), ("gpt", "B"), image="a.png"))
    assert texts(talk) == ["s", "<image>\nQ", "A", "R", "B"]
    assert talk.notes == (PREPENDED,)
    assert of(line(("human", "Q<image>"), ("gpt", "A"), image="a.png")).notes == ()
    assert of(line(("human", ""), ("gpt", "A"), image="a.png")).turns[0].text == "<image>\n"


def test_families_stand_for_the_answers() -> None:
    turns = (("human", "Q"), ("gpt", "A"), ("human", "R"), ("gpt", "B"))
    assert of(line(*turns, families=["count", "where"])).families == ("count", "where")
    assert of(line(*turns)).families == ()


def test_keys_of_other_tools_do_not_matter() -> None:
    more = {"width": 3, "height": "x", "length": 99, "video": "", "clip": None, "images": 4}
    assert of(line(("human", "Q"), ("gpt", "A"), **more)) == of(line(("human", "Q"), ("gpt", "A")))


# --- messages


def test_messages_read_as_the_same_conversation() -> None:
    spoken = line(("system", "s"), ("human", "<image>\nQ"), ("gpt", "A"), ("human", "R"), ("gpt", "B"), image="a.png")
    typed = messages(("system", "s"), ("user", "<image>\nQ"), ("assistant", "A"), ("user", "R"), ("assistant", "B"))
    for images in ({"images": ["a.png"]}, {"image": "a.png"}, {"images": [{"path": "a.png"}]}):
        assert of(typed | images) == of(spoken)


def test_parts_of_a_content_become_marks_and_paths_in_order() -> None:
    content = [
        {"type": "image", "image": "a.png"},
        {"type": "text", "text": "and"},
        {"type": "image_url", "image_url": {"url": "file:///b.png"}},
        {"type": "image", "path": "c.png"},
        {"type": "text", "text": "differ "},
        {"type": "text", "text": "how?"},
    ]
    talk = of(messages(("user", content), ("assistant", [{"type": "text", "text": "A"}])))
    assert texts(talk) == ["<image>\nand\n<image>\n<image>\ndiffer how?", "A"]
    assert talk.images == ("a.png", "/b.png", "c.png")


def test_parts_without_a_path_take_the_next_of_the_list() -> None:
    first = [{"type": "image"}, {"type": "text", "text": "Q"}]
    talk = of(
        messages(("user", first), ("assistant", "A"), ("user", "<image>R"), ("assistant", "B"), images=["a", "b"])
    )
    assert (texts(talk), talk.images) == (["<image>\nQ", "A", "<image>R", "B"], ("a", "b"))
    mixed = [{"type": "image", "image": "x"}, {"type": "image"}, {"type": "text", "text": "Q"}]
    assert of(messages(("user", mixed), ("assistant", "A"), images=["a"])).images == ("x", "a")


# --- what is wrong

GOOD = line(("human", "Q"), ("gpt", "A"))
TWO = [[10, 20, 50, 60], [70, 20, 90, 60]]


def about(
    points: object, objects: object, question: str = "<image>What is <region>?", **more: object
) -> dict[str, Any]:
    """A line whose question points at objects."""
    entry = line(("human", question), ("gpt", "A tree"), **{"image": "a.png", "objects": objects, **more})
    entry["conversations"][0]["points"] = points
    return entry


def grounded(bbox: object, **more: object) -> dict[str, Any]:
    """A line of ms-swift's that keeps its boxes apart."""
    objects = {"ref": ["boat"], "bbox": bbox, **more}
    return messages(("user", "<image>Find <ref-object>"), ("assistant", "<bbox>"), images=["a"], objects=objects)


DEFECTS: list[tuple[object, str, str]] = [
    (b'{"image": "a.png", ', NOT_JSON, "not valid json"),
    (b'\xff\xfe{"a": 1}', NOT_JSON, "UTF-8"),
    (b"[" * 100_000, NOT_JSON, "not"),
    (json.dumps(line(("human", "Q\ud83d"), ("gpt", "A"))).encode(), NOT_JSON, "surrogates"),
    ([1, 2], MALFORMED, "is an object"),
    (3, MALFORMED, "is an object"),
    ({"image": "a.png"}, MALFORMED, "no conversation"),
    (line(), MALFORMED, "no conversation"),
    ({"conversations": {"from": "human"}}, MALFORMED, "no conversation"),
    (line(("gpt", "A")), MALFORMED, "turn 1 is from gpt"),
    (line(("human", "Q"), ("human", "Q")), MALFORMED, "turn 2 is from human"),
    (line(("human", "Q"), ("gpt", "A"), ("gpt", "A")), MALFORMED, "turn 3 is from gpt"),
    (line(("human", "Q"), ("system", "s"), ("gpt", "A")), MALFORMED, "turn 2 is from system"),
    (line(("system", "s"), ("system", "s"), ("human", "Q"), ("gpt", "A")), MALFORMED, "turn 2 is from system"),
    (line(("human", "Q")), MALFORMED, "the last turn"),
    (line(("system", "s")), MALFORMED, "the last turn"),
    (line(("usr", "Q"), ("gpt", "A")), MALFORMED, "'usr'"),
    ({"conversations": [{"from": ["human"], "value": "Q"}]}, MALFORMED, "turn 1 is from"),
    ({"conversations": [{"from": "human"}]}, MALFORMED, "turn 1 has no text"),
    ({"conversations": [{"from": "human", "value": 3}]}, MALFORMED, "turn 1 has no text"),
    ({"conversations": ["Q", "A"]}, MALFORMED, "turn 1 has no text"),
    (line(("human", "<image> <image>"), ("gpt", "A"), image="a.png"), MISMATCH, "2 x <image> in the text, but 1"),
    (line(("human", "<image>"), ("gpt", "A"), image=["a", "b"]), MISMATCH, "1 x <image> in the text, but 2"),
    (line(("human", "Q"), ("gpt", "A"), image=["a", "b"]), MISMATCH, "0 x <image> in the text, but 2"),
    (line(("human", "<image>"), ("gpt", "A")), MISMATCH, "1 x <image> in the text, but 0"),
    (line(("human", "Q"), ("gpt", "<image>"), image="a.png"), MISMATCH, "outside a human turn"),
    (line(("human", "Q"), ("gpt", "A"), image=3), MALFORMED, "image is a path"),
    (line(("human", "Q"), ("gpt", "A"), image=[""]), MALFORMED, "image is a path"),
    (line(("human", "Q"), ("gpt", " \n")), EMPTY_ANSWER, "answer"),
    (line(("human", "Q"), ("gpt", "A"), ("human", " "), ("gpt", "B")), EMPTY_QUESTION, "question"),
    (line(("human", "<video>Q"), ("gpt", "A"), video="a.mp4"), VIDEO, "video"),
    (line(("human", "Q"), ("gpt", "A"), families=["a", "b"]), MALFORMED, "families"),
    (line(("human", "Q"), ("gpt", "A"), families=[3]), MALFORMED, "families"),
    (messages(), MALFORMED, "no conversation"),
    (messages(("humans", "Q"), ("assistant", "A")), MALFORMED, "turn 1 is from 'humans'"),
    (messages(("tool", "Q"), ("assistant", "A")), TOOLS, "'tool'"),
    (line(("human", "Q"), ("function_call", "{}"), ("observation", "4"), ("gpt", "A")), TOOLS, "'function_call'"),
    (messages(("user", "Q"), ("user", "A")), MALFORMED, "turn 2 is from user"),
    (messages(("user", None), ("assistant", "A")), MALFORMED, "turn 1 has no text"),
    (messages(("user", [{"type": "audio"}]), ("assistant", "A")), MALFORMED, "part of type 'audio'"),
    (messages(("user", ["Q"]), ("assistant", "A")), MALFORMED, "part of type None"),
    (messages(("user", [{"type": "text"}]), ("assistant", "A")), MALFORMED, "part of type 'text'"),
    (messages(("user", [{"type": "video", "video": "a"}]), ("assistant", "A")), VIDEO, "video"),
    (messages(("user", "Q"), ("assistant", "A"), videos=["a.mp4"]), VIDEO, "video"),
    (messages(("user", [{"type": "image", "image": "https://a/b.png"}]), ("assistant", "A")), REMOTE, "no file"),
    (line(("human", "Q"), ("gpt", "A"), image="https://a/b.png"), REMOTE, "no file"),
    (messages(("user", [{"type": "image", "image": "a"}, {"type": "image"}]), ("assistant", "A")), MISMATCH, "1 x"),
    (messages(("user", "<image>"), ("assistant", "A")), MISMATCH, "1 x <image> in the text, but 0"),
    (messages(("user", "<image>"), ("assistant", "A"), images=[3]), MALFORMED, "list of paths"),
    (messages(("user", "<image>"), ("assistant", "A"), images=[{}]), MALFORMED, "list of paths"),
    (messages(("user", "Q"), ("assistant", "<image>"), images=["a"]), MISMATCH, "outside a human turn"),
    (messages(("user", "Q"), ("assistant", [])), EMPTY_ANSWER, "answer"),
    (about([[0], [1]], {"boxes": TWO}, "<region> <region> <region>?"), POINTS, "turn 1: 3 x <region> in the text"),
    (about([[0]], {"boxes": TWO}, "where?"), POINTS, "turn 1: 0 x <region>"),
    (about([[1, 1]], {"boxes": TWO}, "<region>?"), POINTS, "stands for an object twice"),
    (about(None, {"boxes": TWO}, "<region>?"), POINTS, "turn 1: 1 x <region>"),
    (about([[0]], {"boxes": TWO}, "<object>?"), POINTS, "turn 1: 0 x <region>"),
    (about([[2]], {"boxes": TWO}), POINTS, "turn 1 points at object 2, and there are 2"),
    (about([[-1]], {"boxes": TWO}), POINTS, "turn 1 points at object -1"),
    (about([[0]], None), POINTS, "turn 1 points at object 0, and there are 0"),
    (about([0], {"boxes": TWO}), POINTS, "a list of lists of object numbers"),
    (about([[]], {"boxes": TWO}), POINTS, "a list of lists of object numbers"),
    (about([[True]], {"boxes": TWO}), POINTS, "a list of lists of object numbers"),
    (about([[0]], TWO), OBJECTS, "objects is a set of lists"),
    (about([[0]], {"boxes": 3}), OBJECTS, "objects is a set of lists"),
    (about([[0]], {"boxes": TWO, "labels": ["a"]}), OBJECTS, "different lengths: {'boxes': 2, 'labels': 1}"),
    (about([[0]], {"boxes": [[1, 2, 3]]}), OBJECTS, "boxes: an entry is x0, y0, x1, y1"),
    (about([[0]], {"boxes": [[1, 2, 3, 1e999]]}), OBJECTS, "boxes: an entry is"),
    (about([[0]], {"boxes": [[1, 2, 3, 10**400]]}), OBJECTS, "boxes: an entry is"),
    (about([[0]], {"boxes": [[1, 2, 1, 9]]}), OBJECTS, "a box without an area: [1, 2, 1, 9]"),
    (about([[0]], {"quads": [[1, 2, 3, 4]]}), OBJECTS, "quads: an entry is the x and y of four corners"),
    (about([[0]], {"keypoints": [[1, 2]]}), OBJECTS, "keypoints: an entry is x, y, visibility"),
    (about([[0]], {"masks": [[[1, 2, 3]]]}), OBJECTS, "a polygon is a list of x, y"),
    (about([[0]], {"masks": [[]]}), OBJECTS, "a mask without a pixel"),
    (about([[0]], {"masks": [{"size": [2, 2], "counts": [1]}]}), OBJECTS, "do not add up"),
    (about([[0]], {"masks": [{"size": [2, "a"], "counts": [1]}]}), OBJECTS, "size is [height, width]"),
    (about([[0]], {"phrases": ["a tree"]}), OBJECTS, "objects that are nowhere"),
    (about([[0]], {"boxes": TWO, "labels": ["a", 3]}), OBJECTS, "labels are words"),
    (about([[0]], {"boxes": TWO, "is_crowd": [0, 2]}), OBJECTS, "is_crowd is true or false"),
    (about([[0]], {"boxes": TWO, "boxes_xyxy": TWO}), OBJECTS, "boxes_xyxy is no list"),
    (about([[0]], {"boxes": TWO}, "<image><image><region>", image=["a", "b"]), OBJECTS, "one of 2 images"),
    (about([[0]], {"boxes": TWO, "images": [0, 1]}), OBJECTS, "images has numbers of the 1 images"),
    (line(("human", "<video>\nQ"), ("gpt", "A")), VIDEO, "<video>"),
    (line(("human", "<|vision_start|><|video_pad|><|vision_end|>Q"), ("gpt", "A")), VIDEO, "video_pad"),
    (line(("human", "<ImageHere>Q"), ("gpt", "A")), FOREIGN, "<ImageHere>"),
    (line(("human", "<image>What is <image_00>?"), ("gpt", "A"), image="a"), FOREIGN, "<image_00>"),
    (line(("human", "<image>Q"), ("gpt", "<|image_pad|>"), image="a"), FOREIGN, "<|image_pad|>"),
    (line(("human", "<image_2> or <image_1>?"), ("gpt", "A"), image=["a", "b"]), MISMATCH, "do not rise"),
    (line(("human", "<image_1>?"), ("gpt", "A"), image=["a", "b"]), MISMATCH, "1 marks (<image_1>, ...)"),
    (line(("human", "What does <IMG_CONTEXT> mean?"), ("gpt", "A")), RESERVED, "<IMG_CONTEXT>"),
    (line(("human", "Q"), ("gpt", "A<|im_end|>")), RESERVED, "<|im_end|>"),
    (line(("human", "Q"), ("gpt", "A"), image_path="img/0.png"), UNREAD_IMAGE, "image_path"),
    (line(("human", "Q"), ("gpt", "A"), meta={"file": "a.JPG"}), UNREAD_IMAGE, "meta"),
    (
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A", "loss": False}]},
        UNTAUGHT,
        "no answer",
    ),
    (messages(("user", "Find <ref-object>"), ("assistant", "<bbox>"), images=["a"]), POINTS, "no `objects`"),
    (grounded([[1, 2, 3, 4], [1, 2, 3, 4]]), POINTS, "1 x <bbox> in the text, but 1 ref and 2 bbox"),
    (grounded([[1, 2]]), OBJECTS, "no point"),
    (grounded([[1, 2, 3, 4]], bbox_type="norm2"), OBJECTS, "norm2"),
    (grounded([[1, 2, 3, 4]], bbox_type="norm1"), OBJECTS, "beyond"),
    ({"prompt": "Q", "chosen": "A", "rejected": "B"}, MALFORMED, "chosen, rejected"),
    ({"image": "a.png", "caption": "a port"}, MALFORMED, "no conversation: this line has the keys image, caption"),
    (b'{"conversations": ' + b"9" * 5000 + b"}", NOT_JSON, "thousands of digits"),
]


@pytest.mark.parametrize(("bad", "reason", "words"), DEFECTS)
def test_a_faulty_line_has_a_reason_words_and_a_way_out(bad: object, reason: str, words: str) -> None:
    with pytest.raises(Defect) as caught:
        of(bad)
    assert caught.value.reason == reason
    assert words in caught.value.what
    assert caught.value.fix


def test_every_reason_has_a_case_above() -> None:
    assert {reason for _, reason, _ in DEFECTS} == set(REASONS)


KEYS = ["conversations", "messages", "from", "value", "role", "content", "type", "image", "text", "points"]
OBJECT_KEYS = [
    "boxes",
    "quads",
    "masks",
    "keypoints",
    "labels",
    "scores",
    "images",
    "phrases",
    "is_crowd",
    "size",
    "counts",
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_no_json_value_ends_in_anything_but_a_talk_or_a_defect(value: object) -> None:
    try:
        outcome = of(value).turns[-1].role
    except Defect as defect:
        outcome = defect.reason
    assert outcome in ("assistant", *REASONS)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(OBJECT_KEYS),
        st.lists(
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2),
                lambda inner: (
                    st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(OBJECT_KEYS), inner, max_size=3)
                ),
                max_leaves=12,
            ),
            min_size=1,
            max_size=2,
        ),
        max_size=3,
    )
)
def test_no_value_of_objects_ends_in_anything_but_a_talk_or_a_defect(objects: dict[str, Any]) -> None:
    try:
        found = of(about([[0]], objects)).objects
    except Defect:
        return
    assert np.isfinite(found.boxes_xyxy).all()
    assert len(found.boxes_xyxy) == len(found) > 0


# --- there and back

# Without a mark of any tool, which is refused or read as an image: hypothesis takes some from our own source.
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda t: t.strip() and not re.search(r"[<\[][/|]?\w", t)
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.tuples(words, words), min_size=1, max_size=3), min_size=1, max_size=4),
    st.integers(0, 2),
)
def test_what_is_written_reads_back_the_same(tmp_path: Path, chats: list[Any], num_images: int) -> None:
    images = (tmp_path / "a.png", tmp_path / "b.png")[:num_images]
    records = []
    for number, pairs in enumerate(chats):
        turns = [
            Turn(role=role, text=said) for pair in pairs for role, said in zip(("user", "assistant"), pair, strict=True)
        ]
        turns[0] = Turn(role="user", text="<image>" * num_images + turns[0].text)
        families = tuple(f"f{number}" for number in range(len(pairs))) if number % 2 else ()
        records.append(Record(id=f"c{number}", images=images, turns=tuple(turns), families=families))
    path = tmp_path / "out.jsonl"
    chat.write(path, [chat.row(record, tmp_path) for record in records])
    again = [parse(entry) for entry in path.read_bytes().splitlines()]  # of bytes: at \n, \r and \r\n alone
    assert [(t.own_id, tuple(tmp_path / name for name in t.images), t.turns, t.families) for t in again] == [
        (r.id, r.images, r.turns, r.families) for r in records
    ]


@pytest.mark.parametrize("kind", ["conversations", "messages"])
def test_what_turns_point_at_is_read(kind: str) -> None:
    rle = {"size": [40, 60], "counts": [40 * 10 + 5, 20, 20, 20, 40 * 48 + 15]}  # columns 10 and 11, rows 5 to 24
    asked = [
        ("user", "<image>Is <region> beside <region>? <object>"),
        ("assistant", "No, but <object> and <object>. <region>"),
    ]
    points = [[[0], [1, 2]], [[2], [0, 1]]]
    listed = [
        {
            "from": {"user": "human", "assistant": "gpt"}[role],
            "role": role,
            "value": text,
            "content": text,
            "points": own,
        }
        for (role, text), own in zip(asked, points, strict=True)
    ]
    objects = {
        "masks": [[[1, 2, 9, 2, 5, 30]], rle, []],
        "boxes": None,
        "labels": ["roof", "tree", "car"],
        "phrases": ["the roof", None, "a car"],
        "scores": [1, 0.25, 0.5],
        "is_crowd": [False, True, False],
    }
    objects["masks"][2] = [[50, 30, 58.5, 30, 58.5, 39]]
    del objects["boxes"]
    talk = of({"image": "a.png", "objects": objects, kind: listed})
    assert [turn.points for turn in talk.turns] == [((0,), (1, 2)), ((2,), (0, 1))]
    assert talk.objects.boxes_xyxy.tolist() == [[1, 2, 9, 30], [10, 5, 12, 25], [50, 30, 58.5, 39]]
    assert talk.objects.masks == tuple(objects["masks"])
    assert talk.objects.extra == {"names": ("roof", "tree", "car"), "phrases": ("the roof", None, "a car")}
    assert talk.objects.scores.tolist() == [1, 0.25, 0.5]
    assert talk.objects.is_crowd.tolist() == [False, True, False]


def test_hulls_are_of_quads_or_of_the_key_points_that_are_seen() -> None:
    turned = of(about([[0]], {"quads": [[[10, 0], [20, 10], [10, 20], [0, 10]]]})).objects
    assert turned.boxes_xyxy.tolist() == [[0, 0, 20, 20]]
    for points in ([[5, 6, 2, 0, 0, 0, 9, 8, 1]], [[[5, 6, 2], [0, 0, 0], [9, 8, 1]]]):
        found = of(about([[0]], {"keypoints": points})).objects
        assert found.boxes_xyxy.tolist() == [[5, 6, 9, 8]]
        assert found.keypoints is not None
        assert found.keypoints.shape == (1, 3, 3)


def test_marks_are_words_where_a_line_has_no_objects() -> None:
    talk = of(line(("human", "What does <region> mean?"), ("gpt", "<object> or <ref>?")))
    assert [turn.points for turn in talk.turns] == [(), ()]


def test_what_turns_point_at_is_written_and_reads_back_the_same(tmp_path: Path) -> None:
    objects = Objects(
        boxes_xyxy=np.array([[0.1, 2, 9.7, 30], [10, 5, 12, 25]], np.float32),
        labels=np.array([-1, -1]),
        quads=np.random.default_rng(0).random((2, 4, 2), np.float32),
        keypoints=np.array([[[1, 2, 2], [0, 0, 0]], [[10, 11, 1], [3, 4, 2]]], np.float32),
        masks=([[1.5, 2, 9, 2, 5, 30]], {"size": [2, 2], "counts": [1, 3]}),
        is_difficult=np.array([True, False]),
        extra={"names": ("roof", "tree"), "unit": ("box", "mask")},
    )
    turns = (
        Turn(role="user", text="<image><region>?", points=((1, 0),)),
        Turn(role="assistant", text="<object>, <object>", points=((0,), (1,))),
    )
    record = Record(id="c", images=(tmp_path / "a.png",), turns=turns, objects=objects)
    chat.write(tmp_path / "out.jsonl", [chat.row(record, tmp_path)])
    again = parse((tmp_path / "out.jsonl").read_bytes())
    assert again.turns == turns
    assert_same(again.objects, objects)
    with pytest.raises(ValueError, match="words"):
        chat.row(record.with_columns(labels=np.array([0, 1])), tmp_path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    chat.write(path, [GOOD])
    before = path.read_bytes()

    def rows():
        yield GOOD
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        chat.write(path, rows())
    with pytest.raises(ValueError, match="JSON"):
        chat.write(path, [{"score": float("nan")}])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    text.write_text(tmp_path / "new" / "a.txt", ["x", "y"])
    assert (tmp_path / "new" / "a.txt").read_text() == "xy"


def test_what_others_answered_is_written_and_reads_back_the_same(tmp_path: Path) -> None:
    answer = Turn(role="assistant", text="net", others=("net", "netting"), form="vqa")
    record = Record(id="1", images=(), turns=(Turn(role="user", text="What is it?"), answer))
    chat.write(tmp_path / "out.jsonl", [chat.row(record, tmp_path)])
    assert chat.parse((tmp_path / "out.jsonl").read_bytes()).turns == record.turns
    for key, value in (("others", "net"), ("others", [1]), ("form", "guess")):
        line = {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "a", key: value}]}
        with pytest.raises(chat.Defect, match=r"others are answers|form is"):
            chat.parse(json.dumps(line).encode())

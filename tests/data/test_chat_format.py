"""Conversations as jsonl: what is read, what is counted, and what is said of a faulty line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vistruct.contracts import Record, Turn
from vistruct.data.formats import chat, text
from vistruct.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def line(*turns: tuple[str, str], **more: object) -> dict[str, Any]:
    return {**more, "conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


def saved(folder: Path, *lines: object) -> Path:
    path = folder / "chat.jsonl"
    path.write_text("\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in lines))
    return path


def test_a_conversation_becomes_a_record(folder: Path) -> None:
    path = saved(
        folder,
        line(("system", "Be brief."), ("human", "<image>\nHow many?"), ("gpt", "Three."), image="a.png", id=12),
        line(
            ("human", "<image> <image> differ?"),
            ("gpt", "Yes"),
            ("human", "Where?"),
            ("gpt", "Top"),
            image=["a.png", "b.png"],
        ),
        line(("human", "Hello"), ("gpt", "Hi"), image=""),
        line(("human", "Hello"), ("gpt", "Hi")),
    )
    records, report = chat.read(path)
    assert [record.id for record in records] == ["12", "chat.jsonl:2", "chat.jsonl:3", "chat.jsonl:4"]
    assert records[0].turns == (
        Turn(role="system", text="Be brief."),
        Turn(role="user", text="<image>\nHow many?"),
        Turn(role="assistant", text="Three."),
    )
    assert [record.images for record in records] == [
        (folder / "a.png",), (folder / "a.png", folder / "b.png"), (), ()
    ]  # fmt: skip
    assert not report.counts


def test_a_single_image_without_a_placeholder_goes_before_the_first_question(folder: Path) -> None:
    (record,), report = chat.read(
        saved(
            folder,
            line(("system", "s"), ("human", "Q"), ("gpt", "A"), ("human", "R"), ("gpt", "B"), image="a.png"),
        )
    )
    assert [turn.text for turn in record.turns] == ["s", "<image>\nQ", "A", "R", "B"]
    assert report.counts == {chat.PREPENDED: 1}


def test_an_empty_answer_leaves_the_conversation_out_and_is_counted(folder: Path) -> None:
    path = saved(
        folder,
        line(("human", "Q"), ("gpt", " \n")),
        line(("human", "Q"), ("gpt", "A"), ("human", ""), ("gpt", "B")),
        line(("human", "Q"), ("gpt", "A")),
    )
    records, report = chat.read(path)
    assert [record.id for record in records] == ["chat.jsonl:3"]
    assert report.counts == {chat.EMPTY_ANSWER: 1, chat.EMPTY_QUESTION: 1}
    assert report.examples[chat.EMPTY_ANSWER] == ["chat.jsonl:1"]


def test_an_id_that_repeats_gives_way_to_the_line(folder: Path) -> None:
    path = saved(folder, *[line(("human", "Q"), ("gpt", "A"), id="x")] * 3)
    assert [record.id for record in chat.read(path)[0]] == ["x", "chat.jsonl:2", "chat.jsonl:3"]


GOOD = line(("human", "Q"), ("gpt", "A"))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ('{"image": "a.png", ', "not valid json"),
        ("[1, 2]", "not an object|is an object"),
        ({"image": "a.png"}, "no conversation"),
        (line(), "no conversation"),
        (line(("gpt", "A")), "turn 1 is from gpt"),
        (line(("human", "Q"), ("human", "Q")), "turn 2 is from human"),
        (line(("human", "Q"), ("gpt", "A"), ("gpt", "A")), "turn 3 is from gpt"),
        (line(("human", "Q"), ("system", "s"), ("gpt", "A")), "turn 2 is from system"),
        (line(("human", "Q")), "the last turn"),
        (line(("system", "s")), "the last turn"),
        (line(("user", "Q"), ("gpt", "A")), "'user'"),
        ({"conversations": [{"from": "human"}]}, "turn 1 has no text"),
        ({"conversations": [{"from": "human", "value": 3}]}, "turn 1 has no text"),
        (line(("human", "<image> <image>"), ("gpt", "A"), image="a.png"), "2 x <image> in the text, but 1"),
        (
            line(("human", "<image>"), ("gpt", "A"), image=["a.png", "b.png"]),
            "1 x <image> in the text, but 2",
        ),
        (line(("human", "Q"), ("gpt", "A"), image=["a.png", "b.png"]), "0 x <image> in the text, but 2"),
        (line(("human", "<image>"), ("gpt", "A")), "1 x <image> in the text, but 0"),
        (line(("human", "Q"), ("gpt", "<image>"), image="a.png"), "outside a human turn"),
        (line(("human", "Q"), ("gpt", "A"), image=3), "image is a path"),
        (line(("human", "Q"), ("gpt", "A"), image=[""]), "image is a path"),
    ],
)
def test_a_faulty_line_is_an_error_with_its_number_and_reason(folder: Path, bad: object, words: str) -> None:
    path = saved(folder, GOOD, "", bad, GOOD)
    with pytest.raises(UserError, match=words) as caught:
        chat.read(path)
    assert caught.value.where == f"{path}:3"
    assert caught.value.fix


def test_missing_images_are_counted_and_the_first_named_with_their_lines(folder: Path) -> None:
    path = saved(folder, GOOD, *[line(("human", "Q"), ("gpt", "A"), image=f"no{n % 5}.png") for n in range(10)])
    with pytest.raises(UserError, match=r"5 of 5 .*no0\.png \(chat\.jsonl:2\).*no2\.png.*, \.\.\.") as caught:
        chat.read(path)
    assert caught.value.where == f"{path}:2"


def test_images_start_from_the_root_that_is_given(folder: Path) -> None:
    (folder / "deep").mkdir()
    path = saved(folder / "deep", line(("human", "Q"), ("gpt", "A"), image="a.png"))
    assert chat.read(path, folder)[0][0].images == (folder / "a.png",)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match="empty"):
        chat.read(tmp_path / "a.jsonl")


def test_a_line_separator_inside_a_text_does_not_end_the_line(folder: Path) -> None:
    entry = line(("human", "one\u2028two\x85three"), ("gpt", "A"))
    path = folder / "chat.jsonl"
    assert chat.write(path, [entry, entry]) == 2
    records, _ = chat.read(path)
    assert [record.turns[0].text for record in records] == ["one\u2028two\x85three"] * 2


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: t.strip() and "<image>" not in t)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.tuples(words, words), min_size=1, max_size=3), min_size=1, max_size=4),
    st.integers(0, 2),
)
def test_what_is_written_reads_back_the_same(folder: Path, chats: list[Any], num_images: int) -> None:
    images = (folder / "a.png", folder / "b.png")[:num_images]
    records = []
    for number, pairs in enumerate(chats):
        turns = [
            Turn(role=role, text=said) for pair in pairs for role, said in zip(("user", "assistant"), pair, strict=True)
        ]
        turns[0] = Turn(role="user", text="<image>" * num_images + turns[0].text)
        records.append(Record(id=f"c{number}", images=images, turns=tuple(turns)))
    path = folder / "out.jsonl"
    chat.write(path, [chat.row(record, folder) for record in records])
    again, report = chat.read(path)
    assert not report.counts
    assert [(r.id, r.images, r.turns) for r in again] == [(r.id, r.images, r.turns) for r in records]


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

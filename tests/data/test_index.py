"""Where lines lie and what they are: against splitting and parsing the whole file, and through damaged caches."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vistruct.data.chat import index as index_
from vistruct.data.chat import offsets as offsets_
from vistruct.data.chat.index import Index, open_index
from vistruct.data.chat.offsets import find_entries
from vistruct.data.formats.chat.turns import EMPTY_ANSWER, NOT_JSON, REASONS
from vistruct.data.loading.columns import Stale, cache_file, read_columns, write_columns
from vistruct.errors import UserError


def talk(question: str = "Q", answer: str = "A", **more: object) -> dict[str, Any]:
    return {**more, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def entries(path: Path) -> list[bytes]:
    offsets, _ = find_entries(path)
    return [offsets.read(row) for row in range(len(offsets))]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))), st.booleans())
@example(["é\u2028x", "", "\r", "日本"], True)
def test_lines_are_those_between_newlines_in_any_script(tmp_path: Path, lines: list[str], ends: bool) -> None:
    path = tmp_path / "a.jsonl"
    data = "\n".join(["{", *lines]).encode() + b"\n" * ends
    path.write_bytes(data)
    expected = data.split(b"\n")
    assert entries(path) == (expected[:-1] if expected[-1] == b"" else expected)


def test_lines_longer_than_a_block_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vistruct.data.chat.offsets._BLOCK", 7)
    lines = [b"x" * size for size in (0, 3, 6, 7, 8, 20, 0, 1)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert entries(tmp_path / "a.jsonl") == lines


strings = st.text(st.sampled_from(list('a]}[{,":\\é日\n\t ')), max_size=6)
nested = st.recursive(
    strings | st.integers(), lambda t: st.lists(t, max_size=3) | st.dictionaries(strings, t, max_size=3)
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(nested, max_size=5), st.booleans(), st.sampled_from([None, 0, 2]), st.booleans())
def test_entries_of_a_list_are_those_that_json_finds(
    tmp_path: Path, values: list[Any], ascii_only: bool, indent: int | None, marked: bool
) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps(values, ensure_ascii=ascii_only, indent=indent), encoding="utf-8-sig" * marked or "utf-8"
    )
    assert [json.loads(entry.decode()) for entry in entries(path)] == values


@pytest.mark.parametrize("text", ["[1,]", "[1 2]", "[1", "[", "[1] x", "[,1]", '[{"a": 1}, {"a": ]', "[" * 10_000])
def test_a_list_with_a_fault_is_an_error_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"\n\n{text}")
    with pytest.raises(UserError, match="not valid json") as caught:
        find_entries(path)
    assert caught.value.where == f"{path}:3"


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"[]", b" [ ] \n", b"\xef\xbb\xbf"])
def test_nothing_in_a_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="empty"):
        open_index(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="no such"):
        open_index(tmp_path / "b.jsonl")


def test_blank_lines_count_for_line_numbers_alone_and_windows_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(t).encode() for t in (talk("é"), talk())) + b"\r\n \r\n\n{"
    )
    index = open_index(path)
    assert [index.offsets.place(row) for row in range(len(index))] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:5"]
    assert index.status.tolist() == [0, 0, 1 + REASONS.index(NOT_JSON)]
    assert index.talk(0).turns[0].text == "é"


def test_an_index_knows_turns_answers_images_and_first_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        talk("<image><image>", image=["b", "a"], id=1),
        talk("Q", ""),
        talk("<image>", image="b", id="1"),
        talk(id=2),
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    index = open_index(path)
    assert index.status.tolist() == [0, 1 + REASONS.index(EMPTY_ANSWER), 0, 0]
    assert (index.turns.tolist(), index.answers.tolist()) == ([2, 0, 2, 2], [1, 0, 1, 1])
    assert [[index.name(image) for image in index.images_of(row)] for row in range(4)] == [["b", "a"], [], ["b"], []]
    assert index.has_own_id.tolist() == [True, False, False, True]
    owners, images = index.image_rows(np.array([3, 2, 0, 2]))
    assert [(owner, index.name(image)) for owner, image in zip(owners, images, strict=True)] == [
        (1, "b"), (2, "b"), (2, "a"), (3, "b")
    ]  # fmt: skip
    assert [part.tolist() for part in index.image_rows(np.zeros(0, np.int64))] == [[], []]


def columns_of(index: Index) -> list[Any]:
    own = [getattr(index, name).tolist() for name in index_._COLUMNS]
    offsets = index.offsets
    return [
        *own,
        index.digest,
        offsets.is_list,
        *(a.tolist() for a in (offsets.starts, offsets.lengths, offsets.numbers)),
    ]


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(talk(f"{n}", "A" * (n % 7), image=f"i{n % 5}")) for n in range(100)))
    return path


def test_many_processes_find_what_one_finds(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = open_index(chats)
    monkeypatch.setattr(index_, "_JOB_LINES", 9)
    monkeypatch.setattr("vistruct.data.loading.parallel.cores", lambda: 2)
    assert columns_of(open_index(chats)) == columns_of(alone)


def test_a_cached_index_is_the_index_and_nothing_is_parsed(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = chats.parent / "cache"
    made = open_index(chats, cache)
    monkeypatch.setattr(index_, "build_index", None)
    assert columns_of(open_index(chats, cache)) == columns_of(made) == columns_of(pickle.loads(pickle.dumps(made)))
    assert [file.name for file in cache.iterdir()] == [cache_file(cache, "lines", chats).name]


@pytest.mark.parametrize("change", ["content", "touched", "version"])
def test_a_cache_of_another_file_or_version_is_made_anew_and_said(
    chats: Path, change: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = chats.parent / "cache"
    open_index(chats, cache)
    if change == "content":
        chats.write_text(json.dumps(talk()))
    elif change == "touched":
        os.utime(chats, ns=(0, 1))
    else:
        monkeypatch.setattr("vistruct.data.loading.columns.VERSION", -1)
    assert columns_of(open_index(chats, cache)) == columns_of(open_index(chats))
    assert "out of date" in capsys.readouterr().err
    open_index(chats, cache)
    assert not capsys.readouterr().err


def test_any_flipped_byte_or_cut_of_a_cache_is_noticed(tmp_path: Path) -> None:
    path, columns = tmp_path / "a.npz", {"a": np.arange(5), "b": np.zeros(0, bool), "c": np.array("x")}
    write_columns(path, {"x": 1}, columns)
    kept = read_columns(path, {"x": 1})
    assert kept is not None
    assert {name: (v.tolist(), v.dtype) for name, v in kept.items()} == {
        n: (v.tolist(), v.dtype) for n, v in columns.items()
    }
    sound = path.read_bytes()
    for at in range(0, len(sound), 5):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x10]) + sound[at + 1 :])
        with pytest.raises(Stale):
            read_columns(path, {"x": 1})
        path.write_bytes(sound[:at])
        with pytest.raises(Stale):
            read_columns(path, {"x": 1})
    assert read_columns(tmp_path / "no.npz", {}) is None


def test_a_damaged_cache_is_made_anew_and_said(chats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = chats.parent / "cache"
    made = open_index(chats, cache)
    file = cache_file(cache, "lines", chats)
    file.write_bytes(file.read_bytes()[:-9])
    assert columns_of(open_index(chats, cache)) == columns_of(made)
    assert "damaged" in capsys.readouterr().err


def test_a_cache_that_cannot_be_kept_is_a_clear_error(chats: Path) -> None:
    (chats.parent / "file").touch()
    with pytest.raises(UserError, match="cannot be kept"):
        open_index(chats, chats.parent / "file")


def test_a_file_that_changes_under_way_is_an_error_and_never_another_line(chats: Path) -> None:
    index = open_index(chats)
    content = chats.read_text()
    chats.write_text(content[::-1])  # the same length, the same file
    os.utime(chats, ns=(0, index.offsets.mtime_ns + 1))
    with pytest.raises(UserError, match="changed"):
        index.offsets.read(0)
    chats.unlink()
    offsets_._opened.cache_clear()
    with pytest.raises(UserError, match="cannot read"):
        index.offsets.read(0)

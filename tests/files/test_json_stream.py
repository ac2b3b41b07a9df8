"""Json read an entry at a time says what json read whole says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vistruct.errors import UserError
from vistruct.files import json_stream
from vistruct.files.json_stream import json_entries, json_lines, json_list, json_members
from vistruct.issues import IssueCounter

VALUES = [{"a": [1, 2.5, {"b": ']},\\"'}]}, 17, "ä\n", None, [], {}, True, -1e5, "x" * 500]


@pytest.fixture(params=[1, 7, 2**16])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(json_stream, "_BLOCK", request.param)
    return request.param


@pytest.mark.parametrize("indent", [None, 1])
def test_entries_of_lists_are_those_of_json(tmp_path: Path, block: int, indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(VALUES, indent=indent, ensure_ascii=False))
    assert [value for _, value in json_list(path)] == VALUES
    path.write_text(json.dumps({"info": {"images": 1}, "n": 123, "images": VALUES, "z": []}, indent=indent))
    assert [value for _, value in json_list(path, "images")] == VALUES
    assert [where for where, _ in json_list(path, "images")][1] == f"{path}: images 2"
    assert [(name, value) for _, name, value in json_members(path)][1] == ("n", 123)


def test_lines_that_are_not_json_are_counted_and_the_others_are_read(tmp_path: Path) -> None:
    path, report = tmp_path / "a.jsonl", IssueCounter()
    path.write_text('{"a": 1}\n\n{"a": \n{"a": 3}')
    assert list(json_lines(path, report)) == [(f"{path}:1", {"a": 1}), (f"{path}:4", {"a": 3})]
    assert report.examples[json_stream.NOT_JSON] == [f"{path}:3"]
    assert list(json_entries(path, IssueCounter())) == list(json_lines(path, report))


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [('[1,\n2,\n{"a" 3}]', "not valid json", 3), ("[1,\n2", "not valid json", 2), ('{"a": 1}', "no list", None)],
)
def test_a_damaged_list_is_an_error_with_its_line(
    tmp_path: Path, block: int, text: str, what: str, line: int | None
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=what) as caught:
        list(json_list(path))
    assert line is None or caught.value.where.endswith(f"line {line}")


def test_of_a_long_list_only_an_entry_is_held(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "a.json"
    path.write_text("[" + ",".join(json.dumps({"n": n, "text": "x" * 200}) for n in range(20000)) + "]")
    tracemalloc.start()
    assert sum(value["n"] for _, value in json_list(path)) == 20000 * 19999 // 2
    assert tracemalloc.get_traced_memory()[1] < 1_500_000  # the file has 4.5 MB
    tracemalloc.stop()

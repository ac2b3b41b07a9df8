"""Pickles of plain values are read as Python reads them; whatever else one does is an error, and nothing is run."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vistruct.errors import UserError
from vistruct.files import plain_pickle
from vistruct.files.plain_pickle import read_plain_pickle

CANARY = "canary"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(CANARY).exists()


def read(data: bytes) -> Any:
    Path("x.pkl").write_bytes(data)
    return read_plain_pickle(Path("x.pkl"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(VALUES, st.integers(2, 5))
def test_plain_values_are_what_python_makes_of_them(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol=protocol)) == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "u1", "?", "<f2", ">u2"])
@pytest.mark.parametrize("shape", [(), (4,), (4, 2), (0, 3)])
def test_arrays_of_numbers_are_numpys(protocol: int, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape)) or 1)[: int(np.prod(shape))].reshape(shape).astype(dtype)
    for one in (array, np.asfortranarray(array), array[..., ::-1] if shape else array):
        found = read(pickle.dumps([one, {"a": one}], protocol=protocol))
        assert found[0].dtype == one.dtype
        assert np.array_equal(found[0], one)
        assert np.array_equal(found[1]["a"], one)


def test_numbers_of_numpy_are_numbers() -> None:
    assert read(pickle.dumps([np.int64(7), np.float32(0.5), np.bool_(True)])) == [7, 0.5, True]


def test_names_of_old_and_new_numpy_are_known() -> None:
    data = pickle.dumps(np.arange(3), protocol=4)
    old = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    frame = struct.pack("<Q", struct.unpack("<Q", data[3:11])[0] - (len(data) - len(old)))
    assert old != data
    assert read(old[:3] + frame + old[11:]).tolist() == [0, 1, 2]


class Calls:
    def __init__(self, function: Any, *args: Any) -> None:
        self.what = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what


def opcodes(*steps: bytes) -> bytes:
    return pickle.PROTO + b"\x04" + b"".join(steps) + pickle.STOP


def word(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


TOUCH = f"import pathlib; pathlib.Path({CANARY!r}).touch()"
DTYPE = word("numpy") + word("dtype") + b"\x93"
EVIL: dict[str, bytes] = {
    "system": pickle.dumps(Calls(os.system, f"touch {CANARY}")),
    "system in a mask": pickle.dumps([{"mask": {"counts": Calls(os.system, f"touch {CANARY}")}}]),
    "eval": pickle.dumps(Calls(eval, f"__import__('os').system('touch {CANARY}')")),
    "exec": pickle.dumps([Calls(exec, TOUCH)], protocol=2),
    "getattr": pickle.dumps(Calls(getattr, "x", "upper")),
    "of protocol 0": f"cposix\nsystem\n(S'touch {CANARY}'\ntR.".encode(),
    "instance": f"(iposix\nsystem\nS'touch {CANARY}'\n.".encode(),
    "object": f"(cposix\nsystem\nS'touch {CANARY}'\no.".encode(),
    "extension": opcodes(b"\x82\x01"),
    "persistent id": opcodes(b"K\x01Q"),
    "dotted name": opcodes(word("numpy"), word("core.os.system"), b"\x93", word("true"), b"\x85R"),
    "numpy's own loader": opcodes(word("numpy"), word("load"), b"\x93", word("x.pkl"), b"\x85R"),
    "a method of an array": opcodes(word("numpy"), word("ndarray.tofile"), b"\x93", word(CANARY), b"\x85R"),
    "array of objects": pickle.dumps(np.array([Calls(os.system, f"touch {CANARY}")], dtype=object)),
    "array of text": pickle.dumps(np.array(["ship"])),
    "array of records": pickle.dumps(np.zeros(2, [("a", "<i4")])),
    "array of dates": pickle.dumps(np.array(["2020-01-01"], "M8[D]")),
    "a class": pickle.dumps(Path("x")),
    "a set": pickle.dumps({1, 2}),
    "complex": pickle.dumps(1j),
    "state of a stand-in": opcodes(DTYPE, b"N}" + word("__init__") + b"K\x01s\x86b"),
    "a stand-in itself": opcodes(DTYPE),
    "an array never filled": opcodes(
        word("numpy.core.multiarray"), word("_reconstruct"), b"\x93", DTYPE, b"\x85R"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_nothing_is_run_and_it_is_said(name: str) -> None:
    before = dict(vars(plain_pickle)["_Dtype"].__dict__)
    with pytest.raises(UserError, match="damaged or could run code") as caught:
        read(EVIL[name])
    assert caught.value.where == "x.pkl"
    assert dict(vars(plain_pickle)["_Dtype"].__dict__) == before


def test_the_evil_pickle_does_run_where_it_is_unpickled() -> None:
    pickle.loads(EVIL["system"])
    assert Path(CANARY).exists()
    Path(CANARY).unlink()


def shaped(shape: tuple[int, ...], data: bytes) -> bytes:
    """An array that says another shape than it has."""
    buffer = io.BytesIO()
    make, args, state = np.zeros(2, np.uint8).__reduce__()

    class Lying:
        def __reduce__(self) -> tuple[Any, ...]:
            return make, args, (state[0], shape, state[2], state[3], data)

    pickle.Pickler(buffer, 4).dump(Lying())
    return buffer.getvalue()


def laughs(levels: int = 15, each: int = 300) -> bytes:
    """A list of lists of lists ..., each being one list many times."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value] * each
    return pickle.dumps(value, protocol=4)


HUGE: dict[str, bytes] = {
    "text": opcodes(b"\x8d" + struct.pack("<Q", 2**40)),
    "bytes": opcodes(b"\x8e" + struct.pack("<Q", 2**62)),
    "bytearray": opcodes(b"\x96" + struct.pack("<Q", 2**36)),
    "frame": opcodes(b"\x95" + struct.pack("<Q", 2**50)),
    "whole number": opcodes(b"\x8b" + struct.pack("<i", 2**31 - 1)),
    "shape": shaped((2**40,), b"\0\0"),
    "shape whose product is small": shaped((2**62, 0), b"\0\0"),
    "negative shape": shaped((-1,), b"\0\0"),
    "nested": pickle.PROTO + b"\x04" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "cycle": opcodes(b"]q\x00h\x00a"),
    "laughs of 17": laughs(17, 3),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_a_file_says_takes_no_memory_that_it_has_not(name: str) -> None:
    start = time.process_time()
    with pytest.raises(UserError, match="damaged or could run code"):
        read(HUGE[name])
    assert time.process_time() - start < 2


def test_numbers_of_the_memo_and_repeated_lists_take_neither_time_nor_memory() -> None:
    start = time.process_time()
    assert read(opcodes(b"]r" + struct.pack("<I", 2**31))) == []
    found = read(laughs(15))
    assert found[0] is found[299]
    assert time.process_time() - start < 2


def test_cut_and_changed_files_are_errors_or_plain() -> None:
    row = {"mask": {"size": [4, 5], "counts": "abc"}, "bbox": np.arange(4.0), "category": "ship", "label": 5}
    data = pickle.dumps([row] * 3, protocol=4)
    for end in range(len(data)):
        with pytest.raises(UserError):
            read(data[:end])
    generator = np.random.default_rng(0)
    for _ in range(400):
        changed = bytearray(data)
        for at in generator.integers(0, len(data), 3):
            changed[at] = generator.integers(256)
        with contextlib.suppress(UserError):
            read(bytes(changed))


def test_a_file_that_is_absent_a_folder_or_too_large_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder.pkl").mkdir()
    for name in ("absent.pkl", "folder.pkl"):
        with pytest.raises(UserError, match="cannot read"):
            read_plain_pickle(Path(name))
    monkeypatch.setattr(plain_pickle, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="at most 256 are read"):
        read(pickle.dumps("a" * 100))


@pytest.mark.parametrize("make", [lambda: b"", lambda: b"\x80", lambda: b"\x89PNG\r\n\x1a\n", lambda: b"{}"])
def test_what_is_no_pickle_is_an_error(make: Callable[[], bytes]) -> None:
    with pytest.raises(UserError):
        read(make())

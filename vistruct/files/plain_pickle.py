"""Pickles of lists, dicts, text, numbers and arrays of numbers, of which nothing is run.

A pickle is a program, and reading it the usual way runs whatever it names. Here it may only build plain values: the
steps it is made of are on a list, the few names of numpy that an array is written with are stand-ins of ours, and any
other name is an error. Nothing is imported, no function of the file's choice is called, and no memory is taken beyond
what the file itself has.

Python's own reader in its own language is what is restricted: its table of known numbers is a dict, where that of the
C reader grows to whatever number a file says.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.errors import UserError

MOST_BYTES = 2**28  # of a file
_NUMBERS = re.compile(r"[biuf](1|2|4|8)")  # as dtypes are written
_STEPS = (  # the opcodes of `pickle`
    b"\x80 \x95 . ( 0 1 2 N K J M \x8a \x8b G \x88 \x89 X \x8c \x8d B C \x8e \x96 U T ] l a e } d s u ) t"
    b" \x85 \x86 \x87 p q r \x94 g h j c \x93 R b I L F S V"  # the last four of Python 2
).split(b" ")
_BROKEN = (
    *(pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError),
    *(OverflowError, MemoryError, RecursionError, struct.error),
)


class _Dtype:
    """What `numpy.dtype` is written as."""

    def __init__(self, name: Any, *flags: Any) -> None:
        if not isinstance(name, str) or not _NUMBERS.fullmatch(name):
            raise pickle.UnpicklingError(f"an array of {name!r:.40}, and only numbers are read")
        self.name = name
        self.order: Any = "="

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "=")):
            raise pickle.UnpicklingError("a type of numbers that is none of numpy's")
        self.order = state[1]

    @property
    def made(self) -> np.dtype[Any]:
        return np.dtype(self.name).newbyteorder(self.order)


class _Array:
    """What an array is written as; `made` once it is filled."""

    made: np.ndarray | None = None

    def __init__(self, *empty: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise pickle.UnpicklingError("an array that is not written as numpy does")
        _, shape, dtype, is_by_column, data = state
        self.made = _array(data, dtype, shape, "F" if is_by_column else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    is_shape = isinstance(shape, tuple) and len(shape) <= 8 and all(type(side) is int and side >= 0 for side in shape)
    if not (is_shape and isinstance(dtype, _Dtype) and isinstance(data, bytes | bytearray) and order in ("C", "F")):
        raise pickle.UnpicklingError("an array that is not written as numpy does")
    if math.prod(shape) * dtype.made.itemsize != len(data):
        raise pickle.UnpicklingError(f"an array of shape {shape!r:.60} in {len(data)} bytes")
    return np.frombuffer(data, dtype.made).reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, ()).item()


def _reconstructed(*how: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    found = _Array()
    found.made = _array(data, dtype, shape, order)
    return found


def _encoded(text: Any, encoding: Any) -> bytes:
    """Bytes as protocol 2 writes them."""
    if not (isinstance(text, str) and encoding == "latin1"):
        raise pickle.UnpicklingError("bytes that are not written as Python does")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_MODULES = ("numpy.core", "numpy._core")
_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,
    **{(f"{top}.multiarray", "_reconstruct"): _reconstructed for top in _MODULES},
    **{(f"{top}.multiarray", "scalar"): _scalar for top in _MODULES},
    **{(f"{top}.numeric", "_frombuffer"): _from_buffer for top in _MODULES},
}
_PYTHON = vars(pickle)["_Unpickler"]


class _Reader(_PYTHON):
    dispatch = {step[0]: _PYTHON.dispatch[step[0]] for step in _STEPS}  # noqa: RUF012  # as in the class it is of

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.most = len(data)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code"[:200])
        return _NAMES[module, name]

    def load_bytearray(self) -> None:
        """Python's own takes as much memory as the file says before it looks whether so much is there."""
        size = int.from_bytes(self.read(8), "little")
        if size > self.most:
            raise pickle.UnpicklingError(f"{size} bytes in a file of {self.most}")
        self.append(self.read(size))

    def load_filled(self) -> None:
        """An array or its type is filled; nothing else has anything to be changed."""
        state = self.stack.pop()
        if type(self.stack[-1]) not in (_Array, _Dtype):
            raise pickle.UnpicklingError("it changes something that is no array")
        self.stack[-1].__setstate__(state)

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray
    dispatch[pickle.BUILD[0]] = load_filled


def read_plain_pickle(path: Path) -> Any:
    """Lists, dicts, tuples, text, bytes, numbers and arrays of numbers, as a pickle of protocol 0 to 5 has them.

    Raises:
        UserError: it cannot be read, is larger than 256 MiB, is damaged, or names anything else.
    """
    again = "copy or download it again"
    try:
        size = path.stat().st_size
        if not path.is_file():  # a pipe would be waited for
            raise UserError("cannot read: no file", where=path, fix=again)
        if size > MOST_BYTES:
            raise UserError(f"a pickle of {size / 2**20:.0f} MiB, and at most 256 are read", where=path, fix=again)
        with path.open("rb") as file:
            data = file.read(MOST_BYTES)
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=path, fix="check path and permissions") from error
    try:
        return _plain(_Reader(data).load(), {})
    except _BROKEN as error:
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, KeyError):
            said = "it has steps that no plain values are made of, or is damaged"
        raise UserError(
            f"not read, because it is damaged or could run code: {said:.200}", where=path, fix=again
        ) from error


def _plain(value: Any, seen: dict[int, Any], depth: int = 0) -> Any:
    """With arrays in the place of what stood in for them; what is neither is an error.

    Args:
        seen: what became of lists and dicts, so that one that is in many others is gone through once.
    """
    if depth > 16:
        raise pickle.UnpicklingError("values in values, deeper than 16")
    if value is None or isinstance(value, str | bytes | bytearray | bool | int | float):
        return value
    if isinstance(value, _Array):
        if value.made is None:
            raise pickle.UnpicklingError("an array without its numbers")
        return value.made
    if not isinstance(value, list | tuple | dict):
        raise pickle.UnpicklingError(f"a {type(value).__name__}, which is no plain value")
    if id(value) not in seen:
        if isinstance(value, dict):
            seen[id(value)] = {_plain(key, seen, depth + 1): _plain(one, seen, depth + 1) for key, one in value.items()}
        else:
            seen[id(value)] = type(value)([_plain(one, seen, depth + 1) for one in value])
    return seen[id(value)]

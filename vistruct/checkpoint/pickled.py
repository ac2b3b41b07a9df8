"""The tensors of a foreign pickle (.pt, .pth, .bin, .ckpt), of which nothing is run.

Training scripts write more than tensors: an argparse Namespace, an optimiser, paths, numbers of numpy, some library's
configuration, or the module itself. Here only what makes a tensor is called; whatever else the file names becomes an
empty stand-in that takes what is put into it and does nothing. So no class has to be known, or trusted.
"""

from __future__ import annotations

import collections
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from vistruct.errors import UserError

_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt"}
_BROKEN = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(AssertionError, OverflowError, MemoryError, struct.error, zipfile.BadZipFile),
)
# Nothing of these would be run either, but no file of weights has a use for them.
_RUN = {
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "shutil",
    "socket",
    "importlib",
    "runpy",
    "ctypes",
    "pickle",
    "marshal",
}
_PLAIN = {
    *("set", "frozenset", "bytearray", "bytes", "complex", "slice", "range", "object", "type", "list", "dict", "tuple"),
    *("str", "int", "float", "bool", "property", "Exception", "long", "unicode", "xrange"),
}
_WEIGHTS = ("state_dict", "model", "module")  # what the entry of the weights is called, the first that is there
_TRAINING = re.compile(r"(optim|.*scaler|.*scheduler|loops|callbacks)", re.IGNORECASE)  # entries that are no weights


class Inert(dict[Any, Any]):
    """An object of any class of the file's, of which nothing is called; a mapping, for many are."""

    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    __hash__ = object.__hash__  # some are keys

    def __eq__(self, other: object) -> bool:
        return self is other

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...

    def add(self, item: Any) -> None: ...


def _of_type(make: Any, kind: Any, args: Any, state: Any) -> Any:
    return make(*args)  # `make` is one of those below or inert


def _parameter(data: Tensor, requires_grad: bool, hooks: Any, state: Any = None) -> Tensor:
    return data


_CALLED = {
    ("torch._utils", "_rebuild_tensor"): vars(torch._utils)["_rebuild_tensor"],
    ("torch._utils", "_rebuild_tensor_v2"): vars(torch._utils)["_rebuild_tensor_v2"],
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CALLED:
            return _CALLED[module, name]
        module = "builtins" if module == "__builtin__" else module  # Python 2 and old protocols call it so
        top = module.partition(".")[0]
        if top in _RUN or (top == "builtins" and name not in _PLAIN and not name.endswith("Error")):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        return type(name, (Inert,), {"__module__": module})


def _load(file: Any, **settings: Any) -> Any:
    return _Unpickler(file, **settings).load()


def is_pickled(source: Path) -> bool:
    """Whether a file is a pickle or an archive with one, by its first bytes; where these say nothing, by its name."""
    with source.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # a safetensors file, whatever it is called
        return False
    return start[:1] == b"\x80" or start[:4] == b"PK\x03\x04" or source.suffix in _SUFFIXES


def read_pickled(source: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file of torch's, by name; and in words what else is in it.

    Raises:
        UserError: as `read_with_classes`.
    """
    return read_with_classes(source)[:2]


def read_with_classes(source: Path) -> tuple[dict[str, Tensor], list[str], tuple[str, ...] | None]:
    """As `read_pickled`, and the names of the classes where the mm toolboxes have left them beside the weights.

    Raises:
        UserError: a damaged file; one that names what could run code; a program; no tensors.
    """
    _check_no_program(source)
    module: Any = SimpleNamespace(__name__="vistruct", Unpickler=_Unpickler, load=_load)
    try:
        with source.open("rb") as file:
            values = torch.load(file, map_location="cpu", weights_only=False, pickle_module=module)
        state, notes = _weights(values)
    except _BROKEN as error:
        said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
        raise UserError(
            f"not read, because it is damaged or could run code: {said[0] if said else type(error).__name__}",
            where=source,
            fix="copy or download it again; or, where you trust it, save its state dict alone as safetensors",
        ) from error
    if not state:
        held = f"it holds {_said(values)}" if isinstance(values, Mapping) else f"it is {_kind(values)}"
        fix = "save the state dict of the model: torch.save(model.state_dict(), FILE)"
        raise UserError(f"no tensors by name in this file: {held}", where=source, fix=fix)
    return state, notes, _class_names(values)


def _class_names(values: Any) -> tuple[str, ...] | None:
    """What mmcv, and since then mmengine, keep of the training data."""
    meta = values.get("meta") if isinstance(values, Mapping) else None
    if not isinstance(meta, Mapping):
        return None
    for place in (meta.get("dataset_meta"), meta):
        for key in ("classes", "CLASSES"):
            names = place.get(key) if isinstance(place, Mapping) else None
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return None


def _check_no_program(source: Path) -> None:
    if not zipfile.is_zipfile(source):
        return
    try:
        with zipfile.ZipFile(source) as archive:
            is_program = any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return  # the reader says so
    if is_program:
        fix = "where you trust it: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        raise UserError("this is a program (TorchScript) and no file of weights", where=source, fix=fix)


def _weights(values: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in what a script has saved; and what else is there."""
    entries = _entries(values)
    named = {key: _flat(value) for key, value in entries.items() if not isinstance(value, Tensor)}
    named = {key: state for key, state in named.items() if state and not _TRAINING.match(key)}
    chosen = next((key for key in _WEIGHTS if key in named), None)
    own = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    if chosen is None and not own and len(named) == 1:
        (chosen,) = named
    if chosen is not None:
        inner, notes = _weights(entries[chosen])
        rest = {key: value for key, value in entries.items() if key != chosen}
        said = [f"read: its {chosen!r}" + (f"; not read: {_said(rest)}" if rest else "")]
        return inner or named[chosen], said + notes
    if own and not isinstance(values, Inert):
        rest = {key: value for key, value in entries.items() if key not in own}
        return own, [f"not read: {_said(rest)}"] if rest else []
    state = {f"{key}.{name}": value for key, inner in named.items() for name, value in inner.items()}
    rest = {key: value for key, value in entries.items() if key not in named}
    return own | state, [f"not read: {_said(rest)}"] if rest and not isinstance(values, Inert) else []


def _entries(value: Any) -> dict[str, Any]:
    """What is in a mapping, or in a module that was saved whole: its parameters, buffers and modules."""
    state = value.state if isinstance(value, Inert) else None
    if isinstance(state, dict) and "_modules" in state:
        hidden = state.get("_non_persistent_buffers_set") or ()
        parts = [state.get(name) or {} for name in ("_parameters", "_buffers", "_modules")]
        return {str(k): v for part in parts for k, v in part.items() if v is not None and k not in hidden}
    return {str(key): inner for key, inner in value.items()} if isinstance(value, Mapping) else {}


def _flat(value: Any) -> dict[str, Tensor]:
    """All tensors below, by their dotted names."""
    found: dict[str, Tensor] = {}
    for key, inner in _entries(value).items():
        if isinstance(inner, Tensor):
            found[key] = inner
        else:
            found |= {f"{key}.{name}": tensor for name, tensor in _flat(inner).items()}
    return found


def _said(entries: Mapping[Any, Any]) -> str:
    names = [f"{key} ({_kind(value)})" if isinstance(value, Inert) else str(key) for key, value in entries.items()]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")

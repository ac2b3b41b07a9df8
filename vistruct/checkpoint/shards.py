"""The tensors of a public model's folder: one safetensors file, or several with an index that says what is where.

    model.safetensors
    model-00001-of-00002.safetensors  ...  model.safetensors.index.json   {"weight_map": {tensor: file}}

The index alone decides what belongs to the model; what else lies in the folder is not mixed in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vistruct.checkpoint.tensors import no_room, read_tensors, write_tensors
from vistruct.errors import UserError
from vistruct.files.json_files import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
AGAIN = "copy or download the folder again"


def has_tensors(folder: Path) -> bool:
    """Whether a folder holds any safetensors at all."""
    return (folder / INDEX).is_file() or any(folder.glob("*.safetensors"))


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of the model in a folder.

    Raises:
        UserError: nothing there, or several files without an index; a file or tensor that the index names is not there;
            a file that is cut short.
    """
    out: dict[str, Tensor] = {}
    for file, names in _files(folder).items():
        found = read_tensors(file)
        absent = sorted(names - found.keys())
        if absent:
            what = f"{file.name} has no {absent[0]}, which the index says it has ({len(absent)} such tensors)"
            raise UserError(what, where=folder / INDEX, fix=AGAIN)
        out |= {name: found[name] for name in (names or found)}
    return out


def names_in(folder: Path) -> frozenset[str]:
    """The names of the tensors of the model in a folder, without reading them.

    Raises:
        UserError: as `read_folder`, but that nothing is known of what the files hold where there is an index.
    """
    files = _files(folder)
    if (folder / INDEX).is_file():
        return frozenset[str]().union(*files.values())
    try:
        with safe_open(next(iter(files)), framework="pt") as file:
            return frozenset(file.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(f"not a whole safetensors file: {error}", where=next(iter(files)), fix=AGAIN) from error


def write_shards(folder: Path, tensors: Mapping[str, Tensor], max_bytes: int) -> None:
    """Write one file if it is small enough, else several and their index; in the order of the names given.

    Args:
        folder: is there, and holds no tensors yet.
        max_bytes: of one file; a single tensor that is larger gets a file of its own.

    Raises:
        UserError: no room.
    """
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        needed = tensor.numel() * tensor.element_size()
        if shards[-1] and size + needed > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += needed
    if len(shards) == 1:
        write_tensors(folder / SINGLE, shards[0])
        return
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / name, shard)
        placed |= dict.fromkeys(shard, name)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    try:
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": placed}, indent=2)
        (folder / INDEX).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise no_room(error, folder) from error


def _files(folder: Path) -> dict[Path, set[str]]:
    """Each file to read, with the tensors that it must have; an empty set: whatever it has."""
    index = folder / INDEX
    if index.is_file():
        return _indexed(index)
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: set()}
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return {found[0]: set()}
    if found:
        names = ", ".join(file.name for file in found[:3])
        what = f"{len(found)} safetensors files ({names}{', ...' if len(found) > 3 else ''}) and no {INDEX}"
        raise UserError(what, where=folder, fix="name the one file that is meant, or put the index beside them")
    raise UserError("no safetensors file here", where=folder, fix="give a folder with model.safetensors")


def _indexed(index: Path) -> dict[Path, set[str]]:
    try:
        pairs = [(str(name), str(file)) for name, file in read_json(index)["weight_map"].items()]
    except (UserError, KeyError, TypeError, AttributeError) as error:
        raise UserError("not an index of safetensors files", where=index, fix=AGAIN) from error
    files: dict[Path, set[str]] = {}
    for name, file in pairs:
        if Path(file).name != file:  # it could point anywhere
            raise UserError(f"the index names {file!r}, which is not a file beside it", where=index, fix=AGAIN)
        files.setdefault(index.parent / file, set()).add(name)
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        what = f"{absent[0]} is missing ({len(absent)} of {len(files)} files that the index names)"
        raise UserError(what, where=index.parent, fix=AGAIN)
    if not files:
        raise UserError("the index names no tensor", where=index, fix=AGAIN)
    return files

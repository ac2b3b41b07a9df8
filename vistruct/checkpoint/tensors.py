"""Tensors by name in one safetensors file: ours are never pickles.

safetensors refuses two names for one memory, so a tied weight is written once and its other names go into the
header.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vistruct.errors import UserError


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write and fsync; a reader never sees half a file only if the caller renames it into place afterwards.

    Args:
        tensors: on any device, any strides; names of one and the same memory are tied again by
            `read_tensors`.

    Returns:
        the file's sha256.

    Raises:
        UserError: no room, or no right to write.
    """
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_name: dict[tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype], str] = {}
    for name, tensor in tensors.items():
        memory = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and memory in first_name:
            aliases[name] = first_name[memory]
            continue
        first_name[memory] = name
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        kept[name] = tensor.detach().contiguous() if whole else tensor.detach().clone().contiguous()
    try:
        path.touch()  # with the rights that files have here: the library's own are for nobody else
        rights = path.stat().st_mode
        # One entry only: the library writes several in random order, and equal tensors should be equal files.
        save_file(kept, path, metadata={"aliases": json.dumps(aliases)} if aliases else {"format": "pt"})
        path.chmod(rights)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        return sha256(path)
    except (OSError, SafetensorError) as error:
        raise no_room(error, path) from error


def read_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read what `write_tensors` or any other safetensors writer wrote.

    Raises:
        UserError: not there, or not a whole safetensors file.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is not a dict
            aliases = (file.metadata() or {}).get("aliases", "{}")
    except FileNotFoundError:
        raise UserError("no such file", where=path, fix="check the path") from None
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"not a whole safetensors file: {error}", where=path, fix="copy or download the file again"
        ) from error
    try:
        names = TypeAdapter(dict[str, str]).validate_json(aliases)
        return tensors | {name: tensors[kept] for name, kept in names.items()}
    except (ValidationError, KeyError) as error:
        what = "the tied tensors that its header names are not in this file"
        raise UserError(what, where=path, fix="copy or download the file again") from error


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def no_room(error: Exception, path: Path) -> UserError:
    """The three lines for a write that failed; the reason decides the way out."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    full = full or any(f"os error {code})" in str(error) for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT))
    if full:
        fix = "free some space and run the same command again: it resumes from the last checkpoint"
        return UserError("the disk is full", where=path, fix=fix)
    return UserError(f"cannot write: {error}", where=path, fix="check that the place exists and may be written to")

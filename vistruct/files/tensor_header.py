"""The header of a safetensors file, without its tensors."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from vistruct.errors import UserError

LARGEST = 100_000_000  # bytes; the format's own limit
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Placed(TypedDict):
    """A tensor's type, shape, and first and last byte behind the header."""

    dtype: str
    shape: list[Count]
    data_offsets: tuple[Count, Count]


_ANY, _METADATA, _TENSORS = TypeAdapter(dict[str, Any]), TypeAdapter(dict[str, str]), TypeAdapter(dict[str, Placed])


def read_header(file: Path) -> tuple[dict[str, str], dict[str, Placed]]:
    """Its metadata, and its tensors by name.

    Raises:
        UserError: not such a file, or one that was cut short.
    """
    broken = UserError("not a whole safetensors file", where=file, fix="copy or download it again")
    if not file.is_file():
        raise UserError("no such file, or no file", where=file, fix="give a .safetensors file")
    with file.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise broken
        (size,) = struct.unpack("<Q", start)
        if size > LARGEST:
            raise broken
        try:
            values = _ANY.validate_json(stream.read(size))
            metadata = _METADATA.validate_python(values.pop("__metadata__", None) or {})
            header = _TENSORS.validate_python(values)
        except ValidationError as error:
            raise broken from error
    end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if file.stat().st_size < 8 + size + end:
        raise broken
    return metadata, header

"""Reading json with clear errors; what is of ours, through a schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from vistruct.errors import UserError
from vistruct.files.text import read_text

T = TypeVar("T")


def read_json(path: Path) -> Any:
    """What a json file says.

    Raises:
        UserError: no such file, not text, or not json (with line and column).
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}, column {error.colno}"
        raise UserError(f"not valid json: {error.msg}", where=where, fix="correct or write the file again") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        what, fix = "not readable json: nested too deeply, or a number too long", "correct or write the file again"
        raise UserError(what, where=path, fix=fix) from error


def read_record(path: Path, kind: type[T], fix: str = "copy it again, whole") -> T:
    """What a json file of ours says, as the schema has it: a model of pydantic, or a type such as dict[str, float].

    Raises:
        UserError: as `read_json`; or something is missing or of another type.
    """
    values = read_json(path)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if not first["loc"] and first["type"] in ("dict_type", "model_type"):
            raise UserError("not a json object", where=path, fix=fix) from error
        place = ".".join(str(part)[:80] for part in first["loc"])
        raise UserError(f"{place + ': ' if place else ''}{first['msg']}", where=path, fix=fix) from error


def read_cached(path: Path, kind: type[T]) -> T | None:
    """As `read_record`; None where there is no such file, or a damaged one: what it kept can be made again."""
    try:
        return read_record(path, kind)
    except UserError:
        return None

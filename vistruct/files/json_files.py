"""Reading json with clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vistruct.errors import UserError
from vistruct.files.text import read_text


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
        raise UserError("not readable json: nested too deeply, or a number too long", where=path) from error

"""YAML as every file of ours is read: 1.2's booleans, three lines where it is none, no file that is something else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from vistruct.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans, true and false alone: `amp: off` and `vrl: off` are words and not the number zero."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False|TRUE|FALSE)$"), list("tTfF")
)


def from_yaml(text: str) -> Any:
    """Values as every file of ours is read; what is no YAML is a yaml.YAMLError."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:  # of the library's makers
        raise yaml.YAMLError(f"a value that is no date, number or text: {error}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file of ours.

    Raises:
        UserError: no such file, not text, no YAML, or something else than keys and values.
    """
    try:
        values = from_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError("no such file", where=path, fix="give the path of a run.yaml or study.yaml") from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text: {error}", where=path, fix="save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=path, fix="give a file that you may read") from error
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {error}", where=path, fix="correct the file") from error
    if not isinstance(values, dict):
        fix = "`vistruct train RECIPE --dry-run` prints one"
        raise UserError("this file holds keys and values", where=path, fix=fix)
    return values


def run_file_at(path: Path) -> Path | None:
    """The run file that a path means: itself, or that of a run directory; None: it is something else."""
    file = path / "run.yaml" if path.is_dir() else path
    if file.suffix not in (".yaml", ".yml") or not file.is_file():
        return None
    try:
        values = from_yaml(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        return file if file.name == "run.yaml" else None  # its reader says what is wrong
    return file if isinstance(values, dict) and ("task" in values or "streams" in values) else None

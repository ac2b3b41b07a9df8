"""A run with single values changed, as they are typed after `--set`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from vistruct.config import Part, Run, run_from_dict
from vistruct.errors import UserError, closest
from vistruct.read_yaml import from_yaml


def settings_of(set: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """`a.b=c` of each, as `with_settings` takes them; values of a mapping as json, which is YAML."""
    if not isinstance(set, Mapping):
        return [set] if isinstance(set, str) else list(set)
    return [f"{name}={json.dumps(value, default=str)}" for name, value in set.items()]


def with_settings(run: Run, settings: list[str]) -> Run:
    """Apply `a.b=c`, c read as YAML. Mappings take new names; parts have their fields, and are made where none is.

    Raises:
        UserError: a path that does not exist (with the closest one), or a value that does not fit.
    """
    values, made = run.model_dump(mode="json"), set[int]()
    kinds: dict[str, dict[str, Any]] = {}  # parts whose kind is set, by what would set them whole
    for setting in settings:
        path, sep, text = setting.partition("=")
        if not sep:
            raise UserError(f"--set wants a.b=c, got {setting!r}", fix=f"--set {setting}=VALUE")
        at: Any = values
        own: Any = run if len(run.streams) > 1 else {**vars(run.only), **vars(run)}  # the same place, in parts
        *parents, last = path.split(".")
        for depth, key in enumerate([*parents, last]):
            if isinstance(at, list) and key.isdigit() and int(key) < len(at):
                key = int(key)
            is_new_name = id(at) in made or (0 < depth == len(parents) and isinstance(own, dict))
            if isinstance(key, str) and not (isinstance(at, dict) and (key in at or is_new_name)):
                raise UserError(
                    f"no setting {path!r}: {'.'.join(path.split('.')[:depth]) or 'the run'} has no {key!r}",
                    where=f"--set {setting}",
                    fix=closest(key, map(str, at if isinstance(at, dict) else ())),
                )
            if depth == len(parents):
                try:
                    is_text = isinstance(at, dict) and isinstance(at.get(key), str)
                    at[key] = "" if is_text and not text else from_yaml(text)
                    if key == "kind" and isinstance(at, dict):
                        kinds[f"--set '{'.'.join(parents)}={{kind: {text}}}'"] = at
                except yaml.YAMLError as error:
                    what = f"a value that is no YAML: {text}"
                    raise UserError(what, where=f"--set {path}", fix="close every bracket and quote") from error
            else:
                if isinstance(at, dict) and at.get(key) is None:
                    at[key] = {}
                    made.add(id(at[key]))
                at = at[key]
                inside: Any = vars(own) if isinstance(own, Part) else own
                own = inside.get(key) if isinstance(inside, dict) else None
    try:
        return run_from_dict(values, "--set")
    except UserError as error:
        raise _of_another_kind(error, values, kinds) from error


def _of_another_kind(error: UserError, values: dict[str, Any], kinds: dict[str, dict[str, Any]]) -> UserError:
    """The same error; where a part keeps what another kind of it was told, with the setting of the whole part."""
    for part in kinds.values():
        for key in part.keys() - {"kind"}:
            del part[key]
    try:
        run_from_dict(values)
    except UserError:
        return error
    return UserError(error.what, where=error.where, fix=" ".join(kinds) or error.fix)

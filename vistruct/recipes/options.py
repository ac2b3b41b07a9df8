"""A recipe's keyword arguments as command-line options: `recipe(*, data: Path)` takes `--data PATH`."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NewType

from vistruct.errors import UserError, closest

Named = NewType("Named", str)  # NAME=VALUE, about one of several things; an option that takes them is repeated


def parse(recipe: Callable[..., Any], args: Sequence[str], known_elsewhere: Sequence[str] = ()) -> dict[str, Any]:
    """Turn `--name value`, `--name=value`, `--flag` and `--no-flag` into the recipe's keyword arguments.

    Args:
        recipe: a function with keyword arguments and type hints.
        args: what the command line left over.
        known_elsewhere: options of the command itself, so that a typo in one of them is recognised.

    Raises:
        UserError: an unknown option (with the closest one), a value that does not fit, a file that is not
            there, an option that is needed and missing.
    """
    parameters = inspect.signature(recipe).parameters
    hints = typing.get_type_hints(recipe)
    kwargs: dict[str, Any] = {}
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UserError(f"{word!r} is not an option", fix="options are --name value")
        flag, has_value, text = word.partition("=")
        name = flag[2:].replace("-", "_")
        if name.startswith("no_") and name not in parameters and hints.get(name[3:]) is bool:
            kwargs[name[3:]] = False
            continue
        if name not in parameters:
            options = [option(n) for n in parameters] + list(known_elsewhere)
            raise UserError(f"no option {flag!r}", fix=closest(flag, options))
        if hints[name] is bool and not has_value:
            kwargs[name] = True
            continue
        if not has_value:
            if not rest:
                raise UserError(f"{flag} needs a value", fix=f"{flag} {describe_type(hints[name])}")
            text = rest.pop(0)
        if Named in typing.get_args(hints[name]):
            kwargs[name] = (*kwargs.get(name, ()), Named(text))
            continue
        kwargs[name] = convert(text, hints[name], flag)
    missing = [option(n) for n, p in parameters.items() if p.default is p.empty and n not in kwargs]
    if missing:
        fix = " ".join(f"{m} {describe_type(hints[m[2:].replace('-', '_')])}" for m in missing)
        raise UserError(f"needs {', '.join(missing)}", fix=f"add {fix}")
    return kwargs


def convert(text: str, hint: Any, flag: str) -> Any:
    """A word of the command line as the type that is wanted; lists may be written 1,2,3.

    Args:
        flag: what stands before the word: an option, or `--option NAME=` where the word is a part of its value.

    Raises:
        UserError: it does not fit, or it names a file that is not there.
    """
    import yaml
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(hint)
    try:
        value = adapter.validate_strings(text)
    except ValidationError as first:
        try:  # `[1, 2]` and `1,2` are not strings of anything
            is_list = "[" not in text and ("," in text or _takes_a_list(hint))
            value = adapter.validate_python(yaml.safe_load(f"[{text}]" if is_list else text))
        except (ValidationError, yaml.YAMLError):
            what = f"{flag.removesuffix('=')}: {first.errors()[0]['msg']}, got {text!r}"
            raise UserError(what, fix=f"{flag}{'' if flag.endswith('=') else ' '}{describe_type(hint)}") from None
    if isinstance(value, Path) and not value.exists():  # the paths that recipes take are all read
        raise UserError(f"{flag.removesuffix('=')}: no such file or directory", where=value, fix=_nearby(value))
    return value


def _takes_a_list(hint: Any) -> bool:
    """Whether it is a tuple or list, or may be one: a single value is then a list of one."""
    arguments = typing.get_args(hint)
    return typing.get_origin(hint) in (tuple, list) or any(_takes_a_list(a) for a in arguments if a is not Ellipsis)


def help_rows(recipe: Callable[..., Any]) -> list[tuple[str, str, str]]:
    """For each option: its name, its type, its default (`needed` where there is none)."""
    hints = typing.get_type_hints(recipe)
    return [
        (option(name), describe_type(hints[name]), "needed" if p.default is p.empty else f"{p.default}")
        for name, p in inspect.signature(recipe).parameters.items()
    ]


def option(name: str) -> str:
    """`val_data` -> `--val-data`."""
    return f"--{name.replace('_', '-')}"


def describe_type(hint: Any) -> str:
    """How a value of this type is written: PATH, INT, a|b, ..."""
    arguments = [a for a in typing.get_args(hint) if a not in (type(None), Ellipsis)]
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, arguments))
    if Named in arguments:
        return "NAME=VALUE (repeatable)"
    if typing.get_origin(hint) in (tuple, list):
        return ",".join([describe_type(a) for a in arguments] + ["..."] * (len(arguments) == 1))
    if arguments:  # a union, most often with None
        return "|".join(dict.fromkeys(describe_type(a) for a in arguments))
    return {bool: "true|false", str: "TEXT"}.get(hint, (hint.__name__ if isinstance(hint, type) else str(hint)).upper())


def _nearby(path: Path) -> str:
    """What lies where the file was looked for."""
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    names = [p.name for p in sorted(parent.iterdir())[:200]] if parent.is_dir() else []
    sentence = closest(path.name, names) if parent == path.parent and names else ""
    return sentence if sentence.startswith("did you mean") else f"there is {str(parent.resolve())!r}; look inside"

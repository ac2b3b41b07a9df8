"""A recipe's keyword arguments as command-line options: `recipe(*, data: Path)` takes `--data PATH`.

An argument that is a group of options (a dataclass, such as `reading: Reading`) stands for its fields: `--classes a,b`.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vistruct.checkpoint.catalogue.find import entry_of, near
from vistruct.checkpoint.catalogue.here import found_or_told
from vistruct.data.reading import Named
from vistruct.errors import UserError, closest

OF_WEIGHTS = ("backbone",)  # options that also take a name of public weights, of any recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One thing that a recipe can be told."""

    hint: Any
    default: Any  # `inspect.Parameter.empty`: it must be told
    group: str | None = None  # the argument of which it is a field

    @property
    def is_needed(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty


def options_of(recipe: Callable[..., Any]) -> dict[str, Option]:
    """All that a recipe can be told, by name; groups by their fields."""
    hints = typing.get_type_hints(recipe)
    found: dict[str, Option] = {}
    for name, parameter in inspect.signature(recipe).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            own = typing.get_type_hints(hints[name])
            fields = dataclasses.fields(hints[name])
            usual = {one.name: one.default for one in fields}
            if parameter.default is not inspect.Parameter.empty:
                usual |= vars(parameter.default)
            found |= {one.name: Option(hint=own[one.name], default=usual[one.name], group=name) for one in fields}
        else:
            found[name] = Option(hint=hints[name], default=parameter.default)
    return found


def called(recipe: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """What a recipe gives for the values of its options, groups put together."""
    options, hints = options_of(recipe), typing.get_type_hints(recipe)
    grouped: dict[str, dict[str, Any]] = {}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        group = options[name].group
        (arguments if group is None else grouped.setdefault(group, {}))[name] = value
    usual = {name: one.default for name, one in inspect.signature(recipe).parameters.items()}
    for group, own in grouped.items():
        has_default = usual[group] is not inspect.Parameter.empty
        arguments[group] = dataclasses.replace(usual[group], **own) if has_default else hints[group](**own)
    return recipe(**arguments)


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
    known = options_of(recipe)
    kwargs: dict[str, Any] = {}
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UserError(f"{word!r} is not an option", fix="options are --name value")
        flag, has_value, text = word.partition("=")
        name = flag[2:].replace("-", "_")
        if name.startswith("no_") and name not in known and name[3:] in known and known[name[3:]].hint is bool:
            kwargs[name[3:]] = False
            continue
        if name not in known:
            options = [option(n) for n in known] + list(known_elsewhere)
            raise UserError(f"no option {flag!r}", fix=closest(flag, options))
        hint = known[name].hint
        if hint is bool and not has_value:
            kwargs[name] = True
            continue
        if not has_value:
            if not rest:
                raise UserError(f"{flag} needs a value", fix=f"{flag} {describe_type(hint)}")
            text = rest.pop(0)
        if Named in typing.get_args(hint):
            kwargs[name] = (*kwargs.get(name, ()), Named(text))
            continue
        kwargs[name] = convert(text, hint, flag, is_named=name in OF_WEIGHTS)
    missing = [name for name, one in known.items() if one.is_needed and name not in kwargs]
    if missing:
        fix = " ".join(f"{option(name)} {describe_type(known[name].hint)}" for name in missing)
        raise UserError(f"needs {', '.join(map(option, missing))}", fix=f"add {fix}")
    return kwargs


def taken(
    recipe: Callable[..., Any], given: Mapping[str, Any], known_elsewhere: Sequence[str] = (), asked: str = ""
) -> dict[str, Any]:
    """Values given in Python as a recipe's keyword arguments: of the types that it wants, or as text, which is read as
    that of the command line. `join` and its like may be a mapping.

    Args:
        given: by name.
        known_elsewhere: keywords of the caller itself, so that a typo in one of them is recognised.
        asked: who asks, for errors.

    Raises:
        UserError: as `parse`.
    """
    from pydantic import TypeAdapter, ValidationError

    known = options_of(recipe)
    kwargs: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            fix = closest(name, [*known, *known_elsewhere])
            raise UserError(f"no option {name!r}", where=asked, fix=fix)
        hint = known[name].hint
        if Named in typing.get_args(hint):
            kwargs[name] = tuple(Named(one) for one in named_words(value))
        elif isinstance(value, str | Path):
            kwargs[name] = convert(str(value), hint, f"{name}=", is_named=name in OF_WEIGHTS)
        else:
            try:
                kwargs[name] = TypeAdapter(hint).validate_python(value)
            except ValidationError as error:
                what = f"{name}: {error.errors()[0]['msg']}, got {value!r}"
                raise UserError(what, where=asked, fix=f"{name}={describe_type(hint)}") from None
    missing = [name for name, one in known.items() if one.is_needed and name not in kwargs]
    if missing:
        fix = ", ".join(f"{name}={describe_type(known[name].hint)}" for name in missing)
        raise UserError(f"needs {', '.join(missing)}", where=asked, fix=f"add {fix}")
    return kwargs


def named_words(value: Any) -> list[str]:
    """`NAME=VALUE` of each, as it is typed: of a mapping (a value may be several), of one text, of a list of texts."""
    if isinstance(value, Mapping):
        lists = {name: one if isinstance(one, list | tuple) else [one] for name, one in value.items()}
        return [f"{name}={','.join(map(str, one))}" for name, one in lists.items()]
    return [value] if isinstance(value, str) else [str(one) for one in value]


def convert(text: str, hint: Any, flag: str, *, is_named: bool = False) -> Any:
    """A word of the command line as the type that is wanted; lists may be written 1,2,3.

    Args:
        flag: what stands before the word: an option, or `--option NAME=` where the word is a part of its value.
        is_named: a path may also be a name of public weights, and then stays one.

    Raises:
        UserError: it does not fit, or it names a file or weights that are not there.
    """
    import yaml
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(hint)
    is_list = "[" not in text and ("," in text or _takes_a_list(hint))
    words = [word.strip() for word in text.split(",")]  # as they are: YAML would make a truth of `no`
    told = ""
    for way in (
        lambda: adapter.validate_strings(text),
        lambda: adapter.validate_python(words if is_list else text),
        lambda: adapter.validate_python(yaml.safe_load(f"[{text}]" if is_list else text)),  # `[1, 2]`, `null`
    ):
        try:
            value = way()
            break
        except ValidationError as error:
            told = error.errors()[0]["msg"] if is_list or not told else told
        except yaml.YAMLError:
            continue
    else:
        what = f"{flag.removesuffix('=')}: {told}, got {text!r}"
        raise UserError(what, fix=f"{flag}{'' if flag.endswith('=') else ' '}{describe_type(hint)}")
    if not isinstance(value, Path) or value.exists():  # the paths that recipes take are all read
        return value
    entry = entry_of(value) if is_named else None
    if entry is None:
        name = near(text) if is_named else None
        what = f"{flag.removesuffix('=')}: no such file or directory" + (", and no such weights" if is_named else "")
        fix = f"did you mean {name!r}? `vistruct weights` lists the names" if name else _nearby(value)
        raise UserError(what, where=value, fix=fix)
    found_or_told(entry)
    return value


def _takes_a_list(hint: Any) -> bool:
    """Whether it is a tuple or list, or may be one: a single value is then a list of one."""
    arguments = typing.get_args(hint)
    return typing.get_origin(hint) in (tuple, list) or any(_takes_a_list(a) for a in arguments if a is not Ellipsis)


def help_rows(recipe: Callable[..., Any]) -> list[tuple[str, str, str]]:
    """For each option: its name, its type, its default (`needed` where there is none)."""
    return [
        (option(name), _written(name, one.hint), "needed" if one.is_needed else f"{one.default}")
        for name, one in options_of(recipe).items()
    ]


def _written(name: str, hint: Any) -> str:
    return describe_type(hint) + ("|NAME" if name in OF_WEIGHTS else "")


def option(name: str) -> str:
    """`val_data` -> `--val-data`."""
    return f"--{name.replace('_', '-')}"


def describe_type(hint: Any) -> str:
    """How a value of this type is written: PATH, INT, a|b, ..."""
    arguments = [a for a in typing.get_args(hint) if a not in (type(None), Ellipsis)]
    if hint is Named:
        return "NAME=VALUE"
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

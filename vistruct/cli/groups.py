"""Groups of options that several commands share: a parameter that is a dataclass stands for its fields.

`@grouped` over a command with `reading: Reading` gives it `--format`, `--classes`, `--join` and so on, in a panel of
their own in `--help`; what is typed is read as the options of recipes are (`1,2,3` is a list). An option of
the command's own takes the place of one of the same name, which then keeps its default.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import typer

from vistruct.recipes.options import convert, describe_type, option

_PANEL = "How the data are read"


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with each of its groups spread out into options."""
    hints = typing.get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    taken = hints.keys() - groups.keys()
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        own = typing.get_type_hints(groups[name])
        for field in (one for one in dataclasses.fields(groups[name]) if one.name not in taken):
            annotation = _annotation(field, own[field.name])
            parameters.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None,
                                                annotation=annotation))  # fmt: skip

    @functools.wraps(command)
    def spread(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = _made(group, given, taken)
        command(**given)

    plain = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    vars(spread)["__signature__"] = inspect.Signature(plain)
    spread.__annotations__ = {one.name: one.annotation for one in plain}
    return spread


def _annotation(field: dataclasses.Field[Any], wanted: Any) -> Any:
    is_many = _is_repeated(wanted)
    told = typer.Option(
        option(field.name),
        metavar="NEW=OLD,OLD" if is_many else describe_type(wanted),
        help=field.metadata["help"],
        rich_help_panel=_PANEL,
        show_default=False,
    )
    hint: Any = list[str] | None if is_many else str | None
    return Annotated[hint, told]


def _made(group: Any, given: dict[str, Any], taken: Collection[str]) -> Any:
    """The group of what was typed, taken out of `given`."""
    hints = typing.get_type_hints(group)
    values: Mapping[str, Any] = {
        field.name: given.pop(field.name) for field in dataclasses.fields(group) if field.name not in taken
    }
    return group(
        **{
            name: tuple(value) if _is_repeated(hints[name]) else convert(value, hints[name], option(name))
            for name, value in values.items()
            if value is not None
        }
    )


def _is_repeated(hint: Any) -> bool:
    from vistruct.data.reading import Named

    return Named in typing.get_args(hint)

"""`vistruct recipes`: what can be trained, read from the recipes' docstrings without importing them."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Annotated

import typer

from vistruct.cli.output import as_json, made, note, out
from vistruct.errors import UserError, closest
from vistruct.recipes import RECIPES

FIELDS = ("Run", "Needs", "Expect", "Source", "Differs")


def command(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="Only this one.")] = None,
    mix: Annotated[Path | None, typer.Option(help="Write the recipe's published mix as a file to fill in.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the recipes: what each does, needs, and can be expected to give."""
    if recipe is not None and recipe not in RECIPES:
        raise UserError(f"no recipe {recipe!r}", fix=closest(recipe, RECIPES))
    if mix is not None:
        write_mix(recipe, mix)
        return
    entries = [describe(name) for name in ([recipe] if recipe else RECIPES)]
    if json:
        as_json(entries)
        return
    from rich.markup import escape
    from rich.text import Text

    console = out()
    for entry in entries:
        console.print(Text(entry["name"], style="bold"), Text(entry["summary"]))
        for field in FIELDS:
            if entry.get(field.lower()):
                console.print(f"  [cyan]{field + ':':<9}[/]{escape(entry[field.lower()])}")
        console.print()
    note("options of one: vistruct train RECIPE --help")


def write_mix(recipe: str | None, path: Path) -> None:
    """Write the mix file of a recipe that has one.

    Raises:
        UserError: it has none, or the file is there already.
    """
    from vistruct.recipes import find
    from vistruct.recipes.vitp.mixes import write_template

    published = None if recipe is None else vars(find(recipe)).get("MIX")
    if published is None:
        having = "vitp.remote_sensing, vitp.medical and vitp.general"
        raise UserError("no recipe with a published mix is named", where="--mix", fix=f"{having} have one")
    write_template(published, path)
    made(path)


def describe(name: str) -> dict[str, str]:
    """A recipe's name, its docstring's first paragraph, and the fields `Run:`, `Needs:`, ... that it has."""
    text = docstring(name)
    summary = " ".join(text.split("\n\n")[0].split())
    fields = re.findall(rf"^({'|'.join(FIELDS)}):\s*(.*(?:\n[ \t]+\S.*)*)", text, re.MULTILINE)
    return {"name": name, "summary": summary} | {key.lower(): " ".join(value.split()) for key, value in fields}


def docstring(name: str) -> str:
    """The docstring of a recipe's module; empty where the module has none or is not there."""
    spec = importlib.util.find_spec(RECIPES[name])
    if spec is None or spec.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""

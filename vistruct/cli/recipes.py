"""`vistruct recipes`: what can be trained, a line each or one in full, read without importing any of them."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Annotated

import typer

from vistruct.cli.output import as_json, made, note, out, table
from vistruct.errors import UserError, closest
from vistruct.recipes import RECIPES
from vistruct.recipes.listing import GROUPS

FIELDS = ("Run", "Needs", "Expect", "Source", "Differs")
NOT_MEASURED = "no figure of ours: built and tested small"


def command(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="Only this one, in full.")] = None,
    mix: Annotated[Path | None, typer.Option(help="Write the recipe's published mix as a file to fill in.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, every recipe in full.")] = False,
) -> None:
    """List the recipes, a line each: what it trains, on which data, and where figures of ours are.

    vistruct recipes detect: how to run it, what it needs, which published numbers to expect, its source and how it
    differs from that.
    """
    if recipe is not None and recipe not in RECIPES:
        raise UserError(f"no recipe {recipe!r}", fix=closest(recipe, RECIPES))
    if mix is not None:
        write_mix(recipe, mix)
        return
    if json:
        as_json([describe(name) for name in ([recipe] if recipe else RECIPES)])
        return
    if recipe is not None:
        _tell(describe(recipe))
        note(f"its options: vistruct train {recipe} --help")
        return
    for group, lines in GROUPS.items():
        rows = [[name, one.does, one.data, one.measured or "-"] for name, one in lines.items()]
        table(["recipe", "trains", "data", "measured here"], rows, title=group)
    note(f"measured here: the page of docs/ with figures of ours; -: {NOT_MEASURED}")
    note("one in full: vistruct recipes NAME; its options: vistruct train NAME --help")


def _tell(entry: dict[str, str]) -> None:
    from rich.markup import escape
    from rich.text import Text

    console = out()
    console.print(Text(entry["name"], style="bold"), Text(entry["summary"]))
    for field in (*FIELDS, "Measured"):
        if entry.get(field.lower()):
            console.print(f"  [cyan]{field + ':':<10}[/]{escape(entry[field.lower()])}")


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
    """A recipe's name, its docstring's first paragraph, its fields `Run:`, `Needs:`, ..., and its line in the table."""
    text = docstring(name)
    summary = " ".join(text.split("\n\n")[0].split())
    fields = re.findall(rf"^({'|'.join(FIELDS)}):\s*(.*(?:\n[ \t]+\S.*)*)", text, re.MULTILINE)
    group, line = next((group, lines[name]) for group, lines in GROUPS.items() if name in lines)
    measured = f"docs/{line.measured}" if line.measured else NOT_MEASURED
    own = {"name": name, "summary": summary, "group": group, "trains": line.does, "data": line.data}
    return own | {key.lower(): " ".join(value.split()) for key, value in fields} | {"measured": measured}


def docstring(name: str) -> str:
    """The docstring of a recipe's module; empty where the module has none or is not there."""
    spec = importlib.util.find_spec(RECIPES[name])
    if spec is None or spec.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""

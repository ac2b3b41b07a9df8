"""`vistruct recipes`: what can be trained, read from the recipes' docstrings without importing them."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Annotated

import typer

from vistruct.cli.output import as_json, note, out
from vistruct.recipes import RECIPES

FIELDS = ("Run", "Needs", "Expect", "Source", "Differs")


def command(
    json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """List the recipes: what each does, needs, and can be expected to give."""
    entries = [describe(name) for name in RECIPES]
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

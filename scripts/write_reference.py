"""Write docs/reference.md (all fields of a run) and docs/recipes.md (all recipes) from the code.

    uv run python scripts/write_reference.py

A field's meaning is the comment beside it, or above it; `tests/test_reference.py` says when the pages are out of date.
"""

from __future__ import annotations

import ast
import inspect
import io
import sys
import tokenize
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vistruct.cli.recipes import docstring
from vistruct.config import Eval, Run, Stream
from vistruct.kinds import KINDS, part_class
from vistruct.recipes.listing import GROUPS

DOCS = Path(__file__).resolve().parents[1] / "docs"
WRITTEN = "Written by `uv run python scripts/write_reference.py`: change the code, not this page."
INTRO = f"""# Configuration reference

{WRITTEN}

A run is a YAML file (`run.yaml`): `vistruct train RECIPE ... --dry-run > run.yaml` writes one with every value that it
has, `vistruct train -c run.yaml` trains it, and `--set A.B=C` changes any value of either, for example
`--set optim.lr=1e-4` or `--set 'trainable=[{{pattern: backbone, mode: frozen}}]'`. An unknown key is an error that
names the closest one. Parts that can be exchanged are named by their `kind`; how to add one of your own:
[adding.md](adding.md). The options of recipes are shorter words for the same fields: `vistruct train RECIPE --help`.

`needed` stands where there is no default; bounds stand beside it.
"""

RECIPES_INTRO = f"""# Recipes

{WRITTEN}

`vistruct recipes` prints this table, `vistruct recipes NAME` one in full: how to run it, what it needs, published
numbers to expect, its source and how it differs from that; `vistruct train NAME --help` its options. Every recipe has a
small twin that the tests train (`vistruct train NAME --tiny`).

**Measured here** names the page with figures of ours, at the size and on the data that it says. Where there is none,
the recipe is built and tested small: its published figures, where there are some, have **not been reproduced here**,
and memory and hours at full size have not been measured.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A field as it is written in a class."""

    name: str
    type: str
    default: str
    meaning: str


def rows_of(part: type[BaseModel]) -> list[Row]:
    """The fields of a part, its parents' first, in the order in which they are written."""
    found: dict[str, Row] = {}
    for owner in reversed(part.__mro__):
        if issubclass(owner, BaseModel) and owner.__module__.startswith("vistruct"):
            found |= {row.name: row for row in _written(owner)}
    return [found[name] for name in part.model_fields if name in found and name != "kind"]


@cache
def _written(owner: type[BaseModel]) -> tuple[Row, ...]:
    text = inspect.getsource(owner)
    comments = {
        token.start[0]: (token.string.lstrip("# ").rstrip(), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    fields = [node for node in ast.parse(text).body[0].body if isinstance(node, ast.AnnAssign)]  # ty: ignore[unresolved-attribute]
    return tuple(_row(node, comments) for node in fields)


def _row(node: ast.AnnAssign, comments: dict[int, tuple[str, bool]]) -> Row:
    beside = [comments[n][0] for n in range(node.lineno, (node.end_lineno or node.lineno) + 1) if n in comments]
    above, line = list[str](), node.lineno - 1
    while line in comments and comments[line][1]:  # a line of its own
        above.insert(0, comments[line][0])
        line -= 1
    meaning = " ".join([*above, *(one for one in beside if not one.startswith(("fmt:", "ty:", "noqa")))])
    return Row(
        name=ast.unparse(node.target),
        type=ast.unparse(node.annotation),
        default=_default(node.value),
        meaning=meaning,
    )


def _default(value: ast.expr | None) -> str:
    if value is None:
        return "needed"
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >="}
        bounds = [f"{signs[k.arg]} {ast.unparse(k.value)}" for k in value.keywords if k.arg in signs]
        first = ast.unparse(value.args[0]) if value.args else "needed"
        return ", ".join(["needed" if first == "..." else first, *bounds])
    return ast.unparse(value)


def parts_in(part: type[BaseModel]) -> list[type[BaseModel]]:
    """Parts that fields of this one are made of, in the order of the fields."""
    return list(dict.fromkeys(one for field in part.model_fields.values() for one in _models(field.annotation)))


def _models(hint: Any) -> Iterable[type[BaseModel]]:
    if inspect.isclass(hint) and not typing.get_args(hint):
        if issubclass(hint, BaseModel) and hint.__module__.startswith("vistruct"):
            yield hint
        return
    for one in typing.get_args(hint):
        yield from _models(one)


def section(title: str, part: type[BaseModel], level: int = 3) -> list[str]:
    """A heading, what the part is, and its table."""
    about = " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())
    lines = [f"{'#' * level} {title}", "", about, ""]
    rows = rows_of(part)
    if rows:
        lines += ["| field | type | default | |", "|---|---|---|---|"]
        lines += [f"| `{r.name}` | {_code(r.type)} | {_code(r.default)} | {_cell(r.meaning)} |" for r in rows]
        lines.append("")
    return lines


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def reference() -> str:
    """The text of docs/reference.md."""
    lines = [INTRO, "## A run", ""]
    lines += section("Run", Run) + section("Stream", Stream) + section("Eval", Eval)
    plural = {"data set": "Data sets", "metric": "Metrics", "box head": "Box heads", "class head": "Class heads"}
    exchangeable: dict[type[BaseModel], None] = {Run: None, Stream: None, Eval: None}
    body: list[str] = []
    for role, kinds in KINDS.items():
        body += [f"## {plural.get(role, role.capitalize() + 's')}", ""]
        for kind in kinds:
            part = part_class(kind, role)
            exchangeable[part] = None
            body += section(f"`kind: {kind}`", part)
    seen, queue = set(exchangeable), [*exchangeable]
    inner: list[type[BaseModel]] = []
    while queue:
        for one in parts_in(queue.pop(0)):
            if one not in seen and one.model_fields:
                seen.add(one)
                inner.append(one)
                queue.append(one)
    lines += ["## Parts of these", ""]
    for one in sorted(inner, key=lambda part: part.__name__):
        lines += section(one.__name__, one)
    return "\n".join([*lines, *body]).rstrip() + "\n"


def recipes() -> str:
    """The text of docs/recipes.md."""
    lines = [RECIPES_INTRO]
    for group, entries in GROUPS.items():
        lines += [f"## {group}", "", "| recipe | trains | data | published | measured here |", "|---|---|---|---|---|"]
        for name, one in entries.items():
            measured = f"[{one.measured}]({one.measured})" if one.measured else "no"
            lines.append(f"| `{name}` | {one.does} | {one.data} | {_published(name)} | {measured} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _published(name: str) -> str:
    text = docstring(name)
    expect = text.partition("Expect:")[2].partition("\nSource:")[0]
    return _cell(" ".join(expect.split())).removeprefix("published ")


PAGES = {"reference.md": reference, "recipes.md": recipes}


def main() -> None:
    """Write the pages."""
    for name, text in PAGES.items():
        (DOCS / name).write_text(text())
        print(DOCS / name)


if __name__ == "__main__":
    sys.exit(main())

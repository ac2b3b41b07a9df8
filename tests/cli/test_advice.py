"""Every way out that an error names can be typed: each option exists, each setting is one that some run has.

The sentences are taken from the source: what is given as `fix`, or assigned to a name with `fix` in it.
"""

from __future__ import annotations

import ast
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import vistruct
from vistruct.cli.main import app
from vistruct.config import Part, flat
from vistruct.kinds import KINDS, part_class
from vistruct.recipes import RECIPES, find
from vistruct.recipes.options import option, options_of

HOUSE = Path(vistruct.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
SETTING = re.compile(r"--set ['\"]?([a-zA-Z_.{}]+)=")
# A key of a run file where an option, or `--set` with it, is meant.
BARE = re.compile(r"(?<!--set )(?<![\w./'`-])(?:data|task|evals|intake|coding|optim|metric)\.[a-z_.]+\s?=")
ELSEWHERE = {"--extra", "--group", "--shm-size", "--name"}  # options of uv and docker; any option


def sentence(node: ast.AST) -> str:
    """The text of an expression, `{}` where a value stands."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(sentence(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp | ast.IfExp):
        return " ".join(sentence(side) for side in ast.iter_child_nodes(node) if isinstance(side, ast.expr))
    return ""


def advice() -> Iterator[tuple[str, str]]:
    for file in sorted(HOUSE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            is_fix = isinstance(node, ast.keyword) and node.arg == "fix"
            if isinstance(node, ast.Assign):
                is_fix = any("fix" in ast.unparse(target).lower() for target in node.targets)
            text = sentence(node.value) if is_fix else ""  # type: ignore[attr-defined]
            if text:
                yield f"{file.relative_to(HOUSE)}:{node.value.lineno}", text  # type: ignore[attr-defined]


def every_option() -> set[str]:
    command: Any = typer.main.get_command(app)
    found = {word for one in command.commands.values() for p in one.params for word in (*p.opts, *p.secondary_opts)}
    return found | {option(name) for recipe in RECIPES for name in options_of(find(recipe).recipe)} | {"--debug"}


def every_setting() -> set[str]:
    """Of all tiny runs, of the parts in them whether they are there or not, and of every kind of backbone."""
    found = {
        f"task.backbone.{name}" for kind in KINDS["backbone"] for name in part_class(kind, "backbone").model_fields
    }
    for recipe in RECIPES:
        run = find(recipe).tiny()
        found |= {re.sub(r"\.\d+\b", ".0", key) for key in flat(run.model_dump(mode="json"))}
        found |= set(_fields(run, ""))
        for stream in run.streams.values():
            found |= set(_fields(stream, ""))
    return found


def _fields(part: Any, prefix: str) -> Iterator[str]:
    for name in type(part).model_fields:
        yield prefix + name
        value = vars(part)[name]
        for other in typing.get_args(type(part).model_fields[name].annotation):  # in the place of a word
            if isinstance(other, type) and issubclass(other, Part):
                yield from (f"{prefix}{name}.{field}" for field in other.model_fields)
        if isinstance(value, Part):
            yield from _fields(value, f"{prefix}{name}.")
        for key, one in value.items() if isinstance(value, dict) else ():
            if isinstance(one, Part):
                yield from _fields(one, f"{prefix}{name}.{key}.")


ADVICE = list(advice())


def test_there_is_advice_to_look_at() -> None:
    assert len(ADVICE) > 300


def test_every_option_that_is_advised_exists() -> None:
    known = every_option() | ELSEWHERE
    wrong = [f"{where}: {word} in {text!r}" for where, text in ADVICE for word in OPTION.findall(text)
             if word not in known and word.replace("--no-", "--", 1) not in known]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_every_setting_that_is_advised_exists() -> None:
    known = every_setting()
    ends = {key.rpartition(".")[2] for key in known}
    wrong = []
    for where, text in ADVICE:
        for key in SETTING.findall(text):
            is_open = "{}" in key or "NAME" in key  # a name that is put in later: its last word must be one
            if key not in known and not (is_open and key.rpartition(".")[2] in {*ends, "{}"}):
                wrong.append(f"{where}: {key} in {text!r}")
    assert not wrong, "\n".join(wrong)


def test_no_key_of_a_run_file_is_advised_where_a_command_line_asks() -> None:
    wrong = [f"{where}: {text!r}" for where, text in ADVICE if BARE.search(text) and "--" not in text]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("text", ["--classes a,b or --nosuch", "--set data.nosuch=1"])
def test_the_walk_would_find_a_wrong_word(text: str) -> None:
    found = {word for word in OPTION.findall(text) if word not in every_option()}
    settings = {key for key in SETTING.findall(text) if key not in every_setting()}
    assert found | settings


def test_every_option_on_the_pages_for_newcomers_exists() -> None:
    """In tables what stands in the first column is what others call it, or the message."""
    known, wrong = every_option(), []
    for name in ("README.md", "troubleshooting.md", "coming_from.md", "comparison.md"):
        for line in (HOUSE.parent / "docs" / name).read_text().splitlines():
            ours = line.split(" | ", 1)[-1] if line.startswith("| ") else line
            wrong += [f"{name}: {word}" for word in OPTION.findall(ours) if word not in known]
    assert not wrong

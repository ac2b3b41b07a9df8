"""Recipe arguments on the command line: what is typed is what the recipe gets, and typos are told."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Literal

import pytest

from vistruct.errors import UserError
from vistruct.recipes import RECIPES, find
from vistruct.recipes.options import convert, describe_type, help_rows, parse


def recipe(
    *,
    data: Path,
    steps: int = 5,
    lr: float = 1e-4,
    flip: bool = False,
    head: Literal["a", "b"] = "a",
    sizes: tuple[int, ...] = (1,),
    val_data: Path | None = None,
    name: str | None = None,
) -> None:
    """Has every kind of argument that a recipe may have."""


def test_values_arrive_with_their_types(tmp_path: Path) -> None:
    args = ["--data", str(tmp_path), "--steps=7", "--lr", "1e-3", "--flip", "--head", "b", "--sizes", "4,8"]
    args += ["--val-data", str(tmp_path), "--name", "12"]
    got = parse(recipe, args)
    assert got == {
        "data": tmp_path, "steps": 7, "lr": 1e-3, "flip": True, "head": "b", "sizes": (4, 8),
        "val_data": tmp_path, "name": "12",
    }  # fmt: skip
    assert isinstance(got["lr"], float)


def test_underscores_are_as_good_as_dashes_and_a_flag_can_be_denied(tmp_path: Path) -> None:
    args = ["--val_data", str(tmp_path), "--no-flip", "--data", str(tmp_path)]
    assert parse(recipe, args) == {"data": tmp_path, "val_data": tmp_path, "flip": False}


@pytest.mark.parametrize(
    ("args", "what", "fix"),
    [
        (["--stpes", "3"], "no option '--stpes'", "did you mean '--steps'?"),
        (["--dve", "3"], "no option '--dve'", "did you mean '--devices'?"),
        (["--steps"], "--steps needs a value", "--steps INT"),
        (["--steps", "x"], "--steps: ", "--steps INT"),
        (["--head", "c"], "--head: ", "--head a|b"),
        (["extra"], "'extra' is not an option", "options are --name value"),
        ([], "needs --data", "add --data PATH"),
        (["--data", "no/such/file"], "--data: no such file", "look inside"),
    ],
)
def test_mistakes_are_told_with_the_way_out(args: list[str], what: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(recipe, args, ["--devices"])
    assert caught.value.what.startswith(what)
    assert fix in caught.value.fix


def test_a_missing_file_suggests_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "train.json").touch()
    with pytest.raises(UserError, match=r"did you mean 'train\.json'"):
        parse(recipe, ["--data", str(tmp_path / "tran.json")])


def test_help_names_every_option_with_type_and_default() -> None:
    rows = help_rows(recipe)
    assert rows[0] == ("--data", "PATH", "needed")
    assert ("--sizes", "INT,...", "(1,)") in rows
    assert ("--val-data", "PATH", "None") in rows
    assert describe_type(bool) == "true|false"


def test_words_of_a_list_stay_words() -> None:
    assert convert("yes, no", tuple[str, ...], "--classes") == ("yes", "no")  # of YAML, truths
    assert convert("1,2", tuple[str, ...], "--classes") == ("1", "2")
    assert convert("1,2", tuple[int, ...], "--bands") == convert("[1, 2]", tuple[int, ...], "--bands") == (1, 2)
    with pytest.raises(UserError, match="Input should be 'ss' or 'is'"):
        convert("ss,xx", tuple[Literal["ss", "is"], ...], "--tasks")


@pytest.mark.parametrize("name", RECIPES)
def test_no_option_of_a_recipe_has_the_name_of_another(name: str) -> None:
    recipe = find(name).recipe
    hints = typing.get_type_hints(recipe)
    names: list[str] = []
    for own, hint in hints.items():
        names += [one.name for one in dataclasses.fields(hint)] if dataclasses.is_dataclass(hint) else [own]
    assert len(names) == len(set(names))

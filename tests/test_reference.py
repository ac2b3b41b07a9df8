"""The pages that are written from the code are those that it would write, and the list of recipes is whole."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from vistruct.cli.recipes import docstring
from vistruct.recipes import RECIPES
from vistruct.recipes.listing import GROUPS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("write_reference")


@pytest.mark.parametrize("name", ["reference.md", "recipes.md"])
def test_a_page_is_what_the_code_says(script: Any, name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    assert page == script.PAGES[name](), "uv run python scripts/write_reference.py"


def test_every_recipe_is_listed_once_and_its_page_is_there() -> None:
    listed = [name for lines in GROUPS.values() for name in lines]
    assert sorted(listed) == sorted(RECIPES)
    pages = {line.measured for lines in GROUPS.values() for line in lines.values()} - {""}
    assert all((ROOT / "docs" / page).is_file() for page in pages)


def test_recipes_expect_published_numbers_and_the_list_alone_says_which_were_run() -> None:
    ours = [
        name
        for name in RECIPES
        if re.search(r"ours[^.]{0,20}: (not yet|docs/)|not yet (run|measured)", docstring(name))
    ]
    assert not ours, "vistruct/recipes/listing.py says where figures of ours are"

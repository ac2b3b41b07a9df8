"""What a release says of itself is said alike everywhere, and nothing that it ships is left behind."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import yaml

import vistruct

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_place_has_the_same_version() -> None:
    assert PROJECT["project"]["dynamic"] == ["version", "readme"]  # both from their one source
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == vistruct.__version__
    assert importlib.metadata.version("vistruct") == vistruct.__version__
    released = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[:2] == ["Unreleased", vistruct.__version__]
    wheels = re.findall(r"vistruct-([\d.]+)-py3-none-any\.whl", (ROOT / "README.md").read_text())
    assert set(wheels) == {vistruct.__version__}


def test_extras_that_are_named_are_there() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "vistruct").rglob("*.py")]
    named = {
        extra
        for page in pages
        for group in re.findall(r"vistruct\[([\w,]+)\]", page.read_text())
        for extra in group.split(",")
    }
    assert named
    assert named <= extras.keys()


def test_links_of_the_pages_at_the_top_lead_somewhere() -> None:
    for page in ROOT.glob("*.md"):
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            assert link.startswith("http") or (ROOT / link).exists(), f"{page.name}: {link}"


def test_an_index_is_shown_no_link_that_leads_nowhere() -> None:
    text = (ROOT / "README.md").read_text()
    for one in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(one["pattern"], one["replacement"], text)
    assert len(text) > 5_000
    assert not [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]


def test_types_are_shipped() -> None:
    assert (Path(vistruct.__file__).parent / "py.typed").is_file()


def test_the_page_of_the_first_ten_minutes_has_the_commands_that_its_script_runs() -> None:
    spec = importlib.util.spec_from_file_location("first_ten_minutes", ROOT / "scripts" / "first_ten_minutes.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # as dataclasses need it
    spec.loader.exec_module(script)
    page = " ".join((ROOT / "docs" / "first_ten_minutes.md").read_text().split())
    for name, recipe in script.KINDS.items():
        assert f"vistruct train {recipe} --data data/{name} {script.TRAIN[name]} --out runs/{name}" in page
        assert f"{script.SIDE[name]} px" in page
    assert f"whl[{script.EXTRAS}]" in page

"""Data sets of every format, damaged: each is read or an error of three lines. See `benchmarks/fuzz_readers.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from mutants import MADE, ended, fuzz, sound

from vistruct.data.checks.check import check
from vistruct.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes of Unix")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return sound(tmp_path_factory.mktemp("all") / "sound")


def root_of(places: dict[str, Path]) -> Path:
    place = places["run"]
    return place.parent.parent


def test_what_is_damaged_here_is_sound_at_first(places):
    for name, (_, read) in MADE.items():
        if name not in ("zip", "tar"):  # they write
            read(places[name])


def test_no_mutant_is_a_traceback(places, tmp_path):
    faults = [
        one
        for one in fuzz(root_of(places), places, iter(range(2 * len(places))), tmp_path)
        if one.how not in ("read", "refused")
    ]
    assert not faults, "\n".join(f"{one.seed} {one.name}: {one.what}\n{one.how}\n{one.trace}" for one in faults)


def test_the_same_number_is_the_same_mutant(places, tmp_path):
    again = [ended("coco", root_of(places), places["coco"], 31, tmp_path) for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.parametrize("name", ["yolo", "masks", "list"])
def test_a_pipe_in_place_of_an_image_is_not_waited_for(name, tmp_path):
    place = sound(tmp_path / "sound", [name])[name]
    image = sorted((tmp_path / "sound").rglob("*.png"))[0]
    image.unlink()
    os.mkfifo(image)
    try:
        result = check(place)
    except UserError as error:
        said = str(error)
    else:
        said = result.text(10)
    assert image.name in said or "without an image" in said or "1 x" in said

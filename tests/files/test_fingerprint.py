"""The fingerprint changes with the data and with nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vistruct.files.fingerprint import fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "a.json").write_text("{}")
    (tmp_path / "data" / "a.png").write_bytes(b"12345")
    (tmp_path / "data" / "sub" / "b.png").write_bytes(b"1")
    return tmp_path / "data"


def of(folder: Path) -> str:
    return fingerprint([folder / "a.json"], sorted(folder.rglob("*.png")), folder)


def test_it_is_the_same_in_another_place_and_another_order(folder: Path) -> None:
    before = of(folder)
    assert len(before) == 64
    shutil.copytree(folder, folder.parent / "copy")
    assert of(folder.parent / "copy") == before
    images = sorted(folder.rglob("*.png"))
    assert fingerprint([folder / "a.json"], [*images[::-1], images[0]], folder) == before


@pytest.mark.parametrize("change", ["annotation", "size", "name", "fewer", "more", "swapped"])
def test_it_changes_with_the_data(folder: Path, change: str) -> None:
    before = of(folder)
    match change:
        case "annotation":
            (folder / "a.json").write_text("{ }")
        case "size":
            (folder / "a.png").write_bytes(b"123456")
        case "name":
            (folder / "a.png").rename(folder / "c.png")
        case "fewer":
            (folder / "a.png").unlink()
        case "more":
            (folder / "c.png").touch()
        case "swapped":
            (folder / "a.png").write_bytes(b"1")
            (folder / "sub" / "b.png").write_bytes(b"12345")
    assert of(folder) != before


def test_where_one_annotation_ends_and_the_next_begins_matters(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("xy")
    b.write_text("z")
    before = fingerprint([a, b], [], tmp_path)
    a.write_text("x")
    b.write_text("yz")
    assert fingerprint([a, b], [], tmp_path) != before


def test_a_missing_image_is_an_error(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fingerprint([], [folder / "no.png"], folder)

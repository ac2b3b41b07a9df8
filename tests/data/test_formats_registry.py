"""Every box format is found by itself, read in one way, and its classes numbered as they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from box_sets import (
    BoxSet,
    assert_drawn,
    make_dior,
    make_dior_r,
    make_dota,
    make_fair1m,
    make_hrsc,
    make_rsar,
    make_sardet,
    make_ssdd,
    make_voc,
    read_boxes,
)

from vistruct.cli import convert as convert_command
from vistruct.data.convert import writer, written
from vistruct.data.formats import FORMATS, find_format
from vistruct.data.formats.detect import detect, splits_of
from vistruct.data.formats.format import never
from vistruct.errors import UserError
from vistruct.samples import trees

SETS: dict[str, tuple[Callable[[Path], BoxSet], str]] = {
    "dota": (make_dota, "dota"),
    "rsar": (make_rsar, "dota"),
    "dior": (make_dior, "dior"),
    "dior_r": (make_dior_r, "dior_r"),
    "voc": (make_voc, "voc"),
    "ssdd": (make_ssdd, "voc"),
    "fair1m": (make_fair1m, "fair1m"),
    "hrsc": (make_hrsc, "hrsc"),
    "sardet": (make_sardet, "coco"),
}


@pytest.mark.parametrize("name", SETS)
def test_a_published_data_set_is_found_by_itself_with_its_splits(tmp_path: Path, name: str) -> None:
    make, expected = SETS[name]
    made = make(tmp_path)
    assert detect(tmp_path, "boxes") == expected
    assert set(splits_of(tmp_path, expected)) == set(made.truth)
    for split, images in made.truth.items():
        records, names, _ = read_boxes(tmp_path, split=split)
        kind = "horizontal" if expected in ("coco", "dior") or name == "voc" else "oriented"
        if expected == "coco":
            names_of, images = (
                str,
                {stem: [type(o)(o.name, o.box) for o in objects] for stem, objects in images.items()},
            )
        else:
            names_of = (lambda _: "ship") if name == "hrsc" else str
        assert_drawn(records, names, images, kind=kind, names=names_of, atol=0.2)
    with pytest.raises(UserError, match=r"several") as caught:
        read_boxes(tmp_path)
    assert "--split" in caught.value.fix


def test_a_file_of_one_data_set_has_no_splits() -> None:
    assert splits_of(trees().test, "coco") == ()


def test_labels_are_numbered_by_the_classes_that_are_asked_for(tmp_path: Path) -> None:
    make_voc(tmp_path)
    own, names, _ = read_boxes(tmp_path, split="train")
    asked, given, _ = read_boxes(tmp_path, split="train", class_names=["bird", "dog", "car"])
    assert names == ("car", "dog")
    assert given == ("bird", "dog", "car")
    for one, other in zip(own, asked, strict=True):
        assert [names[label] for label in one.objects.labels] == [given[label] for label in other.objects.labels]


def test_an_unknown_class_is_an_error_that_names_the_closest(tmp_path: Path) -> None:
    make_voc(tmp_path)
    with pytest.raises(UserError, match="no class 'car'") as caught:
        read_boxes(tmp_path, split="train", class_names=["cart", "dog"])
    assert "cart" in caught.value.fix


def test_two_formats_in_one_folder_are_an_error_that_lists_them(tmp_path: Path) -> None:
    make_dior(tmp_path)
    make_dior_r(tmp_path)
    with pytest.raises(UserError, match="dior, dior_r") as caught:
        read_boxes(tmp_path, split="train")
    assert "--format dior" in caught.value.fix
    assert read_boxes(tmp_path, split="train", format="dior_r")[0][0].objects.quads is not None


@pytest.mark.parametrize("there", [True, False])
def test_nothing_that_is_known_is_an_error(tmp_path: Path, there: bool) -> None:
    path = tmp_path if there else tmp_path / "nowhere"
    with pytest.raises(UserError, match="no box annotations" if there else "no such"):
        read_boxes(path)


def test_a_file_that_no_reader_knows_is_told_by_the_reader_of_its_ending(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UserError, match="COCO json is an object"):
        read_boxes(tmp_path / "a.json")
    (tmp_path / "a.bin").write_text("x")
    with pytest.raises(UserError, match="no box annotations"):
        read_boxes(tmp_path / "a.bin")


def test_an_unknown_format_is_an_error_that_names_the_closest() -> None:
    with pytest.raises(UserError, match="'doto'") as caught:
        read_boxes(trees().test, format="doto")
    assert "dota" in caught.value.fix
    with pytest.raises(UserError, match="read, but not written"):
        writer("hrsc")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_where_the_table_has_it(name: str) -> None:
    found, listed = find_format(name), FORMATS[name]
    assert found.kind == listed.kind
    assert (found.walk is None) == (listed.kind == "talk")
    assert (found.looks_like is not never) or not listed.is_guessed
    assert importlib.import_module(f"vistruct.data.formats.{listed.at.partition(':')[0]}").__doc__


@pytest.mark.parametrize("name", written())
def test_every_format_that_is_written_is_in_the_help(name: str) -> None:
    assert f" {name} " in (convert_command.command.__doc__ or "")

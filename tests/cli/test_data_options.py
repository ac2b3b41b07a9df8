"""One set of options for every command that reads data, and check of a run file."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_convert_command import run_main
from vistruct.cli import check, convert, evaluate, instruct, show
from vistruct.data.reading import PixelValues, Reading
from vistruct.recipes import change, classify, detect, oriented, segment
from vistruct.recipes.options import called, options_of, parse

READING = {field.name for field in dataclasses.fields(Reading)}
VALUES = {field.name for field in dataclasses.fields(PixelValues)}


@pytest.mark.parametrize("command", [check.command, show.command, evaluate.command])
def test_a_command_that_reads_any_data_takes_every_option(command: Callable[..., None]) -> None:
    assert set(inspect.signature(command).parameters) >= READING | VALUES


@pytest.mark.parametrize("command", [convert.command, instruct.command])
def test_a_command_that_reads_boxes_takes_those_of_reading(command: Callable[..., None]) -> None:
    assert set(inspect.signature(command).parameters) >= READING


@pytest.mark.parametrize("recipe", [m.recipe for m in (detect, oriented, segment, change, classify)])
def test_generic_recipes_take_the_same(recipe: Callable[..., object]) -> None:
    assert set(options_of(recipe)) >= READING | VALUES


def test_what_recipes_are_told_reaches_their_data(tmp_path: Path) -> None:
    masks(tmp_path)
    words = ["--data", str(tmp_path), "--classes", "soil,crop,tree", "--values", "1,2,3", "--ignored", "0"]
    words += ["--drop", "tree", "--size", "32"]
    run = called(segment.recipe, parse(segment.recipe, words))
    assert run.only.data.coding.values == (1, 2, 3)
    assert run.only.data.drop == ("tree",)
    assert run.only.data.build().info.class_names == ("soil", "crop")


def masks(root: Path) -> Path:
    """Values from 1 to 3, and 0 that does not count."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(rng.integers(0, 4, (16, 16), np.uint8)).save(root / "masks" / f"{name}.png")
    return root


def test_check_and_show_are_told_what_training_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = masks(tmp_path / "data")
    told = ["--classes", "soil,crop,tree", "--values", "1,2,3", "--ignored", "0"]
    assert run_main(capsys, "check", root)[0] == 1
    code, printed, _ = run_main(capsys, "check", root, *told)
    assert code == 0, printed
    assert "nothing stops training" in printed
    assert "soil" in printed
    code, _, _ = run_main(capsys, "show", root, *told, "--out", tmp_path / "shown.png")
    assert (code, (tmp_path / "shown.png").is_file()) == (0, True)


def test_check_takes_the_run_that_a_dry_run_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = masks(tmp_path / "data")
    words = ["train", "segment", "--data", root, "--classes", "soil,crop,tree", "--values", "1,2,3", "--ignored", "0"]
    words += ["--timm", "resnet10t", "--size", "32", "--channels", "16", "--batch", "2", "--dry-run"]
    code, printed, _ = run_main(capsys, *words)
    assert code == 0
    (tmp_path / "run.yaml").write_text(printed)
    code, printed, _ = run_main(capsys, "check", tmp_path / "run.yaml")
    assert code == 0, printed
    assert printed.startswith("[main]\n")
    code, _, remarks = run_main(capsys, "check", tmp_path / "run.yaml", "--classes", "a,b")
    assert code == 2
    assert "says itself how its data are read" in remarks

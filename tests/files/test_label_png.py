"""PNGs written by the row are what Pillow reads, and submissions are what their data sets' codings read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.data.formats.maps import isaid, loveda, uavid
from vistruct.data.formats.maps.submissions import CODINGS, check_submission, submission_file, write_submission
from vistruct.errors import UserError
from vistruct.files.label_png import write_png
from vistruct.files.rasters import read_raster

RNG = np.random.default_rng(0)


def cut(array: np.ndarray, *rows: int) -> Iterator[np.ndarray]:
    yield from np.split(array, rows)


@pytest.mark.parametrize("size_hw", [(1, 1), (7, 13), (300, 257)])
@pytest.mark.parametrize(
    ("number_type", "depth", "mode"), [(np.uint8, (), "L"), (np.uint16, (), "I;16"), (np.uint8, (3,), "RGB")]
)
def test_pillow_reads_what_was_written(tmp_path: Path, size_hw, number_type, depth, mode):
    pixels = RNG.integers(0, np.iinfo(number_type).max, (*size_hw, *depth)).astype(number_type)
    write_png(tmp_path / "a.png", cut(pixels, size_hw[0] // 3, size_hw[0] // 2), size_hw)
    with Image.open(tmp_path / "a.png") as image:
        image.verify()
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == mode
        assert (np.array(image) == pixels).all()


def test_a_palette_keeps_the_numbers_and_shows_the_colours(tmp_path: Path):
    pixels = RNG.integers(0, 3, (20, 31)).astype(np.uint8)
    palette = ((9, 8, 7), (255, 0, 1), (3, 4, 5))
    write_png(tmp_path / "a.png", [pixels], (20, 31), palette)
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert (read_raster(tmp_path / "a.png") == pixels).all()
    with Image.open(tmp_path / "a.png") as image:
        assert (np.array(image.convert("RGB")) == np.array(palette)[pixels]).all()


def test_strips_that_are_no_rows_of_the_image_leave_what_was_there(tmp_path: Path):
    file = tmp_path / "a.png"
    write_png(file, [np.zeros((2, 3), np.uint8)], (2, 3))
    before = file.read_bytes()
    for strips, why in (
        ([np.zeros((1, 3), np.uint8)], "1 rows for a PNG of 2"),
        ([], "0 rows"),
        ([np.zeros((1, 3), np.uint8), np.zeros((1, 4), np.uint8)], "3 wide"),
        ([np.zeros((1, 3), np.uint8), np.zeros((1, 3), np.uint16)], "began as"),
        ([np.zeros((2, 3), np.int32)], "no PNG of int32"),
    ):
        with pytest.raises(ValueError, match=why):
            write_png(file, strips, (2, 3))
    assert file.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("kind", "name", "file", "classes"),
    [
        ("loveda", "Test/Urban/images_png/4191.png", "4191.png", loveda.CLASSES),
        ("uavid", "seq21/Images/000100.png", "seq21/Labels/000100.png", uavid.CLASSES),
        ("isaid", "val/P0003_0_896_0_896.png", "P0003_0_896_0_896_instance_color_RGB.png", isaid.CLASSES),
    ],
)
def test_a_submission_has_the_servers_name_and_reads_back_by_its_coding(tmp_path: Path, kind, name, file, classes):
    labels = RNG.integers(0, len(classes), (33, 40))
    strange = [one.upper() for one in classes[::-1]]  # in another order, in capitals
    own = len(classes) - 1 - labels
    check_submission(kind, [name], strange)
    written = write_submission(kind, tmp_path, name, cut(own, 9, 20), (33, 40), strange)
    assert written == tmp_path / file
    assert (CODINGS[kind].decode(read_raster(written), written) == labels).all()


def test_loveda_counts_from_zero_and_uavid_has_the_toolkits_colours(tmp_path: Path):
    """Values of the two servers, as their pages say them."""
    seven = np.arange(7)[None]
    file = write_submission("loveda", tmp_path, "1.png", [seven], (1, 7), loveda.CLASSES)
    with Image.open(file) as image:
        assert image.mode == "L"
        assert np.array(image).tolist() == [list(range(7))]
    file = write_submission("uavid", tmp_path, "seq21/Images/0.png", [np.arange(8)[None]], (1, 8), uavid.CLASSES)
    with Image.open(file) as image:
        assert image.mode == "RGB"
        assert image.getpixel((1, 0)) == (128, 0, 0)  # building
        assert image.getpixel((7, 0)) == (64, 0, 128)  # moving car


def test_what_a_submission_cannot_hold_is_said_before(tmp_path: Path):
    with pytest.raises(UserError, match="loveda has the classes background, building"):
        check_submission("loveda", ["1.png"], ["cat", "dog"])
    with pytest.raises(UserError, match="no sequence in the name"):
        submission_file("uavid", "000100.png")
    with pytest.raises(UserError, match=r"1\.png"):
        check_submission("loveda", ["Urban/1.png", "Rural/1.png"], loveda.CLASSES)
    with pytest.raises(UserError, match="pixels without a class"):
        write_submission("loveda", tmp_path, "1.png", [np.array([[-1]])], (1, 1), loveda.CLASSES)

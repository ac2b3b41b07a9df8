"""Label rasters give the numbers that were written, whatever the kind of file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from vistruct.errors import UserError
from vistruct.files import rasters
from vistruct.files.images import image_size
from vistruct.files.rasters import clear_raster_cache, read_raster

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")

NUMBERS = np.random.default_rng(0).integers(0, 200, (5, 7), np.uint8)


@pytest.fixture(autouse=True)
def _fresh_cache():
    clear_raster_cache()
    yield
    clear_raster_cache()


def written(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)
    image.save(path)
    return path


def test_a_palette_gives_numbers_and_not_colours(tmp_path: Path) -> None:
    image = Image.fromarray(NUMBERS, "P")
    image.putpalette([255 - value for number in range(256) for value in (number, 7, number // 2)])
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_raster(tmp_path / name), NUMBERS)
    assert Image.open(tmp_path / "a.png").mode == "P"
    with rasterio.open(tmp_path / "a.png") as file:  # another reader, the same numbers
        np.testing.assert_array_equal(file.read(1), read_raster(tmp_path / "a.png"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_numbers_of_8_16_and_32_bits_come_back(tmp_path: Path, dtype: type) -> None:
    values = (NUMBERS.astype(np.int64) * (1 if dtype is np.uint8 else 300)).astype(dtype)
    endings = ("png", "tif") if dtype is not np.int32 else ("tif",)
    for ending in endings:
        np.testing.assert_array_equal(read_raster(written(tmp_path / f"a.{ending}", values)), values)


def test_one_bit_is_0_and_1(tmp_path: Path) -> None:
    bits = NUMBERS > 100
    path = written(tmp_path / "a.png", bits)
    assert Image.open(path).mode == "1"
    np.testing.assert_array_equal(read_raster(path), bits.astype(np.uint8))


def test_colours_stay_colours_and_transparency_is_ignored(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (5, 7, 4), np.uint8)
    np.testing.assert_array_equal(read_raster(written(tmp_path / "a.png", colours)), colours[..., :3])
    np.testing.assert_array_equal(read_raster(written(tmp_path / "b.png", colours[..., :3])), colours[..., :3])
    grey = np.stack([NUMBERS, NUMBERS // 2], axis=-1)
    np.testing.assert_array_equal(read_raster(written(tmp_path / "c.png", grey)), NUMBERS)


def test_whole_numbers_written_as_floats_are_read_and_fractions_refused(tmp_path: Path) -> None:
    whole = NUMBERS.astype(np.float32)
    raster = read_raster(written(tmp_path / "a.tif", whole))
    assert raster.dtype.kind == "i"
    np.testing.assert_array_equal(raster, NUMBERS)
    with pytest.raises(UserError, match="fractions"):
        read_raster(written(tmp_path / "b.tif", whole + 0.5))


def test_windows_are_parts_of_the_whole_and_decode_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.png", NUMBERS)
    calls: list[object] = []
    decode = rasters.decode_raster
    monkeypatch.setattr(rasters._cache, "decode", lambda data, name: calls.append(name) or decode(data, name))
    for x in range(6):
        np.testing.assert_array_equal(read_raster(path, (x, 1, x + 2, 4)), NUMBERS[1:4, x : x + 2])
    assert calls == [path]
    for window in [(0, 0, 8, 5), (-1, 0, 2, 2), (2, 2, 2, 4)]:
        with pytest.raises(UserError, match="7 x 5"):
            read_raster(path, window)


def test_one_pixel_is_a_raster_and_sizes_need_no_decoding(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", NUMBERS[:1, :1])
    assert read_raster(path).shape == image_size(path) == (1, 1)
    deep = written(tmp_path / "b.png", NUMBERS.astype(np.uint16))
    cut = tmp_path / "cut.png"
    cut.write_bytes(deep.read_bytes()[:60])
    assert image_size(deep) == image_size(cut) == (5, 7)


def test_the_size_of_what_pillow_does_not_know_is_read_by_rasterio(tmp_path: Path) -> None:
    path = tmp_path / "bands.tif"
    profile = {"driver": "GTiff", "height": 5, "width": 7, "count": 6, "dtype": "uint16"}
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.zeros((6, 5, 7), np.uint16))
    assert image_size(path) == (5, 7)


def test_missing_empty_and_damaged_files_are_named(tmp_path: Path) -> None:
    empty, cut = tmp_path / "empty.png", tmp_path / "cut.png"
    empty.touch()
    noise = np.random.default_rng(2).integers(0, 256, (64, 64), np.uint8)
    cut.write_bytes(written(tmp_path / "a.png", noise).read_bytes()[:-200])
    for path in (tmp_path / "no.png", empty, cut):
        with pytest.raises(UserError) as caught:
            read_raster(path)
        assert caught.value.where == str(path)
        assert caught.value.fix


def test_colours_of_16_bits_are_refused_rather_than_halved(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    profile = {"driver": "PNG", "height": 5, "width": 7, "count": 3, "dtype": "uint16"}
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.full((3, 5, 7), 300, np.uint16))
    with pytest.raises(UserError, match="16 bits"):
        read_raster(path)

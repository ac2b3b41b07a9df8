"""Windows of rasters of every kind, beside rasterio's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.windows import Window

from vistruct.errors import UserError
from vistruct.files.decode import UnreadableImage, decode
from vistruct.files.images import check_pixels, image_size, read_image
from vistruct.files.intake import Intake
from vistruct.files.raster_files import valid_pixels
from vistruct.files.rasters import read_raster

RAW = Intake(dtype="float32")  # values as they are
WINDOWS = [(0, 0, 70, 90), (3, 5, 40, 41), (60, 80, 70, 90), (69, 89, 70, 90)]
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"compress": "deflate"},
    {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "lzw", "interleave": "pixel"},
    {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "interleave": "band"},
    {"BIGTIFF": "YES"},
    {"driver": "HFA"},
]


def write(path: Path, values: np.ndarray, **settings: Any) -> Path:
    count, height, width = values.shape
    settings = {"driver": "GTiff", "transform": rasterio.Affine(1, 0, 10, 0, -1, 10), "crs": "EPSG:32632"} | settings
    with rasterio.open(path, "w", count=count, height=height, width=width, dtype=values.dtype, **settings) as file:
        file.write(values)
    return path


def values(dtype: str, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (bands, 90, 70)).astype(dtype)


def rasterios(path: Path, window: tuple[int, int, int, int], **more: Any) -> np.ndarray:
    x0, y0, x1, y1 = window
    with rasterio.open(path) as file:
        return file.read(window=Window(x0, y0, x1 - x0, y1 - y0), **more)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_values_are_rasterios(tmp_path: Path, dtype: str, layout: dict[str, Any]) -> None:
    file = write(tmp_path / "a.tif", values(dtype, 5), **layout)
    assert image_size(file) == (90, 70)
    for window in WINDOWS:
        found = read_image(file, window, intake=RAW).numpy()
        np.testing.assert_array_equal(found, rasterios(file, window).astype(np.float32))
    colours = write(tmp_path / "b.tif", values("uint8"), **layout)
    for window in WINDOWS:
        np.testing.assert_array_equal(read_image(colours, window).numpy(), rasterios(colours, window))


def test_a_nodata_value_is_empty_where_rasterio_masks_it(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tif", values("int16"), nodata=7)
    for window in WINDOWS:
        masked = rasterios(file, window, masked=True)
        np.testing.assert_array_equal(read_image(file, window, intake=RAW).numpy(), masked.filled(0).astype(np.float32))


def test_white_is_a_colour_where_nodata_is_255_and_not_all_bands_have_it(tmp_path: Path) -> None:
    pixels = values("uint8")
    pixels[:, :20] = 255
    pixels[0, 40:50] = 255
    file = write(tmp_path / "a.tif", pixels, nodata=255)
    wanted = pixels.copy()
    wanted[:, :20] = 0
    np.testing.assert_array_equal(read_image(file).numpy(), wanted)
    valid = valid_pixels([file], (0, 10, 70, 60))
    assert valid is not None
    np.testing.assert_array_equal(valid, np.broadcast_to(np.arange(10, 60)[:, None] >= 20, (50, 70)))


@pytest.mark.parametrize("is_internal", [True, False])
def test_a_mask_is_no_image_and_says_where_data_are(tmp_path: Path, is_internal: bool) -> None:
    pixels, mask, file = values("uint8") + 1, np.full((90, 70), 255, np.uint8), tmp_path / "a.tif"
    mask[:, :30] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=is_internal):
        write(file, pixels)
        with rasterio.open(file, "r+") as out:
            out.write_mask(mask)
    wanted = np.where(mask, pixels, 0)
    np.testing.assert_array_equal(read_image(file).numpy(), wanted)
    valid = valid_pixels([file], (0, 0, 70, 90))
    assert valid is not None
    np.testing.assert_array_equal(valid, mask > 0)


def with_overviews(path: Path, pixels: np.ndarray) -> Path:
    write(path, pixels, photometric="RGB")
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    return path


def test_overviews_are_passed_over_with_and_without_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = values("uint8")
    file = with_overviews(tmp_path / "a.tif", pixels)
    np.testing.assert_array_equal(read_image(file).numpy(), pixels)
    np.testing.assert_array_equal(decode(file.read_bytes(), file).numpy(), pixels)
    labels = tmp_path / "labels.tif"
    write(labels, pixels[:1])
    with rasterio.open(labels, "r+") as out:
        out.build_overviews([2])
    np.testing.assert_array_equal(read_raster(labels, (1, 2, 30, 40)), pixels[0, 2:40, 1:30])
    monkeypatch.setitem(sys.modules, "rasterio", None)
    other = with_copied(file, tmp_path / "b.tif")
    assert image_size(other) == (90, 70)
    np.testing.assert_array_equal(read_image(other, (1, 2, 30, 40)).numpy(), pixels[:, 2:40, 1:30])


def with_copied(file: Path, to: Path) -> Path:
    to.write_bytes(file.read_bytes())
    return to


def test_pages_are_several_images(tmp_path: Path) -> None:
    file, pages = tmp_path / "a.tif", [Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(3)]
    pages[0].save(file, save_all=True, append_images=pages[1:])
    for look in (read_image, check_pixels, image_size):
        with pytest.raises(UnreadableImage, match="several images"):
            look(file)


def test_what_pillow_makes_colours_of_stays_with_it(tmp_path: Path) -> None:
    picture = Image.fromarray(values("uint8").transpose(1, 2, 0))
    files = {mode: tmp_path / f"{mode}.tif" for mode in ("P", "1", "CMYK", "L")}
    for mode, file in files.items():
        picture.convert(mode).save(file)
        wanted = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1)
        np.testing.assert_array_equal(read_image(file, (3, 4, 60, 70)).numpy(), wanted[:, 4:70, 3:60])
    turned = tmp_path / "turned.tif"
    picture.save(turned, tiffinfo={274: 6})
    with Image.open(turned) as image:
        upright = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert image_size(turned) == upright.shape[1:] == (70, 90)
    np.testing.assert_array_equal(read_image(turned).numpy(), upright)


def test_deep_pngs_are_taken_in_with_all_their_bits(tmp_path: Path) -> None:
    grey = values("uint16", 1) * 300
    Image.fromarray(grey[0]).save(tmp_path / "grey.png")
    found = read_image(tmp_path / "grey.png", (1, 2, 30, 40), intake=RAW)
    np.testing.assert_array_equal(found.numpy(), np.repeat(grey[:, 2:40, 1:30], 3, axis=0).astype(np.float32))
    colour = values("uint16") * 300
    write(tmp_path / "colour.png", colour, driver="PNG", transform=None, crs=None)
    found = read_image(tmp_path / "colour.png", (1, 2, 30, 40), intake=RAW)
    np.testing.assert_array_equal(found.numpy(), colour[:, 2:40, 1:30].astype(np.float32))


def test_eight_bit_pictures_take_an_intake_without_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    pixels = values("uint8")
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "a.tif")
    found = read_image(tmp_path / "a.tif", (1, 2, 30, 40), intake=Intake(bands=(3, 1)))
    assert torch.equal(found, torch.from_numpy(pixels[[2, 0], 2:40, 1:30]))


def test_four_bands_are_told_apart_from_transparency_and_the_way_out_can_be_typed(tmp_path: Path) -> None:
    four = values("uint8", 4)
    file = write(tmp_path / "a.tif", four, photometric="RGB", ALPHA="NO")
    with pytest.raises(UserError) as caught:
        read_image(file)
    assert caught.value.fix.endswith("--bands 1,2,3")
    assert torch.equal(read_image(file, intake=Intake(bands=(1, 2, 3))), torch.from_numpy(four[:3]))
    alpha = write(tmp_path / "b.tif", four, photometric="RGB", ALPHA="YES")
    np.testing.assert_array_equal(read_image(alpha).numpy(), four[:3])

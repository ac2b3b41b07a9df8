"""Rasters of many bands, against what was put into them and what other programs read from them."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from PIL import Image

from vistruct.contracts import IGNORED
from vistruct.errors import UserError
from vistruct.files.decode import UnreadableImage
from vistruct.files.geo import GeoProfile, geo_profile, raster_bands, raster_size, read_bands, write_geotiff
from vistruct.files.images import image_size, read_image
from vistruct.files.intake import Intake

UTM = rasterio.crs.CRS.from_epsg(32616)
PLACE = rasterio.Affine(30.0, 0.0, 400_000.0, 0.0, -30.0, 3_400_000.0)


def write(path: Path, values: np.ndarray, **settings: Any) -> Path:
    """A GeoTIFF with number[C, H, W]."""
    count, height, width = values.shape
    settings = {"driver": "GTiff", "crs": UTM, "transform": PLACE} | settings
    with rasterio.open(path, "w", count=count, height=height, width=width, dtype=values.dtype, **settings) as file:
        file.write(values)
    return path


def random_bands(dtype: str = "uint16", shape: tuple[int, int, int] = (4, 40, 50), high: int = 10_000) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 by the formula: round half up of 255 times the share of the range."""
    share = (values.astype(np.float64) - low) / (high - low)
    return np.floor(np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "int32", "float64"])
def test_bands_of_any_number_type_are_stretched_by_the_formula(tmp_path: Path, dtype: str) -> None:
    values = random_bands(dtype, high=200) - (50 if dtype in ("int16", "float32") else 0)
    file = write(tmp_path / "a.tif", values.astype(dtype))
    found = read_bands(file, None, Intake(dtype="uint8", low=(-20.0,), high=(120.0,)))
    assert found.dtype == torch.uint8
    difference = np.abs(found.numpy().astype(int) - stretched(values.astype(dtype), -20, 120).astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_bands_are_numbered_from_one_in_the_order_asked_for(tmp_path: Path) -> None:
    values = random_bands()
    file = write(tmp_path / "a.tif", values)
    found = read_bands(
        file, None, Intake(dtype="uint8", bands=(4, 1, 4), low=(0.0, 1000.0, 2000.0), high=(5000.0, 9000.0, 3000.0))
    )
    wanted = [stretched(values[3], 0, 5000), stretched(values[0], 1000, 9000), stretched(values[3], 2000, 3000)]
    assert np.abs(found.numpy().astype(int) - np.stack(wanted).astype(int)).max() <= 1


@pytest.mark.parametrize("settings", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "lzw"}])
def test_a_window_is_that_part_of_the_whole_with_the_percentiles_of_the_whole(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    file = write(tmp_path / "a.tif", random_bands(), **settings)
    intake = Intake(dtype="uint8", percentiles=(2, 98))
    whole = read_bands(file, None, intake)
    for x0, y0, x1, y1 in [(0, 0, 50, 40), (7, 9, 31, 33), (49, 39, 50, 40)]:
        assert torch.equal(read_bands(file, (x0, y0, x1, y1), intake), whole[:, y0:y1, x0:x1])


def test_only_the_blocks_of_a_window_are_decoded(tmp_path: Path) -> None:
    """The blocks of the lower half are damaged: they can be missed, and a window in the upper half does not."""
    values = random_bands("uint16", (1, 256, 256))
    file = write(tmp_path / "a.tif", values, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    with tifffile.TiffFile(file) as tiff:
        offset = tiff.pages[0].dataoffsets[8]  # first of the lower half
    data = bytearray(file.read_bytes())
    data[offset : offset + 1000] = b"\xff" * 1000
    file.write_bytes(data)
    intake = Intake(dtype="uint8", low=(0.0,), high=(10_000.0,))
    upper = read_bands(file, (0, 0, 256, 128), intake).numpy()
    assert np.abs(upper.astype(int) - stretched(values[:, :128], 0, 10_000).astype(int)).max() <= 1
    with pytest.raises(UnreadableImage, match="cannot decode"):
        read_bands(file, None, intake)


def test_percentiles_are_numpys(tmp_path: Path) -> None:
    values = random_bands()
    file = write(tmp_path / "a.tif", values)
    found = read_bands(file, None, Intake(dtype="uint8", percentiles=(1, 99))).numpy()
    for band, own in zip(found, values, strict=True):
        wanted = stretched(own, *np.percentile(own, (1, 99)))
        assert np.abs(band.astype(int) - wanted.astype(int)).max() <= 1


@pytest.mark.parametrize("shape", [(1500, 1600), (10, 300_000), (3000, 1001)])
def test_percentiles_of_a_large_image_are_those_of_pixels_all_over_it(tmp_path: Path, shape: tuple[int, int]) -> None:
    height, width = shape
    slope = np.linspace(0, 20_000, height)[:, None] + np.linspace(0, 40_000, width)  # differs from place to place
    values = (slope + np.random.default_rng(0).integers(0, 100, shape)).astype(np.uint16)[None]
    file = write(tmp_path / "a.tif", values, compress="deflate")
    found = read_bands(file, (0, 0, 1000, 10), Intake(dtype="uint8", percentiles=(10, 90))).numpy()
    wanted = stretched(values[:, :10, :1000], *np.percentile(values, (10, 90)))
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 4


def test_pixels_without_data_become_zero_and_are_in_no_percentile(tmp_path: Path) -> None:
    values = random_bands("int16", (2, 30, 30)) + 1000
    values[:, :15] = -9999
    file = write(tmp_path / "a.tif", values, nodata=-9999)
    found = read_bands(file, None, Intake(dtype="uint8", percentiles=(0, 100))).numpy()
    assert (found[:, :15] == 0).all()
    for band, own in zip(found[:, 15:], values[:, 15:], strict=True):
        assert np.abs(band.astype(int) - stretched(own, own.min(), own.max()).astype(int)).max() <= 1


def test_not_a_number_is_no_data(tmp_path: Path) -> None:
    values = random_bands("float32", (1, 8, 8))
    values[0, 0, 0] = np.nan
    found = read_bands(write(tmp_path / "a.tif", values), None, Intake(dtype="uint8", percentiles=(0, 50)))
    assert found[0, 0, 0] == 0
    assert (found == 255).float().mean() > 0.4


def test_a_mask_in_the_file_is_no_data(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tif", np.full((3, 8, 8), 200, np.uint8))
    with rasterio.open(file, "r+") as raster:
        raster.write_mask(np.pad(np.full((8, 4), 255, np.uint8), ((0, 0), (0, 4))))
    found = read_bands(file, None, None)
    assert (found[:, :, :4] == 200).all()
    assert (found[:, :, 4:] == 0).all()


def test_an_image_wholly_without_data_has_no_percentiles(tmp_path: Path) -> None:
    file = write(tmp_path / "empty.tif", np.zeros((1, 4, 4), np.uint16), nodata=0)
    with pytest.raises(UserError, match="no finite values") as caught:
        read_bands(file, None, Intake(dtype="uint8", percentiles=(1, 99)))
    assert "empty.tif" in caught.value.where
    assert (read_bands(file, None, Intake(dtype="uint8", low=(0.0,), high=(9.0,))) == 0).all()


def test_files_of_one_band_each_are_one_image(tmp_path: Path) -> None:
    values = random_bands()
    files = [write(tmp_path / f"B{n}.tif", band[None]) for n, band in enumerate(values, start=1)]
    together = write(tmp_path / "all.tif", values)
    assert raster_bands(files) == raster_bands(together) == 4
    assert raster_size(files) == raster_size(together) == (40, 50)
    for intake in (
        Intake(dtype="uint8", percentiles=(1, 99)),
        Intake(dtype="uint8", bands=(3, 2, 1), low=(0.0,), high=(3000.0,)),
    ):
        assert torch.equal(read_bands(files, (3, 4, 20, 30), intake), read_bands(together, (3, 4, 20, 30), intake))


def test_bands_on_different_grids_are_refused_only_where_they_are_wanted(tmp_path: Path) -> None:
    files = [write(tmp_path / "B2.tif", random_bands()[:1]), write(tmp_path / "B8.tif", random_bands()[:1, :20])]
    with pytest.raises(UnreadableImage, match=r"B2.tif 50 x 40 and B8.tif 50 x 20"):
        read_bands(files, None, Intake(dtype="uint8", low=(0.0,), high=(1.0,)))
    assert read_bands(files, None, Intake(dtype="uint8", bands=(2,), low=(0.0,), high=(1.0,), channels=1)).shape == (
        1,
        20,
        50,
    )


def test_eight_bit_colours_come_as_they_are_and_as_pillow_reads_them(tmp_path: Path) -> None:
    values = random_bands("uint8", (3, 20, 30), high=256)
    file = write(tmp_path / "rgb.tif", values, photometric="rgb")
    found = read_bands(file, None, None)
    assert torch.equal(found, torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    assert torch.equal(found, torch.from_numpy(values))


def test_alpha_is_no_channel(tmp_path: Path) -> None:
    values = random_bands("uint8", (4, 20, 30), high=256)
    file = write(tmp_path / "rgba.tif", values, photometric="rgb", alpha="NON-PREMULTIPLIED")
    assert torch.equal(read_bands(file, None, None), torch.from_numpy(values[:3]))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.arange(32, dtype=np.uint8).reshape(2, 4, 4), "2 bands of uint8 with values 0 to 15, 16 to 31"),
        (np.arange(96, dtype=np.uint16).reshape(6, 4, 4), "6 bands of uint16 with values 0 to 15, 16 to 31"),
        (np.arange(48, dtype=np.float32).reshape(3, 4, 4), "3 bands of float32"),
    ],
)
def test_bands_that_are_no_colours_are_told_and_refused_without_a_word_on_them(
    tmp_path: Path, values: np.ndarray, told: str
) -> None:
    file = write(tmp_path / "a.tif", values)
    with pytest.raises(UserError, match=told) as caught:
        read_bands(file, None, None)
    assert ("--bands 1" if values.dtype == np.uint8 else "--low") in caught.value.fix
    assert "a.tif" in caught.value.where


def test_bands_without_a_range_are_refused_unless_they_have_eight_bits(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tif", random_bands())
    with pytest.raises(UserError, match=r"4 bands of uint16 with values .* what becomes black and white"):
        read_bands(file, None, Intake(dtype="uint8", bands=(1, 2, 3)))
    values = random_bands("uint8", high=256)
    assert torch.equal(read_bands(write(tmp_path / "b.tif", values), None, Intake()), torch.from_numpy(values))


def test_a_band_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tif", random_bands())
    with pytest.raises(UserError, match="no band 5: 4 bands of uint16"):
        read_bands(file, None, Intake(dtype="uint8", bands=(5,), low=(0.0,), high=(1.0,)))


def test_grey_is_copied_for_a_backbone_of_colour(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tif", random_bands()[:1])
    found = read_bands(file, None, Intake(dtype="uint8", percentiles=(1, 99), channels=3))
    assert found.shape[0] == 3
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("window", [(0, 0, 51, 40), (-1, 0, 5, 5), (5, 5, 5, 9)])
def test_a_window_beyond_the_image_is_refused(tmp_path: Path, window: tuple[int, int, int, int]) -> None:
    file = write(tmp_path / "a.tif", random_bands())
    with pytest.raises(UnreadableImage, match="50 x 40"):
        read_bands(file, window, Intake(dtype="uint8", low=(0.0,), high=(1.0,)))


def test_what_is_no_raster_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tif").write_text("no raster")
    for name, what in [("empty", "is empty"), ("text", "cannot decode"), ("absent", "no such image")]:
        with pytest.raises(UnreadableImage, match=what):
            raster_size(tmp_path / f"{name}.tif")


def virtual(path: Path, source: str, relative: int = 0) -> Path:
    """One band of 50 x 40 pixels that lies elsewhere."""
    path.write_text(
        f'<VRTDataset rasterXSize="50" rasterYSize="40"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>2</SourceBand></SimpleSource>'
        f"</VRTRasterBand></VRTDataset>"
    )
    return path


def test_a_virtual_raster_is_read_from_the_files_beside_it(tmp_path: Path) -> None:
    values = random_bands()
    write(tmp_path / "whole.tif", values)
    for file in (
        virtual(tmp_path / "a.vrt", "whole.tif", 1),
        virtual(tmp_path / "b.vrt", str(tmp_path / "whole.tif")),
    ):
        assert raster_size(file) == image_size(file) == (40, 50)
        found = read_image(file, (3, 4, 30, 40), intake=Intake(dtype="float32"))
        np.testing.assert_array_equal(found[0].numpy(), values[1, 4:40, 3:30].astype(np.float32))


@pytest.mark.parametrize(
    "source", ["/vsicurl/http://127.0.0.1:9/a.tif", "http://127.0.0.1:9/a.tif", "gone.tif", "me.vrt", "wms.xml"]
)
def test_a_virtual_raster_that_would_fetch_something_is_refused(tmp_path: Path, source: str) -> None:
    (tmp_path / "wms.xml").write_text("<GDAL_WMS><Service name='TMS'/></GDAL_WMS>")
    with pytest.raises(UnreadableImage, match="no raster file that is there"):
        raster_size(virtual(tmp_path / "me.vrt", source, int("/" not in source)))


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tif", random_bands())
    assert raster_size(file) == (40, 50)
    write(file, random_bands(shape=(2, 10, 10)))
    assert raster_size(file) == (10, 10)
    assert raster_bands(file) == 2


def test_complex_radar_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "sar.tif", random_bands().astype(np.complex64))
    with pytest.raises(UserError, match="complex"):
        read_bands(file, None, Intake(dtype="uint8", low=(0.0,), high=(1.0,)))


def test_the_place_of_a_raster_is_kept_on_what_is_written(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", random_bands())
    labels = torch.tensor([[0, 1, 2], [2, IGNORED, 0]], dtype=torch.int16)
    palette = [(0, 0, 0), (255, 0, 0), (0, 255, 0)]
    write_geotiff(tmp_path / "out" / "labels.tif", labels, geo_profile(source), palette)
    with rasterio.open(tmp_path / "out" / "labels.tif") as file:
        assert file.crs == UTM
        assert file.transform == PLACE
        assert file.nodata == 255
        assert file.colormap(1)[1] == (255, 0, 0, 255)
        assert file.read(1).tolist() == [[0, 1, 2], [2, 255, 0]]
    page: Any = tifffile.TiffFile(tmp_path / "out" / "labels.tif").pages[0]  # not GDAL
    assert page.asarray().tolist() == [[0, 1, 2], [2, 255, 0]]
    assert page.tags["ModelPixelScaleTag"].value[:2] == (30.0, 30.0)
    assert page.tags["ModelTiepointTag"].value[3:5] == (400_000.0, 3_400_000.0)
    assert page.geotiff_tags["ProjectedCSTypeGeoKey"] == 32616
    shown = np.array(Image.open(tmp_path / "out" / "labels.tif").convert("RGB"))
    assert shown[0].tolist() == [list(colour) for colour in palette]


@pytest.mark.parametrize("heights", [[300], [1] * 20 + [280], [100, 150, 50]])
def test_strips_make_the_file_that_the_whole_makes(tmp_path: Path, heights: list[int]) -> None:
    labels = np.random.default_rng(0).integers(-1, 5, (300, 270)).astype(np.int16)
    starts = np.cumsum([0, *heights])
    strips = ((int(y0), labels[y0:y1]) for y0, y1 in itertools.pairwise(starts))
    write_geotiff(tmp_path / "a.tif", strips, None, size_hw=(300, 270))
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), np.where(labels < 0, 255, labels))


def test_more_classes_than_a_byte_holds_are_written_as_sixteen_bits(tmp_path: Path) -> None:
    labels = torch.tensor([[0, 255, 300, IGNORED]], dtype=torch.int16)
    write_geotiff(tmp_path / "a.tif", labels, None, num_classes=301)
    assert tifffile.imread(tmp_path / "a.tif").tolist() == [[0, 255, 300, 65535]]
    with pytest.raises(ValueError, match="classes -1 to 300"):
        write_geotiff(tmp_path / "b.tif", labels, None)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]


def test_rows_that_nothing_was_written_to_are_an_error_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5 of 10 rows"):
        write_geotiff(tmp_path / "a.tif", [(0, np.zeros((5, 4), np.int16))], None, size_hw=(10, 4))
    assert not list(tmp_path.iterdir())


def test_a_picture_without_coordinates_has_no_profile(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.tif")
    assert geo_profile(tmp_path / "a.png") is None
    assert geo_profile(tmp_path / "a.tif") is None
    found = geo_profile(write(tmp_path / "b.tif", random_bands(), crs=None))
    assert found == GeoProfile(crs="", transform=tuple(PLACE)[:6])


def test_without_rasterio_the_extra_is_named_and_plain_pictures_need_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.tif", random_bands())
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert geo_profile(tmp_path / "a.png") is None
    with pytest.raises(UserError) as caught:
        raster_size(file)
    assert 'pip install "vistruct[geo]"' in caught.value.fix

"""Pixels of which an image has no data are neither learned nor counted, however its file says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from vistruct.contracts import IGNORED
from vistruct.data.formats.maps.counted import NO_DATA
from vistruct.data.maps import MapDataConfig
from vistruct.files.intake import Intake

LABELS = np.arange(48).reshape(6, 8).astype(np.uint8) // 8 % 2  # rows of 0 and of 1
GAP = np.zeros((6, 8), bool)
GAP[:, :3] = True  # 18 pixels: 9 of each class


def write(file: Path, pixels: np.ndarray, mask: np.ndarray | None = None, **how: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    shape = {"driver": "GTiff", "width": width, "height": height, "count": bands, "dtype": pixels.dtype}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(file, "w", **shape, **how) as out:
        out.write(pixels)
        if mask is not None:
            out.write_mask(mask)


def image(file: Path, how: str) -> None:
    """One of 6 x 8 pixels without data in GAP, as `how` says it."""
    pixels = np.random.default_rng(0).integers(1, 255, (3, 6, 8)).astype(np.uint16 if how == "nodata" else np.uint8)
    if how == "nodata":
        write(file, np.where(GAP, 0, pixels), nodata=0)
    elif how == "mask":
        write(file, pixels, ~GAP)
    elif how == "alpha":
        write(file, np.concatenate([pixels, np.where(GAP, 0, 255)[None].astype(np.uint8)]))
    else:
        write(file, np.where(GAP, np.nan, pixels).astype(np.float32))


@pytest.mark.parametrize("how", ["nodata", "mask", "alpha", "NaN"])
def test_pixels_without_data_are_ignored_in_the_labels_and_counted_nowhere(tmp_path: Path, how: str) -> None:
    image(tmp_path / "images" / "a.tif", how)
    write(tmp_path / "masks" / "a.tif", LABELS[None])
    intake = Intake(bands=(1, 2, 3), low=(0,), high=(255,)) if how in ("nodata", "NaN") else None
    dataset = MapDataConfig(root=tmp_path, classes=("land", "object"), intake=intake).build()
    truth = np.where(GAP, IGNORED, LABELS.astype(np.int16))
    assert (dataset.truth(0).numpy() == truth).all()
    label_map = dataset.sample(0, 0).label_map
    assert label_map is not None
    assert (label_map.numpy() == truth).all()
    assert dataset.class_pixels == {0: 15, 1: 15, IGNORED: 18}
    assert dataset.report.counts[NO_DATA] == 1


def test_a_fourth_band_that_is_learned_from_is_no_alpha(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.tif", "alpha")  # near infrared, as many write it: water is 0
    write(tmp_path / "masks" / "a.tif", LABELS[None])
    dataset = MapDataConfig(root=tmp_path, intake=Intake(dtype="uint8")).build()
    assert dataset.class_pixels == {0: 24, 1: 24}
    assert (dataset.truth(0).numpy() == LABELS).all()


def test_of_a_pair_a_pixel_counts_where_both_images_have_data(tmp_path: Path) -> None:
    image(tmp_path / "A" / "a.tif", "alpha")
    write(tmp_path / "B" / "a.tif", np.full((3, 6, 8), 9, np.uint8), ~GAP[:, ::-1])
    write(tmp_path / "label" / "a.tif", LABELS[None])
    dataset = MapDataConfig(root=tmp_path).build()
    assert dataset.class_pixels == {0: 6, 1: 6, IGNORED: 36}
    assert (dataset.truth(0).numpy() == np.where(GAP | GAP[:, ::-1], IGNORED, LABELS.astype(np.int16))).all()


def test_a_class_that_is_only_where_no_data_are_has_no_pixel(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.tif", "mask")
    write(tmp_path / "masks" / "a.tif", np.where(GAP, 1, 0).astype(np.uint8)[None])
    dataset = MapDataConfig(root=tmp_path, classes=("land", "object")).build()
    assert dataset.class_pixels == {0: 30, IGNORED: 18}

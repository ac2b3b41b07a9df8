"""OSCD: 13 bands in files of their own at two times, and what changed."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from vistruct.contracts import IGNORED
from vistruct.data.checks.check import check
from vistruct.data.formats.detect import family_of
from vistruct.data.formats.maps.oscd import BANDS
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.windows.tiles import Tiles

CITIES = ("paris", "rennes", "lasvegas")
H, W = 30, 40
PLACE = rasterio.Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
ARCHIVES = (
    "Onera Satellite Change Detection dataset - Images",
    "Onera Satellite Change Detection dataset - Train Labels",
    "Onera Satellite Change Detection dataset - Test Labels",
)


def bands_of(city: str, time: int) -> np.ndarray:
    """uint16[13, H, W]"""
    return np.random.default_rng([CITIES.index(city), time]).integers(0, 4000, (13, H, W)).astype(np.uint16)


def change_of(city: str) -> np.ndarray:
    return np.random.default_rng(CITIES.index(city)).random((H, W)) < 0.1


def made(root: Path, *, archives: bool = False, png: bool = True, tif: bool = False) -> Path:
    images = root / (ARCHIVES[0] if archives else "images")
    for city in CITIES:
        for time in (1, 2):
            folder = images / city / f"imgs_{time}_rect"
            folder.mkdir(parents=True)
            for name, band in zip(BANDS, bands_of(city, time), strict=True):
                shape = {"driver": "GTiff", "count": 1, "height": H, "width": W, "dtype": "uint16", "transform": PLACE}
                with rasterio.open(folder / f"{name}.tif", "w", **shape) as file:
                    file.write(band, 1)
        labels = root / ((ARCHIVES[2] if city == "lasvegas" else ARCHIVES[1]) if archives else "labels")
        (labels / city / "cm").mkdir(parents=True)
        change = change_of(city).astype(np.uint8)
        if png:
            Image.fromarray(change * 255).convert("RGB").save(labels / city / "cm" / "cm.png")
        if tif:
            Image.fromarray(change + 1).save(labels / city / "cm" / f"{city}-cm.tif")
    (images / "train.txt").write_text("paris,rennes")
    (images / "test.txt").write_text("lasvegas\n")
    return root


def stretched(bands: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(bands / 3000, 0, 1) * 65535 + 0.5).astype(int)


@pytest.mark.parametrize("settings", [{}, {"archives": True}, {"png": False, "tif": True}, {"tif": True}])
def test_pairs_are_red_green_and_blue_and_labels_are_what_was_written(tmp_path: Path, settings: dict[str, Any]) -> None:
    root = made(tmp_path, **settings)
    assert (family_of(root).kind, family_of(root).format) == ("maps", "oscd")
    dataset = pickle.loads(pickle.dumps(MapDataConfig(root=root, split="train").build()))
    assert [record.id for record in dataset.records] == ["paris", "rennes"]
    assert [record.group for record in dataset.records] == ["paris", "rennes"]
    assert dataset.info.class_names == ("unchanged", "changed")
    assert dataset.info.channels == 3
    for index, city in enumerate(("paris", "rennes")):
        sample = dataset.sample(index, 0)
        assert len(sample.images) == 2
        for time, image in enumerate(sample.images, start=1):
            wanted = stretched(bands_of(city, time)[[3, 2, 1]])  # B04, B03, B02
            assert np.abs(image.numpy().astype(int) - wanted).max() <= 1
        assert sample.label_map is not None
        assert np.array_equal(sample.label_map.numpy(), change_of(city))
        assert torch.equal(dataset.truth(index), sample.label_map)


def test_any_bands_in_windows(tmp_path: Path) -> None:
    intake = Intake(bands=(9, 13), low=(0.0,), high=(3000.0,))
    tiles = Tiles(size=16, overlap=4)
    dataset = MapDataConfig(root=made(tmp_path), split="test", intake=intake, tiles=tiles).build()
    assert len(dataset) > 4
    assert dataset.info.channels == 2
    for index, record in enumerate(dataset.records):
        x0, y0, x1, y1 = record.window_xyxy or (0, 0, W, H)
        sample = dataset.sample(index, 0)
        wanted = stretched(bands_of("lasvegas", 2)[[8, 12], y0:y1, x0:x1])  # B8A and B12
        assert np.abs(sample.images[1].numpy().astype(int) - wanted).max() <= 1
        assert sample.label_map is not None
        assert np.array_equal(sample.label_map.numpy(), change_of("lasvegas")[y0:y1, x0:x1])
        assert (sample.label_map != IGNORED).all()


def test_splits_are_the_lists_of_cities(tmp_path: Path) -> None:
    root = made(tmp_path)
    assert [one.id for one in MapDataConfig(root=root, split="test").build().records] == ["lasvegas"]
    assert len(MapDataConfig(root=root, split="train+test").build()) == 3
    with pytest.raises(UserError, match="several splits are here: train, test"):
        MapDataConfig(root=root).build()
    with pytest.raises(UserError, match="no split 'val'"):
        MapDataConfig(root=root, split="val").build()
    for name in ("train", "test"):
        (root / "images" / f"{name}.txt").unlink()
    assert len(MapDataConfig(root=root).build()) == 3


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    root = made(tmp_path)
    shutil.rmtree(root / "labels" / "rennes")
    with pytest.raises(UserError, match="no change map of rennes"):
        MapDataConfig(root=root, split="train").build()
    dropped = MapDataConfig(root=root, split="train", missing="drop").build()
    assert [one.id for one in dropped.records] == ["paris"]
    assert dropped.report.counts["city left out: no change map"] == 1
    (root / "images" / "paris" / "imgs_2_rect" / "B8A.tif").unlink()
    with pytest.raises(UserError, match=r"bands are not there: B8A.tif") as caught:
        MapDataConfig(root=root, split="train", missing="drop").build()
    assert caught.value.where.endswith("imgs_2_rect")
    shutil.rmtree(root / "images" / "paris")
    with pytest.raises(UserError, match="listed cities are not on disk: paris"):
        MapDataConfig(root=root, split="train", missing="drop").build()


def test_check_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    result = check(made(tmp_path))
    assert result.ok
    assert result.format == "oscd"
    assert set(result.splits) == {"train", "test"}

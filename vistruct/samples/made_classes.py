"""Made-up images with classes for the tiny twins, in the true layouts of public data sets.

A class is a colour and a direction of stripes, so that a few steps of training can tell some of them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vistruct.samples.made_scenes import kept_by_content

SIDE = 32  # pixels
EACH = 5  # images of a class
EUROSAT = ("AnnualCrop", "Forest", "SeaLake")
RESISC45 = ("airplane", "beach", "stadium")
BANDS = 13  # of EuroSAT's multispectral edition


def texture(class_number: int, number: int, side: int = SIDE) -> np.ndarray:
    """uint8[side, side, 3]: stripes whose direction and colour say the class, with noise; the same at every call."""
    rng = np.random.default_rng([class_number, number])
    rows, columns = np.mgrid[:side, :side]
    angle = np.pi * class_number / 4
    wave = np.sin((np.cos(angle) * columns + np.sin(angle) * rows) * 2 * np.pi / 8 + rng.uniform(0, 6))
    colour = np.array([(200, 90, 60), (70, 180, 80), (60, 100, 210), (190, 180, 60)][class_number % 4])
    pixels = 60 + (wave[..., None] * 0.4 + 0.6) * (colour - 60) + rng.normal(0, 8, (side, side, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def class_folder(class_names: Sequence[str] = ("field", "forest", "lake"), splits: Sequence[str] = ()) -> Path:
    """A folder for each class, each in every split's folder if there are any."""

    def write(folder: Path) -> None:
        for at, split in enumerate(splits or ("",)):
            for k, name in enumerate(class_names):
                for number in range(EACH):
                    _save(texture(k, EACH * at + number), folder / split / name / f"{name}_{number + 1}.jpg")

    return kept_by_content(write)


def eurosat_folder(class_names: Sequence[str] = EUROSAT) -> Path:
    """`2750/AnnualCrop/AnnualCrop_1.jpg`, and torchgeo's lists `eurosat-train.txt` of bare names."""

    def write(folder: Path) -> None:
        for k, name in enumerate(class_names):
            for number in range(EACH):
                _save(texture(k, number), folder / "2750" / name / f"{name}_{number + 1}.jpg")
        for split, numbers in (("train", range(3)), ("val", range(3, 4)), ("test", range(4, 5))):
            lines = [f"{name}_{number + 1}.jpg\n" for name in class_names for number in numbers]
            (folder / f"eurosat-{split}.txt").write_text("".join(lines))

    return kept_by_content(write)


def eurosat_ms_folder(class_names: Sequence[str] = EUROSAT) -> Path:
    """EuroSAT's multispectral edition: 13 bands of 16 bits as GeoTIFF; needs rasterio (extra `geo`)."""
    import rasterio

    def write(folder: Path) -> None:
        for k, name in enumerate(class_names):
            for number in range(EACH):
                file = folder / "ds" / "images" / "remote_sensing" / name / f"{name}_{number + 1}.tif"
                file.parent.mkdir(parents=True, exist_ok=True)
                colours = texture(k, number).astype(np.uint16).transpose(2, 0, 1)
                bands = np.stack([colours[(1, 2, 1, 0)[b % 4]] * (8 + b) for b in range(BANDS)])
                bands[1:4] = colours[::-1] * 12  # B02, B03, B04: blue, green, red
                place = rasterio.Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
                shape = {"count": BANDS, "height": SIDE, "width": SIDE, "dtype": "uint16"}
                with rasterio.open(file, "w", driver="GTiff", crs="EPSG:32632", transform=place, **shape) as raster:
                    raster.write(bands)

    return kept_by_content(write)


def resisc45_folder(class_names: Sequence[str] = RESISC45) -> Path:
    """`airplane/airplane_001.jpg`, and the lists of names and numbers that MTP trains with."""

    def write(folder: Path) -> None:
        for k, name in enumerate(class_names):
            for number in range(EACH):
                _save(texture(k, number), folder / name / f"{name}_{number + 1:03d}.jpg")
        for split, numbers in (("train", range(2)), ("valid", range(2, EACH))):
            lines = [f"{n}/{n}_{number + 1:03d}.jpg {k}\n" for k, n in enumerate(class_names) for number in numbers]
            file = folder / "mtp" / f"{split}_labels_28_mtp.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(lines))

    return kept_by_content(write)


def labelled_csv(class_names: Sequence[str] = ("field", "forest", "lake")) -> Path:
    """`labels.csv` with a column of splits, and images of one to three classes: the folder of both."""

    def write(folder: Path) -> None:
        lines = ["image,labels,split"]
        for number in range(12):
            chosen = [k for k in range(len(class_names)) if (number + 1) >> k & 1] or [0]
            pixels = np.mean([texture(k, number) for k in chosen], axis=0).astype(np.uint8)
            _save(pixels, folder / "images" / f"{number:03d}.png")
            split = "val" if number >= 8 else "train"
            lines.append(f"{number:03d}.png,{';'.join(class_names[k] for k in chosen)},{split}")
        (folder / "labels.csv").write_text("\n".join(lines) + "\n")

    return kept_by_content(write)


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)

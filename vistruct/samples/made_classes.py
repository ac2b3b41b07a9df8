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


def texture(class_number: int, number: int, side: int = SIDE) -> np.ndarray:
    """uint8[side, side, 3]: stripes whose direction and colour say the class, with noise; the same at every call."""
    rng = np.random.default_rng([class_number, number])
    rows, columns = np.mgrid[:side, :side]
    angle = np.pi * class_number / 4
    wave = np.sin((np.cos(angle) * columns + np.sin(angle) * rows) * 2 * np.pi / 8 + rng.uniform(0, 6))
    colour = np.array([(200, 90, 60), (70, 180, 80), (60, 100, 210), (190, 180, 60)][class_number % 4])
    pixels = 60 + (wave[..., None] * 0.4 + 0.6) * (colour - 60) + rng.normal(0, 8, (side, side, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def eurosat_folder(class_names: Sequence[str] = EUROSAT) -> Path:
    """`2750/AnnualCrop/AnnualCrop_1.jpg`, and torchgeo's lists `eurosat-train.txt` of bare names."""

    def write(folder: Path) -> None:
        for k, name in enumerate(class_names):
            for number in range(EACH):
                save(texture(k, number), folder / "2750" / name / f"{name}_{number + 1}.jpg")
        for split, numbers in (("train", range(3)), ("val", range(3, 4)), ("test", range(4, 5))):
            lines = [f"{name}_{number + 1}.jpg\n" for name in class_names for number in numbers]
            (folder / f"eurosat-{split}.txt").write_text("".join(lines))

    return kept_by_content(write)


def resisc45_folder(class_names: Sequence[str] = RESISC45) -> Path:
    """`airplane/airplane_001.jpg`, and the lists of names and numbers that MTP trains with."""

    def write(folder: Path) -> None:
        for k, name in enumerate(class_names):
            for number in range(EACH):
                save(texture(k, number), folder / name / f"{name}_{number + 1:03d}.jpg")
        for split, numbers in (("train", range(2)), ("valid", range(2, EACH))):
            lines = [f"{n}/{n}_{number + 1:03d}.jpg {k}\n" for k, n in enumerate(class_names) for number in numbers]
            file = folder / "mtp" / f"{split}_labels_28_mtp.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(lines))

    return kept_by_content(write)


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)

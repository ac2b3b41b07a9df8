"""Made-up images with classes in layouts that no tiny recipe needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vistruct.samples.made_classes import EACH, EUROSAT, SIDE, save, texture
from vistruct.samples.made_scenes import kept_by_content

BANDS = 13  # of EuroSAT's multispectral edition


def class_folder(class_names: Sequence[str] = ("field", "forest", "lake"), splits: Sequence[str] = ()) -> Path:
    """A folder for each class, each in every split's folder if there are any."""

    def write(folder: Path) -> None:
        for at, split in enumerate(splits or ("",)):
            for k, name in enumerate(class_names):
                for number in range(EACH):
                    save(texture(k, EACH * at + number), folder / split / name / f"{name}_{number + 1}.jpg")

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


def labelled_csv(class_names: Sequence[str] = ("field", "forest", "lake")) -> Path:
    """`labels.csv` with a column of splits, and images of one to three classes: the folder of both."""

    def write(folder: Path) -> None:
        lines = ["image,labels,split"]
        for number in range(12):
            chosen = [k for k in range(len(class_names)) if (number + 1) >> k & 1] or [0]
            pixels = np.mean([texture(k, number) for k in chosen], axis=0).astype(np.uint8)
            save(pixels, folder / "images" / f"{number:03d}.png")
            split = "val" if number >= 8 else "train"
            lines.append(f"{number:03d}.png,{';'.join(class_names[k] for k in chosen)},{split}")
        (folder / "labels.csv").write_text("\n".join(lines) + "\n")

    return kept_by_content(write)

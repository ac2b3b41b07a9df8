"""Made-up data for the tiny twins of segmentation and change detection, in the true layouts of public data sets.

A scene is cut into areas, each of one class with a colour of its own under noise; between the two images of a pair the
light differs and bright blocks come. Two scenes are for training, one for each other split.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from vistruct.data.formats.maps import isaid, loveda, oscd, uavid
from vistruct.samples.made_scenes import kept_by_content

SIDE = 64  # pixels of a scene
PAIR_SIDE = 32  # of an image of a pair; two each way in LEVIR-CD, which is cut into windows
FOOTPRINT_SIDE = 240  # pixels of an image of SpaceNet: beyond 180, so that its corners can be no degrees
_NOISE = 12  # standard deviation of a pixel's values


def scene(number: int, size_hw: tuple[int, int], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and the classes of its pixels; the same ones at every call.

    Returns:
        uint8[H, W, 3], and int16[H, W] with every class somewhere if there is room.
    """
    rng = np.random.default_rng([number, *size_hw, num_classes])
    height, width = size_hw
    seeds = rng.uniform(0, 1, (2 * num_classes, 2)) * [height, width]
    classes = rng.permutation(np.arange(2 * num_classes) % num_classes)
    y, x = np.mgrid[:height, :width]
    distance = (y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2  # [H, W, S]
    label_map = classes[distance.argmin(axis=2)].astype(np.int16)
    colours = np.random.default_rng(1).permutation(np.mgrid[40:221:60, 40:221:60, 40:221:60].reshape(3, -1).T)
    pixels = colours[label_map] + rng.normal(0, _NOISE, (height, width, 3))
    return pixels.clip(0, 255).astype(np.uint8), label_map


def pair(number: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images before and after, and what changed.

    Returns:
        uint8[S, S, 3] twice, and bool[S, S].
    """
    before, _ = scene(number, (side, side), 4)
    rng = np.random.default_rng([number, side])
    changed = np.zeros((side, side), bool)
    after = before * 0.85 + rng.normal(0, _NOISE / 2, before.shape)
    for _ in range(max(2, (side // 20) ** 2)):
        y, x = rng.integers(0, side - 10, 2)
        high, wide = rng.integers(6, 10, 2)
        changed[y : y + high, x : x + wide] = True
    after[changed] = 245 + rng.normal(0, _NOISE / 4, (int(changed.sum()), 3))
    return before, after.clip(0, 255).astype(np.uint8), changed


def loveda_folder() -> Path:
    """`Train/Urban/images_png`, `masks_png`; likewise Rural, Val, and Test without masks."""

    def write(folder: Path) -> None:
        for number, (split, place) in enumerate(
            [("Train", "Urban"), ("Train", "Rural"), ("Val", "Urban"), ("Val", "Rural"), ("Test", "Urban")]
        ):
            pixels, label_map = scene(number, (SIDE, SIDE), len(loveda.CLASSES))
            label_map[:4, :4] = -1  # no data
            _save(folder / split / place / "images_png" / f"{number}.png", pixels)
            if split != "Test":
                _save(folder / split / place / "masks_png" / f"{number}.png", loveda.CODING.encode(label_map))

    return kept_by_content(write)


def isaid_folder() -> Path:
    """`img_dir` and `ann_dir` with windows of three scenes; the labels are numbers."""

    def write(folder: Path) -> None:
        for number, split in enumerate(("train", "train", "val")):
            pixels, label_map = scene(number, (SIDE, SIDE), len(isaid.CLASSES))
            label_map[-4:] = -1  # beyond the border of the scene
            name = f"P{number:04d}_0_{SIDE}_0_{SIDE}"
            _save(folder / "img_dir" / split / f"{name}.png", pixels)
            _save(folder / "ann_dir" / split / f"{name}{isaid.LABEL_END}.png", isaid.CODING.encode(label_map))

    return kept_by_content(write)


def uavid_folder() -> Path:
    """`uavid_train/seq1/Images` and `Labels` in colour; likewise uavid_val, and uavid_test without labels."""

    def write(folder: Path) -> None:
        for number, (split, sequence) in enumerate(
            [("train", "seq1"), ("train", "seq2"), ("val", "seq16"), ("test", "seq21")]
        ):
            for frame in range(2):
                pixels, label_map = scene(10 * number + frame, (72, 128), len(uavid.CLASSES))
                place = folder / f"uavid_{split}" / sequence
                _save(place / "Images" / f"{100 * frame:06d}.png", pixels)
                if split != "test":
                    _save(place / "Labels" / f"{100 * frame:06d}.png", uavid.CODING.encode(label_map))

    return kept_by_content(write)


def levir_folder() -> Path:
    """LEVIR-CD as published: a folder for each split, each with A, B and label."""
    return kept_by_content(lambda folder: _splits(folder, ("A", "B", "label"), 2 * PAIR_SIDE))


def svcd_folder() -> Path:
    """As LEVIR-CD with OUT, all JPEGs."""
    return kept_by_content(lambda folder: _splits(folder, ("A", "B", "OUT"), PAIR_SIDE, ending="jpg"))


def s2looking_folder() -> Path:
    """Image1, Image2, label; beside it label1 and label2 in colour, built and demolished."""

    def write(folder: Path) -> None:
        _splits(folder, ("Image1", "Image2", "label"), PAIR_SIDE)
        for number, split in enumerate(_SPLITS):
            mask = pair(number, PAIR_SIDE)[2][..., None]
            _save(folder / split / "label1" / f"{number}.png", (mask * [0, 0, 255]).astype(np.uint8))
            _save(folder / split / "label2" / f"{number}.png", (mask * [0, 0, 0]).astype(np.uint8))

    return kept_by_content(write)


def whu_folder() -> Path:
    """A, B and label with all images, and a list for each split."""

    def write(folder: Path) -> None:
        lists: dict[str, list[str]] = {}
        for number, split in enumerate(_SPLITS):
            name = f"{split}_{number}.png"
            _pair(folder, ("A", "B", "label"), name, number, PAIR_SIDE)
            lists.setdefault(split, []).append(name)
        for split, names in lists.items():
            place = folder / "list" / f"{split}.txt"
            place.parent.mkdir(exist_ok=True)
            place.write_text("".join(f"{name}\n" for name in names))

    return kept_by_content(write)


def oscd_folder() -> Path:
    """`images/paris/imgs_1_rect/B01.tif` to `B12.tif`, the same for the second time, and `labels/paris/cm/cm.png`."""

    def write(folder: Path) -> None:
        for number, city in enumerate(("paris", "rennes", "lasvegas")):
            before, after, changed = pair(number, 3 * PAIR_SIDE)  # a piece that the published model is shown
            for time, pixels in (("imgs_1_rect", before), ("imgs_2_rect", after)):
                for band, name in enumerate(oscd.BANDS):  # B04, B03 and B02 are red, green and blue
                    colour = pixels[..., (3 - band) % 3].astype(np.uint16) * 11
                    _save(folder / "images" / city / time / f"{name}.tif", colour)
            _save(folder / "labels" / city / "cm" / "cm.png", changed.astype(np.uint8) * 255)
        (folder / "images" / "train.txt").write_text("paris,rennes\n")
        (folder / "images" / "test.txt").write_text("lasvegas\n")

    return kept_by_content(write)


def spacenet_folder() -> Path:
    """`3band/3band_AOI_1_RIO_img1.tif`, `geojson/Geo_AOI_1_RIO_img1.geojson`, and the lists that are not published."""

    def write(folder: Path) -> None:
        lists: dict[str, list[str]] = {}
        for number, split in enumerate(("train", "train", "val"), start=1):
            name = f"AOI_1_RIO_img{number}"
            pixels, _ = scene(number, (FOOTPRINT_SIDE, FOOTPRINT_SIDE), 4)
            shapes = []
            for x, y in np.random.default_rng(number).integers(20, FOOTPRINT_SIDE - 60, (6, 2)).tolist():
                pixels[y : y + 40, x : x + 40] = 245
                ring = [[x, y], [x + 40, y], [x + 40, y + 40], [x, y + 40], [x, y]]
                shapes.append({"type": "Polygon", "coordinates": [ring]})
            features = [{"type": "Feature", "properties": {}, "geometry": shape} for shape in shapes]
            content = {"type": "FeatureCollection", "features": features}
            _save(folder / "3band" / f"3band_{name}.tif", pixels)
            place = folder / "geojson" / f"Geo_{name}.geojson"
            place.parent.mkdir(exist_ok=True)
            place.write_text(json.dumps(content))
            lists.setdefault(split, []).append(name)
        for split, names in lists.items():
            (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))

    return kept_by_content(write)


_SPLITS = ("train", "train", "val", "test")


def _splits(folder: Path, names: tuple[str, str, str], side: int, ending: str = "png") -> None:
    for number, split in enumerate(_SPLITS):
        _pair(folder / split, names, f"{number}.{ending}", number, side)


def _pair(folder: Path, names: tuple[str, str, str], name: str, number: int, side: int) -> None:
    before, after, changed = pair(number, side)
    for place, pixels in zip(names, (before, after, changed.astype(np.uint8) * 255), strict=True):
        _save(folder / place / name, pixels)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)  # of JPEG; PNG has no use for it

"""Made-up data for the tiny twins: three scenes of bright bars on the ground, in the true layouts of public data sets.

A bar is as long as a ship or a plane and lies at any angle, so that oriented boxes, their hulls and their outlines all
differ. Two scenes are for training, the third for measuring.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hotcoco import mask
from PIL import Image, ImageDraw

from vistruct.files.masks import rasterise
from vistruct.files.owned import HOME

SPLITS = ("train", "train", "val")  # of the three scenes
SIDE = 160  # pixels


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture with its objects."""

    name: str
    split: str
    pixels: Image.Image
    quads: np.ndarray  # float64[N, 4, 2]
    names: tuple[str, ...]  # N of them

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """float64[N, 4], the hulls, inside the picture."""
        return np.concatenate([self.quads.min(axis=1), self.quads.max(axis=1)], axis=1).clip(0, SIDE)


def scenes(class_names: Sequence[str]) -> list[Scene]:
    """Three scenes with objects of the first two classes; the same ones at every call."""
    rng = np.random.default_rng(0)
    made = []
    for number, split in enumerate(SPLITS):
        pixels = Image.fromarray(rng.integers(60, 100, (SIDE, SIDE, 3), dtype=np.uint8))
        quads, names = [], []
        for place in range(6):
            centre = 30 + 50 * np.array([place % 3, place // 3]) + rng.uniform(-4, 4, 2)
            length, width, angle = rng.uniform(20, 34), rng.uniform(8, 12), rng.uniform(-math.pi / 2, math.pi / 2)
            along = np.array([math.cos(angle), math.sin(angle)]) * length / 2
            across = np.array([-math.sin(angle), math.cos(angle)]) * width / 2
            quad = centre + np.array([-along - across, along - across, along + across, -along + across])
            kind = place % min(2, len(class_names))
            colour = (230, 220, 90) if kind == 0 else (80, 200, 240)
            ImageDraw.Draw(pixels).polygon([tuple(corner) for corner in quad.tolist()], fill=colour)
            quads.append(quad.round(1))
            names.append(class_names[kind])
        made.append(Scene(name=f"{number:05d}", split=split, pixels=pixels, quads=np.stack(quads), names=tuple(names)))
    return made


def dota_folder(class_names: Sequence[str] = ("plane", "ship"), labels: str = "labelTxt", ending: str = "png") -> Path:
    """`train/images`, `train/labelTxt` and the same for val, as DOTA and (with `annfiles`) RSAR lie."""

    def write(folder: Path) -> None:
        for scene in scenes(class_names):
            _save(scene, folder / scene.split / "images", ending)
            rows = [" ".join(f"{v:.1f}" for v in q.ravel()) + f" {n} 0" for q, n in _objects(scene)]
            _text(folder / scene.split / labels / f"{scene.name}.txt", rows)

    return kept_by_content(write)


def dior_folder(class_names: Sequence[str] = ("airplane", "ship")) -> Path:
    """DIOR: horizontal and oriented xml, lists of the splits, and two folders of images."""

    def write(folder: Path) -> None:
        lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for number, scene in enumerate(scenes(class_names)):
            split = ("train", "val", "test")[number]
            lists[split].append(scene.name)
            _save(scene, folder / ("JPEGImages-test" if split == "test" else "JPEGImages-trainval"), "jpg")
            boxes = zip(scene.boxes_xyxy, scene.names, strict=True)
            horizontal = [_voc_object(name, box) for box, name in boxes]
            _xml(folder / "Annotations" / "Horizontal Bounding Boxes" / f"{scene.name}.xml", scene, horizontal)
            oriented = [_oriented_object(name, quad) for quad, name in _objects(scene)]
            _xml(folder / "Annotations" / "Oriented Bounding Boxes" / f"{scene.name}.xml", scene, oriented)
        for split, names in lists.items():
            _text(folder / "ImageSets" / "Main" / f"{split}.txt", names)

    return kept_by_content(write)


def fair1m_folder(class_names: Sequence[str] = ("Boeing737", "Small Car")) -> Path:
    """`train/part1/images/0.tif` and `train/part1/labelXml/0.xml` as FAIR1M is unpacked; `validation` has no parts."""

    def write(folder: Path) -> None:
        for scene in scenes(class_names):
            place = folder / ("train/part1" if scene.split == "train" else "validation")
            _save(scene, place / "images", "tif")
            objects = "".join(_fair1m_object(name, quad) for quad, name in _objects(scene))
            told = f"<source><filename>{scene.name}.tif</filename><origin>GF2/GF3</origin></source>"
            _xml(place / "labelXml" / f"{scene.name}.xml", scene, [told, f"<objects>{objects}</objects>"])

    return kept_by_content(write)


def xview_folder(type_ids: Sequence[int] = (11, 18)) -> Path:
    """`train_images/5.tif` and `xView_train.geojson`, all boxes of all images in one file and no split."""

    def write(folder: Path) -> None:
        features = []
        for number, scene in enumerate(scenes([str(one) for one in type_ids])):
            image = f"{number + 5}.tif"
            (folder / "train_images").mkdir(exist_ok=True)
            scene.pixels.save(folder / "train_images" / image)
            for box, name in zip(scene.boxes_xyxy.round().astype(int).tolist(), scene.names, strict=True):
                told = {"bounds_imcoords": ",".join(map(str, box)), "type_id": int(name), "image_id": image}
                features.append({"type": "Feature", "properties": told, "geometry": None})
        content = {"type": "FeatureCollection", "features": features}
        _text(folder / "xView_train.geojson", [json.dumps(content)])

    return kept_by_content(write)


def coco_folder(class_names: Sequence[str], annotations: str, images: str, masks: bool) -> Path:
    """`ANNOTATIONS/train.json`, `IMAGES` with `{split}` in it, as SARDet-100K and SSDD lie; val is called test."""

    def write(folder: Path) -> None:
        made = scenes(class_names)
        for split in ("train", "test"):
            entries, found = [], []
            for number, scene in enumerate(one for one in made if one.split == split.replace("test", "val")):
                _save(scene, folder / images.format(split=split), "jpg")
                entries.append({"id": number, "file_name": f"{scene.name}.jpg", "width": SIDE, "height": SIDE})
                for box, quad, name in zip(scene.boxes_xyxy, scene.quads, scene.names, strict=True):
                    x0, y0, x1, y1 = box.tolist()
                    entry = {"id": len(found) + 1, "image_id": number, "category_id": class_names.index(name) + 1}
                    shape = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
                    found.append(entry | shape | ({"segmentation": [quad.ravel().tolist()]} if masks else {}))
            categories = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
            content = {"images": entries, "categories": categories, "annotations": found}
            _text(folder / annotations / f"{split}.json", [json.dumps(content)])

    return kept_by_content(write)


def samrs_folder(class_names: Sequence[str]) -> Path:
    """SOTA and FAST of SAMRS: label maps, pickled instances and texts beside the images, and lists of the splits.

    Args:
        class_names: all of the set, in the order of its label ids; the first two are used.
    """

    def write(folder: Path) -> None:
        root = folder / "trainval"
        made = scenes(class_names)
        for scene in made:
            _save(scene, root / "images", "png")
            gray, rows = np.full((SIDE, SIDE), 255, np.uint8), []
            for (quad, name), hull in zip(_objects(scene), scene.boxes_xyxy, strict=True):
                pixels = rasterise([quad.ravel().tolist()], (0, 0, SIDE, SIDE))
                gray[pixels] = label = class_names.index(name)
                runs = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
                found = {"size": [SIDE, SIDE], "counts": runs["counts"].decode("ascii")}
                of = {"category": name, "label": label, "size": int(pixels.sum())}
                rows.append({"mask": found, "rbox": quad, "rhbox": hull} | of)
            for kind in ("gray", "ins"):
                (root / "rhbox_segs_init" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(gray).save(root / "rhbox_segs_init" / "gray" / f"{scene.name}.png")
            (root / "rhbox_segs_init" / "ins" / f"{scene.name}.pkl").write_bytes(pickle.dumps(rows, protocol=4))
        for split in ("train", "val"):
            _text(root / f"{split.replace('val', 'valid')}.txt", [one.name for one in made if one.split == split])

    return kept_by_content(write)


def _objects(scene: Scene) -> zip[tuple[np.ndarray, str]]:
    return zip(scene.quads, scene.names, strict=True)


def _save(scene: Scene, folder: Path, ending: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scene.pixels.save(folder / f"{scene.name}.{ending}", quality=95)  # of JPEG; PNG has no use for it


def _text(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _voc_object(name: str, box: np.ndarray) -> str:
    x0, y0, x1, y1 = (round(v) for v in box)
    sides = f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"


def _oriented_object(name: str, quad: np.ndarray) -> str:
    corners = ("left_top", "right_top", "right_bottom", "left_bottom")
    sides = "".join(
        f"<x_{corner}>{x}</x_{corner}><y_{corner}>{y}</y_{corner}>"
        for corner, (x, y) in zip(corners, quad.tolist(), strict=True)
    )
    return f"<object><name>{name}</name><robndbox>{sides}</robndbox></object>"


def _fair1m_object(name: str, quad: np.ndarray) -> str:
    points = "".join(f"<point>{x:.1f},{y:.1f}</point>" for x, y in [*quad.tolist(), quad[0].tolist()])
    told = "<coordinate>pixel</coordinate><type>rectangle</type><description>None</description>"
    named = f"<possibleresult><name>{name}</name></possibleresult>"
    return f"<object>{told}{named}<points>{points}</points></object>"


def _xml(path: Path, scene: Scene, objects: Sequence[str]) -> None:
    size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
    _text(path, ["<annotation>", f"<filename>{scene.name}.jpg</filename>{size}", *objects, "</annotation>"])


def kept_by_content(write: Callable[[Path], object]) -> Path:
    """A temporary folder that is named by what is in it, so that the same run names the same files."""
    user = getattr(os, "getuid", int)()  # not on Windows
    root = Path(tempfile.gettempdir()) / f"vistruct-tiny-{user}"
    root.mkdir(exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=root))
    write(fresh)
    digest = hashlib.sha256()
    # The list of what was written says when, which is no content.
    for file in sorted(path for path in fresh.rglob("*") if path.is_file() and HOME not in path.parts):
        digest.update(f"{file.relative_to(fresh).as_posix()}\n".encode())
        digest.update(file.read_bytes())
    kept = root / digest.hexdigest()[:16]
    try:
        fresh.rename(kept)
    except OSError:  # the same has been written before
        shutil.rmtree(fresh)
    return kept

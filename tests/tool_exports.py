"""Exports of annotation tools as the tools write them, each in its stock layout, made small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 80


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name) + sum(map(ord, path.name)))
    Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(path)
    return path


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def cvat(folder: Path, shapes: str, more: str = "", subset: str = "") -> Path:
    image(folder / "images" / subset / "a0.jpg")
    said = f' subset="{subset}"' if subset else ""
    labels = "<labels><label><name>tree</name></label><label><name>crown</name></label></labels>"
    text = (
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task>{labels}</task></meta>'
        f'\n<image id="0" name="a0.jpg"{said} width="96" height="80">{shapes}</image>{more}\n</annotations>\n'
    )
    return save(folder / "annotations.xml", text).parent


def region(value: dict[str, Any], kind: str = "rectanglelabels", **more: Any) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": "r1", "type": kind, "value": value, **size, **more}


def task(*regions: dict[str, Any], name: str = "/data/upload/1/a1b2c3d4-a0.jpg", number: int = 1) -> dict[str, Any]:
    annotations = [{"id": number, "was_cancelled": False, "result": list(regions)}]
    return {"id": number, "data": {"image": name}, "annotations": annotations, "predictions": []}


def box(x: float, y: float, w: float, h: float, rotation: float = 0) -> dict[str, Any]:
    return {"x": x, "y": y, "width": w, "height": h, "rotation": rotation, "rectanglelabels": ["crown"]}


def labelme(folder: Path, *shapes: dict[str, Any], name: str = "a0", path: str = "a0.jpg") -> Path:
    content = {"version": "5.2.1", "flags": {}, "shapes": list(shapes), "imagePath": path, "imageData": None}
    return save(folder / f"{name}.json", {**content, "imageHeight": HEIGHT, "imageWidth": WIDTH}).parent


def drawn(kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": "crown", "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


VIA_RECT = {"name": "rect", "x": 10, "y": 8, "width": 24, "height": 22}


def via(shape: dict[str, Any], attributes: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": {"class": "crown"} if attributes is None else attributes}


def via_json(folder: Path, *regions: dict[str, Any]) -> Path:
    image(folder / "a0.jpg")
    entry = {"filename": "a0.jpg", "size": 4096, "regions": list(regions), "file_attributes": {}}
    return save(folder / "via_export_json.json", {"a0.jpg4096": entry}).parent


def datumaro(folder: Path, *annotations: dict[str, Any]) -> Path:
    image(folder / "images" / "train" / "a0.jpg")
    labels = [{"name": "tree", "parent": ""}, {"name": "crown", "parent": ""}]
    item = {"id": "a0", "image": {"path": "a0.jpg", "size": [HEIGHT, WIDTH]}, "annotations": list(annotations)}
    content = {"info": {}, "categories": {"label": {"labels": labels}}, "items": [item]}
    return save(folder / "annotations" / "train.json", content).parent.parent


def supervisely(folder: Path) -> Path:
    image(folder / "ds" / "img" / "a0.jpg")
    points = {"exterior": [[10, 8], [33, 29]], "interior": []}
    one = {"classTitle": "crown", "geometryType": "rectangle", "points": points, "tags": []}
    size = {"height": HEIGHT, "width": WIDTH}
    save(folder / "ds" / "ann" / "a0.jpg.json", {"description": "", "tags": [], "size": size, "objects": [one]})
    return save(folder / "meta.json", {"classes": [{"title": "crown", "shape": "rectangle"}], "tags": []}).parent


def roboflow_csv(folder: Path) -> Path:
    for split in ("train", "valid"):
        image(folder / split / "a0.jpg")
        save(
            folder / split / "_annotations.csv",
            "filename,width,height,class,xmin,ymin,xmax,ymax\na0.jpg,96,80,crown,10,8,34,30\n",
        )
    return folder


def roboflow_keras(folder: Path) -> Path:
    for split in ("train", "valid"):
        image(folder / split / "a 0.jpg")
        save(folder / split / "_annotations.txt", "a 0.jpg 10,8,34,30,1\n")
        save(folder / split / "_classes.txt", "tree\ncrown\n")
    return folder


def coco(folder: Path) -> dict[str, Any]:
    image(folder / "a0.jpg")
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 8, 24, 22], "area": 528, "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": "a0.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "crown"}],
    }


def voc(folder: Path, images: str, annotations: str) -> Path:
    image(folder / images / "a0.jpg")
    edges = "<xmin>11</xmin><ymin>9</ymin><xmax>34</xmax><ymax>30</ymax>"
    text = f"<object><name>crown</name><bndbox>{edges}</bndbox></object>"
    return save(folder / annotations / "a0.xml", f"<annotation>{text}</annotation>") and folder


def yolo(folder: Path, images: str, labels: str, names: tuple[str, str]) -> Path:
    image(folder / images / "a0.jpg")
    save(folder / labels / "a0.txt", "0 0.229167 0.2375 0.25 0.275\n")
    return save(folder / names[0], names[1]) and folder


LAYOUTS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "cvat": ("cvat", lambda f: cvat(f, '<box label="crown" xtl="10" ytl="8" xbr="34" ybr="30"/>')),
    "label studio": (
        "label-studio",
        lambda f: (image(f / "a0.jpg"), save(f / "p.json", [task(region(box(0, 0, 50, 50)))])),
    ),
    "labelme": ("labelme", lambda f: (image(f / "a0.jpg"), labelme(f, drawn("rectangle", [[10, 8], [34, 30]])))),
    "labelme of one class in folders": (
        "labelme",
        lambda f: (image(f / "train" / "a0.jpg"), labelme(f / "train", drawn("rectangle", [[10, 8], [34, 30]]))),
    ),
    "via": ("via", lambda f: via_json(f, via(VIA_RECT))),
    "datumaro": ("datumaro", lambda f: datumaro(f, {"type": "bbox", "label_id": 0, "bbox": [10, 8, 24, 22]})),
    "supervisely": ("supervisely", supervisely),
    "roboflow csv": ("csv-boxes", roboflow_csv),
    "roboflow keras": ("yolo-keras", roboflow_keras),
    "roboflow coco": ("coco", lambda f: save(f / "train" / "_annotations.coco.json", coco(f / "train"))),
    "roboflow voc": ("voc", lambda f: voc(f, "train", "train")),
    "roboflow yolo": (
        "yolo",
        lambda f: yolo(
            f, "train/images", "train/labels", ("data.yaml", "train: ../train/images\nnc: 1\nnames: ['crown']\n")
        ),
    ),
    "labelimg voc": ("voc", lambda f: voc(f, "", "")),
    "labelimg yolo": ("yolo", lambda f: yolo(f, "", "", ("classes.txt", "crown\n"))),
    "cvat coco": (
        "coco",
        lambda f: save(f / "annotations" / "instances_default.json", coco(f / "images")),
    ),
    "csv without names": (
        "csv-boxes",
        lambda f: (image(f / "a0.jpg"), save(f / "annotations.csv", "a0.jpg,10,8,34,30,crown\n")),
    ),
}

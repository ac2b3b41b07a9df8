"""COCO json: boxes, masks and key points on images, and the results file that COCO tools score.

`coco_find` says where the files may lie, `coco_shapes` where oriented boxes are in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.contracts import BoxPrediction, Objects, Record
from vistruct.data.formats.boxes import coco_shapes
from vistruct.data.formats.boxes.coco_find import find_json, json_files
from vistruct.data.formats.boxes.coco_walk import categories, document, usual, walk
from vistruct.data.formats.boxes.image_names import record_ids
from vistruct.data.formats.format import Format, Writer, never
from vistruct.data.formats.json_kind import json_kind
from vistruct.errors import UserError
from vistruct.files.text import write_text
from vistruct.issues import IssueCounter


def looks_like(path: Path) -> bool:
    """Whether it is a COCO json, or a folder with one in a known place."""
    return json_kind(path) == "coco" if path.is_file() else path.is_dir() and bool(json_files(path))


def splits(path: Path) -> tuple[str, ...]:
    """The names of the json files of a folder, those of `instances_` alone where there are such; none of a file."""
    files = json_files(path) if path.is_dir() else {}
    instances = tuple(name for name, file in files.items() if file.stem.startswith("instances_"))
    return instances or tuple(files)


def read_ids(annotation: Path) -> tuple[dict[str, int], tuple[int, ...]]:
    """COCO's own ids of what reading gives: record id to image id, and the category id of each class.

    Raises:
        UserError: no file, not json or not COCO; images without numbers.
    """
    content = document(find_json(Path(annotation), None))
    if any(isinstance(image["id"], str) for image in content["images"]):
        what = "images whose ids are texts, and COCO's results name them by whole numbers"
        raise UserError(what, where=annotation, fix="number the images")
    content = usual(content)
    ids = record_ids([str(image["file_name"]) for image in content["images"]])
    image_ids = {record_id: int(image["id"]) for record_id, image in zip(ids, content["images"], strict=True)}
    return image_ids, tuple(int(category["id"]) for category in categories(content)[0])


def write(path: Path, records: Sequence[Record], class_names: Sequence[str]) -> IssueCounter:
    """Write whole-image records as COCO json; reading gives them back. Ids count from 1.

    Oriented boxes go where a mask would be, as polygons of four corners that other tools read; beside a mask they have
    a key of their own, `quad`. Columns of `extra` are `attributes`, as CVAT has them.

    Args:
        path: the json file; without that ending the folder of the data set, with `annotations.json` in it.

    Returns:
        What was changed on the way: nothing.

    Raises:
        ValueError: a record without a size, or one that is a window.
    """
    path = Path(path) if Path(path).suffix == ".json" else Path(path) / "annotations.json"
    tables = [record.objects for record in records]
    means_boxes = any(table.quads is not None for table in tables) and all(table.masks is None for table in tables)
    images, annotations = [], []
    for image_id, record in enumerate(records, start=1):
        if record.size_hw is None or record.window_xyxy is not None:
            raise ValueError(f"{record.id}: COCO json holds whole images of known size")
        height, width = record.size_hw
        images.append({"id": image_id, "file_name": record.id, "width": width, "height": height})
        for number, label in enumerate(record.objects.labels):
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(label) + 1}
            annotations.append(entry | _shape(record.objects, number))
    info = {"info": {"segmentation": coco_shapes.ORIENTED}} if means_boxes else {}
    categories = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
    content = {**info, "images": images, "categories": categories, "annotations": annotations}
    write_text(path, json.JSONEncoder(separators=(",", ":"), default=_json_text).iterencode(content))
    return IssueCounter()


def _shape(objects: Objects[np.ndarray], number: int) -> dict[str, Any]:
    """Everything that an annotation says of one object but its ids."""
    x0, y0, x1, y1 = (float(edge) for edge in objects.boxes_xyxy[number])
    shape: dict[str, Any] = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
    shape["iscrowd"] = int(objects.is_crowd[number])
    if objects.is_difficult[number]:
        shape["ignore"] = 1
    if objects.quads is not None:
        corners = [float(value) for value in objects.quads[number].reshape(-1)]
        shape |= {"segmentation": [corners], "area": coco_shapes.mask_area([corners])}
        if objects.masks is not None:
            shape["quad"] = corners
    if objects.masks is not None:
        mask = objects.masks[number]
        shape |= {"segmentation": mask, "area": coco_shapes.mask_area(mask)} if mask else {"segmentation": []}
    if objects.keypoints is not None:
        points = objects.keypoints[number]
        flat = [value for x, y, seen in points.tolist() for value in (x, y, int(seen))]
        shape |= {"keypoints": flat, "num_keypoints": int((points[:, 2] > 0).sum())}
    more: dict[str, Any] = {name: column[number] for name, column in objects.extra.items()}
    more = {name: value for name, value in more.items() if value is not None}
    more = {**(more.pop(coco_shapes.ATTRIBUTES, None) or {}), **more}
    return shape | ({"attributes": more} if more else {})


def _json_text(value: object) -> Any:
    """Run lengths are text in json; the COCO tools hand them out as bytes. Columns may be arrays."""
    if isinstance(value, bytes):
        return value.decode("ascii")
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"json has no word for {type(value).__name__}")


def write_predictions(
    path: Path,
    predictions: Sequence[BoxPrediction],
    image_ids: Mapping[str, int],
    category_ids: Sequence[int],
) -> None:
    """Write detections as a COCO results json.

    Args:
        path: where to.
        predictions: in pixels of the whole image; windows of one image must have been merged.
        image_ids: COCO's id of each `image_id`, see `read_ids`.
        category_ids: COCO's id of each class.

    Raises:
        KeyError: a prediction for an image that has no id.
    """
    results = []
    for prediction in predictions:
        rows = zip(
            prediction.objects.boxes_xyxy.tolist(),
            prediction.objects.scores.tolist(),
            prediction.objects.labels.tolist(),
            strict=True,
        )
        for (x0, y0, x1, y1), score, label in rows:
            entry = {"image_id": image_ids[prediction.image_id], "category_id": category_ids[label]}
            results.append(entry | {"bbox": [x0, y0, x1 - x0, y1 - y0], "score": score})
    write_text(path, json.JSONEncoder(separators=(",", ":")).iterencode(results))


FORMAT = Format(
    kind="boxes",
    looks_like=looks_like,
    splits=splits,
    walk=walk,
    writer=Writer(write=write, quads=True, masks=True, keypoints=True, is_crowd=True, is_difficult=True, extra=True),
)

_NAMED = replace(FORMAT, looks_like=never, writer=None)  # the answers to a question about angles
DEGREES = replace(_NAMED, walk=partial(walk, angles="degrees"))
DEGREES_CW = replace(_NAMED, walk=partial(walk, angles="degrees-cw"))
RADIANS = replace(_NAMED, walk=partial(walk, angles="radians"))
RADIANS_CW = replace(_NAMED, walk=partial(walk, angles="radians-cw"))
UPRIGHT = replace(_NAMED, walk=partial(walk, angles="upright"))

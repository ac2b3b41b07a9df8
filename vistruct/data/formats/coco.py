"""COCO json: boxes on images, and the results file that COCO tools score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NoReturn

from vistruct.contracts import BoxPrediction, Record
from vistruct.data.formats.coco_walk import document, walk
from vistruct.data.formats.text import write_text
from vistruct.data.report import Report
from vistruct.errors import UserError


def read(
    annotation: Path, images: Path | None = None, *, missing: Literal["stop", "drop"] = "stop"
) -> tuple[list[Record], tuple[str, ...], Report]:
    """Read the boxes of a COCO json.

    Args:
        annotation: the json file.
        images: the folder that `file_name` starts from; None: the folder of the json.
        missing: what a listed image that is not on disk does: stop with an error, or drop out and be counted.

    Returns:
        One record for each image in the order of the file, its id being `file_name`; class names in the order
        of their category ids; and what was left out or clipped. Images without boxes are kept. A box keeps
        what COCO calls a crowd in `is_crowd`.

    Raises:
        UserError: no file, not json (with line and column), not COCO, ids that point nowhere, images that are
            missing or of another size than the json says.
    """
    report = Report()
    records, class_names = walk(annotation, images, report, _raise, missing=missing)
    return records, class_names, report


def read_ids(annotation: Path) -> tuple[dict[str, int], tuple[int, ...]]:
    """COCO's own ids of what `read` gives: record id to image id, and the category id of each class.

    Raises:
        UserError: no file, not json or not COCO.
    """
    content = document(Path(annotation))
    image_ids = {str(image["file_name"]): int(image["id"]) for image in content["images"]}
    return image_ids, tuple(sorted(int(category["id"]) for category in content["categories"]))


def write(path: Path, records: Sequence[Record], class_names: Sequence[str]) -> None:
    """Write whole-image records as COCO json; `read` gives them back. Ids count from 1.

    Raises:
        ValueError: a record without a size, or one that is a window.
    """
    images, annotations = [], []
    for image_id, record in enumerate(records, start=1):
        if record.size_hw is None or record.window_xyxy is not None:
            raise ValueError(f"{record.id}: COCO json holds whole images of known size")
        height, width = record.size_hw
        images.append({"id": image_id, "file_name": record.id, "width": width, "height": height})
        for box, label, crowd in zip(record.boxes_xyxy, record.labels, record.is_crowd, strict=True):
            x0, y0, x1, y1 = (float(edge) for edge in box)
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(label) + 1}
            shape = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": int(crowd)}
            annotations.append(entry | shape)
    categories = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_text(path, json.JSONEncoder(separators=(",", ":")).iterencode(content))


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
            prediction.boxes_xyxy.tolist(),
            prediction.scores.tolist(),
            prediction.labels.tolist(),
            strict=True,
        )
        for (x0, y0, x1, y1), score, label in rows:
            entry = {"image_id": image_ids[prediction.image_id], "category_id": category_ids[label]}
            results.append(entry | {"bbox": [x0, y0, x1 - x0, y1 - y0], "score": score})
    write_text(path, json.JSONEncoder(separators=(",", ":")).iterencode(results))


def _raise(error: UserError) -> NoReturn:
    raise error

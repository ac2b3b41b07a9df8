"""Detections on whole images as files that others take: COCO json, and what the scorers of DOTA and xView read.

DOTA has one text file a class, and a line for each detection:

    Task1_plane.txt    P0006 0.987654 1126.00 971.00 1141.00 971.00 1141.00 994.00 1126.00 994.00
    Task2_plane.txt    P0006 0.987654 1126.00 971.00 1141.00 994.00

Task 1 is of oriented boxes (four corners), task 2 of horizontal ones (x and y of two corners). The name of the image
is without its ending. The server takes a zip with the files of all classes and no folders. (FAIR1M: `fair1m.py`.)

xView has one text file an image in one folder, also for an image in which nothing was found, and a line for each
detection: x and y of two corners, the number of the class (`type_id`), the score from 0 to 1. Its scorer stops at
coordinates below 0.

    1036.tif.txt       126.50 71.00 141.25 94.00 18 0.987654
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vistruct.contracts import BoxPrediction
from vistruct.data.formats.boxes.coco_shapes import ORIENTED
from vistruct.data.formats.boxes.dota import refuse_twins
from vistruct.data.formats.boxes.objects import CLIPPED
from vistruct.data.formats.boxes.xview import type_id
from vistruct.errors import UserError
from vistruct.files.packing import zip_files
from vistruct.files.text import write_text
from vistruct.issues import IssueCounter
from vistruct.ops.mask_runs import encode_patch
from vistruct.ops.oriented import cxcywha_to_quads

BEYOND = "detection left out: wholly beyond the top left corner of its image"


def write_coco(
    path: Path,
    sizes_hw: Mapping[str, tuple[int, int]],
    predictions: Iterable[BoxPrediction],
    class_names: Sequence[str],
) -> int:
    """Write a COCO json with its images and categories, a score on each annotation; ids count from 1.

    Oriented boxes are polygons of four corners in `segmentation`, with their hulls in `bbox`; masks are run lengths.
    Predictions are taken one by one, so that they need not be in memory together.

    Args:
        sizes_hw: (height, width) in pixels of every image by its name, in the order of the file.
        predictions: in pixels of the whole image, `image_id` being the image's name.
        class_names: what the labels stand for.

    Returns:
        How many detections there are.

    Raises:
        KeyError: a prediction about an image that has no size.
    """
    numbers = {name: number for number, name in enumerate(sizes_hw, start=1)}
    images = [
        {"id": numbers[name], "file_name": name, "width": width, "height": height}
        for name, (height, width) in sizes_hw.items()
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
    rest = iter(predictions)
    first = next(rest, None)
    info = {}
    if first is not None:
        rest = itertools.chain([first], rest)
        if first.objects.boxes_cxcywha is not None and first.objects.masks is None:
            info = {"info": {"segmentation": ORIENTED}}
    count = 0

    def pieces() -> Iterator[str]:
        nonlocal count
        head = json.dumps({**info, "images": images, "categories": categories})
        yield f'{head[:-1]}, "annotations": ['
        for prediction in rest:
            name = prediction.image_id
            for annotation in coco_annotations(prediction, sizes_hw[name]):
                count += 1
                yield ("" if count == 1 else ",\n") + json.dumps({"id": count, "image_id": numbers[name], **annotation})
        yield "]}\n"

    write_text(path, pieces())
    return count


def coco_annotations(prediction: BoxPrediction, size_hw: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """What a COCO json says of each detection in an image of this (height, width), but its own and the image's id."""
    boxes = prediction.objects.boxes_xyxy.tolist()
    quads = None
    if prediction.objects.boxes_cxcywha is not None:
        quads = cxcywha_to_quads(prediction.objects.boxes_cxcywha).flatten(1).tolist()
    rows = zip(boxes, prediction.objects.scores.tolist(), prediction.objects.labels.tolist(), strict=True)
    for number, ((x0, y0, x1, y1), score, label) in enumerate(rows):
        shape: dict[str, Any] = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
        if quads is not None and prediction.objects.boxes_cxcywha is not None:
            area = float(prediction.objects.boxes_cxcywha[number, 2:4].prod())
            shape |= {"segmentation": [quads[number]], "area": area}
        if prediction.objects.masks is not None:
            patch = prediction.objects.masks[number]
            runs = encode_patch(patch.pixels, patch.x, patch.y, size_hw)
            shape |= {"segmentation": {**runs, "counts": runs["counts"].decode()}, "area": float(patch.pixels.sum())}
            if quads is not None:
                shape["quad"] = quads[number]
        yield {"category_id": label + 1, "score": score, **shape}


def dota_task(prediction: BoxPrediction) -> str:
    """`Task1` for oriented boxes, `Task2` for horizontal ones."""
    return "Task2" if prediction.objects.boxes_cxcywha is None else "Task1"


def check_dota_names(image_names: Iterable[str], class_names: Sequence[str], where: Path) -> None:
    """
    Raises:
        UserError: names that DOTA's files cannot tell apart or hold: images alike but for folder or ending, or with
            white space; classes with a slash, or alike once white space is written as hyphens.
    """
    image_names = list(image_names)
    stems = [Path(name).stem for name in image_names]
    refuse_twins(stems, image_names, "images", where)
    written = [_hyphens(name) for name in class_names]
    refuse_twins(written, class_names, "classes", where)
    for name, kind in [*((stem, "image") for stem in stems), *((name, "class") for name in written)]:
        if not name or any(character.isspace() or character in "/\\" for character in name):
            what = f"DOTA's files cannot name the {kind} {name!r}: no spaces, no slashes"
            raise UserError(what, where=where, fix="rename it, or write another format")


def _hyphens(name: str) -> str:
    return "-".join(name.split())


def write_dota(folder: Path, predictions: Iterable[BoxPrediction], class_names: Sequence[str]) -> Path:
    """Write `Task1_<class>.txt` (oriented boxes) or `Task2_<class>.txt` (horizontal ones), and the zip of them.

    Every class has a file, also one that was never found, with hyphens for white space in its name. Best scores come
    first, and of equal ones they go by image.

    Args:
        folder: where to; it is made.
        predictions: in pixels of the whole image, one of each image.
        class_names: what the labels stand for.

    Returns:
        The zip, `Task1.zip` or `Task2.zip`; equal predictions give equal bytes.

    Raises:
        UserError: two predictions of one image; names as of `check_dota_names`.
        ValueError: no predictions, or of both kinds.
    """
    lines: list[list[tuple[float, str, int, str]]] = [[] for _ in class_names]
    tasks: set[str] = set()
    names: list[str] = []
    for prediction in predictions:
        tasks.add(dota_task(prediction))
        names.append(prediction.image_id)
        stem = Path(prediction.image_id).stem
        if prediction.objects.boxes_cxcywha is None:
            corners = prediction.objects.boxes_xyxy
        else:
            corners = cxcywha_to_quads(prediction.objects.boxes_cxcywha).flatten(1)
        rows = zip(
            corners.tolist(), prediction.objects.scores.tolist(), prediction.objects.labels.tolist(), strict=True
        )
        for number, (places, score, label) in enumerate(rows):
            text = " ".join(f"{value:.2f}" for value in places)
            # Nine digits tell any two float32 apart, so that writing makes no scores equal.
            lines[label].append((-score, stem, number, f"{stem} {score:.9g} {text}\n"))
    if len(tasks) != 1:
        raise ValueError(f"{len(names)} predictions of {len(tasks)} kinds make no DOTA submission")
    check_dota_names(names, class_names, folder)
    (task,) = tasks
    texts = {f"{task}_{_hyphens(name)}.txt": rows for name, rows in zip(class_names, lines, strict=True)}
    for file, rows in texts.items():
        rows.sort()
        write_text(Path(folder) / file, (text for *_, text in rows))
    return zip_files(Path(folder) / f"{task}.zip", [Path(folder) / file for file in sorted(texts)], Path(folder))


def check_xview_names(image_names: Iterable[str], where: Path) -> None:
    """
    Raises:
        UserError: images alike but for folder or ending, which xView's files cannot tell apart.
    """
    names = list(image_names)
    refuse_twins([_xview_file(name) for name in names], names, "images", where)


def xview_numbers(class_names: Sequence[str], where: object) -> list[int]:
    """
    Raises:
        UserError: a class that xView does not have.
    """
    return [type_id(name, where, "train on xView, or write another format: --format coco") for name in class_names]


def _xview_file(name: str) -> str:
    return f"{Path(name).stem}.tif.txt"  # whatever a copy of it ends in, the image of the data set is a .tif


def write_xview(
    folder: Path, predictions: Iterable[BoxPrediction], image_names: Iterable[str]
) -> tuple[Path, IssueCounter]:
    """Write `predictions/<image>.tif.txt` for every image, best scores first, and a zip; of oriented boxes the hulls.

    Args:
        folder: where to; it is made.
        predictions: in pixels of the whole image, one of each image.
        image_names: of all images; one without a prediction gets an empty file.

    Returns:
        The zip, without folders; and what was clipped or left out at the edges of images where coordinates are 0.

    Raises:
        UserError: names as of `check_xview_names`; a class that xView does not have; two predictions of one image, or
            one of an image that is not in `image_names`.
    """
    names = list(image_names)
    check_xview_names(names, folder)
    report, rest = IssueCounter(), dict.fromkeys(names)
    root = Path(folder) / "predictions"
    for prediction in predictions:
        name = prediction.image_id
        if name not in rest:
            what = "a prediction about an image that is not asked for, or another one about it"
            raise UserError(what, where=name, fix="one prediction for each image")
        del rest[name]
        write_text(root / _xview_file(name), _xview_lines(prediction, report), wait_for_disk=False)
    for name in rest:
        write_text(root / _xview_file(name), [], wait_for_disk=False)
    files = sorted(root / _xview_file(name) for name in names)
    return zip_files(Path(folder) / "predictions.zip", files, root), report


def _xview_lines(prediction: BoxPrediction, report: IssueCounter) -> list[str]:
    numbers = xview_numbers(prediction.class_names, prediction.image_id)
    objects = prediction.objects
    lines = []
    for at in objects.scores.argsort(descending=True, stable=True).tolist():
        box, here = objects.boxes_xyxy[at], f"{prediction.image_id}: detection {at}"
        if (box[2:] <= 0).any():
            report.note(BEYOND, here)
            continue
        if (box < 0).any():
            report.note(CLIPPED, here, "repaired")
        edges = " ".join(f"{value:.2f}" for value in box.clamp(min=0).tolist())
        lines.append(f"{edges} {numbers[int(objects.labels[at])]} {float(objects.scores[at]):.9g}\n")
    return lines

"""Detections that others wrote, as predictions about the images of a truth.

    results.json           COCO results: a list of image_id, category_id, bbox or segmentation, score
    predictions.json       what `vistruct predict` writes: COCO with a score on each annotation
    Task1_plane.txt, ...   DOTA: image, score, four corners (Task2: two) on a line, a file for each class
    labels/a.txt, ...      YOLO with scores: class, shares of the image, score on a line, a file for each image
    1036.tif.txt, ...      xView: x and y of two corners, type_id, score on a line, a file for each image

Images and classes are those of the truth, by name; of COCO results by the ids of the truth's json. What is about others
is left out and counted.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vistruct.contracts import BoxPrediction, MaskPatch, Objects, Record
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.formats.boxes import coco_shapes, xview
from vistruct.data.formats.boxes.coco_find import find_json
from vistruct.data.formats.boxes.coco_walk import categories, document
from vistruct.data.formats.boxes.image_names import record_ids
from vistruct.data.formats.boxes.yolo_find import find_layout
from vistruct.data.formats.format import Ask
from vistruct.data.formats.order import NOT_WANTED
from vistruct.data.predicted.images import Place, TruthImages, numbered
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.files.json_files import read_json
from vistruct.files.masks import rasterise
from vistruct.files.text import decimal, read_text
from vistruct.issues import IssueCounter
from vistruct.ops.oriented import cxcywha_to_xyxy, quads_to_cxcywha
from vistruct.windows.patches import in_whole, joined_patches

UNKNOWN_CLASS = "prediction left out: of a class that the truth does not have"
NOTHING_FOUND = "image without predictions: nothing was found there"
NO_FILE = "class without a file: nothing of it was found"

_TASK = re.compile(r"Task([12])_(.+)\.txt")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One detection, in pixels of its image or patch."""

    label: int
    score: float
    corners: Sequence[float] = ()  # x0, y0, x1, y1, or x and y of four corners; (): the mask says it
    mask: Any = None  # COCO's segmentation


@dataclass
class Detections:
    """What files say of the images of a truth."""

    images: TruthImages
    class_names: tuple[str, ...]
    ask: Ask  # as the truth was read: classes joined, dropped, chosen
    report: IssueCounter
    rows: dict[str, list[Found]] = field(default_factory=lambda: defaultdict(list))  # by the name in the files
    places: dict[str, Place] = field(default_factory=dict)
    numbers: dict[str, int] = field(init=False)  # of classes, by the names that files may have for them
    sizes_hw: dict[str, tuple[int, int]] = field(default_factory=dict)  # of patches, where the files say it
    is_oriented: bool = False
    has_masks: bool = False

    def __post_init__(self) -> None:
        names = {name: number for number, name in enumerate(self.class_names)}
        self.numbers = {_written(name): number for name, number in names.items()} | names
        joined = {old: self.numbers.get(new) for new, several in self.ask.join.items() for old in several}
        self.numbers |= {word: n for old, n in joined.items() if n is not None for word in (_written(old), old)}

    def label(self, name: str, here: str) -> int | None:
        """The number of a class; None, and counted: it is not measured."""
        number = self.numbers.get(name, self.numbers.get(_written(name)))
        if number is None:
            self.report.note(NOT_WANTED if self.ask.chooses else UNKNOWN_CLASS, f"{here}: {name}")
        return number

    def add(self, image: str, found: Found, here: str) -> None:
        """Take a detection about an image of this name.

        Raises:
            UserError: a score or a corner that is no finite number.
        """
        if not all(map(np.isfinite, (found.score, *found.corners))):
            raise UserError("a score or coordinate that is not finite", where=here, fix="correct or leave out this row")
        place = self.images.find(image, here)
        if place is not None:
            self.places[image] = place
            self.rows[image].append(found)

    def predictions(self) -> Iterator[BoxPrediction]:
        """One for each image with detections, patches joined."""
        by_image: dict[str, list[str]] = defaultdict(list)
        for name, place in self.places.items():
            by_image[place.record.id].append(name)
        for record in self.images.records:
            names = by_image.get(record.id, [])
            if not names:
                self.report.note(NOTHING_FOUND, record.id, "kept")
            elif len(names) == 1 and self.places[names[0]].patch is None:
                yield self._prediction(names[0], record)
            else:
                yield from joined_patches([self._prediction(name, record) for name in names])

    def _prediction(self, name: str, record: Record) -> BoxPrediction:
        rows, place = self.rows[name], self.places[name]
        size_hw = self.sizes_hw.get(name) or record.size_hw or image_size(record.images[0])
        masks = tuple(_patch(row.mask, size_hw, f"{name}: a mask") for row in rows) if self.has_masks else None
        corners = [_corners(row, None if masks is None else masks[at]) for at, row in enumerate(rows)]
        quads = torch.tensor(corners, dtype=torch.float64).reshape(-1, 4, 2)
        boxes = torch.cat([quads.amin(dim=1), quads.amax(dim=1)], dim=1)
        oriented = quads_to_cxcywha(quads) if self.is_oriented else None
        found = BoxPrediction(
            id=name,
            image_id=record.image_id,
            class_names=self.class_names,
            objects=Objects(
                labels=torch.tensor([row.label for row in rows], dtype=torch.int64),
                scores=torch.tensor([row.score for row in rows], dtype=torch.float64),
                boxes_xyxy=boxes if oriented is None else cxcywha_to_xyxy(oriented),
                boxes_cxcywha=oriented,
                masks=masks,
            ),
        )
        if place.patch is None:
            return found
        patch = place.patch
        if patch.size_wh is None and name in self.sizes_hw:
            patch = replace(patch, size_wh=(float(size_hw[1]), float(size_hw[0])))
        return in_whole(found, patch, record.image_id)


def read_coco(path: Path, found: Detections, part: BoxDataConfig) -> None:
    """COCO results, or our predictions.

    Raises:
        UserError: not json, entries that lack what is asked for, ids that nothing names.
    """
    content = read_json(path)
    own = content if isinstance(content, dict) else {"annotations": content}
    names, classes = _named(own, found) if isinstance(content, dict) else _of_truth(part, found, content, path)
    entries = own["annotations"]
    where = coco_shapes.orientation(own)
    if where in ("bbox", "rotation"):
        what = "boxes with an angle, of which nobody can know unit and direction"
        raise UserError(what, where=path, fix="write their four corners, as `vistruct predict` does")
    means_boxes = where == "quad" or coco_shapes.means_boxes(own)
    is_quad = means_boxes or (
        where == "segmentation" and any(r.objects.quads is not None for r in found.images.records)
    )
    found.is_oriented = is_quad or any("poly" in one for one in entries if isinstance(one, dict))
    found.has_masks = not means_boxes and not found.is_oriented and any(one.get("segmentation") for one in entries)
    for position, entry in enumerate(entries):
        here = f"{path}, entry {position}"
        image, category = _told(entry, here), entry.get("category_id")
        name = entry.get("file_name") if isinstance(entry.get("file_name"), str) else names.get(image, str(image))
        label = found.label(classes.get(category, f"category {category}"), here)
        if label is None:
            continue
        corners = coco_shapes.corners(entry, where) if is_quad else None
        flat: Sequence[float] = np.ravel(corners if corners else entry.get("poly", ())).tolist()
        if not flat and entry.get("bbox"):
            x, y, width, height = entry["bbox"]
            flat = (x, y, x + width, y + height)
        mask = entry.get("segmentation") if found.has_masks else None
        fault = next(coco_shapes.segmentation_faults(mask, None), None)
        if fault is not None or not (flat or mask):
            what = fault[0] if fault else "neither a bbox nor a segmentation"
            raise UserError(what, where=here, fix="correct this entry")
        found.add(name, Found(label=label, score=float(entry["score"]), corners=tuple(flat), mask=mask), here)


def _told(entry: Any, here: str) -> Any:
    """The image that an entry is about.

    Raises:
        UserError: something that an entry has is not there, or is another thing.
    """
    if not isinstance(entry, dict) or "image_id" not in entry or not isinstance(entry.get("score"), int | float):
        what = "an entry of COCO results has image_id, category_id, bbox and score"
        raise UserError(what, where=f"{here}: {json.dumps(entry)[:60]}", fix="correct this entry")
    box = entry.get("bbox")
    if box is not None and not (coco_shapes.are_numbers(box) and len(box) == 4):
        raise UserError("bbox is [x, y, width, height]", where=f"{here}: {box!r:.60}", fix="correct this entry")
    return entry["image_id"]


def _named(content: Mapping[str, Any], found: Detections) -> tuple[dict[Any, str], dict[Any, str]]:
    """Of predictions that name their own images and classes."""
    names = {}
    for image in content["images"]:
        names[image["id"]] = image["file_name"]
        if "height" in image and "width" in image:
            found.sizes_hw[image["file_name"]] = (image["height"], image["width"])
    return names, {one["id"]: one["name"] for one in content["categories"]}


def _of_truth(
    part: BoxDataConfig, found: Detections, entries: Sequence[Any], path: Path
) -> tuple[dict[Any, str], dict[Any, str]]:
    """Of predictions whose ids are those of the truth's json."""
    if not part.format.startswith("coco"):
        what = "COCO results name their classes by numbers, and this truth has none"
        fix = f"give the json that has them, or make one: vistruct convert {part.annotation} OUT --to coco"
        raise UserError(what, where=path, fix=fix)
    names: dict[Any, str] = {}
    classes: dict[Any, str] = {}
    for split in (part.split or "").split("+"):
        content = document(find_json(part.annotation, split or None))
        known = record_ids([str(image["file_name"]) for image in content["images"]])
        names |= {image["id"]: name for name, image in zip(known, content["images"], strict=True)}
        classes |= {one["id"]: one["name"] for one in categories(content)[0]}
    if not any(entry.get("image_id") in names for entry in entries if isinstance(entry, dict)):
        names |= {number: record.id for number, record in numbered(found.images.records).items()}
    return names, classes


def read_dota(files: Sequence[Path], found: Detections) -> None:
    """`Task1_CLASS.txt`, or `Task2_`.

    Raises:
        UserError: files of both tasks; a line of another form.
    """
    told = [(file, match) for file in files if (match := _TASK.fullmatch(file.name))]
    tasks = {match[1] for _, match in told}
    if len(tasks) > 1:
        what = "detections of both tasks, oriented (Task1) and horizontal (Task2)"
        raise UserError(what, where=told[0][0].parent, fix="give a folder that has one of them")
    found.is_oriented = tasks == {"1"}
    count = 8 if found.is_oriented else 4
    given = set()
    for file, match in told:
        lines = [(n, line.split()) for n, line in enumerate(read_text(file, may_be_empty=True).split("\n"), 1)]
        lines = [(number, words) for number, words in lines if words]
        label = found.label(match[2], str(file)) if lines else None
        given |= {match[2]}
        for number, words in lines if label is not None else ():
            here = f"{file}, line {number}"
            if len(words) != 2 + count:
                what = f"a line is the image, the score and {count} numbers, this has {len(words)} fields"
                raise UserError(what, where=here, fix="correct this line")
            score, *corners = (decimal(word, here, "every field but the first") for word in words[1:])
            assert label is not None
            found.add(words[0], Found(label=label, score=score, corners=tuple(corners)), here)
    for name in found.class_names:
        if _written(name) not in given and name not in found.ask.join:
            found.report.note(NO_FILE, name, "kept")


def read_xview(files: Sequence[Path], found: Detections) -> None:
    """`1036.tif.txt`.

    Raises:
        UserError: a line of another form, a type_id of no class.
    """
    for file in files:
        for number, line in enumerate(read_text(file, may_be_empty=True).split("\n"), 1):
            here = f"{file}, line {number}"
            values = [decimal(word, here, "every field") for word in line.split()]
            if not values:
                continue
            if len(values) != 6 or values[4] not in xview.CLASSES:
                what = "a line is x0 y0 x1 y1 type_id score, with a type_id of xView's table"
                raise UserError(what, where=f"{here}: {line:.60}", fix="correct this line")
            label = found.label(xview.CLASSES[int(values[4])], here)
            if label is not None:
                found.add(file.stem, Found(label=label, score=values[5], corners=tuple(values[:4])), here)


def read_yolo(files: Mapping[str, Path], found: Detections, part: BoxDataConfig) -> None:
    """Rows with a score behind them, by the names of the images.

    Raises:
        UserError: rows without a score, or of several kinds; classes that nothing names.
    """
    names = find_layout(part.annotation, part.images).class_names if part.format.startswith("yolo") else part.classes
    if names is None:
        what = "YOLO's rows name classes by numbers, and nothing says which is which"
        raise UserError(what, where=part.annotation, fix="--classes NAME,NAME in their order")
    rows: list[tuple[str, list[float], str]] = []
    for name, file in files.items():
        for number, line in enumerate(read_text(file, may_be_empty=True).split("\n"), 1):
            if line.strip():
                here = f"{file}, line {number}"
                rows.append((name, [decimal(word, here, "every field of a row") for word in line.split()], here))
    odd = next((here for _, values, here in rows if len(values) % 2), None)
    if odd is not None:
        what = "a row without a score: behind its class and its shares of the image comes how sure it is"
        raise UserError(what, where=odd, fix="write scores too (ultralytics: save_txt=True save_conf=True)")
    lengths = {len(values) for _, values, _ in rows}
    has_truth_masks = any(record.objects.masks is not None for record in found.images.records)
    found.is_oriented = lengths == {10} and not has_truth_masks
    found.has_masks = not found.is_oriented and max(lengths, default=6) > 6
    if found.has_masks and 6 in lengths:
        raise UserError("rows of boxes and of outlines", where=rows[0][2], fix="one kind of rows")
    for name, (number, *shares, score), here in rows:
        if not (number == int(number) and 0 <= number < len(names)):
            raise UserError(f"class {number:g} has no name", where=here, fix=f"known: 0 to {len(names) - 1}")
        label, place = found.label(names[int(number)], here), found.images.find(name, here)
        if label is None or place is None:
            continue
        height, width = place.record.size_hw or image_size(place.record.images[0])
        if place.patch is not None:
            what = "shares of a patch, whose size nothing says"
            raise UserError(what, where=here, fix="predictions in pixels: COCO or DOTA")
        flat = [share * (height if at % 2 else width) for at, share in enumerate(shares)]
        if len(flat) == 4:
            cx, cy, w, h = flat
            flat = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        mask = [flat] if found.has_masks else None
        found.add(name, Found(label=label, score=score, corners=() if mask else tuple(flat), mask=mask), here)


def _written(name: str) -> str:
    """As DOTA's files have it."""
    return "-".join(name.split())


def _corners(row: Found, mask: MaskPatch | None) -> list[float]:
    """x and y of four."""
    if len(row.corners) == 8:
        return [float(value) for value in row.corners]
    x0, y0, x1, y1 = row.corners or (0.0, 0.0, 0.0, 0.0)
    if not row.corners and mask is not None:
        height, width = mask.pixels.shape
        x0, y0, x1, y1 = mask.x, mask.y, mask.x + width, mask.y + height
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def _patch(segmentation: Any, size_hw: tuple[int, int], here: str) -> MaskPatch:
    """The pixels of a mask, without what is empty around them.

    Raises:
        UserError: there is none, or run lengths of an image of another size.
    """
    fault = next(coco_shapes.segmentation_faults(segmentation, size_hw), None)
    if fault is not None or not segmentation:
        what = fault[0] if fault else "a detection without a mask among those that have one"
        raise UserError(what, where=f"{here}: {fault[1] if fault else ''}", fix="correct or leave out this entry")
    pixels = rasterise(segmentation, (0, 0, size_hw[1], size_hw[0]))
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return MaskPatch(pixels=pixels[:0, :0], x=0, y=0)
    y, x = int(rows[0]), int(columns[0])
    return MaskPatch(pixels=pixels[y : rows[-1] + 1, x : columns[-1] + 1].copy(), x=x, y=y)

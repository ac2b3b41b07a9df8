"""What annotations of any format say of an image, as `Known`: whole images, and windows of them, turned too."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.contracts import NO_OBJECTS, Objects, Record, Window
from vistruct.data.at_path import WORDS, part_at
from vistruct.data.formats.chat.objects import NAMES
from vistruct.data.formats.format import Kind
from vistruct.data.formats.read import read
from vistruct.data.instructions.known import Known, Said, Told
from vistruct.data.instructions.view import GONE, WHOLE, turn_boxes
from vistruct.data.maps import LabelReader
from vistruct.data.reading import PixelValues, Reading
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.files.intake import Intake
from vistruct.files.masks import rasterise
from vistruct.issues import IssueCounter
from vistruct.ops.mask_runs import encode_patch

BACKGROUND = ("background", "unlabeled", "unlabelled", "other", "void")  # classes of a label map that are no thing
_KINDS: tuple[Kind, ...] = ("boxes", "maps", "captions", "image_classes", "questions")


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """A data set of any family whose annotations are about single images."""

    kind: Kind
    records: list[Record]
    class_names: tuple[str, ...] = ()
    labels: LabelReader | None = None  # of label maps
    intake: Intake | None = None
    report: IssueCounter = field(default_factory=IssueCounter)

    def known(self, record: Record) -> Known:
        """Of a whole image."""
        what: dict[str, Any] = {"id": record.id, "image": record.images[0], "size_hw": record.size_hw}
        if self.kind == "boxes":
            return Known(
                **what, objects=_named(record.objects, self.class_names), is_complete=True, class_names=self.class_names
            )
        if self.kind == "captions":
            return Known(**what, sentences=tuple(Told(text=text) for text in record.captions))
        if self.kind == "questions":
            return Known(**what, talks=(record.turns,))
        if self.kind == "image_classes":
            names = tuple(self.class_names[label] for label in record.image_labels or ())
            return Known(**what, image_labels=names, class_names=self.class_names)
        assert self.labels is not None
        return areas(record, self.labels(record).numpy(), self.class_names)


def open_annotated(path: Path, reading: Reading, values: PixelValues, split: str | None) -> Annotated:
    """What lies at a path, whatever its family.

    Raises:
        UserError: nothing there, a family that is not about single images, images that are no files.
    """
    part: Any = part_at(path, reading, values, split=split)
    if part.kind not in _KINDS:
        what = f"{WORDS.get(part.kind, part.kind)} are not what questions that point are made of"
        raise UserError(what, where=path, fix="give boxes, masks, label maps, captions or classes of images")
    source = part.root if part.kind in ("maps", "image_classes") else part.annotation
    ask = replace(part.ask(), masks=True) if part.kind == "boxes" else part.ask()
    found, report = read(source, part.kind, format=part.format, ask=ask)
    if found.images is not None:
        what = "images that are no files of their own"
        raise UserError(what, where=path, fix="`vistruct convert` makes files of them")
    intake = found.intake if part.intake is None else part.intake
    if part.kind != "maps":
        return Annotated(
            kind=part.kind, records=found.records, class_names=found.class_names, intake=intake, report=report
        )
    assert found.coding is not None  # of records that are there
    return Annotated(
        kind="maps",
        records=found.records,
        class_names=found.coding.classes,
        labels=LabelReader(found.coding, found.raster, intake),
        intake=intake,
        report=report,
    )


def areas(record: Record, label_map: np.ndarray, class_names: tuple[str, ...]) -> Known:
    """The classes of a label map int[H, W] as areas, one object each: they can be named and drawn, and not counted."""
    size_hw = (label_map.shape[0], label_map.shape[1])
    boxes, masks, names = [], [], []
    said = []
    for label, name in enumerate(class_names):
        if name.lower() in BACKGROUND:
            continue
        ys, xs = np.nonzero(label_map == label)
        said.append(Said(text=name, rows=(len(names),) if len(xs) else ()))
        if len(xs):
            x0, y0, x1, y1 = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
            boxes.append([x0, y0, x1, y1])
            masks.append(_runs(label_map[y0:y1, x0:x1] == label, x0, y0, size_hw))
            names.append(name)
    objects: Objects[np.ndarray] = NO_OBJECTS
    if names:
        objects = Objects(
            labels=np.full(len(names), -1),
            boxes_xyxy=np.array(boxes, np.float32),
            masks=tuple(masks),
            extra={NAMES: tuple(names)},
        )
    return Known(id=record.id, image=record.images[0], size_hw=size_hw, objects=objects, expressions=tuple(said))


def _named(objects: Objects[np.ndarray], class_names: tuple[str, ...]) -> Objects[np.ndarray]:
    """With words for labels; of oriented boxes without masks, the boxes are masks."""
    masks = objects.masks
    if masks is None and objects.quads is not None:
        masks = tuple([corners.ravel().tolist()] for corners in objects.quads.astype(np.float64).round(2))
    names = tuple(class_names[label] for label in objects.labels.tolist())
    return replace(objects, labels=np.full(len(objects), -1), masks=masks, boxes_cxcywha=None, extra={NAMES: names})


def cut(known: Known, window: Window, turn: int = 0) -> Known:
    """A window of an image as a picture of its own, under one of the eight symmetries (see `view.turn_image`).

    An object that is cut so far that it counts neither as there nor as gone is ignored: no "all" and no "none" depends
    on it. What was said of the image as a whole is not true of a part of it, and left out.
    """
    x0, y0, x1, y1 = window
    if turn == 0 and (x0, y0) == (0, 0) and (y1, x1) == (known.size_hw or image_size(known.image)):
        return known
    hw, objects = (y1 - y0, x1 - x0), known.objects
    boxes = objects.boxes_xyxy.astype(np.float64) - [x0, y0, x0, y0]
    clipped = np.clip(boxes, 0, [hw[1], hw[0]] * 2)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    share = np.prod(np.clip(clipped[:, 2:] - clipped[:, :2], 0, None), axis=1) / np.maximum(area, 1e-9)
    kept = np.flatnonzero(np.where(objects.is_crowd, share > 0, share > GONE))
    part = objects.keep(kept)
    columns: dict[str, Any] = part.columns()
    columns["boxes_xyxy"] = turn_boxes(clipped[kept], hw, turn).astype(np.float32)
    columns["is_ignored"] = part.is_ignored | ((share[kept] < WHOLE) & ~part.is_crowd)
    turned_hw = (hw[1], hw[0]) if turn % 2 else hw
    if part.masks is not None:
        columns["masks"] = tuple(_cut_mask(mask, window, turn) for mask in part.masks)
    if part.quads is not None:
        columns["quads"] = _turned(part.quads.astype(np.float64) - [x0, y0], hw, turn).astype(np.float32)
    if part.keypoints is not None:
        columns["keypoints"] = _cut_points(part.keypoints, window, turn)
    at = {int(row): number for number, row in enumerate(kept)}
    regions = (one for one in known.regions if {*one.rows} <= {*at})
    regions = tuple(replace(one, rows=tuple(at[row] for row in one.rows)) for one in regions)
    return Known(
        id=known.id, image=known.image, size_hw=turned_hw, objects=Objects.of(columns), is_complete=known.is_complete,
        class_names=known.class_names, regions=regions,
    )  # fmt: skip


def _cut_mask(mask: Any, window: Window, turn: int) -> Any:
    """What a window shows of a mask, as run lengths; [] where there is nothing."""
    if not mask:
        return []
    pixels = rasterise(mask, window)
    pixels = np.rot90(pixels[:, ::-1] if turn >= 4 else pixels, -(turn % 4))
    return _runs(pixels, 0, 0, pixels.shape) if pixels.any() else []


def _cut_points(points: np.ndarray, window: Window, turn: int) -> np.ndarray:
    """Key points float32[N, K, 3] in a window; those outside are not annotated."""
    x0, y0, x1, y1 = window
    places = points[..., :2].astype(np.float64) - [x0, y0]
    inside = (places >= 0).all(axis=-1) & (places <= [x1 - x0, y1 - y0]).all(axis=-1)
    places = _turned(places, (y1 - y0, x1 - x0), turn)
    return np.where(inside[..., None], np.concatenate([places, points[..., 2:]], axis=-1), 0).astype(np.float32)


def _turned(places: np.ndarray, hw: tuple[int, int], turn: int) -> np.ndarray:
    """Places (x, y) under the same symmetry as `turn_boxes`."""
    flat = places.reshape(-1, 2)
    return turn_boxes(np.concatenate([flat, flat], axis=1), hw, turn)[:, :2].reshape(places.shape)


def _runs(pixels: np.ndarray, x: int, y: int, size_hw: tuple[int, ...]) -> dict[str, Any]:
    """Run lengths as json has them."""
    runs = encode_patch(pixels, x, y, (size_hw[0], size_hw[1]))
    return {**runs, "counts": runs["counts"].decode()}

"""A data set whose images come damaged, and whose truth goes along where the damage moves things.

Made by replacing what reads its images and label maps, so that resizing, metrics and workers know nothing of it. The
damage is done to what the file holds, before anything is resized, and is the same whenever it is asked for: it follows
from the record, and moves all slices of a volume alike. Where the truth is that of whole images, windows are cut out of
the moved image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vistruct.contracts import Record, Sample
from vistruct.data.dataset import RecordDataset
from vistruct.files.images import image_size, read_image, read_images
from vistruct.ops.seeds import derive
from vistruct.transforms.corruptions import CORRUPTIONS, check, corrupt
from vistruct.transforms.crop import crop


def why_not(dataset: RecordDataset, name: str) -> str:
    """Why a corruption cannot be measured on a data set; "" where it can.

    Only those that move things need a moved truth: label maps have one, classes of images need none, and boxes have
    one in whole images as far as their annotations say where an object is after the move.
    """
    check(name, 1)
    if not CORRUPTIONS[name].moves:
        is_raw = dataset.info.pixels == "raw"
        return "values in the unit of the files have no black and white between which to damage them" if is_raw else ""
    if any(record.turns for record in dataset.records):
        return "it moves things, and what is said about the images would no longer be true"
    if not _has_boxes(dataset):
        return ""
    if dataset.masks != "none":
        return "it moves things, and masks of objects are not moved along"
    tables = [record.objects for record in dataset.whole_records if len(record.objects)]
    if name == "rotation" and any(table.quads is None for table in tables):
        return "the box around a turned horizontal box is larger than its object"
    return ""


def corrupted(dataset: RecordDataset, name: str, severity: int) -> RecordDataset:
    """The same records, damaged; what a reader of the truth (`truth`, `whole_records`) sees has moved as the images.

    Args:
        name: of `CORRUPTIONS`, with which there is nothing wrong by `why_not`.
        severity: 1 to 5.

    Raises:
        UserError: an unknown name or severity.
    """
    check(name, severity)
    read = dataset.read_label_map
    records, whole = dataset.records, dataset.whole_records
    if CORRUPTIONS[name].moves and _has_boxes(dataset):
        whole = [moved(record, name, severity) for record in whole]
        by_id = {record.image_id: record for record in whole}
        records = [
            moved(record, name, severity) if record.window_xyxy is None else _seen_in(record, by_id[record.image_id])
            for record in records
        ]
    return replace(
        dataset,
        records=records,
        whole_records=whole,
        read_images=_Images(name=name, severity=severity, read=dataset.read_images or (read_images if read else None)),
        read_label_map=read and _Labels(name=name, severity=severity, read=read),
    )


def _has_boxes(dataset: RecordDataset) -> bool:
    """Whether the truth of a data set is boxes in whole images; a label map is read anew and moves with its images."""
    return bool(dataset.whole_records) and dataset.read_label_map is None


def moved(record: Record, name: str, severity: int) -> Record:
    """A record of a whole image with its objects where a corruption brings them; those out of view are gone."""
    return _with_objects(record, corrupt(_objects(record, _seed(record, name)), name, severity))


def _seen_in(window: Record, whole: Record) -> Record:
    """A window of an image with the objects of the whole image that it shows now."""
    if window.window_xyxy is None:
        return window
    return _with_objects(window, crop(_objects(whole, 0), window.window_xyxy))


def _objects(record: Record, seed: int) -> Sample:
    """What is annotated, on an image of which only the size matters."""
    height, width = record.size_hw or image_size(record.images[0])
    return Sample(
        id=record.id,
        image_id=record.image_id,
        seed=seed,
        images=[torch.zeros(1, height, width, dtype=torch.uint8)],
        objects=replace(record.objects, masks=None).tensors(),
    )


def _with_objects(record: Record, sample: Sample) -> Record:
    return replace(record, objects=sample.objects.arrays())


@dataclass(frozen=True, kw_only=True)
class _Images:
    """Reads a record's images and damages them."""

    name: str
    severity: int
    read: Callable[[Record], list[Tensor]] | None  # None: 8-bit colours, where boxes may move

    def __call__(self, record: Record) -> list[Tensor]:
        if self.read is None and record.window_xyxy is not None and CORRUPTIONS[self.name].moves:
            x0, y0, x1, y1 = record.window_xyxy  # of the whole image after the move, as the truth has it
            whole = _moved_colours(record.images, _seed(record, self.name), self.name, self.severity)
            return [image[:, y0:y1, x0:x1].clone() for image in whole]
        images = read_images(record) if self.read is None else self.read(record)
        return _damaged(record, self.name, self.severity, images=images).images


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """Reads a record's label map and moves it as its images."""

    name: str
    severity: int
    read: Callable[[Record], Tensor]

    def __call__(self, record: Record) -> Tensor:
        label_map = self.read(record)
        if not CORRUPTIONS[self.name].moves:
            return label_map
        stand_in = torch.zeros(1, *label_map.shape, dtype=torch.uint8)  # of the image: only its size matters
        after = _damaged(record, self.name, self.severity, images=[stand_in], label_map=label_map).label_map
        return label_map if after is None else after


@functools.lru_cache(maxsize=1)  # for the next window of the same image
def _moved_colours(paths: tuple[Path, ...], seed: int, name: str, severity: int) -> list[Tensor]:
    images = [read_image(path) for path in paths]
    return corrupt(Sample(id=str(paths[0]), image_id=str(paths[0]), seed=seed, images=images), name, severity).images


def _damaged(record: Record, name: str, severity: int, **fields: Any) -> Sample:
    sample = Sample(id=record.id, image_id=record.image_id, seed=_seed(record, name), **fields)
    return corrupt(sample, name, severity)


def _seed(record: Record, name: str) -> int:
    return derive("corrupt", record.image_id if CORRUPTIONS[name].moves else record.id)

"""Records that can be asked for samples: annotated boxes (`boxes`) and conversations (`chat`)."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator

from vistruct.config import Part
from vistruct.contracts import DataInfo, Record, Sample
from vistruct.data.fingerprint import fingerprint
from vistruct.data.formats import chat, coco
from vistruct.data.images import read_image
from vistruct.data.report import Report
from vistruct.data.tiles import Tiles, tile_records
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.transforms.augment import Augment
from vistruct.transforms.geometry import rescale

BEYOND_SHARE = "left out: beyond the share asked for"


@dataclass(frozen=True)
class RecordDataset:
    """A list of records and what happens to each on its way to a sample."""

    records: Sequence[Record]
    info: DataInfo
    report: Report  # what the readers left out, clipped or repaired
    resize: float | None = None  # factor
    augment: Augment | None = None
    whole_records: Sequence[Record] = ()  # boxes only: the images before they were cut into windows

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int, seed: int) -> Sample:
        """Decode a record and vary it; the same index and seed give the same sample on any worker.

        Raises:
            UserError: an image that cannot be read, or is no longer the size it had.
        """
        record = self.records[index]
        images = [read_image(path, record.window_xyxy) for path in record.images]
        if record.size_hw is not None and tuple(images[0].shape[1:]) != record.size_hw:
            height, width = images[0].shape[1:]
            what = f"{width} x {height} pixels, but {record.size_hw[1]} x {record.size_hw[0]} when it was listed"
            raise UserError(what, where=record.images[0], fix="the image changed meanwhile: start again")
        x0, y0 = record.window_xyxy[:2] if record.window_xyxy is not None else (0, 0)
        sample = Sample(
            id=record.id,
            image_id=record.image_id,
            seed=seed,
            images=images,
            boxes_xyxy=torch.from_numpy(record.boxes_xyxy.copy()),
            labels=torch.from_numpy(record.labels.copy()),
            is_crowd=torch.from_numpy(record.is_crowd.copy()),
            turns=record.turns,
            origin_xy=(float(x0), float(y0)),
        )
        if self.resize is not None:
            sample = rescale(sample, self.resize)
        return self.augment(sample) if self.augment is not None else sample


class BoxDataConfig(Part):
    """Images with boxes from a COCO json, whole or in windows."""

    kind: Literal["boxes"] = "boxes"
    annotation: Path  # COCO json
    images: Path | None = None  # folder of the images; None: the json's own
    tiles: Tiles | None = None  # cut into windows; None: whole images
    augment: Augment | None = None  # random variation; None, as in evaluation: none
    share: float = Field(1.0, gt=0, le=1)  # part of the windows (or images) used
    share_seed: int = 0  # which part; of one seed, a larger share contains a smaller
    resize: float | None = Field(None, gt=0)  # factor, applied to each window (or image)
    missing: Literal["stop", "drop"] = "stop"  # what a listed image that is not on disk does

    def build(self) -> RecordDataset:
        """Read the annotations; no image is decoded yet.

        Raises:
            UserError: see `formats.coco.read`; or no box is left.
        """
        records, class_names, report = coco.read(self.annotation, self.images, missing=self.missing)
        root = self.images if self.images is not None else self.annotation.parent
        digest = fingerprint([self.annotation], [record.images[0] for record in records], root)
        whole_records = records
        if self.tiles is not None:
            records, dropped = tile_records(records, self.tiles)
            report.merge(dropped)
        records = _shared(records, self.share, self.share_seed, report)
        labels = Counter(int(label) for record in records for label in record.labels)
        if not labels:
            what = "no boxes are left" + (f": {'; '.join(report.lines())}" if report.counts else "")
            raise UserError(what, where=self.annotation, fix="`vistruct check` says more")
        info = DataInfo(
            class_names=class_names,
            num_records=len(records),
            fingerprint=digest,
            counts={name: labels[number] for number, name in enumerate(class_names)},
            dropped=dict(report.counts),
        )
        return RecordDataset(records, info, report, self.resize, self.augment, whole_records)


class ChatDataConfig(Part):
    """Conversations about images from one or more jsonl files."""

    kind: Literal["chat"] = "chat"
    jsonl: Path | tuple[Path, ...]
    root: Path | None = None  # folder that image paths start from; None: that of each jsonl
    augment: Augment | None = None  # of colour only

    @model_validator(mode="after")
    def _words_stay_true(self) -> ChatDataConfig:
        if self.augment is not None and self.augment.moves_things:
            raise UserError(
                "flips, turns and changes of scale would make 'left', 'top' and the boxes in the text false",
                where="augment of a chat data set",
                fix="use photometric alone",
            )
        return self

    def build(self) -> RecordDataset:
        """Read the conversations; no image is decoded yet.

        Raises:
            UserError: see `formats.chat.read`; or no conversation is left.
        """
        paths = self.jsonl if isinstance(self.jsonl, tuple) else (self.jsonl,)
        records, report = _conversations(paths, self.root)
        if not records:
            what = "no conversations are left" + (f": {'; '.join(report.lines())}" if report.counts else "")
            raise UserError(what, where=", ".join(map(str, paths)), fix="`vistruct check` says more")
        images = {image for record in records for image in record.images}
        root = self.root if self.root is not None else Path(os.path.commonpath([p.absolute().parent for p in paths]))
        info = DataInfo(
            num_records=len(records),
            fingerprint=fingerprint(paths, images, root),
            counts={
                "conversations": len(records),
                "turns": sum(len(record.turns) for record in records),
                "answers": sum(turn.role == "assistant" for record in records for turn in record.turns),
                "images": len(images),
            },
            dropped=dict(report.counts),
            corpus=functools.partial(_texts, records),  # a partial travels to worker processes, a lambda does not
        )
        return RecordDataset(records, info, report, augment=self.augment)


def _conversations(paths: Sequence[Path], root: Path | None) -> tuple[list[Record], Report]:
    """All files' records, with ids made unique by the file's path where files repeat them."""
    records: list[Record] = []
    report = Report()
    ids: set[str] = set()
    for path in paths:
        more, dropped = chat.read(path, root)
        report.merge(dropped)
        for record in more:
            if record.id in ids:
                renamed = f"{path}:{record.id}"
                record = Record(id=renamed, images=record.images, turns=record.turns)
            ids.add(record.id)
            records.append(record)
    return records, report


def _shared(records: list[Record], share: float, seed: int, report: Report) -> list[Record]:
    """The records whose hashed ids come first, in their old order; at least one."""
    if share == 1:
        return records
    ranked = sorted(records, key=lambda record: derive(seed, "share", record.id))
    num_kept = max(1, round(share * len(records)))
    kept = {record.id for record in ranked[:num_kept]}
    for record in ranked[num_kept:]:
        report.note(BEYOND_SHARE, record.id)
    return [record for record in records if record.id in kept]


def _texts(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        for turn in record.turns:
            yield turn.text

"""Images with annotated objects (`boxes`), in any format that people keep them in, whole or in windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from vistruct.config import Part
from vistruct.contracts import Record
from vistruct.data.beside_objects import LabelMaps, label_reader
from vistruct.data.dataset import NO_MASKS, OnBroken, RecordDataset, as_dataset, mask_kind
from vistruct.data.formats.format import Ask, Walked
from vistruct.data.formats.read import read
from vistruct.data.formats.splits import chosen
from vistruct.data.input import Input, Windows
from vistruct.data.kept_boxes import kept
from vistruct.data.selection import check_random_split, drawn, group_of, shared
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.fingerprint import fingerprint
from vistruct.files.geo import num_channels
from vistruct.files.intake import Intake
from vistruct.issues import IssueCounter
from vistruct.transforms.augment import PlacedAugment
from vistruct.transforms.sizing import PlacedSizing
from vistruct.windows.tiles import Tiles, tile_records

DIFFICULT_LEFT_OUT = "box left out: difficult"
NO_ANGLE = "object without an angle: its upright box stands for it"
NOT_LEARNED = "class without an object to learn from: all of its are crowds or ignored"


class BoxDataConfig(Part):
    """Images with boxes, horizontal or oriented, and masks where they are asked for."""

    kind: Literal["boxes"] = "boxes"
    annotation: Path  # a COCO json, or the folder of a data set in any format that `vistruct check` knows
    images: Path | None = None  # folder of the images; None: where the format keeps them
    format: str = "auto"  # name of the format; auto: what the files are
    split: str | None = None  # train, val, test, ... where a folder holds several; None: the only one
    random_split: dict[str, float] | None = None  # of the images, drawn: {"train": 0.8, "val": 0.2}; None: as on disk
    split_seed: int = 0  # which images fall to which split
    classes: tuple[str, ...] | None = None  # names in order; None: the data's own
    others: Literal["stop", "drop"] = "stop"  # what objects of a class do that is none of `classes`
    join: dict[str, tuple[str, ...]] = Field({})  # classes that become one, by its name
    drop: tuple[str, ...] = ()  # classes that are left out
    class_field: str | None = None  # which field of an object, or column of a table, says its class; None: found
    as_written: bool = False  # truths of an evaluation, as others' rules take them: nothing clipped, mended, left out
    oriented: bool = False  # horizontal boxes get corners, which then turn with the image; others have theirs anyway
    masks: bool | Literal["soft"] = False  # rasters of the objects too; soft: with edges between pixels (`MaskKind`)
    label_maps: LabelMaps = "none"  # the class of every pixel too: rasters of the data set, or painted from objects
    difficult: Literal["learn", "ignore", "drop"] = "learn"  # objects marked so: as others, neither hit nor background
    intake: Intake | None = None  # of bands that are not 8-bit colours; None: 8-bit images
    tiles: Tiles | None = None  # cut into windows; None: whole images
    augment: PlacedAugment | None = None  # random variation; None, as in evaluation: none
    fraction: float = Field(1.0, gt=0, le=1)  # part of the windows (or images) used
    fraction_seed: int = 0  # which part; of one seed, a larger fraction contains a smaller
    resize: PlacedSizing | None = None  # factor, or a size, of each window (or image)
    missing: Literal["stop", "drop"] = "stop"  # what a listed image that is not on disk does
    on_broken: OnBroken = "stop"  # at an unreadable image in training; see `fetch`

    @model_validator(mode="after")
    def _shares_are_parts(self) -> Self:
        check_random_split(self.random_split)
        return self

    def build(self, cache: Path | None = None) -> RecordDataset:
        """Read the annotations; no image is decoded yet.

        Args:
            cache: folder that keeps what was read for the next start; None: it is not kept.

        Raises:
            UserError: see `formats.read.read`; or no box is left.
        """

        def found() -> tuple[Walked, IssueCounter]:
            return read(self.annotation, "boxes", format=self.format, ask=self.ask())

        decides = {"images", "format", "split", "missing", "classes", "others", "join", "drop", "masks", "as_written"}
        decides = (decides | {"class_field", "label_maps"}) - ({"split"} if self.random_split is not None else set())
        settings = self.model_dump(mode="json", include=decides)
        walked, report = kept(found, cache, self.annotation, settings)
        records, class_names = walked.records, walked.class_names
        if self.random_split is not None:
            names = chosen(self.split, self.random_split, self.annotation)
            records = drawn(records, self.random_split, self.split_seed, names, unit=group_of)
        labels_of = None
        if self.label_maps != "none":
            labels_of = label_reader(self.label_maps, walked, self.intake, self.annotation, report)
        if self.oriented:
            records = [with_corners(record, report) for record in records]
        whole_records = records
        records = _eased(records, self.difficult, report)
        if self.tiles is not None:
            records, dropped = tile_records(records, self.tiles)
            report.merge(dropped)
        records = shared(records, self.fraction, self.fraction_seed, report)
        labels = Counter(int(label) for record in records for label in record.objects.labels)
        if not labels:
            what = "no boxes are left" + (f": {'; '.join(report.lines())}" if report.counts else "")
            raise UserError(what, where=self.annotation, fix="`vistruct check` says more")
        not_learned = unlearned(records)
        for label in not_learned:
            report.note(NOT_LEARNED, class_names[label], "kept")
        if not_learned == sorted(labels):
            fix = "mark the objects that are to be found as no crowds: iscrowd 0"
            raise UserError("no object to learn from: all are crowds or ignored", where=self.annotation, fix=fix)
        if self.masks and all(record.objects.masks is None for record in records):
            raise UserError("masks are wanted, and these annotations have none", where=self.annotation, fix=NO_MASKS)
        return as_dataset(
            records,
            report,
            self,
            self._input(records[0], None if self.label_maps != "files" else walked.coding),
            class_names=class_names,
            map_class_names=() if labels_of is None else labels_of.coding.classes,
            fingerprint=self._fingerprint(whole_records, class_names),
            counts={name: labels[number] for number, name in enumerate(class_names)},
            read_label_map=labels_of,
            whole_records=whole_records,
            masks=mask_kind(self.masks),
        )

    def ask(self) -> Ask:
        """What is asked of the reader of a format."""
        return Ask(
            split=None if self.random_split is not None else self.split,
            images=self.images,
            classes=self.classes,
            others=self.others,
            join=self.join,
            drop=self.drop,
            class_field=self.class_field,
            as_written=self.as_written,
            missing=self.missing,
            masks=bool(self.masks) or self.label_maps == "painted",
        )

    def _input(self, record: Record, coding: Coding | None) -> Input:
        tiles = self.tiles
        windows = None if tiles is None else Windows(size=tiles.size, overlap=tiles.overlap, unit="file")
        return Input(
            channels=num_channels(record, self.intake),
            intake=self.intake,
            resize=self.resize if self.augment is None else self.augment.usual or self.resize,
            windows=windows,
            coding=coding,
        )

    def _fingerprint(self, records: Sequence[Record], class_names: Sequence[str]) -> str:
        """Of the annotation file where it is one; of what was read where it is a folder of thousands."""
        images, root = [record.images[0] for record in records], self.images or self.annotation
        if self.annotation.is_file():
            return fingerprint([self.annotation], images, root)
        return fingerprint([], images, root, _contents(records, class_names))


def unlearned(records: Sequence[Record]) -> list[int]:
    """The labels of the classes whose objects are all crowds, or ignored: neither learned nor counted."""
    found = {int(label) for record in records for label in record.objects.labels}
    learned = {int(label) for record in records for label in record.objects.labels[record.objects.is_single]}
    return sorted(found - learned)


def _contents(records: Sequence[Record], class_names: Sequence[str]) -> Iterator[bytes]:
    yield "\n".join(class_names).encode()
    for record in records:
        yield record.id.encode()
        for name, column in record.objects.columns().items():
            yield name.encode()
            yield column.tobytes() if isinstance(column, np.ndarray) else repr(column).encode()


def with_corners(record: Record, report: IssueCounter) -> Record:
    """Boxes without an orientation as upright quads: once an image is turned, their hulls would be larger than they."""
    if record.objects.quads is None:
        for number in range(len(record.objects)):
            report.note(NO_ANGLE, f"{record.id}: object {number}", "kept")
    return record.with_columns(quads=record.objects.outlines)


def _eased(records: list[Record], difficult: str, report: IssueCounter) -> list[Record]:
    """What training does with objects that are marked as difficult; the truth of an evaluation keeps its marks."""
    if difficult == "learn":
        return records
    if difficult == "ignore":
        return [r.with_columns(is_ignored=r.objects.is_ignored | r.objects.is_difficult) for r in records]
    for record in records:
        for number in record.objects.is_difficult.nonzero()[0]:
            report.note(DIFFICULT_LEFT_OUT, f"{record.id}: box {number}")
    return [record.keep(~record.objects.is_difficult) for record in records]

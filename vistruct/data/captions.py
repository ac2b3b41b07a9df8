"""Images and what people said of them (`captions`): any number of sentences about each image as a whole."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vistruct.config import Part
from vistruct.contracts import Record
from vistruct.data.channels import check_channels
from vistruct.data.dataset import ColourAugment, OnBroken, RecordDataset, as_dataset
from vistruct.data.formats.classes.lines import chosen_splits
from vistruct.data.formats.format import Ask
from vistruct.data.formats.order import stop_here
from vistruct.data.formats.read import read
from vistruct.data.input import Input
from vistruct.data.selection import check_random_split, drawn, group_of, shared
from vistruct.errors import UserError
from vistruct.files.fingerprint import fingerprint
from vistruct.files.geo import num_channels
from vistruct.files.intake import Intake
from vistruct.transforms.sizing import Size


class CaptionDataConfig(Part):
    """Karpathy's json, COCO captions, tables or lines of images and captions, the hdf5 layout."""

    kind: Literal["captions"] = "captions"
    annotation: Path  # file, or the folder of the data set
    images: Path | None = None  # folder that image names start from; None: found beside the annotation
    format: str = "auto"  # karpathy, coco-captions, ...; auto: what the files are
    split: str | None = None  # as it is called on disk, several with a plus; or train, val, test of `random_split`
    random_split: dict[str, float] | None = None  # of the images, drawn: {"train": 0.8, "val": 0.2}; None: as on disk
    split_seed: int = 0  # which images fall to which split
    intake: Intake | None = None  # of bands that are not 8-bit colours; None: 8-bit images
    augment: ColourAugment | None = None  # random variation; None, as in evaluation: none
    fraction: float = Field(1.0, gt=0, le=1)  # part of the images used, with all their captions
    fraction_seed: int = 0  # which part; of one seed, a larger fraction contains a smaller
    resize: Annotated[float, Field(gt=0)] | Size | None = None  # factor, or a size, of each image
    missing: Literal["stop", "drop"] = "stop"  # what a listed image that is not on disk does
    on_broken: OnBroken = "stop"  # at an unreadable image in training; see `fetch`

    @model_validator(mode="after")
    def _shares_are_parts(self) -> Self:
        check_random_split(self.random_split)
        return self

    def build(self, cache: Path | None = None) -> RecordDataset:
        """Find the images and their captions; no pixel is decoded yet.

        Raises:
            UserError: see `formats.read.read`; or no such split.
        """
        found, report = read(self.annotation, "captions", format=self.format, ask=self.ask())
        records = found.records
        if self.random_split is not None:
            names = chosen_splits(self.split, list(self.random_split), self.annotation)
            records = drawn(records, self.random_split, self.split_seed, names, unit=group_of)
        records = shared(records, self.fraction, self.fraction_seed, report, unit=group_of)
        if not records:
            raise UserError("no images are left", where=self.annotation, fix="`vistruct check` says more")
        if self.intake is not None:
            check_channels(records, self.intake, stop_here)
        channels = num_channels(records[0], self.intake) if found.images is None else 3
        files = [record.images[0] for record in records]
        return as_dataset(
            records,
            report,
            self,
            Input(channels=channels, intake=self.intake, resize=self.resize),
            class_names=(),
            fingerprint=fingerprint(found.annotations, files, self.annotation),
            counts={"images": len(records), "captions": sum(len(record.captions) for record in records)},
            read=found.images,
            corpus=functools.partial(_captions, records),  # a partial travels to worker processes, a lambda does not
        )

    def ask(self) -> Ask:
        """What is asked of the reader of a format."""
        split = None if self.random_split is not None else self.split
        return Ask(split=split, images=self.images, missing=self.missing)


def _captions(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        yield from record.captions

"""Images with a class, or several (`image_classes`).

Splits that are drawn (`random_split`) take each class apart, so that every class is in every split: see `selection`.
Every split gets at least one image of a class that has as many images as there are splits; a class of one image is in
the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from vistruct.config import Part
from vistruct.contracts import Record
from vistruct.data.channels import check_channels
from vistruct.data.dataset import OnBroken, RecordDataset, as_dataset
from vistruct.data.formats.classes.lines import chosen_splits
from vistruct.data.formats.detect import detect
from vistruct.data.formats.format import Ask
from vistruct.data.formats.order import stop_here
from vistruct.data.formats.read import read
from vistruct.data.input import Input
from vistruct.data.selection import check_random_split, drawn, shared
from vistruct.errors import UserError
from vistruct.files.fingerprint import fingerprint
from vistruct.files.geo import num_channels
from vistruct.files.intake import Intake
from vistruct.transforms.augment import Augment
from vistruct.transforms.sizing import Sizing


class ClassDataConfig(Part):
    """A folder for each class, or a table of names and classes."""

    kind: Literal["image_classes"] = "image_classes"
    root: Path  # folder of the data set, or a csv
    format: str = "auto"  # folders, list, csv, caption-words; auto: what the files are
    split: str | None = None  # a folder or list of that name; or train, val, test of `random_split`
    lists: str | None = None  # published split lists: a file below `root`, with {split} for its name
    random_split: dict[str, float] | None = None  # of each class, drawn: {"train": 0.8, "val": 0.2}; None: as on disk
    split_seed: int = 0  # which images fall to which split
    images: str | None = None  # folder of the images below the root; None: where the format has it
    classes: tuple[str, ...] | None = None  # names in order; None: the data's own
    others: Literal["stop", "drop"] = "stop"  # what images of a class do that is none of `classes`
    join: dict[str, tuple[str, ...]] = Field({})  # classes that become one, by its name
    drop: tuple[str, ...] = ()  # classes that are left out
    multi_label: bool = False  # any number of classes an image (csv, captions)
    least_count: int | None = Field(None, gt=0)  # caption-words: images with a word that make it a class; None: 5
    intake: Intake | None = None  # of bands that are not 8-bit colours; None: 8-bit images
    augment: Augment | None = None  # random variation; None, as in evaluation: none
    fraction: float = Field(1.0, gt=0, le=1)  # part of the images of each class used, one at least
    fraction_seed: int = 0  # which part; of one seed, a larger fraction contains a smaller
    resize: Sizing | None = None  # factor, or a size, of each image
    missing: Literal["stop", "drop"] = "stop"  # what a listed image that is not on disk does
    on_broken: OnBroken = "stop"  # at an unreadable image in training; see `fetch`

    @model_validator(mode="after")
    def _shares_are_parts(self) -> Self:
        check_random_split(self.random_split)
        if self.least_count is not None and self.format != "caption-words":
            what = "how many images must have a word is asked of captions alone"
            raise UserError(what, where="data.least_count", fix="--format caption-words, or leave --least-count out")
        if self.random_split is not None and self.lists is not None:
            raise UserError("both lists and random_split", where="data.random_split", fix="one of them says the splits")
        return self

    def build(self, cache: Path | None = None) -> RecordDataset:
        """Find the images and their classes; no pixel is decoded yet.

        Args:
            cache: not needed: a folder of images is listed in less time than a cache is checked in.

        Raises:
            UserError: see `formats.read.read`; or no such split.
        """
        format = self.format
        if format == "auto" and self.random_split is not None and detect(self.root, "image_classes") == "list":
            format = "folders"  # the splits are drawn, whatever was published
        found, report = read(self.root, "image_classes", format=format, ask=self.ask())
        records, class_names = found.records, found.class_names
        if self.random_split is not None:
            names = chosen_splits(self.split, list(self.random_split), self.root)
            records = drawn(records, self.random_split, self.split_seed, names, stratum=_class_of(records))
        records = shared(records, self.fraction, self.fraction_seed, report, stratum=_class_of(records))
        counts = Counter(label for record in records for label in record.image_labels or ())
        if not records:
            told = f": {'; '.join(report.lines())}" if report.counts else ""
            raise UserError(f"no images are left{told}", where=self.root, fix="`vistruct check` says more")
        if self.intake is not None:  # headers of millions of pictures would take minutes, and say little
            check_channels(records, self.intake, stop_here)
        return as_dataset(
            records,
            report,
            self,
            Input(channels=num_channels(records[0], self.intake), intake=self.intake, resize=self._shown()),
            class_names=class_names,
            fingerprint=fingerprint(found.annotations, [record.images[0] for record in records], self.root),
            counts={name: counts[number] for number, name in enumerate(class_names)},
        )

    def _shown(self) -> Sizing | None:
        """At which size a model of these data looks at an image: what is cropped at random has one too."""
        return self.resize if self.augment is None else self.augment.usual or self.resize

    def ask(self) -> Ask:
        """What is asked of the reader of a format."""
        return Ask(
            split=None if self.random_split is not None else self.split,
            images=None if self.images is None else Path(self.images),
            lists=self.lists,
            classes=self.classes,
            others=self.others,
            join=self.join,
            drop=self.drop,
            multi_label=self.multi_label,
            least_count=self.least_count,
            missing=self.missing,
        )


def _class_of(records: Sequence[Record]) -> Callable[[Record], Hashable]:
    """What is drawn from apart. Multi-label data are drawn as one: combinations of their classes are mostly rare."""
    is_single = all(len(record.image_labels or ()) == 1 for record in records)
    return (lambda record: record.image_labels) if is_single else (lambda record: None)

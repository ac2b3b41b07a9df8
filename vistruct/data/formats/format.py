"""What a format of data is, what is asked of it, and what it gives: the same frame for every family.

    FORMAT = Format(kind="boxes", looks_like=..., splits=..., walk=...)

`walk` finds out what a data set says: it gives records (of volumes: cases) and, as its family has them, class names or
the coding of label rasters. What training can do without is counted in the report, with what became of it; what would
make training wrong goes to `stop` as a `UserError` with file and line, which raises in training and collects in
`vistruct check`. Where `stop` returns, what is faulty is left out. A fault of the data set as a whole is raised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from vistruct.contracts import Record
from vistruct.errors import UserError
from vistruct.files.class_files import Painting
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake
from vistruct.issues import IssueCounter

Kind = Literal["boxes", "talk", "maps", "volumes", "image_classes", "captions", "questions", "images"]
Stop = Callable[[UserError], None]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is wanted of a data set; the fields are those of the data configs. A format reads those that it knows."""

    split: str | None = None  # by the name it has on disk, several with a plus; None: the only one there is
    images: Path | None = None  # folder of the images (of maps and classes below the root); None: where they belong
    classes: tuple[str, ...] | None = None  # names in order, such as those of a trained model; None: the data's own
    others: Literal["stop", "drop"] = "stop"  # what objects of a class do that is none of `classes`
    join: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # classes that become one, by its name
    drop: tuple[str, ...] = ()  # classes that are left out
    as_written: bool = False  # boxes: truths of a measure by others' rules, which mends nothing
    missing: Literal["stop", "drop"] = "stop"  # what an annotated image that is not on disk does
    class_field: str | None = None  # boxes: which field of an object (or column) says its class; None: found
    masks: bool = False  # boxes: whether masks of the objects are wanted, as a head that learns them does
    attributes: bool = False  # boxes: what else is said of each object, for who writes them again
    # Label maps:
    labels: str | None = None  # folder of the label rasters below the root
    image_suffix: str | None = None  # what follows the common part of the names
    label_suffix: str | None = None
    coding: Coding | None = None
    kept: Path | None = None  # folder that keeps for the next start which values the labels have
    intake: Intake | None = None  # of the images, whose pixels without data do not count
    coordinates: Literal["checked", "ignored"] = "checked"  # whether image and labels must lie on the same pixels
    fill: Literal["masks", "boxes"] = "masks"  # of annotations of objects: what is painted
    # Volumes:
    modalities: tuple[str, ...] | None = None  # those that are wanted, in order; None: all
    # Image classes:
    lists: str | None = None  # a file below the root for each split, with {split} for its name
    multi_label: bool = False
    least_count: int | None = None  # captions: images that must have a word for it to be a class; None: 5

    @property
    def chooses(self) -> bool:
        """Whether classes are joined, dropped or chosen; not only named or put in order."""
        return bool(self.join or self.drop) or (self.classes is not None and self.others == "drop")


@dataclass(frozen=True, kw_only=True)
class VolumeCase:
    """One examination of one patient."""

    name: str  # unique in its data set
    patient: str  # two cases of one patient are never in two splits
    images: dict[str, Path]  # by modality, "" where there is only one
    label: Path | None = None  # a volume, or a folder with a file for each class (see `Format.painting`)
    split: str = ""  # by the name it has on disk in small letters; "": the data set has none


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What a data set says, as far as its files can be told apart; families differ in what they fill."""

    records: list[Record] = field(default_factory=list)  # of label maps they need no sizes yet
    class_names: tuple[str, ...] = ()  # boxes and image classes: what labels count in
    annotations: tuple[Path, ...] = ()  # image classes, captions: the files beside the images that say them
    images: Callable[[Record], list[Tensor]] | None = None  # captions: of images that are no files of their own
    # Label maps, alone or beside boxes (then the background is the first class, and the others are `class_names`; or
    # `class_names` are the first, and the others stuff):
    coding: Coding | None = None  # of these labels; None: nothing was found
    is_chosen: bool = False  # whether its classes are those that were asked for already
    pixels: Counter[int] | None = None  # by class, IGNORED too, in all labels; None: not looked at
    intake: Intake | None = None  # what a format of many bands is read with, where the user says nothing
    raster: Callable[[Record], np.ndarray] | None = None  # integer[h, w] of a record's window; None: raster files
    # Volumes:
    cases: list[VolumeCase] = field(default_factory=list)  # of every split, found by the names of their files alone


@dataclass(frozen=True, kw_only=True)
class Writer:
    """How boxes are written in a format, where their images lie, and what it has room for."""

    write: Callable[[Path, Sequence[Record], Sequence[str]], IssueCounter]  # folder, records, class names -> losses
    images: str = "images"  # folder of the images, beside the annotations
    quads: bool = False
    masks: bool = False
    keypoints: bool = False
    is_crowd: bool = False
    is_difficult: bool = False
    notes: bool = False
    extra: bool = False  # columns of words, numbers and plain json, by their names
    join: Callable[[Path, Sequence[str], Sequence[str]], None] | None = None  # folders of splits -> one data set
    empty_classes: bool = True  # whether a class without objects, and the order of the classes, can be told


def never(path: Path) -> bool:
    """Of a format that is always named."""
    return False


def no_splits(path: Path) -> tuple[str, ...]:
    """Of a format that has none."""
    return ()


def no_coding(path: Path) -> Coding | None:
    """Of a format that does not say what its labels mean."""
    return None


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to keep data. `walk` is None for conversations, which are indexed instead (`data/chat`)."""

    kind: Kind  # its family
    walk: Callable[[Path, Ask, IssueCounter, Stop], Walked] | None = None
    looks_like: Callable[[Path], bool] = never  # cheap, and raises nothing; of a file or a folder that is there
    splits: Callable[[Path], Sequence[str]] = no_splits  # names on disk, as `Ask.split` takes them
    chooses: bool = False  # image classes: what is asked for says what is found, so that the walker chooses itself
    writer: Writer | None = None  # boxes, where people exchange the format
    # Volumes, where nothing is walked yet:
    modalities: tuple[str, ...] = ()  # names of the volumes that a case has, in the usual order; (): one, or unknown
    intake: Intake | None = None  # values that become black and white, unless the user says others; None: nobody knows
    coding: Callable[[Path], Coding | None] = no_coding  # what the label values mean, where a file there says it
    painting: Callable[[Path, Ask, IssueCounter], tuple[Coding, Painting]] | None = None  # of labels in files by class

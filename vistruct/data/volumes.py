"""Volumes (`volumes`): CT and MR as NIfTI or DICOM, read slice by slice, split by patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import Record
from vistruct.data.dataset import OnBroken, RecordDataset, as_dataset
from vistruct.data.formats import find_format
from vistruct.data.formats.detect import detect
from vistruct.data.formats.format import Ask, VolumeCase
from vistruct.data.formats.order import chosen_coding
from vistruct.data.formats.read import read
from vistruct.data.formats.volumes.cases import in_split, straddles, straddling, with_patients
from vistruct.data.formats.volumes.nifti import WITHOUT_LABELS
from vistruct.data.input import Input, Slices
from vistruct.data.selection import check_random_split, drawn, shared
from vistruct.errors import UserError, closest
from vistruct.files.class_files import ClassFiles, Painting
from vistruct.files.coding import Coding
from vistruct.files.fingerprint import fingerprint
from vistruct.files.intake import BYTES, Intake
from vistruct.files.volume_files import Volume, VolumeFile, filled_slices, label_slice, open_labels, open_volume
from vistruct.files.volume_grid import Axis
from vistruct.files.volume_names import channel_path, file_of
from vistruct.issues import IssueCounter
from vistruct.ops.seeds import derive
from vistruct.transforms.augment import PlacedAugment
from vistruct.transforms.sizing import PlacedSizing

EMPTY_SLICE = "slice left out: no labelled voxel in it"
LACKS_MODALITY = "volume left out: a modality is missing"
ELSEWHERE = "labels taken as they lie, voxel by voxel: their header puts them beside the image, and is not believed"
SPACING = "spacing_mm"  # note of every record: millimetres from slice to slice, row to row, column to column


LabelGrid = Literal["header", "image"]


class VolumeDataConfig(Part):
    """Volumes with the class of every voxel, as slices; every patient is in one split only."""

    kind: Literal["volumes"] = "volumes"
    root: Path
    format: str = "auto"  # amos2022, amos2022_mr, brats2021, nifti, dicom; auto: what the files are
    split: str | None = None  # as on disk, or one of `random_split`; None: the only one
    random_split: dict[str, float] | None = None  # of the patients, drawn: {train: 0.8, test: 0.2}; None: as on disk
    split_seed: int = 0  # which patients fall to which split
    patient: str | None = None  # regular expression: its first group is the patient in a case's name; None: see format
    coding: Coding | None = None  # what the label values mean; None: the format's own
    classes: tuple[str, ...] | None = None  # names in order; None: those of the coding
    others: Literal["stop", "drop"] = "stop"  # what voxels of a class do that is none of `classes`
    join: dict[str, tuple[str, ...]] = Field({})  # classes that become one, by its name
    drop: tuple[str, ...] = ()  # classes that are left out: its voxels do not count
    modalities: tuple[str, ...] | None = None  # of several volumes of one patient, the channels in order
    axis: Axis = "axial"  # across which it is sliced
    neighbours: int = Field(0, ge=0)  # slices on either side that become channels too
    intake: Intake | None = None  # what becomes of the values; None: the format's own
    empty: float = Field(1.0, ge=0, le=1)  # part of the slices without any labelled voxel that is kept, for training
    unpack: bool = True  # keep packed volumes as plain arrays beside the run: no slice costs more then
    augment: PlacedAugment | None = None
    fraction: float = Field(1.0, gt=0, le=1)  # part of the *patients* used
    fraction_seed: int = 0
    resize: PlacedSizing | None = None
    label_grid: LabelGrid = "header"  # where labels lie; image: as its array does, whatever they say
    missing: Literal["stop", "drop"] = "stop"  # what a volume without labels, a modality, or a slice does
    on_broken: OnBroken = "stop"

    @model_validator(mode="after")
    def _shares_are_parts(self) -> VolumeDataConfig:
        check_random_split(self.random_split)
        if self.random_split is not None and self.split not in self.random_split:
            fix = closest(str(self.split), self.random_split)
            raise UserError(f"split={self.split!r} is no split of random_split", where="data.split", fix=fix)
        return self

    def format_used(self) -> str:
        """The format, looked for at the root where it is not named."""
        return detect(self.root, "volumes") if self.format == "auto" else self.format

    def intake_used(self) -> Intake:
        """What is applied to values: also what prediction has to apply. Asks the disk only where no format is named."""
        if self.intake is not None:
            return self.intake
        own = find_format(self.format_used(), "volumes").intake
        if own is None:
            return Intake()
        return own.model_copy(update={"channels": None}) if self.neighbours else own

    def ask(self) -> Ask:
        """What is asked of the reader of a format."""
        choice: dict[str, Any] = {"classes": self.classes, "others": self.others, "join": self.join, "drop": self.drop}
        return Ask(**choice, split=self.split, coding=self.coding, missing=self.missing, modalities=self.modalities)

    def coding_used(self, report: IssueCounter | None = None) -> Coding:
        """What label values mean: also what predictions are written with.

        Raises:
            UserError: nothing says so; classes that the data do not have.
        """
        return self.labels_used(report or IssueCounter())[0]

    def labels_used(self, report: IssueCounter) -> tuple[Coding, Painting | None]:
        """See `coding_used`; and how labels in a file for each class become one volume."""
        own = find_format(self.format_used(), "volumes")
        if own.painting is not None:
            return own.painting(self.root, self.ask(), report)
        return self._coding(self.coding or own.coding(self.root), report), None

    def _coding(self, coding: Coding | None, report: IssueCounter) -> Coding:
        if coding is None and self.classes is not None:
            return Coding(classes=self.classes, ignored=())
        if coding is None:
            what = "nothing says what the label values mean"
            fix = "--classes background,NAME; and --values, where they are not 0, 1, 2"
            raise UserError(what, where=self.root, fix=fix)
        if self.classes is None and not self.ask().chooses:
            return coding
        return chosen_coding(coding, self.ask(), where=self.root, report=report)

    def cases(self, report: IssueCounter) -> list[VolumeCase]:
        """The cases of the split, by name alone: no file is opened but those of a DICOM series.

        Raises:
            UserError: see `formats.read.read`; a patient in two splits; nothing labelled is left.
        """
        ask = Ask(modalities=self.modalities, missing=self.missing)
        found, told = read(self.root, "volumes", format=self.format_used(), ask=ask)
        report.merge(told)
        cases = with_patients(found.cases, self.patient)
        for patient, cases_of in straddling(cases).items():
            raise straddles(patient, cases_of, self.root)
        if self.random_split is not None:
            labelled = [case for case in cases if case.label is not None]
            for case in cases:
                if case.label is None:
                    report.note(WITHOUT_LABELS, case.name)
            splits = sorted({case.split for case in labelled})
            if len(splits) > 1:
                what = f"random_split draws, and labelled volumes are split already: {', '.join(splits)}"
                raise UserError(what, where=self.root, fix="leave data.random_split out, and --split NAME")
            number = len({case.patient for case in labelled})
            if number < len(self.random_split):
                what = f"{number} patients (or groups) for {len(self.random_split)} splits"
                raise UserError(what, where="data.random_split", fix="fewer splits, or more patients")
            names = [self.split or ""]
            kept = drawn(labelled, self.random_split, self.split_seed, names, unit=attrgetter("patient"))
            return _labelled(kept, self.missing, report, self.root)
        return _labelled(in_split(cases, self.split, self.root), self.missing, report, self.root)

    def build(self, cache: Path | None = None) -> RecordDataset:
        """Find the volumes and read their headers; no voxel is decoded yet, unless empty slices are to be left out.

        Where nothing says what becomes black and white, one slice is: other values than those of 8 bits are told now.

        Args:
            cache: folder for unpacked copies of packed volumes; None: they are unpacked into memory, while they fit.

        Raises:
            UserError: see `cases`; image and labels of different grids; no slice is left; values without a range.
        """
        report = IssueCounter()
        (coding, painting), intake = self.labels_used(report), self.intake_used()
        patient, case_name = attrgetter("patient"), attrgetter("name")
        cases = shared(self.cases(report), self.fraction, self.fraction_seed, report, unit=patient, name=case_name)
        usual = find_format(self.format_used(), "volumes").modalities
        cases, modalities = _with_modalities(cases, self.modalities, usual, self, report)
        copies = cache if self.unpack else None
        records: list[Record] = []
        packed_bytes = 0
        for case in cases:
            records += self._slices(case, modalities, painting, report)
            packed_bytes += _packed_bytes(case, modalities, intake, painting) if copies is not None else 0
        if self.empty < 1:
            records = _without_empty(records, self, (coding, painting), copies, report)
        if not records:
            raise UserError("no slices are left", where=self.root, fix="`vistruct check` says more")
        reader = SliceReader(self.axis, self.neighbours, intake, copies)
        if not intake.has_range and self.on_broken == "stop":
            reader(records[0])
        counts = {"volumes": len(cases), "patients": len({case.patient for case in cases}), "slices": len(records)}
        counts |= {"megabytes of unpacked copies, once all are read": packed_bytes // 10**6} if packed_bytes else {}
        return as_dataset(
            records,
            report,
            self,
            self._input(modalities, intake, coding),
            class_names=coding.classes,
            palette=coding.shown,
            fingerprint=fingerprint([], _files(cases, modalities), self.root),
            counts=counts,
            read=reader,
            read_label_map=SliceLabelReader(self.axis, coding, copies, self.label_grid, painting),
        )

    def _input(self, modalities: tuple[str, ...], intake: Intake, coding: Coding) -> Input:
        slices = Slices(axis=self.axis, neighbours=self.neighbours, modalities=modalities)
        channels = intake.channels_of(len(modalities) * (2 * self.neighbours + 1))
        return Input(channels=channels, intake=intake, resize=self.resize, slices=slices, coding=coding)

    def _slices(
        self, case: VolumeCase, modalities: Sequence[str], painting: Painting | None, report: IssueCounter
    ) -> list[Record]:
        """One record a slice."""
        images = tuple(case.images[name] for name in modalities)
        volume = VolumeFile.open(images, axis=self.axis)
        assert case.label is not None  # see _labelled
        grid = volume.parts[0].grid
        check_labels(volume.parts[0], case.label, self.label_grid, report, painting, self.axis)
        whole = Record(
            id=case.name,
            images=images,
            size_hw=grid.size_hw,
            label_map=case.label,
            group=case.patient,
            notes={SPACING: " ".join(f"{side:.9g}" for side in grid.spacing)},
        )
        letter = {"axial": "z", "coronal": "y", "sagittal": "x"}[self.axis]
        return [
            replace(whole, id=f"{case.name}@{letter}{number:03d}", image_id=case.name, slice=number)
            for number in range(grid.num_slices)
        ]


@dataclass(frozen=True)
class SliceReader:
    """Record -> the pixels of its slice; travels to worker processes."""

    axis: Axis
    neighbours: int
    intake: Intake
    cache: Path | None

    def __call__(self, record: Record) -> list[Tensor]:
        """One image."""
        volume = VolumeFile.open(
            record.images, axis=self.axis, neighbours=self.neighbours, intake=self.intake, cache=self.cache
        )
        return [volume.slice(record.slice or 0)]


@dataclass(frozen=True)
class SliceLabelReader:
    """Record -> the classes of its slice; travels to worker processes."""

    axis: Axis
    coding: Coding
    cache: Path | None
    grid: LabelGrid = "header"
    painting: Painting | None = None

    def __call__(self, record: Record) -> Tensor:
        """int16[H, W]."""
        assert record.label_map is not None
        assert record.slice is not None
        like = record.images[0] if self.grid == "image" else None
        values = label_slice(record.label_map, record.slice, self.axis, self.cache, like, self.painting)
        return torch.from_numpy(self.coding.decode(np.ascontiguousarray(values), f"{record.label_map}, {record.id}"))


def check_labels(
    image: Volume,
    label: Path,
    grid: LabelGrid,
    report: IssueCounter,
    painting: Painting | None = None,
    axis: Axis = "axial",
) -> Volume | ClassFiles:
    """The labels; where both files say that they lie is compared.

    Raises:
        UserError: labels whose headers put them on another grid than their image; or, where that is not believed, an
            array of another shape.
    """
    is_painted = painting is not None
    labels = open_labels(label, axis, image.path if is_painted and grid == "image" else None, painting)
    where = f"{labels.path}, {image.path}"
    if grid == "header":
        fix = "bring both to one grid; --label-grid image if the labels' header is wrong and their array is not"
        image.grid.check_same(labels.grid, where, "image and labels", fix)
    elif labels.grid.shape != image.grid.shape:
        what = f"labels of {labels.grid.shape} voxels for an image of {image.grid.shape}"
        raise UserError(what, where=where, fix="bring both to the same grid")
    elif not image.grid.is_same(labels.grid):
        report.note(ELSEWHERE, str(labels.path), "kept")
    return labels


def without_any_labels(number: int, root: Path) -> UserError:
    """What training stops at."""
    what = f"none of {number} volumes has labels"
    return UserError(what, where=root, fix="a split with labels, or labels/ beside images/")


def _labelled(cases: Sequence[VolumeCase], missing: str, report: IssueCounter, root: Path) -> list[VolumeCase]:
    kept = [case for case in cases if case.label is not None]
    if not kept:
        raise without_any_labels(len(cases), root)
    for case in cases:
        if case.label is None:
            path = next(iter(case.images.values()))
            if missing == "stop":
                fix = "add them; or --missing drop leaves such volumes out"
                raise UserError("a volume without labels", where=path, fix=fix)
            report.note(WITHOUT_LABELS, str(path))
    return kept


def _with_modalities(
    cases: Sequence[VolumeCase],
    wanted: Sequence[str] | None,
    usual: Sequence[str],
    data: VolumeDataConfig,
    report: IssueCounter,
) -> tuple[list[VolumeCase], tuple[str, ...]]:
    """The cases that have all modalities, and those in order."""
    cases = [channels_of(case, wanted) for case in cases]
    names = tuple(wanted or usual or cases[0].images)
    known = {name for case in cases for name in case.images}
    for name in names:
        if name not in known:
            raise UserError(f"no modality {name!r}", where=data.root, fix=closest(name, known - {""}))
    kept = []
    for case in cases:
        lacking = [name for name in names if name not in case.images]
        if lacking and data.missing == "stop":
            what = f"case {case.name} has no modality {lacking[0]!r}"
            raise UserError(what, where=data.root, fix="add it; or --missing drop leaves such cases out")
        if lacking:
            report.note(LACKS_MODALITY, f"{case.name}: {', '.join(lacking)}")
        else:
            kept.append(case)
    return kept, names


def channels_of(case: VolumeCase, wanted: Sequence[str] | None) -> VolumeCase:
    """A case of one file, of which channels are asked for by their numbers; any other as it is."""
    if not wanted or list(case.images) != [""] or not all(name.isdecimal() for name in wanted):
        return case
    return replace(case, images={name: channel_path(case.images[""], int(name)) for name in wanted})


def _without_empty(
    records: list[Record],
    data: VolumeDataConfig,
    labels: tuple[Coding, Painting | None],
    cache: Path | None,
    report: IssueCounter,
) -> list[Record]:
    coding, painting = labels
    background = (*coding.ignored, (coding.values or (0,))[0])
    filled: dict[Path, np.ndarray] = {}
    for record in records:
        label = record.label_map
        if label is not None and label not in filled:
            like = record.images[0] if data.label_grid == "image" else None
            filled[label] = filled_slices(label, background, data.axis, cache, like, painting)
    empty = [one.id for one in records if one.label_map is not None and not filled[one.label_map][one.slice or 0]]
    ranked = sorted(empty, key=lambda id: derive(data.fraction_seed, "empty", id))
    out = set(ranked[round(data.empty * len(ranked)) :])
    for id in sorted(out):
        report.note(EMPTY_SLICE, id)
    return [record for record in records if record.id not in out]


def _files(cases: Sequence[VolumeCase], modalities: Sequence[str]) -> list[Path]:
    paths = [path for case in cases for path in (*(case.images[name] for name in modalities), case.label) if path]
    return [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [file_of(path)])]


def _packed_bytes(case: VolumeCase, modalities: Sequence[str], intake: Intake, painting: Painting | None) -> int:
    """Of the unpacked copies of a case: of the labels a byte a voxel."""
    opened: list[tuple[Volume | ClassFiles, int]] = [
        (open_volume(case.images[name]), BYTES[intake.pixels]) for name in modalities
    ]
    opened += [(open_labels(case.label, painting=painting), 1)] if case.label is not None else []
    return sum(size * int(np.prod(volume.grid.shape)) for volume, size in opened if volume.is_packed)

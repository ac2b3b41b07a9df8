"""Images without a word about them (`images`): pictures, rasters cut into windows, volumes by the slice; sets mixed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import Record
from vistruct.data.channels import check_channels
from vistruct.data.dataset import OnBroken, RecordDataset, as_dataset
from vistruct.data.dates import in_pairs
from vistruct.data.formats.format import Stop
from vistruct.data.formats.order import stop_here
from vistruct.data.images_below import Found, files_of, found_at, is_volume_path
from vistruct.data.input import Input, Slices
from vistruct.data.selection import check_random_split, drawn, group_of, shared
from vistruct.data.twins import twins_of
from vistruct.data.volumes import SPACING
from vistruct.errors import UserError, closest
from vistruct.files.dicom_series import Series
from vistruct.files.fingerprint import fingerprint
from vistruct.files.geo import num_channels
from vistruct.files.images import read_image
from vistruct.files.intake import BYTES, Intake
from vistruct.files.raster_headers import header_of, stamp_of
from vistruct.files.volume_files import Volume, VolumeFile
from vistruct.files.volume_files import num_channels as channels_in_file
from vistruct.files.volume_grid import Axis
from vistruct.files.volume_names import channel_path
from vistruct.issues import IssueCounter
from vistruct.ops.seeds import derive
from vistruct.transforms.augment import Augment
from vistruct.transforms.sizing import Sizing
from vistruct.windows.tiles import Tiles, tile_records

UNREADABLE = "image left out: it cannot be read, or not as the others are"
TWIN = "image left out: it is measured on"
NO_GROUP = "image whose name the pattern of groups does not fit: it is a group of its own"
PATIENT = "patient"  # note of series that say whose they are
FOUND_AT = "found at"  # note of every record: which of the paths it is of
_READERS = 8  # threads that look at headers
_LETTERS = {"axial": "z", "coronal": "y", "sagittal": "x"}


class ImagesDataConfig(Part):
    """Folders, lists, or images themselves, mixed; nothing is known of an image but what group it is of."""

    kind: Literal["images"] = "images"
    paths: tuple[Path, ...] = Field(min_length=1)  # folders with all below, images, volumes, .txt lists of all these
    mix: tuple[float, ...] | None = None  # of each path, its part of an epoch beside the others'; None: all images once
    groups: str = "none"  # of one patient, scene, flight: none, folder, or a pattern of names below a path
    pairs: bool = False  # each image with the next of its group by name, of the same size: dates of one place
    split: str | None = None  # one of `random_split`, if there are any
    random_split: dict[str, float] | None = None  # of the groups, drawn: {"train": 0.9, "val": 0.1}; None: no splits
    split_seed: int = 0  # which groups fall to which split
    axis: Axis = "axial"  # across which volumes are sliced
    neighbours: int = Field(0, ge=0)  # of volumes: slices on either side that become channels too
    unpack: bool = True  # keep packed volumes as plain arrays beside the run: no slice costs more then
    tiles: Tiles | None = None  # large images are cut into windows; None: whole images
    intake: Intake | None = None  # of bands that are not 8-bit colours; None: 8-bit images
    augment: Augment | None = None  # random variation; None, as in evaluation: none
    resize: Sizing | None = None  # factor, or a size, of each image or window
    fraction: float = Field(1.0, gt=0, le=1)  # part of the images (or groups) used, one at least
    fraction_seed: int = 0  # which part; of one seed, a larger fraction contains a smaller
    not_in: tuple[Path, ...] = ()  # folders or images to measure on: none of these may be among those to learn from
    twins: Literal["stop", "drop"] = "stop"  # what an image that is in `not_in` does, by its bytes or pixels
    unreadable: Literal["stop", "drop"] = "stop"  # what a file that is no image does
    on_broken: OnBroken = "stop"  # at an unreadable image in training; see `fetch`

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_random_split(self.random_split)
        if self.split not in (self.random_split or {None: 1.0}):
            fix = closest(str(self.split), self.random_split) if self.random_split else "leave data.split out"
            raise UserError(f"split={self.split!r} is no split of random_split", where="data.split", fix=fix)
        if self.mix is not None and (len(self.mix) != len(self.paths) or min(self.mix) <= 0):
            what = f"mix={self.mix} for {len(self.paths)} paths"
            raise UserError(what, where="data.mix", fix="a number above 0 for each: 3,1")
        if self.pairs and self.groups == "none":
            what = "images in pairs, and nothing says which are of one place"
            raise UserError(what, where="data.groups", fix="--groups folder; or a pattern of names: '^([^_]+)_'")
        if self.tiles is not None and self.tiles.skip_empty:
            what = "without labels every window is empty"
            raise UserError(what, where="data.tiles.skip_empty", fix="--set data.tiles.skip_empty=false")
        _pattern(self.groups)
        return self

    def build(self, cache: Path | None = None) -> RecordDataset:
        """List the images; headers are read, and pixels only of those that may be in `not_in`, or lack a range.

        Args:
            cache: folder for unpacked copies of packed volumes; None: they are unpacked into memory, while they fit.

        Raises:
            UserError: no such path; no images; one that cannot be read; images of different bands; one of `not_in`.
        """
        report = IssueCounter()
        copies = cache if self.unpack else None
        stop = self._stop_at(report)
        records = self._chosen(self.alike(self.whole(report, stop), stop), report)
        if not records:
            told = f": {'; '.join(report.lines())}" if report.counts else ""
            raise UserError(f"no images{told}", where=self.paths[0], fix="name a folder with images in it")
        counts = self._counts(records, copies)
        files = {file: None for record in records for file in files_of(record.images[0])}
        if self.pairs:
            records = self._paired(records, report)
        cut = [one for record in records for one in self._slices(record)]
        reader = ImageReader(self.intake, self.axis, self.neighbours, copies)
        if cut[0].slice is not None and self.on_broken == "stop":
            reader(cut[0])  # values that need a range are told now
        if self.tiles is not None:
            cut, _ = tile_records(cut, self.tiles)
        return as_dataset(
            cut if self.mix is None else self._mixed(cut, self.mix),
            report,
            self,
            self._input(cut),
            class_names=(),
            fingerprint=fingerprint((), files, _common(self.paths), [repr(self.mix).encode()] if self.mix else ()),
            counts=counts,
            read=reader if any(record.slice is not None for record in cut) else None,
        )

    def whole(self, report: IssueCounter, stop: Stop) -> list[Record]:
        """One record for each image and volume, with its group; headers are read.

        Args:
            stop: told of what is not there or cannot be read.

        Raises:
            UserError: no such path.
        """
        records: list[Record] = []
        with ThreadPoolExecutor(_READERS) as pool:
            for one in pool.map(self._record, found_at(self.paths, report, stop)):
                stop(one) if isinstance(one, UserError) else records.extend(one)
        return [replace(record, group=self._group(record, report)) for record in records]

    def alike(self, records: Sequence[Record], stop: Stop) -> list[Record]:
        """Those that have the channels of the first; `stop` is told of the others."""
        bad: set[Path] = set()
        pictures = {str(one.images[0]): one for one in records if not is_volume_path(one.images[0])}

        def refuse(error: UserError) -> None:
            bad.add(pictures[error.where].images[0])
            stop(error)

        check_channels(list(pictures.values()), self.intake, refuse)
        usual: int | None = None
        for record in records if 0 < len(pictures) < len(records) else ():
            if record.images[0] not in bad and (own := self._channels(record)) != (usual := usual or own):
                bad.add(record.images[0])
                what = f"{own} channels among images of {usual}"
                stop(UserError(what, where=record.images[0], fix="learn from one kind of them alone"))
        return [record for record in records if record.images[0] not in bad]

    def _record(self, found: Found) -> list[Record] | UserError:
        """Of an image, or of each volume in a file: before it is cut. Errors are for who asked, not for a thread."""
        notes = {FOUND_AT: str(found.top)}
        try:
            if not is_volume_path(found.path):
                size_hw = header_of(stamp_of(found.path)).size_hw
                return [Record(id=found.name, images=(found.path,), size_hw=size_hw, notes=notes)]
            if self.intake is not None and self.intake.bands is not None:
                raise UserError("volumes have no bands", where=found.path, fix="leave --bands out, or the volumes")
            number = channels_in_file(found.path)
            parts = {found.name: found.path}
            if number > 1:
                parts = {f"{found.name}/{one}": channel_path(found.path, one) for one in range(number)}
            records = []
            for name, path in parts.items():
                volume = self._volume(path, None)
                spacing = {SPACING: " ".join(f"{side:.9g}" for side in volume.spacing)}
                own = notes | spacing | _patient(volume.parts[0])
                records.append(Record(id=name, images=(path,), size_hw=volume.size_hw, notes=own))
            return records
        except UserError as error:
            return error

    def _stop_at(self, report: IssueCounter) -> Stop:
        def stop(error: UserError) -> None:
            if self.unreadable == "stop":
                more = "--set data.unreadable=drop leaves such files out, counted"
                raise UserError(error.what, where=error.where, fix=f"{error.fix}; or {more}") from error
            report.note(UNREADABLE, f"{error.where}: {error.what}")

        return stop

    def _volume(self, path: Path, cache: Path | None) -> VolumeFile:
        return VolumeFile.open(
            path, axis=self.axis, neighbours=self.neighbours, intake=self.intake or Intake(), cache=cache
        )

    def _channels(self, record: Record) -> int:
        """Of each image, once it is read."""
        if is_volume_path(record.images[0]):
            return (self.intake or Intake()).channels_of(2 * self.neighbours + 1)
        return num_channels(record, self.intake)

    def _group(self, record: Record, report: IssueCounter) -> str:
        """What must not be on both sides; slices of a volume never are, nor series of a patient."""
        path = record.images[0]
        if self.groups == "folder":
            return str(files_of(path)[0].parent)
        pattern, top = _pattern(self.groups), Path(record.notes[FOUND_AT])
        root = top if top.is_dir() else top.parent
        name = path.relative_to(root) if path.is_relative_to(root) else path
        found = None if pattern is None else pattern.search(name.as_posix())
        if found is not None and found[1]:
            return found[1]
        if pattern is not None:
            report.note(NO_GROUP, record.id, "kept")
        if pattern is None and PATIENT in record.notes:
            return record.notes[PATIENT]
        return str(path) if pattern is not None or is_volume_path(path) else ""

    def _chosen(self, records: list[Record], report: IssueCounter) -> list[Record]:
        """Those of the split and the fraction, without those that are measured on: `not_in`, or the other splits."""
        others = [one.path for one in found_at(self.not_in, IssueCounter(), stop_here)]
        if self.random_split is not None and self.split is not None:
            kept = drawn(records, self.random_split, self.split_seed, [self.split], unit=group_of)
            if self.split == next(iter(self.random_split)):  # the first one is learned from
                rest = list(self.random_split)[1:]
                measured = drawn(records, self.random_split, self.split_seed, rest, unit=group_of)
                others += [record.images[0] for record in measured]
            records = kept
        records = shared(records, self.fraction, self.fraction_seed, report, unit=group_of)
        twins = twins_of([record.images[0] for record in records], others, self.intake, report) if others else {}
        for image, other in twins.items():
            if self.twins == "stop":
                what = f"this image, or one of the same pixels, is to be measured on: {other}"
                raise UserError(what, where=image, fix="--set data.twins=drop leaves such images out")
            report.note(TWIN, str(image))
        return [record for record in records if record.images[0] not in twins]

    def _paired(self, records: list[Record], report: IssueCounter) -> list[Record]:
        volume = next((one for one in records if is_volume_path(one.images[0])), None)
        if volume is not None:
            what = "slices of a volume are no dates of one place"
            raise UserError(what, where=volume.images[0], fix="--data with pictures alone; or leave --pairs out")
        paired = in_pairs(records, report)
        if not paired:
            what = f"no two images of one group and size: {'; '.join(report.lines())}"
            raise UserError(what, where=self.paths[0], fix="--groups folder, with the dates of a place in one folder")
        return paired

    def _slices(self, record: Record) -> list[Record]:
        if not is_volume_path(record.images[0]):
            return [record]
        return [
            replace(record, id=f"{record.id}@{_LETTERS[self.axis]}{number:03d}", image_id=record.id, slice=number)
            for number in range(self._volume(record.images[0], None).num_slices)
        ]

    def _mixed(self, records: Sequence[Record], mix: Sequence[float]) -> list[Record]:
        """Sets repeated so that each has its part, and none has less than all that it holds: of the last round those
        that are drawn."""
        by_path = {str(path): [one for one in records if one.notes[FOUND_AT] == str(path)] for path in self.paths}
        for path, own in by_path.items():
            if not own:
                raise UserError("nothing here to mix with the others", where=path, fix="leave this path out")
        each = max(len(own) / part for own, part in zip(by_path.values(), mix, strict=True))  # samples for a part of 1
        mixed: list[Record] = []
        for own, part in zip(by_path.values(), mix, strict=True):
            rounds, rest = divmod(round(each * part), len(own))
            last = set(sorted(range(len(own)), key=lambda at: derive(self.fraction_seed, "mix", own[at].id))[:rest])
            for number in range(rounds + bool(rest)):
                again = f"~{number + 1}" if number else ""
                mixed += [
                    replace(one, id=one.id + again) for at, one in enumerate(own) if number < rounds or at in last
                ]
        return mixed

    def _counts(self, records: Sequence[Record], copies: Path | None) -> dict[str, int]:
        volumes = [self._volume(one.images[0], None) for one in records if is_volume_path(one.images[0])]
        size = BYTES[(self.intake or Intake()).pixels]
        packed = sum(size * int(np.prod(one.parts[0].grid.shape)) for one in volumes if one.parts[0].is_packed)
        counts = {
            "images": len(records) - len(volumes),
            "volumes": len(volumes),
            "slices": sum(one.num_slices for one in volumes),
            "groups": len({one.group for one in records if one.group}),
            "megabytes of unpacked copies, once all are read": 0 if copies is None else packed // 10**6,
        }
        if len(self.paths) > 1:
            for path in self.paths:
                counts[f"of {path}"] = sum(one.notes[FOUND_AT] == str(path) for one in records)
        return {name: count for name, count in counts.items() if count}

    def _input(self, records: Sequence[Record]) -> Input:
        shown = self.resize if self.augment is None else self.augment.usual or self.resize
        are_slices = all(record.slice is not None for record in records)
        return Input(
            channels=self._channels(records[0]),
            intake=self.intake or (Intake() if are_slices else None),
            resize=shown,
            slices=Slices(axis=self.axis, neighbours=self.neighbours) if are_slices else None,
        )


def _patient(volume: Volume) -> dict[str, str]:
    """Of a series, by its PatientID, and where that was taken out by its study."""
    whose = (volume.patient or volume.study) if isinstance(volume, Series) else ""
    return {PATIENT: whose} if whose else {}


@dataclass(frozen=True)
class ImageReader:
    """Record -> the pixels of its image, slice or window; travels to worker processes."""

    intake: Intake | None
    axis: Axis
    neighbours: int
    cache: Path | None

    def __call__(self, record: Record) -> list[Tensor]:
        """One image: number[C, H, W].

        Raises:
            UserError: it cannot be read.
        """
        path = record.images[0]
        if record.slice is None:
            return [read_image(path, record.window_xyxy, intake=self.intake)]
        volume = VolumeFile.open(
            path, axis=self.axis, neighbours=self.neighbours, intake=self.intake or Intake(), cache=self.cache
        )
        x0, y0, x1, y1 = record.window_xyxy or (0, 0, volume.size_hw[1], volume.size_hw[0])
        return [volume.slice(record.slice)[:, y0:y1, x0:x1].clone()]


def _pattern(groups: str) -> re.Pattern[str] | None:
    """
    Raises:
        UserError: no regular expression, or not one pair of brackets.
    """
    if groups in ("none", "folder"):
        return None
    fix = "for example '^([^_]+)_' of p07_scan3.png; or folder"
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise UserError(f"no regular expression: {error}", where=f"groups={groups}", fix=fix) from None
    if pattern.groups != 1:
        what = f"a pattern of groups with {pattern.groups} pairs of brackets, where one says the name"
        raise UserError(what, where=f"groups={groups}", fix=fix)
    return pattern


def _common(paths: tuple[Path, ...]) -> Path:
    """The folder that names in a fingerprint are relative to."""
    tops = [path if path.is_dir() else path.parent for path in paths]
    return tops[0] if len(tops) == 1 else Path(tops[0].resolve().anchor)

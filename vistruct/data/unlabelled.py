"""Images without a word about them (`images`): all that lie in folders, large ones cut into windows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from vistruct.config import Part
from vistruct.contracts import Record
from vistruct.data.channels import check_channels
from vistruct.data.dataset import OnBroken, RecordDataset, as_dataset
from vistruct.data.formats.classes.folders import images_in
from vistruct.data.formats.order import stop_here
from vistruct.data.input import Input
from vistruct.data.selection import shared
from vistruct.data.twins import twins_of
from vistruct.errors import UserError
from vistruct.files.fingerprint import fingerprint
from vistruct.files.geo import num_channels
from vistruct.files.intake import Intake
from vistruct.files.raster_headers import size_of_image
from vistruct.issues import IssueCounter
from vistruct.transforms.augment import Augment
from vistruct.transforms.sizing import Sizing
from vistruct.windows.tiles import Tiles, tile_records

NO_SIZE = "image left out: it cannot be read"
TWIN = "image left out: it is measured on"
TWICE = "image left out: it is listed before"


class ImagesDataConfig(Part):
    """Folders of images, or images themselves, mixed."""

    kind: Literal["images"] = "images"
    paths: tuple[Path, ...] = Field(min_length=1)  # folders, with those in them, or single files
    tiles: Tiles | None = None  # large images are cut into windows; None: whole images
    intake: Intake | None = None  # of bands that are not 8-bit colours; None: 8-bit images
    augment: Augment | None = None  # random variation; None, as in evaluation: none
    resize: Sizing | None = None  # factor, or a size, of each image or window
    share: float = Field(1.0, gt=0, le=1)  # part of the images used, one at least
    share_seed: int = 0  # which part; of one seed, a larger share contains a smaller
    groups: Literal["none", "folder"] = "none"  # folder: images of one folder are of one patient, scene, flight
    not_in: tuple[Path, ...] = ()  # folders or images to measure on: none of these may be among those to learn from
    twins: Literal["stop", "drop"] = "stop"  # what an image that is in `not_in` does, by its bytes or pixels
    unreadable: Literal["stop", "drop"] = "stop"  # what a file that is no image does
    on_broken: OnBroken = "stop"  # at an unreadable image in training; see `fetch`

    def build(self, cache: Path | None = None) -> RecordDataset:
        """List the images; headers are read, and no pixel.

        Raises:
            UserError: no such path; no images; one that cannot be read; images of different bands.
        """
        report = IssueCounter()
        records = self._apart(self._records(report, self.paths), report)
        records = shared(records, self.share, self.share_seed, report)
        if not records:
            told = f": {'; '.join(report.lines())}" if report.counts else ""
            raise UserError(f"no images{told}", where=self.paths[0], fix="name a folder with images in it")
        if self.intake is not None:
            check_channels(records, self.intake, stop_here)
        whole = records
        if self.tiles is not None:
            records, _ = tile_records(records, self.tiles)
        shown = self.resize if self.augment is None else self.augment.usual or self.resize
        return as_dataset(
            records,
            report,
            self,
            Input(channels=num_channels(records[0], self.intake), intake=self.intake, resize=shown),
            class_names=(),
            fingerprint=fingerprint((), [record.images[0] for record in whole], _common(self.paths)),
            counts={},
        )

    def _apart(self, records: list[Record], report: IssueCounter) -> list[Record]:
        """Without the images that are measured on."""
        if not self.not_in:
            return records
        others = [record.images[0] for record in self._records(IssueCounter(), self.not_in)]
        twins = twins_of([record.images[0] for record in records], others, self.intake, report)
        for record in records:
            if record.images[0] not in twins:
                continue
            if self.twins == "stop":
                what = f"this image, or one of the same pixels, is to be measured on: {twins[record.images[0]]}"
                raise UserError(what, where=record.images[0], fix="--set data.twins=drop leaves such images out")
            report.note(TWIN, str(record.images[0]))
        return [record for record in records if record.images[0] not in twins]

    def _records(self, report: IssueCounter, paths: tuple[Path, ...]) -> list[Record]:
        found: dict[Path, Record] = {}
        for top in paths:
            if not top.exists():
                raise UserError("no such folder or image", where=top, fix="see what is there: ls")
            files = images_in(top, report) if top.is_dir() else [top]
            root = top if top.is_dir() else top.parent
            for file in files:
                if file.resolve() in found:
                    report.note(TWICE, str(file))
                    continue
                size_hw = self._size(file, report)
                if size_hw is not None:
                    name = str(file.relative_to(root)) if len(paths) == 1 else str(file)
                    group = str(file.parent) if self.groups == "folder" else ""
                    found[file.resolve()] = Record(id=name, images=(file,), size_hw=size_hw, group=group)
        return list(found.values())

    def _size(self, file: Path, report: IssueCounter) -> tuple[int, int] | None:
        try:
            return size_of_image(file)
        except UserError:
            if self.unreadable == "stop":
                raise
            report.note(NO_SIZE, str(file))
            return None


def _common(paths: tuple[Path, ...]) -> Path:
    """The folder that names in a fingerprint are relative to."""
    tops = [path if path.is_dir() else path.parent for path in paths]
    return tops[0] if len(tops) == 1 else Path(tops[0].resolve().anchor)

"""Images, or pairs of them, with a class for every pixel (`maps`): folders of rasters as people keep them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import IGNORED, Record
from vistruct.data.channels import check_channels
from vistruct.data.dataset import OnBroken, RecordDataset, as_dataset
from vistruct.data.formats.format import Ask
from vistruct.data.formats.order import stop_here
from vistruct.data.formats.read import read
from vistruct.data.input import Input, Windows
from vistruct.data.selection import shared
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.fingerprint import fingerprint
from vistruct.files.geo import FILES_AN_IMAGE, images_of, num_channels
from vistruct.files.intake import Intake
from vistruct.files.raster_files import valid_in_all
from vistruct.files.rasters import palette_of, read_raster
from vistruct.transforms.augment import PlacedAugment
from vistruct.transforms.sizing import PlacedSizing
from vistruct.windows.tiles import Tiles, tile_records


class MapDataConfig(Part):
    """Folders of images and label rasters, or of pairs (before, after) and change masks, as people keep them."""

    kind: Literal["maps"] = "maps"
    root: Path  # folder of the data set; or annotations of objects with masks, which are then painted
    format: str = "auto"  # name of the format; auto: what the files are
    split: str | None = None  # train, val, test, ... (several with a plus) where there are several; None: the only one
    images: str | None = None  # plain folders: that of the images below `root`; None: where the format has it
    labels: str | None = None  # plain folders: that of the label rasters
    image_suffix: str | None = None  # plain folders: what follows the common part of the names; None: any ending
    label_suffix: str | None = None
    coding: Coding | None = None  # what the raster's values mean; None: the format's own
    classes: tuple[str, ...] | None = None  # names in order; None: those of the coding
    others: Literal["stop", "drop"] = "stop"  # what pixels of a class do that is none of `classes`
    join: dict[str, tuple[str, ...]] = Field({})  # classes that become one, by its name
    drop: tuple[str, ...] = ()  # classes that are left out: its pixels do not count
    coordinates: Literal["checked", "ignored"] = "checked"  # ignored: images and labels that lie elsewhere on the map
    fill: Literal["masks", "boxes"] = "masks"  # annotations of objects: paint their masks, or for want of them boxes
    intake: Intake | None = None  # of bands that are not 8-bit colours; None: 8-bit images
    tiles: Tiles | None = None  # cut into windows, for training; None: whole images, as evaluations have them
    augment: PlacedAugment | None = None  # random variation; None, as in evaluation: none
    fraction: float = Field(1.0, gt=0, le=1)  # part of the windows (or images) used
    fraction_seed: int = 0  # which part; of one seed, a larger fraction contains a smaller
    resize: PlacedSizing | None = None  # what the model is shown; predictions are put back
    missing: Literal["stop", "drop"] = "stop"  # what an image without its labels (or the other way round) does
    on_broken: OnBroken = "stop"

    def build(self, cache: Path | None = None) -> RecordDataset:
        """Find the images and their labels; no pixel is decoded yet, but for a few labels where a coding is sought.

        Args:
            cache: folder that keeps which values the labels have; finding the files again takes no longer.

        Raises:
            UserError: see `formats.read.read`; tiles that can hold no image.
        """
        found, report = read(self.root, "maps", format=self.format, ask=replace(self.ask(), kept=cache))
        records, coding = found.records, found.coding
        assert coding is not None  # of records that are there
        check_channels(records, self.intake or found.intake, stop_here)
        if self.tiles is not None:
            if self.tiles.skip_empty:
                fix = "leave skip_empty out: every pixel of a window has its class"
                raise UserError("label maps have no empty windows", where="tiles.skip_empty", fix=fix)
            records, _ = tile_records(records, self.tiles)
        records = shared(records, self.fraction, self.fraction_seed, report)
        dataset = as_dataset(
            records,
            report,
            self,
            self._input(records[0], self.intake or found.intake, coding),
            class_names=coding.classes,
            palette=coding.shown,
            fingerprint=self._fingerprint(found.records, coding),
            counts={"images": len({record.image_id for record in records}), "windows": len(records)},
            whole_records=found.records,
            read_label_map=LabelReader(coding, found.raster, self.intake or found.intake),
        )
        return replace(dataset, class_pixels=found.pixels)

    def _input(self, record: Record, intake: Intake | None, coding: Coding) -> Input:
        tiles = self.tiles
        windows = None if tiles is None else Windows(size=tiles.size, overlap=tiles.overlap, unit="file")
        return Input(
            images=len(record.images) // int(record.notes.get(FILES_AN_IMAGE, "1")),
            channels=num_channels(record, intake),
            intake=intake,
            resize=self.resize,
            windows=windows and windows.shown(self.resize),
            coding=coding,
            label_palette=None if record.label_map is None else palette_of(record.label_map),
        )

    def _fingerprint(self, records: Sequence[Record], coding: Coding) -> str:
        """Of the names and sizes in bytes of all files, and of the coding."""
        files = [file for record in records for file in (*record.images, record.label_map) if file is not None]
        return fingerprint([], files, self.root, [coding.model_dump_json().encode()])

    def ask(self) -> Ask:
        """What is asked of the reader of a format."""
        return Ask(
            split=self.split,
            images=None if self.images is None else Path(self.images),
            labels=self.labels,
            image_suffix=self.image_suffix,
            label_suffix=self.label_suffix,
            coding=self.coding,
            classes=self.classes,
            others=self.others,
            join=self.join,
            drop=self.drop,
            coordinates=self.coordinates,
            fill=self.fill,
            missing=self.missing,
            intake=self.intake,
        )


@dataclass(frozen=True)
class LabelReader:
    """The class of every pixel of a record; can travel to a worker process."""

    coding: Coding
    raster: Callable[[Record], np.ndarray] | None = None  # None: `Record.label_map` is a raster file
    intake: Intake | None = None  # of the images
    unlabelled: int | None = None  # class of all pixels where a record has no raster file; None: each has one

    def __call__(self, record: Record) -> Tensor:
        """int16[H, W] of the record's window; a pixel counts where all of the record's images have data.

        Raises:
            UserError: a raster that cannot be read, or has a value of no class; 0 and 1 where 128 parts two classes.
        """
        where = record.label_map or record.id
        classes = self._classes(record, where)
        height, width = classes.shape
        valid = valid_in_all(images_of(record), record.window_xyxy or (0, 0, width, height), self.intake)
        if valid is not None and valid.shape == classes.shape:  # of others, `RecordDataset` says it
            classes[~valid] = IGNORED
        return torch.from_numpy(classes)

    def _classes(self, record: Record, where: object) -> np.ndarray:
        """int16[H, W]."""
        if self.raster is None and record.label_map is None and self.unlabelled is not None:
            assert record.size_hw is not None
            return np.full(record.size_hw, self.unlabelled, np.int16)
        raster = self.raster(record) if self.raster is not None else _of_file(record, self.coding)
        if self.coding.threshold is not None and 0 < raster.max(initial=0) <= 1 < self.coding.threshold:
            what = f"labels of 0 and 1, and the second class begins at {self.coding.threshold}"
            raise UserError(what, where=where, fix="--classes unchanged,changed --values 0,1 (or your own names)")
        return self.coding.decode(raster, where)


def _of_file(record: Record, coding: Coding) -> np.ndarray:
    assert record.label_map is not None
    raster = read_raster(record.label_map, record.window_xyxy)
    if coding.colours is None or raster.ndim == 3 or (palette := palette_of(record.label_map)) is None:
        return raster
    return np.array([*palette, *[(0, 0, 0)] * (256 - len(palette))], np.uint8)[raster]

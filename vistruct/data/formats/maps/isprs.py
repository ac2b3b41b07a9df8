"""The two ISPRS data sets, `potsdam` and `vaihingen`: six classes in tiles, splits by lists of them.

Potsdam: 38 tiles of 6000 x 6000 pixels at 5 cm. Images are the colours (`_RGB`); of the labels the whole ones come
first, for the eroded say labels=5_Labels_all_noBoundary.

    2_Ortho_RGB/top_potsdam_2_10_RGB.tif   5_Labels_all/top_potsdam_2_10_label.tif

Vaihingen: 33 tiles of about 2500 x 2000 pixels at 9 cm (near infrared, red, green). Images and labels have the same
names: labels lie in a folder with `gt` or `label` in its name. The whole ones are taken; for the eroded say
labels=gts_eroded_for_participants.

    top/top_mosaic_09cm_area1.tif   gts_for_participants/top_mosaic_09cm_area1.tif

Six classes in saturated colours; the sixth, clutter, is learned, and many published means leave it out. Borders between
objects are black in the eroded labels (`noBoundary`) and are neither learned nor counted. A few tiles of Potsdam have
pixels of other colours (252 in place of 255): these are not counted either, as in MMSegmentation's conversion, and
`vistruct check` says where they are. That conversion's numbers, 1 to 6 with 0 for "not counted", are read as well.

The splits are those of the ISPRS benchmark as it was held: the tiles whose labels were given out then, and the others.

Source: the benchmark's pages, and MMSegmentation's `potsdam` and `vaihingen` conversions for the lists of tiles;
not checked against the data sets' own files.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.format import Ask, Format, Stop
from vistruct.data.formats.maps.files import MASKS, FolderGroup, files_directly_in, find_groups, splits_in, subfolders
from vistruct.data.formats.maps.frame import map_format
from vistruct.data.formats.maps.mask_folders import records_of
from vistruct.data.formats.splits import chosen
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.issues import IssueCounter

CLASSES = ("impervious_surface", "building", "low_vegetation", "tree", "car", "clutter")
COLOURS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
CODING = Coding(classes=CLASSES, colours=COLOURS, ignored_colours=((0, 0, 0),), others="ignored")
_PEEKED = 200  # files of a folder; those of tiles hold nothing else but their places on earth
AS_NUMBERS = Coding(classes=CLASSES, values=(1, 2, 3, 4, 5, 6), ignored=(0, 255), palette=COLOURS)


@dataclass(frozen=True, kw_only=True)
class TileNames:
    """How a data set calls its whole tiles, and which are in which split."""

    image: re.Pattern[str]  # file name of an image; its group "tile" names the tile
    label: re.Pattern[str]  # likewise of a label raster
    label_folder: re.Pattern[str]  # name of a folder that holds labels and no images
    splits: Mapping[str, Sequence[str]]  # tiles by split


def tile_group(path: Path, tiles: TileNames, ask: Ask | None = None) -> FolderGroup | None:
    """The folder of images and that of labels, at most two folders below a root; None where one is missing."""
    folders = [path, *(folder for child in subfolders(path) for folder in (child, *subfolders(child)))]
    folders = [folder for folder in folders if folder.is_dir()]
    labels = [folder for folder in folders if _holds(folder, tiles.label) and _is_of_labels(folder, path, tiles)]
    images = [folder for folder in folders if _holds(folder, tiles.image) and folder not in labels]
    if ask is not None and ask.images is not None:
        images = [path / ask.images]
    if ask is not None and ask.labels is not None:
        labels = [path / ask.labels]
    return FolderGroup(images=(images[0],), labels=labels[0]) if images and labels else None


def _format(tiles: TileNames) -> Format:
    """Whole tiles, one record each, chosen by the official lists; or else folders that somebody has cut and split."""

    def looks_like(path: Path) -> bool:
        return tile_group(path, tiles) is not None

    def splits(path: Path) -> tuple[str, ...]:
        return tuple(tiles.splits) if looks_like(path) else splits_in(path, find_groups(path, MASKS))

    def find(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> list[Record]:
        group = tile_group(path, tiles, ask)
        if group is None:
            return records_of(path, ask, report, stop)
        wanted = {tile for name in chosen(ask.split, tiles.splits, path) for tile in tiles.splits[name]}
        return _records(group, ask, report, stop, tiles, wanted)

    return map_format(looks_like=looks_like, splits=splits, find=find, coding=(CODING, AS_NUMBERS))


def _records(
    group: FolderGroup, ask: Ask, report: IssueCounter, stop: Stop, tiles: TileNames, wanted: Collection[str]
) -> list[Record]:
    """A record for each tile with its labels; a tile of which one of both is missing is none."""
    found = []
    for folder, pattern in ((group.images[0], tiles.image), (group.labels, tiles.label)):
        matches = [(pattern.fullmatch(file.name), file) for file in files_directly_in(folder)]
        found.append({match["tile"]: file for match, file in matches if match and match["tile"] in wanted})
    images, labels = found
    alone = [str(images.get(tile) or labels[tile]) for tile in sorted(images.keys() ^ labels.keys())]
    if alone and ask.missing == "stop":
        what = f"{len(alone)} tiles have no image or no labels: {', '.join(alone[:3])}"
        stop(UserError(what, where=group.labels, fix="unpack both again; or --missing drop"))
    for place in alone if ask.missing == "drop" else ():
        report.note("tile left out: no image or no labels", place)
    return [
        Record(id=image.name, images=(image,), label_map=labels[tile], group=tile)
        for tile, image in images.items()
        if tile in labels
    ]


def _holds(folder: Path, pattern: re.Pattern[str]) -> bool:
    with os.scandir(folder) as entries:
        return any(pattern.fullmatch(entry.name) for entry in itertools.islice(entries, _PEEKED))


def _is_of_labels(folder: Path, root: Path, tiles: TileNames) -> bool:
    return any(tiles.label_folder.search(part) for part in folder.relative_to(root).parts)


POTSDAM_TRAIN = (
    "2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11", "5_12", "6_10", "6_11",
    "6_12", "6_7", "6_8", "6_9", "7_10", "7_11", "7_12", "7_7", "7_8", "7_9",
)  # fmt: skip
POTSDAM_TEST = (
    "2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13",
)  # fmt: skip
POTSDAM = _format(
    TileNames(
        image=re.compile(r"top_potsdam_(?P<tile>\d+_\d+)_RGB\.(tif|tiff|png)", re.IGNORECASE),
        label=re.compile(r"top_potsdam_(?P<tile>\d+_\d+)_label(_noBoundary)?\.(tif|tiff|png)", re.IGNORECASE),
        label_folder=re.compile(r"label", re.IGNORECASE),
        splits={"train": POTSDAM_TRAIN, "test": POTSDAM_TEST},
    )
)
VAIHINGEN_TRAIN = ("1", "3", "5", "7", "11", "13", "15", "17", "21", "23", "26", "28", "30", "32", "34", "37")
VAIHINGEN_TEST = ("2", "4", "6", "8", "10", "12", "14", "16", "20", "22", "24", "27", "29", "31", "33", "35", "38")
VAIHINGEN = _format(
    TileNames(
        image=re.compile(r"top_mosaic_09cm_area(?P<tile>\d+)\.(tif|tiff|png)", re.IGNORECASE),
        label=re.compile(r"top_mosaic_09cm_area(?P<tile>\d+)(_noBoundary)?\.(tif|tiff|png)", re.IGNORECASE),
        label_folder=re.compile(r"^gt|label", re.IGNORECASE),
        splits={"train": VAIHINGEN_TRAIN, "test": VAIHINGEN_TEST},
    )
)

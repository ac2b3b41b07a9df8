"""What the two ISPRS data sets, Potsdam and Vaihingen, have in common: colours, and splits by lists of tiles.

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
from vistruct.data.formats.boxes.objects import Stop
from vistruct.data.formats.boxes.places import chosen
from vistruct.data.formats.maps.coding import fitting
from vistruct.data.formats.maps.files import MASKS, Group, files_directly_in, find_groups, splits_in, subfolders
from vistruct.data.formats.maps.mask_folders import records_of
from vistruct.data.formats.maps.registry import Walked, Wish
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.issues import IssueCounter

CLASSES = ("impervious_surface", "building", "low_vegetation", "tree", "car", "clutter")
COLOURS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
CODING = Coding(classes=CLASSES, colours=COLOURS, ignored_colours=((0, 0, 0),), others="ignored")
_PEEKED = 200  # files of a folder; those of tiles hold nothing else but their places on earth
AS_NUMBERS = Coding(classes=CLASSES, values=(1, 2, 3, 4, 5, 6), ignored=(0, 255), palette=COLOURS)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How a data set calls its whole tiles, and which are in which split."""

    image: re.Pattern[str]  # file name of an image; its group "tile" names the tile
    label: re.Pattern[str]  # likewise of a label raster
    label_folder: re.Pattern[str]  # name of a folder that holds labels and no images
    splits: Mapping[str, Sequence[str]]  # tiles by split


def tile_group(path: Path, tiles: Tiles, wish: Wish | None = None) -> Group | None:
    """The folder of images and that of labels, at most two folders below a root; None where one is missing."""
    folders = [path, *(folder for child in subfolders(path) for folder in (child, *subfolders(child)))]
    folders = [folder for folder in folders if folder.is_dir()]
    labels = [folder for folder in folders if _holds(folder, tiles.label) and _is_of_labels(folder, path, tiles)]
    images = [folder for folder in folders if _holds(folder, tiles.image) and folder not in labels]
    if wish is not None and wish.images is not None:
        images = [path / wish.images]
    if wish is not None and wish.labels is not None:
        labels = [path / wish.labels]
    return Group(images=(images[0],), labels=labels[0]) if images and labels else None


def tile_splits(path: Path, tiles: Tiles) -> tuple[str, ...]:
    """The official ones of whole tiles; of folders that somebody made, theirs."""
    return tuple(tiles.splits) if tile_group(path, tiles) else splits_in(path, find_groups(path, MASKS))


def walk_tiles(path: Path, wish: Wish, report: IssueCounter, stop: Stop, tiles: Tiles) -> Walked:
    """Whole tiles chosen by the official lists, or else folders that somebody has cut and split."""
    records: list[Record] = []
    coding = wish.coding
    try:
        group = tile_group(path, tiles, wish)
        if group is not None:
            wanted = {tile for name in chosen(wish.split, tiles.splits, path) for tile in tiles.splits[name]}
            records = _records(group, wish, report, stop, tiles, wanted)
        else:
            records = records_of(path, wish, report, stop)
        coding = coding or (fitting(records, (CODING, AS_NUMBERS), path) if records else CODING)
    except UserError as error:
        stop(error)
    return Walked(records=records, coding=coding)


def _records(
    group: Group, wish: Wish, report: IssueCounter, stop: Stop, tiles: Tiles, wanted: Collection[str]
) -> list[Record]:
    """A record for each tile with its labels; a tile of which one of both is missing is none."""
    found = []
    for folder, pattern in ((group.images[0], tiles.image), (group.labels, tiles.label)):
        matches = [(pattern.fullmatch(file.name), file) for file in files_directly_in(folder)]
        found.append({match["tile"]: file for match, file in matches if match and match["tile"] in wanted})
    images, labels = found
    alone = [str(images.get(tile) or labels[tile]) for tile in sorted(images.keys() ^ labels.keys())]
    if alone and wish.missing == "stop":
        what = f"{len(alone)} tiles have no image or no labels: {', '.join(alone[:3])}"
        stop(UserError(what, where=group.labels, fix="unpack both again; or missing=drop"))
    for place in alone if wish.missing == "drop" else ():
        report.note("tile left out: no image or no labels", place)
    return [
        Record(id=image.name, images=(image,), label_map=labels[tile], group=tile)
        for tile, image in images.items()
        if tile in labels
    ]


def _holds(folder: Path, pattern: re.Pattern[str]) -> bool:
    with os.scandir(folder) as entries:
        return any(pattern.fullmatch(entry.name) for entry in itertools.islice(entries, _PEEKED))


def _is_of_labels(folder: Path, root: Path, tiles: Tiles) -> bool:
    return any(tiles.label_folder.search(part) for part in folder.relative_to(root).parts)

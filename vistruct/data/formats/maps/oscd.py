"""OSCD: Sentinel-2 images of 24 cities at two times, with a mask of what was built between them.

    images/abudhabi/imgs_1_rect/B01.tif ... B12.tif, B8A.tif     before, 13 bands on one grid of 10 m
    images/abudhabi/imgs_2_rect/B01.tif ...                      after
    labels/abudhabi/cm/cm.png (0 and 255) or abudhabi-cm.tif (1 and 2)
    images/train.txt, images/test.txt                            names of cities, separated by commas

The folders may have the names of the archives as they are published (`Onera Satellite Change Detection dataset -
Images`, `- Train Labels`, `- Test Labels`). Bands are numbered in the order of their wavelengths, so that 9 is B8A and
13 is B12. Unless told otherwise the channels are B04, B03 and B02, red, green and blue, and a reflectance of 0.3
(a value of 3000) is white: ours, since every publication has its own; `data.intake` says otherwise.
A city is a group: parts of one must not be in two splits. There is no third split, and what is chosen by its figures on
`test` is chosen on the test.

Source: Caye Daudt et al., IGARSS 2018, and the folders of the published archives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.format import Ask, Stop
from vistruct.data.formats.maps.coding import CHANGE
from vistruct.data.formats.maps.files import subfolders
from vistruct.data.formats.maps.frame import map_format
from vistruct.data.formats.splits import chosen
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.geo import FILES_AN_IMAGE
from vistruct.files.intake import Intake
from vistruct.files.text import read_text
from vistruct.issues import IssueCounter

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
PNG = CHANGE
TIF = Coding(classes=CHANGE.classes, values=(1, 2), ignored=(), palette=CHANGE.palette)
INTAKE = Intake(bands=(4, 3, 2), low=(0.0,), high=(3000.0,))
NO_LABELS = "city left out: no change map"

_TIMES = ("imgs_1_rect", "imgs_2_rect")


def looks_like(path: Path) -> bool:
    """Whether a folder below holds `imgs_1_rect` and `imgs_2_rect`."""
    return bool(_cities(path))


def splits(path: Path) -> tuple[str, ...]:
    """Those that have a list of cities."""
    return tuple(_lists(path))


def find(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> list[Record]:
    """One record a city, of 26 files: those before, then those after."""
    cities, maps = _cities(path), _change_maps(path)
    names = _chosen(path, cities, ask.split)
    absent = [name for name in names if name not in cities]
    if absent:
        what = f"listed cities are not on disk: {', '.join(absent)}"
        stop(UserError(what, where=path, fix="copy them, or take them from the list"))
    known = {
        ending: sum(name in cities and ending in maps.get(name, {}) for name in names) for ending in (".png", ".tif")
    }
    ending = ".png" if known[".png"] >= known[".tif"] else ".tif"  # one kind for all: they write different numbers
    records = []
    for name in (name for name in names if name in cities):
        files = [_bands(cities[name] / time, stop) for time in _TIMES]
        label = maps.get(name, {}).get(ending)
        if label is None and ask.missing == "drop":
            report.note(NO_LABELS, name)
        elif label is None:
            what = f"no change map of {name}"
            stop(UserError(what, where=path, fix=f"labels/{name}/cm/cm.png; or --missing drop"))
        elif all(files):
            images = tuple(file for time in files for file in time)
            notes = {FILES_AN_IMAGE: str(len(BANDS))}
            records.append(Record(id=name, images=images, label_map=label, group=name, notes=notes))
    return records


def coding(path: Path, records: Sequence[Record], ask: Ask, report: IssueCounter) -> Coding:
    """By the ending of the files."""
    label = records[0].label_map
    return PNG if label is not None and label.suffix == ".png" else TIF


def _below(path: Path) -> list[Path]:
    """A folder and those in it."""
    return [path, *subfolders(path)]


def _cities(path: Path) -> dict[str, Path]:
    """By name: the folders that hold both times."""
    return {
        child.name: child
        for folder in _below(path)
        for child in subfolders(folder)
        if all((child / time).is_dir() for time in _TIMES)
    }


def _change_maps(path: Path) -> dict[str, dict[str, Path]]:
    """By city and ending."""
    found: dict[str, dict[str, Path]] = {}
    for folder in _below(path):
        for city in subfolders(folder):
            for file in (city / "cm" / "cm.png", city / "cm" / f"{city.name}-cm.tif"):
                if file.is_file():
                    found.setdefault(city.name, {})[file.suffix] = file
    return found


def _lists(path: Path) -> dict[str, Path]:
    """By split."""
    for folder in _below(path):
        lists = {file.stem.lower(): file for file in sorted(folder.glob("*.txt")) if file.stem.lower() != "readme"}
        if "train" in lists or "test" in lists:
            return {name: file for name, file in lists.items() if name in ("train", "val", "test", "all")}
    return {}


def _chosen(path: Path, cities: Mapping[str, Path], split: str | None) -> list[str]:
    """Names of the cities of a split."""
    lists = _lists(path)
    if not lists and split is None:
        return sorted(cities)
    if not lists:
        what = f"no split {split!r}: no train.txt and test.txt with the names of its cities"
        raise UserError(what, where=path, fix="put the published lists beside the cities")
    members = {name: re.findall(r"[^,\s]+", read_text(file)) for name, file in lists.items()}
    return list(dict.fromkeys(city for name in chosen(split, members, path) for city in members[name]))


def _bands(folder: Path, stop: Stop) -> list[Path]:
    """The files of all bands; none where one is not there."""
    files = [folder / f"{band}.tif" for band in BANDS]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        stop(UserError(f"bands are not there: {', '.join(absent)}", where=folder, fix="copy them from the archive"))
    return [] if absent else files


FORMAT = map_format(looks_like=looks_like, splits=splits, find=find, coding=coding, intake=INTAKE)

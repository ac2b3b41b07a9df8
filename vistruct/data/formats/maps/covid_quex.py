"""COVID-QU-Ex: chest X-rays with outlines of lungs and of infection, its part with infection masks.

    Infection Segmentation Data/{Train,Val,Test}/{COVID-19,Non-COVID,Normal}/{images,lung masks,infection masks}/*.png

Masks are 0 and 255. What is learned is the infection; `labels: lung masks` asks for the lungs. Pictures of people
without COVID-19 have no infection; those whose folder has no infection masks at all are left out and counted.

Source: the data set's page (Tahir et al., COVID-QU-Ex, 33,920 X-rays, 5,826 of them in this part). ViTP reports mDice
over 2 classes, background and infection as it seems. Differs: nothing here can keep patients apart, because the data
set does not say who is who; its own splits are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.format import Ask, Stop
from vistruct.data.formats.maps.files import FolderGroup, has_raster, subfolders
from vistruct.data.formats.maps.frame import map_format
from vistruct.data.formats.maps.partners import partners
from vistruct.data.formats.splits import chosen
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.issues import IssueCounter

INFECTION, LUNGS = "infection masks", "lung masks"
CODING = Coding(classes=("background", "infection"), threshold=128, palette=((0, 0, 0), (230, 60, 60)))
LUNG_CODING = Coding(classes=("background", "lung"), threshold=128, palette=((0, 0, 0), (90, 160, 230)))
KINDS = ("covid-19", "non-covid", "normal")
NO_MASKS = "image left out: its folder has no masks of the kind asked for"
_OUTER = "infection segmentation data"


def looks_like(path: Path) -> bool:
    """Whether there are infection masks in the folders of the release."""
    return any((kind / INFECTION).is_dir() for kinds in _splits(path).values() for kind in kinds)


def splits(path: Path) -> tuple[str, ...]:
    """train, val and test."""
    return tuple(_splits(path))


def find(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> list[Record]:
    """One record a picture; what its patient has, COVID-19, Non-COVID or Normal, is a note."""
    wanted = ask.labels or INFECTION
    found = _splits(path)
    if wanted not in (INFECTION, LUNGS):
        raise UserError(f"no masks called {wanted!r}", where="labels", fix=f"{INFECTION!r} or {LUNGS!r}")
    if not found:
        raise UserError(f"no Train/COVID-19/{INFECTION} here", where=path, fix="name the folder that holds Train")
    groups = []
    for kind in (kind for name in chosen(ask.split, found, path) for kind in found[name]):
        if has_raster(kind / wanted):
            groups.append(FolderGroup(images=(kind / "images",), labels=kind / wanted))
        else:
            for file in sorted((kind / "images").glob("*.png")):
                report.note(NO_MASKS, str(file))
    records = partners(path, groups, ask, report, stop)
    return [replace(record, notes={"kind": record.images[0].parent.parent.name}) for record in records]


def coding(path: Path, records: Sequence[Record], ask: Ask, report: IssueCounter) -> Coding:
    """Of the infection, or of the lungs."""
    return LUNG_CODING if ask.labels == LUNGS else CODING


def _splits(path: Path) -> dict[str, list[Path]]:
    """The folders of kinds of patients by split; "" where the folder of one split was named."""
    folder = path
    for _ in range(2):  # the archive has the folder twice, one in the other
        folder = next((child for child in subfolders(folder) if child.name.lower() == _OUTER), folder)
    here = _kinds(folder)
    if here:
        return {"": here}
    return {child.name.lower(): kinds for child in subfolders(folder) if (kinds := _kinds(child))}


def _kinds(folder: Path) -> list[Path]:
    return [child for child in subfolders(folder) if child.name.lower() in KINDS and (child / "images").is_dir()]


FORMAT = map_format(looks_like=looks_like, splits=splits, find=find, coding=coding)

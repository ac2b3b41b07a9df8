"""Volumes with a label file for each class (TotalSegmentator, AbdomenAtlas, and what such tools write).

    case/ct.nii.gz           case/segmentations/liver.nii.gz, spleen.nii.gz, ...     (labels, masks, structures, ...)
    images/case.nii.gz       labels/case/liver.nii.gz, ...                           imagesTr, labelsTr likewise
    case/series/*.dcm        case/segmentations/liver.nii.gz, ...

Classes are called as their files are, sorted, after the background, which is what lies in no file. Where a voxel is in
several, the later class of the list has it. `--classes` chooses files: the others are not read, and what is in none of
those chosen is background; voxels of a class that is dropped do not count. A case without the file of a class is taken
to have no voxels of it. Splits are those of meta.csv (`image_id;...;split`), where there is one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vistruct.data.formats.format import Ask, Format, Stop, VolumeCase, Walked
from vistruct.data.formats.order import choose
from vistruct.data.formats.volumes.cases import splits_of_cases
from vistruct.data.formats.volumes.names import LABEL_FOLDERS, is_of, rest_of_label
from vistruct.data.formats.volumes.nifti import FOLDERS, folders_of, paired_cases, patient_of
from vistruct.errors import UserError
from vistruct.files.class_files import Painting, class_files
from vistruct.files.coding import Coding
from vistruct.files.dicom_series import is_series
from vistruct.files.text import read_text
from vistruct.files.volume_names import is_volume_file, stem
from vistruct.issues import IssueCounter

BACKGROUND = "background"
RULE = "labels of a file a class: a voxel in several files is of the later class of the list"
ABSENT = "file of a class missing: taken as a class without voxels in that volume"
NOT_CHOSEN = "file of a class not read: the class is not wanted, its voxels are background"
ADDED = "class put first: the voxels in none of the files"
JOINT_FILE = "label volume left out: there is a file for each class (--format nifti reads it instead)"
NO_SPLIT = "volume left out: meta.csv gives it no split"
NOT_HERE = "volume of meta.csv that is not here"
_FOLDERS = (*LABEL_FOLDERS, "segmentation", "seg", "mask", "structures", "organs", "rois")


def looks_like(root: Path) -> bool:
    """Whether a case has a folder of masks."""
    return any(case.label is not None for case in _cases(root))


def walk(root: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """Every case, with the folder of its masks."""
    cases = list(_cases(root, report))
    splits = _splits(root)
    if splits:
        for name in sorted(splits.keys() - {case.name for case in cases}):
            report.note(NOT_HERE, name)
        for case in cases:
            if case.name not in splits:
                report.note(NO_SPLIT, case.name)
        cases = [replace(case, split=splits[case.name]) for case in cases if case.name in splits]
    known = _class_names(cases)
    for case in cases:
        own = class_files(case.label) if case.label is not None else {}
        for name in known if own else ():
            if name not in own:
                report.note(ABSENT, f"{case.name}: {name}", "kept")
    return Walked(cases=cases)


def painting(root: Path, ask: Ask, report: IssueCounter) -> tuple[Coding, Painting]:
    """The classes that are wanted, and the values that their files are painted with: their numbers.

    Raises:
        UserError: see `choose`; values, which the masks do not have.
    """
    if ask.coding is not None:
        raise UserError("values for labels of a file a class", where=root, fix="leave --values and --ignored out")
    found = (BACKGROUND, *_class_names(list(_cases(root))))
    renamed = {old for names in ask.join.values() for old in names}
    if ask.classes is not None and BACKGROUND not in {*ask.classes, *ask.drop, *renamed}:
        report.note(ADDED, BACKGROUND, "kept")
        ask = replace(ask, classes=(BACKGROUND, *ask.classes))
    if ask.classes is not None and ask.others == "drop":
        asked = (*ask.classes, *ask.drop)
        wanted = {BACKGROUND, *asked, *(old for new in asked for old in ask.join.get(new, ()))}
        for name in found:
            if name not in wanted:
                report.note(NOT_CHOSEN, name)
        found = tuple(name for name in found if name in wanted)
    chosen = choose(found, ask, where=root, report=report)
    out = len(chosen.names)
    numbers = [out if number is None else number for number in chosen.numbers]
    pairs = sorted(zip(found[1:], numbers[1:], strict=True), key=lambda pair: -1 if pair[1] == out else pair[1])
    report.note(RULE, str(root), "kept")
    coding = Coding(classes=chosen.names, ignored=(out,) if out in numbers else ())
    return coding, Painting(values=tuple(pairs), base=numbers[0])


def _class_names(cases: list[VolumeCase]) -> tuple[str, ...]:
    names = {name for case in cases if case.label is not None for name in class_files(case.label)}
    return tuple(sorted(names - {BACKGROUND}))


def _cases(root: Path, report: IssueCounter | None = None) -> Iterator[VolumeCase]:
    """Of the first layout that has masks."""
    tops = [(root / folder, folder) for folder in ("", *FOLDERS) if (root / folder).is_dir()]
    splits = {"valid": "val", "validation": "val"}
    found = [
        case
        for top, split in tops
        for folder in sorted(path for path in top.iterdir() if path.is_dir())
        if (case := _case_in(folder, root, splits.get(split, split), report)) is not None
    ]
    if not any(case.label is not None for case in found):
        pairs = [*folders_of(root), *((root, root / name, "") for name in _FOLDERS if (root / name).is_dir())]
        found = [
            replace(case, label=labels / case.name if labels is not None and _are_masks(labels / case.name) else None)
            for images, labels, split in pairs
            for case in paired_cases(images, None, split, root)
        ]
    if not any(case.label is not None for case in found):
        alone = _case_in(root, root, "", report)
        found = [] if alone is None else [replace(alone, patient=f"{root.resolve().parent.name}/{root.name}")]
    yield from found


def _case_in(folder: Path, root: Path, split: str, report: IssueCounter | None) -> VolumeCase | None:
    """A folder with its images, and a folder of masks below."""
    files = sorted(file for file in folder.iterdir() if is_volume_file(file))
    images = [file for file in files if rest_of_label(stem(file)) is None]
    if not images:
        below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in _FOLDERS)
        images = [path for path in below if is_series(path)]
    if not images:
        return None
    names = [stem(file) for file in images]
    places = [folder / name for name in _FOLDERS if _are_masks(folder / name, (*names, folder.name))]
    if len(places) > 1:
        where = ", ".join(map(str, places))
        raise UserError("two folders with a label file for each class", where=where, fix="keep one of them")
    if places and report is not None:
        for file in set(files) - set(images):
            report.note(JOINT_FILE, str(file))
    by_name = {"": images[0]} if len(images) == 1 else dict(zip(names, images, strict=True))
    label = places[0] if places else None
    return VolumeCase(name=folder.name, patient=patient_of(folder.name, root), images=by_name, label=label, split=split)


def _are_masks(folder: Path, cases: tuple[str, ...] = ()) -> bool:
    """Volumes that are called neither as an image nor as labels in general are."""
    if not folder.is_dir():
        return False
    names = [stem(file) for file in folder.iterdir() if is_volume_file(file)]
    rests = [name if (rest := rest_of_label(name)) is None else rest for name in names]
    return bool(names) and not any(rest == "" or is_of(rest, case) for rest in rests for case in cases)


def _splits(root: Path) -> dict[str, str]:
    """Of meta.csv, by case; {}: it has none, or no column `split`.

    Raises:
        UserError: it cannot be read.
    """
    if not (root / "meta.csv").is_file():
        return {}
    lines = read_text(root / "meta.csv").splitlines()
    sign = max(";,\t", key=lines[0].count) if lines else ";"
    rows = list(csv.DictReader(lines, delimiter=sign))
    if not rows or "split" not in rows[0]:
        return {}
    column = "image_id" if "image_id" in rows[0] else next(iter(rows[0]))
    words = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
    said = {str(row[column]).strip(): str(row["split"] or "").strip().lower() for row in rows}
    return {name: words.get(split, split) for name, split in said.items() if split}


def _splits_at(root: Path) -> tuple[str, ...]:
    return splits_of_cases(walk(root, Ask(), IssueCounter(), lambda error: None).cases)


def coding(root: Path) -> Coding | None:
    """All classes there are."""
    return Coding(classes=(BACKGROUND, *_class_names(list(_cases(root)))), ignored=())


FORMAT = Format(
    kind="volumes",
    looks_like=looks_like,
    splits=_splits_at,
    walk=walk,
    coding=coding,
    painting=painting,
)

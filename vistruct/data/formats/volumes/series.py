"""Folders of DICOM series below a root, with the names of their cases and the label volumes that lie beside them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vistruct.data.formats.volumes.names import LABEL_FOLDERS, rest_of_label
from vistruct.files.dicom_series import dicom_files, is_series
from vistruct.files.volume_names import is_volume_file, stem

FOLDERS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A folder with a series."""

    folder: Path
    name: str  # of the case: of its first folder below the root where that has one series, else all folders
    patient: str  # the first folder below the root
    split: str
    labels: tuple[Path, ...]  # volumes that may be its labels


def has_series(root: Path) -> bool:
    """Whether a folder at or below the root holds images in DICOM files."""
    return any(is_series(folder) for folder in _folders(root))


def series_below(root: Path) -> tuple[list[Found], list[Path]]:
    """Every series, by its folder; and the DICOM files that lie in folders without any image."""
    folders = [folder for folder in _folders(root) if dicom_files(folder)]
    series = [folder for folder in folders if is_series(folder)]
    others = [file for folder in folders if folder not in series for file in dicom_files(folder)]
    places = {folder: _place(folder, root) for folder in series}
    number = Counter((split, below[:1]) for split, below in places.values())
    found = []
    for folder, (split, below) in places.items():
        is_alone = number[split, below[:1]] == 1
        name = (below[0] if is_alone else "_".join(below)) if below else root.resolve().name
        labels = tuple(dict.fromkeys(_labels(folder, name, root, split, is_alone)))
        patient = f"{root.resolve().name}/{below[0] if below else name}"
        found.append(Found(folder=folder, name=name, patient=patient, split=split, labels=labels))
    return found, others


def _folders(root: Path) -> Iterator[Path]:
    return (Path(walked) for walked, _, names in sorted(os.walk(root)) if names)


def _place(folder: Path, root: Path) -> tuple[str, tuple[str, ...]]:
    """The split, and the folders below it."""
    parts = folder.relative_to(root).parts
    split = parts[0] if parts and parts[0] in FOLDERS else ""
    return split, parts[1:] if split else parts


def _labels(folder: Path, name: str, root: Path, split: str, is_alone: bool) -> Iterator[Path]:
    """In the folder, beside it under its name, beside the folders above it that hold this series alone, or in a folder
    of labels under the name of the case."""
    yield from (file for file in sorted(folder.iterdir()) if is_volume_file(file) and rest_of_label(stem(file)) == "")
    while folder != root:
        for file in sorted(folder.parent.iterdir()):
            rest = rest_of_label(stem(file))
            is_only = is_alone and rest == "" and folder.parent not in (root, root / split)
            if is_volume_file(file) and (stem(file) == folder.name or rest == folder.name or is_only):
                yield file
        folder = folder.parent
        if not is_alone or folder == root / split:
            break
    for place in (root / split / one for one in LABEL_FOLDERS):
        if place.is_dir():
            yield from (file for file in sorted(place.iterdir()) if is_volume_file(file) and stem(file) == name)

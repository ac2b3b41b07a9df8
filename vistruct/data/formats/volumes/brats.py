"""BraTS 2021: gliomas in four MR sequences, a folder for each patient.

    BraTS2021_00000/BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz

Source: Baid et al., arXiv:2107.02314. Labels are 1 (necrotic core), 2 (oedema), 4 (enhancing tumour), 0 elsewhere. The
challenge measures three regions made of them, which overlap: see REGIONS, to be given to the metric. Volumes are
already stripped of the skull, so that all around the brain is exactly 0: percentiles are taken of the rest.
Published labels are those of the training part alone, so splits are drawn by patient (`shares`).
"""

from __future__ import annotations

import re
from pathlib import Path

from vistruct.data.formats.format import Ask, Format, Stop, VolumeCase, Walked
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake
from vistruct.files.volume_names import is_volume_file, stem
from vistruct.issues import IssueCounter

MODALITIES: tuple[str, ...] = ("t1", "t1ce", "t2", "flair")
INTAKE = Intake(percentiles=(0.5, 99.5), background=0.0)  # ours: the paper does not say its own

CLASSES = ("background", "necrotic core", "oedema", "enhancing tumour")
VALUES = (0, 1, 2, 4)
REGIONS = {
    "whole tumour": ("necrotic core", "oedema", "enhancing tumour"),
    "tumour core": ("necrotic core", "enhancing tumour"),
    "enhancing tumour": ("enhancing tumour",),
}
_NAME = re.compile(r"^BraTS2021_\d{5}$")
INCOMPLETE = "patient left out: a sequence is missing"


def looks_like(root: Path) -> bool:
    """Whether there are folders of patients."""
    return any(_NAME.match(folder.name) for folder in root.glob("BraTS2021_*") if folder.is_dir())


def walk(root: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """The patients that have all four sequences."""
    found = []
    for folder in sorted(root.glob("BraTS2021_*")):
        if not (folder.is_dir() and _NAME.match(folder.name)):
            continue
        files = {stem(file).removeprefix(f"{folder.name}_"): file for file in folder.iterdir() if is_volume_file(file)}
        if any(name not in files for name in MODALITIES):
            missing = ", ".join(name for name in MODALITIES if name not in files)
            report.note(INCOMPLETE, f"{folder}: {missing}")
            continue
        images = {name: files[name] for name in MODALITIES}
        found.append(VolumeCase(name=folder.name, patient=folder.name, images=images, label=files.get("seg")))
    return Walked(cases=found)


def coding(root: Path) -> Coding | None:
    """The same in every copy."""
    return Coding(classes=CLASSES, values=VALUES, ignored=())


FORMAT = Format(
    kind="volumes",
    looks_like=looks_like,
    walk=walk,
    modalities=MODALITIES,
    intake=INTAKE,
    coding=coding,
)

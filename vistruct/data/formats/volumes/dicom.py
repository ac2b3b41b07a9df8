"""DICOM series: a folder with the files of one series for each case, anywhere below the root.

    patient/series/*.dcm      patient/series.nii.gz, or patient/series/label.nii.gz (labels, seg, segmentation, mask)

Labels are NIfTI volumes of the same grid, named as the folder or lying in it. DICOM SEG objects are not read (see
`dicom_series.py`). The patient is the PatientID of the first file, and where that was taken out the first folder
below the root.
"""

from __future__ import annotations

import os
from pathlib import Path

from vistruct.data.formats.format import Ask, Format, Stop, VolumeCase, Walked
from vistruct.data.formats.volumes.cases import splits_of_cases
from vistruct.data.formats.volumes.nifti import coding
from vistruct.files.dicom_series import is_series, open_series
from vistruct.files.nifti import is_nifti, stem
from vistruct.issues import IssueCounter

FOLDERS = ("train", "val", "test")
_LABELS = ("label", "labels", "seg", "segmentation", "mask")


def looks_like(root: Path) -> bool:
    """Whether a folder at or below the root holds DICOM files."""
    return any(is_series(Path(folder)) for folder, _, names in os.walk(root) if names)


def cases(root: Path) -> list[VolumeCase]:
    """Every series, by its folder."""
    found = []
    for walked, _, _ in sorted(os.walk(root)):
        folder = Path(walked)
        if not is_series(folder):
            continue
        parts = folder.relative_to(root).parts
        split = parts[0] if parts and parts[0] in FOLDERS else ""
        below = parts[1:] if split else parts
        name = "_".join(below) or root.resolve().name
        series = open_series(folder)
        patient = series.patient or f"{root.resolve().name}/{below[0] if below else name}"
        found.append(VolumeCase(name=name, patient=patient, images={"": folder}, label=_label(folder), split=split))
    return found


def walk(root: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """See `cases`."""
    return Walked(cases=cases(root))


def _label(folder: Path) -> Path | None:
    inside = [file for file in sorted(folder.iterdir()) if is_nifti(file) and stem(file).lower() in _LABELS]
    beside = [folder.parent / f"{folder.name}{end}" for end in (".nii.gz", ".nii")]
    return next((file for file in (*inside, *beside) if file.is_file()), None)


FORMAT = Format(
    kind="volumes",
    looks_like=looks_like,
    splits=lambda root: splits_of_cases(cases(root)),
    walk=walk,
    coding=coding,  # of a dataset.json in the manner of NIfTI collections
)

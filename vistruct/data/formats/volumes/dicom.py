"""DICOM series: a folder with the files of one series for each case, anywhere below the root.

    patient/series/*.dcm      patient/series.nii.gz, or patient/series/label.nii.gz (labels, seg, segmentation, mask)
    patient/study/series/...  patient.nii.gz, patient/label.nii.gz or labels/patient.nii.gz, where it is the only series

Labels are volumes of the same grid. DICOM SEG objects are not read (see `dicom_series.py`). The patient is the
PatientID of the first file, and where that was taken out the first folder below the root. What is no image (reports,
plans, structure sets) is counted and passed over.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.data.formats.format import Ask, Format, Stop, VolumeCase, Walked
from vistruct.data.formats.volumes.nifti import coding
from vistruct.data.formats.volumes.series import Found, has_series, series_below
from vistruct.errors import UserError
from vistruct.files.dicom_series import Series
from vistruct.files.volume_files import open_volume
from vistruct.issues import IssueCounter

NO_IMAGE = "DICOM file passed over: a report, plan or structure set, and no image"
BAD_SERIES = "series left out: its files are no volume"


def walk(root: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """Every series that is sound, by its folder."""
    found, others = series_below(root)
    cases = []
    for one in found:
        try:
            series = open_volume(one.folder)
            assert isinstance(series, Series)
            label = _label(one)
        except UserError as error:
            if ask.missing == "drop":
                report.note(BAD_SERIES, f"{one.folder}: {error.what} ({error.where})")
            else:
                fix = f"{error.fix}; or --missing drop leaves the case out"
                stop(UserError(error.what, where=error.where, fix=fix))
            continue
        others += series.passed_over
        patient, images = series.patient or one.patient, {"": one.folder}
        cases.append(VolumeCase(name=one.name, patient=patient, images=images, label=label, split=one.split))
    for file in others:
        report.note(NO_IMAGE, str(file))
    return Walked(cases=cases)


def _label(found: Found) -> Path | None:
    if len(found.labels) > 1:
        where = ", ".join(map(str, found.labels))
        raise UserError(f"{len(found.labels)} label volumes for {found.name}", where=where, fix="keep one")
    return found.labels[0] if found.labels else None


FORMAT = Format(
    kind="volumes",
    looks_like=has_series,
    splits=lambda root: sorted({one.split for one in series_below(root)[0] if one.split}),
    walk=walk,
    coding=coding,  # of a dataset.json in the manner of NIfTI collections
)

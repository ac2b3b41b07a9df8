"""A DICOM series: a folder with one file a slice, put in order by where each slice lies in the patient.

pydicom reads the files. Instance numbers and file names are not believed, positions are: slices are sorted along the
normal of their plane, and two at one place, or a gap between them, are errors that name the files. Values are those
that the rescale slope and intercept make of the stored ones (Hounsfield units in CT).

Not read: several frames in one file (enhanced objects), colour, and segmentation objects (DICOM SEG): those refer to
single frames of a series and may overlap; convert them to NIfTI, which is what label volumes are read from.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.errors import UserError
from vistruct.files.images import UnreadableImage
from vistruct.files.volume_grid import Axis, Grid, grid

UNEVEN = 0.1  # of the usual distance between slices: more, and one is missing or at the wrong place
SAME_MM = 0.01  # slices closer than this are two of one place


@dataclass(frozen=True, eq=False)
class Series:
    """The slices of one series in their order."""

    path: Path
    grid: Grid
    files: tuple[Path, ...]  # along the normal of the slices
    patient: str  # PatientID, "" where it was taken out
    modality: str
    tag_window: tuple[float, float] | None  # lowest and highest value that the file itself says to show

    is_packed = True  # a slice may lie across all of its files

    def values(self) -> np.ndarray:
        """float32[S, H, W], rescaled.

        Raises:
            UnreadableImage: a file that cannot be decoded.
        """
        planes = [_pixels(file) for file in self.files]  # each [rows, columns]
        return self.grid.stacked(np.stack(planes).transpose(2, 1, 0))

    def slice_values(self, number: int) -> np.ndarray:
        """float32[H, W] of one slice; only its own file is read where the series was taken across that axis."""
        place = self.grid.plane(number)
        own = place[2]
        if isinstance(own, int):
            return self.grid.upright(_pixels(self.files[own]).T)
        return self.values()[number]


def is_series(path: Path) -> bool:
    """Whether a folder holds DICOM files."""
    return path.is_dir() and any(_is_dicom(file) for file in path.iterdir())


def _is_dicom(file: Path) -> bool:
    if not file.is_file() or file.name.startswith(".") or file.name == "DICOMDIR":
        return False
    if file.suffix.lower() in (".dcm", ".ima"):
        return True
    if file.suffix and not file.suffix[1:].isdigit():  # names of series are often unique numbers with dots
        return False
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def open_series(path: Path, axis: Axis = "axial") -> Series:
    """Read the headers of a folder and put its slices in order; no pixel is decoded.

    Raises:
        UserError: no DICOM files, several series, slices of different planes, at one place, or with a gap; several
            frames in one file; pydicom is missing.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        fix = 'pip install "vistruct[medical]"'
        raise UserError("reading DICOM needs pydicom, which is not installed", where=path, fix=fix) from None
    files = sorted(file for file in Path(path).iterdir() if _is_dicom(file)) if Path(path).is_dir() else []
    if not files:
        raise UserError("no DICOM files in this folder", where=path, fix="name the folder of one series")
    headers: list[Any] = []
    for file in files:
        try:
            headers.append(pydicom.dcmread(file, stop_before_pixels=True))
        except (InvalidDicomError, OSError, EOFError, ValueError) as error:
            raise UnreadableImage(f"no DICOM file: {error}", where=file, fix="copy it again, or remove it") from error
    _one_series(headers, files, path)
    first = headers[0]
    along = np.array([float(v) for v in first.ImageOrientationPatient]).reshape(2, 3)  # of columns' and rows' index
    normal = np.cross(along[0], along[1])
    positions = np.array([[float(v) for v in header.ImagePositionPatient] for header in headers])
    depth = positions @ normal
    order = np.argsort(depth, kind="stable")
    files, headers = [files[i] for i in order], [headers[i] for i in order]
    step = _step(depth[order], files, first)
    row_mm, column_mm = (float(v) for v in first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = along[0] * column_mm, along[1] * row_mm, normal * step
    affine[:3, 3] = positions[order[0]]
    affine[:2] *= -1  # DICOM counts to the patient's left and back, NIfTI to the right and front
    shape = (int(first.Columns), int(first.Rows), len(files))
    return Series(
        path=Path(path),
        grid=grid(shape, affine, axis, path),
        files=tuple(files),
        patient=str(first.get("PatientID", "") or ""),
        modality=str(first.get("Modality", "") or ""),
        tag_window=_tag_window(first),
    )


def _one_series(headers: list[Any], files: list[Path], path: Path) -> None:
    """Refuse what cannot be one stack of slices."""
    for header, file in zip(headers, files, strict=True):
        if int(header.get("NumberOfFrames", 1) or 1) > 1:
            raise UserError("several frames in one DICOM file", where=file, fix="convert it to NIfTI (dcm2niix)")
        if int(header.get("SamplesPerPixel", 1)) != 1:
            raise UserError("a DICOM file in colour is no slice of a volume", where=file, fix="remove it")
        for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
            if not header.get(tag):
                raise UserError(f"a DICOM file without {tag}", where=file, fix="remove it: it is no slice of a volume")
    series = Counter(str(header.get("SeriesInstanceUID", "")) for header in headers)
    if len(series) > 1:
        text = ", ".join(f"{uid} ({number} files)" for uid, number in series.most_common(3))
        raise UserError(f"{len(series)} series in one folder: {text}", where=path, fix="a folder for each series")
    first = headers[0]
    for header, file in zip(headers, files, strict=True):
        for tag in ("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
            mine, its = np.array(header[tag].value, np.float64), np.array(first[tag].value, np.float64)
            if mine.shape != its.shape or not np.allclose(mine, its, atol=1e-3):
                what = f"slices of one series differ in {tag}"
                raise UserError(what, where=f"{file}, {files[0]}", fix="put the localisers into a folder of their own")


def _step(depth: np.ndarray, files: list[Path], first: Any) -> float:
    """Millimetres from slice to slice, of sorted places float64[S]."""
    if len(depth) == 1:
        return float(first.get("SpacingBetweenSlices", 0) or first.get("SliceThickness", 0) or 1.0)
    steps = np.diff(depth)
    usual = float(np.median(steps[steps > SAME_MM])) if (steps > SAME_MM).any() else 0.0
    for number in np.flatnonzero(steps <= SAME_MM):
        where = f"{files[number]}, {files[number + 1]}"
        raise UserError("two slices at the same place", where=where, fix="remove one of them")
    for number in np.flatnonzero(np.abs(steps - usual) > UNEVEN * usual):
        what = f"{steps[number]:.2f} mm between two slices of a series that has {usual:.2f} mm: slices are missing"
        raise UserError(what, where=f"{files[number]}, {files[number + 1]}", fix="copy the whole series again")
    return float((depth[-1] - depth[0]) / (len(depth) - 1))


def _tag_window(header: Any) -> tuple[float, float] | None:
    """Of several windows the first."""
    centre, width = header.get("WindowCenter"), header.get("WindowWidth")
    if centre is None or width is None:
        return None
    middle, wide = (float(np.atleast_1d(np.array(value, np.float64))[0]) for value in (centre, width))
    return (middle - wide / 2, middle + wide / 2) if wide > 0 else None


def _pixels(file: Path) -> np.ndarray:
    """float32[rows, columns], rescaled."""
    import pydicom

    try:
        header = pydicom.dcmread(file)
        pixels = header.pixel_array
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = "copy it again; compressed ones may need `pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg`"
        raise UnreadableImage(f"cannot decode the slice: {reason}", where=file, fix=fix) from error
    slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    return pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)

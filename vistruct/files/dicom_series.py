"""A DICOM series: a folder with one file a slice, put in order by where each slice lies in the patient.

Of several series whose files lie in one folder each has a path of its own (`volume_names.series_path`).

pydicom reads the files. Instance numbers and file names are not believed, positions are: slices are sorted along the
normal of their plane, and two at one place, or a gap between them, are errors that name the files. From slice to slice
the affine goes where the positions go, which is not along the normal where a gantry is tilted; positions that lie on
no straight line are an error. Values are those that the rescale slope and intercept make of the stored ones (Hounsfield
units in CT). What is no image (reports, plans, structure sets) is passed over.

Not read: several frames in one file (enhanced objects), colour, and segmentation objects (DICOM SEG): those refer to
single frames of a series and may overlap; convert them to NIfTI, which is what label volumes are read from.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.errors import UserError
from vistruct.files.images import UnreadableImage
from vistruct.files.volume_grid import Axis, Grid, grid
from vistruct.files.volume_names import folder_and_series, series_path

UNEVEN = 0.1  # of the usual distance between slices: more, and one is missing or at the wrong place
SAME_MM = 0.01  # slices closer than this are two of one place
STRAY = 0.1  # of a pixel: a slice that lies farther beside the line of the others is at the wrong place
_NUMBERS = {  # tags that are so many numbers each
    "ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1,
    "NumberOfFrames": 1, "SamplesPerPixel": 1, "SpacingBetweenSlices": 1, "SliceThickness": 1,
}  # fmt: skip
_TAGS = ("SOPClassUID", "Modality", "SeriesInstanceUID", "PatientID", "WindowCenter", "WindowWidth")  # and these
_NOT_IMAGES = ("SEG", "RTDOSE")  # modalities of objects that have pixels, and are no images of a patient
_SEVERAL = {  # what may tell slices at one place apart: several volumes in one series
    "EchoTime": "echoes",
    "EchoNumbers": "echoes",
    "AcquisitionNumber": "acquisitions",
    "TemporalPositionIdentifier": "time points",
    "TriggerTime": "time points",
    "DiffusionBValue": "diffusion weightings",
    "ImageType": "types of image",
    "AcquisitionTime": "acquisitions",
}


@dataclass(frozen=True, eq=False)
class Series:
    """The slices of one series in their order."""

    path: Path
    grid: Grid
    files: tuple[Path, ...]  # along the normal of the slices
    patient: str  # PatientID, "" where it was taken out
    modality: str
    study: str  # StudyInstanceUID, "" where it was taken out
    tag_window: tuple[float, float] | None  # lowest and highest value that the file itself says to show
    passed_over: tuple[Path, ...] = ()  # DICOM files in the folder that are no images

    is_packed = True  # a slice may lie across all of its files

    def values(self) -> np.ndarray:
        """float32[S, H, W], rescaled.

        Raises:
            UnreadableImage: a file that cannot be decoded.
        """
        planes = [_pixels(file) for file in self.files]  # each [rows, columns]
        for file, plane in zip(self.files, planes, strict=True):
            if plane.shape != planes[0].shape:
                raise UnreadableImage("another number of pixels than the first slice", where=file, fix="copy it again")
        return self.grid.stacked(np.stack(planes).transpose(2, 1, 0))

    def slice_values(self, number: int) -> np.ndarray:
        """float32[H, W] of one slice; only its own file is read where the series was taken across that axis."""
        place = self.grid.plane(number)
        own = place[2]
        if isinstance(own, int):
            return self.grid.upright(_pixels(self.files[own]).T)
        return self.values()[number]


def is_series(path: Path) -> bool:
    """Whether a folder holds DICOM files that are images, or that nobody can tell."""
    return any(_may_be_image(file) for file in dicom_files(path))


def dicom_files(path: Path) -> list[Path]:
    """Those that lie in a folder, by name."""
    return sorted(file for file in path.iterdir() if _is_dicom(file)) if path.is_dir() else []


def series_in(folder: Path) -> list[Path]:
    """The path of each series in a folder: the folder itself where it has one, or files that nobody can tell apart."""
    uids = set(_uids(folder, _stamp(folder)).values())
    return [folder] if len(uids) < 2 or "" in uids else [series_path(folder, uid) for uid in sorted(uids)]


def series_files(path: Path) -> list[Path]:
    """The DICOM files of a folder, or those of one of its series, by name."""
    folder, uid = folder_and_series(path)
    return [file for file, own in _uids(folder, _stamp(folder)).items() if own == uid] if uid else dicom_files(folder)


def _stamp(folder: Path) -> tuple[tuple[str, int], ...]:
    return tuple((file.name, file.stat().st_mtime_ns) for file in dicom_files(folder))


@functools.lru_cache(maxsize=64)
def _uids(folder: Path, stamp: tuple[tuple[str, int], ...]) -> dict[Path, str]:
    """SeriesInstanceUID of every image by its file, "" where it has none or is damaged; nothing without pydicom."""
    try:
        import pydicom
    except ImportError:
        return {}
    found, tags = {}, ["SOPClassUID", "Modality", "Rows", "SeriesInstanceUID"]
    for name, _ in stamp:
        try:
            header = pydicom.dcmread(folder / name, stop_before_pixels=True, specific_tags=list(tags))
            if _is_image(header):
                found[folder / name] = str(header.get("SeriesInstanceUID", "") or "")
        except _damage():
            found[folder / name] = ""
    return found


def _may_be_image(file: Path) -> bool:
    try:
        import pydicom
    except ImportError:
        return True  # who opens it will say what is wrong
    try:
        tags: list[Any] = ["SOPClassUID", "Modality", "Rows"]
        return _is_image(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags))
    except _damage():
        return True


def _damage() -> tuple[type[Exception], ...]:
    """What pydicom raises at damaged bytes, some of it only when a tag is asked for."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    of_values = (ValueError, NotImplementedError, RuntimeError, AttributeError, TypeError, LookupError, struct.error)
    return (InvalidDicomError, BytesLengthException, OSError, EOFError, *of_values)


def _header(file: Path) -> Any:
    """All tags of a file but its pixels; those that are read here are understood.

    Raises:
        UnreadableImage: no DICOM file, or a tag that is none.
    """
    import pydicom

    try:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        for tag in _TAGS:
            header.get(tag)  # it is taken apart only now
        for tag, number in _NUMBERS.items():
            values = np.array([] if header.get(tag) is None else header[tag].value, np.float64).reshape(-1)
            if values.size not in (0, number) or not np.isfinite(values).all():
                raise ValueError(f"{tag} are {number} numbers, not {str(header[tag].value)[:60]}")
    except _damage() as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableImage(f"no DICOM file: {reason}", where=file, fix="copy it again, or remove it") from error
    return header


def _is_image(header: Any) -> bool:
    """Reports, plans and structure sets have no rows; an image that has lost them still says what it is."""
    from pydicom.uid import UID

    if str(header.get("Modality", "")) in _NOT_IMAGES:
        return False
    return "Rows" in header or "SOPClassUID" not in header or "Image" in UID(str(header.SOPClassUID)).name


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
    """Read the headers of a folder, or of one of the series in it, and put its slices in order; no pixel is decoded.

    Raises:
        UserError: no DICOM files, several series, slices of different planes, at one place, or with a gap; several
            frames in one file; pydicom is missing.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError:
        fix = 'pip install "vistruct[medical]"'
        raise UserError("reading DICOM needs pydicom, which is not installed", where=path, fix=fix) from None
    files = series_files(Path(path))
    if not files:
        raise UserError("no DICOM files in this folder", where=path, fix="name the folder of one series")
    all_headers = [_header(file) for file in files]
    passed_over = tuple(file for file, header in zip(files, all_headers, strict=True) if not _is_image(header))
    files = [file for file in files if file not in passed_over]
    headers = [header for header in all_headers if _is_image(header)]
    if not headers:
        found = ", ".join(sorted({str(header.get("Modality", "")) or "nothing" for header in all_headers}))
        raise UserError(f"no images in this folder ({found})", where=path, fix="name the folder of one series")
    _one_series(headers, files, path)
    first = headers[0]
    along = np.array([float(v) for v in first.ImageOrientationPatient]).reshape(2, 3)  # of columns' and rows' index
    normal = np.cross(along[0], along[1])
    positions = np.array([[float(v) for v in header.ImagePositionPatient] for header in headers])
    depth = positions @ normal
    order = np.argsort(depth, kind="stable")
    files, headers = [files[i] for i in order], [headers[i] for i in order]
    row_mm, column_mm = (float(v) for v in first.PixelSpacing)
    _check_places(depth[order], files, headers, path)
    step = _step(positions[order], normal, STRAY * min(row_mm, column_mm), files, first)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = along[0] * column_mm, along[1] * row_mm, step
    affine[:3, 3] = positions[order[0]]
    affine[:2] *= -1  # DICOM counts to the patient's left and back, NIfTI to the right and front
    shape = (int(first.Columns), int(first.Rows), len(files))
    return Series(
        path=Path(path),
        grid=grid(shape, affine, axis, path),
        files=tuple(files),
        patient=str(first.get("PatientID", "") or ""),
        modality=str(first.get("Modality", "") or ""),
        study=str(first.get("StudyInstanceUID", "") or ""),
        tag_window=_tag_window(first),
        passed_over=passed_over,
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


def _check_places(depth: np.ndarray, files: list[Path], headers: list[Any], path: Path) -> None:
    """Refuse slices at one place and gaps, of sorted places float64[S] along the normal."""
    steps = np.diff(depth)
    usual = float(np.median(steps[steps > SAME_MM])) if (steps > SAME_MM).any() else 0.0
    if (steps <= SAME_MM).any():
        _refuse_several(depth, files, headers, path)
    for number in np.flatnonzero(steps <= SAME_MM):
        where = f"{files[number]}, {files[number + 1]}"
        raise UserError("two slices at the same place", where=where, fix="remove one of them")
    for number in np.flatnonzero(np.abs(steps - usual) > UNEVEN * usual):
        what = f"{steps[number]:.2f} mm between two slices of a series that has {usual:.2f} mm: slices are missing"
        raise UserError(what, where=f"{files[number]}, {files[number + 1]}", fix="copy the whole series again")


def _refuse_several(depth: np.ndarray, files: list[Path], headers: list[Any], path: Path) -> None:
    """Several volumes that lie in one another and call themselves one series: which is meant, nobody knows."""
    places = np.rint(depth / SAME_MM).astype(np.int64).tolist()
    for tag, word in _SEVERAL.items():
        groups: dict[str, list[int]] = {}
        for number, header in enumerate(headers):
            groups.setdefault(str(header.get(tag, "")), []).append(number)
        sets = [len({places[number] for number in group}) == len(group) for group in groups.values()]
        if 1 < len(groups) < len(files) and all(sets):
            told = ", ".join(f"{value or 'none'}: {len(group)} files" for value, group in list(groups.items())[:6])
            text = ", ".join(files[number].name for number in next(iter(groups.values()))[:3])
            fix = f"a folder for each, or only the one that is meant: {tag} {next(iter(groups))} is {text}, ..."
            raise UserError(f"{len(groups)} {word} in one series ({tag} {told})", where=path, fix=fix)


def _step(positions: np.ndarray, normal: np.ndarray, stray_mm: float, files: list[Path], first: Any) -> np.ndarray:
    """float64[3], millimetres from slice to slice, of sorted positions float64[S, 3]."""
    if len(positions) == 1:
        return normal * float(first.get("SpacingBetweenSlices", 0) or first.get("SliceThickness", 0) or 1.0)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    stray = positions - positions[0] - np.arange(len(positions))[:, None] * step  # [S, 3]
    along = stray @ normal
    beside = np.linalg.norm(stray - along[:, None] * normal, axis=1)
    for far, limit, where in ((beside, stray_mm, "beside"), (np.abs(along), (step @ normal) / 2, "off")):
        worst = int(far.argmax())
        if far[worst] > limit:
            what = f"slices on no straight line, evenly spaced: one lies {far[worst]:.2f} mm {where} its place"
            raise UserError(what, where=files[worst], fix="convert the series to NIfTI (dcm2niix resamples it)")
    return step


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
        slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    except _damage() as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = "copy it again; compressed ones may need `pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg`"
        raise UnreadableImage(f"cannot decode the slice: {reason}", where=file, fix=fix) from error
    return pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)

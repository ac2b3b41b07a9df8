"""Label maps as a DICOM segmentation object (SEG) about the series that they were found in.

One binary segment a class, without the first, which is the background; a frame for each slice in which a segment has
voxels, with the slice's own position and a reference to its file. Source: DICOM PS3.3, A.51 and C.8.20 (Segmentation).
A segment without any voxel keeps one empty frame, so that it is known to have been looked for.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.errors import UserError
from vistruct.files.dicom_series import Series

_COPIED = (  # of the patient and the study: whose and which they are
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate"),
    *("StudyTime", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator"),
)
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_TISSUE = ("85756007", "SCT", "Tissue")
_SEGMENTATION = ("113076", "DCM", "Segmentation")
_SOURCE = ("121322", "DCM", "Source image for image processing operation")


def write_segmentation(out: Path, label_maps: np.ndarray, series: Series, class_names: Sequence[str]) -> None:
    """Write classes as segments on the slices of their series.

    Args:
        out: its folder is made.
        label_maps: int16[S, H, W], classes in the order that the series has slices; negative: of no class.
        class_names: the first is the background.

    Raises:
        UserError: a series without the identifiers that a segmentation refers to; classes that are only background.
    """
    import pydicom

    names = class_names[1:]
    if not names:
        raise UserError("a single class is no segmentation", where=out, fix="--format nifti")
    headers: list[Any] = [pydicom.dcmread(file, stop_before_pixels=True) for file in series.files]
    for tag in _NEEDED:
        if not headers[0].get(tag):
            raise UserError(f"no {tag} in the series, which DICOM SEG needs", where=series.path, fix="--format nifti")
    planes = np.ascontiguousarray(series.grid.unstacked(label_maps).transpose(2, 1, 0))  # [slices, rows, columns]
    frames = [
        (number, place)
        for number in range(1, len(class_names))
        for place in (np.flatnonzero((planes == number).any(axis=(1, 2))).tolist() or [0])
    ]
    found = _described(headers[0], names)
    found.Rows, found.Columns = planes.shape[1:]
    found.NumberOfFrames = len(frames)
    found.ReferencedSeriesSequence = [_referenced(headers)]
    found.DimensionOrganizationSequence, found.DimensionIndexSequence = _dimensions()
    found.SharedFunctionalGroupsSequence = [_shared(headers[0], series)]
    found.PerFrameFunctionalGroupsSequence = [_frame(number, place, headers[place]) for number, place in frames]
    bits = np.packbits(np.concatenate([(planes[at] == n).ravel() for n, at in frames]), bitorder="little").tobytes()
    found.PixelData = bits + b"\0" * (len(bits) % 2)
    found["PixelData"].VR = "OB"
    out.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(out, found, enforce_file_format=True)


def _dataset(**tags: Any) -> Any:
    from pydicom import Dataset

    found = Dataset()
    for tag, value in tags.items():
        setattr(found, tag, value)
    return found


def _code(code: tuple[str, str, str]) -> list[Any]:
    return [_dataset(CodeValue=code[0], CodingSchemeDesignator=code[1], CodeMeaning=code[2])]


def _described(like: Any, names: Sequence[str]) -> Any:
    """What does not depend on the frames."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid

    now = datetime.datetime.now()
    day, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    found = _dataset(**{tag: like.get(tag, "") for tag in _COPIED})
    if "SpecificCharacterSet" in like:
        found.SpecificCharacterSet = like.SpecificCharacterSet
    if not all(name.isascii() for name in names):
        found.SpecificCharacterSet = "ISO_IR 192"
    found.SOPClassUID, found.SOPInstanceUID = SegmentationStorage, generate_uid()
    found.SeriesInstanceUID, found.SeriesNumber, found.InstanceNumber = generate_uid(), 1, 1
    found.Modality, found.SeriesDescription = "SEG", "Segmentation"
    found.Manufacturer = found.ManufacturerModelName = found.ContentCreatorName = "vistruct"
    found.DeviceSerialNumber = found.SoftwareVersions = "1"
    found.SeriesDate = found.ContentDate = day
    found.SeriesTime = found.ContentTime = time
    found.ContentLabel, found.ContentDescription = "SEGMENTATION", "Classes of voxels"
    found.ImageType, found.LossyImageCompression = ["DERIVED", "PRIMARY"], "00"
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated = found.BitsStored = 1
    found.HighBit = found.PixelRepresentation = 0
    found.SegmentationType = "BINARY"
    found.SegmentSequence = [
        _dataset(
            SegmentNumber=number,
            SegmentLabel=name[:64],
            SegmentDescription=name[:1024],
            SegmentAlgorithmType="AUTOMATIC",
            SegmentAlgorithmName="vistruct",
            SegmentedPropertyCategoryCodeSequence=_code(_TISSUE),
            SegmentedPropertyTypeCodeSequence=_code(_TISSUE),
        )
        for number, name in enumerate(names, 1)
    ]
    found.file_meta = FileMetaDataset()
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return found


def _referenced(headers: Sequence[Any]) -> Any:
    files = [_instance(one) for one in headers]
    return _dataset(SeriesInstanceUID=headers[0].SeriesInstanceUID, ReferencedInstanceSequence=files)


def _instance(header: Any) -> Any:
    return _dataset(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)


def _dimensions() -> tuple[list[Any], list[Any]]:
    """Frames are told apart by segment and place."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.uid import generate_uid

    uid = generate_uid()
    pairs = (
        ("ReferencedSegmentNumber", "SegmentIdentificationSequence"),
        ("ImagePositionPatient", "PlanePositionSequence"),
    )
    index = [
        _dataset(
            DimensionOrganizationUID=uid,
            DimensionIndexPointer=tag_for_keyword(what),
            FunctionalGroupPointer=tag_for_keyword(group),
        )
        for what, group in pairs
    ]
    return [_dataset(DimensionOrganizationUID=uid)], index


def _shared(like: Any, series: Series) -> Any:
    """Of all frames: how they are turned, and how far apart pixels and slices are."""
    step = series.grid.affine[:3, 2] * (-1, -1, 1)
    along = np.array([float(value) for value in like.ImageOrientationPatient]).reshape(2, 3)
    apart = f"{abs(float(step @ np.cross(along[0], along[1]))):.10g}"
    measures = _dataset(PixelSpacing=like.PixelSpacing, SliceThickness=apart, SpacingBetweenSlices=apart)
    orientation = _dataset(ImageOrientationPatient=like.ImageOrientationPatient)
    return _dataset(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[orientation])


def _frame(number: int, place: int, header: Any) -> Any:
    source = _instance(header)
    source.PurposeOfReferenceCodeSequence = _code(_SOURCE)
    derived = _dataset(DerivationCodeSequence=_code(_SEGMENTATION), SourceImageSequence=[source])
    return _dataset(
        FrameContentSequence=[_dataset(DimensionIndexValues=[number, place + 1])],
        PlanePositionSequence=[_dataset(ImagePositionPatient=header.ImagePositionPatient)],
        SegmentIdentificationSequence=[_dataset(ReferencedSegmentNumber=number)],
        DerivationImageSequence=[derived],
    )

"""DICOM SEG: read back frame by frame, in the words of the standard, it is the label volume in its place."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import SegmentationStorage, generate_uid
from test_dicom_series import SHAPE, write_series

from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.dicom_seg import write_segmentation
from vistruct.files.dicom_series import Series, open_series
from vistruct.files.volume_files import write_label_volume

NAMES = ("background", "liver", "Ödem", "nothing")


def series(folder: Path, plane: str) -> Series:
    study, place = generate_uid(), generate_uid()
    write_series(folder, plane, StudyInstanceUID=study, FrameOfReferenceUID=place, PatientName="A^B")
    return open_series(folder)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_voxels_lie_where_the_label_volume_has_them(plane: str, tmp_path: Path) -> None:
    one = series(tmp_path / "series", plane)
    labels = np.random.default_rng(0).integers(0, 3, one.grid.stack_shape).astype(np.int16)
    write_segmentation(tmp_path / "out" / "case.dcm", labels, one, NAMES)
    write_label_volume(tmp_path / "case.nii.gz", labels, tmp_path / "series", Coding(classes=NAMES, ignored=()))
    seg = pydicom.dcmread(tmp_path / "out" / "case.dcm")
    nifti = nibabel.Nifti1Image.from_filename(tmp_path / "case.nii.gz")
    values, to_index = np.asarray(nifti.dataobj), np.linalg.inv(nifti.affine)
    shared = seg.SharedFunctionalGroupsSequence[0]
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    down, right = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    sources = {pydicom.dcmread(file).SOPInstanceUID: pydicom.dcmread(file) for file in one.files}
    rebuilt, seen = np.zeros_like(values), 0
    for pixels, frame in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        at = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert list(sources[source].ImagePositionPatient) == at.tolist()
        for r, c in np.argwhere(pixels):
            lps = at + row * right * c + column * down * r
            x, y, z = np.rint(to_index @ [*(lps * (-1, -1, 1)), 1]).astype(int)[:3]
            rebuilt[x, y, z] = number
            seen += 1
    assert np.array_equal(rebuilt, values)
    assert seen == (values > 0).sum()
    assert np.prod(SHAPE) == values.size


def test_it_says_whose_it_is_and_what_it_refers_to(tmp_path: Path) -> None:
    one = series(tmp_path / "series", "axial")
    write_segmentation(tmp_path / "case.dcm", np.ones(one.grid.stack_shape, np.int16), one, NAMES)
    seg, first = pydicom.dcmread(tmp_path / "case.dcm"), pydicom.dcmread(one.files[0])
    assert seg.SOPClassUID == SegmentationStorage
    assert seg.SegmentationType == "BINARY"
    assert (seg.PatientID, seg.PatientName, seg.StudyInstanceUID) == ("P1", "A^B", first.StudyInstanceUID)
    assert seg.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert seg.SeriesInstanceUID != first.SeriesInstanceUID
    assert [str(one.SegmentLabel) for one in seg.SegmentSequence] == ["liver", "Ödem", "nothing"]
    [referenced] = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == first.SeriesInstanceUID
    uids = {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence}
    assert uids == {pydicom.dcmread(file).SOPInstanceUID for file in one.files}
    assert all(uid.is_valid for uid in (seg.SOPInstanceUID, seg.SeriesInstanceUID))
    assert seg.NumberOfFrames == 4 + 2  # of what has no voxels an empty one
    assert float(seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices) == 5


def test_a_series_without_identifiers_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    one = open_series(tmp_path / "series")
    with pytest.raises(UserError, match="StudyInstanceUID"):
        write_segmentation(tmp_path / "case.dcm", np.ones(one.grid.stack_shape, np.int16), one, NAMES)

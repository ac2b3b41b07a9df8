"""DICOM series: put in order by position, rescaled, and refused where slices are missing or double."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import BasicTextSRStorage, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from vistruct.data.checks.check import check
from vistruct.data.formats.detect import detect
from vistruct.data.formats.format import Ask
from vistruct.data.formats.read import read
from vistruct.data.formats.volumes.dicom import BAD_SERIES, NO_IMAGE
from vistruct.data.unlabelled import ImagesDataConfig
from vistruct.data.volumes import VolumeDataConfig
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.dicom_series import is_series, open_series, series_in
from vistruct.files.intake import Intake
from vistruct.files.volume_files import VolumeFile, write_label_volume

SHAPE = (4, 3, 5)  # slices, rows, columns
VALUES = np.random.default_rng(0).integers(0, 2000, SHAPE).astype(np.int16)  # as stored
PLANES = {  # of rows' and columns' direction, as DICOM writes it
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
}


def write_series(
    folder: Path, plane: str = "axial", *, at: tuple[float, ...] = (0, 5, 10, 15), patient: str = "P1", **tags: object
) -> list[Path]:
    """Slices of VALUES at these places along their normal, under names in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = generate_uid()
    normal = np.cross(PLANES[plane][:3], PLANES[plane][3:])
    files = []
    for number, place in enumerate(at):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = folder / f"{(number * 7) % 10}_{number}.dcm"
        one = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        one.SeriesInstanceUID, one.PatientID, one.Modality = uid, patient, "CT"
        one.InstanceNumber = 99 - number  # wrong on purpose
        one.Rows, one.Columns = SHAPE[1:]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 1
        one.RescaleSlope, one.RescaleIntercept = 2, -1024
        one.PixelSpacing = [0.7, 0.9]  # from row to row, from column to column
        one.ImageOrientationPatient = list(PLANES[plane])
        one.ImagePositionPatient = [round(float(v), 6) for v in normal * place + (-20, -30, 40)]
        for name, value in tags.items():
            setattr(one, name, value)
        one.PixelData = VALUES[number % SHAPE[0]].tobytes()
        one.save_as(file, enforce_file_format=True)
        files.append(file)
    return files


def test_axial_slices_are_as_dicom_shows_them_and_rescaled(tmp_path: Path) -> None:
    write_series(tmp_path / "s")
    series = open_series(tmp_path / "s")
    np.testing.assert_array_equal(series.values(), VALUES * 2.0 - 1024)
    for number in range(4):
        np.testing.assert_array_equal(series.slice_values(number), VALUES[number] * 2.0 - 1024)
    assert series.grid.spacing == pytest.approx((5, 0.7, 0.9))
    assert (series.patient, series.modality) == ("P1", "CT")


@pytest.mark.parametrize("plane", sorted(PLANES))
def test_the_place_of_each_voxel_is_that_of_the_standard(plane: str, tmp_path: Path) -> None:
    files = write_series(tmp_path / "s", plane)
    series = open_series(tmp_path / "s")
    array = series.grid.unstacked(series.values())  # column, row, slice
    for number, file in enumerate(files):
        header = pydicom.dcmread(file)
        along = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        for row, column in ((0, 0), (2, 4)):
            # Equation C.7.6.2.1-1, then from left, back, up to right, front, up
            place = np.array(header.ImagePositionPatient, float) + along[0] * 0.9 * column + along[1] * 0.7 * row
            voxel = np.linalg.inv(series.grid.affine) @ (*(place * (-1, -1, 1)), 1)
            np.testing.assert_allclose(voxel[:3], np.rint(voxel[:3]), atol=1e-6)
            assert array[tuple(np.rint(voxel[:3]).astype(int))] == VALUES[number, row, column] * 2.0 - 1024


def test_a_series_and_its_nifti_are_the_same_slices_in_every_axis(tmp_path: Path) -> None:
    for plane in PLANES:
        write_series(tmp_path / plane, plane)
        series = open_series(tmp_path / plane)
        array = np.ascontiguousarray(series.grid.unstacked(series.values()))
        nibabel.save(nibabel.Nifti1Image(array, series.grid.affine), tmp_path / f"{plane}.nii.gz")
        for axis in ("axial", "coronal", "sagittal"):
            one, other = (
                VolumeFile.open(path, axis=axis, intake=Intake(dtype="uint8", window="bone"))
                for path in (tmp_path / plane, tmp_path / f"{plane}.nii.gz")
            )
            assert one.num_slices == other.num_slices
            for number in range(one.num_slices):
                assert (one.slice(number) == other.slice(number)).all()
                np.testing.assert_array_equal(one.parts[0].slice_values(number), other.parts[0].slice_values(number))


def test_the_window_of_the_tags_is_taken_only_where_it_is_asked_for(tmp_path: Path) -> None:
    write_series(tmp_path / "s", WindowCenter=[40, 300], WindowWidth=[400, 1500])
    volume = VolumeFile.open(tmp_path / "s", intake=Intake(dtype="uint8", window="tags"))
    same = VolumeFile.open(tmp_path / "s", intake=Intake(dtype="uint8", low=(-160.0,), high=(240.0,)))
    assert (volume.slice(1) == same.slice(1)).all()
    write_series(tmp_path / "none")
    with pytest.raises(UserError, match="no window in the tags"):
        VolumeFile.open(tmp_path / "none", intake=Intake(dtype="uint8", window="tags")).slice(0)
    with pytest.raises(UserError, match="nothing says which become black"):
        VolumeFile.open(tmp_path / "s").slice(0)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ((0, 5, 15, 20), "10.00 mm between two slices of a series that has 5.00 mm"),
        ((0, 5, 5, 10), "two slices at the same place"),
        ((3, 3, 3, 3), "two slices at the same place"),
    ],
)
def test_gaps_and_duplicates_are_errors_that_name_the_files(
    at: tuple[float, ...], message: str, tmp_path: Path
) -> None:
    write_series(tmp_path / "s", at=at)
    with pytest.raises(UserError, match=message) as error:
        open_series(tmp_path / "s")
    assert error.value.where.count(".dcm") == 2


@pytest.mark.parametrize("drift", [(0, -1.5, 0), (0.4, 0, 0), (0.3, 0.2, 0)])
def test_slices_that_lie_askew_are_where_their_positions_are(drift: tuple[float, ...], tmp_path: Path) -> None:
    """A tilted gantry, or a drift: the step from slice to slice is not along the normal."""
    files = write_series(tmp_path / "s")
    for number, file in enumerate(files):
        header = pydicom.dcmread(file)
        header.ImagePositionPatient = [
            float(v) + number * d for v, d in zip(header.ImagePositionPatient, drift, strict=True)
        ]
        header.save_as(file)
    series = open_series(tmp_path / "s")
    for number, file in enumerate(files):
        place = np.array(pydicom.dcmread(file).ImagePositionPatient, float) * (-1, -1, 1)
        np.testing.assert_allclose(series.grid.affine @ (0, 0, number, 1), (*place, 1), atol=1e-6)
    assert np.prod(series.grid.spacing) == pytest.approx(5 * 0.7 * 0.9)  # a sheared box is as large as a straight one
    coding = Coding(classes=("air", "a"))
    maps = [np.ones(SHAPE[1:], np.int16)] * SHAPE[0]
    write_label_volume(tmp_path / "out.nii.gz", maps, tmp_path / "s", coding)
    written = nibabel.Nifti1Image.from_filename(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(written.affine, series.grid.affine, atol=1e-4)


def test_a_slice_beside_the_line_of_the_others_is_named(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s")
    header = pydicom.dcmread(files[1])
    header.ImagePositionPatient = [-19, -30, 45]
    header.save_as(files[1])
    with pytest.raises(UserError, match="on no straight line") as error:
        open_series(tmp_path / "s")
    assert error.value.where == str(files[1])


def test_two_echoes_at_the_same_places_are_a_question(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s", at=(0, 5, 0, 5))
    for number, file in enumerate(files):
        header = pydicom.dcmread(file)
        header.EchoTime = 2.5 if number < 2 else 5
        header.save_as(file)
    with pytest.raises(UserError, match=r"2 echoes in one series \(EchoTime 2\.5: 2 files, 5\.0: 2 files\)"):
        open_series(tmp_path / "s")


def report_in(folder: Path, modality: str = "SR") -> Path:
    """A structured report, which has no pixels."""
    header = pydicom.dcmread(write_series(folder.with_name("made"), at=(0,))[0])
    folder.mkdir(parents=True, exist_ok=True)
    header.Modality, header.SOPClassUID = modality, BasicTextSRStorage
    header.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    for tag in ("Rows", "Columns", "PixelData", "ImagePositionPatient"):
        delattr(header, tag)
    header.save_as(folder / "report.dcm")
    shutil.rmtree(folder.with_name("made"))
    return folder / "report.dcm"


def test_what_is_no_image_is_passed_over_and_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "a" / "ct")
    report_in(tmp_path / "a" / "sr")
    write_series(tmp_path / "b" / "ct", patient="P2")
    report_in(tmp_path / "b" / "ct")
    assert not is_series(tmp_path / "a" / "sr")
    assert len(open_series(tmp_path / "b" / "ct").files) == 4
    walked, report = read(tmp_path, "volumes")
    assert [(case.name, case.images[""]) for case in walked.cases] == [
        ("a", tmp_path / "a" / "ct"),
        ("b", tmp_path / "b" / "ct"),
    ]
    assert report.counts == {NO_IMAGE: 2}


def test_a_bad_series_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    write_series(tmp_path / "a" / "ct", at=(0, 5, 15, 20))
    write_series(tmp_path / "b" / "ct", at=(0, 5, 5, 10))
    write_series(tmp_path / "c" / "ct")
    found = check(tmp_path)
    assert found.counts["volumes"] == 1
    stopping = [problem for problem in found.problems if problem.effect == "stops training"]
    assert [problem.places[0].split("/")[-3] for problem in stopping if ".dcm" in problem.places[0]] == ["a", "b"]
    with pytest.raises(UserError, match=r"--missing drop"):
        read(tmp_path, "volumes")
    walked, report = read(tmp_path, "volumes", ask=Ask(missing="drop"))
    assert [case.name for case in walked.cases] == ["c"]
    assert report.counts == {BAD_SERIES: 2}


def test_series_with_labels_are_dicom_and_other_volumes_beside_them_are_a_question(tmp_path: Path) -> None:
    for patient in ("P1", "P2"):
        write_series(tmp_path / patient / "study" / "ct", patient=patient)
        grid = open_series(tmp_path / patient / "study" / "ct").grid
        label = nibabel.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.affine)
        nibabel.save(label, tmp_path / patient / "label.nii.gz" if patient == "P1" else tmp_path / "P2.nii.gz")
    assert detect(tmp_path, "volumes") == "dicom"
    walked, _ = read(tmp_path, "volumes")
    assert [case.label for case in walked.cases] == [tmp_path / "P1" / "label.nii.gz", tmp_path / "P2.nii.gz"]
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "else.nii.gz")
    with pytest.raises(UserError, match="--format dicom"):
        detect(tmp_path, "volumes")


def test_two_series_in_one_folder_are_an_error(tmp_path: Path) -> None:
    write_series(tmp_path / "s")
    for file in write_series(tmp_path / "other", at=(100, 105)):
        file.rename(tmp_path / "s" / f"other_{file.name}")
    with pytest.raises(UserError, match="2 series in one folder"):
        open_series(tmp_path / "s")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"NumberOfFrames": 3}, "several frames"),
        ({"SamplesPerPixel": 3}, "in colour"),
        ({"ImagePositionPatient": None}, "without ImagePositionPatient"),
    ],
)
def test_files_that_are_no_slices_of_a_volume_are_errors(tags: dict[str, object], message: str, tmp_path: Path) -> None:
    write_series(tmp_path / "s", **tags)  # ty: ignore[invalid-argument-type]
    with pytest.raises(UserError, match=message):
        open_series(tmp_path / "s")


def test_a_single_slice_is_a_volume_as_thick_as_it_says(tmp_path: Path) -> None:
    write_series(tmp_path / "s", at=(0,), SliceThickness=3)
    assert open_series(tmp_path / "s").grid.spacing == pytest.approx((3, 0.7, 0.9))


def test_damaged_files_and_empty_folders_are_errors(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    assert not is_series(tmp_path / "s")
    with pytest.raises(UserError, match="no DICOM files"):
        open_series(tmp_path / "s")
    (tmp_path / "s" / "a.dcm").write_bytes(b"text")
    with pytest.raises(UserError, match="no DICOM file"):
        open_series(tmp_path / "s")
    files = write_series(tmp_path / "cut")
    files[1].write_bytes(files[1].read_bytes()[:-10])
    with pytest.raises(UserError, match="cannot decode"):
        open_series(tmp_path / "cut").values()


def test_a_folder_of_series_with_labels_beside_them_is_a_data_set(tmp_path: Path) -> None:
    for split, name, patient in (("train", "a", "P1"), ("train", "b", "P2"), ("test", "c", "P3")):
        write_series(tmp_path / split / name, patient=patient)
        grid = open_series(tmp_path / split / name).grid
        labels = grid.unstacked((VALUES > 1000).astype(np.uint8))
        nibabel.save(
            nibabel.Nifti1Image(np.ascontiguousarray(labels), grid.affine), tmp_path / split / f"{name}.nii.gz"
        )
    data = VolumeDataConfig(
        root=tmp_path,
        format="dicom",
        split="train",
        classes=("low", "high"),
        intake=Intake(dtype="uint8", window="bone"),
    ).build(tmp_path / "cache")
    assert [record.group for record in data.records[::4]] == ["P1", "P2"]
    sample = data.sample(5, 0)
    assert sample.label_map is not None
    np.testing.assert_array_equal(sample.label_map, VALUES[1] > 1000)


def test_series_whose_files_lie_in_one_folder_are_told_apart_by_their_uid(tmp_path: Path) -> None:
    flat, alone = tmp_path / "flat", tmp_path / "alone"
    values = {}
    for patient, plane in (("P1", "axial"), ("P1", "coronal"), ("", "axial")):
        files = write_series(tmp_path / f"{patient}{plane}", plane, patient=patient, StudyInstanceUID="1.2.3")
        uid = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
        values[uid] = open_series(tmp_path / f"{patient}{plane}").values()
        flat.mkdir(exist_ok=True)
        for file in files:
            shutil.copy(file, flat / f"{plane}{patient}{file.name}")
    report = write_series(flat, at=(0,), Modality="SEG")[0]
    write_series(alone, patient="P9")
    window = Intake(low=(-1024.0,), high=(3000.0,), dtype="float32")
    data = ImagesDataConfig(paths=(tmp_path / "alone", flat), intake=window).build()
    found = {record.image_id: record for record in data.records}
    assert {str(flat / uid) for uid in values} | {str(alone)} == set(found)
    assert sorted(record.group for record in found.values()) == ["1.2.3", "P1", "P1", "P9"]  # by the study where
    for uid, expected in values.items():  # nobody is named
        np.testing.assert_array_equal(open_series(flat / uid).values(), expected)
        assert report not in open_series(flat / uid).files
        at = next(i for i, record in enumerate(data.records) if record.image_id == str(flat / uid))
        image = VolumeFile.open(flat / uid, intake=window).slice(0)
        np.testing.assert_array_equal(data.sample(at, 0).images[0], image)
    assert [path.name for path in series_in(flat)] == sorted(values)
    assert series_in(alone) == [alone]
    (flat / "broken.dcm").write_bytes(b"no")
    with pytest.raises(UserError, match="no DICOM file"):
        ImagesDataConfig(paths=(flat,), intake=window).build()

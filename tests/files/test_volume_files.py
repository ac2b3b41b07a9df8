"""Volumes as 8-bit slices: values, memory, unpacked copies, and files that are no volumes."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from vistruct.contracts import IGNORED
from vistruct.data.volumes import SliceReader
from vistruct.errors import UserError
from vistruct.files import volume_stacks
from vistruct.files.coding import Coding
from vistruct.files.intake import CT_WINDOWS, Intake
from vistruct.files.volume_files import (
    VolumeFile,
    clear_volumes,
    filled_slices,
    is_volume,
    label_slice,
    write_label_volume,
)
from vistruct.samples.made_volumes import brats_folder

AFFINE = np.diag([-1.0, -1, 3, 1])  # as CT lies: axial slices are the transposed planes of the file
WINDOW = Intake(dtype="uint8", low=(0.0,), high=(255.0,))


def load(path: Path) -> Any:
    return nibabel.load(path)


@pytest.fixture(autouse=True)
def _nothing_in_memory() -> None:
    clear_volumes()


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def random_ct(seed: int = 0, shape: tuple[int, int, int] = (6, 5, 4)) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1024, 2000, shape).astype(np.int16)


@pytest.mark.parametrize("name", sorted(CT_WINDOWS))
def test_a_named_window_is_its_level_and_width_in_closed_form(name: str, tmp_path: Path) -> None:
    voxels = random_ct()
    low, high = CT_WINDOWS[name]
    expected = np.floor(((voxels - low) / (high - low)).clip(0, 1) * 255 + 0.5)
    volume = VolumeFile.open(save(tmp_path / "ct.nii.gz", voxels), intake=Intake(dtype="uint8", window=name))
    for number in range(4):
        error = np.abs(volume.slice(number)[0].numpy().astype(float) - expected[..., number].T)
        assert error.max() <= 1  # float32 may round the other way


def test_a_plain_and_a_packed_file_and_an_unpacked_copy_give_the_same_slices(tmp_path: Path) -> None:
    voxels = random_ct()
    plain, packed = save(tmp_path / "a.nii", voxels), save(tmp_path / "b.nii.gz", voxels)
    for intake in (
        Intake(dtype="uint8", window="liver"),
        Intake(dtype="uint8", percentiles=(2.0, 95.0)),
        Intake(dtype="uint8", window="bone", channels=3),
    ):
        for axis in ("axial", "coronal", "sagittal"):
            kinds = [
                VolumeFile.open(path, axis=axis, intake=intake, cache=cache, neighbours=0)
                for path, cache in ((plain, None), (packed, None), (packed, tmp_path / "cache"))
            ]
            for number in range(kinds[0].num_slices):
                first, second, third = (volume.slice(number) for volume in kinds)
                assert torch.equal(first, second)
                assert torch.equal(first, third)


def test_the_slope_and_intercept_of_the_header_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(random_ct(), AFFINE)
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, tmp_path / "scaled.nii")
    read = np.asarray(load(tmp_path / "scaled.nii").dataobj)
    volume = VolumeFile.open(tmp_path / "scaled.nii", intake=Intake(dtype="uint8", low=(-600.0,), high=(1100.0,)))
    expected = ((read + 600) / 1700 * 255 + 0.5).clip(0, 255).astype(np.uint8)
    assert np.abs(volume.slice(2)[0].numpy().astype(int) - expected[..., 2].T).max() <= 1


def test_percentiles_are_of_the_whole_volume_and_leave_the_background_out(tmp_path: Path) -> None:
    voxels = np.zeros((10, 10, 10), np.float32)
    voxels[2:8, 2:8, 2:8] = np.random.default_rng(0).normal(500, 100, (6, 6, 6))
    low, high = np.percentile(voxels[voxels != 0], (1, 99))
    expected = ((voxels - low) / (high - low) * 255 + 0.5).clip(0, 255).astype(np.uint8)
    for path in (save(tmp_path / "mr.nii", voxels), save(tmp_path / "mr2.nii.gz", voxels)):
        volume = VolumeFile.open(path, intake=Intake(dtype="uint8", percentiles=(1, 99), background=0.0))
        for number in (0, 5):
            assert np.abs(volume.slice(number)[0].numpy().astype(int) - expected[..., number].T).max() <= 1


def test_neighbours_are_channels_and_the_ends_are_repeated(tmp_path: Path) -> None:
    voxels = np.broadcast_to(np.arange(4, dtype=np.uint8) * 10, (3, 3, 4)).copy()
    volume = VolumeFile.open(save(tmp_path / "a.nii.gz", voxels), neighbours=2)
    assert volume.slice(1)[:, 0, 0].tolist() == [0, 0, 10, 20, 30]
    assert volume.slice(3)[:, 0, 0].tolist() == [10, 20, 30, 30, 30]


def test_modalities_are_channels_in_their_order(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.nii.gz", np.full((3, 3, 2), n, np.uint8)) for n in (7, 8, 9)]
    assert VolumeFile.open(paths).slice(0)[:, 0, 0].tolist() == [7, 8, 9]
    assert VolumeFile.open(paths[::-1]).slice(0)[:, 0, 0].tolist() == [9, 8, 7]


def test_every_modality_has_its_own_range_of_values(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.nii", np.full((2, 2, 2), n, np.int16)) for n in (50, 500)]
    volume = VolumeFile.open(paths, intake=Intake(dtype="uint8", low=(0.0, 0.0), high=(100.0, 1000.0)))
    assert volume.slice(0)[:, 0, 0].tolist() == [128, 128]


def test_modalities_of_other_grids_are_an_error(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.nii", np.zeros((2, 2, n), np.uint8)) for n in (2, 3)]
    with pytest.raises(UserError, match="modalities with other numbers of voxels"):
        VolumeFile.open(paths)


def test_values_of_16_bits_without_a_range_are_an_error_that_names_windows_and_percentiles(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz"):
        volume = VolumeFile.open(save(tmp_path / name, random_ct()))
        with pytest.raises(UserError, match=r"--window abdomen.*percentiles"):
            volume.slice(0)


def test_a_packed_volume_is_unpacked_once_for_all_its_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii.gz", random_ct())
    unpacked = []
    taken = VolumeFile._taken
    monkeypatch.setattr(VolumeFile, "_taken", lambda self, part: unpacked.append(part) or taken(self, part))
    reader = SliceReader("axial", 0, WINDOW, None)
    for number in (3, 0, 2, 2):
        VolumeFile.open(path, intake=reader.intake).slice(number)
    assert unpacked == [0]
    clear_volumes()
    VolumeFile.open(path, intake=WINDOW).slice(0)
    assert unpacked == [0, 0]


def test_another_process_reads_the_copy_and_never_the_packed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = save(tmp_path / "a.nii.gz", random_ct()), tmp_path / "cache"
    first = VolumeFile.open(path, intake=WINDOW, cache=cache).slice(1)
    clear_volumes()
    monkeypatch.setattr(VolumeFile, "_taken", lambda *_: pytest.fail("unpacked again"))
    assert torch.equal(VolumeFile.open(path, intake=WINDOW, cache=cache).slice(1), first)
    assert [file.suffix for file in (cache / "volumes").iterdir()] == [".npy"]  # nothing half-written is left


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.nii.gz", tmp_path / "cache"
    for value in (3, 200):
        save(path, np.full((3, 3, 2 + value % 2), value, np.uint8))
        assert VolumeFile.open(path, cache=cache).slice(0).unique().tolist() == [value]


def test_other_values_of_the_intake_have_a_copy_of_their_own(tmp_path: Path) -> None:
    path, cache = save(tmp_path / "a.nii.gz", random_ct()), tmp_path / "cache"
    one, other = (
        VolumeFile.open(path, intake=Intake(dtype="uint8", window=w), cache=cache).slice(0) for w in ("lung", "brain")
    )
    assert not torch.equal(one, other)


def test_the_memory_holds_no_more_than_its_limit_but_always_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_stacks, "MEMORY_BYTES", 2 * 6 * 5 * 4)
    for number in range(4):
        VolumeFile.open(save(tmp_path / f"{number}.nii.gz", random_ct(number)), intake=WINDOW).slice(0)
    assert len(volume_stacks.recent.stacks) == 2
    big = VolumeFile.open(save(tmp_path / "big.nii.gz", random_ct(9, (20, 20, 20))), intake=WINDOW)
    big.slice(0)
    assert [stack.shape for stack in volume_stacks.recent.stacks.values()] == [(20, 20, 20)]


def test_a_copy_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    volume = VolumeFile.open(save(tmp_path / "a.nii.gz", random_ct()), intake=WINDOW, cache=tmp_path / "cache")
    with pytest.raises(UserError, match="unpack=false"):
        volume.slice(0)


def test_readers_travel_to_worker_processes(tmp_path: Path) -> None:
    reader = SliceReader("axial", 1, Intake(dtype="uint8", window="abdomen"), tmp_path)
    assert pickle.loads(pickle.dumps(reader)) == reader


def test_a_file_without_an_affine_is_an_error(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(UserError, match="does not say how the volume lies"):
        VolumeFile.open(tmp_path / "a.nii")


def test_a_spacing_of_zero_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8))
    content = bytearray(path.read_bytes())
    content[84:88] = np.float32(0).tobytes()  # pixdim[2]
    content[252:254] = np.int16(1).tobytes()  # qform_code
    path.write_bytes(content)
    with pytest.raises(UserError, match="spacing of"):
        VolumeFile.open(path)


def test_a_single_time_step_is_a_volume_and_several_are_not(tmp_path: Path) -> None:
    voxels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    for name in ("one.nii", "one.nii.gz"):
        one = VolumeFile.open(save(tmp_path / name, voxels[..., None]))
        assert torch.equal(one.slice(1), VolumeFile.open(save(tmp_path / "flat.nii", voxels)).slice(1))
        write_label_volume(
            tmp_path / "out.nii", [np.zeros((2, 2), np.int16)] * 2, tmp_path / name, Coding(classes=("a",))
        )
        assert load(tmp_path / "out.nii").shape == (2, 2, 2, 1)
    with pytest.raises(UserError, match="time step"):
        VolumeFile.open(save(tmp_path / "two.nii", np.stack([voxels, voxels], axis=-1)))


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "gone"])
def test_damaged_files_are_errors_that_name_them(damage: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", random_ct(0, (30, 30, 30)))
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "text": b"no volume at all", "cut": content[: len(content) // 2]}[damage])
    with pytest.raises(UserError, match=r"a\.nii\.gz"):
        VolumeFile.open(path, intake=WINDOW).slice(29)


def test_a_plain_file_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", random_ct(0, (30, 30, 30)))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UserError, match=r"a\.nii"):
        VolumeFile.open(path, intake=WINDOW).slice(29)


def test_slices_beyond_the_volume_are_an_error(tmp_path: Path) -> None:
    volume = VolumeFile.open(save(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8)))
    for number in (-1, 2):
        with pytest.raises(UserError, match="of a volume of 2"):
            volume.slice(number)


def test_other_files_are_no_volumes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / ".nii.gz").write_bytes(b"")
    assert not is_volume(tmp_path / "a.txt")
    assert not is_volume(tmp_path)
    assert not is_volume(tmp_path / "none.nii")
    with pytest.raises(UserError, match="no volume"):
        VolumeFile.open(tmp_path / "a.txt")


def test_labels_are_whole_numbers_whatever_type_they_are_stored_in(tmp_path: Path) -> None:
    values = np.array([0, 1, 300, 2], np.int64).reshape(2, 2, 1)
    for type_ in (np.int16, np.float32, np.float64):
        for name in (f"{np.dtype(type_)}.nii", f"{np.dtype(type_)}.nii.gz"):
            read = label_slice(save(tmp_path / name, values.astype(type_)), 0)
            np.testing.assert_array_equal(read, values[..., 0].T)
            assert read.dtype.kind in "iu"
    with pytest.raises(UserError, match=r"a label of 1\.5"):
        label_slice(save(tmp_path / "bad.nii", np.full((2, 2, 1), 1.5, np.float32)), 0)


def test_filled_slices_are_those_with_a_label(tmp_path: Path) -> None:
    labels = np.zeros((3, 3, 4), np.uint8)
    labels[1, 1, 2], labels[0, 0, 3] = 5, 9
    path = save(tmp_path / "a.nii.gz", labels)
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        assert filled_slices(path, (0,), cache=cache).tolist() == [False, False, True, True]
        assert filled_slices(path, (0, 9), cache=cache).tolist() == [False, False, True, False]


def test_a_written_volume_has_the_header_of_its_image_and_a_type_that_holds_the_labels(tmp_path: Path) -> None:
    coding = Coding(classes=("background", "a"), values=(0, 300), ignored=(7,))
    maps = [np.array([[0, 1], [IGNORED, 0]], np.int16)] * 2
    for type_, expected in ((np.uint8, np.uint16), (np.int16, np.int16), (np.float32, np.uint16)):
        image = nibabel.Nifti1Image(np.zeros((2, 2, 2), type_), AFFINE)
        image.header.set_slope_inter(2, 1)
        image.header["descrip"] = b"a scanner"
        image.header.set_xyzt_units("mm", "sec")
        image.set_qform(AFFINE, 2)
        image.set_sform(AFFINE, 4)
        path = tmp_path / f"{np.dtype(type_)}.nii.gz"
        nibabel.save(image, path)
        write_label_volume(tmp_path / "new" / "out.nii.gz", maps, path, coding)
        out = load(tmp_path / "new" / "out.nii.gz")
        assert out.get_data_dtype() == expected
        assert (int(out.header["qform_code"]), int(out.header["sform_code"])) == (2, 4)
        assert bytes(out.header["descrip"]).rstrip(b"\0") == b"a scanner"
        assert out.header.get_xyzt_units() == ("mm", "sec")
        assert sorted(np.unique(np.asarray(out.dataobj))) == [0, 7, 300]
        for number in range(2):
            np.testing.assert_array_equal(
                coding.decode(label_slice(tmp_path / "new" / "out.nii.gz", number), ""), maps[0]
            )


def test_too_few_slices_or_another_size_are_not_written(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8))
    coding = Coding(classes=("a",))
    for maps in ([], [np.zeros((2, 2), np.int16)], [np.zeros((2, 3), np.int16)] * 2):
        with pytest.raises(UserError, match="slices of"):
            write_label_volume(tmp_path / "out.nii.gz", maps, path, coding)
    with pytest.raises(UserError, match=r"\.nii or \.nii\.gz"):
        write_label_volume(tmp_path / "out.png", [np.zeros((2, 2), np.int16)] * 2, path, coding)
    assert not (tmp_path / "out.nii.gz").exists()


def test_a_nifti_2_file_stays_one(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(np.zeros((2, 2, 2), np.int16), AFFINE), tmp_path / "a.nii")
    write_label_volume(
        tmp_path / "out.nii", [np.zeros((2, 2), np.int16)] * 2, tmp_path / "a.nii", Coding(classes=("a",))
    )
    assert isinstance(load(tmp_path / "out.nii"), nibabel.Nifti2Image)


def test_the_folder_of_a_moved_data_set_still_reads(tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(brats_folder(), moved)
    volume = VolumeFile.open(
        sorted(moved.glob("*00000/*_t1.nii.gz"))[0], intake=Intake(dtype="uint8", percentiles=(0, 100))
    )
    assert volume.slice(3).shape == (3, 48, 48)

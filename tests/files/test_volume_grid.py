"""Volumes of all 48 orders of axes: read in one order, written back in their own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.volume_files import VolumeFile, write_label_volume
from vistruct.files.volume_grid import grid

SHAPE = (3, 4, 5)  # of the array in RAS order: no two sides alike
SPACING = (0.8, 1.5, 4.0)  # to the right, to the front, up
ORDERS = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*axes)
]  # fmt: skip
CODING = Coding(classes=("background", "a", "b"), values=(0, 3, 7), ignored=())


def load(path: Path) -> Any:
    return nibabel.load(path)


def ras_image() -> nibabel.Nifti1Image:
    """uint8 voxels that are all different, slightly oblique."""
    voxels = np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE)
    turn = np.deg2rad(5)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(SPACING)
    affine[:3, 3] = (-31, 17, 5)
    return nibabel.Nifti1Image(voxels, affine)


def in_order(image: nibabel.Nifti1Image, code: str) -> nibabel.Nifti1Image:
    """nibabel's own way of storing the same volume in another order."""
    to = nibabel.orientations.axcodes2ornt(tuple(code))
    return image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), to))


def test_there_are_48_orders() -> None:
    assert len(set(ORDERS)) == 48


@pytest.mark.parametrize("code", ORDERS)
def test_slices_are_the_same_whatever_the_order_of_the_file_and_predictions_go_back_into_it(
    code: str, tmp_path: Path
) -> None:
    image = ras_image()
    path = tmp_path / f"{code}.nii"
    nibabel.save(in_order(image, code), path)
    assert "".join(nibabel.aff2axcodes(load(path).affine)) == code
    ras = np.asarray(image.dataobj)

    for axis, seen, spacing in (
        ("axial", lambda z: ras[::-1, ::-1, z].T, (4.0, 1.5, 0.8)),
        ("coronal", lambda y: ras[::-1, y, ::-1].T, (1.5, 4.0, 0.8)),
        ("sagittal", lambda x: ras[x, ::-1, ::-1].T, (0.8, 4.0, 1.5)),
    ):
        volume = VolumeFile.open(path, axis=axis)
        assert volume.spacing == pytest.approx(spacing)
        slices = [volume.slice(number) for number in range(volume.num_slices)]
        for number, one in enumerate(slices):
            assert tuple(one.shape[1:]) == volume.size_hw
            np.testing.assert_array_equal(one[0].numpy(), seen(number))

        out = tmp_path / f"{axis}.nii.gz"
        write_label_volume(out, [(one[0].numpy() % 3).astype(np.int16) for one in slices], path, CODING, axis)
        written = load(out)
        np.testing.assert_array_equal(written.affine, load(path).affine)
        expected = np.array([0, 3, 7])[ras % 3]
        np.testing.assert_array_equal(np.asarray(nibabel.as_closest_canonical(written).dataobj), expected)


def test_the_places_of_voxels_in_the_patient_stay_what_they_were() -> None:
    image = in_order(ras_image(), "PIL")
    own = grid(image.shape, image.affine, "coronal", "x")
    stack = own.stacked(np.asarray(image.dataobj))
    for place in ((0, 0, 0), (3, 4, 2), (1, 2, 0)):
        millimetres = own.stack_affine @ (*place, 1)
        voxel = np.rint(np.linalg.inv(ras_image().affine) @ millimetres).astype(int)[:3]
        assert stack[place] == np.asarray(ras_image().dataobj)[tuple(voxel)]


def test_unstacking_undoes_stacking() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    for code in ORDERS:
        image = in_order(ras_image(), code)
        own = grid((2, 3, 4), image.affine, "sagittal", "x")
        np.testing.assert_array_equal(own.unstacked(own.stacked(array)), array)
        assert own.stacked(array).shape == own.stack_shape


def test_a_shifted_grid_is_as_far_away_as_it_was_shifted() -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    moved = affine.copy()
    moved[:3, 3] = (3, 0, 4)
    assert grid(SHAPE, affine, "axial", "x").offset_mm(grid(SHAPE, moved, "axial", "x")) == pytest.approx(5)
    assert grid(SHAPE, affine, "axial", "x").offset_mm(grid(SHAPE, affine, "axial", "x")) == 0


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5, 2), (3, 0, 5)])
def test_what_is_no_single_volume_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="no single volume"):
        grid(shape, np.eye(4), "axial", "file")


@pytest.mark.parametrize("affine", [np.diag([1.0, 0, 1, 1]), np.full((4, 4), np.nan), np.diag([0.0, 0, 0, 1])])
def test_voxels_that_fill_no_space_are_refused(affine: np.ndarray) -> None:
    with pytest.raises(UserError, match="fill no space"):
        grid(SHAPE, affine, "axial", "file")

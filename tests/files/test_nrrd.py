"""NRRD read against headers and bytes written by hand, as the format's definition has them, and against its NIfTI."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from vistruct.data.volumes import VolumeDataConfig
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.volume_files import VolumeFile, open_volume, write_label_volume

VOXELS = np.random.default_rng(0).integers(-900, 900, (4, 3, 5)).astype(np.int16)
DIRECTIONS = "(0,0.5,0) (0.9,0,0) (0,0.1,3)"  # columns of the affine, in the space of the file
ORIGIN = "(10,-20,30)"


def write(file: Path, voxels: np.ndarray = VOXELS, *, encoding: str = "raw", **more: str) -> Path:
    """Values of `more` replace lines, "" takes them out."""
    kinds = {"int16": "short", "uint8": "unsigned char", "float32": "float"}
    fields = {
        "type": kinds[voxels.dtype.name], "dimension": str(voxels.ndim), "encoding": encoding,
        "space": "left-posterior-superior", "sizes": " ".join(map(str, voxels.shape)), "endian": "little",
        "space directions": DIRECTIONS, "space origin": ORIGIN,
    } | {name.replace("_", " "): value for name, value in more.items()}  # fmt: skip
    head = "NRRD0005\n# a comment\n" + "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
    data = voxels.tobytes(order="F")
    data = gzip.compress(data) if encoding == "gzip" else data
    file.parent.mkdir(parents=True, exist_ok=True)
    if "data_file" in more:
        (file.parent / more["data_file"]).write_bytes(data)
        data = b""
    file.write_bytes(f"{head}key:=value\n\n".encode() + data)
    return file


@pytest.mark.parametrize("space", ["left-posterior-superior", "RAS", "left-anterior-superior"])
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_voxels_and_places_are_those_of_the_same_volume_as_nifti(space: str, encoding: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.nrrd", encoding=encoding, space=space)
    affine = np.array([[0, 0.9, 0, 10], [0.5, 0, 0.1, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
    affine[:2] *= {"RAS": [[1], [1]], "left-anterior-superior": [[-1], [1]]}.get(space, [[-1], [-1]])
    nibabel.save(nibabel.Nifti1Image(VOXELS, affine), tmp_path / "a.nii")
    read, same = open_volume(file), open_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(read.grid.affine, affine)
    np.testing.assert_array_equal(read.values(), same.values())
    for number in range(read.grid.num_slices):
        np.testing.assert_array_equal(read.slice_values(number), same.slice_values(number))
    maps = [np.ones(read.grid.size_hw, np.int16)] * read.grid.num_slices
    write_label_volume(tmp_path / "out.nii.gz", maps, file, Coding(classes=("a", "b")))
    np.testing.assert_allclose(nibabel.Nifti1Image.from_filename(tmp_path / "out.nii.gz").affine, affine, atol=1e-6)


def test_other_byte_orders_types_and_detached_data(tmp_path: Path) -> None:
    expected = open_volume(write(tmp_path / "a.nrrd")).values()
    big = write(tmp_path / "big.nrrd", VOXELS.astype(">i2"), endian="big")
    apart = write(tmp_path / "apart.nhdr", encoding="gzip", data_file="apart.raw.gz")
    floats = write(tmp_path / "floats.nrrd", VOXELS.astype(np.float32))
    for file in (big, apart, floats):
        np.testing.assert_array_equal(open_volume(file).values(), expected)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"space": ""}, "does not say how the volume lies"),
        ({"space_origin": ""}, "does not say how the volume lies"),
        ({"encoding": "bzip2"}, "encoding 'bzip2'"),
        ({"type": "block"}, "type 'block'"),
        ({"space_directions": "(0,0,0) (0.9,0,0) (0,0,3)"}, "fill no space"),
        ({"sizes": "4 3 500"}, "cannot read the voxels"),
        ({"sizes": "4 3 99999999999999999999"}, "cannot read the voxels"),
        ({"sizes": "4 -3 5"}, "does not say how"),
        ({"byte_skip": "many"}, "begin somewhere"),
    ],
)
def test_what_cannot_be_read_is_named(more: dict[str, str], message: str, tmp_path: Path) -> None:
    for encoding in ("raw", "gzip"):
        with pytest.raises(UserError, match=message) as error:
            open_volume(write(tmp_path / f"{encoding}.nrrd", **{"encoding": encoding} | more)).values()
        assert ".nrrd" in error.value.where


def test_a_data_set_of_nrrd_is_read_as_one_of_nifti(tmp_path: Path) -> None:
    labels = (VOXELS > 0).astype(np.uint8)
    write(tmp_path / "imagesTr" / "a_0000.nrrd")
    write(tmp_path / "labelsTr" / "a.nrrd", labels, encoding="gzip")
    data = VolumeDataConfig(root=tmp_path, classes=("low", "high"), intake={"low": (-900,), "high": (900,)})  # ty: ignore
    built = data.build(tmp_path / "cache")
    assert built.records[0].image_id == "a"
    shown = VolumeFile.open(tmp_path / "imagesTr" / "a_0000.nrrd", intake=data.intake)
    for number in range(len(built)):
        high = shown.slice(number)[0].numpy().astype(int) > 65535 / 2
        np.testing.assert_array_equal(built.truth(number).numpy(), high)

"""MetaImage read against headers and bytes written by hand as ITK writes them, and against the same volume as NIfTI."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from vistruct.data.formats.detect import detect
from vistruct.data.volumes import VolumeDataConfig
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.files.volume_files import label_values, open_volume

VOXELS = np.random.default_rng(0).integers(-900, 900, (4, 3, 5)).astype(np.int16)
# Axes of the array run to the back, to the left and up; half, 0.9 and 3 mm a voxel (LPS).
AFFINE = np.array([[0, -0.9, 0, -10], [-0.5, 0, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])  # RAS


def write(file: Path, voxels: np.ndarray = VOXELS, *, packed: bool = False, **more: str) -> Path:
    """Values of `more` replace lines, "" takes them out."""
    types = {"int16": "MET_SHORT", "uint8": "MET_UCHAR", "float32": "MET_FLOAT"}
    is_big = voxels.dtype.str[0] == ">"
    fields = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": str(is_big),
        "CompressedData": str(packed), "TransformMatrix": "0 1 0 1 0 0 0 0 1", "Offset": "10 -20 30",
        "CenterOfRotation": "0 0 0", "ElementSpacing": "0.5 0.9 3", "DimSize": " ".join(map(str, voxels.shape)),
        "ElementType": types[voxels.dtype.newbyteorder("=").name], "ElementDataFile": "LOCAL",
    } | more  # fmt: skip
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # ends the header
    data = voxels.tobytes(order="F")
    data = zlib.compress(data) if packed else data
    file.parent.mkdir(parents=True, exist_ok=True)
    if fields["ElementDataFile"] not in ("LOCAL", "gone.raw", ""):
        (file.parent / fields["ElementDataFile"]).write_bytes(data)
        data = b""
    head = "".join(f"{name} = {value}\n" for name, value in fields.items() if value)
    file.write_bytes(head.encode() + data)
    return file


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_voxels_and_places_are_those_of_the_same_volume_as_nifti(packed: bool, apart: bool, tmp_path: Path) -> None:
    more = {"ElementDataFile": "a.zraw"} if apart else {}
    read = open_volume(write(tmp_path / ("a.mhd" if apart else "a.mha"), packed=packed, **more))
    nibabel.save(nibabel.Nifti1Image(VOXELS, AFFINE), tmp_path / "a.nii")
    same = open_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(read.grid.affine, AFFINE)
    np.testing.assert_array_equal(read.values(), same.values())
    for number in range(read.grid.num_slices):
        np.testing.assert_array_equal(read.slice_values(number), same.slice_values(number))


def test_other_byte_orders_types_and_starts(tmp_path: Path) -> None:
    expected = open_volume(write(tmp_path / "a.mha")).values()
    big = write(tmp_path / "big.mha", VOXELS.astype(">i2"))
    floats = write(tmp_path / "floats.mha", VOXELS.astype(np.float32))
    last = write(tmp_path / "last.mhd", HeaderSize="-1", ElementDataFile="last.raw")
    (tmp_path / "last.raw").write_bytes(b"whatever" + (tmp_path / "last.raw").read_bytes())
    for file in (big, floats, last):
        np.testing.assert_array_equal(open_volume(file).values(), expected)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"TransformMatrix": ""}, "does not say how the volume lies"),
        ({"Offset": "1 2"}, "does not say how the volume lies"),
        ({"ElementSpacing": "0 1 1"}, "fill no space"),
        ({"ElementNumberOfChannels": "3"}, "3 numbers a voxel"),
        ({"ElementType": "MET_STRING"}, "MET_STRING"),
        ({"BinaryData": "False"}, "as text"),
        ({"ElementDataFile": "gone.raw"}, "gone.raw"),
        ({"ElementDataFile": ""}, "no MetaImage"),
        ({"DimSize": "4 3 500"}, "cannot read the voxels"),
        ({"DimSize": "4 -3 5"}, "does not say how"),
        ({"DimSize": "3 5", "NDims": "2"}, "does not say how"),
    ],
)
def test_what_cannot_be_read_is_named(more: dict[str, str], message: str, tmp_path: Path) -> None:
    for packed in (False, True):
        with pytest.raises(UserError, match=message) as error:
            open_volume(write(tmp_path / f"{packed}.mha", packed=packed, **more)).values()
        assert ".mha" in error.value.where


@pytest.mark.parametrize("ending", [".mha", ".mhd"])
def test_a_data_set_of_nnunet_with_another_file_ending(ending: str, tmp_path: Path) -> None:
    labels = (VOXELS > 0).astype(np.uint8)
    apart = ({"ElementDataFile": "a_0000.raw"}, {"ElementDataFile": "a.raw"}) if ending == ".mhd" else ({}, {})
    write(tmp_path / "imagesTr" / f"a_0000{ending}", **apart[0])
    write(tmp_path / "labelsTr" / f"a{ending}", labels, packed=True, **apart[1])
    told = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "up": 1}, "file_ending": ending}
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    assert detect(tmp_path, "volumes") == "nifti"
    built = VolumeDataConfig(root=tmp_path, intake=Intake(low=(-900,), high=(900,))).build(tmp_path / "cache")
    truth = label_values(open_volume(tmp_path / "labelsTr" / f"a{ending}"))
    for number in range(len(built)):
        np.testing.assert_array_equal(built.truth(number).numpy(), truth[number])

"""A label file for each class: the layouts, the order of painting, splits of meta.csv, the choice of classes."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from vistruct.data.checks.check import check
from vistruct.data.formats.detect import detect
from vistruct.data.formats.volumes.class_files import ABSENT, JOINT_FILE, NO_SPLIT, NOT_CHOSEN, NOT_HERE
from vistruct.data.reading import PixelValues, Reading
from vistruct.data.volumes import VolumeDataConfig
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake

SHAPE = (6, 5, 4)
INTAKE = Intake(low=(-160.0,), high=(240.0,))
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
ORGANS: dict[str, tuple[slice, ...]] = {
    "liver": (slice(0, 3), slice(0, 3), slice(0, 3)),
    "spleen": (slice(2, 5), slice(0, 2), slice(1, 3)),  # 4 voxels of it are in the liver too
    "aorta": (slice(5, 6), slice(4, 5), slice(0, 4)),
}


def save(file: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), file)


def mask(name: str, value: int = 1) -> np.ndarray:
    values = np.zeros(SHAPE, np.uint8)
    values[ORGANS[name]] = value
    return values


def image(number: int = 0) -> np.ndarray:
    return (np.random.default_rng(number).random(SHAPE) * 1000 - 800).astype(np.int16)


def total(root: Path, cases: dict[str, str]) -> Path:
    """As TotalSegmentator has it, with the split of each case."""
    for number, case in enumerate(cases):
        save(root / case / "ct.nii.gz", image(number))
        for name in ORGANS:
            save(root / case / "segmentations" / f"{name}.nii.gz", mask(name))
    rows = [f"{case};50;{split}" for case, split in cases.items()]
    (root / "meta.csv").write_text("\n".join(["image_id;age;split", *rows]))
    return root


def label_of(data: VolumeDataConfig) -> np.ndarray:
    """int[x, y, z], classes as numbers in the order of the file's array; the affine is that of RAS."""
    dataset = data.build()
    labels = dataset.read_label_map
    assert labels is not None
    stack = np.stack(
        [labels(dataset.records[n]).numpy() for n in range(SHAPE[2])]
    )  # rows from the front, columns from right
    return stack.transpose(2, 1, 0)[::-1, ::-1]


def expected(*order: str) -> np.ndarray:
    values = np.zeros(SHAPE, np.int16)
    for number, name in enumerate(order, 1):
        values[ORGANS[name]] = number
    return values


def test_masks_become_classes_in_the_order_of_their_names_and_the_later_one_wins(tmp_path: Path) -> None:
    root = total(tmp_path / "set", {"s0": "train", "s1": "train", "s2": "val"})
    assert detect(root, "volumes") == "class_files"
    data = VolumeDataConfig(root=root, split="train", intake=INTAKE)
    assert data.coding_used().classes == ("background", "aorta", "liver", "spleen")
    assert np.array_equal(label_of(data), expected("aorta", "liver", "spleen"))
    assert {case.name for case in data.cases(data.build().report)} == {"s0", "s1"}
    found = check(root, values=PixelValues(low=INTAKE.low, high=INTAKE.high), split="val")
    assert found.ok
    assert found.classes == {"background": 120 - 4 - 27 - 12 + 4, "aorta": 4, "liver": 23, "spleen": 12}
    [overlap] = [problem for problem in found.problems if "two classes" in problem.what]
    assert overlap.places == ("s2: 4 of liver are spleen",)


def test_classes_that_are_chosen_are_read_in_their_order_and_dropped_ones_do_not_count(tmp_path: Path) -> None:
    root = total(tmp_path, {"s0": "train"})
    data = VolumeDataConfig(root=root, classes=("spleen", "liver"), others="drop", intake=INTAKE)
    assert data.coding_used().classes == ("background", "spleen", "liver")
    assert np.array_equal(label_of(data), expected("spleen", "liver"))
    assert dict(data.build().report.counts)[NOT_CHOSEN] == 1
    joined = VolumeDataConfig(root=root, join={"belly": ("liver", "spleen")}, drop=("aorta",), intake=INTAKE)
    values = label_of(joined)
    assert joined.coding_used().classes == ("background", "belly")
    assert np.array_equal(values == 1, expected("liver", "spleen") > 0)
    assert np.array_equal(values < 0, expected("aorta") > 0)


@pytest.mark.parametrize(
    ("picture", "masks"),
    [
        ("images/a.nii.gz", "labels/a/{}.nii.gz"),
        ("imagesTr/a_0000.nii.gz", "labelsTr/a/{}.nii.gz"),
        ("a.nii.gz", "segmentations/a/a_{}.nii.gz"),
        ("train/a/ct.nii.gz", "train/a/masks/{}.nii"),
        ("a/img.nii.gz", "a/structures/{}.nii.gz"),
    ],
)
def test_layouts(picture: str, masks: str, tmp_path: Path) -> None:
    save(tmp_path / picture, image())
    for name in ORGANS:
        save(tmp_path / masks.format(name), mask(name, 255))
    assert detect(tmp_path, "volumes") == "class_files"
    data = VolumeDataConfig(root=tmp_path, intake=INTAKE)
    assert np.array_equal(label_of(data), expected("aorta", "liver", "spleen"))


def test_layouts_of_one_label_volume_are_none_of_these(tmp_path: Path) -> None:
    for number, (picture, label) in enumerate(
        [("c/image.nii.gz", "c/labels/label.nii.gz"), ("c/c.nii.gz", "c/masks/c.nii.gz"), ("c.nii", "labels/c.nii")]
    ):
        save(tmp_path / str(number) / picture, image())
        save(tmp_path / str(number) / label, mask("liver"))
        assert detect(tmp_path / str(number), "volumes") == "nifti"


def test_what_is_missing_or_beside_is_counted(tmp_path: Path) -> None:
    root = total(tmp_path, {"s0": "train", "s1": "train", "gone": "train"})
    (root / "s1" / "segmentations" / "aorta.nii.gz").unlink()
    save(root / "s1" / "combined_labels.nii.gz", mask("liver"))
    save(root / "s9" / "ct.nii.gz", image())
    for file in (*(root / "gone" / "segmentations").iterdir(), root / "gone" / "ct.nii.gz"):
        file.unlink()
    counts = dict(VolumeDataConfig(root=root, intake=INTAKE).build().report.counts)
    assert {name: counts[name] for name in (ABSENT, JOINT_FILE, NO_SPLIT, NOT_HERE)} == {
        ABSENT: 1,
        JOINT_FILE: 1,
        NO_SPLIT: 1,
        NOT_HERE: 1,
    }


def test_masks_that_lie_elsewhere_or_have_several_values_stop(tmp_path: Path) -> None:
    root = total(tmp_path, {"s0": "train"})
    shifted = AFFINE.copy()
    shifted[0, 3] = 8
    save(root / "s0" / "segmentations" / "spleen.nii.gz", mask("spleen"), shifted)
    with pytest.raises(UserError, match="files of classes"):
        VolumeDataConfig(root=root, intake=INTAKE).build()
    assert not check(root).ok
    as_arrays = VolumeDataConfig(root=root, intake=INTAKE, label_grid="image")
    assert np.array_equal(label_of(as_arrays), expected("aorta", "liver", "spleen"))
    two = mask("spleen") + mask("aorta", 2)
    save(root / "s0" / "segmentations" / "spleen.nii.gz", two)
    with pytest.raises(UserError, match="several values"):
        label_of(VolumeDataConfig(root=root, intake=INTAKE))
    with pytest.raises(UserError, match="leave --values"):
        VolumeDataConfig(root=root, coding=Coding(classes=("a", "b"))).build()


def test_labels_of_regions_name_options_that_read_the_single_values(tmp_path: Path) -> None:
    save(tmp_path / "imagesTr" / "a_0000.nii.gz", image())
    save(tmp_path / "labelsTr" / "a.nii.gz", mask("liver") + mask("aorta", 2))
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    with pytest.raises(UserError) as error:
        VolumeDataConfig(root=tmp_path, intake=INTAKE).build()
    _, names, _, values = error.value.fix.split()
    told = Reading(classes=tuple(names.split(",")), values=tuple(map(int, values.split(","))))
    assert check(tmp_path, told).classes == {"background": 120 - 27 - 4, "class_1": 27, "class_2": 4}

"""What `check` finds in collections of volumes; every kind of trouble planted in a sound one."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from vistruct.data.checks.check import check
from vistruct.data.reading import PixelValues, Reading
from vistruct.data.volumes import VolumeDataConfig
from vistruct.errors import UserError
from vistruct.samples.made_volumes import amos_folder, brats_folder


def volumes(root: Path) -> dict[str, str]:
    """What was found, with its effect."""
    return {problem.what: problem.effect for problem in check(root).problems}


def says(root: Path, words: str) -> str:
    """The effect of the one problem with these words."""
    found = {what: effect for what, effect in volumes(root).items() if words in what}
    assert len(found) == 1, found
    return next(iter(found.values()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(brats_folder(), tmp_path / "brats")
    return tmp_path / "brats"


def change(path: Path, to: np.ndarray | None = None, affine: np.ndarray | None = None) -> None:
    image = nibabel.Nifti1Image.from_filename(path)
    voxels = np.asarray(image.dataobj) if to is None else to
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine if affine is None else affine), path)


def test_a_sound_set_has_no_problems_and_right_counts(root: Path) -> None:
    found = check(root)
    counts, classes, problems, sizes = found.counts, found.classes, found.problems, found.sizes
    assert problems == ()
    assert counts == {"volumes": 5, "patients": 5, "slices (axial)": 30, "volumes decoded": 5}
    seg = [np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj) for path in root.glob("*/*_seg.nii.gz")]
    assert list(classes.values()) == [int((np.stack(seg) == value).sum()) for value in (0, 1, 2, 4)]
    assert sizes["orientation of files"] == "LPS 5"
    assert sizes["spacing, mm"] == "1 x 1 x 1 to 1 x 1 x 1"


def test_values_that_nothing_makes_black_and_white_stop_as_in_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, voxels in (("imagesTr", rng.integers(-1000, 400, (16, 16, 4))), ("labelsTr", np.eye(16)[..., None])):
        (tmp_path / folder).mkdir()
        name = "p0_0000.nii.gz" if folder == "imagesTr" else "p0.nii.gz"
        stored = np.broadcast_to(voxels, (16, 16, 4)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(stored, np.diag([-1.0, -1, 1, 1])), tmp_path / folder / name)
    named = Reading(classes=("background", "organ"), values=(0, 1))
    bare = check(tmp_path, named)
    (found,) = [problem for problem in bare.problems if problem.effect == "stops training"]
    assert found.what == "values of type int16, and nothing says which become black and white"
    assert bare.classes == {"background": 960, "organ": 64}  # the labels are counted all the same
    assert check(tmp_path, named, PixelValues(window="abdomen")).ok


def test_few_volumes_are_decoded_where_few_are_asked_for(root: Path) -> None:
    found = check(root, decode_at_most=1)
    counts, classes = found.counts, found.classes
    assert counts["volumes decoded"] == 1
    assert sum(classes.values()) == 48 * 48 * 6
    assert sum(check(root, decode_at_most=0).classes.values()) == 0


@pytest.mark.parametrize(
    ("to", "words"),
    [
        (np.zeros((48, 48, 7), np.uint8), "other numbers of voxels"),
        (np.full((48, 48, 6), 0.5, np.float32), "a label of 0.5"),
        (np.full((48, 48, 6), 3, np.uint8), "labels of no class: 3"),
    ],
)
def test_labels_that_training_would_stop_at(to: np.ndarray, words: str, root: Path) -> None:
    change(next(root.glob("*00002/*_seg.nii.gz")), to)
    assert says(root, words) == "stops training"


def test_empty_labels_and_flat_volumes_are_worth_a_look(root: Path) -> None:
    change(next(root.glob("*00002/*_seg.nii.gz")), np.zeros((48, 48, 6), np.uint8))
    assert says(root, "labels of one value everywhere") == "kept"
    change(next(root.glob("*00002/*_t1.nii.gz")), np.zeros((48, 48, 6), np.int16))
    assert says(root, "volume of one value everywhere") == "kept"


def test_labels_beside_their_image_stop(root: Path) -> None:
    affine = np.diag([-1.0, -1, 1, 1])
    affine[0, 3] = 30
    change(next(root.glob("*00002/*_seg.nii.gz")), None, affine)
    assert says(root, "image and labels at different places") == "stops training"


def test_mixed_orientations_and_spacings_are_said(root: Path) -> None:
    path = root / "BraTS2021_00001"
    for file in path.iterdir():
        nibabel.save(nibabel.as_closest_canonical(nibabel.Nifti1Image.from_filename(file)), file)
    assert says(root, "orientations of the files differ") == "kept"
    for file in path.iterdir():
        change(file, None, np.diag([-1.0, -1, 5, 1]))
    assert says(root, "spacing of slices differs more than 4 times") == "kept"


def test_the_same_voxels_under_two_names_are_found_whatever_their_orientation(root: Path) -> None:
    shutil.copytree(root / "BraTS2021_00001", root / "BraTS2021_00009")
    for file in (root / "BraTS2021_00009").iterdir():
        nibabel.save(
            nibabel.as_closest_canonical(nibabel.Nifti1Image.from_filename(file)),
            file.with_name(file.name.replace("00001", "00009")),
        )
        file.unlink()
    problems = check(root).problems
    copies = [problem for problem in problems if problem.what == "the same voxels under several names"]
    assert [problem.places for problem in copies] == [("BraTS2021_00001, BraTS2021_00009",)]


def test_missing_labels_and_damaged_files_are_named(root: Path) -> None:
    next(root.glob("*00002/*_seg.nii.gz")).unlink()
    assert says(root, "without labels") == "stops training"
    with pytest.raises(UserError, match="without labels"):
        VolumeDataConfig(root=root).build()
    file = next(root.glob("*00003/*_t1.nii.gz"))
    file.write_bytes(file.read_bytes()[:1000])
    assert says(root, "cannot read the voxels") == "stops training"


def test_ct_without_air_is_doubted() -> None:
    assert not [what for what in volumes(amos_folder()) if "Hounsfield" in what]


def test_ct_stored_without_its_intercept_is_named(tmp_path: Path) -> None:
    shutil.copytree(amos_folder(), tmp_path / "amos")
    path = next((tmp_path / "amos" / "imagesTr").glob("*0004*"))
    change(path, np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj) + np.int16(1024))
    assert says(tmp_path / "amos", "not in Hounsfield units") == "kept"


def test_a_patient_in_two_splits_stops_training_as_it_does_there(tmp_path: Path) -> None:
    shutil.copytree(amos_folder(), tmp_path / "a")
    for kind in ("images", "labels"):
        for split, name in (("Tr", "sub-1_a"), ("Va", "sub-1_b")):
            source = next((tmp_path / "a" / f"{kind}Tr").glob("amos_0004*"))
            target = tmp_path / "nifti" / f"{kind}{split}" / f"{name}.nii.gz"
            target.parent.mkdir(parents=True)
            shutil.copy(source, target)
    assert says(tmp_path / "nifti", "is in several splits") == "stops training"
    with pytest.raises(UserError, match="is in several splits"):
        VolumeDataConfig(root=tmp_path / "nifti", split="train", classes=("a", "b")).build()
    assert says(tmp_path / "nifti", "nothing says what label values mean") == "stops training"


def test_a_split_alone_can_be_looked_at() -> None:
    assert check(amos_folder(), split="val").counts["volumes"] == 2
    with pytest.raises(UserError, match="no split"):
        check(amos_folder(), split="x")

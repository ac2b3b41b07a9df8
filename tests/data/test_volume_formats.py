"""Collections of volumes in the layouts of public data sets, split by patient."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from vistruct.data.formats.detect import detect, matching
from vistruct.data.formats.order import recoded
from vistruct.data.formats.volumes.names import by_case
from vistruct.data.selection import BEYOND_FRACTION
from vistruct.data.volumes import (
    ELSEWHERE,
    EMPTY_SLICE,
    LACKS_MODALITY,
    WITHOUT_LABELS,
    VolumeDataConfig,
)
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake
from vistruct.files.volume_files import clear_volumes
from vistruct.issues import IssueCounter
from vistruct.samples.made_volumes import amos_folder, brats_folder

MR = Intake(percentiles=(0.5, 99.5))
TWO = ("background", "organ")


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1, 2, 1]) if affine is None else affine), path)
    return path


def pair(image: Path, label: Path, seed: int = 0) -> None:
    voxels = np.random.default_rng(seed).integers(0, 500, (4, 5, 3)).astype(np.int16)
    save(image, voxels)
    save(label, (voxels > 250).astype(np.uint8))


def plain(root: Path, names: tuple[str, ...] = ("a", "b", "c", "d")) -> Path:
    for number, name in enumerate(names):
        pair(root / "images" / f"{name}.nii.gz", root / "labels" / f"{name}.nii.gz", number)
    return root


def groups(data: VolumeDataConfig) -> set[str]:
    return {record.group for record in data.build().records}


def test_amos_has_its_splits_classes_and_window() -> None:
    root = amos_folder()
    assert detect(root, "volumes") == "amos2022"
    train, val = (VolumeDataConfig(root=root, split=split).build() for split in ("train", "val"))
    assert {record.image_id for record in train.records} == {"amos_0004", "amos_0005"}
    assert {record.image_id for record in val.records} == {"amos_0008", "amos_0013"}
    assert len(train.info.class_names) == 16
    assert (train.records[7].id, train.records[7].slice) == ("amos_0005@z001", 1)
    assert train.records[0].notes["spacing_mm"].split()[0] == "5"
    sample = train.sample(3, 0)
    assert sample.images[0].shape == (3, 48, 48)
    assert sample.label_map is not None
    assert sorted(sample.label_map.unique().tolist()) == [0, 1, 2, 6]
    assert (train.truth(3) == sample.label_map).all()
    assert train.report.counts.total() == 1  # the MR volume, said and not silently passed over


def test_the_mr_volumes_of_amos_are_a_format_of_their_own() -> None:
    data = VolumeDataConfig(root=amos_folder(), format="amos2022_mr", split="train").build()
    assert {record.image_id for record in data.records} == {"amos_0507"}
    assert data.sample(3, 0).images[0].float().std() > 10


def test_brats_has_four_channels_and_three_labels() -> None:
    root = brats_folder()
    assert detect(root, "volumes") == "brats2021"
    data = VolumeDataConfig(root=root).build()
    sample = data.sample(3, 0)
    assert (data.info.channels, sample.images[0].shape) == (4, (4, 48, 48))
    assert sample.label_map is not None
    assert sorted(sample.label_map.unique().tolist()) == [0, 1, 2, 3]  # 4 on disk is class 3
    corner = sample.images[0][:, 0, 0].tolist()
    assert corner == [0, 0, 0, 0]  # outside of the skull
    one = VolumeDataConfig(root=root, modalities=("flair", "t1")).build()
    assert (one.sample(3, 0).images[0][1] == sample.images[0][0]).all()
    assert (one.sample(3, 0).images[0][0] == sample.images[0][3]).all()


def test_a_patient_without_a_sequence_is_left_out_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "brats"
    shutil.copytree(brats_folder(), root)
    next(root.glob("*00003/*_t2.nii.gz")).unlink()
    data = VolumeDataConfig(root=root).build()
    assert data.info.counts["patients"] == 4
    assert sum(data.report.counts.values()) == 1


def test_neighbours_become_channels_and_grey_is_not_repeated_then() -> None:
    data = VolumeDataConfig(root=amos_folder(), split="train", neighbours=1).build()
    assert data.info.channels == 3
    middle, after = data.sample(2, 0).images[0], data.sample(3, 0).images[0]
    assert (middle[2] == after[1]).all()
    assert not (middle[0] == middle[1]).all()


@pytest.mark.parametrize(
    ("image", "label", "case"),
    [
        ("images/a.nii.gz", "labels/a.nii.gz", "a"),
        ("images/a.nii", "masks/a.nii.gz", "a"),
        ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "a"),
        ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "a"),
        ("images/train/a.nii.gz", "labels/train/a.nii.gz", "a"),
        ("train/images/a.nii.gz", "train/labels/a.nii.gz", "a"),
        ("a/image.nii.gz", "a/label.nii.gz", "a"),
        ("a/ct.nii.gz", "a/segmentation.nii", "a"),
        ("a.nii.gz", "a_seg.nii.gz", "a"),
    ],
)
def test_the_usual_layouts_of_nifti_are_found(image: str, label: str, case: str, tmp_path: Path) -> None:
    pair(tmp_path / image, tmp_path / label)
    assert matching(tmp_path, "volumes") == ["nifti"]
    data = VolumeDataConfig(root=tmp_path, classes=TWO, intake=MR).build()
    assert {record.image_id for record in data.records} == {case}
    assert data.records[0].images == (tmp_path / image,)
    assert data.records[0].label_map == tmp_path / label
    assert len(data) == 3


def test_four_digits_are_modalities(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "imagesTr" / f"a_000{number}.nii.gz", np.full((2, 2, 2), number * 9, np.uint8))
    save(tmp_path / "labelsTr" / "a.nii.gz", np.zeros((2, 2, 2), np.uint8))
    data = VolumeDataConfig(root=tmp_path, classes=TWO).build()
    assert data.sample(0, 0).images[0][:, 0, 0].tolist() == [0, 9]


@pytest.mark.parametrize("labels", [{"0": "nothing", "2": "liver"}, {"nothing": 0, "liver": 2}])
def test_classes_come_from_dataset_json_either_way_round(labels: dict[str, object], tmp_path: Path) -> None:
    pair(tmp_path / "imagesTr" / "a.nii.gz", tmp_path / "labelsTr" / "a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    coding = VolumeDataConfig(root=tmp_path).coding_used()
    assert (coding.classes, coding.values) == (("nothing", "liver"), (0, 2))


def test_labels_that_nobody_named_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing says what the label values mean"):
        VolumeDataConfig(root=plain(tmp_path), intake=MR).build()


def test_values_that_nothing_makes_black_and_white_are_told_before_any_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="type int16, and nothing says which become black") as raised:
        VolumeDataConfig(root=plain(tmp_path), classes=TWO).build()
    assert "--percentiles 0.5,99.5" in str(raised.value.fix)
    assert VolumeDataConfig(root=plain(tmp_path), classes=TWO, intake=MR).build()


def test_a_dataset_json_that_is_none_is_an_error(tmp_path: Path) -> None:
    (plain(tmp_path) / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="not valid json"):
        VolumeDataConfig(root=tmp_path).build()


def test_drawn_splits_are_disjoint_by_patient_complete_and_the_same_every_time(tmp_path: Path) -> None:
    names = tuple(f"P{patient:02d}_{visit}" for patient in range(10) for visit in range(2))
    shares = {"train": 0.6, "val": 0.2, "test": 0.2}
    found = {
        split: groups(
            VolumeDataConfig(
                root=plain(tmp_path / "set", names),
                classes=TWO,
                intake=MR,
                random_split=shares,
                split=split,
                patient=r"^(P\d+)_",
            )
        )
        for split in shares
    }
    assert [len(found[split]) for split in shares] == [6, 2, 2]
    assert set.union(*found.values()) == {f"P{patient:02d}" for patient in range(10)}
    again = VolumeDataConfig(
        root=tmp_path / "set",
        classes=TWO,
        intake=MR,
        random_split=shares,
        split="val",
        patient=r"^(P\d+)_",
        split_seed=1,
    )
    assert groups(again) != found["val"]


def test_a_patient_in_two_splits_is_an_error_that_names_both_cases(tmp_path: Path) -> None:
    for split, name in (("train", "P1_a"), ("test", "P1_b"), ("test", "P2_a")):
        pair(tmp_path / split / "images" / f"{name}.nii.gz", tmp_path / split / "labels" / f"{name}.nii.gz")
    by_patient = VolumeDataConfig(root=tmp_path, split="train", classes=TWO, intake=MR, patient="(P.)_")
    with pytest.raises(UserError, match=r"P1 is in several splits: P1_b in test, P1_a in train"):
        by_patient.build()
    assert len(by_patient.model_copy(update={"patient": None}).build()) == 3


def test_a_bids_subject_is_the_patient(tmp_path: Path) -> None:
    for split, name in (("train", "sub-01_ses-1"), ("test", "sub-01_ses-2")):
        pair(tmp_path / split / "images" / f"{name}.nii.gz", tmp_path / split / "labels" / f"{name}.nii.gz")
    with pytest.raises(UserError, match="sub-01 is in several splits"):
        VolumeDataConfig(root=tmp_path, split="train", classes=TWO, intake=MR).build()


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "no regular expression"), ("a", "no patient"), ("(x)", "no patient")]
)
def test_patterns_that_name_no_patient_are_errors(pattern: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        VolumeDataConfig(root=plain(tmp_path), classes=TWO, intake=MR, patient=pattern).build()


def test_a_share_is_of_patients_and_a_larger_one_contains_a_smaller(tmp_path: Path) -> None:
    root = plain(tmp_path, tuple("abcdefgh"))
    found = [
        groups(VolumeDataConfig(root=root, classes=TWO, intake=MR, fraction=share)) for share in (0.01, 0.25, 0.5, 1)
    ]
    assert [len(one) for one in found] == [1, 2, 4, 8]
    assert found[0] < found[1] < found[2] < found[3]
    report = VolumeDataConfig(root=root, classes=TWO, intake=MR, fraction=0.5).build().report
    assert report.counts[BEYOND_FRACTION] == 4


def test_empty_slices_are_left_out_as_far_as_asked(tmp_path: Path) -> None:
    labels = np.zeros((4, 4, 10), np.uint8)
    labels[0, 0, 4:6] = 1
    save(tmp_path / "images" / "a.nii.gz", np.zeros(labels.shape, np.uint8))
    save(tmp_path / "labels" / "a.nii.gz", labels)
    for share, left in ((0.0, 2), (0.5, 6), (1.0, 10)):
        data = VolumeDataConfig(root=tmp_path, classes=TWO, empty=share).build(tmp_path / "cache")
        assert len(data) == left
        assert data.report.counts[EMPTY_SLICE] == 10 - left
        assert {4, 5} <= {record.slice for record in data.records}


def test_volumes_without_labels_stop_or_drop_out(tmp_path: Path) -> None:
    (plain(tmp_path) / "labels" / "b.nii.gz").unlink()
    data = VolumeDataConfig(root=tmp_path, classes=TWO, intake=MR)
    with pytest.raises(UserError, match="without labels") as error:
        data.build()
    assert "b.nii.gz" in error.value.where
    dropped = data.model_copy(update={"missing": "drop"}).build()
    assert (len(dropped), dropped.report.counts[WITHOUT_LABELS]) == (9, 1)
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(UserError, match="none of 4 volumes has labels"):
        data.model_copy(update={"missing": "drop"}).build()


def test_cases_without_a_modality_stop_or_drop_out(tmp_path: Path) -> None:
    for name, numbers in (("a", (0, 1)), ("b", (0,))):
        for number in numbers:
            save(tmp_path / "imagesTr" / f"{name}_000{number}.nii.gz", np.zeros((2, 2, 2), np.uint8))
        save(tmp_path / "labelsTr" / f"{name}.nii.gz", np.zeros((2, 2, 2), np.uint8))
    data = VolumeDataConfig(root=tmp_path, classes=TWO)
    with pytest.raises(UserError, match="no modality '0001'"):
        data.build()
    dropped = data.model_copy(update={"missing": "drop"}).build()
    assert (len(dropped), dropped.report.counts[LACKS_MODALITY]) == (2, 1)
    with pytest.raises(UserError, match="no modality 't9'"):
        data.model_copy(update={"modalities": ("t9",)}).build()


def test_labels_of_another_shape_or_at_another_place_are_an_error_that_says_how_far(tmp_path: Path) -> None:
    plain(tmp_path, ("a",))
    data = VolumeDataConfig(root=tmp_path, classes=TWO, intake=MR)
    shifted = np.diag([-1.0, -1, 2, 1])
    shifted[0, 3] = 3
    save(tmp_path / "labels" / "a.nii.gz", np.zeros((4, 5, 3), np.uint8), shifted)
    with pytest.raises(UserError, match=r"3\.0 mm apart"):
        data.build()
    shifted[0, 3] = 0.4
    save(tmp_path / "labels" / "a.nii.gz", np.zeros((4, 5, 3), np.uint8), shifted)
    assert not data.build().report.counts  # less than half a voxel: the nearest voxel is the same
    save(tmp_path / "labels" / "a.nii.gz", np.zeros((4, 5, 4), np.uint8))
    with pytest.raises(UserError, match="other numbers of voxels"):
        data.build()


def test_an_array_whose_header_mirrors_it_is_never_read_mirrored(tmp_path: Path) -> None:
    """Labels saved without the affine of their image, as many a script does."""
    plain(tmp_path, ("a",))
    data = VolumeDataConfig(root=tmp_path, classes=TWO, intake=MR)
    expected = [data.build().truth(number) for number in range(3)]
    array = np.asarray(nibabel.Nifti1Image.from_filename(tmp_path / "labels" / "a.nii.gz").dataobj)
    save(tmp_path / "labels" / "a.nii.gz", array, np.diag([1.0, 1, 2, 1]))
    with pytest.raises(UserError, match="at different places") as error:
        data.build()
    assert "--label-grid image" in error.value.fix
    for empty in (1.0, 0.5):
        told = data.model_copy(update={"label_grid": "image", "empty": empty}).build(tmp_path / f"cache{empty}")
        assert told.report.counts[ELSEWHERE] == 1
        for number in range(3):
            assert (told.truth(number) == expected[number]).all()


def test_modalities_at_different_places_are_an_error(tmp_path: Path) -> None:
    for number in range(2):
        affine = np.diag([1.0, 1, 1 + number, 1])
        save(tmp_path / "imagesTr" / f"a_000{number}.nii.gz", np.zeros((2, 2, 2), np.uint8), affine)
    save(tmp_path / "labelsTr" / "a.nii.gz", np.zeros((2, 2, 2), np.uint8), np.eye(4))
    with pytest.raises(UserError, match="modalities at different places"):
        VolumeDataConfig(root=tmp_path, classes=TWO).build()


def described_set(root: Path, **said: object) -> Path:
    """Two cases of two modalities in one file each."""
    for name in "ab":
        voxels = np.stack([np.full((2, 3, 2), 9, np.uint8), np.full((2, 3, 2), 40, np.uint8)], axis=-1)
        save(root / "imagesTr" / f"{name}.nii.gz", voxels)
        save(root / "labelsTr" / f"{name}.nii.gz", np.zeros((2, 3, 2), np.uint8))
    if said:
        (root / "dataset.json").write_text(json.dumps(said))
    return root


@pytest.mark.parametrize("key", ["modality", "channel_names"])
def test_a_fourth_axis_holds_the_modalities_that_dataset_json_names(key: str, tmp_path: Path) -> None:
    root = described_set(tmp_path, **{key: {"1": "ADC", "0": "T2"}})
    data = VolumeDataConfig(root=root, classes=TWO)
    for cache in (None, tmp_path / "cache"):
        assert data.build(cache).sample(0, 0).images[0][:, 0, 0].tolist() == [9, 40]
        one = data.model_copy(update={"modalities": ("ADC",)}).build(cache)
        assert one.sample(0, 0).images[0][:, 0, 0].unique().tolist() == [40]
    shown = data.build().info.input["slices"]
    assert tuple(shown["modalities"]) == ("T2", "ADC")


def test_a_fourth_axis_that_nobody_names_is_taken_by_its_numbers_where_they_are_asked_for(tmp_path: Path) -> None:
    data = VolumeDataConfig(root=described_set(tmp_path), classes=TWO)
    with pytest.raises(UserError, match="--modalities 0,1"):
        data.build()
    told = data.model_copy(update={"modalities": ("1", "0")}).build()
    assert told.sample(0, 0).images[0][:, 0, 0].tolist() == [40, 9]


@pytest.mark.parametrize(
    ("images", "label"),
    [
        (["volume-1.nii"], "segmentation-1.nii"),
        (["a_image.nii.gz"], "a_label.nii.gz"),
        (["img0001.nii.gz"], "label0001.nii.gz"),
        (["case/case_t1.nii.gz", "case/case_t2.nii.gz"], "case/case_seg.nii.gz"),
        (["images/volume-1.nii"], "labels/segmentation-1.nii"),
    ],
)
def test_more_names_of_pairs(images: list[str], label: str, tmp_path: Path) -> None:
    for name in images:
        save(tmp_path / name, np.zeros((2, 2, 2), np.uint8))
    save(tmp_path / label, np.ones((2, 2, 2), np.uint8))
    data = VolumeDataConfig(root=tmp_path, classes=TWO).build()
    assert (data.records[0].images, data.records[0].label_map) == (
        tuple(tmp_path / name for name in images),
        tmp_path / label,
    )


def test_four_digits_that_count_cases_are_no_modalities(tmp_path: Path) -> None:
    files = [tmp_path / f"amos_00{number}.nii.gz" for number in ("04", "05", "13")]
    assert len(by_case(files)) == 3
    cases = [tmp_path / f"case_000{number}.nii.gz" for number in range(3)]
    assert len(by_case(cases)) == 3
    assert list(by_case(cases, listed=3)) == ["case"]
    assert list(by_case(cases, wanted=("0000", "0001", "0002"))) == ["case"]
    assert len(by_case(cases, known=("case_0000", "case_0001", "case_0002"))) == 3


def test_labels_stored_in_another_orientation_lie_on_their_voxels(tmp_path: Path) -> None:
    plain(tmp_path, ("a",))
    data = VolumeDataConfig(root=tmp_path, classes=TWO, intake=MR)
    expected = [data.build().truth(number) for number in range(3)]
    path = tmp_path / "labels" / "a.nii.gz"
    image = nibabel.Nifti1Image.from_filename(path)
    nibabel.save(nibabel.as_closest_canonical(image), tmp_path / "turned.nii.gz")
    shutil.move(tmp_path / "turned.nii.gz", path)
    clear_volumes()
    turned = data.build()
    assert turned.report.counts.total() == 0
    for number in range(3):
        assert (turned.truth(number) == expected[number]).all()


def test_a_label_of_no_class_is_an_error_with_its_file(tmp_path: Path) -> None:
    plain(tmp_path, ("a",))
    save(tmp_path / "labels" / "a.nii.gz", np.full((4, 5, 3), 9, np.uint8))
    with pytest.raises(UserError, match="labels of no class: 9") as error:
        VolumeDataConfig(root=tmp_path, classes=TWO, intake=MR).build().truth(0)
    assert "a.nii.gz" in error.value.where


def test_classes_in_the_order_of_a_model_are_the_same_pixels() -> None:
    coding = Coding(classes=("background", "a", "b"), values=(0, 4, 2), ignored=())
    raster = np.array([[0, 4], [2, 0]])
    other = recoded(coding, ("b", "none", "background", "a"), "")
    names = np.array(other.classes)[other.decode(raster, "")]
    assert names.tolist() == [["background", "a"], ["b", "background"]]
    with pytest.raises(UserError, match="no class 'b' is asked for"):
        recoded(coding, ("background", "a"), "")


def test_several_splits_want_one_to_be_named(tmp_path: Path) -> None:
    for split in ("Tr", "Va"):
        pair(tmp_path / f"images{split}" / f"{split}.nii.gz", tmp_path / f"labels{split}" / f"{split}.nii.gz")
    data = VolumeDataConfig(root=tmp_path, classes=TWO, intake=MR)
    with pytest.raises(UserError, match="several splits"):
        data.build()
    with pytest.raises(UserError, match="no split 'x'"):
        data.model_copy(update={"split": "x"}).build()
    assert len(data.model_copy(update={"split": "train+val"}).build()) == 6
    with pytest.raises(UserError, match="split already"):
        VolumeDataConfig(root=tmp_path, classes=TWO, intake=MR, random_split={"train": 1.0}, split="train").build()


@pytest.mark.parametrize(
    ("shares", "split"), [({"train": 0.9, "test": 0.2}, "train"), ({"train": 0.0}, "train"), ({"train": 0.5}, None)]
)
def test_shares_that_are_no_parts_are_errors(shares: dict[str, float], split: str | None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="random_split"):
        VolumeDataConfig(root=tmp_path, random_split=shares, split=split)


def test_folders_without_volumes_and_unknown_formats_are_errors(tmp_path: Path) -> None:
    assert matching(tmp_path, "volumes") == []
    for root, format_, message in (
        (tmp_path / "none", "auto", "no such file or folder"),
        (tmp_path, "auto", "no volumes are found"),
        (tmp_path, "nifti", "no volumes of format nifti"),
        (tmp_path, "nifty", "no format of volumes"),
    ):
        with pytest.raises(UserError, match=message):
            VolumeDataConfig(root=root, format=format_, classes=TWO).build()


def test_two_cases_of_one_name_are_an_error(tmp_path: Path) -> None:
    for split in ("train", "test"):
        pair(tmp_path / split / "images" / "a.nii.gz", tmp_path / split / "labels" / "a.nii.gz")
    with pytest.raises(UserError, match="two cases are called a"):
        VolumeDataConfig(root=tmp_path, split="train", classes=TWO, intake=MR).build()


def test_a_volume_data_set_travels_to_worker_processes() -> None:
    data = VolumeDataConfig(root=amos_folder(), split="train").build()
    copy = pickle.loads(pickle.dumps(data))
    assert (copy.sample(3, 0).images[0] == data.sample(3, 0).images[0]).all()


def test_the_fingerprint_sees_another_volume_and_not_another_folder(tmp_path: Path) -> None:
    one, other = plain(tmp_path / "one"), plain(tmp_path / "other")
    prints = [VolumeDataConfig(root=root, classes=TWO, intake=MR).build().info.fingerprint for root in (one, other)]
    assert prints[0] == prints[1]
    pair(one / "images" / "e.nii.gz", one / "labels" / "e.nii.gz")
    assert VolumeDataConfig(root=one, classes=TWO, intake=MR).build().info.fingerprint != prints[0]


def test_what_a_model_must_know_to_predict_is_known_without_the_data(tmp_path: Path) -> None:
    gone = VolumeDataConfig(root=tmp_path / "gone", format="amos2022")
    assert gone.intake_used() == Intake(window="soft_tissue", channels=3)
    assert gone.coding_used().classes[6] == "liver"
    assert gone.model_copy(update={"neighbours": 1}).intake_used().channels is None


def test_the_room_that_unpacked_copies_take_is_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for folder in ("images", "labels"):
            save(tmp_path / folder / f"{name}.nii.gz", np.zeros((100, 100, 50), np.uint8))
    data = VolumeDataConfig(root=tmp_path, classes=TWO)
    counts = data.build(tmp_path / "cache").info.counts
    assert counts["megabytes of unpacked copies, once all are read"] == 2
    assert len(data.build().info.counts) == 3
    assert len(data.model_copy(update={"unpack": False}).build(tmp_path / "cache").info.counts) == 3


def test_a_report_names_the_volumes_of_the_other_modality() -> None:
    report = IssueCounter()
    VolumeDataConfig(root=amos_folder(), split="train").cases(report)
    assert report.examples[next(iter(report.counts))] == ["amos_0507"]


def test_more_splits_than_patients_are_an_error(tmp_path: Path) -> None:
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    with pytest.raises(UserError, match=r"2 patients .* for 3 splits"):
        VolumeDataConfig(
            root=plain(tmp_path, ("a", "b")), classes=TWO, intake=MR, random_split=shares, split="train"
        ).build()

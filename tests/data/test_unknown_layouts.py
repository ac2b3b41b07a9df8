"""Folders of public data sets are paired, names are matched by their common part, and masks are no classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.data.checks.check import check
from vistruct.data.formats.detect import family_of
from vistruct.data.formats.maps.common_part import by_common_part
from vistruct.data.image_classes import ClassDataConfig
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError

MASK = np.zeros((8, 8), np.uint8)
MASK[2:5, 3:6] = 255


def put(root: Path, *names: str) -> Path:
    """Photographs; masks where `mask`, `label`, `annot`, `manual`, `truth` or `change` is in the name."""
    rng = np.random.default_rng(0)
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        is_mask = any(word in name.lower() for word in ("mask", "label", "annot", "manual", "truth", "change"))
        Image.fromarray(MASK if is_mask else rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(file)
    return root


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (("train/0_01.jpg", "train/1_01.jpg", "train_masks/0_01_mask.gif", "train_masks/1_01_mask.gif"), "train"),
        (("imagesTr/c0_0000.png", "labelsTr/c0.png"), "imagesTr"),
        (("train/0.png", "train_labels/0_L.png"), "train"),
        (("train/a.png", "trainannot/a.png"), "train"),
        (
            (
                "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg",
                "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png",
            ),
            "ISIC2018_Task1-2_Training_Input",
        ),
        (
            (
                "training/images/21_training.tif",
                "training/1st_manual/21_manual1.gif",
                "training/mask/21_training_mask.gif",
            ),
            "images",
        ),
        (("training/s.v1.4_merged.tif", "training/s.v1.4.mask.tif"), "training"),
        (("before/0.jpg", "after/0.jpg", "change_label/0.png"), "before"),
    ],
)
def test_layouts_are_paired(tmp_path: Path, names: tuple[str, ...], images: str) -> None:
    if "imagesTr" in names[0]:
        labels = {"background": 0, "road": 255, "ignore": 7}
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".png"}))
    put(tmp_path, *names)
    assert family_of(tmp_path).kind == "maps"
    dataset = MapDataConfig(root=tmp_path).build()
    first = dataset.records[0]
    assert first.images[0].parent.name == images
    assert (dataset.truth(0).numpy() == (MASK > 0)).all()
    assert first.label_map is not None
    assert "training_mask" not in first.label_map.name
    assert check(tmp_path).ok


def test_a_channel_in_a_file_of_its_own_is_not_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "imagesTr/c0_0000.png", "imagesTr/c0_0001.png", "labelsTr/c0.png")
    with pytest.raises(UserError, match="a channel each"):
        MapDataConfig(root=tmp_path).build()


def test_rasters_of_few_values_beside_photographs_of_the_same_names_are_no_class(tmp_path: Path) -> None:
    put(tmp_path, *(f"{folder}/{number}.png" for folder in ("photos", "truth") for number in range(3)))
    with pytest.raises(UserError, match="truth looks like label maps of photos") as caught:
        family_of(tmp_path)
    assert caught.value.fix == "--images photos --labels truth"
    assert len(MapDataConfig(root=tmp_path, images="photos", labels="truth").build()) == 3
    put(tmp_path / "classes", *(f"{folder}/{number}.png" for folder in ("in", "out") for number in range(3)))
    assert family_of(tmp_path / "classes").kind == "image_classes"


@pytest.mark.parametrize(
    ("folders", "keys"),
    [
        ([["0_2018_pre", "1_2018_pre"], ["0_2019_post", "1_2019_post"], ["0_change", "1_change"]], {"0", "1"}),
        ([["0_2018_pre", "1_2017_pre"], ["0_2019_post", "1_2020_post"], ["0_change", "1_change"]], {"0", "1"}),
        ([["scene_2018_a_01"], ["scene_2019_b_01"]], {"scene"}),
        ([["ghana_1_s2hand", "ghana_22_s2hand"], ["ghana_1_labelhand", "ghana_22_labelhand"]], {"1", "22"}),
        ([["a_1", "b_1"], ["a_1", "c_1"]], None),
        ([["a", "b"], ["a"]], None),
    ],
)
def test_names_meet_in_their_common_part(folders: list[list[str]], keys: set[str] | None) -> None:
    found = by_common_part([[(f"{stem}.png", Path(stem)) for stem in folder] for folder in folders])
    assert (None if found is None else set(found[0])) == keys
    assert found is None or all(set(one) == keys for one in found)


def test_pairs_with_dates_and_ends_of_both_images(tmp_path: Path) -> None:
    names = [f"{n}/{k}_{e}" for k in (0, 1) for n, e in (("A", "2018_pre.jpg"), ("B", "2019_post.jpg"))]
    put(tmp_path, *names, "label/0_change.png", "label/1_change.png")
    (first, _) = MapDataConfig(root=tmp_path).build().records
    assert [file.name for file in first.images] == ["0_2018_pre.jpg", "0_2019_post.jpg"]
    (tmp_path / "B" / "1_2019_post.jpg").unlink()
    ends = {"image_suffix": "_2018_pre,_2019_post", "label_suffix": "_change"}
    with pytest.raises(UserError, match=r"1 first images have no second: .*1_2018_pre\.jpg"):
        MapDataConfig(root=tmp_path, **ends).build()
    assert len(MapDataConfig(root=tmp_path, **ends, missing="drop").build()) == 1


def test_a_class_that_one_split_lacks_is_counted_and_one_that_all_lack_is_named(tmp_path: Path) -> None:
    put(tmp_path, *(f"{split}/{name}/{split}{name}.png" for split in ("train", "val") for name in ("bare", "crop")))
    (tmp_path / "train" / "beach").mkdir()
    with pytest.raises(UserError, match="a class without images") as caught:
        ClassDataConfig(root=tmp_path, split="train").build()
    assert caught.value.where.endswith("beach")
    assert len(ClassDataConfig(root=tmp_path, split="train", drop=("beach",)).build()) == 2
    put(tmp_path, "train/beach/0.png")
    assert len(ClassDataConfig(root=tmp_path, split="val").build()) == 2


def test_a_table_of_which_no_line_has_the_right_columns_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,label\na.jpg,sea, calm\nb.jpg,sea, rough\n")
    result = check(tmp_path)
    assert not result.ok
    assert "quote commas" in {problem.fix for problem in result.problems}

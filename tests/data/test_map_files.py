"""Images and label rasters find each other in every layout that people keep them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vistruct.data.formats.detect import detect, matching, splits_of
from vistruct.data.formats.format import Ask
from vistruct.data.formats.read import read
from vistruct.errors import UserError
from vistruct.files.coding import Coding

TWO = Coding(classes=("ground", "roof"))


def put(root: Path, *names: str, size: tuple[int, int] = (6, 4), value: int = 0) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = "RGB" if path.suffix == ".jpg" else "L"
        Image.new(mode, size, (value,) * 3 if mode == "RGB" else value).save(path)
    return root


def pairs(root: Path, **wish: Any) -> dict[str, str]:
    """Paths of labels by those of images, below the root."""
    found, _ = read(root, "maps", format="mask_folders", ask=Ask(coding=TWO, **wish))
    return {
        record.images[0].relative_to(root).as_posix(): record.label_map.relative_to(root).as_posix()
        for record in found.records
        if record.label_map is not None
    }


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a.jpg", "masks/a.png"),
        ("images/a.png", "labels/a.png"),
        ("JPEGImages/a.jpg", "SegmentationClass/a.png"),
        ("img_dir/a.tif", "ann_dir/a.png"),
        ("imgs/city/a.png", "gt/city/a.png"),
        ("images/a.jpg", "masks/a_mask.png"),
        ("images/a_sat.jpg", "masks/a_mask.png"),
        ("images/A.JPG", "annotations/a.png"),
        ("images/city/a_leftImg8bit.png", "labels/city/a_gtFine_labelTrainIds.png"),
        ("images/images/a.png", "Semantic_masks/a_instance_color_RGB.png"),
        ("a_sat.jpg", "a_mask.png"),
        ("a.jpg", "a_mask.png"),
        ("a_image.png", "a_label.png"),
        ("a.jpg", "a.png"),
    ],
)
def test_a_layout_is_found_without_a_word(tmp_path: Path, image: str, label: str) -> None:
    put(tmp_path, image, label, image.replace("a", "b", 1) if "/" not in image else image, label)
    if "/" not in image:
        put(tmp_path, label.replace("a", "b", 1))
    assert detect(tmp_path, "maps") in ("mask_folders", "isaid")
    assert pairs(tmp_path)[image] == label


@pytest.mark.parametrize(
    "layout",
    [
        ("img_dir/{}/a.jpg", "ann_dir/{}/a.png"),
        ("{}/images/a.jpg", "{}/masks/a.png"),
        ("{}_images/a.jpg", "{}_masks/a.png"),
        ("images_{}/a.jpg", "masks_{}/a.png"),
        ("data/{}/images/a.jpg", "data/{}/masks/a.png"),
        ("{}/a_sat.jpg", "{}/a_mask.png"),
    ],
)
def test_splits_may_be_inside_around_or_in_the_names(tmp_path: Path, layout: tuple[str, str]) -> None:
    for split in ("train", "val"):
        put(tmp_path, *(name.format(split) for name in layout))
    assert set(splits_of(tmp_path, "mask_folders")) == {"train", "val"}
    for split in ("train", "val"):
        assert pairs(tmp_path, split=split) == {layout[0].format(split): layout[1].format(split)}
    assert len(pairs(tmp_path, split="train+val")) == 2
    with pytest.raises(UserError, match="several splits"):
        pairs(tmp_path)
    with pytest.raises(UserError, match="no split 'test'"):
        pairs(tmp_path, split="test")


@pytest.mark.parametrize("folder", ["ImageSets/Segmentation", "list", "splits", "."])
def test_lists_choose_in_their_order(tmp_path: Path, folder: str) -> None:
    put(tmp_path, *(f"JPEGImages/{n}.jpg" for n in "abc"), *(f"SegmentationClass/{n}.png" for n in "abc"))
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "train.txt").write_text("c\na.jpg\n")
    (tmp_path / folder / "val.txt").write_text("JPEGImages/b.jpg\n")
    assert list(pairs(tmp_path, split="train")) == ["JPEGImages/c.jpg", "JPEGImages/a.jpg"]
    assert list(pairs(tmp_path, split="val")) == ["JPEGImages/b.jpg"]
    (tmp_path / folder / "val.txt").write_text("b\nzz\n")
    with pytest.raises(UserError, match="1 of 2 listed images are not on disk: zz"):
        pairs(tmp_path, split="val")


def test_the_user_names_folders_and_ends_of_names(tmp_path: Path) -> None:
    put(tmp_path, "pictures/x_a.png", "pictures/x_b.png", "truth/x_1.png", "truth/x_2.png")
    wish: dict[str, Any] = {"images": "pictures", "labels": "truth", "image_suffix": "_b", "label_suffix": "_2.png"}
    assert pairs(tmp_path, **wish) == {"pictures/x_b.png": "truth/x_2.png"}
    found, _ = read(tmp_path, "maps", ask=Ask(coding=TWO, **wish))  # folders that are named need no format
    assert [record.id for record in found.records] == ["x_b.png"]
    with pytest.raises(UserError, match="no such folder of labels"):
        pairs(tmp_path, images="pictures", labels="nowhere")


def test_images_and_labels_without_each_other_stop_or_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "images/b.jpg", "masks/a.png", "masks/c.png")
    with pytest.raises(UserError, match="1 images have no label map") as caught:
        pairs(tmp_path)
    assert "b.jpg" in caught.value.what
    found, report = read(tmp_path, "maps", ask=Ask(coding=TWO, missing="drop"))
    assert len(found.records) == 1
    assert dict(report.counts) == {
        "image left out: no label map": 1, "label map left out: no image": 1,
        "class without a pixel here, which is in no mean": 1,
    }  # fmt: skip


def test_two_files_that_could_be_meant_are_a_mistake(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "images/a.png", "masks/a.png")
    with pytest.raises(UserError, match="2 files could be meant"):
        pairs(tmp_path)


def test_files_of_different_sizes_are_a_mistake_that_names_both(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg")
    put(tmp_path, "masks/a.png", size=(5, 4))
    with pytest.raises(UserError, match=r"5 x 4 pixels, and its image a\.jpg has 6 x 4") as caught:
        pairs(tmp_path)
    assert caught.value.where.endswith("a.png")


def test_text_labels_of_boxes_are_no_label_maps(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert matching(tmp_path, "maps") == []
    with pytest.raises(UserError, match="no folder of images beside one of label rasters"):
        pairs(tmp_path)


def test_an_empty_folder_and_no_folder_are_mistakes(tmp_path: Path) -> None:
    for path, words in [(tmp_path, "no images with label maps"), (tmp_path / "no", "no such file")]:
        with pytest.raises(UserError, match=words):
            read(path, "maps")


def test_the_folder_of_a_split_may_be_named_instead(tmp_path: Path) -> None:
    put(tmp_path, "train/images/a.jpg", "train/masks/a.png", "val/images/b.jpg", "val/masks/b.png")
    assert list(pairs(tmp_path / "train", split="train")) == list(pairs(tmp_path / "train")) == ["images/a.jpg"]


def test_files_come_in_an_order_that_does_not_depend_on_the_disk(tmp_path: Path) -> None:
    names = [f"{n:03d}" for n in np.random.default_rng(0).permutation(30)]
    put(tmp_path, *(f"images/{n}.jpg" for n in names), *(f"masks/{n}.png" for n in names))
    assert list(pairs(tmp_path)) == sorted(f"images/{n}.jpg" for n in names)

"""Folders, splits and lists of data sets with one annotation file an image, in all the ways they are published."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from box_sets import (
    BoxSet,
    assert_drawn,
    make_dior,
    make_dior_r,
    make_dota,
    make_fair1m,
    make_hrsc,
    make_rsar,
    make_sardet,
    make_ssdd,
    make_voc,
    read_boxes,
)

from vistruct.data.formats.boxes.per_image import UNANNOTATED
from vistruct.data.formats.boxes.places import HULLS, Layout, _refuse_absent, find_places, find_sources, split_lists
from vistruct.data.formats.boxes.published import DOTA_1_0, DOTA_2_0, RSAR
from vistruct.data.formats.detect import detect, matching
from vistruct.data.formats.order import class_order
from vistruct.data.formats.splits import chosen, read_list
from vistruct.errors import UserError

LAYOUT = Layout(
    suffix=".txt",
    annotations=re.compile(r"labels([-_](?P<split>\w+))?", re.IGNORECASE),
    images=re.compile(r"images([-_](?P<split>\w+))?", re.IGNORECASE),
)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("make", "format_"),
    [
        (make_dota, "dota"), (make_rsar, "dota"), (make_dior, "dior"), (make_dior_r, "dior_r"), (make_voc, "voc"),
        (make_fair1m, "fair1m"), (make_hrsc, "hrsc"), (make_ssdd, "voc"), (make_sardet, "coco"),
    ],
)  # fmt: skip
def test_every_published_set_is_one_format_and_no_other(
    tmp_path: Path, make: Callable[[Path], BoxSet], format_: str
) -> None:
    made = make(tmp_path)
    assert matching(tmp_path, "boxes") == [format_]
    for split in made.truth:
        if (tmp_path / split).is_dir():
            assert detect(tmp_path / split, "boxes") == format_
            assert [r.id for r in read_boxes(tmp_path / split)[0]] == [
                r.id for r in read_boxes(tmp_path, split=split)[0]
            ]


def test_sardet_is_read_as_it_was_drawn(tmp_path: Path) -> None:
    made = make_sardet(tmp_path)
    for split, images in made.truth.items():
        records, names, report = read_boxes(tmp_path, split=split)
        assert (names, dict(report.counts)) == (RSAR, {})
        for objects in images.values():
            assert all(one.name in names for one in objects)
        assert [[names[label] for label in record.objects.labels] for record in records] == [
            [one.name for one in objects] for objects in images.values()
        ]


def test_an_empty_folder_and_a_folder_of_pictures_are_no_format(tmp_path: Path) -> None:
    assert matching(tmp_path, "boxes") == []
    touch(tmp_path, "images/a.png", "notes.txt", "labelTxt/readme.md")
    assert matching(tmp_path, "boxes") == []


@pytest.mark.parametrize(
    ("files", "split", "annotation", "images"),
    [
        (["labels/a.txt", "images/a.png"], None, "labels/a.txt", ["images"]),
        (["train/labels/a.txt", "train/images/a.png", "val/labels/a.txt"], "train", "train/labels/a.txt",
         ["train/images"]),
        (["labels/train/a.txt", "images/train/a.png"], "train", "labels/train/a.txt", ["images/train"]),
        (["labels/train/a.txt", "images/a.png"], "train", "labels/train/a.txt", ["images"]),
        (["labels_train/a.txt", "labels_val/a.txt", "images_train/a.png", "images_val/a.png"], "val",
         "labels_val/a.txt", ["images_val"]),
        (["labels_train/a.txt", "images/a.png"], "train", "labels_train/a.txt", ["images"]),
        (["labels/DOTA-v1.5_train/a.txt", "images/a.png"], None, "labels/DOTA-v1.5_train/a.txt", ["images"]),
        (["Labels/a.TXT", "Images/a.png"], None, "Labels/a.TXT", ["Images"]),
        (["a.txt", "a.png"], None, "a.txt", ["."]),
        (["train/part1/labels/a.txt", "train/part1/images/a.png"], "train", "train/part1/labels/a.txt",
         ["train/part1/images"]),
        (["x/labels/a.txt", "x/images/a.png", ".hidden/labels/b.txt"], None, "x/labels/a.txt", ["x/images"]),
    ],
)  # fmt: skip
def test_annotations_and_images_are_found(
    tmp_path: Path, files: list[str], split: str | None, annotation: str, images: list[str]
) -> None:
    touch(tmp_path, *files)
    (source,), _ = find_sources(tmp_path, None, split, LAYOUT)
    assert source.annotation == tmp_path / annotation
    assert source.images == tuple(tmp_path / folder for folder in images)


def test_sets_inside_a_folder_keep_apart_what_has_the_same_name(tmp_path: Path) -> None:
    for kind in ("BBox", "RBox"):
        touch(tmp_path, f"{kind}/labels_train/a.txt", f"{kind}/images_train/a.png")
    assert sorted(find_places(tmp_path, LAYOUT)) == ["BBox/train", "RBox/train"]
    (source,), _ = find_sources(tmp_path, None, "RBox/train", LAYOUT)
    assert source.annotation == tmp_path / "RBox/labels_train/a.txt"


def test_the_official_folder_of_ssdd_is_split_by_kind(tmp_path: Path) -> None:
    made = make_ssdd(tmp_path / "RBox_SSDD" / "voc_style")
    shutil.copytree(tmp_path / "RBox_SSDD", tmp_path / "BBox_SSDD")
    with pytest.raises(UserError, match="BBox_SSDD/train"):
        read_boxes(tmp_path)
    records, names, _ = read_boxes(tmp_path, split="RBox_SSDD/test")
    assert_drawn(records, names, made.truth["test"], kind="oriented")


def test_images_of_another_split_in_the_same_folder_are_not_missed(tmp_path: Path) -> None:
    make_ssdd(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    for split in ("train", "test"):
        for image in (tmp_path / f"JPEGImages_{split}").iterdir():
            image.rename(tmp_path / "JPEGImages" / image.name)
        (tmp_path / f"JPEGImages_{split}").rmdir()
    records, _, report = read_boxes(tmp_path, split="test")
    assert (len(records), dict(report.counts)) == (3, {})
    shutil.rmtree(tmp_path / "Annotations_train")
    assert read_boxes(tmp_path)[2].counts == {UNANNOTATED: 3}  # now nothing says what they are


@pytest.mark.parametrize(
    ("split", "names"), [("train", ["train"]), ("val+train", ["val", "train"]), ("TEST", ["Test"])]
)
def test_splits_are_chosen_by_name(split: str, names: list[str]) -> None:
    assert chosen(split, ["train", "val", "Test"], "here") == names


def test_the_only_split_needs_no_name(tmp_path: Path) -> None:
    assert chosen(None, ["train"], "here") == ["train"]
    with pytest.raises(UserError, match=r"several splits are here: train, val, test\nhere\nsay which: --split train"):
        chosen(None, ["test", "val", "train"], "here")
    with pytest.raises(UserError, match="leave the split out"):
        chosen("val", [""], "here")


def test_lists_are_read_with_endings_folders_and_further_columns(tmp_path: Path) -> None:
    touch(tmp_path, "ImageSets/Main/train.txt", "ImageSets/Main/car_train.txt", "ImageSets/Main/test_inshore.txt")
    assert list(split_lists(tmp_path)) == ["test_inshore", "train"]
    path = tmp_path / "ImageSets" / "Main" / "train.txt"
    path.write_bytes(b"\xef\xbb\xbf000001\r\n images/a.b.JPG \r\n\r\n000002  -1\r\nv1.5\r\nx\\y.png\r\n")
    assert read_list(path) == ["000001", "a.b", "000002", "v1.5", "y"]


def test_a_list_orders_and_counts_a_name_once(tmp_path: Path) -> None:
    touch(tmp_path, "labels/a.txt", "labels/b.txt", "labels/c.txt", "images/a.png")
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "train.txt").write_text("c\na\nc\n")
    sources, is_all = find_sources(tmp_path, None, "train", LAYOUT)
    assert ([source.annotation.stem for source in sources], is_all) == (["c", "a"], False)


def test_published_orders_are_taken_where_half_of_a_list_is_found() -> None:
    published = (DOTA_1_0, DOTA_2_0, RSAR)
    assert class_order(DOTA_1_0[:8], published=published) == DOTA_1_0
    assert class_order(DOTA_1_0[:7], published=published) == tuple(sorted(DOTA_1_0[:7]))
    assert class_order(DOTA_2_0[5:], published=published) == DOTA_2_0
    assert class_order(("ship", "harbor", "bridge"), published=published) == RSAR
    assert class_order(("ship", "harbor"), published=published) == ("harbor", "ship")
    assert class_order((*DOTA_1_0, "other"), published=published) == tuple(sorted((*DOTA_1_0, "other")))
    assert class_order((), published=published) == ()


def test_a_path_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        find_sources(tmp_path / "x", None, None, LAYOUT)
    with pytest.raises(UserError, match=r"no folder of \*.txt annotations here"):
        find_sources(tmp_path, None, None, LAYOUT)


def test_images_beside_their_annotations_come_before_a_neighbour(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.txt", "set/a.png", "set/crops/a.png", "images/a.png", "images-old/a.png")
    (source,), _ = find_sources(tmp_path / "set", None, None, LAYOUT)
    assert source.images == (tmp_path / "set",)


def test_images_below_their_annotations_come_before_a_neighbour(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.txt", "set/images/a.png", "images/a.png")
    (source,), _ = find_sources(tmp_path / "set", None, None, LAYOUT)
    assert source.images == (tmp_path / "set" / "images",)


def test_annotations_in_a_folder_of_the_images(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.png", "set/labels/a.txt", "images/a.png")
    (source,), _ = find_sources(tmp_path / "set", None, None, LAYOUT)
    assert source.images == (tmp_path / "set",)


@pytest.mark.parametrize("format_", ["dota", "voc"])
def test_the_neighbour_of_a_whole_set_is_not_read(tmp_path: Path, format_: str) -> None:
    made = make_dota(tmp_path) if format_ == "dota" else make_voc(tmp_path)
    home = tmp_path / "set"
    home.mkdir()
    files = [file for file in tmp_path.rglob("*") if file.suffix in (".png", ".jpg", ".xml") or "labelTxt" in str(file)]
    for file in files if format_ == "voc" else [file for file in files if "train" in file.parts]:
        if file.is_file():
            shutil.copy(file, home / file.name)
    images = sorted(home.glob("*.[pj][np]g"))
    (tmp_path / "images").mkdir()
    for image in images:
        shutil.copy(image, tmp_path / "images" / image.name)
    records, _, report = read_boxes(home)
    assert [record.images[0] for record in records] == images
    assert not report.counts or format_ == "voc"
    assert made.class_names


def test_two_candidates_are_a_question_and_the_named_folder_answers_it(tmp_path: Path) -> None:
    made = make_voc(tmp_path)
    shutil.copytree(tmp_path / "JPEGImages", tmp_path / "images")
    with pytest.raises(UserError, match=r"several images could be meant.*\n.*JPEGImages.*images.*\n.*--images FOLDER"):
        read_boxes(tmp_path, split="train")
    records, _, _ = read_boxes(tmp_path, tmp_path / "images", split="train")
    assert {record.images[0].parent for record in records} == {tmp_path / "images"}
    assert len(records) == len(made.truth["train"])


def test_annotations_beside_images_in_a_folder_a_split(tmp_path: Path) -> None:
    made = make_voc(tmp_path / "all")
    for split, stems in made.truth.items():
        (tmp_path / split).mkdir()
        for stem in stems:
            for file in (tmp_path / "all").rglob(f"{stem}.*"):
                shutil.copy(file, tmp_path / split)
                (tmp_path / split / f"{stem}.jpg.aux.xml").write_text("<PAMDataset></PAMDataset>")
    shutil.rmtree(tmp_path / "all")
    assert detect(tmp_path, "boxes") == "voc"
    for split, images in made.truth.items():
        records, names, report = read_boxes(tmp_path, split=split)
        assert [record.id for record in records] == [f"{stem}.jpg" for stem in images]
        assert not report.counts
        assert names == ("car", "dog")


@pytest.mark.parametrize(
    ("oriented", "hulls"),
    [
        ("{}/labelTxt-v2.0/DOTA-v2.0_{}", "{}/labelTxt-v2.0/DOTA-v2.0_{}_hbb"),
        ("{}/labelTxt", "{}/{}set_reclabelTxt"),
        ("{}/labelTxt", "{}/labelTxt_hbb"),
    ],
)
def test_of_the_published_dota_the_oriented_boxes_are_taken(tmp_path: Path, oriented: str, hulls: str) -> None:
    made = make_dota(tmp_path)
    for split in made.truth:
        labels, other = tmp_path / oriented.format(split, split), tmp_path / hulls.format(split, split)
        (tmp_path / split / "labelTxt").rename(tmp_path / split / "moved")
        labels.parent.mkdir(exist_ok=True)
        (tmp_path / split / "moved").rename(labels)
        other.mkdir()
        for file in labels.iterdir():
            (other / file.name).write_text("0 0 9 0 9 9 0 9 plane 0\n")
    for split, images in made.truth.items():
        records, names, report = read_boxes(tmp_path, split=split)
        assert_drawn(records, names, images, kind="oriented")
        assert dict(report.counts) == {HULLS: 1}
    records, _, _ = read_boxes(tmp_path, split="train+val")
    assert len(records) == 6


def test_two_versions_of_labels_are_a_question(tmp_path: Path) -> None:
    make_dota(tmp_path)
    shutil.copytree(tmp_path / "train" / "labelTxt", tmp_path / "train" / "labelTxt-v1.5")
    with pytest.raises(UserError, match="two folders of annotations for the same images") as caught:
        read_boxes(tmp_path, split="train")
    assert caught.value.fix.endswith("train/labelTxt-v1.5")
    assert len(read_boxes(tmp_path / "train" / "labelTxt-v1.5")[0]) == 3


def test_a_name_that_no_file_can_have_is_told_as_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 of 1 listed annotation files are not on disk"):
        _refuse_absent([tmp_path / ("9" * 300 + ".xml")], {}, None, tmp_path)

"""Published sets of label maps and of pairs are told, split and decoded as their owners mean them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.contracts import IGNORED
from vistruct.data.formats import names_of
from vistruct.data.formats.detect import detect, splits_of
from vistruct.data.formats.maps import isaid, isprs, loveda, uavid
from vistruct.data.formats.order import recoded
from vistruct.data.formats.read import read
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.samples import made_maps
from vistruct.samples.made_maps import pair, scene


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("make", "format", "splits"),
    [
        (made_maps.loveda_folder, "loveda", ("train", "val")),
        (made_maps.isaid_folder, "isaid", ("train", "val")),
        (made_maps.uavid_folder, "uavid", ("train", "val")),
        (made_maps.levir_folder, "change_folders", ("test", "train", "val")),
        (made_maps.svcd_folder, "change_folders", ("test", "train", "val")),
        (made_maps.whu_folder, "change_folders", ("test", "train", "val")),
        (made_maps.s2looking_folder, "s2looking", ("test", "train", "val")),
    ],
)
def test_a_published_layout_is_told_by_its_content(
    make: Callable[[], Path], format: str, splits: tuple[str, ...]
) -> None:
    root = make()
    assert detect(root, "maps") == format
    assert splits_of(root, format) == splits
    assert make() == root  # the same content at every call, so that a run that names it can be repeated


@pytest.mark.parametrize("name", [name for name in names_of("maps") if name != "objects"])
def test_no_format_takes_an_empty_folder_or_a_file_for_its_own(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("a")
    with pytest.raises(UserError):
        read(tmp_path, "maps", format=name)
    for path in (tmp_path, tmp_path / "file.txt"):
        with pytest.raises(UserError):
            detect(path, "maps")


def truths(config: MapDataConfig) -> dict[str, np.ndarray]:
    dataset = config.build()
    return {record.id: dataset.truth(number).numpy() for number, record in enumerate(dataset.records)}


def test_loveda_counts_from_1_and_0_does_not_count() -> None:
    found = truths(MapDataConfig(root=made_maps.loveda_folder(), split="train"))
    assert sorted(found) == ["0.png", "1.png"]
    for name, label_map in found.items():
        expected = scene(int(name[0]), (64, 64), 7)[1]
        expected[:4, :4] = IGNORED
        np.testing.assert_array_equal(label_map, expected)
    dataset = MapDataConfig(root=made_maps.loveda_folder(), split="train+val").build()
    assert [record.notes["scene"] for record in dataset.records] == ["rural", "urban"] * 2
    assert dataset.info.class_names == loveda.CLASSES
    assert dataset.info.palette == loveda.COLOURS
    with pytest.raises(UserError, match="no split 'test'"):
        MapDataConfig(root=made_maps.loveda_folder(), split="test").build()
    assert len(MapDataConfig(root=made_maps.loveda_folder() / "Val").build()) == 2


def test_isaid_is_read_in_numbers_and_in_colours_alike(tmp_path: Path) -> None:
    root = made_maps.isaid_folder()
    in_numbers = truths(MapDataConfig(root=root, split="train"))
    for folder in ("train", "val"):
        for image in (root / "img_dir" / folder).iterdir():
            save(tmp_path / "img_dir" / folder / image.name, np.array(Image.open(image)))
        for label in (root / "ann_dir" / folder).iterdir():
            colours = isaid.IN_COLOUR.encode(isaid.CODING.decode(np.array(Image.open(label)), label))
            save(tmp_path / "ann_dir" / folder / label.name.replace(isaid.LABEL_END, ""), colours)
    with pytest.raises(UserError, match="no word"):  # nothing says that these are iSAID's
        MapDataConfig(root=tmp_path, split="train").build()
    in_colours = truths(MapDataConfig(root=tmp_path, split="train", format="isaid"))
    assert len(in_numbers) == 2
    assert in_numbers.keys() == in_colours.keys()
    for name in in_numbers:
        np.testing.assert_array_equal(in_numbers[name], in_colours[name])
    records = MapDataConfig(root=root, split="train").build().records
    assert [record.group for record in records] == ["P0000", "P0001"]


def test_uavid_names_frames_by_their_sequence_which_is_their_group() -> None:
    dataset = MapDataConfig(root=made_maps.uavid_folder(), split="train+val").build()
    assert [record.id for record in dataset.records] == [
        f"{seq}/{n:06d}.png" for seq in ("seq1", "seq2", "seq16") for n in (0, 100)
    ]
    assert {record.group for record in dataset.records} == {"seq1", "seq2", "seq16"}
    np.testing.assert_array_equal(dataset.truth(3).numpy(), scene(11, (72, 128), 8)[1])
    assert dataset.info.palette == uavid.COLOURS


def test_uavid_in_numbers_is_the_same(tmp_path: Path) -> None:
    pixels, label_map = scene(0, (16, 24), 8)
    save(tmp_path / "seq1" / "Images" / "000000.png", pixels)
    save(tmp_path / "seq1" / "TrainId" / "000000.png", label_map.astype(np.uint8))
    (found,) = truths(MapDataConfig(root=tmp_path)).values()
    np.testing.assert_array_equal(found, label_map)


def isprs_set(root: Path, images: str, labels: str, tiles: list[str]) -> Path:
    for number, tile in enumerate(tiles):
        pixels, label_map = scene(number, (16, 24), 6)
        label_map[0] = IGNORED
        save(root / images.format(tile), pixels)
        save(root / labels.format(tile), isprs.CODING.encode(label_map))
    return root


@pytest.mark.parametrize(
    ("format", "images", "labels", "tiles"),
    [
        ("potsdam", "2_Ortho_RGB/top_potsdam_{}_RGB.tif", "5_Labels_all/top_potsdam_{}_label.tif", ["2_10", "2_13"]),
        (
            "vaihingen",
            "top/top_mosaic_09cm_area{}.tif",
            "gts_for_participants/top_mosaic_09cm_area{}.tif",
            ["1", "2"],
        ),
    ],
)
def test_isprs_tiles_fall_to_their_official_splits(
    tmp_path: Path, format: str, images: str, labels: str, tiles: list[str]
) -> None:
    isprs_set(tmp_path, images, labels, tiles)
    assert detect(tmp_path, "maps") == format
    assert splits_of(tmp_path, format) == ("train", "test")
    for number, split in enumerate(("train", "test")):
        dataset = MapDataConfig(root=tmp_path, split=split).build()
        assert [record.group for record in dataset.records] == [tiles[number]]
        expected = scene(number, (16, 24), 6)[1]
        expected[0] = IGNORED
        np.testing.assert_array_equal(dataset.truth(0).numpy(), expected)
    (tmp_path / labels.format(tiles[0])).unlink()
    with pytest.raises(UserError, match="no image or no labels"):
        MapDataConfig(root=tmp_path, split="train").build()


def test_the_official_splits_are_disjoint_and_whole() -> None:
    whole = ((isprs.POTSDAM_TRAIN, isprs.POTSDAM_TEST), (isprs.VAIHINGEN_TRAIN, isprs.VAIHINGEN_TEST))
    assert [len(set(tiles)) for splits in whole for tiles in splits] == [24, 14, 16, 17]
    assert not any(set(train) & set(test) for train, test in whole)
    assert {tile for tiles in whole[1] for tile in tiles} <= {str(number) for number in range(1, 39)}


@pytest.mark.parametrize(
    ("make", "side"),
    [
        (made_maps.levir_folder, 64),
        (made_maps.whu_folder, 32),
        (made_maps.s2looking_folder, 32),
        (made_maps.svcd_folder, 32),
    ],
)
def test_a_pair_is_before_then_after_with_what_changed(make: Callable[[], Path], side: int) -> None:
    dataset = MapDataConfig(root=make(), split="train").build()
    assert dataset.info.class_names == ("unchanged", "changed")
    for number in range(2):
        before, after, changed = pair(number, side)
        sample = dataset.sample(number, seed=0)
        assert sample.label_map is not None
        is_lossy = make is made_maps.svcd_folder
        assert (sample.label_map.numpy() != changed).mean() <= (0.02 if is_lossy else 0)
        for found, expected in zip(sample.images, (before, after), strict=True):
            difference = np.abs(found.permute(1, 2, 0).numpy().astype(int) - expected)
            assert difference.mean() < (15 if is_lossy else 1e-9)


def test_masks_of_change_of_0_and_1_are_read_as_such(tmp_path: Path) -> None:
    before, after, changed = pair(0, 32)
    for folder, pixels in (("A", before), ("B", after), ("label", changed.astype(np.uint8))):
        save(tmp_path / folder / "0.png", pixels)
    (found,) = truths(MapDataConfig(root=tmp_path)).values()
    np.testing.assert_array_equal(found, changed)


def test_a_mask_of_0_and_1_among_masks_of_255_is_no_picture_without_change(tmp_path: Path) -> None:
    before, after, changed = pair(0, 32)
    for number in range(30):  # more than are looked at beforehand
        high = 1 if number == 29 else 255
        for folder, pixels in (("A", before), ("B", after), ("label", changed.astype(np.uint8) * high)):
            save(tmp_path / folder / f"{number:02d}.png", pixels)
    with pytest.raises(UserError, match="1 of 30 label maps have 0 and 1 where the others have 0 and 255") as caught:
        MapDataConfig(root=tmp_path).build()
    assert "29.png" in caught.value.where


def test_a_pair_of_two_sizes_and_a_missing_partner_are_mistakes(tmp_path: Path) -> None:
    before, after, changed = pair(0, 32)
    for folder, pixels in (("A", before), ("B", after[:, :30]), ("label", changed.astype(np.uint8) * 255)):
        save(tmp_path / folder / "0.png", pixels)
    with pytest.raises(UserError, match=r"30 x 32 pixels, and its image 0\.png has 32 x 32"):
        MapDataConfig(root=tmp_path).build()
    save(tmp_path / "B" / "1.png", after)
    (tmp_path / "B" / "0.png").unlink()
    with pytest.raises(UserError, match="1 first images have no second"):
        MapDataConfig(root=tmp_path).build()


def test_classes_in_another_order_renumber_values_colours_and_palette() -> None:
    label_map = np.array([[0, 1], [2, IGNORED]], np.int16)
    codings = [
        Coding(classes=("a", "b", "c"), values=(3, 1, 7), palette=((1, 1, 1), (2, 2, 2), (3, 3, 3))),
        Coding(classes=("a", "b", "c")),
        Coding(classes=("a", "b", "c"), colours=((9, 0, 0), (0, 9, 0), (0, 0, 9)), ignored_colours=((1, 1, 1),)),
    ]
    for coding in codings:
        turned = recoded(coding, ("c", "a", "b"), "here")
        np.testing.assert_array_equal(turned.decode(coding.encode(label_map), "here"), [[1, 2], [0, IGNORED]])
        if coding.shown is not None and turned.shown is not None:
            assert turned.shown == tuple(coding.shown[number] for number in (2, 0, 1))
        else:
            assert coding.shown is turned.shown is None
        with pytest.raises(UserError, match="no class 'c' is asked for"):
            recoded(coding, ("a", "b"), "here")

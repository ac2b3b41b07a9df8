"""Public data sets as they are unpacked: their folders are paired, or asked about, and `check` says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from vistruct.data.checks.check import check
from vistruct.data.formats.detect import family_of
from vistruct.data.maps import MapDataConfig
from vistruct.data.reading import Reading
from vistruct.errors import UserError

LABELS = np.arange(48).reshape(6, 8).astype(np.uint8) // 8 % 2 * 255
COLOURS = np.array([[255, 255, 255], [0, 0, 255], [0, 128, 0]], np.uint8)  # of SECOND: unchanged, water, low plants


def put(root: Path, *images: str, labels: tuple[str, ...] = ()) -> Path:
    for number, name in enumerate((*images, *labels)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(LABELS if name in labels else noise).save(root / name)
    return root


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        ("train/sat/1_15.tiff", "train/map/1_15.tif", "train/sat -> train/map"),
        ("tiff/train/1_15.tiff", "tiff/train_labels/1_15.tif", "tiff/train -> tiff/train_labels"),
        (
            "ISIC-2017_Test_v2_Data/ISIC_1.jpg",
            "ISIC-2017_Test_v2_Part1_GroundTruth/ISIC_1_segmentation.png",
            "ISIC-2017_Test_v2_Data -> ISIC-2017_Test_v2_Part1_GroundTruth",
        ),
        (
            "ISBI2016_ISIC_Part1_Training_Data/ISIC_1.jpg",
            "ISBI2016_ISIC_Part1_Training_GroundTruth/ISIC_1_Segmentation.png",
            "ISBI2016_ISIC_Part1_Training_Data -> ISBI2016_ISIC_Part1_Training_GroundTruth",
        ),
        (
            "ISIC2018_Task1-2_Training_Input/ISIC_1.jpg",
            "ISIC2018_Task1_Training_GroundTruth/ISIC_1_segmentation.png",
            "ISIC2018_Task1-2_Training_Input -> ISIC2018_Task1_Training_GroundTruth",
        ),
        ("hls/a.2018190.v1.4_merged.tif", "hls/a.2018190.v1.4.mask.tif", "hls -> hls"),
        ("data/flood/Hand/S2Hand/G_1_S2Hand.tif", "data/flood/Hand/LabelHand/G_1_LabelHand.tif", "S2Hand -> "),
    ],
)
def test_stock_layouts_are_paired_and_check_says_how(tmp_path: Path, images: str, labels: str, told: str) -> None:
    put(tmp_path, images, labels=(labels,))
    root = tmp_path / "hls" if images.startswith("hls") else tmp_path
    result = check(root)
    assert result.ok, str(result)
    assert result.format == "mask_folders"
    paired = result.sizes["paired folders"]
    assert told in paired or paired == ". -> ."
    (record,) = MapDataConfig(root=root).build().records
    assert (record.images, record.label_map) == ((tmp_path / images,), tmp_path / labels)


def test_of_two_observers_the_first_and_never_the_field_of_view(tmp_path: Path) -> None:
    put(
        tmp_path,
        "images/01_test.tif",
        labels=("mask/01_test_mask.gif", "1st_manual/01_manual1.gif", "2nd_manual/01_manual2.gif"),
    )
    assert check(tmp_path).sizes["paired folders"] == "images -> 1st_manual"


def test_superpixels_beside_the_photographs_are_left_out(tmp_path: Path) -> None:
    data = "ISIC-2017_Training_Data/ISIC_1"
    put(tmp_path, f"{data}.jpg", f"{data}_superpixels.png", labels=("ISIC-2017_Training_Part1_GroundTruth/ISIC_1.png",))
    dataset = MapDataConfig(root=tmp_path).build()
    assert [record.images[0].name for record in dataset.records] == ["ISIC_1.jpg"]
    assert dataset.report.counts == {"superpixels beside the images left out": 1, **dataset.report.counts}


def test_two_folders_that_may_be_meant_are_a_question(tmp_path: Path) -> None:
    two = put(tmp_path / "two", "images/a.png", labels=("masks/a.png", "labels/a.png"))
    with pytest.raises(UserError, match="several folders of labels: labels, masks") as caught:
        MapDataConfig(root=two).build()
    assert caught.value.fix == "say which: --images images --labels labels"
    assert not check(two).ok
    assert check(two, Reading(images="images", labels="masks")).ok
    (two / "labels" / "a.png").unlink()  # of boxes, say
    (two / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert MapDataConfig(root=two).build().records[0].label_map == two / "masks" / "a.png"

    floods = put(
        tmp_path / "floods", "S1Hand/a_S1Hand.tif", "S2Hand/a_S2Hand.tif", labels=("LabelHand/a_LabelHand.tif",)
    )
    assert family_of(floods).kind == "maps"
    with pytest.raises(UserError, match="several folders of images: S1Hand, S2Hand") as caught:
        MapDataConfig(root=floods).build()
    assert caught.value.fix == "say which: --images S1Hand --labels LabelHand"
    (record,) = MapDataConfig(root=floods, images="S2Hand", labels="LabelHand").build().records
    assert record.images[0].name == "a_S2Hand.tif"

    pairs = put(tmp_path / "pairs", "A/1.png", "B/1.png", labels=("label/1.png", "gt/1.png"))
    with pytest.raises(UserError, match="several folders of labels: gt, label"):
        MapDataConfig(root=pairs).build()


@pytest.mark.parametrize("is_colour", [True, False])
def test_semantic_changes_are_pairs_and_what_changed(tmp_path: Path, is_colour: bool) -> None:
    changed = LABELS // 255
    for split in ("train", "test"):
        put(tmp_path, f"{split}/im1/1.png", f"{split}/im2/1.png", labels=(f"{split}/label1/1.png",))
        for name, number in (("label1", 1), ("label2", 2)):
            file = tmp_path / split / name / "1.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(COLOURS[changed * number] if is_colour else changed * number).save(file)
    result = check(tmp_path)
    assert (result.format, result.splits) == ("second", ("test", "train"))
    assert result.ok
    dataset = MapDataConfig(root=tmp_path, split="train").build()
    assert dataset.info.class_names == ("unchanged", "changed")
    assert (dataset.truth(0).numpy() == changed).all()
    assert any("from what to what" in reason for reason in dataset.report.counts)


def test_a_value_below_zero_is_offered_as_one_that_does_not_count(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png")
    (tmp_path / "masks").mkdir()
    with rasterio.open(
        tmp_path / "masks" / "a.tif", "w", driver="GTiff", width=8, height=6, count=1, dtype="int16"
    ) as out:
        out.write(LABELS.astype(np.int16)[None] // 255 - 1)
        out.write(np.array([[[2]]], np.int16), window=rasterio.windows.Window(0, 0, 1, 1))
    with pytest.raises(UserError) as caught:
        MapDataConfig(root=tmp_path).build()
    assert "--classes class_0,class_2 --values 0,2 --ignored -1" in caught.value.fix

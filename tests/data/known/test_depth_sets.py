"""Depth sets by the layouts of their folders: what unit, how far, and what is not known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from masked_sets import image, read
from PIL import Image

from vistruct.contracts import Record, Turn
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.formats.boxes.objects import MISSING_IMAGE
from vistruct.data.formats.chat import schemas as chat
from vistruct.data.formats.format import Ask
from vistruct.data.known import detect, find_source
from vistruct.errors import UserError
from vistruct.files.depth import LEAST, read_depth
from vistruct.issues import IssueCounter

DRIVE = "2011_09_26_drive_0001_sync"


def numbers(path: Path, values: np.ndarray) -> np.ndarray:
    """Written on the grid of `image`, 60 x 48 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return values


def kitti(root: Path) -> np.ndarray:
    """Two drives: images of one beside its depth, of the other among the raw data."""
    values = np.zeros((48, 60), np.uint16)
    values[10:, ::7] = np.arange(1, 39, dtype=np.uint16)[:, None] * 700
    for number, drive in enumerate((DRIVE, DRIVE.replace("0001", "0002"))):
        numbers(root / "train" / drive / "proj_depth" / "groundtruth" / "image_02" / "0000000005.png", values)
        place = root / "train" / drive if number else root / drive[:10] / drive
        image(place / "image_02" / "data" / "0000000005.png")
    return values


def test_kitti_is_in_metres_and_mostly_unknown(tmp_path: Path) -> None:
    values = kitti(tmp_path)
    found = read("kitti-depth", tmp_path)
    assert [one.id for one in found] == [
        f"train/{drive}/proj_depth/groundtruth/image_02/0000000005.png"
        for drive in (DRIVE, DRIVE.replace("0001", "0002"))
    ]
    for one in found:
        np.testing.assert_array_equal(one.objects.boxes_xyxy, [[0, 0, 60, 48]])
        assert one.objects.masks is not None
        soft = read_depth(one.objects.masks[0], (48, 60))
        metres = values / 256
        assert np.allclose(soft[values > 0], np.minimum(metres[values > 0] / 80, 1))
        assert (np.isnan(soft) == (values == 0)).all()


def test_cropped_validation_of_kitti_is_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "depth_selection" / "val_selection_cropped"
    name = f"{DRIVE}_{{}}_0000000005_image_02.png"
    numbers(folder / "groundtruth_depth" / name.format("groundtruth_depth"), np.full((48, 60), 256, np.uint16))
    image(folder / "image" / name.format("image"))
    (one,) = read("kitti-depth", tmp_path)
    assert one.image == folder / "image" / name.format("image")


def test_nyu_is_in_millimetres_to_ten_metres(tmp_path: Path) -> None:
    values = np.full((48, 60), 2500, np.uint16)
    values[0, 0], values[0, 1] = 0, 12000
    numbers(tmp_path / "sync" / "kitchen_0001" / "sync_depth_00045.png", values)
    image(tmp_path / "sync" / "kitchen_0001" / "rgb_00045.jpg")
    assert find_source("nyu-depth").splits(tmp_path) == ("sync",)
    for root in (tmp_path, tmp_path / "sync", tmp_path / "sync" / "kitchen_0001"):
        (one,) = read("nyu-depth", root)
        assert one.objects.masks is not None
        soft = read_depth(one.objects.masks[0], (48, 60))
        assert np.isnan(soft[0, 0])
        assert soft[0, 1] == 1
        assert np.allclose(soft[1:], 0.25)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_disparities_become_an_order_of_near_and_far(tmp_path: Path, dtype: type) -> None:
    far, near = 0, np.iinfo(dtype).max
    values = np.full((48, 60), far, dtype)
    values[:, 30:] = near
    numbers(tmp_path / "train" / "gts" / "a.png", values)
    valid = np.zeros((48, 60), np.uint8)
    valid[24:] = 255
    numbers(tmp_path / "train" / "valid_masks" / "a.png", valid)
    image(tmp_path / "train" / "imgs" / "a.jpg")
    numbers(tmp_path / "val" / "gts" / "b.png", np.maximum(values, 1).astype(dtype))
    image(tmp_path / "val" / "imgs" / "b.jpg")
    with pytest.raises(UserError, match="train"):
        read("hr-wsi", tmp_path)
    first, second = read("hr-wsi", tmp_path, ask=Ask(split="train+val"))
    assert first.objects.masks is not None
    assert second.objects.masks is not None
    soft = read_depth(first.objects.masks[0], (48, 60))
    assert np.isnan(soft[:24]).all()
    assert (soft[24:, :30] == 1).all()
    assert (soft[24:, 30:] == LEAST).all()
    assert not np.isnan(read_depth(second.objects.masks[0], (48, 60))).any()


def test_an_image_that_is_missing_stops_or_is_counted(tmp_path: Path) -> None:
    kitti(tmp_path)
    (tmp_path / DRIVE[:10] / DRIVE / "image_02" / "data" / "0000000005.png").unlink()
    with pytest.raises(UserError, match="not on disk"):
        read("kitti-depth", tmp_path)
    report = IssueCounter()
    assert len(read("kitti-depth", tmp_path, report, Ask(missing="drop"))) == 1
    assert report.counts == {MISSING_IMAGE: 1}
    image(tmp_path / "raw" / DRIVE[:10] / DRIVE / "image_02" / "data" / "0000000005.jpg")
    (first, *_) = read("kitti-depth", tmp_path, ask=Ask(images=tmp_path / "raw", missing="drop"))
    assert first.image.suffix == ".jpg"


def test_a_depth_of_a_source_goes_through_a_conversation_into_a_float_mask(tmp_path: Path) -> None:
    values = kitti(tmp_path)
    one = read("kitti-depth", tmp_path)[0]
    turns = (
        Turn(role="user", text="<image>\nHow far is it?"),
        Turn(role="assistant", text="<object>", points=((0,),), units=("depth",)),
    )
    record = Record(id=one.id, images=(one.image,), size_hw=one.size_hw, objects=one.objects, turns=turns)
    chat.write(tmp_path / "out" / "t.jsonl", [chat.row(record, tmp_path / "out")])
    sample = ChatDataConfig(jsonl=tmp_path / "out" / "t.jsonl").build().sample(0, 0)
    assert tuple(sample.objects.masks.shape) == (1, 48, 60)
    assert np.array_equal(np.isnan(sample.objects.masks[0].numpy()), values == 0)


def test_other_folders_are_no_depth_sets(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.jpg")
    assert detect(tmp_path) == ()

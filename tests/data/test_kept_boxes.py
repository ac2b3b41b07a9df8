"""What was read of boxes comes back from the cache as it was, and never after something has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import box_sets
import pytest
from PIL import Image
from tables import assert_same

from vistruct.contracts import Record
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.formats.detect import matching, splits_of
from vistruct.data.formats.format import Ask, Walked
from vistruct.data.formats.read import read
from vistruct.data.kept_boxes import kept
from vistruct.issues import IssueCounter

SETS = ["make_dota", "make_dior", "make_dior_r", "make_fair1m", "make_hrsc", "make_ssdd", "make_rsar", "make_sardet"]


def counting(read: Callable[[], Any]) -> tuple[Callable[[], Any], list[int]]:
    calls: list[int] = []

    def wrapped() -> Any:
        calls.append(1)
        return read()

    return wrapped, calls


def same(one: Record, other: Record) -> None:
    for name in ("id", "images", "size_hw", "notes", "image_id", "window_xyxy", "label_map"):
        assert getattr(one, name) == getattr(other, name), name
    assert_same(one.objects, other.objects)


@pytest.mark.parametrize("make", SETS)
def test_every_format_comes_back_as_it_was_read(make: str, tmp_path: Path) -> None:
    made = getattr(box_sets, make)(tmp_path / "data")
    name = matching(made.root, "boxes")[0]
    splits = splits_of(made.root, name)
    reading, calls = counting(
        lambda: read(made.root, "boxes", format=name, ask=Ask(split=splits[0] if splits else None))
    )
    first = kept(reading, tmp_path / "cache", made.root, {})
    second = kept(reading, tmp_path / "cache", made.root, {})
    assert len(calls) == 1
    assert len(first[0].records) == len(second[0].records) > 0
    for one, other in zip(first[0].records, second[0].records, strict=True):
        same(one, other)
    assert first[0].class_names == second[0].class_names
    assert first[1].counts == second[1].counts
    assert dict(first[1].examples) == dict(second[1].examples)


def coco(folder: Path, **more: Any) -> Path:
    folder.mkdir()
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    Image.new("RGB", (40, 30)).save(folder / "b.png")
    ring = [2, 2, 12, 3, 10, 14]
    rle = {"size": [30, 40], "counts": [10, 20, 1170]}
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 10, 12], "segmentation": [ring], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [-5, 0, 20, 20], "segmentation": rle, "iscrowd": 1},
    ]
    for entry in annotations:
        entry["keypoints"] = [3, 4, 2, 5, 6, 1]
    content = {
        "images": [{"id": i, "file_name": f"{n}.png", "width": 40, "height": 30} for i, n in ((1, "a"), (2, "b"))],
        "categories": [{"id": 1, "name": "thing", "keypoints": ["x", "y"]}],
        "annotations": annotations,
        **more,
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder / "boxes.json"


def test_masks_key_points_and_what_was_clipped_come_back(tmp_path: Path) -> None:
    path = coco(tmp_path / "data")
    reading, calls = counting(lambda: read(path, "boxes"))
    first = kept(reading, tmp_path / "cache", path, {})
    second = kept(reading, tmp_path / "cache", path, {})
    assert len(calls) == 1
    assert first[0].records[0].objects.masks is not None
    assert first[0].records[0].objects.keypoints is not None
    for one, other in zip(first[0].records, second[0].records, strict=True):
        same(one, other)
    assert second[1].lines() == first[1].lines() != []


def change_annotation(root: Path) -> None:
    file = next(root.rglob("*.txt"))
    file.write_text(file.read_text() + "\n")


def add_annotation(root: Path) -> None:
    file = next(root.rglob("*.txt"))
    image = next(root.rglob(f"{file.stem}.png"))
    file.with_name("new.txt").write_text(file.read_text())
    image.with_name("new.png").write_bytes(image.read_bytes())


def change_image(root: Path) -> None:
    Image.new("RGB", (64, 64)).save(next(root.rglob("*.png")))


def touch_image(root: Path) -> None:
    os.utime(next(root.rglob("*.png")), ns=(1, 1))


@pytest.mark.parametrize("change", [change_annotation, add_annotation, change_image, touch_image])
def test_any_change_below_the_folder_is_read(change: Callable[[Path], None], tmp_path: Path) -> None:
    root = box_sets.make_dota(tmp_path / "data").root
    reading, calls = counting(lambda: (Walked(), IssueCounter()))
    kept(reading, tmp_path / "cache", root, {})
    change(root)
    kept(reading, tmp_path / "cache", root, {})
    assert len(calls) == 2


def test_images_that_lie_elsewhere_are_watched_too(tmp_path: Path) -> None:
    path = coco(tmp_path / "data")
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "data" / name).rename(tmp_path / "pictures" / name)
    reading, calls = counting(lambda: read(path, "boxes", ask=Ask(images=tmp_path / "pictures")))
    kept(reading, tmp_path / "cache", path, {})
    kept(reading, tmp_path / "cache", path, {})
    assert len(calls) == 1
    os.utime(tmp_path / "pictures" / "b.png", ns=(1, 1))
    kept(reading, tmp_path / "cache", path, {})
    assert len(calls) == 2


def test_other_settings_have_a_cache_of_their_own(tmp_path: Path) -> None:
    path = coco(tmp_path / "data")
    reading, calls = counting(lambda: read(path, "boxes"))
    for settings in ({"split": "train"}, {"split": "val"}, {"split": "train"}):
        kept(reading, tmp_path / "cache", path, settings)
    assert len(calls) == 2


def test_a_damaged_cache_is_made_anew(tmp_path: Path, capsys) -> None:
    path = coco(tmp_path / "data")
    reading, calls = counting(lambda: read(path, "boxes"))
    kept(reading, tmp_path / "cache", path, {})
    (file,) = (tmp_path / "cache").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    kept(reading, tmp_path / "cache", path, {})
    assert len(calls) == 2
    assert "damaged" in capsys.readouterr().err


def test_a_data_set_is_the_same_with_and_without_its_cache(tmp_path: Path) -> None:
    root = box_sets.make_dota(tmp_path / "data").root
    config = BoxDataConfig(annotation=root, split="train")
    built = [config.build(cache) for cache in (None, tmp_path / "cache", tmp_path / "cache")]
    assert built[0].info == built[1].info == built[2].info
    for one, two, three in zip(*(data.records for data in built), strict=True):
        same(one, two)
        same(one, three)

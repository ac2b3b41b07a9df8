"""`check` names the traps in label maps, and agrees with what training does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.data.checks.check import CheckResult, check
from vistruct.data.checks.problem import Problem
from vistruct.data.maps import MapDataConfig
from vistruct.data.reading import Reading
from vistruct.errors import UserError
from vistruct.samples import made_maps

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, (6, 8)).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def put(root: Path, labels: dict[str, np.ndarray], classes: int | None = 3) -> Path:
    """`images`, `masks` and a list of names; each image is another."""
    for name, label in labels.items():
        save(root / name, label)
        seed = sum(name.encode())
        noise = np.random.default_rng(seed).integers(0, 256, (*label.shape[:2], 3), np.uint8)
        save(root / name.replace("masks", "images"), noise)
    if classes is not None:
        (root / "classes.txt").write_text("".join(f"class {number}\n" for number in range(classes)))
    return root


def problem(result: CheckResult, words: str) -> Problem:
    """The one that has these words."""
    found = [one for one in result.problems if words in one.what]
    assert len(found) == 1, result.text()
    return found[0]


@pytest.mark.parametrize(
    "make",
    [
        made_maps.loveda_folder,
        made_maps.isaid_folder,
        made_maps.uavid_folder,
        made_maps.levir_folder,
        made_maps.svcd_folder,
        made_maps.whu_folder,
        made_maps.s2looking_folder,
    ],
)
def test_a_clean_set_has_no_problems_and_its_pixels_add_up(make) -> None:
    result = check(make())
    assert result.ok
    assert not result.problems, result.text()
    assert sum(result.classes.values()) + result.counts["pixels that do not count"] == result.counts["pixels"]
    assert "nothing stops training" in str(result)


def test_pixels_are_counted_by_class_in_all_splits_or_in_one(tmp_path: Path) -> None:
    put(tmp_path, {"train/masks/a.png": LABELS, "val/masks/b.png": LABELS})
    both, one = check(tmp_path), check(tmp_path, split="val")
    counts = {f"class {number}": int(np.bincount(LABELS.ravel())[number]) for number in range(3)}
    assert one.classes == counts
    assert both.classes == {name: 2 * count for name, count in counts.items()}
    assert (both.splits, one.splits) == (("train", "val"), ("val",))
    assert both.counts["label maps decoded"] == 2
    assert check(tmp_path, decode_at_most=1).counts["label maps decoded"] == 1
    assert both.sizes == {
        "paired folders": "train/images -> train/masks; val/images -> val/masks",
        "image pixels": "8 x 6 to 8 x 6",
    }


def test_a_mask_of_0_and_255_read_as_classes_is_named(tmp_path: Path) -> None:
    put(tmp_path, {"masks/a.png": (LABELS > 0).astype(np.uint8) * 255}, classes=2)
    found = problem(check(tmp_path), "a mask of 0 and 255 read as classes")
    assert found.fix == "--classes 'class 0,class 1' --values 0,255"
    assert found.places[0].endswith("a.png")


def test_a_0_that_should_not_count_is_named(tmp_path: Path) -> None:
    put(tmp_path, {"masks/a.png": LABELS, "masks/b.png": LABELS}, classes=2)
    result = check(tmp_path)
    found = problem(result, "values 0 to 2 for 2 classes: does 0 mean 'no class'?")
    assert found.fix == "--classes 'class 0,class 1' --values 1,2 --ignored 0"
    assert not result.ok  # 2 is no class
    assert problem(result, "labels of no class: 2").count == 2


def test_a_class_that_only_a_later_split_has_stops_as_it_stops_training(tmp_path: Path) -> None:
    for split, value in (("train", 1), ("val", 2)):
        save(tmp_path / "images" / split / f"{split}.png", RNG.integers(0, 255, (8, 8, 3)).astype(np.uint8))
        save(tmp_path / "masks" / split / f"{split}.png", (RNG.random((8, 8)) > 0.5).astype(np.uint8) * value)
    found = problem(check(tmp_path), "labels of no class: 2")
    assert found.effect == "stops training"
    assert "--classes background,foreground,class_2" in found.fix
    three = check(tmp_path, Reading(classes=("background", "foreground", "class_2")))
    assert three.ok, three


def test_values_alone_say_what_masks_of_change_mean(tmp_path: Path) -> None:
    for folder in ("A", "B"):
        save(tmp_path / folder / "1.png", RNG.integers(0, 255, (8, 8, 3)).astype(np.uint8))
    mask = (RNG.random((8, 8)) > 0.5).astype(np.uint8) * 100
    save(tmp_path / "label" / "1.png", mask)
    assert problem(check(tmp_path), "masks of change in a coding that is not known").fix.startswith("--values 0,100")
    result = check(tmp_path, Reading(values=(0, 100)))
    assert result.ok
    assert result.classes == {"unchanged": int((mask == 0).sum()), "changed": int((mask == 100).sum())}


def test_a_pair_named_by_dates_that_lacks_its_second_image_is_told_as_one(tmp_path: Path) -> None:
    for number in range(3):
        for name in (f"A/{number}_2018_pre.png", f"B/{number}_2019_post.png"):
            save(tmp_path / name, RNG.integers(0, 255, (8, 8, 3)).astype(np.uint8))
        save(tmp_path / f"label/{number}_change.png", np.eye(8, dtype=np.uint8))
    (tmp_path / "B" / "0_2019_post.png").unlink()
    found = problem(check(tmp_path), "pair, no second image")
    assert found.effect == "stops training"
    assert [Path(place).name for place in found.places] == ["0_2018_pre.png"]


def test_labels_in_a_lossy_file_are_named(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((8, 8, 3), np.uint8))
    save(tmp_path / "masks" / "a.jpg", RNG.integers(0, 4, (8, 8)).astype(np.uint8) * 20)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    result = check(tmp_path)
    assert problem(result, "label map in a JPEG").places[0].endswith("a.jpg")
    assert not result.ok


def test_colours_where_numbers_are_meant_are_named(tmp_path: Path) -> None:
    put(tmp_path, {"masks/a.png": RNG.integers(0, 255, (4, 4, 3)).astype(np.uint8)})
    found = problem(check(tmp_path), "labels written in colours, and numbers are meant")
    assert found.effect == "stops training"


def test_labels_without_a_word_are_said_once_with_all_their_values(tmp_path: Path) -> None:
    put(tmp_path, {"train/masks/a.png": LABELS, "val/masks/b.png": LABELS}, classes=None)
    result = check(tmp_path)
    assert problem(result, "no word of what the labels mean").count == 1
    assert result.classes == {f"value {value}": 2 * int(np.bincount(LABELS.ravel())[value]) for value in range(3)}


def test_a_class_that_never_occurs_and_labels_of_one_class_are_named(tmp_path: Path) -> None:
    put(tmp_path, {"masks/a.png": np.ones((4, 4), np.uint8), "masks/b.png": np.full((4, 4), 255, np.uint8)})
    result = check(tmp_path)
    assert problem(result, "class without a pixel").places == ("class 0", "class 2")
    assert problem(result, "nothing but 'class 1' in all label maps").count == 1
    assert problem(result, "label map of which no pixel counts").places[0].endswith("b.png")


def test_one_image_in_two_splits_is_named_under_whatever_name(tmp_path: Path) -> None:
    put(tmp_path, {"train/masks/a.png": LABELS, "val/masks/b.png": LABELS})
    assert check(tmp_path).ok
    (tmp_path / "val/images/b.png").write_bytes((tmp_path / "train/images/a.png").read_bytes())
    found = problem(check(tmp_path), "image in a second split")
    assert "b.png (val) is " in found.places[0]
    assert "a.png (train)" in found.places[0]


def test_a_scene_in_two_splits_is_named(tmp_path: Path) -> None:
    for split, number in (("train", 0), ("val", 1)):
        pixels, label_map = made_maps.scene(number, (16, 16), 16)
        save(tmp_path / f"img_dir/{split}/P0001_{number}_8_0_8.png", pixels)
        save(tmp_path / f"ann_dir/{split}/P0001_{number}_8_0_8_instance_color_RGB.png", label_map.astype(np.uint8))
    assert problem(check(tmp_path), "in two splits").places == ("P0001: train, val",)


def test_the_same_picture_before_and_after_and_no_change_at_all_are_named(tmp_path: Path) -> None:
    before, after, _ = made_maps.pair(0, 32)
    for name, second in (("0", before), ("1", after)):
        for folder, pixels in (("A", before), ("B", second), ("label", np.zeros((32, 32), np.uint8))):
            save(tmp_path / folder / f"{name}.png", pixels)
    result = check(tmp_path)
    assert problem(result, "the same picture before and after").places == ("0.png",)
    assert problem(result, "nothing but 'unchanged' in all label maps").count == 1
    assert result.counts["pairs"] == 2


def test_partners_that_are_missing_are_all_named_and_stop_training(tmp_path: Path) -> None:
    put(tmp_path, {f"masks/{name}.png": LABELS for name in "abcdef"})
    for name in "abcd":
        (tmp_path / "masks" / f"{name}.png").unlink()
    (tmp_path / "images" / "e.png").unlink()
    result = check(tmp_path)
    assert not result.ok
    assert problem(result, "image, no label map").count == 4
    assert len(problem(result, "image, no label map").places) == 4
    assert problem(result, "label map, no image").count == 1
    with pytest.raises(UserError):
        MapDataConfig(root=tmp_path).build()
    assert len(MapDataConfig(root=tmp_path, missing="drop").build()) == 1


def test_damaged_images_and_labels_and_other_sizes_are_all_found_in_one_go(tmp_path: Path) -> None:
    put(tmp_path, {f"masks/{name}.png": RNG.integers(0, 3, (40, 40)).astype(np.uint8) for name in "abcd"})
    for place in ("images/a.png", "masks/b.png"):
        (tmp_path / place).write_bytes((tmp_path / place).read_bytes()[:-300])
    save(tmp_path / "masks" / "c.png", LABELS)
    result = check(tmp_path)
    stopped = {Path(place).name for one in result.problems if one.effect == "stops training" for place in one.places}
    assert stopped == {"a.png", "b.png", "c.png"}


def test_colours_of_no_class_that_do_not_count_are_still_told(tmp_path: Path) -> None:
    from vistruct.data.formats.maps import isprs

    pixels, label_map = made_maps.scene(0, (16, 16), 6)
    colours = isprs.CODING.encode(label_map)
    colours[0, 0] = (252, 255, 0)
    save(tmp_path / "top" / "top_potsdam_2_10_RGB.tif", pixels)
    save(tmp_path / "labels" / "top_potsdam_2_10_label.tif", colours)
    result = check(tmp_path, split="train")
    assert result.ok
    assert result.counts["pixels that do not count"] == 1
    assert "#fcff00: 1 pixels" in problem(result, "colour of no class").places[0]


def test_what_is_checked_is_told_by_its_content(tmp_path: Path) -> None:
    put(tmp_path / "maps", {"masks/a.png": LABELS})
    assert check(tmp_path / "maps").format == "mask_folders"
    for kind in ("cat", "dog"):
        save(tmp_path / "kinds" / kind / "0.png", np.full((4, 4, 3), len(kind), np.uint8))
    assert check(tmp_path / "kinds").format == "folders"
    with pytest.raises(UserError, match="no format 'mask_folder'") as caught:
        check(tmp_path / "maps", Reading(format="mask_folder"))
    assert "mask_folders" in caught.value.fix

"""Images with classes: folders, published lists, tables, and splits that are drawn."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import class_folders
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from vistruct.config import run_from_dict
from vistruct.data.checks.check import check
from vistruct.data.dataset import RecordDataset
from vistruct.data.formats.detect import family_of
from vistruct.data.image_classes import ClassDataConfig
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.recipes import classify
from vistruct.samples import made_classes


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(path)
    return path


def folders(root: Path, numbers: dict[str, int]) -> Path:
    """A folder for each class with so many images of their own."""
    seed = 0
    for name, number in numbers.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for n in range(number):
            picture(root / name / f"{name.rpartition('/')[2]}_{n}.png", seed := seed + 1)
    return root


def opened(root: Path, **settings: Any) -> RecordDataset:
    return ClassDataConfig(root=root, **settings).build()


def classes_of(dataset: RecordDataset) -> dict[str, tuple[str, ...]]:
    names = dataset.info.class_names
    return {one.id: tuple(names[label] for label in one.image_labels or ()) for one in dataset.records}


def test_folders_are_what_torchvision_makes_of_them(tmp_path: Path) -> None:
    root = folders(tmp_path, {"forest": 3, "Lake": 2, "field": 4})
    dataset, theirs = opened(root), ImageFolder(str(root))
    assert list(dataset.info.class_names) == theirs.classes == ["Lake", "field", "forest"]
    assert [(str(one.images[0]), one.image_labels) for one in dataset.records] == [
        (path, (label,)) for path, label in theirs.samples
    ]
    assert dataset.info.counts == {"Lake": 2, "field": 4, "forest": 3}
    assert dataset.info.num_records == 9
    sample = dataset.sample(0, 0)
    assert sample.image_labels == (0,)
    assert sample.images[0].shape == (3, 6, 8)
    assert torch.equal(sample.images[0], torch.from_numpy(np.array(theirs[0][0])).permute(2, 0, 1))


def test_a_folder_that_stands_alone_is_looked_through(tmp_path: Path) -> None:
    folders(tmp_path / "2750", {"a": 2, "b": 2})
    assert opened(tmp_path).info.class_names == ("a", "b")
    assert opened(tmp_path, images="2750").info.class_names == ("a", "b")
    with pytest.raises(UserError, match="no folder '2751'"):
        opened(tmp_path, images="2751")


@pytest.mark.parametrize("asked", ["val", "valid", "VALID"])
def test_folders_of_splits_have_the_classes_of_all_of_them(tmp_path: Path, asked: str) -> None:
    root = folders(tmp_path, {"train/cat": 3, "train/dog": 3, "valid/cat": 1, "valid/dog": 2})
    dataset = opened(root, split=asked)
    assert classes_of(dataset)["valid/dog/dog_1.png"] == ("dog",)
    assert len(dataset) == 3
    assert len(opened(root, split="train+val")) == 9
    with pytest.raises(UserError, match="several splits are here: train, valid"):
        opened(root)
    with pytest.raises(UserError, match="no split 'test'"):
        opened(root, split="test")


def test_a_class_that_a_split_lacks_is_counted(tmp_path: Path) -> None:
    root = folders(tmp_path, {"train/cat": 3, "train/dog": 3, "val/cat": 1})
    assert len(opened(root, split="train")) == 6
    val = opened(root, split="val")
    assert val.info.class_names == ("cat", "dog")
    assert val.report.lines() == [f"1 x class without images in this split, which is in no mean ({root}/val/dog)"]


def test_an_empty_folder_of_a_class_is_an_error(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 2, "b": 2, "c": 2, "d": 0})
    with pytest.raises(UserError, match="a class without images"):
        opened(root)


def test_classes_can_be_given_in_another_order_and_strange_ones_are_told(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 1, "b": 2})
    assert opened(root, classes=("b", "a")).info.counts == {"b": 2, "a": 1}
    with pytest.raises(UserError, match="no class 'b' is asked for"):
        opened(root, classes=("a", "c"))


def test_files_that_are_no_images_are_counted(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 1, "b": 1})
    (root / "a" / "notes.txt").write_text("-")
    (root / "a" / ".DS_Store").write_text("-")
    dataset = opened(root)
    assert len(dataset) == 2
    assert dataset.report.counts == {"file left out: no image ending": 1}


def test_torchgeos_lists_of_bare_names_find_their_images() -> None:
    root = made_classes.eurosat_folder()
    parts = {split: classes_of(opened(root, split=split)) for split in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [9, 3, 3]
    assert len(set().union(*parts.values())) == 15
    assert all(Path(id).parent.name == names[0] for part in parts.values() for id, names in part.items())


def test_numbers_in_a_list_count_in_the_sorted_names_of_the_folders() -> None:
    root = made_classes.resisc45_folder()
    dataset = opened(root, lists="mtp/{split}_labels_28_mtp.txt", split="valid")
    assert len(dataset) == 9
    assert all(id.startswith(f"{names[0]}/") for id, names in classes_of(dataset).items())
    assert classes_of(opened(root, split="val")) == classes_of(dataset)  # found without being named


@pytest.mark.parametrize(
    "line", ["{n}.png {c}", "{c}/{n}.png", "{c}/{n}.png {k}", "{n}.png {c} {k}", "{c}/{n}.png,{c}"]
)
def test_every_shape_of_line_says_the_same(tmp_path: Path, line: str) -> None:
    rows = [("storage tank", 0), ("airplane", 1), ("storage tank", 2)]
    for name, n in rows:
        picture(tmp_path / name / f"{n}.png", n)
    names = ["airplane", "storage tank"]
    text = "".join(line.format(n=n, c=c, k=names.index(c)) + "\n" for c, n in rows)
    (tmp_path / "train.txt").write_text(text)
    found = classes_of(opened(tmp_path, split="train"))
    assert found == {f"{c}/{n}.png": (c,) for c, n in rows}


def test_a_list_that_contradicts_itself_or_the_disk_is_told(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 3, "b": 3})

    def fails(text: str, what: str, place: str, **settings: Any) -> None:
        (root / "train.txt").write_text(text)
        with pytest.raises(UserError, match=what) as caught:
            opened(root, split="train", **settings)
        assert place in caught.value.where

    fails("a/a_0.png\nb/b_0.png\na/a_0.png\n", "listed twice", "line 3")
    fails("a/a_0.png\nb/b_9.png\n", "not on disk", "line 2")
    fails("a/a_0.png 0\nb/b_0.png 2\n", "no class '2'", "line 2")
    fails("a/a_0.png a 1\nb/b_0.png b 1\n", "number 0, and the line says 1", "line 1")
    fails("a/a_0.png\nnonsense\n", "without the name of an image", "line 2")
    fails("a/a_0.png\n", "a class without images", "b")
    picture(root / "b" / "a_1.png")
    fails("a_1.png\nb_1.png\n", "a_1.png may be a/a_1.png and b/a_1.png", "line 1")


def test_a_class_that_one_list_lacks_is_counted(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 2, "b": 2})
    (root / "train.txt").write_text("a/a_0.png\nb/b_0.png\n")
    (root / "val.txt").write_text("a_1.png\n")
    val = opened(root, split="val")
    assert classes_of(val) == {"a/a_1.png": ("a",)}
    assert val.report.counts == {"class without images in this split, which is in no mean": 1}


def test_an_image_in_two_lists_is_an_error_unless_one_is_trainval(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 3, "b": 3})
    (root / "train.txt").write_text("a/a_0.png\nb/b_0.png\n")
    (root / "val.txt").write_text("a/a_1.png\nb/b_1.png\n")
    (root / "trainval.txt").write_text("a/a_0.png\nb/b_0.png\na/a_1.png\nb/b_1.png\n")
    assert len(opened(root, split="trainval")) == 4
    (root / "val.txt").write_text("a/a_0.png\nb/b_1.png\n")
    with pytest.raises(UserError, match="image in two splits: train and val") as caught:
        opened(root, split="train")
    assert "a/a_0.png" in caught.value.where


def test_listed_images_that_are_gone_can_be_dropped_and_are_counted(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 3, "b": 3})
    (root / "train.txt").write_text("a/a_0.png\nb/b_0.png\nb/b_7.png\n")
    dataset = opened(root, split="train", missing="drop")
    assert len(dataset) == 2
    assert dict(dataset.report.counts) == {"image left out: file missing": 1}


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\nx.png,a\ny.png,a;b\nz.png,\n",
        "image_name,tags\nx,a\ny,a b\nz,\n",
        "filename;b;a\nx.png;0;1\ny.png;1;1\nz.png;0;0\n",
        "b,a,image\n0,1,x.png\n1,1,y.png\n0,0,z.png\n",
        '﻿image,label\n"x.png",a\n"y.png",a|b\n\nz.png,\n',
    ],
)
def test_every_shape_of_table_says_the_same(tmp_path: Path, text: str) -> None:
    for name in ("x", "y", "z"):
        picture(tmp_path / "images" / f"{name}.png")
    (tmp_path / "labels.csv").write_text(text)
    for root in (tmp_path, tmp_path / "labels.csv"):
        dataset = opened(root, multi_label=True)
        found = {Path(id).stem: set(names) for id, names in classes_of(dataset).items()}
        assert found == {"x": {"a"}, "y": {"a", "b"}, "z": set()}
        assert dataset.report.counts["image without any class taken as such"] == 1


def test_a_table_of_one_class_an_image_refuses_several_and_none(tmp_path: Path) -> None:
    for name in "xyz":
        picture(tmp_path / f"{name}.png")
    table = tmp_path / "labels.csv"
    table.write_text("image,label\nx.png,sea ice\ny.png,land\n")
    assert classes_of(opened(table)) == {"x.png": ("sea ice",), "y.png": ("land",)}
    table.write_text("image,a,b\nx.png,1,0\ny.png,1,1\n")
    with pytest.raises(UserError, match="2 classes of one image") as caught:
        opened(table)
    assert "line 3" in caught.value.where
    assert "--multi-label" in caught.value.fix
    table.write_text("image,label\nx.png,a\ny.png,\n")
    with pytest.raises(UserError, match="without a class"):
        opened(table)


@pytest.mark.parametrize(
    ("text", "what", "place"),
    [
        ("image,label\nx.png,a\nx.png,b\n", "listed twice, first in line 2", "line 3"),
        ("image,label\nx.png,a\ny.png,b,c\n", "3 columns where there are 2", "line 3"),
        ("image,a,b\nx.png,1,0\ny.png,0,maybe\n", "'maybe' where 0 or 1 is meant", "line 3"),
        ("image,label\nx.png,a\ngone.png,b\n", "not on disk", "line 3: gone.png"),
        ("image,label,split\nx.png,a,train\ny.png,b,train\nx.png,a,val\n", "listed twice", "line 4"),
        ("picture,kind\nx.png,a\n", "which is the image", "labels.csv"),
        ("image,a,b\nx.png,1,0\ny.png,1,0\n", "a class without images", "b"),
    ],
)
def test_a_faulty_table_is_told_with_its_line(tmp_path: Path, text: str, what: str, place: str) -> None:
    picture(tmp_path / "x.png")
    picture(tmp_path / "y.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=what) as caught:
        opened(tmp_path / "labels.csv", format="csv", split="train" if "split" in text else None)
    assert place in caught.value.where


def test_tables_for_each_split_are_splits_and_share_their_classes(tmp_path: Path) -> None:
    for name in "xyz":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "train.csv").write_text("image,labels\nx.png,b\ny.png,a\n")
    (tmp_path / "val.csv").write_text("image,labels\nz.png,b;a\n")
    assert classes_of(opened(tmp_path, split="val", multi_label=True)) == {"z.png": ("a", "b")}
    (tmp_path / "val.csv").write_text("image,labels\ny.png,b;a\n")
    with pytest.raises(UserError, match="in two splits"):
        opened(tmp_path, split="val", multi_label=True)


def drawn(root: Path, split: str, **settings: Any) -> set[str]:
    return {one.id for one in opened(root, split=split, **settings).records}


def test_drawn_splits_are_disjoint_whole_and_stratified(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 40, "b": 10, "c": 5, "d": 3})
    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    parts = {name: drawn(root, name, random_split=shares) for name in shares}
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 58
    counts = {name: Counter(id[0] for id in part) for name, part in parts.items()}
    assert counts["train"] == {"a": 28, "b": 7, "c": 3, "d": 1}
    assert counts["val"]["a"] == counts["test"]["a"] == 6
    assert counts["val"]["d"] == counts["test"]["d"] == 1
    assert drawn(root, "train+val", random_split=shares) == parts["train"] | parts["val"]


def test_drawn_splits_depend_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    root = folders(tmp_path / "one", {"a": 30, "b": 30})
    shares = {"train": 0.5, "val": 0.5}
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    assert drawn(root, "train", random_split=shares) == drawn(moved, "train", random_split=shares)
    assert drawn(root, "train", random_split=shares) != drawn(root, "train", random_split=shares, split_seed=1)


def test_an_image_more_moves_at_most_one_other_of_its_class(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 30, "b": 30})
    shares = {"train": 0.6, "val": 0.4}
    before = drawn(root, "train", random_split=shares)
    for number in range(5):
        picture(root / "a" / f"new_{number}.png")
        after = drawn(root, "train", random_split=shares)
        changed = {id for id in before ^ after if f"new_{number}" not in id}
        assert len(changed) <= 1
        assert all(id.startswith("a/") for id in changed)
        before = after


@pytest.mark.parametrize("number", range(1, 12))
def test_every_share_gets_an_image_where_there_are_enough(tmp_path: Path, number: int) -> None:
    root = folders(tmp_path, {"a": number, "b": 12})
    shares = {"train": 0.98, "val": 0.01, "test": 0.01}
    counts = [sum(id.startswith("a/") for id in drawn(root, name, random_split=shares)) for name in shares]
    assert sum(counts) == number
    assert counts == sorted(counts, reverse=True)
    assert all(counts) or number < 3


def test_shares_may_leave_images_out_but_not_more_than_there_are(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 10, "b": 10})
    assert len(drawn(root, "few", random_split={"few": 0.2})) == 4
    for shares in ({"train": 0.8, "val": 0.3}, {"train": 0.0}, {}):
        with pytest.raises(UserError, match="no fractions"):
            ClassDataConfig(root=root, random_split=shares)
    with pytest.raises(UserError, match="several splits are here"):
        opened(root, random_split={"train": 0.5, "val": 0.5})


def test_a_share_keeps_every_class_and_grows_by_itself(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 40, "b": 10, "c": 2})
    kept = {share: {one.id for one in opened(root, fraction=share).records} for share in (0.01, 0.1, 0.5, 1.0)}
    assert [len(part) for part in kept.values()] == [3, 6, 26, 52]
    assert kept[0.01] < kept[0.1] < kept[0.5] < kept[1.0]
    assert opened(root, fraction=0.1).report.counts["left out: beyond the fraction asked for"] == 46


def test_bands_of_sixteen_bits_come_through_the_intake_and_travel_to_workers() -> None:
    root = class_folders.eurosat_ms_folder()
    settings = {"random_split": {"train": 0.8, "val": 0.2}, "split": "val"}
    dataset = opened(root, intake=Intake(dtype="uint8", bands=(4, 3, 2), low=(0.0,), high=(255.0 * 12,)), **settings)
    assert dataset.info.channels == 3
    again = pickle.loads(pickle.dumps(dataset))
    for index, record in enumerate(dataset.records):
        label = (record.image_labels or (-1,))[0]
        wanted = made_classes.texture(label, int(Path(record.id).stem.rpartition("_")[2]) - 1)
        assert np.array_equal(again.sample(index, 0).images[0].permute(1, 2, 0).numpy(), wanted)
    assert opened(root, intake=Intake(low=(0.0,), high=(1.0,)), **settings).info.channels == 13
    with pytest.raises(UserError):
        opened(root, **settings).sample(0, 0)


def test_the_fingerprint_knows_the_images_and_the_lists() -> None:
    root = made_classes.eurosat_folder()
    one, other = opened(root, split="val").info.fingerprint, opened(root, split="test").info.fingerprint
    assert one != other
    assert opened(root, split="val").info.fingerprint == one


def test_the_part_is_found_by_its_kind_and_round_trips(tmp_path: Path) -> None:
    data = ClassDataConfig(root=tmp_path, random_split={"train": 0.8, "val": 0.2}, split="train")
    values = {**classify.tiny().model_dump(mode="json"), "data": data.model_dump(mode="json")}
    run = run_from_dict(values)
    assert run.only.data == data


@pytest.mark.parametrize(
    ("made", "format"),
    [
        (class_folders.class_folder, "folders"),
        (made_classes.eurosat_folder, "list"),
        (class_folders.eurosat_ms_folder, "folders"),
        (made_classes.resisc45_folder, "list"),
        (class_folders.labelled_csv, "csv"),
    ],
)
def test_check_knows_every_layout_and_finds_nothing_wrong_with_it(made: Any, format: str) -> None:
    family = family_of(made())
    assert (family.kind, family.format) == ("image_classes", format)
    result = check(made())
    assert result.format == format
    assert sum(result.classes.values()) >= 12
    # Of many bands somebody has to say which are meant: training would stop until then.
    of_bands = ["image that is no 8-bit colours and needs an intake"] if made is class_folders.eurosat_ms_folder else []
    assert [problem.what.partition(":")[0] for problem in result.problems] == of_bands
    assert result.ok == (not of_bands)


def problems_of(root: Path, **settings: Any) -> dict[str, int]:
    return {problem.what: problem.count for problem in check(root, **settings).problems}


def test_check_finds_the_same_image_in_two_splits_under_another_name(tmp_path: Path) -> None:
    root = folders(tmp_path, {"train/a": 6, "train/b": 6, "val/a": 5, "val/b": 5})
    assert problems_of(root) == {}
    shutil.copy(root / "train" / "a" / "a_3.png", root / "val" / "a" / "other.png")
    found = problems_of(root)
    assert found.pop("image in a second split: what is measured on it was learned by heart") == 1
    assert found == {"the same image twice, under two names": 1}


def test_check_finds_one_image_with_two_classes(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 6, "b": 6})
    shutil.copy(root / "a" / "a_3.png", root / "b" / "other.png")
    result = check(root)
    assert [(p.what, p.places) for p in result.problems] == [
        ("the same image with two classes", ("b/other.png (b) is a/a_3.png (a)",))
    ]


def test_check_tells_every_error_of_a_list_and_not_the_first_alone(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 6, "b": 6})
    (root / "train.txt").write_text("a/a_0.png 0\nb/b_0.png 1\nb/b_8.png 1\nb/b_1.png 7\n")
    (root / "val.txt").write_text("a/a_0.png 0\nb/b_3.png 1\n")
    result = check(root)
    assert not result.ok
    assert {"a listed image is not on disk", "no class '7'", "image in two splits: train and val"} <= {
        problem.what for problem in result.problems if problem.effect == "stops training"
    }


def test_check_tells_of_classes_that_are_unbalanced_few_or_alike(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 90, "b": 4, "Storage-Tank": 5, "storagetank": 5})
    found = problems_of(root)
    assert "class imbalance: 'a' has 90 images, 'b' 4" in found
    assert "class of fewer than 5 images" in found
    assert "classes that differ in capitals, spaces or hyphens only" in found


def test_check_finds_images_that_do_not_decode(tmp_path: Path) -> None:
    root = folders(tmp_path, {"a": 5, "b": 5})
    (root / "a" / "a_2.png").write_bytes(b"")
    assert not check(root).ok
    assert check(root, decode_at_most=0).ok


def test_folders_of_images_and_masks_are_no_classes(tmp_path: Path) -> None:
    root = folders(tmp_path, {"images": 2, "masks": 2})
    with pytest.raises(UserError, match="no images with classes"):
        opened(root)
    with pytest.raises(UserError, match="no such file"):
        opened(tmp_path / "absent")

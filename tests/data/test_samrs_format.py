"""SAMRS as released: every layout says the same objects, and what contradicts itself is named."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_sets import HEIGHT, WIDTH
from PIL import Image
from samrs_sets import Samrs, make_fast, make_sior, make_sota, mask_of, write_json

from vistruct.contracts import Record
from vistruct.data.at_path import maps_at, part_at
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.checks.check import check
from vistruct.data.formats.boxes import samrs
from vistruct.data.formats.boxes.published import DOTA_2_0, FAIR1M, FAST, SIOR, SOTA
from vistruct.data.formats.boxes.samrs_rows import NO_BOX, NO_INSTANCE, TENTH_COLUMN
from vistruct.data.formats.detect import detect, family_of
from vistruct.data.formats.format import Ask
from vistruct.data.formats.read import read
from vistruct.data.reading import AS_THEY_ARE, Reading
from vistruct.errors import UserError
from vistruct.files.masks import rasterise

MAKERS = {"sota": (make_sota, SOTA), "sior": (make_sior, SIOR), "fast": (make_fast, FAST)}


def records(made: Samrs, **asked: Any) -> list[Record]:
    return read(made.root, "boxes", ask=Ask(**asked))[0].records


def check_truth(made: Samrs, found: list[Record], *, quads: bool = True) -> None:
    """Every object is where it was drawn, with its mask and its label map."""
    for record in found:
        drawn = made.truth[Path(record.id).stem]
        assert record.objects.labels.tolist() == [made.label(one) for one in drawn]
        for one, mask in zip(drawn, record.objects.masks or (), strict=True):
            assert mask == mask_of(one)
        if quads:
            np.testing.assert_allclose(
                record.objects.quads.reshape(-1), [v for one in drawn for v in one.quad.ravel()], atol=1e-4
            )


def test_the_classes_are_those_of_the_other_sets_in_the_order_of_the_label_ids() -> None:
    assert set(SOTA) == set(DOTA_2_0)
    assert SOTA != DOTA_2_0
    assert (SOTA[0], SOTA[5], SOTA[17]) == ("large-vehicle", "ship", "helipad")
    assert (SIOR[6], SIOR[8], SIOR[19]) == ("expressway-service-area", "dam", "windmill")
    assert len(SIOR) == 20
    assert [name.replace("-", " ") for name in FAST] == [name.replace("-", " ") for name in FAIR1M]
    assert (len(FAST), FAST[5], FAST[24], FAST[36]) == (37, "Baseball-Field", "other-airplane", "Warship")


@pytest.mark.parametrize("name", MAKERS)
def test_a_set_as_released_is_read_whole(name: str, tmp_path: Path) -> None:
    make, names = MAKERS[name]
    made = make(tmp_path)
    assert family_of(made.root).format == detect(made.root, "boxes") == "samrs"
    assert detect(made.root, "maps") == "samrs_maps"
    dataset = BoxDataConfig(annotation=made.root, masks=True, label_maps="files").build()
    assert dataset.info.class_names == names
    assert dataset.info.map_class_names == ("background", *names)
    check_truth(made, list(dataset.records))
    assert len(dataset) == 2  # nobody lists the third, and it has no files
    assert dataset.report.counts[samrs.NO_FILES] == 1
    for number, record in enumerate(dataset.records):
        sample = dataset.sample(number, 0)
        expected = np.zeros((HEIGHT, WIDTH), np.int16)
        for one, label in zip(made.truth[Path(record.id).stem], sample.objects.labels.tolist(), strict=True):
            expected[rasterise([one.quad.ravel().tolist()], (0, 0, WIDTH, HEIGHT))] = label + 1
        assert np.array_equal(sample.label_map.numpy(), expected)
    result = check(made.root)
    assert result.ok
    said = result.text()
    assert "255 is the background" in said
    assert "order of" in said
    assert ("tenth column" in said) == (name == "sota")
    assert result.counts["oriented boxes"] == result.counts["masks"] == len(names)


@pytest.mark.parametrize("below", ["", "trainval", "trainval/rhbox_segs_init"])
def test_it_may_be_named_by_any_of_its_folders(below: str, tmp_path: Path) -> None:
    made = make_sota(tmp_path)
    found = read(tmp_path / below, "boxes")[0]
    assert found.class_names == SOTA
    check_truth(made, found.records)


def test_two_sets_below_a_folder_are_a_question(tmp_path: Path) -> None:
    make_sota(tmp_path / "sota")
    make_fast(tmp_path / "fast")
    assert not check(tmp_path).ok
    with pytest.raises(UserError, match="several sets of label maps") as caught:
        read(tmp_path, "boxes")
    assert str(tmp_path / "fast") in caught.value.fix


def test_oriented_boxes_of_xml_are_given_to_the_instances_that_they_are_of(tmp_path: Path) -> None:
    made = make_sior(tmp_path)
    check_truth(made, records(made))
    xml = next((tmp_path / "Annotations" / "Oriented Bounding Boxes").glob("P0001*"))
    text = xml.read_text()
    xml.write_text(text[: text.index("<object>")] + text[text.index("</object>") + len("</object>") :])
    walked, report = read(tmp_path, "boxes")
    lacking = made.truth[xml.stem][-1]  # the first of the xml is the last of the pickle
    boxes = walked.records[0].objects
    assert report.counts[NO_BOX] == 1
    x0, y0, x1, y1 = (*lacking.quad.min(0), *lacking.quad.max(0))
    np.testing.assert_allclose(boxes.quads[-1], [[x0, y0], [x1, y0], [x1, y1], [x0, y1]], atol=1e-4)
    np.testing.assert_allclose(boxes.quads[:-1], [one.quad for one in made.truth[xml.stem][:-1]], atol=1e-4)
    pickles = made.segs / "ins" / f"{xml.stem}.pkl"
    rows = pickle.loads(pickles.read_bytes())
    pickles.write_bytes(pickle.dumps(rows[1:]))
    xml.write_text(text)
    walked, report = read(tmp_path, "boxes")
    assert report.counts[NO_INSTANCE] == 1
    assert walked.records[0].objects.masks[-1] == []
    assert len(walked.records[0].objects) == len(rows)


def test_splits_are_lists_or_jsons_and_listed_images_without_files_have_no_objects(tmp_path: Path) -> None:
    made = make_sota(tmp_path)
    with pytest.raises(UserError, match="no split 'train' here") as caught:
        records(made, split="train")
    assert "train.txt" in caught.value.fix
    first, second, third = made.truth
    write_json(made, "train", [first, third])
    write_json(made, "valid", [second])
    assert samrs.splits(tmp_path) == ("train", "valid")
    with pytest.raises(UserError, match="several splits"):
        records(made)
    walked, report = read(tmp_path, "boxes", ask=Ask(split="train"))
    check_truth(made, walked.records)
    assert [Path(one.id).stem for one in walked.records] == [first, third]
    assert report.counts[samrs.EMPTY] == 1
    maps = BoxDataConfig(annotation=tmp_path, split="train", label_maps="files").build()
    assert (maps.sample(1, 0).label_map == 0).all()
    assert len(records(made, split="train+val")) == 3
    (tmp_path / "trainval" / "train.txt").write_text(f"{second}\n{third}\n")
    (tmp_path / "trainval" / "valid.txt").write_text(f"{first}\n")
    assert [Path(one.id).stem for one in records(made, split="train")] == [second, third]
    assert check(tmp_path).splits == ("train", "valid")


def without_pickles(made: Samrs) -> None:
    for file in (made.segs / "ins").iterdir():
        file.unlink()


def test_a_json_of_the_converter_says_the_same_instances(tmp_path: Path) -> None:
    made = make_sota(tmp_path)
    file = write_json(made, "train", list(made.truth))
    without_pickles(made)
    for path in (tmp_path, file):
        walked, _ = read(path, "boxes")
        assert walked.class_names == SOTA
        assert len(walked.records) == 3
        check_truth(made, walked.records)
        assert [one.label_map is not None for one in walked.records] == [True, True, False]
    assert family_of(file).format == "samrs"
    empty = write_json(made, "valid", [list(made.truth)[2]])
    assert "annotations" not in json.loads(empty.read_text())
    assert len(read(empty, "boxes")[0].records) == 1


def test_texts_alone_say_boxes_and_their_classes(tmp_path: Path) -> None:
    made = make_sota(tmp_path)
    without_pickles(made)
    walked, report = read(tmp_path, "boxes")
    assert walked.class_names == SOTA
    assert report.counts[TENTH_COLUMN] == 2
    for record in walked.records:
        drawn = made.truth[Path(record.id).stem]
        assert record.objects.labels.tolist() == [made.label(one) for one in drawn]
        assert not record.objects.is_difficult.any()


def change_rows(made: Samrs, change: Callable[[dict[str, Any]], Any]) -> None:
    for file in (made.segs / "ins").glob("*.pkl"):
        rows = pickle.loads(file.read_bytes())
        file.write_bytes(pickle.dumps([change(row) or row for row in rows]))


def test_early_pickles_have_the_number_in_the_category(tmp_path: Path) -> None:
    made = make_sota(tmp_path, texts=False)
    change_rows(made, lambda row: row.update(category=row["label"]))
    with pytest.raises(UserError, match="nothing says what the label ids stand for") as caught:
        records(made)
    assert "--classes large-vehicle,swimming-pool" in caught.value.fix
    assert "(SIOR)" in caught.value.fix
    walked, _ = read(tmp_path, "boxes", ask=Ask(classes=SOTA))
    assert walked.class_names == SOTA
    check_truth(made, walked.records)
    change_rows(made, lambda row: row.pop("label") and None)
    write_json(made, "train", list(made.truth))
    assert read(tmp_path, "boxes")[0].class_names == SOTA


def test_categories_in_another_order_than_the_label_ids_are_named(tmp_path: Path) -> None:
    made = make_sota(tmp_path)
    file = write_json(made, "train", list(made.truth), categories=DOTA_2_0)
    with pytest.raises(
        UserError, match="numbers and names of classes contradict each other: 'plane' is 0 here"
    ) as caught:
        records(made)
    assert caught.value.where == f"{file}, categories"
    assert not check(tmp_path).ok
    without_pickles(made)
    for text in (tmp_path / "trainval" / "rbbtxts").iterdir():
        text.unlink()
    with pytest.raises(UserError, match="categories in another order than the label ids of SOTA") as caught:
        records(made)
    assert caught.value.fix.startswith("--format coco")


def test_label_maps_in_another_order_than_the_instances_are_named(tmp_path: Path) -> None:
    made = make_sota(tmp_path)
    for name, objects in made.truth.items():  # three of each class, so that it is no accident
        made.truth[name] = [
            one.__class__("ship" if number < 4 else one.name, one.box) for number, one in enumerate(objects)
        ]
    change_rows(made, lambda row: row)
    for name, objects in list(made.truth.items())[:2]:
        file = made.segs / "ins" / f"{name}.pkl"
        rows = pickle.loads(file.read_bytes())
        for row, one in zip(rows, objects, strict=True):
            row["category"], row["label"] = one.name, made.label(one)
        file.write_bytes(pickle.dumps(rows))
        text = tmp_path / "trainval" / "rbbtxts" / f"{name}.txt"
        text.unlink()
        gray = np.full((HEIGHT, WIDTH), 255, np.uint8)
        for one in objects:
            gray[rasterise([one.quad.ravel().tolist()], (0, 0, WIDTH, HEIGHT))] = DOTA_2_0.index(one.name)
        Image.fromarray(gray).save(made.segs / "gray" / f"{name}.png")
    with pytest.raises(
        UserError, match="label maps number classes otherwise than the instances: where 'ship' is, which is 5"
    ) as caught:
        records(made)
    assert "they have 6" in caught.value.what


def test_a_difficult_flag_in_the_tenth_column_is_named(tmp_path: Path) -> None:
    made = make_sota(tmp_path)
    for file in (tmp_path / "trainval" / "rbbtxts").iterdir():
        file.write_text("\n".join(line.rpartition(" ")[0] + " 0" for line in file.read_text().splitlines()))
    with pytest.raises(UserError, match="contradict each other") as caught:
        records(made)
    assert "line" in caught.value.where
    assert "no difficult flag" in caught.value.fix


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no dict": (lambda row: [1], "an instance is a dict"),
    "no label": (lambda row: row.pop("label") and None, "has a category and a label"),
    "label": (lambda row: row.update(label=300), "label from 0 to 254"),
    "box": (lambda row: row.update(rbox=np.zeros(3)), "rbox has 8 numbers"),
    "no box": (lambda row: {key: one for key, one in row.items() if "box" not in key}, "has a bbox or an rbox"),
    "mask": (lambda row: row.update(mask="x"), "a mask has size and counts"),
    "size": (lambda row: row["mask"].update(size=[1]), "the size of a mask"),
    "runs": (lambda row: row["mask"].update(counts="~~~"), "run lengths"),
    "too many runs": (lambda row: row["mask"].update(counts=[0, 10**9]), "run lengths"),
    "other size": (lambda row: row["mask"].update(size=[1, 1], counts=[0, 1]), "a mask of 1 x 1 pixels for an image"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_with_an_instance_is_said_with_its_file_and_number(name: str, tmp_path: Path) -> None:
    made = make_sota(tmp_path, texts=False)
    change_rows(made, FAULTS[name][0])
    with pytest.raises(UserError, match=FAULTS[name][1]) as caught:
        records(made)
    assert ".pkl, instance 0" in caught.value.where
    assert not check(tmp_path).ok


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch canary",)


def test_a_pickle_that_runs_code_is_refused_where_data_are_checked_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = make_sota(tmp_path / "data")
    file = next((made.segs / "ins").glob("*.pkl"))
    file.write_bytes(pickle.dumps([{"mask": Evil()}]))
    with pytest.raises(UserError, match=r"it names posix\.system, which could run code") as caught:
        records(made)
    assert caught.value.where == str(file)
    assert "could run code" in check(made.root).text()
    assert not (tmp_path / "canary").exists()


def test_a_label_map_without_instances_or_of_another_size_is_no_empty_image(tmp_path: Path) -> None:
    made = make_sota(tmp_path)
    first, second, _ = made.truth
    (tmp_path / "trainval" / "train.txt").write_text(f"{first}\n{second}\n")
    (made.segs / "ins" / f"{first}.pkl").unlink()
    with pytest.raises(UserError, match="a label map without instances"):
        records(made)
    assert [Path(one.id).stem for one in records(made, missing="drop")] == [second]
    Image.new("L", (3, 3), 255).save(made.segs / "gray" / f"{second}.png")
    with pytest.raises(UserError, match="a label map of 3 x 3 pixels"):
        records(made, missing="drop")


def test_check_reads_the_label_maps_that_training_is_told_to_read(tmp_path: Path) -> None:
    made = make_fast(tmp_path)
    file = made.segs / "gray" / f"{next(iter(made.truth))}.png"
    labels = np.array(Image.open(file))
    labels[0, 0] = 77
    Image.fromarray(labels).save(file)
    assert check(tmp_path).ok
    found = check(tmp_path, Reading(label_maps="files"))
    assert [one.what for one in found.problems if one.effect == "stops training"] == ["labels of no class: 77"]


def test_objects_whose_mask_is_empty_and_images_that_are_absent_are_counted(tmp_path: Path) -> None:
    made = make_sota(tmp_path)
    change_rows(made, lambda row: row["mask"].update(counts=[HEIGHT * WIDTH]))
    walked, report = read(tmp_path, "boxes")
    assert report.counts["object without a mask: taken as a box only"] == len(SOTA)
    assert all(record.objects.masks is None for record in walked.records)
    next((tmp_path / "trainval" / "images").glob("P0001*")).unlink()
    with pytest.raises(UserError, match="images that are not on disk") as caught:
        records(made)
    assert "--images FOLDER" in caught.value.fix
    assert len(records(made, missing="drop")) == 1


def test_a_set_of_classes_of_ones_own_has_them_by_their_numbers(tmp_path: Path) -> None:
    made = make_sota(tmp_path, texts=False)
    change_rows(made, lambda row: row.update(category=f"kind of {row['label']}"))
    assert read(tmp_path, "boxes")[0].class_names == tuple(f"kind of {number}" for number in range(18))


def test_label_maps_alone_teach_segmentation_with_255_as_background(tmp_path: Path) -> None:
    made = make_sota(tmp_path)
    dataset = maps_at(tmp_path, Reading(), AS_THEY_ARE).build()
    assert dataset.info.class_names == ("background", *SOTA)
    assert dataset.class_pixels[0] > dataset.class_pixels.total() / 2
    assert dataset.class_pixels[-1] == 0
    assert any("255 is the background" in line for line in dataset.report.lines())
    chosen = maps_at(tmp_path, Reading(classes=("background", "ship"), format="samrs_maps"), AS_THEY_ARE).build()
    assert chosen.info.class_names == ("background", "ship")
    assert set(chosen.class_pixels) == {-1, 0, 1}
    assert check(tmp_path, Reading(format="samrs_maps")).ok
    assert isinstance(part_at(tmp_path), BoxDataConfig)
    assert made.root == tmp_path

"""COCO's panoptic annotations: things as objects with masks, stuff in label maps, and each kind of damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from panoptic_sets import IDS, NAMES, make_panoptic
from PIL import Image
from transformers.image_transforms import id_to_rgb, rgb_to_id

from vistruct.contracts import IGNORED
from vistruct.data.boxes import NOT_LEARNED, BoxDataConfig
from vistruct.data.checks.check import check
from vistruct.data.formats.boxes.coco_panoptic import ABSENT, NO_SEGMENTS, colours_of, ids_of, splits
from vistruct.data.reading import Reading
from vistruct.errors import UserError
from vistruct.files.masks import rasterise
from vistruct.metrics.panoptic_quality import PanopticQualityConfig
from vistruct.windows.tiles import Tiles


def data(folder: Path, **more: Any) -> BoxDataConfig:
    told: dict[str, Any] = {"format": "coco-panoptic", "masks": True, "label_maps": "files", **more}
    return BoxDataConfig(annotation=folder, **told)


def test_things_are_objects_with_masks_and_label_maps_have_all_classes(tmp_path: Path) -> None:
    truth = make_panoptic(tmp_path)
    assert splits(tmp_path) == ("val2017",)
    content = json.loads((tmp_path / "annotations/panoptic_val2017.json").read_text())
    dataset = data(tmp_path, split="val").build(cache=tmp_path / "cache")
    assert dataset.info.class_names == NAMES[:2]
    assert dataset.info.map_class_names == dataset.info.panoptic_class_names == NAMES
    for index, (entry, (name, ids)) in enumerate(zip(content["annotations"], truth.items(), strict=True)):
        record = dataset.records[index]
        assert record.id == name
        png = np.array(Image.open(tmp_path / "annotations/panoptic_val2017" / entry["file_name"]))
        assert (rgb_to_id(png) == ids).all()
        expected = np.full(ids.shape, IGNORED)
        things = []
        for one in entry["segments_info"]:
            label = IDS[one["category_id"]]
            expected[ids == one["id"]] = label
            if label < 2:
                things.append((label, bool(one["iscrowd"]), ids == one["id"]))
        assert (dataset.truth(index).numpy() == expected).all()
        objects = record.objects
        assert len(objects) == len(things) == index
        for row, (label, is_crowd, mask) in enumerate(things):
            assert (objects.labels[row], objects.is_crowd[row]) == (label, is_crowd)
            assert (rasterise((objects.masks or ())[row], (0, 0, 64, 64)) == mask).all()
            ys, xs = mask.nonzero()
            assert objects.boxes_xyxy[row].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    sample = dataset.sample(2, 0)
    assert sample.objects.masks.shape == (2, 64, 64)
    assert sample.label_map is not None
    assert torch.equal(sample.label_map, dataset.truth(2))


def test_the_truth_of_the_metric_is_what_the_pngs_say(tmp_path: Path) -> None:
    truth = make_panoptic(tmp_path)
    metric = PanopticQualityConfig().build(data(tmp_path).build())
    for number, ids in enumerate(truth.values()):
        found = metric.truth(number)
        pairs = set(zip(found.map.ravel().tolist(), ids.ravel().tolist(), strict=True))
        assert len(pairs) == len({one for one, _ in pairs}) == len({one for _, one in pairs}) == 3 + number
        assert (0, 0) in pairs
    assert list(found.crowds) == [False, False, True, False]


def test_windows_show_their_part_of_the_label_map(tmp_path: Path) -> None:
    make_panoptic(tmp_path)
    whole = data(tmp_path).build()
    cut = data(tmp_path, tiles=Tiles(size=40, overlap=16, skip_empty=False)).build()
    for index, record in enumerate(cut.records):
        x0, y0, x1, y1 = record.window_xyxy or (0, 0, 0, 0)
        number = [one.id for one in whole.records].index(record.image_id)
        assert (cut.truth(index) == whole.truth(number)[y0:y1, x0:x1]).all()


def test_colours_of_ids_are_those_of_transformers() -> None:
    ids = np.random.default_rng(0).integers(0, 2**24, (5, 7))
    assert (colours_of(ids) == id_to_rgb(ids)).all()
    assert (ids_of(colours_of(ids)) == ids).all()


def first(content: dict[str, Any], **values: Any) -> None:
    content["annotations"][1]["segments_info"][0].update(values)


DAMAGE: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda content: first(content, category_id=7), "a category that there is not"),
    (lambda content: first(content, id=0), "without an id of its own"),
    (lambda content: content["annotations"][1]["segments_info"].pop(), "segments that the json does not"),
    (lambda content: content["annotations"][1].pop("segments_info"), "or segments_info"),
    (lambda content: content["annotations"].append(content["annotations"][1]), "two panoptic annotations"),
    (lambda content: content["categories"][0].pop("isthing"), "whether it is a thing"),
    (lambda content: [one.update(isthing=0) for one in content["categories"]], "no category is a thing"),
    (lambda content: content["categories"].append(content["categories"][0]), "repeats an id or a name"),
    (lambda content: content["annotations"][0].update(file_name="gone.png"), "no such image"),
]


@pytest.mark.parametrize("number", range(len(DAMAGE)))
def test_what_would_make_training_wrong_stops_with_its_place(tmp_path: Path, number: int) -> None:
    make_panoptic(tmp_path)
    file = tmp_path / "annotations/panoptic_val2017.json"
    content = json.loads(file.read_text())
    damage, what = DAMAGE[number]
    damage(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=what):
        data(tmp_path).build()


def test_what_training_can_do_without_is_counted(tmp_path: Path) -> None:
    make_panoptic(tmp_path)
    file = tmp_path / "annotations/panoptic_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"].pop(0)
    content["annotations"][0]["segments_info"].append({"id": 5, "category_id": 1, "iscrowd": 0})
    file.write_text(json.dumps(content))
    dataset = data(tmp_path).build()
    assert dict(dataset.report.counts) == {NO_SEGMENTS: 1, ABSENT: 1, NOT_LEARNED: 1}
    assert [record.id for record in dataset.records] == ["000001.jpg", "000002.jpg"]


def test_choices_that_would_mix_stuff_with_what_is_left_out_are_refused(tmp_path: Path) -> None:
    make_panoptic(tmp_path)
    assert data(tmp_path, classes=NAMES[:2]).build().info.class_names == NAMES[:2]
    for more in ({"classes": ("car",)}, {"drop": ("car",)}, {"join": {"thing": ("car", "person")}}):
        with pytest.raises(UserError, match="not chosen"):
            data(tmp_path, **more).build()
    with pytest.raises(UserError, match="panoptic annotations") as caught:
        data(tmp_path, format="coco").build()
    assert caught.value.fix == "--format coco-panoptic"
    with pytest.raises(UserError, match="no split 'train'"):
        data(tmp_path, split="train").build()
    (tmp_path / "annotations/panoptic_val2017").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no folder panoptic_val2017"):
        data(tmp_path).build()


def test_check_looks_at_things_and_says_what_is_wrong(tmp_path: Path) -> None:
    make_panoptic(tmp_path)
    reading = Reading(format="coco-panoptic")
    found = check(tmp_path, reading)
    assert [one.what for one in found.problems] == [NOT_LEARNED]
    assert found.counts["images"] == 3
    assert set(found.classes) == {"person", "car"}
    (tmp_path / "annotations/panoptic_val2017/000001.png").unlink()
    assert "no such image" in [one.what for one in check(tmp_path, reading).problems]

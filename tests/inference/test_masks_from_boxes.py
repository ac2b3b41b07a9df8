"""Boxes become masks: where each is looked at, what is rejected, what is written, and work that goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_sam
import torch
from box_sets import make_dota
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO
from torch import Tensor

from vistruct.contracts import Objects, Record
from vistruct.data.at_path import maps_at
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.formats.detect import family_of
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, Reading
from vistruct.errors import UserError
from vistruct.files.filled import filled
from vistruct.inference import mask_files
from vistruct.inference.mask_files import MadeMasks, make_masks
from vistruct.inference.masks_from_boxes import (
    CROWD,
    ELSE,
    EMPTY,
    NO_TILE,
    OUTSIDE,
    OWN,
    SPARSE,
    UNSURE,
    Asked,
    look,
    prompts_of,
    tiles_of,
)
from vistruct.inference.segmenter import Prompts, load_segmenter

ELLIPSES = Asked(fill="ellipse")


def as_it_is(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    return pixels, 0.9


@dataclass
class Stub:
    """A segmenter whose mask is the box that it was told, or what `answer` makes of it."""

    answer: Any = as_it_is
    images: list[tuple[int, ...]] = field(default_factory=list)
    digest: str = "stub"

    def encode(self, image: Tensor) -> Any:
        self.images.append(tuple(image.shape))
        return image

    def masks(self, image: Tensor, prompts: Prompts, batch: int) -> Iterator[tuple[np.ndarray, float]]:
        for number in range(len(prompts)):
            pixels = np.zeros(image.shape[1:], bool)
            if prompts.boxes_xyxy is not None:
                x0, y0, x1, y1 = prompts.boxes_xyxy[number].round().int().tolist()
                pixels[y0:y1, x0:x1] = True
            if prompts.points_xy is not None:
                x, y = prompts.points_xy[number].int().tolist()
                pixels[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = True
            yield self.answer(pixels)


def record_of(folder: Path, boxes: np.ndarray, size_hw: tuple[int, int], **columns: Any) -> Record:
    file = folder / "scene.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size_hw, 3), np.uint8)).save(file)
    objects = Objects(boxes_xyxy=boxes.astype(np.float32), labels=np.zeros(len(boxes), np.int64), **columns)
    return Record(id="scene.png", images=(file,), size_hw=size_hw, objects=objects)


def boxes_in(size_hw: tuple[int, int], count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sides = rng.integers(2, 90, (count, 2))
    corner = (rng.random((count, 2)) * (np.array(size_hw[::-1]) - sides)).astype(int)
    return np.concatenate([corner, corner + sides], axis=1)


def test_every_object_is_looked_at_once_whole_and_with_its_margin() -> None:
    size_hw, margin = (700, 1100), 16
    boxes = np.concatenate([boxes_in(size_hw, 300), [[10, 10, 900, 690]]])
    places, alone = tiles_of(boxes, size_hw, 256, margin)
    assert sorted(row for _, rows in places for row in rows.tolist()) == list(range(301))
    assert 1 <= alone < 301
    for (x0, y0, x1, y1), rows in places:
        assert 0 <= x0 < x1 <= 1100
        assert 0 <= y0 < y1 <= 700
        low = np.maximum(boxes[rows, :2] - margin, 0)
        high = np.minimum(boxes[rows, 2:] + margin, (1100, 700))
        assert (low >= (x0, y0)).all()
        assert (high <= (x1, y1)).all()
        assert min(x1 - x0, y1 - y0) >= 256
    (only,), none = tiles_of(boxes, size_hw, 2048, margin)
    assert (only[0], len(only[1]), none) == ((0, 0, 1100, 700), 301, 0)


def test_tiles_give_the_masks_of_the_whole_image_in_its_pixels(tmp_path: Path) -> None:
    record = record_of(tmp_path, boxes_in((300, 500), 60), (300, 500))
    rows = np.arange(60)
    whole, _ = look(record, rows, Asked(tile=512), Stub(), None)  # type: ignore[arg-type]
    stub = Stub()
    tiled, alone = look(record, rows, Asked(tile=160, margin=8), stub, None)  # type: ignore[arg-type]
    assert len(stub.images) > 4
    assert alone > 0
    for row in rows.tolist():
        one, other = whole[row], tiled[row]
        assert (one.mask.x, one.mask.y, one.inside, one.covered) == (other.mask.x, other.mask.y, other.inside, 1)
        np.testing.assert_array_equal(one.mask.pixels, other.mask.pixels)


def test_a_tile_is_what_the_segmenter_says_of_that_part_alone(tmp_path: Path) -> None:
    segmenter = load_segmenter(tiny_sam.save_sam(tmp_path / "sam"), torch.device("cpu"))
    boxes = np.array([[5, 8, 40, 50], [160, 20, 190, 70]])
    record = record_of(tmp_path, boxes, (90, 200))
    found, _ = look(record, np.arange(2), Asked(tile=90, margin=4), segmenter, None)
    pixels = torch.from_numpy(np.array(Image.open(record.images[0]))).permute(2, 0, 1)
    for row, x in ((0, 0), (1, 110)):
        box = torch.from_numpy(boxes[row : row + 1]).float() - torch.tensor([x, 0, x, 0])
        ((mask, iou),) = segmenter.masks(segmenter.encode(pixels[:, :, x : x + 90]), Prompts(boxes_xyxy=box))
        drawn = np.zeros((90, 200), bool)
        one = found[row]
        drawn[one.mask.y :, one.mask.x :][: one.mask.pixels.shape[0], : one.mask.pixels.shape[1]] = one.mask.pixels
        np.testing.assert_array_equal(drawn[:, x : x + 90], mask)
        assert (one.iou, drawn.sum()) == (iou, mask.sum())


def test_masks_of_several_prompts_are_united_and_the_lower_estimate_counts(tmp_path: Path) -> None:
    quad = np.array([[[10, 10], [30, 20], [25, 30], [5, 20]]], np.float32)
    record = record_of(tmp_path, np.array([[5, 10, 30, 30]]), (40, 40), quads=quad)
    ious = iter([0.9, 0.4])
    stub = Stub(answer=lambda pixels: (pixels, next(ious)))
    asked = Asked(prompts=prompts_of(["hull", "point"]))
    (found,) = look(record, np.arange(1), asked, stub, None)[0].values()  # type: ignore[arg-type]
    assert (found.iou, int(found.mask.pixels.sum())) == (0.4, 25 * 20)
    inside = filled(quad[0], "box", (0, 0, 40, 40)).pixels.sum()
    assert found.inside == pytest.approx(inside / 500)
    assert found.covered == 1


def test_prompts_that_are_none_are_refused() -> None:
    assert prompts_of(["box", "point+quad"]) == (("box",), ("point", "quad"))
    for wrong in ("quod", "box+hull", "point+point", ""):
        with pytest.raises(UserError):
            prompts_of([wrong])


def write_coco(folder: Path, boxes: dict[str, list[dict[str, Any]]], size_hw: tuple[int, int] = (60, 80)) -> Path:
    """A COCO json with an image for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, (name, entries) in enumerate(boxes.items(), 1):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (*size_hw, 3), np.uint8)).save(folder / name)
        images.append({"id": number, "file_name": name, "width": size_hw[1], "height": size_hw[0]})
        for entry in entries:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0} | entry)
    categories = [{"id": 1, "name": "ship"}, {"id": 2, "name": "plane"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder


BOXES = {
    "a.png": [{"bbox": [4, 5, 20, 10]}, {"bbox": [30, 20, 30, 30], "category_id": 2}, {"bbox": [60, 40, 10, 12]}],
    "b.png": [],
    "c.png": [{"bbox": [0, 0, 40, 50], "iscrowd": 1}, {"bbox": [50, 5, 9, 9], "ignore": 1}],
}


def made(
    folder: Path, out: Path, asked: Asked, stub: Any = None, reading: Reading = AS_FOUND, **more: Any
) -> MadeMasks:
    """`make_masks` with a stub in the place of what a folder holds."""
    if stub is None:
        return make_masks(folder, out, reading, AS_THEY_ARE, asked=asked, **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_files, "load_segmenter", lambda folder: stub)
        patch.setattr(mask_files, "check_segmenter", lambda folder: "sam")
        return make_masks(folder, out, reading, AS_THEY_ARE, asked=asked, sam=Path("stub"), **more)


def files_of(out: Path) -> dict[str, bytes]:
    """All results but the page, which has its date."""
    found = (file for file in sorted(out.rglob("*")) if file.is_file() and ".vistruct" not in file.parts)
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in found if file.suffix != ".html"}


def test_what_is_written_reads_back_with_masks_crowds_marks_and_empty_images(tmp_path: Path) -> None:
    done = made(write_coco(tmp_path / "in", BOXES), tmp_path / "out", ELLIPSES)
    assert (done.images, done.objects, done.masks) == (3, 5, 5)
    assert done.issues.counts == {CROWD: 1}
    truth = COCO(str(tmp_path / "out" / "annotations.json"))
    assert len(truth.imgs) == 3
    for entry in truth.anns.values():
        pixels = truth.annToMask(entry)
        w, h = entry["bbox"][2:]
        area = w * h if entry["iscrowd"] else np.pi / 4 * w * h
        assert pixels.sum() == entry["area"] == pytest.approx(area, rel=0.02, abs=6)
        assert coco.encode(np.asfortranarray(pixels))["counts"].decode() == entry["segmentation"]["counts"]
    dataset = BoxDataConfig(annotation=tmp_path / "out", masks=True).build()
    assert [record.id for record in dataset.records] == ["a.png", "b.png", "c.png"]
    assert dataset.records[2].objects.is_crowd.tolist() == [True, False]
    assert dataset.records[2].objects.is_difficult.tolist() == [False, True]
    masks = dataset.sample(0, 0).objects.masks
    assert masks.shape == (3, 60, 80)
    assert masks[0].sum() == truth.anns[1]["area"]
    assert dataset.info.class_names == ("ship", "plane")


def test_oriented_boxes_and_splits_stay_beside_their_masks(tmp_path: Path) -> None:
    drawn = make_dota(tmp_path / "in", ("ship", "plane", "harbor"))
    done = made(tmp_path / "in", tmp_path / "out", Asked(fill="box"))
    assert done.images == 6
    for split in ("train", "val"):
        before = BoxDataConfig(annotation=drawn.root, split=split).build().records
        after = BoxDataConfig(annotation=tmp_path / "out", split=split, masks=True).build().records
        for one, other in zip(before, after, strict=True):
            np.testing.assert_allclose(one.objects.quads, other.objects.quads, atol=1e-3)
            assert one.objects.is_difficult.tolist() == other.objects.is_difficult.tolist()
            assert (other.objects.masks is None) == (len(other.objects) == 0) or all(other.objects.masks)


def test_every_rule_rejects_counts_and_falls_back_by_name(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "in", {"a.png": [{"bbox": [10 * n, 5, 9, 20]} for n in range(5)]})
    nothing, moved = np.zeros((60, 80), bool), np.zeros((60, 80), bool)
    moved[40:, 40:] = True
    small = np.zeros((60, 80), bool)
    small[6:8, 31:33] = True

    def answers() -> Iterator[tuple[np.ndarray, float]]:
        box = filled(np.array([[40, 5], [49, 5], [49, 25], [40, 25]]), "box", (0, 0, 80, 60))
        right = np.zeros((60, 80), bool)
        right[5:25, 40:49] = box.pixels
        yield from [(nothing, 0.9), (moved, 0.9), (moved, 0.2), (small, 0.9), (right, 0.9)]

    for otherwise in ("none", "ellipse", "box"):
        given = answers()
        stub = Stub(answer=lambda _, given=given: next(given))
        asked = Asked(min_iou=0.5, min_covered=0.1, otherwise=otherwise)
        done = made(source, tmp_path / otherwise, asked, stub)
        assert done.issues.counts == {EMPTY: 1, OUTSIDE: 1, UNSURE: 1, SPARSE: 1, ELSE[otherwise]: 4}
        assert done.masks == (1 if otherwise == "none" else 5)
        entries = json.loads((tmp_path / otherwise / "annotations.json").read_text())["annotations"]
        assert [entry["attributes"]["mask_by"] for entry in entries] == [otherwise] * 4 + ["segmenter"]
        assert entries[1]["attributes"]["mask_inside"] == 0
        assert entries[4]["attributes"] == {
            "mask_by": "segmenter", "predicted_iou": 0.9, "mask_inside": 1.0, "mask_covered": 1.0
        }  # fmt: skip
        assert entries[4]["area"] == 180
        (record,) = BoxDataConfig(annotation=tmp_path / otherwise, masks=True).build().records
        assert sum(map(bool, record.objects.masks)) == done.masks


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "in", BOXES)
    asked = Asked(otherwise="ellipse")

    class Killed(BaseException):
        pass

    def dies(pixels: np.ndarray) -> Any:
        if len(stub.images) == 2:
            raise Killed
        return pixels, 0.75

    stub = Stub(answer=dies)
    with pytest.raises(Killed):
        made(source, tmp_path / "out", asked, stub)
    assert files_of(tmp_path / "out") == {}
    again = Stub(answer=lambda pixels: (pixels, 0.75))
    made(source, tmp_path / "out", asked, again)
    assert len(again.images) == 1  # of two images with boxes to ask about
    whole = Stub(answer=lambda pixels: (pixels, 0.75))
    made(source, tmp_path / "whole", asked, whole)
    assert len(whole.images) == 2
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_other_rules_need_no_second_look_and_other_boxes_or_prompts_do(tmp_path: Path) -> None:
    source, out = write_coco(tmp_path / "in", BOXES), tmp_path / "out"
    for asked, looks in ((Asked(), 2), (Asked(), 0), (Asked(min_iou=0.95), 0), (Asked(prompts=(("point",),)), 2)):
        stub = Stub()
        done = made(source, out, asked, stub)
        assert len(stub.images) == looks
    assert done.issues.counts.get(UNSURE) is None
    content = json.loads((source / "boxes.json").read_text())
    content["annotations"][-1]["bbox"] = [1, 2, 9, 9]
    (source / "boxes.json").write_text(json.dumps(content))
    stub = Stub()
    made(source, out, Asked(prompts=(("point",),)), stub)
    assert len(stub.images) == 1


def test_masks_that_are_there_already_are_a_question(tmp_path: Path) -> None:
    outline = [[5.0, 5, 20, 6, 18, 14]]
    entries = [{"bbox": [5, 5, 15, 9], "segmentation": outline}, {"bbox": [30, 20, 30, 30]}]
    box_again = {"bbox": [40, 5, 10, 8], "segmentation": [[40.0, 5, 50, 5, 50, 13, 40, 13]]}
    source = write_coco(tmp_path / "in", {"a.png": [*entries, box_again]})
    with pytest.raises(UserError, match="1 of 3 objects have masks already") as caught:
        made(source, tmp_path / "out", ELLIPSES)
    assert "--existing keep" in caught.value.fix
    done = made(source, tmp_path / "keep", Asked(fill="ellipse", existing="keep"))
    assert done.issues.counts[OWN] == 1
    written = json.loads((tmp_path / "keep" / "annotations.json").read_text())["annotations"]
    assert written[0]["segmentation"] == outline
    assert written[2]["attributes"]["mask_by"] == "ellipse"
    made(source, tmp_path / "replace", Asked(fill="ellipse", existing="replace"))
    written = json.loads((tmp_path / "replace" / "annotations.json").read_text())["annotations"]
    assert written[0]["attributes"]["mask_by"] == "ellipse"


def test_bad_inputs_are_errors_with_words(tmp_path: Path) -> None:
    empty = write_coco(tmp_path / "empty", {"a.png": [], "b.png": []})
    with pytest.raises(UserError, match="no boxes in 2 images"):
        made(empty, tmp_path / "out", ELLIPSES)
    source = write_coco(tmp_path / "in", BOXES)
    with pytest.raises(UserError, match="no oriented boxes"):
        made(source, tmp_path / "out", Asked(prompts=(("quad",),)), Stub())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "annotations.json").write_text("mine")
    with pytest.raises(UserError, match="would be overwritten"):
        made(source, tmp_path / "out", ELLIPSES)
    assert (tmp_path / "out" / "annotations.json").read_text() == "mine"
    for inside in (source, source / "masks"):
        with pytest.raises(UserError, match="part of the data set"):
            made(source, inside, ELLIPSES)


def test_an_image_that_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "in", BOXES)
    data = (source / "a.png").read_bytes()
    (source / "a.png").write_bytes(data[: len(data) // 2])
    done = made(source, tmp_path / "out", Asked(), Stub())
    assert [name for name, _ in done.broken] == ["a.png"]
    assert done.images == 2
    (source / "a.png").write_bytes(data)
    stub = Stub()
    done = made(source, tmp_path / "out", Asked(), stub)
    assert (done.images, done.broken, len(stub.images)) == (3, [], 1)


def test_pictures_are_linked_or_left_and_what_is_no_longer_of_the_data_goes(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "in", BOXES)
    for _ in range(2):
        made(source, tmp_path / "links", ELLIPSES, pictures="link")
    assert (tmp_path / "links" / "images" / "a.png").resolve() == source / "a.png"
    made(source, tmp_path / "none", ELLIPSES, pictures="none")
    assert BoxDataConfig(annotation=tmp_path / "none", images=source).build()
    made(source, tmp_path / "out", ELLIPSES)
    write_coco(source, {name: BOXES[name] for name in ("a.png", "b.png")})
    made(source, tmp_path / "out", ELLIPSES)
    assert sorted(file.name for file in (tmp_path / "out" / "images").iterdir()) == ["a.png", "b.png"]


def test_a_large_object_has_a_window_of_its_own_and_it_is_counted(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "in", {"a.png": [{"bbox": [2, 2, 230, 150]}, {"bbox": [5, 5, 9, 9]}]}, (200, 240))
    stub = Stub()
    done = made(source, tmp_path / "out", Asked(tile=100, margin=4), stub)
    assert done.issues.counts == {NO_TILE: 1}
    assert sorted(stub.images) == [(3, 100, 100), (3, 156, 236)]


def test_label_maps_have_small_objects_on_top_and_say_what_does_not_count(tmp_path: Path) -> None:
    entries = [
        {"bbox": [10, 10, 8, 8]},
        {"bbox": [5, 5, 40, 40], "category_id": 2},
        {"bbox": [50, 5, 20, 20], "ignore": 1},
        {"bbox": [50, 40, 20, 10], "iscrowd": 1},
    ]
    source = write_coco(tmp_path / "in", {"a.png": entries, "b.png": []})
    made(source, tmp_path / "out", Asked(fill="box"), maps=True)
    painted = np.array(Image.open(tmp_path / "out" / "painted" / "a.png"))
    truth = np.zeros((60, 80), int)
    truth[5:45, 5:45], truth[10:18, 10:18], truth[5:25, 50:70], truth[40:50, 50:70] = 2, 1, 255, 255
    np.testing.assert_array_equal(painted, truth)
    assert not np.array(Image.open(tmp_path / "out" / "painted" / "b.png")).any()
    assert family_of(tmp_path / "out").kind == "boxes"  # the maps are no second data set
    reading = Reading(images="images", labels="painted", classes=("background", "ship", "plane"))
    maps = maps_at(tmp_path / "out", reading, AS_THEY_ARE).build()
    learned = maps.sample(0, 0).label_map
    from_objects = BoxDataConfig(annotation=tmp_path / "out", masks=True, label_maps="painted").build()
    assert learned is not None
    assert torch.equal(learned, from_objects.sample(0, 0).label_map)


def test_what_was_rejected_does_not_count_in_a_label_map_and_its_box_is_still_learned(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "in", {"a.png": [{"bbox": [10, 10, 8, 8]}, {"bbox": [40, 10, 8, 8]}]})
    answers = iter([np.zeros((60, 80), bool), filled_box()])
    made(source, tmp_path / "out", Asked(), Stub(answer=lambda _: (next(answers), 0.9)), maps=True)
    painted = np.array(Image.open(tmp_path / "out" / "painted" / "a.png"))
    assert np.unique(painted).tolist() == [0, 1, 255]
    assert (painted[10:18, 10:18] == 255).all()
    assert (painted[10:18, 40:48] == 1).all()
    sample = BoxDataConfig(annotation=tmp_path / "out", masks=True).build().sample(0, 0)
    assert sample.objects.masks.flatten(1).any(dim=1).tolist() == [False, True]
    assert len(sample.objects.boxes_xyxy) == 2


def filled_box() -> np.ndarray:
    pixels = np.zeros((60, 80), bool)
    pixels[10:18, 40:48] = True
    return pixels


def test_attributes_of_the_annotations_stay(tmp_path: Path) -> None:
    entry = {"bbox": [10, 10, 18, 8], "attributes": {"colour": "red", "rotation": 30.0, "occluded": False}}
    source = write_coco(tmp_path / "in", {"a.png": [entry, {"bbox": [40, 10, 8, 8]}]})
    made(source, tmp_path / "out", ELLIPSES)
    first, second = json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"]
    assert first["attributes"]["colour"] == "red"
    assert first["attributes"]["occluded"] is False
    assert "colour" not in second["attributes"]
    (before,) = BoxDataConfig(annotation=source).build().records
    (after,) = BoxDataConfig(annotation=tmp_path / "out").build().records
    np.testing.assert_allclose(before.objects.quads, after.objects.quads, atol=1e-3)


def test_sam_from_a_folder_makes_the_masks_that_are_written(tmp_path: Path) -> None:
    """Nothing is put in anybody's place: the folder, its processor, tiles, run lengths."""
    folder = tiny_sam.save_sam2(tmp_path / "sam2")
    source = write_coco(tmp_path / "in", BOXES)
    asked = Asked(min_inside=0.0, prompts=(("box", "point"),))
    done = make_masks(source, tmp_path / "out", AS_FOUND, AS_THEY_ARE, asked=asked, sam=folder)
    assert done.masks == 5
    segmenter = load_segmenter(folder, torch.device("cpu"))
    truth = COCO(str(tmp_path / "out" / "annotations.json"))
    pixels = torch.from_numpy(np.array(Image.open(source / "a.png"))).permute(2, 0, 1)
    boxes = torch.tensor([[4.0, 5, 24, 15], [30, 20, 60, 50], [60, 40, 70, 52]])
    prompts = Prompts(boxes_xyxy=boxes, points_xy=(boxes[:, :2] + boxes[:, 2:]) / 2)
    for entry, (mask, iou) in zip(
        truth.loadAnns([1, 2, 3]), segmenter.masks(segmenter.encode(pixels), prompts), strict=True
    ):
        np.testing.assert_array_equal(truth.annToMask(entry).astype(bool), mask)
        assert entry["attributes"]["predicted_iou"] == pytest.approx(iou, abs=1e-4)

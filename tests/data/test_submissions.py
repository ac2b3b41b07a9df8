"""Files that others score: read back by other programs, by our own readers, and line by line."""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from box_sets import read_coco
from PIL import Image
from pycocotools.coco import COCO

from vistruct.contracts import BoxPrediction, MaskPatch, Objects
from vistruct.data.formats.boxes.objects import CLIPPED
from vistruct.data.formats.boxes.submissions import BEYOND, check_dota_names, write_coco, write_dota, write_xview
from vistruct.errors import UserError
from vistruct.ops.oriented import cxcywha_to_quads, cxcywha_to_xyxy

CLASSES = ("plane", "ground-track-field", "ship")


def prediction(
    image: str, rows: list[tuple[float, ...]], *, oriented: bool = True, masks: bool = False
) -> BoxPrediction:
    """Rows of cx, cy, w, h, angle, score, label."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 7)
    boxes = table[:, :5]
    return BoxPrediction(
        id=image,
        image_id=image,
        objects=Objects(
            boxes_xyxy=cxcywha_to_xyxy(boxes),
            scores=table[:, 5],
            labels=table[:, 6].long(),
            boxes_cxcywha=boxes if oriented else None,
            masks=tuple(MaskPatch(pixels=np.eye(4, dtype=bool), x=3 + i, y=2) for i in range(len(table)))
            if masks
            else None,
        ),
        class_names=CLASSES,
    )


FOUND = [
    prediction("P0007.png", [(50, 40, 30, 10, 0.5, 0.3, 0), (20, 20, 8, 4, -0.2, 0.9, 2)]),
    prediction("below/P0006.png", [(50, 40, 30, 10, 0.5, 0.8, 0), (9, 9, 8, 4, 0.0, 0.1234567, 0)]),
    prediction("P0008.png", []),
]


def test_task_1_has_a_file_for_every_class_best_first_with_four_corners(tmp_path: Path) -> None:
    archive = write_dota(tmp_path / "dota", FOUND, CLASSES)
    assert archive == tmp_path / "dota" / "Task1.zip"
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == ["Task1_ground-track-field.txt", "Task1_plane.txt", "Task1_ship.txt"]  # no folders
        texts = {name: file.read(name).decode() for name in file.namelist()}
    assert all((tmp_path / "dota" / name).read_text() == text for name, text in texts.items())
    assert texts["Task1_ground-track-field.txt"] == ""
    lines = [line.split(" ") for line in texts["Task1_plane.txt"].splitlines()]
    assert [line[0] for line in lines] == ["P0006", "P0007", "P0006"]  # by score, without folder and ending
    assert [float(line[1]) for line in lines] == pytest.approx([0.8, 0.3, 0.1234567], abs=1e-7)
    corners = np.array(lines[0][2:], float).reshape(4, 2)
    expected = cxcywha_to_quads(FOUND[1].objects.boxes_cxcywha[:1])[0].numpy()
    np.testing.assert_allclose(corners, expected, atol=0.0051)


def test_task_2_has_two_corners(tmp_path: Path) -> None:
    archive = write_dota(tmp_path, [prediction("a.png", [(50, 40, 30, 10, 0.0, 0.5, 0)], oriented=False)], CLASSES)
    assert archive.name == "Task2.zip"
    assert (tmp_path / "Task2_plane.txt").read_text() == "a 0.5 35.00 35.00 65.00 45.00\n"


def test_equal_results_are_equal_bytes_whatever_the_order_of_the_images(tmp_path: Path) -> None:
    one = write_dota(tmp_path / "one", FOUND, CLASSES).read_bytes()
    assert write_dota(tmp_path / "two", FOUND[::-1], CLASSES).read_bytes() == one


def test_scores_that_differ_are_written_differently(tmp_path: Path) -> None:
    close = [float(np.nextafter(np.float32(0.9), np.float32(1))), float(np.float32(0.9))]
    write_dota(tmp_path, [prediction("a.png", [(50, 40, 30, 10, 0.5, score, 0) for score in close])], CLASSES)
    written = [np.float32(line.split()[1]) for line in (tmp_path / "Task1_plane.txt").read_text().splitlines()]
    assert written == [np.float32(score) for score in close]


def test_names_that_the_files_cannot_hold_are_refused(tmp_path: Path) -> None:
    check_dota_names(["a.png", "b/c.png"], CLASSES, tmp_path)
    for images in (["a.png", "b/a.tif"], ["a b.png"]):
        with pytest.raises(UserError, match=r"would be written|cannot name"):
            check_dota_names(images, CLASSES, tmp_path)
    for classes in (["a/b"], ["a b", "a-b"], [""]):
        with pytest.raises(UserError, match=r"would be written|cannot name"):
            check_dota_names(["a.png"], classes, tmp_path)
    with pytest.raises(ValueError, match="2 kinds"):
        write_dota(tmp_path, [FOUND[0], prediction("x.png", [], oriented=False)], CLASSES)
    with pytest.raises(UserError, match="two images"):
        write_dota(tmp_path, [FOUND[0], FOUND[0]], CLASSES)
    with pytest.raises(ValueError, match="0 predictions"):
        write_dota(tmp_path, [], CLASSES)


def test_class_names_have_hyphens_for_spaces(tmp_path: Path) -> None:
    names = ("storage tank", "b", "c")
    write_dota(tmp_path, [FOUND[0]], names)
    assert (tmp_path / "Task1_storage-tank.txt").is_file()


def test_pycocotools_reads_boxes_polygons_and_masks(tmp_path: Path) -> None:
    sizes = {"a.png": (60, 80), "b.png": (7, 9)}
    rows = [(50, 40, 30, 10, 0.5, 0.3, 0), (20, 20, 8, 4, -0.2, 0.9, 2)]
    for oriented, masks in ((False, False), (True, False), (False, True), (True, True)):
        found = [
            prediction(name, some, oriented=oriented, masks=masks) for name, some in (("a.png", rows), ("b.png", []))
        ]
        assert write_coco(tmp_path / "a.json", sizes, found, CLASSES) == 2
        document = COCO(str(tmp_path / "a.json"))
        assert [category["name"] for category in document.cats.values()] == list(CLASSES)
        assert {image["file_name"]: (image["height"], image["width"]) for image in document.imgs.values()} == sizes
        entries = document.loadAnns(document.getAnnIds(imgIds=[1]))
        assert [entry["score"] for entry in entries] == pytest.approx([0.3, 0.9])
        boxes = np.array([entry["bbox"] for entry in entries])
        np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], found[0].objects.boxes_xyxy[:, 2:], atol=1e-3)
        if masks:
            pixels = document.annToMask(entries[1])
            assert np.argwhere(pixels).tolist() == [[2 + i, 4 + i] for i in range(4)]
        elif oriented:
            quads = cxcywha_to_quads(found[0].objects.boxes_cxcywha).flatten(1).tolist()
            assert [entry["segmentation"][0] for entry in entries] == quads
            assert [entry["area"] for entry in entries] == pytest.approx([300, 32])
            assert json.loads((tmp_path / "a.json").read_text())["info"] == {"segmentation": "oriented boxes"}


def test_oriented_results_read_back_as_annotations(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    rows = [(50, 40, 30, 10, 0.5, 0.3, 0), (20, 20, 8, 4, -0.2, 0.9, 2)]
    write_coco(tmp_path / "a.json", {"a.png": (60, 80)}, [prediction("a.png", rows)], CLASSES)
    (record,), names, _ = read_coco(tmp_path / "a.json")
    assert names == CLASSES
    np.testing.assert_allclose(record.objects.quads, cxcywha_to_quads(torch.tensor(rows)[:, :5]), atol=1e-4)


XVIEW = ("Small Car", "truck-w/box", "Helicopter")


def test_xview_files_are_what_its_scorer_reads(tmp_path: Path) -> None:
    rows = [(50, 40, 30, 10, 0.0, 0.25, 0), (20, 20, 8, 4, 0.0, 0.9, 2), (2, 3, 8, 4, 0.0, 0.5, 1)]
    found = [
        replace(prediction(name, some, oriented=False), class_names=XVIEW)
        for name, some in (("train_images/40.tif", rows), ("5.tif", [(-9, 9, 2, 2, 0.0, 0.5, 0)]))
    ]
    names = ["train_images/40.tif", "5.tif", "1036.png"]
    archive, report = write_xview(tmp_path, found, names)
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == ["1036.tif.txt", "40.tif.txt", "5.tif.txt"]
        texts = {name: file.read(name).decode() for name in file.namelist()}
    assert texts["1036.tif.txt"] == texts["5.tif.txt"] == ""  # an empty file is an image without detections
    # As the scorer does: fields apart by one space, all of them numbers, none below 0, the fifth a number of a class.
    table = np.array(list(csv.reader(texts["40.tif.txt"].splitlines(), delimiter=" "))).astype(float)
    np.testing.assert_allclose(table, [[16, 18, 24, 22, 15, 0.9], [0, 1, 6, 5, 25, 0.5], [35, 35, 65, 45, 18, 0.25]])
    assert dict(report.counts) == {CLIPPED: 1, BEYOND: 1}
    assert (tmp_path / "predictions" / "40.tif.txt").read_text() == texts["40.tif.txt"]
    assert write_xview(tmp_path / "again", found[::-1], names)[0].read_bytes() == archive.read_bytes()


def test_xview_files_are_of_its_classes_and_of_the_images_that_were_asked_about(tmp_path: Path) -> None:
    found = prediction("5.tif", [(9, 9, 2, 2, 0.0, 0.5, 0)], oriented=False)
    with pytest.raises(UserError, match="xView has no class 'plane'"):
        write_xview(tmp_path, [found], ["5.tif"])
    found = replace(found, class_names=XVIEW)
    with pytest.raises(UserError, match="not asked for"):
        write_xview(tmp_path, [found, found], ["5.tif"])
    with pytest.raises(UserError, match="two images"):
        write_xview(tmp_path, [], ["a/5.tif", "b/5.tif"])

"""Exports of annotation tools, made small as the tools write them: right corners, right names, and one format each.

Evidence: formulas of the tools' own documentation, written out here a second time, and pixels counted by hand.
"""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tool_exports import (
    HEIGHT,
    LAYOUTS,
    VIA_RECT,
    WIDTH,
    box,
    cvat,
    datumaro,
    drawn,
    image,
    labelme,
    region,
    roboflow_keras,
    save,
    supervisely,
    task,
    via,
    via_json,
)

from vistruct.contracts import Record
from vistruct.data.formats.boxes.outlines import hull_of, runs_of, smallest_rectangle
from vistruct.data.formats.detect import family_of, find_annotation, matching
from vistruct.data.formats.format import Ask, Walked
from vistruct.data.formats.read import read, walk
from vistruct.errors import UserError
from vistruct.files.masks import rasterise
from vistruct.issues import IssueCounter


def turned(cx: float, cy: float, w: float, h: float, degrees: float) -> list[list[float]]:
    """Clockwise on screen (y down) about the centre."""
    a = math.radians(degrees)
    rotation = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
    return (corners @ rotation.T + [cx, cy]).tolist()


def by_name(walked: Walked) -> dict[str, Record]:
    return {Path(record.id).name: record for record in walked.records}


def quads(record: Record) -> np.ndarray:
    assert record.objects.quads is not None
    return record.objects.quads


# CVAT for images 1.1


def test_a_turned_box_of_cvat_has_the_corners_of_its_rotation_about_the_centre(tmp_path: Path) -> None:
    box = (
        '<box label="crown" occluded="0" xtl="40.00" ytl="20.00" xbr="70.00" ybr="44.00" rotation="30.00" z_order="0"/>'
    )
    walked, report = read(cvat(tmp_path, box), "boxes")
    (record,) = walked.records
    wanted = [48.01, 14.11, 73.99, 29.11, 61.99, 49.89, 36.01, 34.89]
    np.testing.assert_allclose(quads(record).reshape(-1), wanted, atol=0.01)
    np.testing.assert_allclose(quads(record)[0], turned(55, 32, 30, 24, 30), atol=1e-4)
    assert walked.class_names == ("tree", "crown")  # in the order of the task
    assert not report.counts


def test_a_mask_of_cvat_goes_row_by_row_in_its_rectangle(tmp_path: Path) -> None:
    # Two rows of four: background 1, object 2, background 2, object 3.
    mask = '<mask label="crown" rle="1, 2, 2, 3" left="10" top="8" width="4" height="2" z_order="0"/>'
    walked, _ = read(cvat(tmp_path, mask), "boxes", ask=Ask(masks=True))
    objects = walked.records[0].objects
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[8:10, 10:14] = [[False, True, True, False], [False, True, True, True]]
    assert objects.masks is not None
    np.testing.assert_array_equal(rasterise(objects.masks[0], (0, 0, WIDTH, HEIGHT)), pixels)
    assert objects.boxes_xyxy.tolist() == [[11, 8, 14, 10]]


def test_outlines_of_cvat_are_masks_with_a_hull_and_the_rest_is_counted(tmp_path: Path) -> None:
    shapes = (
        '<polygon label="crown" points="10.00,8.00;34.00,8.00;34.00,30.00"/><points label="tree" points="1,1"/>'
        '<polyline label="tree" points="1,1;5,5"/><tag label="tree"/><box label="tree" outside="1" xtl="0" ytl="0"'
        ' xbr="5" ybr="5"/>'
    )
    walked, report = read(cvat(tmp_path, shapes), "boxes")
    objects = walked.records[0].objects
    assert objects.boxes_xyxy.tolist() == [[10, 8, 34, 30]]
    assert objects.quads is None
    assert objects.masks == ([[10, 8, 34, 8, 34, 30]],)
    assert sorted(report.counts.values()) == [1, 3]


def test_subsets_of_a_cvat_project_are_splits(tmp_path: Path) -> None:
    box = '<box label="crown" xtl="1" ytl="2" xbr="11" ybr="12"/>'
    more = f'<image id="1" name="a1.jpg" subset="val" width="96" height="80">{box}</image>'
    folder = cvat(tmp_path, box, more, subset="train")
    image(folder / "images" / "val" / "a1.jpg")
    with pytest.raises(UserError, match="several splits are here: train, val"):
        read(folder, "boxes")
    walked, _ = read(folder, "boxes", ask=Ask(split="val"))
    assert [record.id for record in walked.records] == ["a1.jpg"]
    assert len(read(folder, "boxes", ask=Ask(split="train+val"))[0].records) == 2


def test_cvat_of_a_video_says_which_export_is_read(tmp_path: Path) -> None:
    save(tmp_path / "annotations.xml", '<annotations><track id="0" label="a"><box frame="0"/></track></annotations>')
    with pytest.raises(UserError, match="tracks of a video") as caught:
        read(tmp_path, "boxes")
    assert "CVAT for images 1.1" in caught.value.fix


# Label Studio


def test_label_studio_turns_about_the_top_left_corner_on_the_pixels(tmp_path: Path) -> None:
    image(tmp_path / "a0.jpg")
    save(tmp_path / "project.json", [task(region(box(50, 25, 25, 20, 30)))])
    walked, _ = read(tmp_path, "boxes")
    x, y, w, h = 0.5 * WIDTH, 0.25 * HEIGHT, 0.25 * WIDTH, 0.2 * HEIGHT
    a = math.radians(30)
    across, down = np.array([math.cos(a), math.sin(a)]) * w, np.array([-math.sin(a), math.cos(a)]) * h
    first = np.array([x, y])
    np.testing.assert_allclose(
        quads(walked.records[0])[0], [first, first + across, first + across + down, first + down]
    )


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("/data/upload/1/a1b2c3d4-a0.jpg", "a0.jpg"),
        ("/data/upload/1/a1b2c3d4-a0.jpg", "images/a1b2c3d4-a0.jpg"),
        ("/data/local-files/?d=field/2024/a0.jpg", "2024/a0.jpg"),
        ("s3://bucket/field/a0.jpg", "images/a0.jpg"),
        ("https://host/field/a%200.jpg?sig=1", "a 0.jpg"),
    ],
)
def test_label_studio_finds_images_by_the_names_of_tasks(tmp_path: Path, name: str, file: str) -> None:
    image(tmp_path / file)
    save(tmp_path / "project.json", [task(region(box(0, 0, 50, 50)), name=name)])
    walked, _ = read(tmp_path, "boxes")
    assert walked.records[0].images == (tmp_path / file,)
    assert walked.records[0].objects.boxes_xyxy.tolist() == [[0, 0, 48, 40]]


def test_several_annotations_of_one_image_are_a_question_and_skipped_ones_are_counted(tmp_path: Path) -> None:
    for name in ("a0.jpg", "a1.jpg", "a2.jpg"):
        image(tmp_path / name)
    twice = task(region(box(0, 0, 50, 50)), name="a0.jpg")
    later = {"id": 9, "updated_at": "2025-01-02", "result": [region(box(0, 0, 25, 25))]}
    twice["annotations"][0]["updated_at"] = "2025-01-01"
    twice["annotations"].append(later)
    skipped = task(name="a1.jpg")
    skipped["annotations"][0]["was_cancelled"] = True
    unlabelled = {**task(name="a2.jpg"), "annotations": []}
    save(tmp_path / "project.json", [twice, skipped, unlabelled])
    with pytest.raises(UserError, match="several annotations of one image") as caught:
        read(tmp_path, "boxes")
    assert "--format label-studio-latest" in caught.value.fix
    walked, report = read(tmp_path, "boxes", format="label-studio-latest")
    assert walked.records[0].objects.boxes_xyxy.tolist() == [[0, 0, 24, 20]]
    assert sorted(report.counts.values()) == [1, 1]


def test_label_studio_json_min_and_outlines(tmp_path: Path) -> None:
    image(tmp_path / "a0.jpg")
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    outline = {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["crown"], **size}
    entry = {"image": "a0.jpg", "id": 1, "label": [outline], "annotator": 1, "annotation_id": 1, "lead_time": 2.0}
    save(tmp_path / "min.json", [entry])
    walked, _ = read(tmp_path, "boxes")
    assert walked.records[0].objects.masks == ([[0, 0, 48, 0, 48, 40]],)


def test_label_studio_yolo_with_notes_is_yolo(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a1b2c3d4-a0.jpg")
    save(tmp_path / "labels" / "a1b2c3d4-a0.txt", "0 0.5 0.5 0.5 0.5\n")
    save(tmp_path / "classes.txt", "crown\n")
    save(tmp_path / "notes.json", {"categories": [{"id": 0, "name": "crown"}], "info": {"year": 2025}})
    assert family_of(tmp_path).format == "yolo"
    assert read(tmp_path, "boxes")[0].class_names == ("crown",)


# labelme, VIA, Datumaro, Supervisely


def test_labelme_reads_rectangles_outlines_and_turned_boxes(tmp_path: Path) -> None:
    for name in ("a0", "a1"):
        image(tmp_path / f"{name}.jpg")
    corners = turned(50, 40, 20, 10, 30)
    labelme(
        tmp_path, drawn("rectangle", [[34, 30], [10, 8]]), drawn("rotation", corners), drawn("line", [[0, 0], [1, 1]])
    )
    labelme(tmp_path, name="a1", path="..\\elsewhere\\a1.jpg")
    walked, report = read(tmp_path, "boxes")
    objects = by_name(walked)["a0.jpg"].objects
    assert objects.boxes_xyxy[0].tolist() == [10, 8, 34, 30]
    np.testing.assert_allclose(quads(by_name(walked)["a0.jpg"])[1], corners, atol=1e-4)
    assert len(by_name(walked)["a1.jpg"].objects) == 0
    assert sum(report.counts.values()) == 1


def test_a_mask_of_labelme_is_a_picture_at_its_place(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a0.jpg")
    part = np.array([[1, 1, 0], [0, 1, 1]], bool)
    buffer = io.BytesIO()
    Image.fromarray(part).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    labelme(tmp_path / "labels", drawn("mask", [[20, 30], [22, 31]], mask=text), path="../images/a0.jpg")
    walked, _ = read(tmp_path, "boxes", ask=Ask(masks=True))
    objects = walked.records[0].objects
    assert objects.masks is not None
    pixels = rasterise(objects.masks[0], (0, 0, WIDTH, HEIGHT))
    np.testing.assert_array_equal(pixels[30:32, 20:23], part)
    assert pixels.sum() == 4
    assert objects.boxes_xyxy.tolist() == [[20, 30, 23, 32]]


def test_parts_of_one_group_are_one_object(tmp_path: Path) -> None:
    image(tmp_path / "a0.jpg")
    first, second = [[0, 0], [10, 0], [10, 10]], [[20, 20], [30, 20], [30, 30]]
    labelme(
        tmp_path, drawn("polygon", first, group_id=1), drawn("polygon", second, group_id=1), drawn("polygon", first)
    )
    objects = read(tmp_path, "boxes")[0].records[0].objects
    assert objects.boxes_xyxy.tolist() == [[0, 0, 30, 30], [0, 0, 10, 10]]


VIA_OUTLINE = {"name": "polygon", "all_points_x": [40, 70, 70], "all_points_y": [20, 20, 44]}


def test_via_json_project_and_csv_say_the_same(tmp_path: Path) -> None:
    regions = [via(VIA_RECT), via(VIA_OUTLINE)]
    whole = via_json(tmp_path / "json", *regions)
    images = json.loads((whole / "via_export_json.json").read_text())
    image(tmp_path / "project" / "a0.jpg")
    save(
        tmp_path / "project" / "via_project.json",
        {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": {}},
    )
    image(tmp_path / "csv" / "a0.jpg")
    header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    cells = [
        [json.dumps(one[key]).replace('"', '""') for key in ("shape_attributes", "region_attributes")]
        for one in regions
    ]
    rows = [f'a0.jpg,4096,"{{}}",2,{at},"{shape}","{said}"\n' for at, (shape, said) in enumerate(cells)]
    save(tmp_path / "csv" / "via_export_csv.csv", header + "".join(rows))
    for name in ("json", "project", "csv"):
        walked, _ = read(tmp_path / name, "boxes")
        objects = walked.records[0].objects
        assert walked.class_names == ("crown",)
        assert objects.boxes_xyxy.tolist() == [[10, 8, 34, 30], [40, 20, 70, 44]]


def test_a_circle_of_via_has_the_hull_of_the_circle(tmp_path: Path) -> None:
    walked, report = read(via_json(tmp_path, via({"name": "circle", "cx": 40, "cy": 40, "r": 10})), "boxes")
    np.testing.assert_allclose(walked.records[0].objects.boxes_xyxy, [[30, 30, 50, 50]])
    assert sum(report.counts.values()) == 1


def test_two_attributes_that_may_be_the_class_are_a_question(tmp_path: Path) -> None:
    folder = via_json(tmp_path, via(VIA_RECT, {"label": "crown", "class": "oak"}))
    with pytest.raises(UserError, match="several fields may say the class: label, class") as caught:
        read(folder, "boxes")
    assert "--class-field label" in caught.value.fix
    assert read(folder, "boxes", ask=Ask(class_field="class"))[0].class_names == ("oak",)


def test_datumaro_reads_boxes_turned_as_cvat_says(tmp_path: Path) -> None:
    plain = {"type": "bbox", "label_id": 1, "group": 0, "bbox": [10, 8, 24, 22], "attributes": {}}
    turn = {"type": "bbox", "label_id": 1, "group": 0, "bbox": [40, 20, 30, 24], "attributes": {"rotation": 30.0}}
    five = {"type": "rotated_bbox", "label_id": 1, "group": 0, "rotated_bbox": [55, 32, 30, 24, 30], "attributes": {}}
    walked, report = read(datumaro(tmp_path, plain, turn, {**five, "label_id": 0}), "boxes")
    assert walked.class_names == ("tree", "crown")
    found = quads(walked.records[0])
    np.testing.assert_allclose(found[1], turned(55, 32, 30, 24, 30), atol=1e-4)
    np.testing.assert_allclose(found[2], found[1], atol=1e-4)
    assert not report.counts


def test_supervisely_counts_the_last_pixel(tmp_path: Path) -> None:
    walked, _ = read(supervisely(tmp_path), "boxes")
    assert walked.records[0].objects.boxes_xyxy.tolist() == [[10, 8, 34, 30]]


# Tables


@pytest.mark.parametrize(
    "text",
    [
        "image_path,xmin,ymin,xmax,ymax,label\na0.jpg,10,8,34,30,crown\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\na0.jpg,96,80,crown,10,8,34,30\n",
        "a0.jpg,10,8,34,30,crown\n",
        "Image;X_Min;Y_Min;X_Max;Y_Max;Class Name\na0.jpg;10;8;34;30;crown\n",
        "img\tleft\ttop\twidth\theight\tcategory\na0.jpg\t10\t8\t24\t22\tcrown\n",
        "image_id,x_center,y_center,width,height,label\na0,22,19,24,22,crown\n",
        "file_name,bbox_x1,bbox_y1,bbox_x2,bbox_y2,label\na0.jpg,10,8,34,30,crown\n",
    ],
)
def test_tables_of_boxes_by_any_of_their_names(tmp_path: Path, text: str) -> None:
    image(tmp_path / "a0.jpg")
    save(tmp_path / "boxes.csv", text)
    assert family_of(tmp_path).format == "csv-boxes"
    walked, _ = read(tmp_path, "boxes")
    assert walked.class_names == ("crown",)
    assert walked.records[0].objects.boxes_xyxy.tolist() == [[10, 8, 34, 30]]


def test_x_y_width_height_is_a_question_with_two_answers(tmp_path: Path) -> None:
    image(tmp_path / "a0.jpg")
    save(tmp_path / "boxes.csv", "image,x,y,width,height,label\na0.jpg,22,19,24,22,crown\n")
    with pytest.raises(UserError, match="several readings") as caught:
        read(tmp_path, "boxes")
    assert "--format csv-xywh" in caught.value.fix
    found = {f: read(tmp_path, "boxes", format=f)[0].records[0].objects for f in ("csv-xywh", "csv-cxcywh")}
    assert found["csv-xywh"].boxes_xyxy.tolist() == [[22, 19, 46, 41]]
    assert found["csv-cxcywh"].boxes_xyxy.tolist() == [[10, 8, 34, 30]]


def test_retinanet_orders_classes_and_names_empty_images(tmp_path: Path) -> None:
    for name in ("a0.jpg", "a1.jpg"):
        image(tmp_path / name)
    save(tmp_path / "annotations.csv", "a0.jpg,10,8,34,30,crown\na1.jpg,,,,,\n")
    save(tmp_path / "classes.csv", "tree,1\ncrown,0\n")
    walked, _ = read(tmp_path, "boxes")
    assert walked.class_names == ("crown", "tree")
    assert [len(record.objects) for record in walked.records] == [1, 0]


def test_an_image_that_no_line_names_is_counted(tmp_path: Path) -> None:
    for name in ("a0.jpg", "a1.jpg"):
        image(tmp_path / name)
    save(tmp_path / "train.csv", "image_path,xmin,ymin,xmax,ymax,label\na0.jpg,10,8,34,30,crown\n")
    _, report = read(tmp_path, "boxes", ask=Ask(split="train"))
    assert list(report.counts.values()) == [1]


def test_images_at_home_come_before_those_of_a_neighbour(tmp_path: Path) -> None:
    image(tmp_path / "home" / "a0.jpg")
    image(tmp_path / "images" / "a0.jpg")
    save(tmp_path / "home" / "boxes.csv", "image_path,xmin,ymin,xmax,ymax,label\na0.jpg,10,8,34,30,crown\n")
    assert read(tmp_path / "home", "boxes")[0].records[0].images == (tmp_path / "home" / "a0.jpg",)
    elsewhere = read(tmp_path / "home", "boxes", ask=Ask(images=tmp_path / "images"))[0]
    assert elsewhere.records[0].images == (tmp_path / "images" / "a0.jpg",)


def test_roboflow_keras_numbers_classes_from_0(tmp_path: Path) -> None:
    walked, _ = read(roboflow_keras(tmp_path), "boxes", ask=Ask(split="val"))
    assert walked.class_names == ("tree", "crown")
    assert walked.records[0].objects.labels.tolist() == [1]


# Each stock layout is one format, and no other


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_stock_layout_is_one_format_and_no_other(tmp_path: Path, layout: str) -> None:
    name, make = LAYOUTS[layout]
    make(tmp_path)
    assert matching(tmp_path, "boxes") == [name]
    family = family_of(tmp_path)
    assert (family.kind, family.format) == ("boxes", name)
    files = [
        file for file in tmp_path.rglob("*") if file.suffix in (".json", ".csv") and file.name not in ("meta.json",)
    ]
    for file in files if name not in ("csv-boxes", "yolo-keras") else ():
        assert family_of(file).format == name
    report = IssueCounter()
    split = {"roboflow csv": "train", "roboflow keras": "train"}.get(layout)
    stops: list[UserError] = []
    walked = walk(family.path, "boxes", name, Ask(split=split), report, stops.append)
    assert not stops
    assert [len(record.objects) for record in walked.records] == [1]


def test_a_json_with_nothing_of_ours_is_named(tmp_path: Path) -> None:
    save(tmp_path / "package.json", {"name": "x"})
    assert find_annotation(tmp_path) == tmp_path / "package.json"


# Shapes


def test_the_smallest_rectangle_of_a_turned_one_is_itself() -> None:
    corners = np.array(turned(50, 40, 30, 12, 37))
    inside = corners.mean(axis=0) + (corners - corners.mean(axis=0)) * 0.5
    found = np.array(smallest_rectangle(np.concatenate([inside, corners])))
    distances = np.linalg.norm(found[:, None] - corners[None], axis=2)
    assert distances.min(axis=1).max() < 1e-9


def test_run_lengths_are_cocos() -> None:
    mask = np.random.default_rng(0).random((7, 5)) < 0.4
    runs = runs_of(mask)
    np.testing.assert_array_equal(rasterise(runs, (0, 0, 5, 7)), mask)
    rows, columns = np.nonzero(mask)
    assert hull_of(runs) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert runs_of(np.zeros((2, 2), bool))["counts"] == [4]

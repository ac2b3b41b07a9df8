"""Predictions on the map: outlines in the scene's coordinates, and what of them was asked for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.features
import torch
from box_sets import read_coco
from gdal_vectors import read_vectors
from PIL import Image
from pixel_models import picture, segmenter, strongest
from shapely.geometry import Polygon, shape
from test_predict_files import CLASSES, finder, paint, place
from torch import Tensor

from vistruct.errors import UserError
from vistruct.inference.files import predict_files
from vistruct.inference.kind import Asked
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case
from vistruct.ops.oriented import cxcywha_to_quads

TRANSFORM = rasterio.Affine(0.1, 0, 500000, 0, -0.1, 4976000)
BOTH = ["geojson", "gpkg"]
READ = [("geojson", "scene.geojson"), ("gpkg", "scene.gpkg")]


def georeferenced(file: Path, pixels: np.ndarray, crs: str | None = "EPSG:32612") -> Case:
    file.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels.shape[:2]
    place = {"crs": crs, "transform": TRANSFORM} if crs else {}
    with rasterio.open(file, "w", driver="GTiff", height=height, width=width, count=3, dtype="uint8", **place) as out:
        out.write(pixels.transpose(2, 0, 1))
    return Case(pictures=(file,), name=file.name)


def scene(tmp_path: Path, boxes: Tensor, crs: str | None = "EPSG:32612") -> Case:
    pixels = np.asarray(Image.open(paint(tmp_path / "pixels.png", boxes, (700, 900))))
    return georeferenced(tmp_path / "in" / "scene.tif", pixels, crs)


def on_map(points: np.ndarray) -> np.ndarray:
    return points * np.array([0.1, -0.1]) + np.array([500000, 4976000])


@pytest.mark.parametrize("kind", ["oriented", "masks", "plain"])
def test_detections_have_their_corners_on_the_map(tmp_path: Path, kind: str) -> None:
    boxes = place(8, (700, 900), seed=3)
    case, model = scene(tmp_path, boxes), finder(boxes, kind)
    predict_files(model, [case], tmp_path / "out", formats=BOTH)
    found = model.predict(case.files[0]).prediction.objects
    for folder, name in READ:
        crs, features = read_vectors(tmp_path / "out" / folder / name)
        assert crs == "EPSG:32612"
        assert len(features) == 8
        for number, (one, values) in enumerate(features):
            label, score = CLASSES[int(found.labels[number])], float(found.scores[number])
            assert values == {"class": label, "score": pytest.approx(score, abs=1e-6), "image": "scene.tif"}
            if kind == "masks":
                pixels = found.masks[number].pixels.sum()
                assert one.area == pytest.approx(pixels * 0.01)
                patch, full = found.masks[number], np.zeros((700, 900), np.uint8)
                height, width = patch.pixels.shape
                full[patch.y : patch.y + height, patch.x : patch.x + width] = patch.pixels
                drawn = rasterio.features.rasterize([one], out_shape=(700, 900), transform=TRANSFORM)
                assert np.array_equal(drawn, full)
                continue
            x0, y0, x1, y1 = found.boxes_xyxy[number].tolist()
            corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
            if kind == "oriented":
                corners = cxcywha_to_quads(found.boxes_cxcywha[number : number + 1])[0].numpy()
            expected = Polygon(on_map(corners))
            assert one.symmetric_difference(expected).area < 1e-3 * expected.area


def test_a_box_from_pixel_10_20_begins_where_that_pixel_does(tmp_path: Path) -> None:
    boxes = place(1, (700, 900), seed=3)
    case, model = scene(tmp_path, boxes), finder(boxes, "plain")
    look = model.task.look

    def moved(sample):
        found = look(sample)
        corner = torch.tensor([[10.0, 20.0, 30.0, 60.0]]).expand(len(found.objects), 4)
        return found.with_columns(boxes_xyxy=corner)

    model.task.look = moved
    predict_files(dataclasses.replace(model), [case], tmp_path / "out", formats=["geojson"])
    said = json.loads((tmp_path / "out" / "geojson" / "scene.geojson").read_text())
    assert said["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32612"
    corners = said["features"][0]["geometry"]["coordinates"][0]
    assert [500001.0, 4975998.0] in corners
    assert [500003.0, 4975994.0] in corners


def test_a_picture_without_coordinates_has_pixels_and_it_is_said_once(tmp_path: Path, capsys) -> None:
    boxes = place(3, (700, 900), seed=3)
    cases = [scene(tmp_path, boxes), Case(pictures=(tmp_path / "pixels.png",), name="pixels.png")]
    model = finder(boxes)
    predict_files(model, cases, tmp_path / "out", formats=["geojson"])
    assert (
        "geojson: 1 of 2 images have no coordinates (pixels.png); their outlines are in pixels, y down"
        in capsys.readouterr().err
    )
    plain = json.loads((tmp_path / "out" / "geojson" / "pixels.geojson").read_text())
    lies = json.loads((tmp_path / "out" / "geojson" / "scene.geojson").read_text())
    assert "crs" not in plain
    for one, other in zip(plain["features"], lies["features"], strict=True):
        pixels = shape(one["geometry"])
        expected = Polygon(on_map(np.array(pixels.exterior.coords)))
        assert expected.symmetric_difference(shape(other["geometry"])).area < 1e-3


def detections(tmp_path: Path) -> int:
    records, _, _ = read_coco(tmp_path / "out" / "predictions.json", tmp_path / "in")
    return sum(len(record.objects) for record in records)


def test_scores_and_classes_choose_in_every_file_and_are_counted(tmp_path: Path) -> None:
    boxes = place(8, (700, 900), seed=3)
    case, model = scene(tmp_path, boxes), finder(boxes)
    found = model.predict(case.files[0]).prediction.objects
    edge = float(found.scores.sort().values[4]) - 1e-6

    def ask(**asked) -> tuple[dict, int, int]:
        model.task.asked = 0
        results = predict_files(model, [case], tmp_path / "out", formats=["coco", "geojson"], asked=Asked(**asked))
        said = json.loads((tmp_path / "out" / "geojson" / "scene.geojson").read_text())
        return results.told.values, detections(tmp_path), len(said["features"])

    assert ask() == ({"detections": 8}, 8, 8)
    ships = int((found.labels == 1).sum())
    both = int(((found.labels == 1) & (found.scores >= edge)).sum())
    for asked, number in (
        ({"min_score": edge}, 4),
        ({"classes": ("ship",)}, ships),
        ({"drop": ("plane",)}, ships),
        ({"classes": ("ship",), "min_score": edge}, both),
        ({}, 8),
    ):
        told, *files = ask(**asked)
        assert model.task.asked == 0  # nothing is looked at again
        assert files == [number, number]
        assert told == {"detections": number} | ({"left_out": 8 - number} if number < 8 else {})
    with pytest.raises(UserError, match="no class 'shp'") as caught:
        ask(classes=("shp",))
    assert "ship" in caught.value.fix
    with pytest.raises(UserError, match="no class is left"):
        ask(classes=("ship",), drop=("ship",))


def test_label_maps_are_polygons_of_their_classes(tmp_path: Path, monkeypatch) -> None:
    pixels = np.kron(picture(14, 18).permute(1, 2, 0).numpy(), np.ones((5, 5, 1), np.uint8))
    case, model = georeferenced(tmp_path / "in" / "scene.tif", pixels), segmenter(monkeypatch)
    predict_files(model, [case], tmp_path / "out", formats=BOTH)
    truth = strongest(torch.from_numpy(pixels).permute(2, 0, 1)).numpy()
    for folder, name in READ:
        crs, features = read_vectors(tmp_path / "out" / folder / name)
        assert crs == "EPSG:32612"
        for one, values in features:
            assert values["class"] == model.class_names[values["value"]]
            assert one.area == pytest.approx(values["pixels"] * 0.01)
        drawn = rasterio.features.rasterize(
            ((one, values["value"]) for one, values in features), truth.shape, fill=9, transform=TRANSFORM
        )
        assert np.array_equal(drawn, truth)


def test_changes_lie_where_the_second_image_does(tmp_path: Path, monkeypatch) -> None:
    model: Model = segmenter(monkeypatch, names=("unchanged", "changed"), kind="change", fusion="difference")
    files = [georeferenced(tmp_path / name / "a.tif", picture(12, 16, seed).permute(1, 2, 0).numpy()).files[0]
             for seed, name in enumerate(("before", "after"))]  # fmt: skip
    case = Case(pictures=tuple(files), name="a.tif")
    results = predict_files(model, [case], tmp_path / "out", formats=["geojson"])
    crs, features = read_vectors(tmp_path / "out" / "geojson" / "a.geojson")
    assert crs == "EPSG:32612"
    assert sum(values["pixels"] for _, values in features) == 12 * 16
    counts = results.done[0].values["counts"]
    assert sum(values["pixels"] for _, values in features if values["class"] == "changed") == counts[1]

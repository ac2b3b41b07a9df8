"""Results in Python: saved as the command line writes them, shown, and given to other libraries."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
import torch
from PIL import Image
from pixel_models import classifier, picture, segmenter
from test_on_map import scene
from test_predict_files import CLASSES, finder, paint, place

from vistruct.contracts import PanopticPrediction, Segment
from vistruct.errors import UserError
from vistruct.inference.files import predict_files
from vistruct.inference.in_supervision import segments
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case
from vistruct.inference.sources import images_at

SIZE_HW = (400, 360)


@pytest.fixture
def images(tmp_path: Path) -> tuple[Model, Path]:
    """A model of oriented boxes and a folder of three images."""
    boxes = place(3, SIZE_HW, seed=3)
    for name in ("a.png", "below/b.png", "c.png"):
        paint(tmp_path / "images" / name, boxes, SIZE_HW)
    return finder(boxes), tmp_path / "images"


def test_what_is_saved_is_what_the_command_line_writes(images: tuple[Model, Path], tmp_path: Path) -> None:
    model, folder = images
    file, written, saved = folder / "a.png", tmp_path / "written", tmp_path / "saved"
    names = ["coco", "geojson", "gpkg", "dota", "pictures"]
    predict_files(model, images_at([file]), written, formats=names)
    found = model.predict(file)
    assert (found.name, len(found.prediction.objects), repr(found)) == ("a.png", 3, "a.png: 3 detections in 1 image")
    assert found.save(saved, format=names) == saved
    below = [one.relative_to(written) for one in written.rglob("*") if one.is_file() and ".vistruct" not in one.parts]
    assert len(below) > 5
    for one in below:
        assert (saved / one).read_bytes() == (written / one).read_bytes(), one
    usual = model.predict(file).save(tmp_path / "usual")
    assert sorted(one.name for one in usual.iterdir()) == [".vistruct", "pictures", "predictions.json"]
    assert found.save(tmp_path / "new" / "x.geojson").read_bytes() == (written / "geojson" / "a.geojson").read_bytes()
    assert found.save(tmp_path / "x.json", format="coco").read_bytes() == (written / "predictions.json").read_bytes()
    assert found.to_coco() == json.loads((written / "predictions.json").read_text())


def test_a_result_is_shown_as_its_picture(images: tuple[Model, Path], tmp_path: Path, monkeypatch) -> None:
    model, folder = images
    found = model.predict(folder / "a.png")
    found.save(tmp_path / "shown.jpg")
    shown, written = np.asarray(found.show(), int), np.asarray(Image.open(tmp_path / "shown.jpg"), int)
    assert np.abs(shown - written).mean() < 3  # a jpg
    assert Image.open(io.BytesIO(found._repr_png_() or b"")).size == found.show().size
    for other in (segmenter(monkeypatch), classifier(monkeypatch)):  # of an array too
        assert other.predict(picture(30, 40)).show().width >= 40


def test_an_image_in_memory_is_saved_and_converted_too(images: tuple[Model, Path], tmp_path: Path, capsys) -> None:
    model, folder = images
    pixels = np.array(Image.open(folder / "a.png"))
    of_file, of_array = model.predict(folder / "a.png"), model.predict(pixels)
    assert of_array.name == "image 0"
    said = of_array.to_coco()
    assert said["images"] == [{"id": 1, "file_name": "image 0", "width": 360, "height": 400}]
    assert said["annotations"] == of_file.to_coco()["annotations"]
    flat = of_array.to_geojson()
    assert flat["description"] == "coordinates are pixels of the image: x to the right, y down"
    assert "have no coordinates" in capsys.readouterr().err
    assert len(flat["features"]) == 3
    for again in (Image.fromarray(pixels), pixels):  # nothing of an array is taken for done
        assert len(model.predict([again]).save(tmp_path / "out").done) == 1


def test_geojson_has_the_system_of_its_scene(tmp_path: Path) -> None:
    boxes = place(3, (700, 900), seed=3)
    found = finder(boxes).predict(scene(tmp_path, boxes).files[0])
    said = found.to_geojson()
    assert said["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32612"
    assert said == json.loads(found.save(tmp_path / "a.geojson").read_text())


def test_a_folder_is_an_iterator_that_keeps_nothing(images: tuple[Model, Path], tmp_path: Path) -> None:
    model, folder = images
    (folder / "below" / "b.png").write_bytes(b"no image")
    results = model.predict(folder)
    assert model.task.asked == 0
    first = next(results)
    once = model.task.asked
    assert (first.name, once > 0) == ("a.png", True)
    with pytest.raises(UserError, match="cannot"):
        next(results)
    assert [one.name for one in results] == ["c.png"]
    assert model.task.asked == 2 * once
    done = model.predict(folder, min_score=0.5, drop=["ship"]).save(tmp_path / "out", format="geojson")
    assert [case.name for case, _ in done.broken] == ["below/b.png"]
    said = json.loads((tmp_path / "out" / "geojson" / "c.geojson").read_text())
    assert {one["properties"]["class"] for one in said["features"]} == {"plane"}
    chosen = model.predict(folder / "c.png", drop=["ship"])
    assert chosen.summary == "2 detections in 1 image"
    assert len(chosen.to_coco()["annotations"]) == len(chosen.prediction.objects) == 2


def test_a_file_about_all_images_is_not_written_over_by_the_next(images: tuple[Model, Path], tmp_path: Path) -> None:
    model, folder = images
    one, other = model.predict([folder / "a.png", folder / "c.png"])
    for found in (one, other):
        found.save(tmp_path / "out", format="geojson")  # a file each
    assert len(list((tmp_path / "out" / "geojson").iterdir())) == 2
    for _ in range(2):
        one.save(tmp_path / "out", format="coco")
    with pytest.raises(UserError, match=r"about a\.png"):
        other.save(tmp_path / "out", format="coco")
    model.predict([folder / "a.png", folder / "c.png"]).save(tmp_path / "both", format="coco")
    assert len(json.loads((tmp_path / "both" / "predictions.json").read_text())["images"]) == 2
    with pytest.raises(UserError, match="about other images"):
        other.save(tmp_path / "both", format="coco")


def test_what_does_not_fit_is_told(images: tuple[Model, Path], tmp_path: Path, monkeypatch) -> None:
    model, folder = images
    found, mapped = model.predict(folder / "a.png"), segmenter(monkeypatch).predict(picture(8, 8))
    with pytest.raises(UserError, match="min_score"):
        model.predict(folder / "a.png", min_scor=0.3)  # ty: ignore[unknown-argument]
    with pytest.raises(UserError, match=r"no file of boxes ends like this(.|\n)*coco \(.json\)"):
        found.save(tmp_path / "a.csv")
    with pytest.raises(UserError, match="no file of geojson ends like this"):
        found.save(tmp_path / "a.json", format="geojson")
    with pytest.raises(UserError, match="gives no geotiff"):
        found.save(tmp_path / "a.tif", format="geotiff")
    with pytest.raises(UserError, match=r'several formats end in .png(.|\n)*format="png" or format="color"'):
        mapped.save(tmp_path / "a.png")
    with pytest.raises(UserError, match="gives no coco"):
        mapped.to_coco()
    with pytest.raises(UserError, match="nothing for maps"):
        mapped.to_supervision()


@pytest.mark.parametrize("kind", ["oriented", "masks", "plain"])
def test_supervision_has_the_same_boxes_masks_and_names(tmp_path: Path, kind: str) -> None:
    boxes = place(3, SIZE_HW, seed=3)
    file = paint(tmp_path / "a.png", boxes, SIZE_HW)
    found = finder(boxes, kind).predict(file)
    objects, theirs = found.prediction.objects, found.to_supervision()
    assert isinstance(theirs, sv.Detections)
    assert np.array_equal(theirs.xyxy, objects.boxes_xyxy.numpy())
    assert np.array_equal(theirs.confidence, objects.scores.numpy())
    assert list(theirs["class_name"]) == [CLASSES[label] for label in objects.labels]
    painted = np.asarray(Image.open(file)).any(axis=2)
    if kind == "masks":
        assert np.array_equal(theirs.mask.any(axis=0), painted)
        assert theirs.area.tolist() == [one.pixels.sum() for one in objects.masks]
    if kind == "oriented":  # their own drawing fills what is painted
        canvas = np.zeros((*SIZE_HW, 3), np.uint8)
        lines = sv.OrientedBoxAnnotator(color=sv.Color.WHITE, thickness=1).annotate(canvas, theirs).any(axis=2)
        edge = painted & ~np.roll(painted, 1, 0) | painted & ~np.roll(painted, 1, 1)
        assert (lines & painted).sum() > 0.3 * edge.sum()
    assert len(theirs[theirs.confidence > 2]) == 0
    empty = finder(boxes, kind).predict(file, min_score=1.0).to_supervision()
    assert (len(empty), empty.xyxy.shape) == (0, (0, 4))


def test_supervision_has_classes_and_segments(monkeypatch) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 1] = 200
    theirs = classifier(monkeypatch).predict(pixels).to_supervision()
    assert theirs.get_top_k(1)[0].tolist() == [1]
    map_of = torch.zeros(6, 8, dtype=torch.int32)
    map_of[1:3, 2:5], map_of[4:, :] = 2, 1
    parts = (Segment(label=1, is_thing=False, score=0.5), Segment(label=0, is_thing=True, score=0.75))
    gone = (*parts, Segment(label=0, is_thing=True, score=0.9))
    found = PanopticPrediction(id="a", image_id="a", segment_map=map_of, segments=gone, class_names=("tree", "sand"))
    theirs = segments(Case(pictures=(np.zeros((6, 8, 3), np.uint8),), name="a"), found)
    assert theirs.xyxy.tolist() == [[0, 4, 8, 6], [2, 1, 5, 3]]
    assert theirs.area.tolist() == [16, 6]
    assert list(theirs["class_name"]) == ["sand", "tree"]

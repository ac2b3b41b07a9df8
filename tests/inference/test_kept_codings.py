"""Label maps are written as the masks of the training data are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from pixel_models import NAMES, picture, segmenter, strongest

from vistruct.contracts import IGNORED
from vistruct.data.input import Input, as_measured
from vistruct.data.maps import MapDataConfig
from vistruct.files.coding import Coding
from vistruct.files.rasters import read_raster
from vistruct.inference.files import predict_files
from vistruct.inference.kind import Asked
from vistruct.inference.scenes import Case

COLOURS = ((0, 0, 255), (0, 255, 0), (9, 9, 9))
CODINGS = {
    "plain": (Coding(classes=NAMES), [0, 1, 2], 255),
    "from 1": (Coding(classes=NAMES, values=(1, 2, 3), ignored=(0,)), [1, 2, 3], 0),
    "ends at 255": (Coding(classes=NAMES, values=(0, 128, 255)), [0, 128, 255], 254),
    "high": (Coding(classes=NAMES, values=(7, 300, 41000), ignored=(65535,)), [7, 300, 41000], 65535),
    "joined, and one that the data lack": (
        Coding(classes=NAMES, values=(4, -1, 6), more={"red": (255,)}, ignored=()),
        [4, 253, 6],
        254,
    ),
}


def scene(tmp_path: Path) -> tuple[Case, np.ndarray]:
    """An image of which two rows have no data, and its classes."""
    pixels, file = picture(30, 40).numpy(), tmp_path / "in" / "a.tif"
    truth = strongest(torch.from_numpy(pixels)).numpy()
    pixels[:, :2], truth[:2] = 0, IGNORED
    file.parent.mkdir(exist_ok=True)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(2, 0, 500000, 0, -2, 5000000)}
    with rasterio.open(
        file, "w", driver="GTiff", height=30, width=40, count=3, dtype="uint8", nodata=0, **place
    ) as out:
        out.write(pixels)
    return Case(pictures=(file,), name="a.tif"), truth


@pytest.mark.parametrize("name", CODINGS)
def test_values_are_those_of_the_masks(tmp_path: Path, monkeypatch, name: str) -> None:
    coding, values, none = CODINGS[name]
    (case, truth), model = scene(tmp_path), segmenter(monkeypatch, shown={"coding": coding})
    results = predict_files(model, [case], tmp_path / "out")
    expected = np.array([*values, none])[truth]
    with Image.open(tmp_path / "out" / "labels" / "a.png") as image:
        assert image.mode == ("L" if max(*values, none) < 256 else "I;16")
    assert np.array_equal(read_raster(tmp_path / "out" / "labels" / "a.png"), expected)
    with rasterio.open(tmp_path / "out" / "geotiff" / "a.tif") as file:
        assert np.array_equal(file.read(1), expected)
        assert file.nodata == none
        if max(*values, none) < 256:
            assert [file.colormap(1)[value][:3] for value in values] == list(model.palette)
    legend = json.loads((tmp_path / "out" / "legend.json").read_text())
    assert [row["class"] for row in legend["classes"]] == list(NAMES)
    assert [row["value"] for row in legend["classes"]] == values
    assert legend["no_data"] == {"value": none}
    if -1 not in (coding.values or ()):
        known = coding.model_copy(update={"ignored": (*coding.ignored, none)})
        assert np.array_equal(known.decode(expected, "here"), truth)
    assert np.array_equal(results.done[0].read().label_map.numpy(), truth)


def test_colour_masks_are_colours_and_numbers_on_the_map(tmp_path: Path, monkeypatch) -> None:
    coding = Coding(classes=NAMES, colours=COLOURS)
    (case, truth), model = scene(tmp_path), segmenter(monkeypatch, shown={"coding": coding})
    results = predict_files(model, [case], tmp_path / "out")
    raster = read_raster(tmp_path / "out" / "labels" / "a.png")
    assert np.array_equal(raster, np.array([*COLOURS, (0, 0, 0)], np.uint8)[truth])
    with rasterio.open(tmp_path / "out" / "geotiff" / "a.tif") as file:
        assert np.array_equal(file.read(1), np.array([0, 1, 2, 255])[truth])
    legend = json.loads((tmp_path / "out" / "legend.json").read_text())
    assert [row["png"] for row in legend["classes"]] == [list(colour) for colour in COLOURS]
    assert np.array_equal(results.done[0].read().label_map.numpy(), truth)


def test_a_threshold_is_written_as_0_and_255(tmp_path: Path, monkeypatch) -> None:
    coding = Coding(classes=("no", "yes"), threshold=128)
    truth = np.array([[0, 1], [1, IGNORED]], np.int16)
    assert coding.written.encode(truth).tolist() == [[0, 255], [255, 254]]
    assert coding.decode(coding.written.encode(truth[:1]), "here").tolist() == truth[:1].tolist()


def test_data_say_their_coding_and_the_palette_of_their_masks(tmp_path: Path, monkeypatch) -> None:
    mask = Image.fromarray(np.array([[3, 5], [5, 3]], np.uint8), "P")
    mask.putpalette([0] * 9 + [10, 20, 30] + [0] * 3 + [40, 50, 60])
    for name, image in (("images", Image.new("RGB", (2, 2))), ("masks", mask)):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "1.png")
    coding = Coding(classes=("a", "b"), values=(3, 5))
    shown = MapDataConfig(root=tmp_path, coding=coding).build().info.input
    read = Input.model_validate(shown)
    assert read.coding == coding
    assert read.label_palette is not None
    assert (read.label_palette[3], read.label_palette[5]) == ((10, 20, 30), (40, 50, 60))
    other = Input(coding=Coding(classes=("a", "b")))
    assert as_measured(read, [other]).coding == coding  # that of training, wherever it is measured
    model = segmenter(monkeypatch, shown={"coding": Coding(classes=NAMES), "label_palette": COLOURS})
    case, truth = scene(tmp_path)
    predict_files(model, [case], tmp_path / "out")
    with Image.open(tmp_path / "out" / "labels" / "a.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.array(image.convert("RGB"))[2:], np.array(COLOURS)[truth[2:]])


def test_classes_that_are_not_asked_for_are_pixels_without_one(tmp_path: Path, monkeypatch) -> None:
    (case, truth), model = scene(tmp_path), segmenter(monkeypatch)
    asked = Asked(classes=("green",))
    predict_files(model, [case], tmp_path / "out", asked=asked)
    with rasterio.open(tmp_path / "out" / "geotiff" / "a.tif") as file:
        assert np.array_equal(file.read(1), np.where(truth == 1, 1, 255))
    predict_files(model, [case], tmp_path / "out")
    with rasterio.open(tmp_path / "out" / "geotiff" / "a.tif") as file:
        assert np.array_equal(file.read(1), np.where(truth < 0, 255, truth))

"""Models of pixels and images asked about pictures, files, pairs and volumes: windows and views do no harm."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from pixel_models import NAMES, classifier, picture, segmenter, strongest

from vistruct.contracts import ClassPrediction, MapPrediction, Sample
from vistruct.data.input import Windows
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.inference.pixels import num_windows_of, rows_of, windows_for
from vistruct.inference.scenes import Case, overview, scene_of
from vistruct.transforms.sizing import Size
from vistruct.windows.slide import Slide
from vistruct.windows.views import Views


def test_every_kind_of_picture_gives_the_same_map(tmp_path: Path, monkeypatch):
    model, pixels = segmenter(monkeypatch), picture(21, 34)
    array = pixels.permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "a.png")
    for one in (pixels, array, Image.fromarray(array), tmp_path / "a.png", str(tmp_path / "a.png")):
        found = model.predict(one).prediction
        assert isinstance(found, MapPrediction)
        assert torch.equal(found.label_map, strongest(pixels))
        assert found.class_names == NAMES
        assert found.confidence is not None
        assert found.confidence.shape == (21, 34)
    both = [one.prediction for one in model.predict([pixels, array])]
    assert [one.id for one in both] == ["image 0", "image 1"]


@pytest.mark.parametrize("amp", ["bf16", "off"])
def test_the_arithmetic_is_that_of_the_run(amp: str, monkeypatch):
    for model in (segmenter(monkeypatch), classifier(monkeypatch)):
        model.card.values["run"] = {"amp": amp}
        seen: list[bool] = []
        model.task.backbone.register_forward_hook(lambda *_, seen=seen: seen.append(torch.is_autocast_enabled("cpu")))
        model.predict(picture(8, 8))
        assert seen == [amp == "bf16"]


@pytest.mark.parametrize("views", [None, Views(flips=("none", "horizontal", "vertical", "diagonal"))])
@pytest.mark.parametrize("batch", [1, 5])
def test_windows_and_flips_do_not_move_a_pixel(monkeypatch, views, batch):
    model, pixels = segmenter(monkeypatch, slide=Slide(size=16, overlap=5)), picture(50, 39)
    model = model if views is None else model.seen_in(views)
    assert torch.equal(model.predict(pixels, batch=batch).prediction.label_map, strongest(pixels))
    other = model.in_windows(20, 2)
    assert torch.equal(other.predict(pixels, batch=batch).prediction.label_map, strongest(pixels))


@pytest.mark.parametrize("resize", [None, 0.5, Size(height=24, width=40, keep_aspect=False)])
@pytest.mark.parametrize("how", [None, Slide(size=64, overlap=16)])
def test_a_prediction_is_what_an_evaluation_of_the_same_image_has(monkeypatch, resize, how):
    """A network that sees cells, so that every shift and size shows."""
    from vistruct.transforms.sizing import sized

    model, pixels = segmenter(monkeypatch, shown={"resize": resize}, cell=4, slide=how), picture(48, 60, 3)
    sample = sized(Sample(id="a", image_id="a", seed=0, images=[pixels]), resize)
    (evaluated,) = model.task.predict(model.task.collator([sample]))
    found = model.predict(pixels).prediction
    assert found.label_map.shape == (48, 60)
    assert torch.equal(found.label_map, evaluated.label_map)
    assert torch.equal(found.confidence, evaluated.confidence)


def test_images_are_resized_as_a_whole_and_then_cut(monkeypatch):
    windows = Windows(size=128, overlap=32, unit="shown")
    model = segmenter(monkeypatch, shown={"resize": 0.5, "windows": windows})
    how, shown_hw = windows_for(model, (100, 200), batch=3)
    assert shown_hw == (50, 100)
    assert how == Slide(size=128, overlap=32, batch=3)
    assert num_windows_of(model, (100, 200)) == 1
    assert num_windows_of(model.in_windows(25, 0), (100, 200)) == 8


def test_a_pair_is_looked_at_together(monkeypatch):
    names = ("unchanged", "changed")
    model = segmenter(monkeypatch, names=names, kind="change", fusion="difference")
    with torch.no_grad():
        model.task.backbone.look.weight.copy_(torch.eye(3)[..., None, None])
        model.task.backbone.look.bias.zero_()
        model.task.head.linear.weight.copy_(torch.tensor([[0.0] * 3, [40.0] * 3])[..., None, None])
        model.task.head.linear.bias.copy_(torch.tensor([0.0, -1.0]))
    before, after = picture(30, 40), picture(30, 40, seed=1)
    truth = (before != after).any(dim=0).to(torch.int16)
    one = model.predict((before, after)).prediction
    assert torch.equal(one.label_map, truth)
    several = [one.prediction for one in model.predict([(before, after), (after, after)])]
    assert torch.equal(several[0].label_map, truth)
    assert several[1].label_map.sum() == 0
    with pytest.raises(UserError, match="compares two images"):
        next(model.predict([before, after]))
    with pytest.raises(UserError, match="40 x 30 and 40 x 29 pixels"):
        model.predict((before, after[:, 1:]))
    with pytest.raises(UserError, match="takes single images"):
        next(segmenter(monkeypatch).predict([(before, after)]))


def test_a_geotiff_is_read_in_windows_and_given_out_in_rows(tmp_path: Path, monkeypatch):
    pixels, file = picture(400, 150), tmp_path / "a.tif"
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5000000)}
    with rasterio.open(file, "w", driver="GTiff", height=400, width=150, count=3, dtype="uint8", **place) as out:
        out.write(pixels.numpy())
    monkeypatch.setattr("vistruct.files.images._cache.get", lambda *_: pytest.fail("read as a whole"))
    model = segmenter(monkeypatch, slide=Slide(size=32, overlap=8))
    parts = list(rows_of(model, model.scene(Case(pictures=(file,), name="a.tif")), batch=4))
    assert [part.y0 for part in parts] == [0, *(part.y1 for part in parts[:-1])]
    assert max(part.y1 - part.y0 for part in parts) <= 64
    assert torch.equal(torch.cat([part.label_map for part in parts]), strongest(pixels))


def test_bands_are_read_as_the_training_data_was(tmp_path: Path, monkeypatch):
    values = (picture(40, 30).numpy().astype(np.uint16) + 7) * 40  # [3, 40, 30]
    file = tmp_path / "a.tif"
    with rasterio.open(file, "w", driver="GTiff", height=40, width=30, count=3, dtype="uint16") as out:
        out.write(values[[2, 0, 1]])
    intake = Intake(bands=(2, 3, 1), low=(0,), high=(10200,))
    found = segmenter(monkeypatch, shown={"intake": intake}).predict(file).prediction
    assert torch.equal(found.label_map, strongest(torch.from_numpy(values.astype(np.int32))))
    two = segmenter(monkeypatch, shown={"intake": Intake(bands=(2, 3), low=(0,), high=(9,))})
    with pytest.raises(UserError, match="2 channels, the model takes 3"):
        two.predict(file)


class Stack:
    """A volume of slices in memory."""

    axis, spacing = "axial", (1.0, 1.0, 1.0)

    def __init__(self, slices: torch.Tensor) -> None:
        self.slices, self.num_slices, self.size_hw = slices, len(slices), tuple(slices.shape[-2:])
        self.parts = (SimpleNamespace(path="stack"),)

    def slice(self, number: int) -> torch.Tensor:
        return self.slices[number]


@pytest.mark.parametrize("how", [None, Slide(size=10, overlap=4)])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_slices_go_through_together_and_come_back_in_their_order(monkeypatch, how, batch):
    from vistruct.inference.pixels import slices_of

    model = segmenter(monkeypatch, slide=how).seen_in(Views(flips=("none", "vertical")))
    slices = torch.stack([picture(17, 13, seed) for seed in range(7)])
    stack: Any = Stack(slices)
    counts: list[int] = []
    found = [rows.label_map for rows in slices_of(model, stack, batch=batch, show=counts.append)]
    assert torch.equal(torch.stack(found), strongest(slices))
    assert counts[-1] == 7
    with pytest.raises(UserError, match="slices of 2 channels, the model takes 3"):
        list(slices_of(model, Stack(slices[:, :2])))  # ty: ignore[invalid-argument-type]


def test_an_overview_of_a_large_image_keeps_colours_and_classes_in_place(monkeypatch):
    pixels = torch.zeros(3, 90, 61, dtype=torch.uint8)
    pixels[:, :45] = 200
    scene = scene_of([pixels], "a")
    labels = (pixels[0] > 0).numpy().astype(np.uint8)
    (small,), classes = overview(scene, labels, longest=30)
    assert small.shape == (3, 30, 21)
    assert classes.shape == (30, 21)
    assert ((small[0] > 100) == (classes == 1)).all()
    (whole,), classes = overview(scene, labels)
    assert torch.equal(whole, pixels)
    assert (classes.numpy() == labels).all()


def test_images_are_classified_one_size_at_a_time_and_in_their_order(monkeypatch):
    model = classifier(monkeypatch)
    images = []
    for number, size in enumerate([(8, 8), (8, 8), (5, 9), (8, 8), (8, 8)]):
        image = torch.full((3, *size), 30, dtype=torch.uint8)
        image[number % 3] = 250
        images.append(image)
    found = [one.prediction for one in model.predict(images, batch=2)]
    assert all(isinstance(one, ClassPrediction) for one in found)
    assert [int(one.scores.argmax()) for one in found] == [0, 1, 2, 0, 1]
    assert [one.id for one in found] == [f"image {n}" for n in range(5)]
    one = model.predict(images[2]).prediction
    assert torch.allclose(one.scores, found[2].scores)
    flipped = model.seen_in(Views(flips=("none", "horizontal"))).predict(images[2]).prediction
    assert torch.allclose(flipped.scores, one.scores)
    with pytest.raises(UserError, match="a classifier has one size"):
        model.seen_in(Views(scales=(0.5, 1.0)))

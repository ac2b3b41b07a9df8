"""Asking a finished run: every kind of picture, windows put together, and clear words for what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch import Tensor, nn

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.checkpoint.load import ModelCard
from vistruct.contracts import AnswerPrediction, DataInfo, Detections, HeadTraits, Sample, Shown, TaskTraits
from vistruct.data.input import Input, Windows
from vistruct.errors import UserError
from vistruct.heads.fcos import FcosConfig
from vistruct.inference.model import Model, load
from vistruct.inference.scenes import as_pixels
from vistruct.necks.simple_pyramid import SimplePyramidConfig
from vistruct.tasks.dense import Detect, DetectConfig
from vistruct.windows.tiles import Tiles, windows


def build(tiles: Tiles | None = None, resize: float | None = None) -> Model:
    torch.manual_seed(0)
    vit = InternVitConfig(width=32, depth=1, heads=2, mlp_width=32, patch=16, image_size=64, stem="conv")
    config = DetectConfig(
        backbone=vit,
        neck=SimplePyramidConfig(channels=16, strides=(8, 16)),
        head=FcosConfig(num_convs=1, score_threshold=0.0),
    )
    info = DataInfo(class_names=("white",))
    windows = None if tiles is None else Windows(size=tiles.size, overlap=tiles.overlap, unit="file")
    shown = Input(resize=resize, windows=windows)
    card = ModelCard(path=Path("model"), task=config, info=info, input=shown)
    return Model(task=config.build(info, Path()).eval(), card=card, device=torch.device("cpu"))


class WhiteFinder(nn.Module):
    """A head that knows the answer: the box around the white pixels of each image."""

    terms = ()

    traits = HeadTraits()

    def forward(self, features: Tensor, shown: Shown | None = None) -> Tensor:
        return features

    def decode(self, image: Tensor, sizes_hw: list[tuple[int, int]]) -> list[Detections]:
        found = []
        for picture in image:
            y, x = (picture.amin(dim=0) > 2).nonzero(as_tuple=True)
            box = [[x.min(), y.min(), x.max() + 1, y.max() + 1]] if len(x) else []
            boxes = torch.tensor(box, dtype=torch.float32).reshape(-1, 4)
            labels = torch.zeros(len(boxes), dtype=torch.int64)
            found.append(Detections(boxes_xyxy=boxes, scores=torch.ones(len(boxes)), labels=labels))
        return found


def finder(tiles: Tiles | None, resize: float | None = None) -> Model:
    model = build(tiles, resize)
    model.task.backbone = model.task.neck = nn.Identity()
    model.task.head = WhiteFinder()
    return model


def scene() -> Tensor:
    image = torch.full((3, 150, 230), 60, dtype=torch.uint8)
    image[:, 40:70, 50:80] = 255  # cut by the windows' borders
    image[:, 110:140, 190:210] = 255
    return image


def test_an_object_that_several_windows_see_comes_back_once_and_in_its_place() -> None:
    tiles = Tiles(size=64, overlap=32)
    assert len(windows((150, 230), tiles)) > 20
    for batch in (1, 7, 100):
        found = finder(tiles).predict(scene(), batch=batch).prediction
        order = found.objects.boxes_xyxy[:, 0].argsort()
        assert found.objects.boxes_xyxy[order].tolist() == [[50, 40, 80, 70], [190, 110, 210, 140]]
        assert found.window_xyxy is None


def test_where_a_file_has_no_data_nothing_is_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels, file = scene().numpy(), tmp_path / "a.tif"
    pixels[:, 100:, 130:] = 255
    mask = np.full((150, 230), 255, np.uint8)
    mask[:, 120:] = 0  # the second object lies in it, and windows
    with rasterio.open(file, "w", driver="GTiff", height=150, width=230, count=3, dtype="uint8") as out:
        out.write(pixels)
        out.write_mask(mask)
    found = finder(Tiles(size=64, overlap=32)).predict(file).prediction
    assert found.objects.boxes_xyxy.tolist() == [[50, 40, 80, 70]]
    assert "windows have no data and are not searched" in capsys.readouterr().err


def test_the_training_datas_resize_is_undone() -> None:
    found = finder(Tiles(size=64, overlap=32), resize=2.0).predict(scene()).prediction
    order = found.objects.boxes_xyxy[:, 0].argsort()
    expected = torch.tensor([[50.0, 40, 80, 70], [190, 110, 210, 140]])
    torch.testing.assert_close(found.objects.boxes_xyxy[order], expected, rtol=0, atol=1.0)


def test_every_kind_of_picture_gives_the_same_boxes(tmp_path: Path) -> None:
    model, pixels = build(Tiles(size=128, overlap=32)), scene()
    array = pixels.permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "a.png")
    pictures = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(array), array, pixels]
    expected = model.predict(pixels).prediction
    assert len(expected.objects.scores) > 0
    found = [one.prediction for one in model.predict(pictures)]
    assert [p.id for p in found] == [*[str(tmp_path / "a.png")] * 2, "image 2", "image 3", "image 4"]
    for prediction in found:
        assert torch.equal(prediction.objects.boxes_xyxy, expected.objects.boxes_xyxy)
        assert torch.equal(prediction.objects.scores, expected.objects.scores)
    assert list(model.predict([])) == []
    assert len(list(model.predict([pixels]))) == 1


def test_grey_and_palette_pil_images_become_rgb_and_a_rotated_array_view_is_read_right() -> None:
    grey = Image.new("L", (5, 4), 7)
    assert as_pixels(grey, "a").shape == (3, 4, 5)
    assert (as_pixels(grey.convert("P"), "a") == 7).all()
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[::-1]
    assert as_pixels(array, "a")[:, 0, 0].tolist() == [12, 13, 14]


def test_an_image_of_one_pixel_is_looked_at() -> None:
    found = build(Tiles(size=64, overlap=8)).predict(torch.zeros(3, 1, 1, dtype=torch.uint8)).prediction
    assert (found.objects.boxes_xyxy <= 1).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "type float32"),
        (torch.zeros(3, 4, 4), "type torch.float32"),
        (np.zeros((4, 4), np.uint8), r"shape \[4, 4\]"),
        (np.zeros((3, 4, 4), np.uint8), r"shape \[3, 4, 4\]"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"shape \[4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \[0, 4, 3\]"),
        (Image.new("I;16", (4, 4)), "mode I;16"),
        (Image.new("F", (4, 4)), "mode F"),
        (Path("no such file.jpg"), "no such"),
    ],
)
def test_pictures_of_another_kind_are_refused(image: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build().predict(image)


def test_a_question_to_a_detector_is_refused() -> None:
    with pytest.raises(UserError, match="no language"):
        build().predict(scene(), ask="How many?")


class Echo(nn.Module):
    """A task that answers with what it was asked."""

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(prediction="answers", terms=(), predict_collator=self.collated)

    def collated(self, samples: list[Sample]) -> Any:
        return SimpleNamespace(samples=samples, to=lambda device: SimpleNamespace(samples=samples))

    def predict(self, batch: Any) -> list[AnswerPrediction]:
        return [
            AnswerPrediction(id=s.id, image_id=s.image_id, question=s.turns[-1].text, answer=f"{len(s.images)}")
            for s in batch.samples
        ]


def test_a_question_goes_to_a_model_with_language_with_the_image_before_it() -> None:
    model = replace(build(), task=Echo())
    assert model.predict(scene(), ask="How many?").prediction.question == "<image>\nHow many?"
    assert next(model.predict([scene()], ask="In <image>, how many?")).prediction.question == "In <image>, how many?"
    with pytest.raises(UserError, match="answers questions"):
        model.predict(scene())


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        load(tmp_path / "nothing")
    with pytest.raises(UserError, match="no model here"):
        load(tmp_path)
    (tmp_path / "run.yaml").write_text("steps: 1")
    with pytest.raises(UserError, match="not finished"):
        load(tmp_path)


def test_a_detectors_class_names_are_at_hand() -> None:
    assert build().class_names == ("white",)
    assert isinstance(build().task, Detect)

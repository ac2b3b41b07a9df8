"""A folder of large images: every object once, work that goes on where it was stopped, and the files it ends in."""

from __future__ import annotations

import colorsys
import dataclasses
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from box_sets import read_coco
from PIL import Image
from tables import assert_same
from torch import Tensor, nn

from vistruct.checkpoint.load import ModelCard
from vistruct.contracts import BoxPrediction, DataInfo, MaskPatch, Objects, Sample, TaskTraits
from vistruct.data.input import Input, Windows
from vistruct.errors import UserError
from vistruct.inference.boxes import BOXES, places
from vistruct.inference.cache import Parts
from vistruct.inference.files import chosen_formats, predict_files
from vistruct.inference.kind import Asked
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case
from vistruct.ops.oriented import cxcywha_to_xyxy, quads_to_cxcywha
from vistruct.ops.oriented_iou import oriented_iou
from vistruct.windows.merge import WindowMerger
from vistruct.windows.tiles import Tiles

CLASSES = ("plane", "ship")
PRELABELS = ("label-studio", "cvat", "yolo", "yolo-conf")  # for annotation tools
TILES = Tiles(size=512, overlap=160)


def colour(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number / 97 % 1, 1 - number % 3 / 4, 1 - number % 5 / 8)
    return int(255 * red), int(255 * green), int(255 * blue)


class ColourFinder(nn.Module):
    """A task that knows its scene: the smallest rotated rectangle around the pixels of each object's colour.

    What a window cuts is found as far as it shows, with a better score than the whole.
    """

    def __init__(self, boxes: Tensor, kind: str = "oriented") -> None:
        super().__init__()
        self.colours = {colour(number): number for number in range(len(boxes))}
        self.boxes, self.kind, self.asked, self.seen = boxes, kind, 0, 0

    traits = TaskTraits(prediction="boxes", terms=(), class_names=CLASSES)

    def collator(self, samples: list[Sample]) -> Any:
        return SimpleNamespace(samples=samples, to=lambda device: SimpleNamespace(samples=samples))

    def predict(self, batch: Any) -> list[BoxPrediction]:
        return [self.look(sample) for sample in batch.samples]

    def look(self, sample: Sample) -> BoxPrediction:
        self.asked += 1
        pixels = sample.images[0].permute(1, 2, 0).numpy().astype(np.int64)
        code = pixels @ np.array([1 << 16, 1 << 8, 1])
        origin = np.array(sample.origin_xy)
        quads, scores, labels, masks = [], [], [], []
        for value in np.unique(code[code > 0]).tolist():
            number = self.colours[(value >> 16, value >> 8 & 255, value & 255)]
            y, x = np.nonzero(code == value)
            if len(x) < 40:
                continue
            angle = float(self.boxes[number, 4])
            axes = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
            points = np.stack([x, y], axis=1) + 0.5
            along = points @ axes.T
            low, high = along.min(axis=0) - 0.2, along.max(axis=0) + 0.2  # the last centre inside is that far, about
            corners = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
            quads.append(corners @ axes + origin)
            scores.append(1 - len(x) / 1e5)
            labels.append(number % 2)
            left, top = x.min(), y.min()
            shape = (code == value)[top : y.max() + 1, left : x.max() + 1]
            masks.append(MaskPatch(pixels=shape, x=int(left + origin[0]), y=int(top + origin[1])))
        boxes = quads_to_cxcywha(torch.from_numpy(np.array(quads)).float().reshape(-1, 4, 2))
        height, width = pixels.shape[:2]
        self.seen += len(boxes)
        return BoxPrediction(
            id=sample.id,
            image_id=sample.image_id,
            objects=Objects(
                boxes_xyxy=cxcywha_to_xyxy(boxes),
                scores=torch.tensor(scores).float(),
                labels=torch.tensor(labels, dtype=torch.int64),
                boxes_cxcywha=boxes if self.kind == "oriented" else None,
                masks=tuple(masks) if self.kind == "masks" else None,
            ),
            class_names=CLASSES,
            window_xyxy=(*sample.origin_xy, origin[0] + width, origin[1] + height),
        )


def place(number: int, size_hw: tuple[int, int], seed: int) -> Tensor:
    """float[N, 5], rectangles that do not touch; many lie on the seams of the windows."""
    random = np.random.default_rng(seed)
    cell = 160
    cells = [(x, y) for y in range(0, size_hw[0] - cell, cell) for x in range(0, size_hw[1] - cell, cell)]
    corner = np.array([cells[i] for i in random.permutation(len(cells))[:number]], float).reshape(-1, 2)
    boxes = random.uniform([75, 75, 70, 40, -1.5], [85, 85, 115, 60, 1.5], (len(corner), 5))
    boxes[:, :2] += corner
    return torch.from_numpy(boxes).float()


def paint(file: Path, boxes: Tensor, size_hw: tuple[int, int]) -> Path:
    """Every pixel whose centre lies in a rectangle has its colour; the rest is black."""
    pixels = np.zeros((*size_hw, 3), np.uint8)
    for number, (cx, cy, w, h, angle) in enumerate(boxes.tolist()):
        x0, y0, reach = int(cx), int(cy), int(math.hypot(w, h) / 2) + 2
        y, x = np.mgrid[max(0, y0 - reach) : y0 + reach, max(0, x0 - reach) : x0 + reach] + 0.5
        along = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
        across = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
        part = pixels[max(0, y0 - reach) : y0 + reach, max(0, x0 - reach) : x0 + reach]
        part[((abs(along) <= w / 2) & (abs(across) <= h / 2))[: part.shape[0], : part.shape[1]]] = colour(number)
    image = Image.fromarray(pixels)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, compress_level=1)
    return file


def finder(boxes: Tensor, kind: str = "oriented", tiles: Tiles | None = TILES) -> Model:
    windows = None if tiles is None else Windows(size=tiles.size, overlap=tiles.overlap, unit="file")
    info = DataInfo(class_names=CLASSES)
    card = ModelCard(path=Path("model"), task=None, info=info, input=Input(windows=windows), values={"sha256": "a"})
    return Model(task=ColourFinder(boxes, kind), card=card, device=torch.device("cpu"))


@pytest.mark.parametrize("kind", ["oriented", "masks"])
def test_every_object_of_a_large_image_comes_out_once(tmp_path: Path, kind: str) -> None:
    boxes = place(90, (2000, 3000), seed=1)
    file = paint(tmp_path / "scene.png", boxes, (2000, 3000))
    model = finder(boxes, kind)
    found = model.predict(file, batch=5).prediction
    assert model.task.asked == len(places(model, (2000, 3000))) > 40
    assert len(found.objects.scores) == len(boxes) == 90
    assert found.objects.scores.tolist() == sorted(found.objects.scores.tolist(), reverse=True)
    if kind == "oriented":
        iou = oriented_iou(found.objects.boxes_cxcywha, boxes)
        best = iou.amax(dim=0)
        assert best.min() > 0.95
        assert sorted(iou.argmax(dim=1).tolist()) == list(range(90))
    else:
        pixels = np.asarray(Image.open(file)).any(axis=2)
        for mask in found.objects.masks:  # whole: everything painted in its place and nothing beside
            height, width = mask.pixels.shape
            area = mask.pixels.sum()
            assert area > 1000
            assert pixels[mask.y : mask.y + height, mask.x : mask.x + width][mask.pixels].all()
        assert sum(mask.pixels.sum() for mask in found.objects.masks) == pixels.sum()


def test_memory_is_that_of_a_row_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    finish = WindowMerger.finish

    def watched(self: WindowMerger) -> BoxPrediction:
        held.append(self.most_held)
        return finish(self)

    monkeypatch.setattr(WindowMerger, "finish", watched)
    boxes = place(90, (6000, 640), seed=2)
    model = finder(boxes)
    found = model.predict(paint(tmp_path / "strip.png", boxes, (6000, 640)), batch=3).prediction
    assert len(found.objects.scores) == 90
    assert held[0] < model.task.seen / 3


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Tensor, list[Case]]:
    boxes = place(6, (700, 600), seed=3)
    names = ["a.png", "below/b.png", "c.png"]
    return boxes, [Case(pictures=(paint(tmp_path / "images" / n, boxes, (700, 600)),), name=n) for n in names]


def test_what_was_stopped_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, folder: tuple[Tensor, list[Case]], capsys: pytest.CaptureFixture[str]
) -> None:
    boxes, images = folder
    whole, straight = tmp_path / "straight", finder(boxes)
    predict_files(straight, images, whole, formats=["coco", "dota"])

    class Killed(BaseException):
        pass

    halted, cut = finder(boxes), tmp_path / "cut"
    per_image, look = straight.task.asked // 3, halted.task.look

    def until(sample: Sample) -> BoxPrediction:
        if halted.task.asked == per_image + 1:
            raise Killed
        return look(sample)

    halted.task.look = until
    with pytest.raises(Killed):
        predict_files(halted, images, cut, asked=Asked(batch=1))
    assert len(list((cut / "pictures").iterdir())) == 1
    capsys.readouterr()
    again = finder(boxes)
    found = predict_files(again, images, cut, formats=["coco", "dota"])
    assert again.task.asked == 2 * per_image
    assert "1 of 3 images were done before" in capsys.readouterr().err
    assert found.told.values == {"detections": 18}
    files = {"coco": cut / "predictions.json", "dota": cut / "dota" / "Task1.zip", "pictures": cut / "pictures"}
    assert (found.files, found.made) == (files, cut)
    for name in ("predictions.json", "dota/Task1.zip", "dota/Task1_ship.txt"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    third = finder(boxes)
    predict_files(third, images, cut)
    assert third.task.asked == 0


def test_another_model_other_windows_or_another_image_are_looked_at_anew(
    tmp_path: Path, folder: tuple[Tensor, list[Case]], capsys: pytest.CaptureFixture[str]
) -> None:
    boxes, images = folder
    predict_files(finder(boxes), images, tmp_path / "out")
    paint(images[0].files[0], boxes[:3], (700, 600))
    repainted = finder(boxes)
    found = predict_files(repainted, images, tmp_path / "out")
    assert repainted.task.asked == len(places(repainted, (700, 600)))
    assert len(found.done[0].read().objects.scores) == 3
    other = finder(boxes)
    other.card.values["sha256"] = "b"
    capsys.readouterr()
    predict_files(other, images, tmp_path / "out")
    assert other.task.asked == 3 * len(places(other, (700, 600)))
    assert "inference is run again on all images" in capsys.readouterr().err
    wider = other.in_windows(700, 10)
    wider.task.asked = 0
    predict_files(wider, images, tmp_path / "out")
    assert wider.task.asked == 3


def test_pictures_are_drawn_again_from_another_score_without_looking_again(
    tmp_path: Path, folder: tuple[Tensor, list[Case]]
) -> None:
    boxes, images = folder
    predict_files(finder(boxes), images, tmp_path, asked=Asked(min_score=0.0))
    first = {file.name: file.read_bytes() for file in (tmp_path / "pictures").iterdir()}
    assert sorted(first) == ["a.png.jpg", "below__b.png.jpg", "c.png.jpg"]
    again = finder(boxes)
    predict_files(again, images, tmp_path, asked=Asked(min_score=1.0))
    assert again.task.asked == 0
    assert all((tmp_path / "pictures" / name).read_bytes() != data for name, data in first.items())


def test_images_whose_flat_names_are_alike_have_a_picture_each(tmp_path: Path) -> None:
    boxes = place(1, (200, 200), seed=0)
    names = ["a/b.png", "a__b.png"]
    images = [Case(pictures=(paint(tmp_path / n, boxes, (200, 200)),), name=n) for n in names]
    predict_files(finder(boxes), images, tmp_path / "out")
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2


def test_a_part_gives_back_what_was_put_in_bit_for_bit(tmp_path: Path) -> None:
    boxes = place(20, (700, 900), seed=5)
    file = paint(tmp_path / "a.png", boxes, (700, 900))
    for kind in ("oriented", "masks", "plain"):
        found = finder(boxes, kind).predict(file).prediction
        parts = Parts(tmp_path / kind, {})
        name = "ein/lang" + "er/" * 90 + "näme?.png"
        case = Case(pictures=(file,), name=name)
        assert not parts.has(name, [file])
        parts.write(name, [file], BOXES.pack(case, found))
        assert parts.has(name, [file])
        assert parts.read(name)["size_hw"] == [700, 900]
        back = BOXES.unpack(finder(boxes, kind), case, parts.read(name), {})
        assert_same(*(replace(one.objects, masks=None).arrays() for one in (found, back)))
        if kind == "masks":
            for one, other in zip(found.objects.masks, back.objects.masks, strict=True):
                assert (one.x, one.y) == (other.x, other.y)
                assert np.array_equal(one.pixels, other.pixels)
        parts.file(name).write_text("{broken")
        assert not parts.has(name, [file])  # made anew


def possible(images: list[Case], names: tuple[str, ...]) -> list[str]:
    return [format.name for format in chosen_formats(BOXES, ["all"], images, names) if format.use != "always"]


def test_a_submission_of_every_kind(tmp_path: Path, folder: tuple[Tensor, list[Case]]) -> None:
    boxes, images = folder
    found = predict_files(finder(boxes), images, tmp_path)
    assert found.made == tmp_path / "predictions.json"
    assert possible(images, CLASSES) == ["coco", "geojson", "gpkg", "dota", *PRELABELS]  # FAIR1M has no class "plane"
    with pytest.raises(UserError, match="no class"):
        chosen_formats(BOXES, ["fair1m"], images, CLASSES)
    twins = [*images, Case(pictures=images[0].pictures, name="again/a.tif")]
    with pytest.raises(UserError, match="two images"):
        chosen_formats(BOXES, ["dota"], twins, CLASSES)
    assert possible(twins, ("Passenger Ship",)) == ["coco", "geojson", "gpkg", *PRELABELS]
    records, names, _ = read_coco(tmp_path / "predictions.json", tmp_path / "images")
    assert names == CLASSES
    assert [record.id for record in records] == [image.name for image in images]
    for record in records:
        iou = oriented_iou(quads_to_cxcywha(torch.from_numpy(record.objects.quads)), boxes)
        assert iou.amax(dim=0).min() > 0.95
    scores = [entry["score"] for entry in json.loads((tmp_path / "predictions.json").read_text())["annotations"]]
    assert len(scores) == 18


def test_fair1m_files_are_zipped_in_a_folder(tmp_path: Path) -> None:
    names = ("Passenger Ship", "other-ship")
    boxes = place(2, (300, 400), seed=0)
    images = [Case(pictures=(paint(tmp_path / n, boxes, (300, 400)),), name=n) for n in ("0.png", "1.png")]
    model = finder(boxes)
    look = model.task.look
    model.task.look = lambda sample: dataclasses.replace(look(sample), class_names=names)
    model.task.traits = TaskTraits(prediction="boxes", terms=(), class_names=names)
    assert possible(images, names) == ["coco", "geojson", "gpkg", "dota", "fair1m", *PRELABELS]
    found = predict_files(model, images, tmp_path / "out", formats=["fair1m"])
    with zipfile.ZipFile(found.files["fair1m"]) as archive:
        assert archive.namelist() == ["test/0.xml", "test/1.xml"]
        assert b"Passenger Ship" in archive.read("test/0.xml")
    patches = [Case(pictures=images[0].pictures, name="0__1__0___0.png")]
    with pytest.raises(UserError, match="whole images of known size"):
        chosen_formats(BOXES, ["fair1m"], patches, names)


def test_patches_of_an_xview_image_are_one_file_that_is_measured_alike(tmp_path: Path) -> None:
    names = ("Small Car", "Bus")
    boxes = place(4, (300, 400), seed=1)
    whole = paint(tmp_path / "1036.tif", boxes, (300, 400))
    left, right = tmp_path / "1036__1__0___0.png", tmp_path / "1036__1__150___0.png"
    with Image.open(whole) as image:
        image.crop((0, 0, 250, 300)).save(left)
        image.crop((150, 0, 400, 300)).save(right)
    model = finder(boxes, "horizontal")
    look = model.task.look
    model.task.look = lambda sample: dataclasses.replace(look(sample), class_names=names)
    model.task.traits = TaskTraits(prediction="boxes", terms=(), class_names=names)
    cases = [Case(pictures=(file,), name=file.name) for file in (left, right)]
    found = predict_files(model, cases, tmp_path / "out", formats=["xview"])
    with zipfile.ZipFile(found.made) as archive:
        assert archive.namelist() == ["1036.tif.txt"]
        rows = np.array([line.split() for line in archive.read("1036.tif.txt").decode().splitlines()], float)
    assert set(rows[:, 4]) <= {18, 19}
    expected = cxcywha_to_xyxy(boxes).numpy()
    for box in expected:
        assert np.abs(rows[:, :4] - box).max(axis=1).min() < 2

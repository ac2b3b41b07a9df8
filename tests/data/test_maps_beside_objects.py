"""Label maps beside objects: painted or from files they say what the objects say, in windows and after every move."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from hotcoco import mask as coco_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vistruct.config import Eval
from vistruct.contracts import IGNORED, DataInfo, Sample
from vistruct.data.beside_objects import NO_FILE
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.formats.boxes.coco import FORMAT as COCO
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.maps.painted_objects import NO_MASK
from vistruct.data.input import Windows
from vistruct.data.maps import MapDataConfig
from vistruct.engine.data_sets import for_classes
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.inference.model import load
from vistruct.issues import IssueCounter
from vistruct.metrics.pixels import PixelsConfig
from vistruct.pictures.samples import draw_one
from vistruct.recipes import segment
from vistruct.runs import train_and_report
from vistruct.tasks.dense import DetectCollator
from vistruct.tasks.segment import MapCollator
from vistruct.transforms.augment import Augment
from vistruct.transforms.crop import crop, pad
from vistruct.transforms.geometry import flip_diagonal, flip_horizontal, flip_vertical, rescale, turn
from vistruct.transforms.resized_crop import ResizedCrop
from vistruct.transforms.rotate import rotate
from vistruct.windows.tiles import Tiles

WIDTH, HEIGHT = 60, 40
NAMES = ("ship", "plane", "crane", "dock")


def rle(x0: int, y0: int, x1: int, y1: int) -> dict[str, Any]:
    """Compressed run lengths of a rectangle, as ASCII."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[y0:y1, x0:x1] = 1
    found = coco_mask.encode(pixels)
    return {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}


def make(
    folder: Path, rows: list[tuple[int, tuple[int, int, int, int], dict[str, Any]]], images: int = 1, seed: int = 0
) -> Path:
    """A COCO json whose first image has these objects: class, edges, other fields."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        noise = np.random.default_rng(seed + number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    annotations = [
        {"id": i, "image_id": 0, "category_id": label, "bbox": [x0, y0, x1 - x0, y1 - y0], **more}
        for i, (label, (x0, y0, x1, y1), more) in enumerate(rows)
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(images)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": annotations,
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder / "boxes.json"


ROWS = [
    (1, (4, 4, 24, 24), {"segmentation": rle(6, 6, 20, 20)}),
    (0, (10, 10, 16, 14), {"segmentation": rle(11, 10, 15, 13)}),  # lies on the first, and is listed after it
    (2, (40, 2, 58, 20), {"segmentation": rle(42, 4, 56, 18), "iscrowd": 1}),
    (3, (30, 25, 50, 38), {}),
]


def expected() -> np.ndarray:
    raster = np.zeros((HEIGHT, WIDTH), np.int16)
    raster[4:18, 42:56] = IGNORED
    raster[6:20, 6:20] = 2
    raster[10:13, 11:15] = 1
    raster[25:38, 30:50] = 4  # a box, for want of a mask
    return raster


def test_masks_are_painted_small_over_large_and_boxes_for_want_of_them_are_counted(tmp_path: Path) -> None:
    file = make(tmp_path, ROWS)
    dataset = BoxDataConfig(annotation=file, label_maps="painted").build()
    assert dataset.info.class_names == NAMES
    assert dataset.info.map_class_names == ("background", *NAMES)
    sample = dataset.sample(0, 0)
    assert sample.label_map is not None
    assert sample.label_map.dtype == torch.int16
    assert np.array_equal(sample.label_map.numpy(), expected())
    assert sample.objects.masks is None
    assert dataset.report.counts[NO_MASK] == 1
    reverse = BoxDataConfig(annotation=make(tmp_path / "b", ROWS[::-1]), label_maps="painted").build()
    assert torch.equal(reverse.sample(0, 0).label_map, sample.label_map)
    assert BoxDataConfig(annotation=file).build().sample(0, 0).label_map is None


def test_quads_are_painted_where_shapely_has_them(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labelTxt").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")
    quad = [(10.0, 5.0), (40.0, 12.0), (36.0, 30.0), (6.0, 23.0)]
    (tmp_path / "labelTxt" / "a.txt").write_text(" ".join(f"{x} {y}" for x, y in quad) + " ship 0\n")
    (found,) = (BoxDataConfig(annotation=tmp_path, label_maps="painted").build().sample(0, 0).label_map,)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = shapely.contains_xy(shapely.Polygon(quad), x, y)
    near = shapely.distance(shapely.Polygon(quad).exterior, shapely.points(x, y)) < 1
    assert np.array_equal(found.numpy()[~near], inside[~near].astype(np.int16))


def test_a_window_has_the_part_of_the_map_that_it_shows(tmp_path: Path) -> None:
    file = make(tmp_path, ROWS)
    tiled = BoxDataConfig(annotation=file, label_maps="painted", tiles=Tiles(size=24, overlap=6, min_kept=0.9)).build()
    assert len(tiled) > 4
    for number, record in enumerate(tiled.records):
        x0, y0, x1, y1 = record.window_xyxy
        assert np.array_equal(tiled.sample(number, 0).label_map.numpy(), expected()[y0:y1, x0:x1])


def test_classes_are_chosen_alike_for_objects_and_maps(tmp_path: Path) -> None:
    file = make(tmp_path, ROWS)
    chosen = {"join": {"craft": ("ship", "plane")}, "drop": ("dock",)}
    dataset = BoxDataConfig(annotation=file, label_maps="painted", **chosen).build()
    assert dataset.info.map_class_names == ("background", "craft", "crane")
    wanted = np.select([expected() == 2, expected() == 1, expected() == 4], [1, 1, 0], expected())
    assert np.array_equal(dataset.sample(0, 0).label_map.numpy(), wanted)
    with pytest.raises(UserError, match="objects of class 'background'") as caught:
        BoxDataConfig(annotation=file, label_maps="painted", join={"background": ("ship",)}).build()
    assert "--drop background" in caught.value.fix


def walk_with_files(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """COCO with rasters beside the images: 255 is background, else the number of the class."""
    found = COCO.walk(path, ask, report, stop)
    coding = Coding(classes=("background", *found.class_names), values=(255, *range(len(NAMES))), ignored=())
    files = {one.id: path.parent / "gray" / one.id for one in found.records}
    records = [replace(one, label_map=files[one.id] if files[one.id].is_file() else None) for one in found.records]
    return replace(found, records=records, coding=coding)


WITH_FILES = Format(kind="boxes", walk=walk_with_files)


def with_files(folder: Path, images: int = 1) -> BoxDataConfig:
    file = make(folder, ROWS, images)
    (folder / "gray").mkdir()
    Image.fromarray(np.where(expected() <= 0, 255, expected() - 1).astype(np.uint8)).save(folder / "gray" / "0.png")
    return BoxDataConfig(annotation=file, format=f"{__name__}:WITH_FILES", label_maps="files")


def test_files_say_the_class_of_every_pixel_and_what_has_none_and_no_objects_is_background(tmp_path: Path) -> None:
    dataset = with_files(tmp_path / "data", images=2).build(tmp_path / "cache")
    assert np.array_equal(dataset.sample(0, 0).label_map.numpy(), np.maximum(expected(), 0))
    assert (dataset.sample(1, 0).label_map == 0).all()
    assert dataset.report.counts[NO_FILE] == 1
    again = with_files_again(tmp_path).build(tmp_path / "cache")
    assert torch.equal(again.sample(0, 0).label_map, dataset.sample(0, 0).label_map)
    assert again.info == dataset.info
    coding = dataset.info.input["coding"]
    assert coding["classes"] == ["background", *NAMES]
    (tmp_path / "data" / "gray" / "0.png").unlink()
    with pytest.raises(UserError, match=r"1 images with objects have no label map: 0\.png") as caught:
        with_files_again(tmp_path).build(tmp_path / "cache")
    assert caught.value.fix.startswith("--label-maps painted")
    with pytest.raises(UserError, match="no label maps beside these objects"):
        BoxDataConfig(annotation=tmp_path / "data" / "boxes.json", label_maps="files").build()


def with_files_again(tmp_path: Path) -> BoxDataConfig:
    file = tmp_path / "data" / "boxes.json"
    return BoxDataConfig(annotation=file, format=f"{__name__}:WITH_FILES", label_maps="files")


def test_classes_of_files_are_chosen_as_those_of_the_objects(tmp_path: Path) -> None:
    part = with_files(tmp_path)
    joined = part.model_copy(update={"join": {"craft": ("ship", "plane")}, "drop": ("dock",)}).build()
    assert joined.info.map_class_names == ("background", "craft", "crane")
    wanted = np.select([expected() == 2, expected() == 1, expected() == 4], [1, 1, IGNORED], np.maximum(expected(), 0))
    assert np.array_equal(joined.sample(0, 0).label_map.numpy(), wanted)
    order = ("dock", "plane", "crane", "ship", "tug")
    ordered = part.model_copy(update={"classes": order}).build()
    assert ordered.info.map_class_names == ("background", *order)
    to = [0, *(1 + order.index(name) for name in NAMES)]
    assert np.array_equal(ordered.sample(0, 0).label_map.numpy(), np.array(to)[np.maximum(expected(), 0)])


MOVES = {
    "left and right": flip_horizontal,
    "top and bottom": flip_vertical,
    "both": flip_diagonal,
    "a quarter": lambda sample: turn(sample, 1),
    "grown": lambda sample: rescale(sample, 2),
    "cut": lambda sample: crop(sample, (5, 3, 47, 33), 1e-6),
    "padded": lambda sample: pad(sample, (64, 80), (7, 11)),
    "turned": lambda sample: rotate(sample, 0.7, min_kept=1e-6),
}


@st.composite
def rows(draw: st.DrawFn) -> list[tuple[int, tuple[int, int, int, int], dict[str, Any]]]:
    """An object of each class, in a quarter of the image each, with a mask that fills its box."""
    found = []
    for label in draw(st.permutations(range(4))):
        left, top = 30 * (label % 2), 20 * (label // 2)
        x0, y0 = left + draw(st.integers(0, 12)), top + draw(st.integers(0, 8))
        x1, y1 = draw(st.integers(x0 + 6, left + 30)), draw(st.integers(y0 + 6, top + 20))
        found.append((label, (x0, y0, x1, y1), {"segmentation": rle(x0, y0, x1, y1)}))
    return found


def check_aligned(after: Sample) -> None:
    """Every object's mask is where the map has its class, and its box is around it."""
    assert after.label_map is not None
    assert tuple(after.label_map.shape) == tuple(after.images[0].shape[1:])
    for label, mask, box in zip(
        after.objects.labels.tolist(), after.objects.masks, after.objects.boxes_xyxy, strict=True
    ):
        assert torch.equal(after.label_map == label + 1, mask)
        at = mask.nonzero()
        low, high = at.amin(dim=0).flip(0), at.amax(dim=0).flip(0) + 1
        assert (box[:2] <= low + 1).all()
        assert (box[2:] >= high - 1).all()


@pytest.mark.parametrize("name", MOVES)
@settings(max_examples=8, deadline=None)
@given(objects=rows())
def test_painting_and_moving_is_moving_and_painting(
    name: str, objects: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = make(tmp_path_factory.mktemp("moves"), objects)
    dataset = BoxDataConfig(annotation=file, masks=True, oriented=True, label_maps="painted").build()
    after = MOVES[name](dataset.sample(0, 0))
    check_aligned(after)
    outside = MOVES[name](
        replace(dataset.sample(0, 0), label_map=torch.zeros(HEIGHT, WIDTH, dtype=torch.int16))
    ).label_map
    assert torch.equal(after.label_map == IGNORED, outside == IGNORED)
    shown = after.label_map.clone()
    y, x = np.mgrid[: shown.shape[0], : shown.shape[1]] + 0.5
    for label, quad in zip(after.objects.labels.tolist(), after.objects.quads, strict=True):
        polygon = shapely.Polygon(quad.double().numpy())
        far = torch.from_numpy(
            shapely.distance(polygon.exterior, shapely.points(x, y)) > (0.75 if name == "turned" else 1e-3)
        )
        inside = torch.from_numpy(shapely.contains_xy(polygon, x, y)) & (shown != IGNORED)
        assert torch.equal((shown == label + 1) & far, inside & far)


EVERYTHING = Augment(
    hflip=True, vflip=True, dflip=True, rot90=True, rotate=0.5, scale=(0.5, 2.0), crop=(32, 32), crop_max_share=0.75,
    photometric=0.3, erase=0.2,
)  # fmt: skip
PUBLISHED = Augment(
    hflip=True, vflip=True, dflip=True, flips="one", fit=(32, 32), scale=(0.5, 2.0), scale_draw="even", crop=(32, 32)
)


@pytest.mark.parametrize(
    "augment", [EVERYTHING, PUBLISHED, Augment(hflip=True, resized_crop=ResizedCrop(height=24, width=30))]
)
@settings(max_examples=12, deadline=None)
@given(objects=rows(), seed=st.integers(0, 2**31))
def test_maps_stay_on_their_objects_under_all_moves_at_once(
    augment: Augment, objects: list[Any], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = make(tmp_path_factory.mktemp("moves"), objects)
    config = BoxDataConfig(annotation=file, masks=True, label_maps="painted", augment=augment, resize=1.5)
    check_aligned(config.build().sample(0, seed))


def test_one_sample_is_for_detection_and_for_segmentation(tmp_path: Path) -> None:
    dataset = BoxDataConfig(annotation=make(tmp_path, ROWS), label_maps="painted").build()
    sample = dataset.sample(0, 0)
    batch = MapCollator(num_images=1, channels=3, num_classes=5)([sample])
    assert np.array_equal(batch.label_maps[0].numpy(), expected())
    assert DetectCollator(size_divisor=8, num_classes=4)([sample]).targets[0].labels.tolist() == [1, 0, 2, 3]
    drawn, alone = draw_one(sample, dataset), draw_one(replace(sample, label_map=None), dataset)
    assert drawn.width > 1.7 * alone.width


def test_other_data_are_read_with_the_classes_of_the_objects_or_of_the_maps(tmp_path: Path) -> None:
    beside = DataInfo(class_names=("tree",), map_class_names=("background", "tree"))
    maps, boxes = MapDataConfig(root=tmp_path), BoxDataConfig(annotation=tmp_path, label_maps="painted")
    assert for_classes(maps, beside).classes == ("background", "tree")
    assert for_classes(boxes, beside).classes == ("tree",)
    assert for_classes(boxes, DataInfo(class_names=("background", "tree"))).classes == ("tree",)


def test_windows_are_those_that_the_model_is_shown() -> None:
    found = Windows(size=400, overlap=100, blend="even", unit="file").shown(0.5)
    assert found == Windows(size=200, overlap=50, blend="even", unit="shown")
    assert found.shown(0.5) is found


def test_a_segmenter_learns_from_painted_boxes_is_measured_and_knows_its_classes(tmp_path: Path) -> None:
    base = segment.tiny()
    tiles = Tiles(size=32, overlap=8)
    train, test = (
        BoxDataConfig(annotation=make(tmp_path / name, ROWS, seed=seed), label_maps="painted", tiles=tiles)
        for name, seed in (("train", 0), ("test", 9))
    )
    stream = base.only.model_copy(update={"data": train, "batch": 2})
    run = base.model_copy(
        update={"streams": {"main": stream}, "evals": {"val": Eval(data=test, metric=PixelsConfig())}, "steps": 2}
    )
    out = train_and_report(run, tmp_path / "run")
    model = load(out)
    assert model.class_names == ("background", *NAMES)
    assert model.input.windows is not None
    assert model.input.windows.unit == "shown"
    said = model.predict(np.zeros((140, 150, 3), np.uint8)).prediction
    assert said.class_names == ("background", *NAMES)
    assert "- Classes: background, ship, plane, crane, dock\n" in (out / "model" / "README.md").read_text()
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"val/IoU/background", "val/IoU/dock"} <= last.keys()

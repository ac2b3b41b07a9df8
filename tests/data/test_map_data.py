"""Label maps as training has them: windows, shares, painted objects, bands, and workers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from map_samples import mask_folder
from PIL import Image, ImageDraw

from vistruct.contracts import IGNORED
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake
from vistruct.samples import made_maps
from vistruct.windows.tiles import Tiles

THREE = Coding(classes=("a", "b", "c"))


def test_windows_together_are_the_whole_label_map_and_image() -> None:
    root = mask_folder(THREE, size_hw=(50, 70))
    whole = MapDataConfig(root=root, split="val", coding=THREE).build().sample(0, seed=0)
    cut = MapDataConfig(root=root, split="val", coding=THREE, tiles=Tiles(size=32, overlap=8)).build()
    assert whole.label_map is not None
    seen = torch.zeros(50, 70, dtype=torch.int64)
    for number, record in enumerate(cut.records):
        assert record.window_xyxy is not None
        x0, y0, x1, y1 = record.window_xyxy
        sample = cut.sample(number, seed=0)
        assert sample.image_id == "2.jpg"
        torch.testing.assert_close(sample.label_map, whole.label_map[y0:y1, x0:x1], rtol=0, atol=0)
        torch.testing.assert_close(sample.images[0], whole.images[0][:, y0:y1, x0:x1], rtol=0, atol=0)
        torch.testing.assert_close(cut.truth(number), sample.label_map, rtol=0, atol=0)
        seen[y0:y1, x0:x1] += 1
    assert (seen > 0).all()
    assert (cut.info.counts["images"], cut.info.counts["windows"]) == (1, len(cut.records)) == (1, 6)


def test_both_images_of_a_pair_show_the_same_window() -> None:
    root = made_maps.levir_folder()
    whole = MapDataConfig(root=root, split="val").build().sample(0, seed=0)
    cut = MapDataConfig(root=root, split="val", tiles=Tiles(size=32, overlap=0)).build()
    for number, record in enumerate(cut.records):
        x0, y0, x1, y1 = record.window_xyxy or (0, 0, 0, 0)
        for part, image in zip(cut.sample(number, seed=0).images, whole.images, strict=True):
            torch.testing.assert_close(part, image[:, y0:y1, x0:x1], rtol=0, atol=0)


def test_a_data_set_travels_to_a_worker() -> None:
    dataset = MapDataConfig(root=made_maps.isaid_folder(), split="train", tiles=Tiles(size=32, overlap=0)).build()
    sent = pickle.loads(pickle.dumps(dataset))
    for one, other in zip(dataset.sample(3, seed=1).images, sent.sample(3, seed=1).images, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(dataset.truth(3), sent.truth(3))


def test_a_smaller_share_is_part_of_a_larger_one_and_says_what_it_leaves() -> None:
    config = MapDataConfig(root=made_maps.levir_folder(), split="train", tiles=Tiles(size=32, overlap=0))
    ids = {
        share: {record.id for record in config.model_copy(update={"fraction": share}).build().records}
        for share in (0.1, 0.5, 1.0)
    }
    assert ids[0.1] < ids[0.5] < ids[1.0]
    assert (len(ids[0.1]), len(ids[0.5]), len(ids[1.0])) == (1, 4, 8)
    dropped = config.model_copy(update={"fraction": 0.5}).build().info.dropped
    assert dropped == {"left out: beyond the fraction asked for": 4}


def test_the_fingerprint_follows_files_and_coding_and_not_the_place(tmp_path: Path) -> None:
    def made(root: Path, side: int) -> MapDataConfig:
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True)
            Image.fromarray(np.zeros((side, side), np.uint8)).save(root / folder / "a.png")
        return MapDataConfig(root=root, coding=THREE)

    one, same, other = made(tmp_path / "x", 8), made(tmp_path / "y", 8), made(tmp_path / "z", 300)
    recoded = one.model_copy(update={"coding": THREE.model_copy(update={"ignored": (254,)})})
    prints = [config.build().info.fingerprint for config in (one, same, other, recoded)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_windows_cannot_be_empty() -> None:
    with pytest.raises(UserError, match="no empty windows"):
        MapDataConfig(root=made_maps.levir_folder(), split="val", tiles=Tiles(skip_empty=True)).build()


def coco(root: Path, annotations: list[dict[str, Any]], size: tuple[int, int] = (20, 12)) -> Path:
    Image.new("RGB", size).save(root / "a.png")
    objects = [{"id": n, "image_id": 1, "iscrowd": 0, **one} for n, one in enumerate(annotations)]
    images = [{"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}]
    categories = [{"id": 3, "name": "roof"}, {"id": 5, "name": "car"}]
    path = root / "annotations.json"
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": objects}))
    return path


def box(x0: int, y0: int, x1: int, y1: int, category: int, **more: Any) -> dict[str, Any]:
    polygon = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": category, "segmentation": polygon, **more}


@pytest.mark.parametrize("fill", ["masks", "boxes"])
def test_objects_are_painted_small_over_large_and_crowds_do_not_count(tmp_path: Path, fill: Any) -> None:
    counts = np.zeros((12, 20), np.uint8)
    counts[0:3, 0:4] = 1
    runs = [0, 3, 9, 3, 9, 3, 9, 3, 9 + 12 * 16]  # columns of 12: the first 3 rows of 4 columns
    crowd = {"bbox": [0, 0, 4, 3], "category_id": 3, "iscrowd": 1, "segmentation": {"size": [12, 20], "counts": runs}}
    objects = [box(12, 4, 14, 6, 5), box(10, 2, 18, 9, 3), box(3, 2, 6, 8, 3), crowd]  # the small one comes first
    path = coco(tmp_path, objects)
    expected = np.zeros((12, 20), np.int16)
    expected[0:3, 0:4] = IGNORED
    expected[2:9, 10:18] = 1
    expected[2:8, 3:6] = 1  # over the crowd
    expected[4:6, 12:14] = 2
    dataset = MapDataConfig(root=path, format="objects", fill=fill).build()
    assert dataset.info.class_names == ("background", "roof", "car")
    np.testing.assert_array_equal(dataset.truth(0).numpy(), expected)
    sample = dataset.sample(0, seed=0)
    assert len(sample.objects) == 0  # objects have become pixels
    cut = MapDataConfig(root=path, format="objects", fill=fill, tiles=Tiles(size=8, overlap=2)).build()
    for number, record in enumerate(cut.records):
        x0, y0, x1, y1 = record.window_xyxy or (0, 0, 0, 0)
        np.testing.assert_array_equal(cut.truth(number).numpy(), expected[y0:y1, x0:x1])


def test_a_painted_polygon_covers_what_pillow_covers_but_for_its_edge(tmp_path: Path) -> None:
    corners = [(3.0, 2.0), (17.0, 4.0), (12.0, 11.0), (5.0, 9.0)]
    flat = [value for corner in corners for value in corner]
    path = coco(tmp_path, [{"bbox": [3, 2, 14, 9], "category_id": 5, "segmentation": [flat]}])
    found = MapDataConfig(root=path, format="objects").build().truth(0).numpy() == 2
    canvas = Image.new("L", (20 * 16, 12 * 16))
    ImageDraw.Draw(canvas).polygon([(x * 16, y * 16) for x, y in corners], fill=255)
    covered = np.asarray(canvas).reshape(12, 16, 20, 16).mean(axis=(1, 3)) / 255  # share of each pixel
    assert found[covered > 0.95].all()
    assert not found[covered < 0.05].any()


def test_objects_without_masks_are_a_mistake_that_names_the_way_out(tmp_path: Path) -> None:
    bare = box(1, 1, 5, 5, 3)
    del bare["segmentation"]
    path = coco(tmp_path, [bare])
    with pytest.raises(UserError, match="without a mask") as caught:
        MapDataConfig(root=path, format="objects").build()
    assert "fill=boxes" in caught.value.fix
    assert (MapDataConfig(root=path, format="objects", fill="boxes").build().truth(0) == 1).sum() == 16


def test_classes_that_no_object_here_has_keep_their_numbers(tmp_path: Path) -> None:
    path = coco(tmp_path, [box(1, 1, 5, 5, 5)])
    classes = ("background", "tree", "car", "roof")
    dataset = MapDataConfig(root=path, format="objects", classes=classes).build()
    assert dataset.info.class_names == classes
    assert dataset.truth(0).unique().tolist() == [0, 2]
    with pytest.raises(UserError, match="no class 'car' is asked for"):
        MapDataConfig(root=path, format="objects", classes=("background", "roof")).build()


def test_an_image_without_objects_is_background(tmp_path: Path) -> None:
    assert MapDataConfig(root=coco(tmp_path, []), format="objects").build().truth(0).unique().tolist() == [0]


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_bands_of_16_bits_come_through_the_intake(tmp_path: Path) -> None:
    values = np.arange(4 * 6 * 8, dtype=np.uint16).reshape(4, 6, 8) * 50
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with rasterio.open(
        tmp_path / "images" / "a.tif", "w", driver="GTiff", height=6, width=8, count=4, dtype="uint16"
    ) as file:
        file.write(values)
    Image.fromarray((values[0] % 3).astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    intake = Intake(bands=(4, 1), low=(0.0,), high=(10000.0,))
    dataset = MapDataConfig(root=tmp_path, coding=THREE, intake=intake, tiles=Tiles(size=4, overlap=0)).build()
    assert (dataset.info.channels, dataset.info.pixels) == (2, "uint16")
    for number, record in enumerate(dataset.records):
        x0, y0, x1, y1 = record.window_xyxy or (0, 0, 0, 0)
        sample = dataset.sample(number, seed=0)
        expected = np.rint(values[[3, 0], y0:y1, x0:x1] / 10000 * 65535)
        np.testing.assert_allclose(sample.images[0].numpy(), expected, atol=1)
        np.testing.assert_array_equal(dataset.truth(number).numpy(), values[0, y0:y1, x0:x1] % 3)


def test_everything_ignored_is_still_a_sample(tmp_path: Path) -> None:
    for folder, value in (("images", 0), ("masks", 255)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((1, 1), value, np.uint8)).save(tmp_path / folder / "a.png")
    sample = MapDataConfig(root=tmp_path, coding=THREE).build().sample(0, seed=0)
    assert sample.label_map is not None
    assert sample.label_map.tolist() == [[IGNORED]]
    assert tuple(sample.images[0].shape) == (3, 1, 1)


def test_the_settings_survive_a_run_file() -> None:
    config = MapDataConfig(root=Path("somewhere"), coding=THREE, tiles=Tiles(size=96), classes=("a", "b", "c"))
    assert MapDataConfig.model_validate(config.model_dump(mode="json")) == config

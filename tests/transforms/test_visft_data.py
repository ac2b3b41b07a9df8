"""ViSFT's treatment of COCO against what its own code made of three images, with the numbers that it drew."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file

from vistruct.contracts import Objects, Sample
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.dataset import RecordDataset
from vistruct.files.masks import rasterise, shares
from vistruct.ops.seeds import derive
from vistruct.transforms.augment import Augment
from vistruct.transforms.crop import crop, pad
from vistruct.transforms.geometry import fit_factor, flip_horizontal, rescale
from vistruct.transforms.resized_crop import SizedCrop
from vistruct.transforms.rotate import rotate
from vistruct.transforms.sizing import ShortSide, sized, sized_hw

PLACE = GOLDEN / "visft_data"
OUT = load_file(PLACE / "io.safetensors")
DRAWS: dict[str, list[list[Any]]] = json.loads((PLACE / "draws.json").read_text())
COCO_IDS = (1, 3, 13, 27, 44, 90)
SIZES = [
    (one["height"], one["width"], key, *map(int, value))
    for one in json.loads((PLACE / "resize_sizes.json").read_text())
    for key, value in one.items()
    if key not in ("height", "width")
]
VAL = ShortSide(short=80, longest=67)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> RecordDataset:
    """The three images, their crowd left out as ViSFT does, with soft masks."""
    values = json.loads((PLACE / "instances.json").read_text())
    values["annotations"] = [one for one in values["annotations"] if not one["iscrowd"]]
    file = tmp_path_factory.mktemp("coco") / "instances.json"
    file.write_text(json.dumps(values))
    return BoxDataConfig(annotation=file, images=PLACE / "images", masks="soft").build()


def sample_of(coco: RecordDataset, image: str, seed: int = 0) -> Sample:
    number = [record.id for record in coco.records].index(f"{int(image) - 1:012}.png")
    return coco.sample(number, seed)


def relative(sample: Sample) -> torch.Tensor:
    """cxcywh in parts of the image."""
    height, width = sample.images[0].shape[1:]
    x0, y0, x1, y1 = sample.objects.boxes_xyxy.unbind(1)
    return torch.stack([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height], dim=1)


def coco_ids(sample: Sample, coco: RecordDataset) -> list[int]:
    return [int(coco.info.class_names[label].removeprefix("class")) for label in sample.objects.labels]


def assert_levels(sample: Sample, key: str) -> None:
    if key in OUT:
        assert (sample.images[0].int() - OUT[key].int()).abs().max() <= 1


@pytest.mark.parametrize(("height", "width", "key", "high", "wide"), SIZES)
def test_sizes_are_rounded_as_each_head_rounds_them(height: int, width: int, key: str, high: int, wide: int) -> None:
    head, short, longest = key.split("_")
    limited = "nearest" if head == "detection" else "down"
    size = ShortSide(short=int(short), longest=None if longest == "None" else int(longest), limited=limited)
    assert sized_hw((height, width), size) == (high, wide)


@pytest.mark.parametrize("image", "123")
def test_polygons_have_soft_edges_in_quarters(coco: RecordDataset, image: str) -> None:
    sample = sample_of(coco, image)
    expected = OUT[f"segment.{image}.masks_x4"].float() / 4
    assert sample.objects.masks.dtype == torch.float32
    assert torch.equal(sample.objects.masks, expected)
    assert torch.allclose(sample.objects.boxes_xyxy, OUT[f"segment.{image}.boxes_xyxy"], atol=1e-5)
    table = json.loads((PLACE / "config.json").read_text())["coco_id_to_segment_label"]
    assert [table[str(i)] for i in coco_ids(sample, coco)] == OUT[f"segment.{image}.labels_one_based"].tolist()


@pytest.mark.parametrize("case", [key for key in DRAWS if key.startswith("detection")])
def test_detr_crops_and_sizes(coco: RecordDataset, case: str) -> None:
    draws = [value for _, value in DRAWS[case]]
    sample = sample_of(coco, case.split(".")[1])
    sample = flip_horizontal(sample) if draws[0] < 0.5 else sample
    if draws[1] >= 0.5:
        top, left, high, wide = draws[5]
        sample = crop(sized(sample, ShortSide(short=draws[2])), (left, top, left + wide, top + high), min_kept=0)
    sample = sized(sample, ShortSide(short=draws[-1], longest=67))
    assert list(sample.images[0].shape[1:]) == OUT[f"{case}.size_hw"].tolist()
    assert coco_ids(sample, coco) == OUT[f"{case}.labels_coco_ids"].tolist()
    assert torch.allclose(relative(sample), OUT[f"{case}.boxes_cxcywh"], atol=1e-5)
    assert_levels(sample, f"{case}.image_levels")


@pytest.mark.parametrize("image", "123")
def test_what_detection_measures_on(coco: RecordDataset, image: str) -> None:
    sample = sized(sample_of(coco, image), VAL)
    assert list(sample.images[0].shape[1:]) == OUT[f"detection.{image}.val.size_hw"].tolist()
    assert torch.allclose(relative(sample), OUT[f"detection.{image}.val.boxes_cxcywh"], atol=1e-5)


@pytest.mark.parametrize("case", [key for key in DRAWS if key.startswith("segment")])
def test_large_scale_jitter(coco: RecordDataset, case: str) -> None:
    (_, flip), (_, scale), (_, (top, left, _, _)) = DRAWS[case]
    sample = sample_of(coco, case.split(".")[1])
    sample = flip_horizontal(sample) if flip < 0.5 else sample
    sample = rescale(sample, scale * fit_factor(sample, (56, 56)))
    height, width = sample.images[0].shape[1:]
    assert [height, width] == OUT[f"{case}.rescaled_hw"].tolist()
    sample = crop(sample, (left, top, min(width, left + 56), min(height, top + 56)), min_kept=0)
    if len(sample.objects):
        assert torch.allclose(relative(sample), OUT[f"{case}.boxes"], atol=1e-5)
    sample = pad(sample, (56, 56), fill=128 / 255)
    table = json.loads((PLACE / "config.json").read_text())["coco_id_to_segment_label"]
    assert [table[str(i)] for i in coco_ids(sample, coco)] == OUT[f"{case}.labels_one_based"].tolist()
    if f"{case}.masks" in OUT:
        assert torch.allclose(sample.objects.masks, OUT[f"{case}.masks"], atol=1e-4)
    else:
        assert torch.allclose(sample.objects.masks.sum((1, 2)), OUT[f"{case}.mask_areas"], atol=1e-3)
    assert_levels(sample, f"{case}.image_levels")


def blob(seed: int, size_hw: tuple[int, int] = (60, 90)) -> Sample:
    """A bright rectangle whose box and soft mask say where it is."""
    image, mask = torch.zeros(3, *size_hw, dtype=torch.uint8), torch.zeros(1, *size_hw)
    image[:, 20:44, 30:66] = 255
    mask[:, 20:44, 30:66] = 1
    objects = Objects(boxes_xyxy=torch.tensor([[30.0, 20, 66, 44]]), labels=torch.tensor([0]), masks=mask)
    return Sample(id="a", image_id="a", seed=derive(seed, "test"), images=[image], objects=objects)


DETR = Augment(
    hflip=True, sized_crop=SizedCrop(sizes=(50, 70), sides=(40, 64)), sizes=(48, 56, 64), longest=80, min_kept=0
)
JITTER = Augment(hflip=True, fit=(64, 64), scale=(0.1, 2.0), scale_draw="even", crop=(64, 64), fill=0.0, min_kept=0)


@pytest.mark.parametrize("augment", [DETR, JITTER], ids=["detr", "jitter"])
def test_image_boxes_and_soft_masks_move_together(augment: Augment) -> None:
    seen = 0
    for seed in range(60):
        sample = augment(blob(seed))
        if not len(sample.objects):
            continue
        seen += 1
        mask, image = sample.objects.masks[0], sample.images[0][0] / 255
        assert mask.shape == image.shape
        # The image is brought down smoothly, the mask is not: edges may differ, and areas may not.
        assert (mask - image).abs().mean() < 0.02
        x0, y0, x1, y1 = sample.objects.boxes_xyxy[0].tolist()
        assert float(image.sum()) == pytest.approx((x1 - x0) * (y1 - y0), rel=0.02, abs=1.0)
        rows, columns = slice(max(0, int(y0) - 1), math.ceil(y1) + 1), slice(max(0, int(x0) - 1), math.ceil(x1) + 1)
        assert float(image[rows, columns].sum()) >= 0.98 * float(image.sum()) - 1
    assert seen > 40


def test_detr_draws_both_ways_equally_often_and_every_size() -> None:
    shapes = [tuple(DETR(blob(seed)).images[0].shape[1:]) for seed in range(200)]
    whole = {sized_hw((60, 90), ShortSide(short=short, longest=80)) for short in (48, 56, 64)}
    assert whole <= set(shapes)
    assert 0.35 < sum(shape in whole for shape in shapes) / len(shapes) < 0.65
    assert all(max(shape) <= 80 for shape in shapes)


def test_scales_of_jitter_are_even() -> None:
    found = [JITTER(blob(seed, (64, 64))).objects.boxes_xyxy for seed in range(300)]
    small = sum(len(boxes) > 0 and float(boxes[0, 3] - boxes[0, 1]) < 24 * 0.575 for boxes in found)
    assert 0.2 < small / 300 < 0.4  # a quarter of the factors are below 0.575, and some of the larger cut the object


@pytest.mark.parametrize("shape", [(40, 40), (33, 57)])
def test_soft_masks_are_the_mean_of_the_fine_ones_where_edges_are_straight(shape: tuple[int, int]) -> None:
    square = [[4.5, 3.25, 20.5, 3.25, 20.5, 18.75, 4.5, 18.75]]
    soft = shares(square, (0, 0, shape[1], shape[0]))
    assert set(soft.flatten().tolist()) <= {0, 0.25, 0.5, 0.75, 1}
    assert soft.sum() == pytest.approx(16 * 15.5, rel=0.05)
    window = shares(square, (5, 2, 17, 14))
    assert (window == soft[2:14, 5:17]).all()
    runs = {"size": [4, 4], "counts": [5, 2, 9]}
    assert (shares(runs, (0, 0, 4, 4)) == rasterise(runs, (0, 0, 4, 4))).all()


def test_a_soft_mask_turns_smoothly() -> None:
    before = blob(0)
    after = rotate(before, 0.3)
    assert after.objects.masks.dtype == torch.float32
    assert float(after.objects.masks.sum()) == pytest.approx(float(before.objects.masks.sum()), rel=0.01)
    hard = dataclasses.replace(before, objects=dataclasses.replace(before.objects, masks=before.objects.masks > 0.5))
    assert rotate(hard, 0.3).objects.masks.dtype == torch.bool


def test_any_of_a_box_is_enough_where_nothing_more_is_asked() -> None:
    sample = blob(0)
    empty = dataclasses.replace(sample.objects, masks=torch.zeros_like(sample.objects.masks))
    sample = dataclasses.replace(sample, objects=empty)
    window = (64, 40, 90, 60)
    assert len(crop(sample, window).objects) == 0
    kept = crop(sample, window, min_kept=0).objects
    assert kept.boxes_xyxy.tolist() == [[0, 0, 2, 4]]
    assert not len(crop(sample, (67, 45, 90, 60), min_kept=0).objects)

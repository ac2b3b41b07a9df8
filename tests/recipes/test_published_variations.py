"""Every published augmentation of MTP's fine-tuning moves pixels and labels as one thing.

The evidence is in the pictures themselves: objects are drawn bright on dark (of a pair, dark on bright in the second),
so that after any move the bright pixels say where the object is, whatever boxes, quads and label maps say. Where these
have slipped, the middles of an object in the one and in the other differ, or its edges by more than an interpolation.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from scipy import ndimage
from torch import Tensor

from vistruct.contracts import IGNORED, Objects, Sample
from vistruct.ops.oriented import cxcywha_to_quads
from vistruct.recipes import find
from vistruct.transforms.augment import Augment
from vistruct.transforms.points import hulls
from vistruct.transforms.sizing import sized

BRIGHT, DARK = 250, 20  # grey, so that hue and saturation leave them alone; apart in every change of brightness
ORIENTED = ("mtp.dior_r", "mtp.fair1m_v2", "mtp.dota_v1", "mtp.dota_v2")
UPRIGHT = ("mtp.dior", "mtp.xview")
PIXELS = ("mtp.spacenet_v1", "mtp.loveda")
PAIRS = ("mtp.oscd", "mtp.whu_cd", "mtp.levir_cd", "mtp.svcd")


def filled(quads: Tensor, size_hw: tuple[int, int]) -> np.ndarray:
    """bool[H, W], the pixels whose centres lie in any of the quads; by shapely."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]] + 0.5
    return np.any([shapely.contains_xy(shapely.Polygon(q.double().numpy()), x, y) for q in quads], axis=0)


def drawn(seed: int, size_hw: tuple[int, int], *, turned: bool, labels: tuple[int, ...] = (0, 1, 2)) -> Sample:
    """Rectangles of a few dozen pixels that neither touch each other nor the border, as pixels, quads and classes."""
    rng = np.random.default_rng(seed)
    height, width = size_hw
    boxes = []
    for k in range(len(labels)):  # one for each column of the picture
        w, h = rng.uniform(0.55, 0.85, 2) * min(width / len(labels), height) * 0.6
        reach = math.hypot(w, h) / 2 + 5
        across = (k * width / len(labels) + reach, (k + 1) * width / len(labels) - reach)
        cx, cy = rng.uniform(*sorted(across)), rng.uniform(reach, height - reach)
        boxes.append([cx, cy, w, h, rng.uniform(-1.5, 1.5) if turned else 0.0])
    quads = cxcywha_to_quads(torch.tensor(boxes))
    if not turned:
        quads = quads.round()  # edges of pixels: the picture is then exact
    paint = torch.from_numpy(filled(quads, size_hw))
    label_map = torch.zeros(size_hw, dtype=torch.int16)
    for k, quad in enumerate(quads):
        label_map[torch.from_numpy(filled(quad[None], size_hw))] = 1 + k % 2
    image = torch.where(paint, BRIGHT, DARK).to(torch.uint8).expand(3, *size_hw).clone()
    objects = Objects(boxes_xyxy=hulls(quads), labels=torch.tensor(labels), quads=quads if turned else None)
    return Sample(id="a", image_id="a", seed=seed, images=[image], objects=objects, label_map=label_map)


def bright(image: Tensor, counted: np.ndarray) -> np.ndarray:
    """bool[H, W], of the two tones that are in the picture the brighter one; what turned into view is neither."""
    grey = image.float().mean(dim=0).numpy()
    low, high = grey[counted].min(), grey[counted].max()
    return grey > (low + high) / 2 if high - low > 40 else np.zeros_like(counted)


def assert_one_place(paint: np.ndarray, said: np.ndarray, where: str, *, blur: int = 2) -> None:
    """Both are the same areas, to the blur of interpolations, and the middles of each less than half a pixel apart.

    Args:
        blur: pixels. 0: the very same. 1: edges along the axes, of which the whole is a pixel off or none, so that the
            middle of two is up to half a pixel off.
    """
    if blur == 0:
        assert np.array_equal(paint, said), where
        return
    around = np.ones((3, 3), bool)
    assert not (ndimage.binary_erosion(paint, around, iterations=blur) & ~said).any(), where
    assert not (ndimage.binary_erosion(said, around, iterations=blur) & ~paint).any(), where
    areas, number = ndimage.label(said)
    for k in range(1, number + 1):
        near = ndimage.binary_dilation(areas == k, iterations=3)
        if (areas == k).sum() > 100:
            apart = np.subtract(ndimage.center_of_mass(paint & near), ndimage.center_of_mass(said & near))
            assert np.abs(apart).max() < (0.6 if blur == 1 else 0.4), (where, apart)


def varied(name: str, before: Sample, size: int | None = None) -> Sample:
    """As a step sees it: brought to its size, then varied."""
    recipe, options = find(name).recipe, {} if size is None else {"size": size}
    data: Any = recipe(data=Path("data"), **options).only.data
    assert isinstance(data.augment, Augment)
    return data.augment(sized(before, data.resize))


def counted_in(sample: Sample) -> np.ndarray:
    assert sample.label_map is not None
    return sample.label_map.numpy() != IGNORED


def assert_labels_are_the_paint(after: Sample, name: str, blur: int) -> None:
    assert after.label_map is not None
    counted, said = counted_in(after), (after.label_map > 0).numpy()
    assert_one_place(bright(after.images[0], counted) & counted, said, name, blur=blur)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ORIENTED)
def test_oriented_boxes_and_label_maps_stay_on_the_paint(name: str, seed: int) -> None:
    wide = (192, 256) if name == "mtp.dota_v1" else (96, 128)
    after = varied(name, drawn(seed, wide, turned=True), size=128)
    assert_labels_are_the_paint(after, name, blur=2)
    size_hw = (after.images[0].shape[1], after.images[0].shape[2])
    paint = bright(after.images[0], counted_in(after))
    for quad in after.objects.quads:
        inside = filled(quad[None], size_hw)
        near = ndimage.binary_dilation(inside, iterations=3) & counted_in(after)
        assert_one_place(paint & near, inside & near, f"{name}: {quad.tolist()}")


@pytest.mark.parametrize("label", [9, 11])
def test_dotas_round_classes_are_turned_by_quarters(label: int) -> None:
    for seed in range(20):
        before = drawn(seed, (192, 256), turned=False, labels=(label, 1, 2))
        before = dataclasses.replace(before, objects=dataclasses.replace(before.objects, quads=before.objects.outlines))
        after = varied("mtp.dota_v1", before, size=128)
        for quad in after.objects.quads:
            assert (quad[1] - quad[0]).abs().min() < 1e-3
        assert_labels_are_the_paint(after, "mtp.dota_v1", blur=1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", UPRIGHT)
def test_upright_boxes_are_their_pixels_exactly(name: str, seed: int) -> None:
    after = varied(name, drawn(seed, (128, 128), turned=False), size=128)
    assert_labels_are_the_paint(after, name, blur=0)
    boxes = after.objects
    assert torch.equal(hulls(boxes.outlines), boxes.boxes_xyxy)
    assert np.array_equal(filled(boxes.outlines, (128, 128)), bright(after.images[0], counted_in(after)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size_hw", [(60, 100), (128, 128), (150, 90)])
def test_diors_images_of_another_size_keep_their_boxes(size_hw: tuple[int, int], seed: int) -> None:
    after = varied("mtp.dior", drawn(seed, size_hw, turned=False), size=128)
    assert max(after.images[0].shape[1:]) == 128
    size = (after.images[0].shape[1], after.images[0].shape[2])
    assert_one_place(bright(after.images[0], counted_in(after)), filled(after.objects.outlines, size), "mtp.dior")


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", PIXELS)
def test_classes_of_pixels_stay_on_the_paint(name: str, seed: int) -> None:
    after = varied(name, drawn(seed, (140, 110), turned=True), size=96)
    assert after.images[0].shape == (3, 96, 96)
    assert_labels_are_the_paint(after, name, blur=2)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", PAIRS)
def test_both_images_of_a_pair_and_what_changed_stay_one_place(name: str, seed: int) -> None:
    size = None if name == "mtp.oscd" else 128
    side = 96 if name == "mtp.oscd" else 128  # the model is shown OSCD's pieces of 96 at 224
    before = drawn(seed, (side, side), turned=True)
    before = dataclasses.replace(before, images=[before.images[0], BRIGHT + DARK - before.images[0]])
    after = varied(name, before, size=size)
    shown = 224 if name == "mtp.oscd" else 128
    assert all(image.shape == (3, shown, shown) for image in after.images)
    assert after.label_map is not None
    counted, said = counted_in(after), (after.label_map > 0).numpy()
    first, second = (bright(image, counted) for image in after.images)
    assert_one_place(first & counted, ~second & counted, f"{name}: before and after", blur=2)
    is_exchanged = bool((first & counted & ~said).sum() > (first & said).sum())
    assert_one_place((second if is_exchanged else first) & counted, said, name, blur=2)


def test_pairs_are_rotated_mirrored_or_neither_and_exchanged_half_of_the_time() -> None:
    ways, swaps = [], 0
    for seed in range(200):
        before = drawn(3, (48, 48), turned=False)
        before = dataclasses.replace(before, seed=seed, images=[before.images[0], BRIGHT + DARK - before.images[0]])
        after = varied("mtp.svcd", before, size=48)
        counted = counted_in(after)
        said = (after.label_map > 0).numpy()  # ty: ignore[unsupported-operator]
        swaps += (bright(after.images[0], counted) & said).sum() < said.sum() / 2
        same = np.array_equal(after.label_map, before.label_map)
        ways.append("rotated" if not counted.all() else "as it was" if same else "mirrored")
    assert 80 < ways.count("rotated") < 120
    assert 30 < ways.count("mirrored") < 70
    assert 30 < ways.count("as it was") < 70
    assert 75 < swaps < 125


@pytest.mark.parametrize("name", [*ORIENTED, *PIXELS, "mtp.whu_cd"])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_slip_of_one_pixel_would_be_found(name: str, axis: int) -> None:
    before = drawn(1, (128, 128), turned=True)
    if name in PAIRS:
        before = dataclasses.replace(before, images=before.images * 2)
    after = varied(name, before, size=128)
    slipped = torch.roll(after.label_map, 1, dims=axis)  # ty: ignore[invalid-argument-type]
    with pytest.raises(AssertionError):
        assert_labels_are_the_paint(dataclasses.replace(after, label_map=slipped), name, blur=2)

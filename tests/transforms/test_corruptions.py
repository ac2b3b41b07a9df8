"""Twelve corruptions: each against a formula or another library, more of it at every severity, truth moved along."""

from __future__ import annotations

import dataclasses
import io
import math
import pickle

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tables import with_objects
from torch import Tensor

from vistruct.contracts import IGNORED, Sample
from vistruct.errors import UserError
from vistruct.files.images import read_image
from vistruct.samples import trees
from vistruct.transforms.corruptions import CORRUPTIONS, SEVERITIES, check, corrupt
from vistruct.transforms.fill import MEAN_COLOUR

LOOKS = [name for name, one in CORRUPTIONS.items() if not one.moves]
MOVES = [name for name, one in CORRUPTIONS.items() if one.moves]


@pytest.fixture(scope="module")
def scene() -> Tensor:
    return read_image(trees().test.with_suffix(".jpg"), (300, 300, 500, 460))


def sample(*images: Tensor, seed: int = 0, **fields: object) -> Sample:
    return Sample(id="a", image_id="a", seed=seed, images=list(images), **with_objects(fields))


def damaged(image: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    return corrupt(sample(image, seed=seed), name, severity).images[0]


def psnr(a: Tensor, b: Tensor) -> float:
    error = float((a.double() - b.double()).square().mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def pixels(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def test_they_are_the_twelve_of_the_benchmark() -> None:
    assert len(CORRUPTIONS) == 12
    assert MOVES == ["rotation", "scale", "translation"]
    assert all(len(one.levels) == len(SEVERITIES) for one in CORRUPTIONS.values())


@pytest.mark.parametrize("name", LOOKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_damage_grows_with_severity(scene: Tensor, name: str, seed: int) -> None:
    quality = [psnr(damaged(scene, name, severity, seed), scene) for severity in SEVERITIES]
    assert quality == sorted(quality, reverse=True)
    assert len(set(quality)) == 5
    assert quality[1] < 30
    assert quality[-1] > 5


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(
    ("channels", "size_hw"), [(3, (40, 56)), (1, (40, 56)), (5, (7, 30)), (3, (1, 1)), (2, (1, 9))]
)
def test_any_channels_and_any_size_stay_as_they_are(name: str, channels: int, size_hw: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (channels, *size_hw), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    kept = image.clone()
    for severity in SEVERITIES:
        labels = torch.zeros(size_hw, dtype=torch.int16)
        after = corrupt(sample(image, label_map=labels), name, severity)
        assert after.images[0].shape == image.shape
        assert after.images[0].dtype == torch.uint8
        assert after.label_map.shape == size_hw
    assert torch.equal(image, kept)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_damage_is_a_function_of_the_seed(scene: Tensor, name: str) -> None:
    part = scene[:, :64, :64]
    first = damaged(part, name, 3, seed=8)
    torch.rand(7)
    assert torch.equal(first, damaged(part, name, 3, seed=8))
    is_random = name in ("cloud", "data_gaps", "gaussian_noise", "salt_and_pepper", "translation")
    assert (len({damaged(part, name, 3, seed=seed).sum().item() for seed in range(8)}) > 1) == is_random


@pytest.mark.parametrize(("name", "differs"), [("gaussian_noise", True), ("cloud", True), ("rotation", False)])
def test_a_pair_is_damaged_each_by_itself_and_moved_alike(scene: Tensor, name: str, differs: bool) -> None:
    one, other = corrupt(sample(scene, scene), name, 2).images
    assert torch.equal(one, other) != differs


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blurs_are_opencvs(scene: Tensor, severity: int) -> None:
    kernel = CORRUPTIONS["gaussian_blur"].levels[severity - 1]
    expected = cv2.GaussianBlur(pixels(scene).astype(np.float32), (kernel, kernel), 0)
    error = np.abs(pixels(damaged(scene, "gaussian_blur", severity)) - expected)
    assert error.mean() < 1.5  # OpenCV has whole-number kernels up to 7 pixels
    assert error.mean() < 0.3 or kernel <= 7
    length = CORRUPTIONS["motion_blur"].levels[severity - 1]
    expected = cv2.filter2D(pixels(scene).astype(np.float32), -1, np.full((1, length), 1 / length, np.float32))
    assert np.abs(pixels(damaged(scene, "motion_blur", severity)) - expected).max() <= 0.51


@pytest.mark.parametrize("severity", SEVERITIES)
def test_haze_and_brightness_are_their_formulas(scene: Tensor, severity: int) -> None:
    white = CORRUPTIONS["haze"].levels[severity - 1]
    expected = scene.double() * (1 - white) + 255 * white
    assert (damaged(scene, "haze", severity) - expected).abs().max() <= 0.501
    plus, times = CORRUPTIONS["brightness_contrast"].levels[severity - 1]
    expected = (scene.double() * times + 255 * plus).clamp(0, 255)
    assert (damaged(scene, "brightness_contrast", severity) - expected).abs().max() <= 0.501


def test_compression_is_pillows_at_its_quality_and_of_bands_one_by_one(scene: Tensor) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels(scene)).save(buffer, "JPEG", quality=20)
    expected = np.asarray(Image.open(buffer)).astype(int)
    assert np.abs(pixels(damaged(scene, "compression", 3)).astype(int) - expected).max() <= 2
    bands = torch.stack([scene[0], scene[1], scene[2], scene[0]])
    after = damaged(bands, "compression", 3)
    assert torch.equal(after[0], after[3])
    assert 20 < psnr(after, bands) < 35


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_its_deviation_and_speckles_their_share(severity: int) -> None:
    grey = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    wanted = CORRUPTIONS["gaussian_noise"].levels[severity - 1]
    error = damaged(grey, "gaussian_noise", severity).double() - 128
    assert float(error.std()) / 255 == pytest.approx(wanted, rel=0.02)
    assert abs(float(error.mean())) < 0.5
    speckled = damaged(grey, "salt_and_pepper", severity)
    hit = (speckled != 128).any(dim=0)
    assert float(hit.double().mean()) == pytest.approx(CORRUPTIONS["salt_and_pepper"].levels[severity - 1], rel=0.15)
    values = speckled[:, hit]
    assert set(values.unique().tolist()) == {0, 255}
    assert torch.equal(values[0], values[2])
    assert 0.4 < float((values[0] == 255).double().mean()) < 0.6


def test_clouds_cover_their_share_and_grow() -> None:
    black = torch.zeros(3, 300, 400, dtype=torch.uint8)
    before = torch.zeros(300, 400, dtype=torch.bool)
    for severity in SEVERITIES:
        after = damaged(black, "cloud", severity, seed=5)
        assert after.max() in (229, 230)  # 0.9 of white is halfway between
        is_cloud = after[0] > 115
        assert float(is_cloud.double().mean()) == pytest.approx(CORRUPTIONS["cloud"].levels[severity - 1], abs=0.012)
        assert (before & ~is_cloud).double().mean() < 1e-3
        before = is_cloud
    assert float((is_cloud[:, 1:] != is_cloud[:, :-1]).double().mean()) < 0.02  # clouds, and no noise


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaps_are_stripes_of_their_width(severity: int) -> None:
    stripes, wide = CORRUPTIONS["data_gaps"].levels[severity - 1]
    white = torch.full((3, 300, 400), 255, dtype=torch.uint8)
    shares = []
    for seed in range(20):
        lost = damaged(white, "data_gaps", severity, seed)[0] == 0
        shares.append(float(lost.double().mean()))
        inside = np.pad(lost.numpy().astype(np.uint8), 1)  # a stripe ends where the picture does
        reach = cv2.distanceTransform(inside, cv2.DIST_L2, 5).max()  # from the middle of a stripe
        assert wide / 2 - 1 < reach < wide / 2 + 1.2
    assert float(np.mean(shares)) == pytest.approx(wide / (500 / stripes), rel=0.15)


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_labels_boxes_and_masks_stay_on_their_paint(name: str, severity: int) -> None:
    paint = torch.zeros(3, 160, 200, dtype=torch.uint8)
    paint[:, 60:100, 70:140] = 255
    box = torch.tensor([[70.0, 60, 140, 100]])
    corners = torch.tensor([[[70.0, 60], [140, 60], [140, 100], [70, 100]]])
    before = sample(
        paint,
        boxes_xyxy=box,
        labels=torch.tensor([4]),
        quads=corners,
        masks=(paint[:1] > 0),
        label_map=(paint[0] > 0).to(torch.int16),
    )
    after = corrupt(before, name, severity)
    seen = after.images[0][0] > 190  # above the mean colour
    for said in (after.label_map == 1, after.objects.masks[0]):
        assert float((seen & said).sum() / (seen | said).sum()) > 0.93
    rows, columns = seen.nonzero(as_tuple=True)
    hull = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    inside = after.objects.boxes_xyxy[0].clamp(min=0).minimum(torch.tensor([200.0, 160, 200, 160]))
    assert (inside - hull).abs().max() <= 2
    corner = after.images[0] == torch.tensor(MEAN_COLOUR)[:, None, None]
    assert (after.label_map[corner.all(dim=0)] == IGNORED).all()
    assert ((after.label_map == IGNORED).any()) | (name == "rotation" and severity == 5)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_each_move_is_as_far_as_its_level_says(scene: Tensor, severity: int) -> None:
    kept = {
        name: float(
            (corrupt(sample(scene, label_map=torch.zeros(160, 200, dtype=torch.int16)), name, severity).label_map == 0)
            .double()
            .mean()
        )
        for name in MOVES
    }
    factor, shift = (CORRUPTIONS[name].levels[severity - 1] for name in ("scale", "translation"))
    assert kept["scale"] == int(160 * factor) * int(200 * factor) / 32_000
    assert kept["translation"] == (160 - shift) * (200 - shift) / 32_000
    turned = math.radians(CORRUPTIONS["rotation"].levels[severity - 1])
    corners = np.array([[-100, -80], [100, -80], [100, 80], [-100, 80]], np.float32)
    matrix = np.array([[math.cos(turned), -math.sin(turned)], [math.sin(turned), math.cos(turned)]], np.float32)
    area, _ = cv2.intersectConvexConvex(corners, (corners @ matrix).astype(np.float32))
    assert kept["rotation"] == pytest.approx(area / 32_000, abs=0.01)


def test_rotation_is_anticlockwise_and_translation_goes_four_ways(scene: Tensor) -> None:
    square = scene[:, :100, :100]
    assert (damaged(square, "rotation", 5).int() - torch.rot90(square, 1, (1, 2)).int()).abs().max() <= 1
    ways = {corrupt(sample(square, seed=seed), "translation", 1).origin_xy for seed in range(30)}
    assert ways == {(x, y) for x in (-15.0, 15.0) for y in (-15.0, 15.0)}


def test_what_is_moved_but_not_turned_maps_back_to_the_whole_image(scene: Tensor) -> None:
    box = torch.tensor([[80.0, 70, 120, 90]])
    for name in ("scale", "translation"):
        before = sample(scene, boxes_xyxy=box, labels=torch.tensor([0]), origin_xy=(40.0, 10.0))
        after = corrupt(before, name, 3)
        back = after.objects.boxes_xyxy / torch.tensor(after.scale_xy).repeat(2) + torch.tensor(after.origin_xy).repeat(
            2
        )
        torch.testing.assert_close(back, box + torch.tensor([40.0, 10]).repeat(2))
    assert math.isnan(corrupt(sample(scene), "rotation", 1).origin_xy[0])


def test_a_sample_without_images_passes_and_answers_stay() -> None:
    for name in CORRUPTIONS:
        assert corrupt(dataclasses.replace(sample(), max_tiles=3), name, 1).max_tiles == 3


def test_corruptions_travel_to_workers() -> None:
    assert pickle.loads(pickle.dumps(CORRUPTIONS)).keys() == CORRUPTIONS.keys()


@pytest.mark.parametrize(("name", "severity"), [("clouds", 1), ("cloud", 0), ("haze", 6)])
def test_unknown_names_and_severities_are_errors(name: str, severity: int) -> None:
    for ask in (lambda: check(name, severity), lambda: corrupt(sample(), name, severity)):
        with pytest.raises(UserError):
            ask()

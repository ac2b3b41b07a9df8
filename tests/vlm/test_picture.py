"""Where an image lies in its picture: there and back, and how much of each cell a region covers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file

from vistruct.contracts import Objects, Region
from vistruct.errors import UserError
from vistruct.vlm.picture import POINT_RADIUS, Frame, coverage, places, published_rasters, shown
from vistruct.vlm.tiling import Tiling, in_square, normalise, tile

FOLDER = GOLDEN / "vtplug_geometry"
CASES = json.loads((FOLDER / "cases.json").read_text())
SIDE = CASES["image_size"]
FITS = ["stretch", "pad"]


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "tensors.safetensors")


def framed(number: int) -> Frame:
    case = CASES["cases"][number]
    return Frame(size_hw=(case["height"], case["width"]), fit="pad")


def objects(size_hw: tuple[int, int]) -> Objects[torch.Tensor]:
    """A box with its mask and two key points, one of them not annotated."""
    mask = torch.zeros(1, *size_hw, dtype=torch.bool)
    mask[0, 10:20, 4:16] = True
    return Objects(
        labels=torch.zeros(1, dtype=torch.int64),
        boxes_xyxy=torch.tensor([[4.0, 10.0, 16.0, 20.0]]),
        keypoints=torch.tensor([[[5.0, 12.0, 2.0], [0.0, 0.0, 0.0]]]),
        masks=mask,
    )


@pytest.mark.parametrize("number", range(3))
def test_boxes_points_and_keypoints_are_where_the_original_puts_them(number: int) -> None:
    case, frame = CASES["cases"][number], framed(number)
    raw, expected = case["raw"], case["normalised"]
    moved = frame.into(
        Objects(
            labels=torch.zeros(len(raw["boxes"]), dtype=torch.int64),
            boxes_xyxy=torch.tensor(raw["boxes"], dtype=torch.float32),
        ),
        1,
    )
    # The original rounds to three decimals.
    torch.testing.assert_close(moved.boxes_xyxy, torch.tensor(expected["boxes"]), atol=5.1e-4, rtol=0)
    places = torch.tensor(raw["points"], dtype=torch.float64) @ frame.matrix()[:, :2].T + frame.matrix()[:, 2]
    torch.testing.assert_close(places, torch.tensor(expected["points"], dtype=torch.float64))
    keypoints = torch.tensor(raw["keypoints"], dtype=torch.float64)[..., :2]
    places = keypoints @ frame.matrix()[:, :2].T + frame.matrix()[:, 2]
    torch.testing.assert_close(places, torch.tensor(expected["keypoints"], dtype=torch.float64)[..., :2])


@pytest.mark.parametrize("number", range(3))
def test_published_rasters_are_those_of_the_original(number: int, tensors: dict[str, torch.Tensor]) -> None:
    raw, frame = CASES["cases"][number]["raw"], framed(number)
    masks = [mask.numpy() > 0 for mask in tensors[f"{number}.raw.masks"]]
    regions = [Region(kind="box", xy=((b[0], b[1]), (b[2], b[3]))) for b in raw["boxes"]]
    regions += [Region(kind="point", xy=((x, y),)) for x, y in raw["points"]]
    regions += [Region(kind=kind, mask=mask) for kind, mask in zip(("mask", "scribble"), masks, strict=True)]
    drawn = published_rasters(regions, frame, SIDE)
    assert torch.equal(drawn, tensors[f"{number}.prompt_masks"].float())
    assert torch.equal(drawn[4:], tensors[f"{number}.target.masks"].float())
    # Ours follow the same masks, pixel by pixel but for their edges.
    ours = frame.covered(torch.from_numpy(np.stack(masks)), (SIDE, SIDE))
    clear = (ours == 0) | (ours == 1)
    assert clear.float().mean() > 0.9
    assert torch.equal(ours[clear], drawn[4:][clear])


def test_a_stroke_that_is_no_mask_is_as_wide_as_the_published_ones() -> None:
    line = Region(kind="scribble", xy=((10.0, 42.0), (74.0, 42.0)))
    drawn = published_rasters([line], Frame(size_hw=(84, 84)), 84)[0]
    assert drawn.any(1).sum() == 10
    assert drawn.any(0).sum() in (64, 65)


@pytest.mark.parametrize("number", range(3))
def test_an_image_in_its_square_is_that_of_the_original(number: int, tensors: dict[str, torch.Tensor]) -> None:
    mean, std = (torch.tensor(CASES[f"image_{name}"]).view(3, 1, 1) for name in ("mean", "std"))
    fill = tuple(int(255 * value) for value in CASES["image_mean"])
    image = tensors[f"{number}.image"].permute(2, 0, 1)
    assert torch.equal(in_square(image, fill).permute(1, 2, 0), tensors[f"{number}.square"])
    tiling = Tiling(size=SIDE, max_tiles=1, fit="pad", fill=fill)
    pixels = normalise(tile(image, tiling), mean, std)[0]
    off = (pixels - tensors[f"{number}.pixel_values"]).abs() * std * 255
    assert off.max() < 1.01  # torchvision's resizing beside Pillow's: a grey level
    assert (off < 0.01).float().mean() > 0.98


def test_padding_has_one_tile() -> None:
    with pytest.raises(ValueError, match="set max_tiles: 1"):
        Tiling(fit="pad")
    image = torch.zeros(3, 40, 200, dtype=torch.uint8)
    assert len(tile(image, Tiling(size=20, max_tiles=1, fit="pad"), max_tiles=6)) == 1  # whatever a record asks for


@pytest.mark.parametrize("number", range(3))
def test_what_of_the_picture_is_image(number: int, tensors: dict[str, torch.Tensor]) -> None:
    padding = shown([framed(number)], SIDE).padding((SIDE, SIDE))[0]
    assert torch.equal(~padding, tensors[f"{number}.pixel_mask"])


@pytest.mark.parametrize("number", range(3))
def test_masks_come_back_as_the_original_brings_them(number: int, tensors: dict[str, torch.Tensor]) -> None:
    frame = framed(number)
    for threshold in (0.4, 0.5):
        expected = tensors[f"{number}.pred_masks_original_{threshold}"]
        assert torch.equal(frame.masks_back(tensors[f"{number}.pred_masks"], threshold), expected)


@pytest.mark.parametrize("number", range(3))
def test_boxes_come_back_in_pixels_whatever_the_image(number: int) -> None:
    """Of a square image the original's stay parts of the picture; ours are pixels, and inside of the image."""
    post, frame = CASES["cases"][number]["post"], framed(number)
    high, wide = frame.size_hw
    centre, size = torch.tensor(post["cxcywh"]).split(2, dim=1)
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    back = frame.back(Objects(labels=torch.zeros(len(boxes), dtype=torch.int64), boxes_xyxy=boxes), 1).boxes_xyxy
    expected = torch.tensor(post["denorm_box_xywh_square2origin"]) * (wide if wide == high else 1)
    limits = torch.tensor([wide, high, wide, high]).float()
    expected = torch.minimum(expected.clamp(min=0), limits)
    torch.testing.assert_close(back, expected, atol=5.1e-4 * max(high, wide), rtol=0)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size_hw", [(40, 64), (33, 20), (48, 48)])
def test_into_the_picture_and_back_is_the_identity(fit: str, size_hw: tuple[int, int]) -> None:
    frame = Frame(size_hw=size_hw, fit=fit)
    there = frame.into(objects(size_hw), 96)
    back = frame.back(
        Objects(labels=there.labels, boxes_xyxy=there.boxes_xyxy, keypoints=there.keypoints, masks=there.masks.float()),
        96,
    )
    start = objects(size_hw)
    torch.testing.assert_close(back.boxes_xyxy, start.boxes_xyxy, atol=1e-4, rtol=0)
    torch.testing.assert_close(back.keypoints, start.keypoints, atol=1e-4, rtol=0)
    both = (back.masks & start.masks).sum() / (back.masks | start.masks).sum()
    assert both > 0.85
    assert there.masks.dtype == torch.bool


def test_the_mask_of_a_tiny_object_keeps_a_pixel() -> None:
    mask = torch.zeros(2, 500, 900, dtype=torch.bool)
    mask[0, 7, 11] = True
    tiny = Objects(labels=torch.zeros(2, dtype=torch.int64), masks=mask)
    there = Frame(size_hw=(500, 900), fit="pad").into(tiny, 24).masks
    assert there[0].sum() == 1
    assert there[1].sum() == 0


def test_a_depth_is_no_darker_at_the_edge_of_the_image() -> None:
    depth = torch.full((1, 10, 30), 0.75)
    there = Frame(size_hw=(10, 30), fit="pad").into(Objects(labels=torch.zeros(1, dtype=torch.int64), masks=depth), 8)
    values = there.masks[0]
    assert torch.allclose(values[values > 0], torch.tensor(0.75), atol=1e-5)
    assert (values == 0).any()  # the padding


def test_where_a_depth_is_not_known_nothing_is_made_of_it() -> None:
    depth = torch.full((1, 8, 8), torch.nan)
    depth[0, 0, 0], depth[0, 4:, 4:] = 0.5, 0.25
    there = Frame(size_hw=(8, 8), fit="pad").into(Objects(labels=torch.zeros(1, dtype=torch.int64), masks=depth), 4)
    expected = torch.zeros(4, 4)
    expected[0, 0], expected[2:, 2:] = 0.5, 0.25
    assert torch.allclose(there.masks[0], expected)


@pytest.mark.parametrize("fit", FITS)
def test_coverage_is_the_area_of_what_is_shown(fit: str) -> None:
    frame = Frame(size_hw=(90, 120), fit=fit)
    scale = frame.matrix()[[0, 1], [0, 1]].prod().item()  # of areas
    mask = np.zeros((90, 120), bool)
    mask[13:55, 20:71] = True
    regions = [Region(kind="box", xy=((71.0, 13.0), (20.0, 55.0))), Region(kind="mask", mask=mask)]
    covered = coverage(regions, frame, (7, 9))
    torch.testing.assert_close(covered[0], covered[1])
    assert covered.mean((1, 2))[0].item() == pytest.approx(42 * 51 * scale, rel=1e-5)
    point = coverage([Region(kind="point", xy=((60.0, 45.0),))], frame, (24, 24))
    assert point.mean().item() == pytest.approx(math.pi * POINT_RADIUS**2, rel=0.02)


def test_a_stroke_has_its_length_times_its_width_and_round_ends() -> None:
    frame = Frame(size_hw=(100, 100))
    line = coverage([Region(kind="scribble", xy=((20.0, 50.0), (50.0, 50.0), (80.0, 50.0)))], frame, (32, 32))
    assert line.mean().item() == pytest.approx(0.6 / 32 + math.pi / 64**2, rel=0.03)


def test_whatever_is_shown_is_seen_on_any_grid() -> None:
    """The original loses half of all prompts of 6 x 6 pixels at 336: they fall between the samples of 24 x 24."""
    frame = Frame(size_hw=(336, 336))
    rng = np.random.default_rng(0)
    lost = 0
    for x, y in rng.integers(0, 330, (40, 2)).tolist():
        region = Region(kind="box", xy=((x, y), (x + 6, y + 6)))
        covered = coverage([region], frame, (24, 24))
        assert covered.sum().item() == pytest.approx(36 / 14**2, rel=1e-5)
        raster = published_rasters([region], frame, 336)
        lost += not (torch.nn.functional.interpolate(raster[None], (24, 24), mode="bilinear") > 0).any()
    assert lost > 10
    click = Region(kind="box", xy=((10.0, 10.0), (10.0, 10.0)))
    assert coverage([click], frame, (24, 24)).sum() > 0
    edge = Region(kind="point", xy=((336.0, 0.0),))
    assert coverage([edge], frame, (24, 24)).sum() > 0


def test_a_prompt_scales_with_its_image() -> None:
    """The same picture at another resolution: the same coverage, of every kind."""
    rng = np.random.default_rng(1)
    mask = rng.random((30, 20)) > 0.6
    small = [
        Region(kind="box", xy=((3.0, 4.0), (12.0, 20.0))),
        Region(kind="point", xy=((7.0, 9.0),)),
        Region(kind="scribble", xy=((2.0, 2.0), (15.0, 25.0), (18.0, 3.0))),
        Region(kind="mask", mask=mask),
        Region(kind="scribble", mask=mask),
    ]
    large = [
        Region(
            kind=one.kind,
            xy=tuple((5 * x, 5 * y) for x, y in one.xy),
            mask=None if one.mask is None else one.mask.repeat(5, 0).repeat(5, 1),
        )
        for one in small
    ]
    for fit in FITS:
        ours = coverage(small, Frame(size_hw=(30, 20), fit=fit), (8, 8))
        theirs = coverage(large, Frame(size_hw=(150, 100), fit=fit), (8, 8))
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_nothing_of_the_image_is_refused() -> None:
    frame = Frame(size_hw=(10, 20), fit="pad")
    for region in (
        Region(kind="box", xy=((-9.0, -9.0), (-2.0, -2.0))),
        Region(kind="point", xy=((50.0, 5.0),)),
        Region(kind="mask", mask=np.zeros((10, 20), bool)),
    ):
        with pytest.raises(UserError, match="shows nothing of the image of 20 x 10"):
            coverage([region], frame, (4, 4))
    with pytest.raises(UserError, match="a mask of 10 x 20 pixels"):
        coverage([Region(kind="mask", mask=np.ones((20, 10), bool))], frame, (4, 4))
    assert coverage([], frame, (4, 4)).shape == (0, 4, 4)


def test_places_are_parts_of_the_picture() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:5, 4:8] = True
    regions = [
        Region(kind="box", xy=((8.0, 5.0), (4.0, 2.0))),
        Region(kind="mask", mask=mask),
        Region(kind="point", xy=((4.0, 2.0),)),
        Region(kind="scribble", xy=((4.0, 5.0), (8.0, 2.0), (6.0, 4.0))),
    ]
    found = places(regions, Frame(size_hw=(10, 20), fit="pad"))
    expected = torch.tensor([0.2, 0.35, 0.4, 0.5])
    for row in (0, 1, 3):
        torch.testing.assert_close(found[row], expected)
    torch.testing.assert_close(found[2], torch.tensor([0.2, 0.35, 0.2, 0.35]))
    assert places([], Frame(size_hw=(10, 20))).shape == (0, 4)

"""Boxes and ellipses as pixels, against closed formulas and COCO's own tools."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pycocotools import mask as coco

from vistruct.contracts import MaskPatch
from vistruct.data.formats.boxes.objects import turned
from vistruct.files.filled import NOTHING, filled
from vistruct.ops.mask_runs import encode_patch

WHOLE = (0, 0, 220, 200)


def corners(cx: float, cy: float, w: float, h: float, angle: float = 0.0) -> np.ndarray:
    return np.array(turned(cx, cy, w, h, angle))


def on_image(mask: MaskPatch, size_hw: tuple[int, int] = (200, 220)) -> np.ndarray:
    pixels = np.zeros(size_hw, bool)
    height, width = mask.pixels.shape
    pixels[mask.y : mask.y + height, mask.x : mask.x + width] = mask.pixels
    return pixels


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.1, -0.7, math.pi / 2])
@pytest.mark.parametrize(("w", "h"), [(120.0, 60.0), (101.5, 100.2), (150.0, 12.0)])
def test_an_ellipse_has_the_area_of_the_formula_and_the_box_of_its_own(w: float, h: float, angle: float) -> None:
    quad = corners(110.3, 99.1, w, h, angle)
    ellipse, box = filled(quad, "ellipse", WHOLE), filled(quad, "box", WHOLE)
    assert ellipse.pixels.sum() == pytest.approx(math.pi / 4 * w * h, rel=0.01)
    assert box.pixels.sum() == pytest.approx(w * h, rel=0.02)
    assert not (on_image(ellipse) & ~on_image(box)).sum() > 0.01 * w * h


def test_the_pixels_of_an_ellipse_are_those_whose_centres_are_in_it() -> None:
    cx, cy, w, h, angle = 60.4, 71.2, 57.0, 23.0, 0.8
    y, x = np.mgrid[:200, :220] + 0.5
    along = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
    across = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
    inside = (2 * along / w) ** 2 + (2 * across / h) ** 2 <= 1
    np.testing.assert_array_equal(on_image(filled(corners(cx, cy, w, h, angle), "ellipse", WHOLE)), inside)


def test_whole_pixels_are_filled_exactly_and_run_lengths_are_those_of_pycocotools() -> None:
    for how in ("box", "ellipse"):
        mask = filled(corners(50, 60, 20, 31), how, WHOLE)
        runs = encode_patch(mask.pixels, mask.x, mask.y, (200, 220))
        assert runs == coco.encode(np.asfortranarray(on_image(mask).astype(np.uint8)))
    assert filled(corners(50, 60, 20, 30), "box", WHOLE).pixels.sum() == 600


@pytest.mark.parametrize("how", ["box", "ellipse"])
def test_what_a_window_cuts_is_the_part_of_the_whole(how: str) -> None:
    quad, window = corners(100, 90, 90, 40, 0.5), (80, 60, 130, 100)
    whole = on_image(filled(quad, how, WHOLE))
    part = on_image(filled(quad, how, window))
    whole[:60], whole[100:], whole[:, :80], whole[:, 130:] = False, False, False, False
    np.testing.assert_array_equal(part, whole)


@pytest.mark.parametrize("how", ["box", "ellipse"])
def test_an_object_below_a_pixel_is_the_pixel_of_its_centre_and_one_outside_is_nothing(how: str) -> None:
    small = filled(corners(50.2, 60.9, 0.3, 0.2, 0.4), how, WHOLE)
    assert (small.x, small.y, small.pixels.tolist()) == (50, 60, [[True]])
    assert filled(corners(500, 60, 20, 20), how, WHOLE) is NOTHING
    assert filled(corners(1, 1, 1, 1, 0.0) - 40, how, WHOLE) is NOTHING

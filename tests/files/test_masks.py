"""Segmentations as pixels, against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as peer

from vistruct.files import masks
from vistruct.files.masks import rasterise

TRIANGLE = [[3.2, 4.1, 30.7, 8.0, 12.5, 25.3]]
TWO_PARTS = [[1, 1, 9, 1, 9, 9, 1, 9], [20, 20, 35, 22, 25, 28]]
HEIGHT, WIDTH = 30, 40


def truth(polygons: list[list[float]]) -> np.ndarray:
    return peer.decode(peer.merge(peer.frPyObjects(polygons, HEIGHT, WIDTH))).astype(bool)


@pytest.mark.parametrize("polygons", [TRIANGLE, TWO_PARTS])
def test_polygons_cover_the_pixels_that_pycocotools_says(polygons):
    assert (rasterise(polygons, (0, 0, WIDTH, HEIGHT)) == truth(polygons)).all()


@pytest.mark.parametrize("window", [(5, 3, 25, 20), (0, 0, 1, 1), (30, 10, 40, 30)])
@pytest.mark.parametrize("polygons", [TRIANGLE, TWO_PARTS])
def test_a_window_shows_the_same_pixels_as_the_whole_image(polygons, window):
    x0, y0, x1, y1 = window
    seen = rasterise(polygons, window)
    assert seen.shape == (y1 - y0, x1 - x0)
    assert (seen == truth(polygons)[y0:y1, x0:x1]).all()


def test_run_lengths_in_all_three_spellings_are_the_same():
    pixels = truth(TRIANGLE)
    packed = peer.encode(np.asfortranarray(pixels.astype(np.uint8)))
    flat = pixels.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    counts = [0, *counts] if flat[0] else counts
    spellings = [packed, {**packed, "counts": packed["counts"].decode()}, {"size": [HEIGHT, WIDTH], "counts": counts}]
    for spelling in spellings:
        assert (rasterise(spelling, (0, 0, WIDTH, HEIGHT)) == pixels).all()
        assert (rasterise(spelling, (4, 4, 20, 20)) == pixels[4:20, 4:20]).all()


def test_an_object_outside_the_window_has_no_pixels_there():
    assert not rasterise(TRIANGLE, (0, 26, 10, 30)).any()
    assert not rasterise([], (0, 0, 4, 4)).any()


def test_windows_of_run_lengths_are_those_of_the_whole_as_pycocotools_decodes_it() -> None:
    rng = np.random.default_rng(0)
    for number in range(60):
        height, width = rng.integers(1, 70, 2).tolist()
        whole = rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 1])
        if number % 3 == 0:
            whole[: height // 2], whole[:, : width // 3] = False, False
        packed = peer.encode(np.asfortranarray(whole.astype(np.uint8)))
        x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
        x1, y1 = int(rng.integers(x0 + 1, width + 1)), int(rng.integers(y0 + 1, height + 1))
        counts = masks.run_lengths(packed)
        assert counts.sum() == height * width
        for rle in (packed, {**packed, "counts": packed["counts"].decode()}, {**packed, "counts": counts.tolist()}):
            np.testing.assert_array_equal(masks.rasterise(rle, (x0, y0, x1, y1)), whole[y0:y1, x0:x1])
            left, top, right, bottom = masks.hull_of_runs(rle)
            assert whole[top:bottom, left:right].sum() == whole.sum()

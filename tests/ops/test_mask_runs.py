"""Run lengths against pycocotools, which encodes the whole raster."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as reference

from vistruct.ops.mask_runs import encode_patch, encode_segmentation, patch_runs, run_area


def on_image(pixels: np.ndarray, x: int, y: int, size_hw: tuple[int, int]) -> np.ndarray:
    room = 40
    image = np.zeros((size_hw[0] + 2 * room, size_hw[1] + 2 * room), np.uint8)
    image[room + y : room + y + pixels.shape[0], room + x : room + x + pixels.shape[1]] = pixels
    return np.asfortranarray(image[room : room + size_hw[0], room : room + size_hw[1]])


@pytest.mark.parametrize("seed", range(10))
def test_a_patch_is_encoded_as_its_whole_raster_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        size_hw = (int(rng.integers(1, 14)), int(rng.integers(1, 14)))
        pixels = rng.random(rng.integers(0, 16, 2)) < rng.choice([0.1, 0.5, 0.95, 1.0])
        x, y = (int(place) for place in rng.integers(-6, 14, 2))
        whole = on_image(pixels, x, y, size_hw)
        ours = encode_patch(pixels, x, y, size_hw)
        assert ours == reference.encode(whole)
        assert run_area(ours) == whole.sum()


def test_a_run_goes_on_where_one_column_ends_and_the_next_begins() -> None:
    assert patch_runs(np.ones((3, 2), bool), 1, 0, (3, 4)).tolist() == [3, 6, 3]
    assert patch_runs(np.ones((3, 4), bool), 0, 0, (3, 4)).tolist() == [0, 12]
    assert patch_runs(np.zeros((3, 4), bool), 0, 0, (3, 4)).tolist() == [12]


def test_a_patch_outside_its_image_leaves_nothing() -> None:
    assert patch_runs(np.ones((3, 3), bool), 10, -5, (4, 4)).tolist() == [16]


def test_a_small_patch_in_an_image_of_a_billion_pixels_needs_none_of_them() -> None:
    runs = encode_patch(np.ones((30, 20), bool), 30_000, 31_000, (32_000, 32_000))
    assert run_area(runs) == 600
    assert reference.toBbox([runs]).tolist() == [[30_000, 31_000, 20, 30]]


def test_polygons_and_run_lengths_of_any_form_are_read_as_pycocotools_reads_them() -> None:
    polygons = [[2.2, 3.1, 20.7, 4.0, 15.5, 18.9], [30, 5, 38, 5, 38, 12.5, 30, 12.5], []]
    expected = reference.merge(reference.frPyObjects(polygons[:2], 25, 40))
    assert encode_segmentation(polygons, (25, 40)) == expected
    assert encode_segmentation({**expected, "counts": expected["counts"].decode()}, (25, 40)) == expected
    plain = patch_runs(reference.decode(expected).astype(bool), 0, 0, (25, 40)).tolist()
    assert encode_segmentation({"size": [25, 40], "counts": plain}, (25, 40)) == expected


@pytest.mark.parametrize("wrong", [None, [], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], {"size": [2, 2], "counts": [4]}])
def test_what_is_no_mask_of_the_image_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"corners|size"):
        encode_segmentation(wrong, (25, 40))

"""Outlines of label maps, beside GDAL's own and as areas."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio.features
from shapely.geometry import Polygon, shape

from vistruct.files.outlines import outlines


def polygons(label_map: np.ndarray, rows: int = 1000) -> list[tuple[int, Polygon]]:
    strips = (label_map[y : y + rows] for y in range(0, len(label_map), rows))
    found = list(outlines(strips, label_map.shape[1]))
    for one in found:
        assert one.pixels == Polygon(one.rings[0], one.rings[1:]).area
    return [(one.value, Polygon(one.rings[0], one.rings[1:])) for one in found]


def gdals(label_map: np.ndarray) -> list[tuple[int, Polygon]]:
    shapes = rasterio.features.shapes(label_map.astype(np.int32), mask=label_map >= 0, connectivity=4)
    return [(int(value), shape(one)) for one, value in shapes]


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_regions_are_those_of_gdal(rows: int, classes: int) -> None:
    random = np.random.default_rng(classes)
    for number in range(20):
        size = random.integers(1, 30, 2)
        label_map = random.integers(-1, classes, size)
        if number % 2:  # large regions with holes in holes
            label_map = np.kron(label_map, np.ones((3, 2), int))
            label_map[random.random(label_map.shape) < 0.1] = 0
        ours, theirs = polygons(label_map, rows), gdals(label_map)
        assert len(ours) == len(theirs)
        for value in range(classes):
            mine = sorted((one for of, one in ours if of == value), key=lambda one: (*one.bounds, one.area))
            others = sorted((one for of, one in theirs if of == value), key=lambda one: (*one.bounds, one.area))
            assert all(one.equals(other) for one, other in zip(mine, others, strict=True))
        assert all(one.is_valid for _, one in ours)


def test_a_ring_in_a_ring_and_no_region_at_all() -> None:
    label_map = np.full((9, 9), 1)
    label_map[1:8, 1:8], label_map[2:7, 2:7], label_map[3:6, 3:6] = 0, 1, -1
    found = {(one.value, one.pixels): [len(ring) for ring in one.rings] for one in outlines([label_map], 9)}
    assert found == {(1, 81 - 49): [4, 4], (0, 49 - 25): [4, 4], (1, 25 - 9): [4, 4]}
    first = next(outlines([label_map], 9))
    assert first.rings[0].tolist() == [[0, 0], [9, 0], [9, 9], [0, 9]]  # clockwise on the screen
    assert not list(outlines([np.full((3, 4), -1)], 4))
    assert not list(outlines([], 4))

"""The part of a polygon inside a window, against shapely's clipping and against what is known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vistruct.ops.window_area import area_in_window, polygon_area


def stars(number: int, corners: int, generator: np.random.Generator, spread: float = 100.0) -> torch.Tensor:
    """Simple polygons, mostly not convex: corners around a middle in the order of their angles."""
    step = 2 * math.pi / corners
    angle = (np.arange(corners) + generator.uniform(0, 0.9, (number, corners))) * step
    radius = generator.uniform(2, 50, (number, corners))
    middle = generator.uniform(-spread, spread, (number, 1, 2))
    return torch.from_numpy(middle + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 9), st.sampled_from([0.0, 10_000.0]))
def test_the_area_is_that_of_the_clipped_polygon(seed: int, corners: int, away: float) -> None:
    generator = np.random.default_rng(seed)
    polygons = stars(20, corners, generator) + away
    low = generator.uniform(-60, 20, 2) + away
    high = low + generator.uniform(0.5, 120, 2)
    window = shapely.box(*low, *high)
    expected = [shapely.Polygon(polygon).intersection(window).area for polygon in polygons.numpy()]
    found = area_in_window(polygons, torch.tensor([*low, *high]))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-7, rtol=1e-9)
    whole = [shapely.Polygon(polygon).area for polygon in polygons.numpy()]
    np.testing.assert_allclose(polygon_area(polygons).numpy(), whole, atol=1e-7, rtol=1e-9)


@pytest.mark.parametrize("backwards", [False, True])
def test_boxes_on_the_windows_edges(backwards: bool) -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [10, 0, 20, 10], [5, 5, 15, 15], [-5, 2, 30, 3], [3, 3, 3, 9]]).float()
    quads = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    quads = quads.flip(1) if backwards else quads
    assert area_in_window(quads, torch.tensor([0, 0, 10, 10])).tolist() == [100, 0, 25, 10, 0]
    assert polygon_area(quads).tolist() == [100, 100, 100, 35, 0]


def test_a_needle_a_point_and_nothing_at_all() -> None:
    needle = torch.tensor([[[0.0, 0], [100, 100], [100, 100.001], [0, 0.001]]], dtype=torch.float64)
    assert area_in_window(needle, torch.tensor([0, 0, 50, 200])).item() == pytest.approx(0.05, rel=1e-9)
    assert area_in_window(torch.ones(1, 4, 2), torch.tensor([0, 0, 9, 9])).item() == 0
    assert area_in_window(torch.zeros(0, 4, 2), torch.tensor([0, 0, 9, 9])).shape == (0,)
    assert polygon_area(torch.zeros(0, 4, 2)).shape == (0,)


def test_windows_of_a_grid_share_a_polygon_out_between_them() -> None:
    polygons = stars(50, 7, np.random.default_rng(0), spread=40)
    edges = torch.arange(-100, 100, 20)
    windows = torch.stack([torch.stack([x, y, x + 20, y + 20]) for x in edges for y in edges])
    parts = area_in_window(polygons[:, None], windows[None])  # [50, 100]
    torch.testing.assert_close(parts.sum(dim=1), polygon_area(polygons), atol=1e-9, rtol=1e-9)

"""Deformable attention against a loop written from the equation and against `transformers`."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from vistruct.ops.deformable_attention import deformable_attention

SIZES = [(4, 6), (2, 3), (1, 1)]


def case(*, batch=2, queries=5, heads=3, width=4, points=2, dtype=torch.float64, reach=0.4):
    generator = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in SIZES)
    value = torch.randn(batch, cells, heads, width, generator=generator, dtype=dtype)
    locations = torch.rand(batch, queries, heads, len(SIZES), points, 2, generator=generator, dtype=dtype)
    locations = (locations - 0.5) * (1 + reach) + 0.5  # some outside
    weights = torch.randn(batch, queries, heads, len(SIZES), points, generator=generator, dtype=dtype)
    return value, locations, weights


def by_hand(value, locations, weights):
    """The equation, one sample after the other; cell (i, j) has its centre at ((j + 1/2) / w, (i + 1/2) / h)."""
    batch, _, heads, width = value.shape
    _, queries, _, levels, points, _ = locations.shape
    out = torch.zeros(batch, queries, heads, width, dtype=value.dtype)
    starts = [0]
    for h, w in SIZES:
        starts.append(starts[-1] + h * w)
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                for level in range(levels):
                    h, w = SIZES[level]
                    for p in range(points):
                        x = float(locations[b, q, m, level, p, 0]) * w - 0.5
                        y = float(locations[b, q, m, level, p, 1]) * h - 0.5
                        for i in (math.floor(y), math.floor(y) + 1):
                            for j in (math.floor(x), math.floor(x) + 1):
                                if 0 <= i < h and 0 <= j < w:
                                    share = (1 - abs(x - j)) * (1 - abs(y - i)) * weights[b, q, m, level, p]
                                    out[b, q, m] += share * value[b, starts[level] + i * w + j, m]
    return out.flatten(2)


def test_it_is_the_equation():
    value, locations, weights = case()
    assert_close(deformable_attention(value, SIZES, locations, weights), by_hand(value, locations, weights))


def test_transformers_says_the_same():
    module = pytest.importorskip("transformers.models.deformable_detr.modeling_deformable_detr")
    value, locations, weights = case(dtype=torch.float32, heads=4, width=8, points=4)
    theirs = module.MultiScaleDeformableAttention()(
        value, torch.tensor(SIZES), SIZES, torch.tensor([0, 24, 30]), locations, weights, 64
    )
    assert_close(deformable_attention(value, SIZES, locations, weights), theirs, atol=1e-5, rtol=1e-5)


def test_gradients_of_value_places_and_weights_are_those_of_the_function():
    value, locations, weights = (t.requires_grad_() for t in case(batch=1, queries=2, heads=2, width=2))
    assert torch.autograd.gradcheck(lambda v, x, w: deformable_attention(v, SIZES, x, w), (value, locations, weights))


def test_a_constant_map_gives_the_constant_times_the_weights_inside():
    value, locations, weights = case(reach=-0.9)  # near the middle of every map, but not always inside of the one cell
    value = torch.ones_like(value)
    got = deformable_attention(value[:, :24], SIZES[:1], locations[:, :, :, :1], weights[:, :, :, :1])
    assert_close(got, weights[:, :, :, 0].sum(-1).repeat_interleave(4, dim=-1))


def test_far_outside_and_without_queries_there_is_nothing():
    value, locations, weights = case()
    assert deformable_attention(value, SIZES, locations + 9, weights).abs().max() == 0
    assert deformable_attention(value, SIZES, locations[:, :0], weights[:, :0]).shape == (2, 0, 12)


def test_half_precision_values_are_read_at_exact_places():
    value, locations, weights = case(dtype=torch.float32)
    got = deformable_attention(value.bfloat16(), SIZES, locations, weights)
    assert got.dtype == torch.bfloat16
    assert_close(got.float(), deformable_attention(value, SIZES, locations, weights), atol=0.05, rtol=0.02)


def test_maps_that_do_not_make_up_the_cells_are_refused():
    value, locations, weights = case()
    with pytest.raises(ValueError, match="31 cells"):
        deformable_attention(value, SIZES[:2], locations, weights)

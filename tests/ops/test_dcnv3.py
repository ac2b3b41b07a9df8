"""Deformable convolution v3 against the original's tensors and against loops written from the equation."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from conftest import GOLDEN
from dcnv3_by_hand import by_hand
from torch.testing import assert_close

from vistruct.ops import dcnv3 as module
from vistruct.ops.dcnv3 import dcnv3

PLAIN: dict[str, Any] = {"kernel": 3, "stride": 1, "dilation": 1, "pad": 1, "offset_scale": 1.0}
SETTINGS = [
    PLAIN,
    PLAIN | {"offset_scale": 2.0},
    PLAIN | {"stride": 2},
    PLAIN | {"dilation": 2, "pad": 2, "offset_scale": 0.7},
    PLAIN | {"kernel": 5, "stride": 2, "pad": 0},
    PLAIN | {"kernel": 2, "pad": 0},
    PLAIN | {"kernel": 1, "pad": 0},
]


def case(settings, *, batch=2, size_hw=(6, 7), groups=2, width=3, spread=1.5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    points = settings["kernel"] ** 2
    reach = settings["dilation"] * (settings["kernel"] - 1)
    out_hw = [(side + 2 * settings["pad"] - reach - 1) // settings["stride"] + 1 for side in size_hw]
    value = torch.randn(batch, *size_hw, groups * width, generator=generator, dtype=dtype)
    offset = spread * torch.randn(batch, *out_hw, groups * points * 2, generator=generator, dtype=dtype)
    weights = torch.randn(batch, *out_hw, groups, points, generator=generator, dtype=dtype).softmax(-1).flatten(3)
    return value, offset, weights


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_it_gives_what_the_original_gives(golden, name):
    io = golden("internimage/dcnv3_core.safetensors")
    said = json.loads((GOLDEN / "internimage/config.json").read_text())["dcnv3_core"][name]
    settings = {key: said[key] for key in PLAIN}
    got = dcnv3(io[f"{name}.input"], io[f"{name}.offset"], io[f"{name}.mask"], **settings)
    assert_close(got, io[f"{name}.output"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_the_equation_and_its_gradients_are_those_of_the_equation(settings):
    inputs = case(settings, batch=1, size_hw=(5, 6))
    ours, theirs = ([t.clone().requires_grad_() for t in inputs] for _ in range(2))
    got, wanted = dcnv3(*ours, **settings), by_hand(*theirs, **settings)
    assert_close(got, wanted)
    along = torch.randn_like(got)
    assert_close(torch.autograd.grad(got, ours, along), torch.autograd.grad(wanted, theirs, along))


@pytest.mark.parametrize("settings", SETTINGS[1:4], ids=str)
def test_gradients_are_those_of_differences(settings):
    inputs = [t.requires_grad_() for t in case(settings, batch=1, size_hw=(3, 3), width=1)]
    assert torch.autograd.gradcheck(lambda *t: dcnv3(*t, **settings), inputs)


@pytest.mark.parametrize("sizes", [(1, 1), (42, 5), (100, 16), (10**6, 10**6)])
def test_parts_of_any_size_give_the_same(monkeypatch, sizes):
    settings = SETTINGS[1]
    inputs = [t.requires_grad_() for t in case(settings, batch=3, groups=4)]
    wanted = dcnv3(*inputs, **settings)
    along = torch.randn_like(wanted)
    gradients = torch.autograd.grad(wanted, inputs, along)
    monkeypatch.setattr(module, "_ON_CPU", sizes)
    got = dcnv3(*inputs, **settings)
    assert torch.equal(got, wanted)
    assert_close(torch.autograd.grad(got, inputs, along), gradients)


def test_it_keeps_what_it_was_given_and_nothing_else():
    inputs = [t.requires_grad_() for t in case(PLAIN)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        dcnv3(*inputs, **PLAIN)
    assert set(kept) == {t.data_ptr() for t in inputs}


def test_the_same_step_gives_the_same_bits():
    inputs = [t.requires_grad_() for t in case(PLAIN, size_hw=(20, 20), dtype=torch.float32)]
    steps = [torch.autograd.grad(dcnv3(*inputs, **PLAIN).square().sum(), inputs) for _ in range(3)]
    assert all(torch.equal(a, b) for step in steps[1:] for a, b in zip(step, steps[0], strict=True))


def test_without_offsets_and_with_one_weight_it_is_a_shift():
    """Of point 5 of 9, at x = 0 and y = 1 where x is the outer loop: the cell below."""
    value, offset, weights = case(PLAIN)
    weights = torch.zeros_like(weights).unflatten(3, (2, 9))
    weights[..., 5] = 1
    got = dcnv3(value, torch.zeros_like(offset), weights.flatten(3), **PLAIN)
    assert torch.equal(got[:, :-1], value[:, 1:])
    assert got[:, -1].abs().max() == 0


def test_far_outside_there_is_nothing_and_no_gradient():
    value, offset, weights = (t.requires_grad_() for t in case(PLAIN))
    out = dcnv3(value, offset + 1e6, weights, **PLAIN)
    assert out.abs().max() == 0
    out.sum().backward()
    for t in (value, offset, weights):
        assert t.grad is not None
        assert t.grad.abs().max() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_offset_spoils_its_place_and_reads_no_other_memory(bad):
    value, offset, weights = case(PLAIN)
    wanted = dcnv3(value, offset, weights, **PLAIN)
    offset[0, 2, 3, 0] = bad
    offset.requires_grad_()
    got = dcnv3(value, offset, weights, **PLAIN)
    got.sum().backward()
    assert bool(got[0, 2, 3, :3].isnan().all()) == math.isnan(bad)
    assert_close(got[1], wanted[1])
    assert_close(got[0, :2], wanted[0, :2])


def test_of_no_images_there_is_nothing():
    inputs = [t.requires_grad_() for t in case(PLAIN, batch=0)]
    out = dcnv3(*inputs, **PLAIN)
    assert out.shape == (0, 6, 7, 6)
    out.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype):
    inputs = [t.to(dtype).requires_grad_() for t in case(PLAIN, size_hw=(40, 40))]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    got, wanted = dcnv3(*inputs, **PLAIN), dcnv3(*exact, **PLAIN)
    assert got.dtype == dtype
    near = {"atol": 0, "rtol": torch.finfo(dtype).eps}
    assert_close(got, wanted.to(dtype), **near)
    got.float().sum().backward()
    wanted.sum().backward()
    for ours, theirs in zip(inputs, exact, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert_close(ours.grad, theirs.grad.to(dtype), atol=1e-4, rtol=2 * torch.finfo(dtype).eps)


def test_shapes_that_do_not_belong_together_are_refused():
    value, offset, weights = case(PLAIN)
    for broken in (
        (value, offset[:, 1:], weights),
        (value, offset, weights[..., :9]),
        (value[..., :5], offset, weights),
    ):
        with pytest.raises(ValueError, match="belong together"):
            dcnv3(*broken, **PLAIN)

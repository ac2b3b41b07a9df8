"""Rotated RoIAlign against the original operator's numbers, torchvision, closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import roi_align

from vistruct.ops import roi_align_rotated as module
from vistruct.ops.roi_align_rotated import roi_align_rotated


@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [
        ("s2_cw", (7, 7), {"sampling_ratio": 2}),
        ("s0_cw", (7, 7), {"sampling_ratio": 0}),
        ("s2_ccw", (5, 7), {"sampling_ratio": 2, "clockwise": False}),
        ("s2_cw_unaligned", (7, 7), {"sampling_ratio": 2, "aligned": False}),
    ],
)
def test_the_original_operator_gives_the_same(golden, name, size, settings):
    io = golden("obb/roi_align_rotated.safetensors")
    got = roi_align_rotated(io["feat"], io["rois"], size, spatial_scale=0.25, **settings)
    assert_close(got, io[f"out.{name}"], atol=2e-5, rtol=0)


def boxes(num, *, images=2, size=32.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rois = torch.rand(num, 6, generator=generator, dtype=torch.float64)
    rois[:, 0] = (rois[:, 0] * images).floor()
    rois[:, 1:3] = rois[:, 1:3] * 1.4 * size - 0.2 * size
    rois[:, 3:5] = rois[:, 3:5] * size * 0.8
    rois[:, 5] = (rois[:, 5] - 0.5) * math.pi
    return rois


@pytest.mark.parametrize("sampling_ratio", [0, 1, 3])
@pytest.mark.parametrize("aligned", [True, False])
def test_without_angle_it_is_torchvision_s_roi_align(sampling_ratio, aligned):
    features = torch.randn(2, 3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rois = boxes(40)
    rois[:, 5] = 0
    low, high = rois[:, 1:3] - rois[:, 3:5] / 2, rois[:, 1:3] + rois[:, 3:5] / 2
    theirs = roi_align(features, torch.cat([rois[:, :1], low, high], dim=1), (3, 5), 0.5, sampling_ratio, aligned)
    got = roi_align_rotated(features, rois, (3, 5), spatial_scale=0.5, sampling_ratio=sampling_ratio, aligned=aligned)
    big = slice(None) if aligned else (rois[:, 3:5] >= 2).all(dim=1)  # below one cell it grows from its corner there
    assert_close(got[big], theirs[big])


def test_of_a_plane_it_gives_the_height_at_the_bins_centres():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    plane = (2 * x - 3 * y)[None, None].double()
    roi = torch.tensor([[0, 31.0, 30.0, 24.0, 12.0, 0.7]], dtype=torch.float64)
    got = roi_align_rotated(plane, roi, (2, 4), spatial_scale=1.0, sampling_ratio=2)[0, 0]
    u = ((torch.arange(4) + 0.5) / 4 - 0.5).double() * 24
    v = ((torch.arange(2) + 0.5) / 2 - 0.5).double()[:, None] * 12
    at_x = 31 + u * math.cos(0.7) - v * math.sin(0.7) - 0.5  # clockwise on screen; pixel centres at halves
    at_y = 30 + u * math.sin(0.7) + v * math.cos(0.7) - 0.5
    assert_close(got, 2 * at_x - 3 * at_y)


def test_image_and_boxes_turned_together_give_the_same():
    features = torch.randn(1, 2, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rois = boxes(20, images=1, size=20.0)
    turned = rois.clone()  # by 90 degrees clockwise: (x, y) -> (20 - y, x)
    turned[:, 1], turned[:, 2], turned[:, 5] = 20 - rois[:, 2], rois[:, 1], rois[:, 5] + math.pi / 2
    straight = roi_align_rotated(features, rois, (3, 3), spatial_scale=1.0, sampling_ratio=2)
    again = roi_align_rotated(features.rot90(-1, (2, 3)), turned, (3, 3), spatial_scale=1.0, sampling_ratio=2)
    assert_close(again, straight)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradient_is_that_of_the_function(sampling_ratio):
    features = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = boxes(5, size=14.0)
    assert torch.autograd.gradcheck(
        lambda f: roi_align_rotated(f, rois, (2, 3), spatial_scale=0.5, sampling_ratio=sampling_ratio), (features,)
    )


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_many_small_passes_give_what_one_gives(monkeypatch, sampling_ratio):
    rois, weights = boxes(23), torch.randn(23, 3, 4, 4, dtype=torch.float64)

    def run():
        features = torch.linspace(-1, 1, 2 * 3 * 12 * 16, dtype=torch.float64).sin().view(2, 3, 12, 16).requires_grad_()
        out = roi_align_rotated(features, rois, (4, 4), spatial_scale=0.5, sampling_ratio=sampling_ratio)
        (out * weights).sum().backward()
        return out, features.grad

    whole = run()
    monkeypatch.setattr(module, "_MAX_SAMPLES", 200)
    for one, many in zip(whole, run(), strict=True):
        assert_close(many, one)


def test_channels_last_and_half_precision_give_the_same():
    features = torch.randn(2, 8, 12, 16, generator=torch.Generator().manual_seed(3))
    rois = boxes(30).float()
    plain = roi_align_rotated(features, rois, (7, 7), spatial_scale=0.5, sampling_ratio=2)
    last = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(roi_align_rotated(last, rois, (7, 7), spatial_scale=0.5, sampling_ratio=2), plain)
    half = roi_align_rotated(features.bfloat16(), rois, (7, 7), spatial_scale=0.5, sampling_ratio=2)
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), plain, atol=0.03, rtol=0.02)


def test_no_box_gives_no_output_and_a_gradient_of_zero():
    features = torch.randn(2, 3, 8, 8, requires_grad=True)
    out = roi_align_rotated(features, torch.zeros(0, 6), (7, 5), spatial_scale=1.0, sampling_ratio=2)
    assert out.shape == (0, 3, 7, 5)
    out.sum().backward()
    assert features.grad is not None
    assert not features.grad.any()


def test_boxes_without_area_far_away_or_not_numbers_do_no_harm():
    nan = float("nan")
    rois = torch.tensor([[0, 4, 4, 0, 0, 0.3], [0, 900, 4, 3, 3, 0.3], [0, nan, 4, 3, 3, 0.3], [0, 4, 4, nan, 3, 0]])
    features = torch.ones(1, 1, 8, 8)
    fixed = roi_align_rotated(features, rois, (2, 2), spatial_scale=1.0, sampling_ratio=2)
    assert_close(fixed.amax(dim=(1, 2, 3)), torch.tensor([1.0, 0, 0, 0]))  # no area: the value at the point
    adaptive = roi_align_rotated(features, rois, (2, 2), spatial_scale=1.0, sampling_ratio=0)
    assert not adaptive.any()


@pytest.mark.parametrize(
    ("rois", "ratio", "message"),
    [
        (torch.zeros(3, 5), 2, "rois"),
        (torch.tensor([[2.0, 4, 4, 2, 2, 0]]), 2, "for 2 images"),
        (torch.zeros(3, 6), -1, "negative"),
    ],
)
def test_what_makes_no_sense_is_refused(rois, ratio, message):
    with pytest.raises(ValueError, match=message):
        roi_align_rotated(torch.zeros(2, 1, 8, 8), rois, (7, 7), spatial_scale=1.0, sampling_ratio=ratio)

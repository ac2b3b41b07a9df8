"""The feature pyramid network against the paper's chain written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from vistruct.contracts import FeatureSpec
from vistruct.errors import UserError
from vistruct.necks.fpn import Fpn, FpnConfig

SPECS = tuple(FeatureSpec(channels=c, stride=s) for c, s in ((6, 4), (8, 8), (10, 16)))


def maps(height: int = 64, width: int = 96) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, s.channels, -(-height // s.stride), -(-width // s.stride), generator=generator) for s in SPECS
    ]


def build(**values: object) -> Fpn:
    torch.manual_seed(0)
    return FpnConfig.model_validate({"channels": 5, **values}).build(SPECS)


@pytest.mark.parametrize("size_hw", [(64, 96), (40, 72)])  # the second gives maps that are not halves of each other
def test_levels_are_the_papers_chain(size_hw):
    fpn, inputs = build(), maps(*size_hw)
    inner, outer = ([layer[0] for layer in blocks] for blocks in (fpn.pyramid.inner_blocks, fpn.pyramid.layer_blocks))
    on = F.conv2d(inputs[2], inner[2].weight, inner[2].bias)
    chain = [on]
    for i in (1, 0):
        side = F.conv2d(inputs[i], inner[i].weight, inner[i].bias)
        on = side + F.interpolate(on, side.shape[2:], mode="nearest")
        chain.insert(0, on)
    by_hand = [F.conv2d(x, conv.weight, conv.bias, padding=1) for x, conv in zip(chain, outer, strict=True)]
    by_hand.append(F.max_pool2d(by_hand[-1], 1, stride=2))
    for level, expected in zip(fpn(inputs), by_hand, strict=True):
        torch.testing.assert_close(level, expected)


@pytest.mark.parametrize("extra", [0, 1, 3])
def test_extra_levels_double_the_stride(extra):
    fpn = build(extra_levels=extra)
    assert [spec.stride for spec in fpn.specs] == [4, 8, 16, 32, 64, 128][: 3 + extra]
    for level, spec in zip(fpn(maps(256, 384)), fpn.specs, strict=True):
        assert level.shape == (2, 5, 256 // spec.stride, 384 // spec.stride)


def test_retinanets_levels_are_torchvisions_without_its_relu():
    """P3 to P7 of three maps: the finest is not used, P6 is made of C5, P7 of P6."""
    fpn, inputs = build(skip=1, extra_levels=2, extra="conv"), maps(320, 320)
    assert [spec.stride for spec in fpn.specs] == [8, 16, 32, 64]
    theirs = FeaturePyramidNetwork([8, 10], 5, LastLevelP6P7(10, 5))
    state = {name.removeprefix("pyramid."): value for name, value in fpn.state_dict().items()}
    extra = {f"extra_blocks.p{6 + int(n[6])}.{n[8:]}": v for n, v in state.items() if n.startswith("extra.")}
    theirs.load_state_dict({n: v for n, v in state.items() if not n.startswith("extra.")} | extra)
    with torch.no_grad():  # so that the ReLU between P6 and P7 changes nothing
        for convs in (fpn.extra[0], theirs.extra_blocks.p6):
            convs.bias += 100
    expected = theirs({"a": inputs[1], "b": inputs[2]})
    for level, one in zip(fpn(inputs), expected.values(), strict=True):
        torch.testing.assert_close(level, one)
    changed = fpn([inputs[0] + 1, *inputs[1:]])
    assert all(torch.equal(a, b) for a, b in zip(changed, fpn(inputs), strict=True))


def test_a_pyramid_over_no_map_is_an_error():
    with pytest.raises(UserError, match="skip=3"):
        build(skip=3)


def test_coarse_maps_reach_the_fine_levels_and_not_the_other_way():
    fpn, inputs = build(), maps()
    before = fpn(inputs)
    after = fpn([inputs[0] + 1, inputs[1], inputs[2]])
    assert not torch.equal(before[0], after[0])
    assert all(torch.equal(a, b) for a, b in zip(before[1:], after[1:], strict=True))
    after = fpn([inputs[0], inputs[1], inputs[2] + 1])
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_with_norms_every_cell_has_mean_zero_and_variance_one():
    level = build(norm=True, channels=16)(maps())[0]
    torch.testing.assert_close(level.mean(1), torch.zeros_like(level.mean(1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(level.var(1, unbiased=False), torch.ones_like(level.mean(1)), atol=1e-3, rtol=0)


def test_maps_of_one_stride_are_refused():
    with pytest.raises(UserError, match=r"\[16, 16\]"):
        FpnConfig().build((FeatureSpec(channels=4, stride=16), FeatureSpec(channels=4, stride=16)))

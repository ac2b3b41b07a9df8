"""The lateral neck: the chain written out by hand, and levels that do not know of each other."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vistruct.contracts import FeatureSpec
from vistruct.necks.laterals import Laterals, LateralsConfig

SPECS = tuple(FeatureSpec(channels=6, stride=s) for s in (4, 8, 16, 32))


def build(**values: object) -> Laterals:
    torch.manual_seed(0)
    neck = LateralsConfig.model_validate({"channels": 5, **values}).build(SPECS)
    for parameter in neck.parameters():  # norms that are the identity at the start would hide their order
        torch.nn.init.normal_(parameter)
    return neck


def maps(side: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 6, side // s.stride, 2 * side // s.stride, generator=generator) for s in SPECS]


def norm(x: torch.Tensor, module: torch.nn.Module) -> torch.Tensor:
    mean, var = x.mean(dim=1, keepdim=True), x.var(dim=1, keepdim=True, unbiased=False)
    return (x - mean) / (var + 1e-6).sqrt() * module.weight[:, None, None] + module.bias[:, None, None]


def test_levels_equal_the_chain_written_out_by_hand():
    neck, inputs = build(), maps()
    by_hand = []
    for x, (conv1, norm1, conv3, norm3) in zip(inputs, neck.levels, strict=True):
        by_hand.append(norm(F.conv2d(norm(F.conv2d(x, conv1.weight), norm1), conv3.weight, padding=1), norm3))
    by_hand.append(F.max_pool2d(by_hand[-1], 1, stride=2))
    for level, expected in zip(neck(inputs), by_hand, strict=True):
        torch.testing.assert_close(level, expected, atol=1e-4, rtol=1e-4)


def test_levels_do_not_know_of_each_other():
    neck, inputs = build(), maps()
    before, after = neck(inputs), neck([*inputs[:2], inputs[2] + torch.randn(6, 1, 1), inputs[3]])
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, True, True]


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_specs_say_what_comes_out(extra):
    neck = build(extra_levels=extra)
    assert [spec.stride for spec in neck.specs] == [4, 8, 16, 32, 64, 128][: 4 + extra]
    for level, spec in zip(neck(maps(128)), neck.specs, strict=True):
        assert level.shape == (2, spec.channels, 128 // spec.stride, 256 // spec.stride)


def test_an_odd_map_keeps_its_last_row_when_it_is_subsampled():
    *_, last, extra = build()(maps(96))
    assert last.shape[2:] == (3, 6)
    assert torch.equal(extra, last[:, :, [0, 2]][:, :, :, [0, 2, 4]])


def test_every_parameter_moves():
    neck = build()
    sum((level * torch.randn_like(level)).sum() for level in neck(maps())).backward()
    assert all(p.grad is not None and p.grad.abs().any() for p in neck.parameters())

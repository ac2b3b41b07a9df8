"""The simple feature pyramid: sizes, what each level is made of, and which strides can be reached."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vistruct.contracts import FeatureSpec
from vistruct.errors import UserError
from vistruct.necks.simple_pyramid import SimplePyramidConfig


def build(stride: int, strides: tuple[int, ...], width: int = 24, channels: int = 16):
    torch.manual_seed(0)
    specs = (FeatureSpec(channels=3, stride=1), FeatureSpec(channels=width, stride=stride))
    return SimplePyramidConfig(channels=channels, strides=strides).build(specs)


@pytest.mark.parametrize(
    ("stride", "strides"),
    [(16, (4, 8, 16, 32)), (14, (7, 14, 28, 56)), (8, (4, 8, 16)), (16, (2, 64)), (4, (8, 16))],
)
def test_every_level_has_the_size_and_channels_of_its_spec(stride: int, strides: tuple[int, ...]) -> None:
    pyramid = build(stride, strides)
    height, width = 4 * 64 * stride, 2 * 64 * stride
    maps = [torch.zeros(2, 3, 1, 1), torch.randn(2, 24, height // stride // 16, width // stride // 16)]
    height, width = height // 16, width // 16
    levels = pyramid(maps)
    assert [spec.stride for spec in pyramid.specs] == list(strides)
    for level, spec in zip(levels, pyramid.specs, strict=True):
        assert level.shape == (2, spec.channels, height // spec.stride, width // spec.stride)


def norm(x: torch.Tensor, module: torch.nn.Module) -> torch.Tensor:
    mean, var = x.mean(dim=1, keepdim=True), x.var(dim=1, keepdim=True, unbiased=False)
    return (x - mean) / (var + 1e-6).sqrt() * module.weight[:, None, None] + module.bias[:, None, None]


def test_levels_equal_the_papers_chain_written_out_by_hand() -> None:
    pyramid = build(16, (4, 8, 16, 32))
    for parameter in pyramid.parameters():  # norms that are the identity at the start would hide their order
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 24, 4, 4)
    four, two, one, half = pyramid.levels

    def tail(x: torch.Tensor, level: torch.nn.Sequential) -> torch.Tensor:
        *_, conv1, norm1, conv3, norm3 = level
        return norm(F.conv2d(norm(F.conv2d(x, conv1.weight), norm1), conv3.weight, padding=1), norm3)

    up = F.conv_transpose2d(x, four[0].weight, four[0].bias, stride=2)
    up = F.conv_transpose2d(F.gelu(norm(up, four[1])), four[3].weight, four[3].bias, stride=2)
    expected = [
        tail(up, four),
        tail(F.conv_transpose2d(x, two[0].weight, two[0].bias, stride=2), two),
        tail(x, one),
        tail(F.max_pool2d(x, 2), half),
    ]
    for level, by_hand in zip(pyramid([x]), expected, strict=True):
        torch.testing.assert_close(level, by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stride", "strides", "possible"), [(14, (4, 8), "7, 14, 28"), (16, (12,), "8, 16")])
def test_a_stride_that_halving_does_not_reach_is_refused_with_the_possible_ones(
    stride: int, strides: tuple[int, ...], possible: str
) -> None:
    with pytest.raises(UserError, match=f"stride {strides[0]} .* stride {stride}") as error:
        build(stride, strides)
    assert possible in error.value.fix


@pytest.mark.parametrize("strides", [(8, 4), (4, 4), (0, 8), ()])
def test_strides_that_do_not_grow_are_refused(strides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="strides"):
        SimplePyramidConfig(strides=strides)

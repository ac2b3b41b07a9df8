"""The U-Net decoder against segmentation_models_pytorch's, and where it stops doubling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn

from vistruct.contracts import FeatureSpec
from vistruct.errors import UserError
from vistruct.heads.unet import UNet, UNetConfig

CHANNELS = (16, 12, 8, 6)


def specs(*strides: int) -> tuple[FeatureSpec, ...]:
    return tuple(FeatureSpec(channels=5 + i, stride=s) for i, s in enumerate(strides))


def maps(pyramid: tuple[FeatureSpec, ...], size: int = 64, num: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(num, s.channels, size // s.stride, size // s.stride, generator=generator) for s in pyramid]


def build(pyramid: tuple[FeatureSpec, ...], **values: object) -> UNet:
    torch.manual_seed(0)
    head = UNetConfig.model_validate({"channels": CHANNELS, "dropout": 0.0, **values}).build(pyramid, 3)
    nn.init.normal_(head.classify.weight)
    return head


def reference(head: UNet, pyramid: tuple[FeatureSpec, ...]) -> UnetDecoder:
    """Of the same weights; its encoders have a map of stride 1, which it leaves out, and no skip at stride 2."""
    decoder = UnetDecoder(
        encoder_channels=[3, 0, *(s.channels for s in pyramid)],
        decoder_channels=[*CHANNELS, 4],
        n_blocks=5,
    )
    decoder.blocks = decoder.blocks[:4]
    for ours, theirs in zip(head.blocks, decoder.blocks, strict=True):
        for a, b in ((ours.conv1, theirs.conv1), (ours.conv2, theirs.conv2)):
            b[0].load_state_dict(a.conv.state_dict())
            b[1].load_state_dict(a.bn.state_dict())
    return decoder


@pytest.mark.parametrize("training", [True, False])
def test_logits_are_those_of_segmentation_models_pytorch(training):
    pyramid = specs(4, 8, 16, 32)
    head = build(pyramid).train(training)
    decoder = reference(head, pyramid).train(training)
    inputs = maps(pyramid)
    # 1, 2 and the four maps; the published head then doubles once more and classifies there
    x = decoder([torch.zeros(2, 3, 64, 64), torch.zeros(2, 0, 32, 32), *inputs])
    doubled = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    expected = F.conv2d(doubled, head.classify.weight, head.classify.bias)
    logits = head(inputs)
    assert logits.shape == (2, 3, 32, 32)
    torch.testing.assert_close(
        F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False), expected, atol=1e-4, rtol=1e-4
    )


def test_equal_maps_are_doubled_as_published_and_end_at_the_image():
    """By hand: every block doubles, its skip comes along bilinearly."""
    pyramid = specs(16, 16, 16, 16)
    head, inputs = build(pyramid, stride=1), maps(pyramid)
    *finer, x = inputs
    for block, skip in zip(head.blocks, [*finer[::-1], None], strict=True):
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        if skip is not None:
            x = torch.cat([x, F.interpolate(skip, x.shape[2:], mode="bilinear", align_corners=False)], dim=1)
        x = block.conv2(block.conv1(x))
    logits = head(inputs)
    assert logits.shape == (2, 3, 64, 64)
    torch.testing.assert_close(logits, head.classify(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("strides", "stride", "end", "num_blocks"),
    [
        ((4, 8, 16, 32), 2, 2, 4),
        ((4, 8, 16, 32), 4, 4, 3),
        ((4, 8, 16, 32), 1, 1, 5),
        ((4, 8, 16, 32), 32, 4, 3),  # never coarser than the finest map
        ((16, 16, 16, 16), 2, 2, 3),
        ((16, 16, 16, 16), 4, 4, 3),
        ((16,), 2, 2, 3),
        ((2,), 2, 2, 0),
        ((4, 16), 2, 2, 2),  # four times at once, beside the map
        ((1, 2), 2, 1, 1),
        ((14, 14), 4, 3.5, 2),
    ],
)
def test_doubling_ends_at_the_stride(strides, stride, end, num_blocks):
    pyramid = specs(*strides)
    head = build(pyramid, stride=stride)
    assert (head.stride, len(head.blocks)) == (end, num_blocks)
    assert head(maps(pyramid, size=224))[0].shape == (3, 224 / end, 224 / end)


def test_a_map_beside_it_that_is_no_exact_double_will_do():
    pyramid = specs(4, 8)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 5, 7, 9, generator=generator), torch.randn(2, 6, 4, 5, generator=generator)]
    assert build(pyramid)(inputs).shape == (2, 3, 14, 18)


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (16, 16, 16, 16), (16,)])
def test_every_parameter_moves(strides):
    pyramid = specs(*strides)
    head = build(pyramid)
    logits = head(maps(pyramid))
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_group_norm_takes_one_image_of_one_cell():
    pyramid = specs(4, 8, 16, 32)
    inputs = [torch.randn(1, s.channels, 32 // s.stride, 32 // s.stride) for s in pyramid]
    head = build(pyramid, norm="group")
    head(inputs).sum().backward()


def test_maps_from_coarse_to_fine_are_refused():
    with pytest.raises(UserError, match="from fine to coarse"):
        build(specs(32, 16))

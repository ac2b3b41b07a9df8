"""EfficientNets as efficientnet_pytorch calls their tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vistruct.backbones.timm_model import TimmConfig
from vistruct.checkpoint.weights import load_backbone

NORM = ("weight", "bias", "running_mean", "running_var")


def published(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A timm model's weights under the other names: both go through the layers in the same order."""
    depths = [len(stage) for stage in model.blocks]  # ty: ignore
    names = ["_conv_stem.weight", *(f"_bn0.{one}" for one in NORM)]
    squeeze = [f"_se_{way}.{one}" for way in ("reduce", "expand") for one in ("weight", "bias")]
    has_squeeze = any(".se." in name for name in model.state_dict())
    for number in range(sum(depths)):
        wide = ["_expand_conv.weight", *(f"_bn0.{one}" for one in NORM)] if number >= depths[0] else []
        deep = ["_depthwise_conv.weight", *(f"_bn1.{one}" for one in NORM), *(squeeze if has_squeeze else [])]
        last = ["_project_conv.weight", *(f"_bn2.{one}" for one in NORM)]
        names += [f"_blocks.{number}.{name}" for name in (*wide, *deep, *last)]
    names += ["_conv_head.weight", *(f"_bn1.{one}" for one in NORM), "_fc.weight", "_fc.bias"]
    own = [value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")]
    return dict(zip(names, own, strict=True))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_weights_in_the_other_layout_give_the_same_maps(tmp_path: Path, name: str) -> None:
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model(name)
    for norm in theirs.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean, norm.running_var = torch.randn_like(norm.bias) / 9, torch.rand_like(norm.bias) + 0.5
    torch.save(published(theirs), tmp_path / "weights.pth")
    ours = TimmConfig(name=name, out_indices=(1, 2, 3)).build()
    coverage = load_backbone(ours, tmp_path / "weights.pth")
    assert not coverage.missing
    assert "num_batches_tracked" not in "\n".join(coverage.lines())
    image = torch.randn(1, 3, 64, 64)
    ours.eval(), theirs.eval()
    expected = theirs.forward_intermediates(image, indices=[1, 2, 3], intermediates_only=True)
    for one, other in zip(ours(image), expected, strict=True):
        torch.testing.assert_close(one, other)

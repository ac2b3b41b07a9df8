"""SAM's image encoder: that of `transformers` at its own size, at others resized, from folders of theirs."""

from __future__ import annotations

import pytest
import torch
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionModel

from vistruct.backbones.sam_vit import SamVit, SamVitConfig
from vistruct.contracts import Backbone

TINY = SamVitConfig(width=16, depth=2, heads=2, channels=8, patch=8, window=3, global_blocks=(1,), image_size=64)


@pytest.fixture(scope="module")
def model() -> SamVit:
    torch.manual_seed(0)
    made = TINY.build().eval()
    assert made.model.pos_embed is not None
    torch.nn.init.normal_(made.model.pos_embed)
    return made


def test_it_is_that_of_transformers(model: SamVit) -> None:
    theirs = SamVisionModel(
        SamVisionConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, output_channels=8, image_size=64, patch_size=8,
            window_size=3, global_attn_indexes=[1], mlp_dim=64,
        )
    ).eval()  # fmt: skip
    own = model.convert_keys({f"vision_encoder.{name}": value for name, value in model.model.state_dict().items()})
    assert own.keys() == model.state_dict().keys()
    theirs.load_state_dict({f"vision_encoder.{name}": value for name, value in model.model.state_dict().items()})
    image = torch.randn(2, 3, 64, 64)
    (found,) = model(image)
    torch.testing.assert_close(found, theirs(image).last_hidden_state)
    assert isinstance(model, Backbone)


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (80, 40)])
def test_images_of_any_size(model: SamVit, size: tuple[int, int]) -> None:
    (found,) = model(torch.randn(1, 3, *size))
    assert found.shape == (1, 8, size[0] // 8, size[1] // 8)
    assert model.specs[0].stride == 8
    found.sum().backward()
    assert all(one.grad is not None for one in model.parameters())

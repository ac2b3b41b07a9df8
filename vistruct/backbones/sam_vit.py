"""SAM's image encoder: a ViT with windows and relative positions, and two convolutions over its last map.

Source: Kirillov et al., "Segment Anything", arXiv:2304.02643; the layers are those of `transformers`. Published sizes:
    base 768 wide, 12 deep, 12 heads, global blocks (2, 5, 8, 11); large 1024, 24, 16, (5, 11, 17, 23); huge 1280, 32,
    16, (7, 15, 23, 31).
Differs: images of any size, a multiple of the patch; learned positions are resized to them.
Shapes: float[B, 3, H, W] -> [float[B, channels, H / patch, W / patch]].
"""

from __future__ import annotations

import re
from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from vistruct.config import Part
from vistruct.contracts import BackboneTraits, FeatureSpec

# Names of the published .pth, and of a folder of `transformers`, by our own.
_NAMES = (
    (r"^(?:image_encoder|vision_encoder)\.", "model."),
    (r"^model\.patch_embed\.proj\.", "model.patch_embed.projection."),
    (r"^model\.blocks\.", "model.layers."),
    (r"^(model\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"^model\.neck\.0\.", "model.neck.conv1."),
    (r"^model\.neck\.1\.", "model.neck.layer_norm1."),
    (r"^model\.neck\.2\.", "model.neck.conv2."),
    (r"^model\.neck\.3\.", "model.neck.layer_norm2."),
)


class SamVitConfig(Part):
    """The defaults are those of the base model."""

    kind: Literal["sam_vit"] = "sam_vit"
    width: int = Field(768, gt=0)
    depth: int = Field(12, gt=0)
    heads: int = Field(12, gt=0)
    hidden: int | None = Field(None, gt=0)  # units between the two linear layers of a block; None: four times the width
    channels: int = Field(256, gt=0)  # of the map
    patch: int = Field(16, gt=0)  # pixels
    window: int = Field(14, gt=0)  # cells along a side
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)  # without windows
    image_size: int = Field(1024, gt=0)  # pixels; says how many positions are learned

    def build(self) -> SamVit:
        """Build with random weights."""
        return SamVit(self)


class SamVit(nn.Module):
    """float[B, 3, H, W] -> one map; `mean` and `std` are those the public weights were made with."""

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, config: SamVitConfig) -> None:
        super().__init__()
        self.config = config
        sizes = SamVisionConfig(
            hidden_size=config.width,
            output_channels=config.channels,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch,
            window_size=config.window,
            global_attn_indexes=list(config.global_blocks),
            mlp_dim=config.hidden or 4 * config.width,
            initializer_range=0.02,
        )
        self.model = SamVisionEncoder(sizes)
        self.specs = (FeatureSpec(channels=config.channels, stride=config.patch),)

    @property
    def traits(self) -> BackboneTraits:
        return BackboneTraits(repeated_blocks=tuple(self.model.layers), convert_keys=self.convert_keys)

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the published .pth, or of `transformers`, as this encoder's; what is not its own falls away."""
        found, own = {}, self.state_dict()
        for name, value in state.items():
            for pattern, here in _NAMES:
                name = re.sub(pattern, here, name)
            if name in own:
                found[name] = value
        return found

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.model.patch_embed.projection(image).permute(0, 2, 3, 1)
        positions = self.model.pos_embed
        assert positions is not None
        if positions.shape[1:3] != x.shape[1:3]:
            size = (x.shape[1], x.shape[2])
            known = positions.permute(0, 3, 1, 2).float()
            positions = F.interpolate(known, size, mode="bicubic", antialias=True).permute(0, 2, 3, 1)
        x = x + positions.to(x.dtype)
        for layer in self.model.layers:
            x = layer(x)
        return [self.model.neck(x)]

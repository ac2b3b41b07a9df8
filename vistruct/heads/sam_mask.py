"""SAM's mask decoder, asked by queries instead of points and boxes: each becomes one prompt of an own.

Source: Kirillov et al., "Segment Anything", arXiv:2304.02643, the module of `transformers`; as VT-PLUG (REF-VLM) plugs
    it in: two linear layers make one sparse prompt token of a state, and one mask of four is used.
The map is that of SAM's image encoder where public weights are to be of use: backbone `sam_vit` as the tower, on
pictures centred on padding. Any other map works, and goes through a linear layer where its channels differ.
Differs: SAM's own guess of the IoU becomes the score, by a straight line through logits.
Shapes: N queries of all rows end to end, D width, h x w cells of the map; masks have four times as many along a side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder

from vistruct.config import Part
from vistruct.contracts import BoxTarget, Detections, FeatureSpec, HeadLoss, HeadTraits, Queries, Shown
from vistruct.heads.query_layers import Asked, all_of, chosen_spec, object_units
from vistruct.heads.query_mask_loss import MaskDrawing, MasksDrawn

# Names of the published .pth, and of a folder of `transformers`, by our own.
_NAMES = (
    (r"^mask_decoder\.", "sam."),
    (r"^prompt_encoder\.no_mask_embed\.weight$", "nothing"),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "waves"),
    (r"^shared_image_embedding\.positional_embedding$", "waves"),
    (r"^sam\.output_upscaling\.0\.", "sam.upscale_conv1."),
    (r"^sam\.output_upscaling\.1\.", "sam.upscale_layer_norm."),
    (r"^sam\.output_upscaling\.3\.", "sam.upscale_conv2."),
    (r"^(sam\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.layers\.2\.", r"\1.proj_out."),
    (r"^(sam\.transformer\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"^sam\.transformer\.norm_final_attn\.", "sam.transformer.layer_norm_final_attn."),
)
_FIRST_OF_THREE = re.compile(r"^(sam\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.layers\.([01])\.")


class SamMaskConfig(Part):
    """The decoder's sizes; those of all published models are the defaults."""

    kind: Literal["sam_mask"] = "sam_mask"
    level: int = -1  # of the maps, the finest is 0
    width: int = Field(256, gt=0, multiple_of=8)
    heads: int = Field(8, gt=0)
    hidden: int = Field(2048, gt=0)  # units between the two linear layers of a layer
    quality_hidden: int = Field(256, gt=0)  # units of what guesses the IoU
    use_groups: bool = True  # queries of a phrase stand for its objects in any order; False: in that of the text
    drawing: MaskDrawing = MaskDrawing()

    def build(self, specs: tuple[FeatureSpec, ...], query_width: int) -> SamMask:
        """Build over one of these maps.

        Raises:
            UserError: there is no such level.
        """
        return SamMask(self, specs, query_width)


class SamDecoder(nn.Module):
    """What public weights are of: prompts float[N, D] and maps float[N, D, h, w] -> logits of masks and guesses.

    What the prompts of points are made of is fixed.
    """

    waves: Tensor
    nothing: Tensor

    def __init__(self, config: SamMaskConfig) -> None:
        super().__init__()
        sizes = SamMaskDecoderConfig(
            hidden_size=config.width,
            mlp_dim=config.hidden,
            num_attention_heads=config.heads,
            iou_head_hidden_dim=config.quality_hidden,
        )
        self.sam = SamMaskDecoder(sizes)
        self.sam.output_hypernetworks_mlps[1:].requires_grad_(False)  # of the three masks that are not used
        self.register_buffer("waves", torch.randn(2, config.width // 2) * config.width / 2)
        self.register_buffer("nothing", torch.zeros(1, config.width))

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(convert_keys=self.convert_keys)

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the published .pth, or of `transformers`, as these; what is not of it falls away."""
        found, own = {}, self.state_dict()
        is_published = any(name.startswith("mask_decoder.output_upscaling.") for name in state)
        for name, value in state.items():
            for pattern, here in _NAMES:
                name = re.sub(pattern, here, name)
            if is_published:
                name = _FIRST_OF_THREE.sub(lambda m: f"{m[1]}.{'proj_in' if m[2] == '0' else 'layers.0'}.", name)
            if name in own:
                found[name] = value
        return found

    def forward(self, prompts: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """float[N, 4h, 4w], and float[N], about the IoU."""
        masks, guess = self.sam(
            image_embeddings=maps,
            image_positional_embeddings=self.positions(maps).expand(len(maps), -1, -1, -1),
            sparse_prompt_embeddings=prompts[:, None, None],
            dense_prompt_embeddings=self.nothing.to(maps.dtype)[:, :, None, None],
            multimask_output=False,
        )
        return masks[:, 0, 0], guess[:, 0, 0]

    def positions(self, maps: Tensor) -> Tensor:
        """float[1, D, h, w]: random waves over the map."""
        size = maps.shape[2:]
        places = [(torch.arange(n, device=maps.device, dtype=torch.float32) + 0.5) / n * 2 - 1 for n in size]
        y, x = torch.meshgrid(*places, indexing="ij")
        angles = 2 * math.pi * (x[..., None] * self.waves[0] + y[..., None] * self.waves[1])  # float32 always
        return torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1)[None].to(maps.dtype)


class SamMask(nn.Module):
    """Queries and maps list[float[B, C_i, h_i, w_i]] -> MasksDrawn. Public weights go into `public`."""

    def __init__(self, config: SamMaskConfig, specs: tuple[FeatureSpec, ...], query_width: int) -> None:
        super().__init__()
        self.config, self.specs = config, specs
        channels = chosen_spec(specs, config.level).channels
        self.asks = nn.Sequential(nn.Linear(query_width, query_width), nn.ReLU(), nn.Linear(query_width, config.width))
        self.cells = nn.Identity() if channels == config.width else nn.Conv2d(channels, config.width, 1)
        self.public = SamDecoder(config)
        self.terms = config.drawing.terms

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(masks="image")

    def forward(self, queries: Queries, maps: list[Tensor], shown: Shown | None = None) -> MasksDrawn:
        asked = Asked.of(queries, None, all_of(maps, self.specs, shown))
        prompts = self.asks(asked.flat(queries.states))
        number, level = len(prompts), self.cells(maps[self.config.level])
        rows = asked.rows.to(level.device)
        if not number:  # one that is dropped again, so that the layers stay part of the graph
            prompts, rows = prompts.new_zeros(1, self.config.width) + prompts.sum(), rows.new_zeros(1)
        masks, guess = self.public(prompts, level[rows])
        # 4 x - 2 is nearly what makes a probability of a number around one half: public weights guess well at once.
        return MasksDrawn(asked=asked, logits=masks[:number].float(), quality=4 * guess[:number].float() - 2)

    def loss(self, output: MasksDrawn, targets: Sequence[BoxTarget]) -> HeadLoss:
        """As of every decoder of masks."""
        return self.config.drawing.loss(output, targets, self.config.use_groups)

    def units(self, targets: Sequence[BoxTarget]) -> dict[str, float]:
        """Of all terms objects."""
        return dict.fromkeys(self.terms, object_units(targets, None))

    def decode(self, output: MasksDrawn, padded_hw: tuple[int, int]) -> list[Detections]:
        """As of every decoder of masks."""
        return self.config.drawing.decode(output, padded_hw)

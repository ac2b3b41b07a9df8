"""The names of the weights of EVA's ViTs: ours are those of the public checkpoints; other layouts in both directions.

ours, EVA-CLIP, LAVIS, timm   blocks.3.attn.{qkv.weight,q_bias,v_bias}, below visual., visual_encoder., visual.trunk.
plain ViTs (MAE, DINO)        blocks.3.attn.qkv.{weight,bias}
transformers' BLIP-2          encoder.layers.3.self_attn.qkv.{weight,bias}, below vision_model.

A bias of keys adds the same to all that a query is compared with, and so nothing to its attention: it is left out.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

_NAMES = {  # transformers' names, or beginnings of them
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding": "pos_embed",
    "embeddings.patch_embedding.": "patch_embed.proj.",
    "post_layernorm.": "norm.",
}
_BLOCK = {
    "self_attn.projection.": "attn.proj.",
    "self_attn.": "attn.",
    "layer_norm1.": "norm1.",
    "layer_norm2.": "norm2.",
    "mlp.": "mlp.",
}


def convert_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of transformers' BLIP-2, split biases that are fused, and give a table of positions that has no
    row of the class token one of zeros. What is of no ViT stays as it is."""
    own: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _ours(key)
        if re.fullmatch(r"blocks\.\d+\.attn\.qkv\.bias", name):
            third, front = len(value) // 3, name.removesuffix("qkv.bias")
            own |= {f"{front}q_bias": value[:third], f"{front}v_bias": value[2 * third :]}
        elif name == "pos_embed" and value.dim() == 3 and math.isqrt(value.shape[1]) ** 2 == value.shape[1]:
            own[name] = torch.cat([value.new_zeros(1, 1, value.shape[2]), value], dim=1)
        else:
            own[name] = value
    return own


def _ours(key: str) -> str:
    block = re.match(r"encoder\.layers\.(\d+)\.(.+)$", key)
    name, names = (key, _NAMES) if block is None else (block[2], _BLOCK)
    for theirs, ours in names.items():
        if name == theirs or (theirs.endswith(".") and name.startswith(theirs)):
            name = ours + name.removeprefix(theirs)
            break
    return name if block is None else f"blocks.{block[1]}.{name}"

"""What other libraries call the layers of Mask2Former: the published code (and ViSFT's copy), and transformers.

Both have the same layers; transformers keeps query, key and value of the queries' own attention apart.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from vistruct.heads.published_names import published, renamed

PARTS = ("pixel_decoder.", "predictor.")
_PUBLISHED = {f"sem_seg_head.{part}": f"queries.{part}" for part in PARTS}
_VISFT = {f"visft_heads.segment_{part}": f"queries.{part}" for part in PARTS}
_TRANSFORMERS = {
    r"^(model\.)?pixel_level_module\.decoder\.": "pixel_decoder.",
    r"^(model\.)?transformer_module\.": "predictor.",
    r"^class_predictor\.": "predictor.class_embed.",
    r"input_projections\.": "input_proj.",
    r"pixel_decoder\.(level_embed|encoder\.)": r"pixel_decoder.transformer.\1",
    r"(encoder\.layers\.\d+\.)self_attn_layer_norm\.": r"\1norm1.",
    r"(encoder\.layers\.\d+\.)final_layer_norm\.": r"\1norm2.",
    r"((?:encoder|decoder)\.layers\.\d+\.)fc([12])\.": r"\1linear\2.",
    r"((?:adapter|layer)_\d+)\.0\.": r"\1.",
    r"((?:adapter|layer)_\d+)\.1\.": r"\1.norm.",
    r"mask_projection\.": "mask_features.",
    r"queries_embedder\.": "query_embed.",
    r"queries_features\.": "query_feat.",
    r"decoder\.layernorm\.": "decoder_norm.",
    r"decoder\.mask_predictor\.mask_embedder\.(\d+)\.0\.": r"mask_embed.layers.\1.",
    r"decoder\.layers\.(\d+)\.(self|cross)_attn_layer_norm\.": r"transformer_\2_attention_layers.\1.norm.",
    r"decoder\.layers\.(\d+)\.final_layer_norm\.": r"transformer_ffn_layers.\1.norm.",
    r"decoder\.layers\.(\d+)\.linear": r"transformer_ffn_layers.\1.linear",
    r"predictor\.decoder\.layers\.(\d+)\.self_attn\.": r"predictor.transformer_self_attention_layers.\1.self_attn.",
    r"predictor\.decoder\.layers\.(\d+)\.cross_attn\.": (
        r"predictor.transformer_cross_attention_layers.\1.multihead_attn."
    ),
}


def own_names(head: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of any of these as the head's; what is not its own (backbone, criterion) falls away."""
    if any("transformer_module." in key for key in state):
        state = _from_transformers(state)
    names = _PUBLISHED | _VISFT | {part: f"queries.{part}" for part in PARTS}
    return renamed(head, {key.removeprefix("module."): value for key, value in state.items()}, names)


def published_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The way back, to the published code's."""
    return published(state, _PUBLISHED)


def _from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    apart: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name = key
        for there, own in _TRANSFORMERS.items():
            name = re.sub(there, own, name)
        one = re.fullmatch(r"(.*self_attn\.)([qkv])_proj\.(weight|bias)", name)
        if one is None:
            found[name] = value
        else:
            apart.setdefault(f"{one[1]}in_proj_{one[3]}", {})[one[2]] = value
    return found | {name: torch.cat([parts[each] for each in "qkv"]) for name, parts in apart.items()}

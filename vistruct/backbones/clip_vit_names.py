"""What the ViTs of public CLIPs call their tensors, and what timm does.

open_clip (and OpenAI)    transformer.resblocks.N.attn.in_proj_weight, ln_pre, conv1, class_embedding, ...
transformers              encoder.layers.N.self_attn.q_proj.weight, pre_layrnorm, embeddings.patch_embedding, ...
timm                      blocks.N.attn.qkv.weight, norm_pre, patch_embed.proj, cls_token, ...
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_BLOCK = r"^{}\.(\d+)\."
OPEN_CLIP = (
    (_BLOCK.format(r"transformer\.resblocks"), r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
)
TRANSFORMERS = (
    (_BLOCK.format(r"encoder\.layers"), r"blocks.\1."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.self_attn\.", ".attn."),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.(attention|mlp)\.", r"attn_pool.\1."),
)


def convert_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Any of these layouts, without what stands before all names, to timm's names; of other models as it is."""
    if any(name.startswith("transformer.resblocks.") for name in state):
        return renamed(state, OPEN_CLIP)
    if any(name.startswith("encoder.layers.") for name in state):
        return fused(renamed(state, TRANSFORMERS))
    return dict(state)


def renamed(state: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """By rules of (pattern, what stands for it), one after the other; the table of positions and the class token in
    timm's shapes."""
    found = {}
    for name, value in state.items():
        for pattern, ours in rules:
            name = re.sub(pattern, ours, name)
        if name == "cls_token":
            value = value.reshape(1, 1, -1)
        if name == "pos_embed" and value.ndim == 2:
            value = value[None]
        found[name] = value
    return found


def fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values in one layer, as timm has them; of a pool queries alone, keys and values in one."""
    found = dict(state)
    for name in [name for name in state if ".attn.q_proj." in name]:
        parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        if all(part in found for part in parts):  # else it is missed under its own name
            found[name.replace(".q_proj.", ".qkv.")] = torch.cat([found.pop(part) for part in parts])
    for kind in ("weight", "bias"):
        whole = found.pop(f"attn_pool.attention.in_proj_{kind}", None)
        if whole is not None:
            width = len(whole) // 3
            found |= {f"attn_pool.q.{kind}": whole[:width], f"attn_pool.kv.{kind}": whole[width:]}
    return found

"""What public CLIPs call their tensors, and what ours does: `backbone.`, `clip.project.`, `clip.pool.`, `clip.text.`.

open_clip      visual.* with the text tower beside it or below text.*; visual.trunk.* where timm has the image tower
EVA-CLIP       visual.* as timm's Eva, with a head; text.*
transformers   vision_model.*, visual_projection; text_model.*, text_projection
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

NOT_WEIGHTS = ("attn_mask", "position_ids", "input_resolution", "context_length", "vocab_size")
_OF_TEXT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
_BLOCK = r"^{}\.(\d+)\."
_OPEN_CLIP_VIT = (
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
_TRANSFORMERS_VIT = (
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


def of_open_clip(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state of open_clip or EVA-CLIP -> the backbone's tensors under timm's names; the rest under ours."""
    image, rest = {}, {}
    for name, value in _weights(state):
        if name.startswith("visual."):
            image[name.removeprefix("visual.").removeprefix("trunk.")] = value
        elif name.startswith("text.") or name.startswith(_OF_TEXT):
            rest[f"clip.text.model.{name.removeprefix('text.')}"] = value
        else:
            rest[f"clip.{name}"] = value.reshape(()) if value.numel() == 1 else value
    if "class_embedding" in image:
        image = _renamed(image, _OPEN_CLIP_VIT)
    if "proj" in image:  # [D, E], a matrix that is multiplied from the right
        image["head.weight"] = image.pop("proj").T.contiguous()
    return _parted(image, rest)


def of_transformers(state: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state of transformers' CLIPModel or SiglipModel -> the backbone's tensors under timm's names; the rest.

    Args:
        prefix: of the text tower's own names: `text_model.` or nothing.
    """
    image, rest = {}, {}
    for name, value in _weights(state):
        if name.startswith("vision_model."):
            image[name.removeprefix("vision_model.")] = value
        elif name.startswith("visual_projection."):
            image[name.replace("visual_projection.", "head.")] = value
        elif name.startswith(("text_model.", "text_projection.")):
            rest[f"clip.text.model.{name.replace('text_model.', prefix)}"] = value
        else:
            rest[f"clip.{name}"] = value.reshape(()) if value.numel() == 1 else value
    image = _fused(_renamed(image, _TRANSFORMERS_VIT))
    return _parted(image, rest)


def _weights(state: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    bare = [(name.removeprefix("module."), value) for name, value in state.items()]
    return [(name, value) for name, value in bare if name.rpartition(".")[2] not in NOT_WEIGHTS]


def _renamed(state: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
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


def _fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values in one layer, as timm has them; of a pool queries alone, keys and values in one."""
    found = dict(state)
    for name in [name for name in state if ".attn.q_proj." in name]:
        parts = [found.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        found[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
    for kind in ("weight", "bias"):
        whole = found.pop(f"attn_pool.attention.in_proj_{kind}", None)
        if whole is not None:
            width = len(whole) // 3
            found |= {f"attn_pool.q.{kind}": whole[:width], f"attn_pool.kv.{kind}": whole[width:]}
    return found


def _parted(image: Mapping[str, Tensor], rest: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What stands above the backbone's last norm is not the backbone's."""
    backbone = {}
    for name, value in image.items():
        if name.startswith("head."):
            rest[f"clip.project.{name.removeprefix('head.').removeprefix('proj.')}"] = value
        elif name.startswith("attn_pool."):
            rest[f"clip.pool.read.{name.removeprefix('attn_pool.')}"] = value
        else:
            backbone[name] = value
    return backbone, rest

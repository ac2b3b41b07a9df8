"""The names of an InternViT's weights: ours are those of the public checkpoints; other layouts in both directions.

ours, InternVL, ViTP        encoder.layers.3.attn.qkv.weight
transformers                encoder.layer.3.attention.{q,k,v}_proj.weight
ViTP's downstream models    layers.3.attn.qkv.weight
a ViT-Adapter of ours       vit.encoder.layers.3.attn.qkv.weight
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

_PREFIXES = ("module.", "backbone.", "vit.", "model.vision_tower.", "vision_tower.", "vision_model.")
# Beginnings of names, ours and `transformers`'.
_EMBEDDINGS = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings.patch_embedding.": "embeddings.patch_embeddings.projection.",
}
_BLOCK = {
    "ls1": "lambda_1",
    "ls2": "lambda_2",
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "attn.proj.": "attention.projection_layer.",
    "mlp.": "mlp.",
}


def convert_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of InternVL, transformers and ViTP's downstream layouts; fuse q, k and v where they are apart.

    Keys that belong to no ViT (a projector, a language model, heads) are left out; where one of q, k and v is not
    there, nothing is fused.
    """
    own: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        name = _from_transformers(re.sub(r"^layers\.", "encoder.layers.", name))
        if name.startswith(("embeddings.", "encoder.")):
            own[name] = value
    for name in [n for n in own if n.endswith((".attn.q_proj.weight", ".attn.q_proj.bias"))]:
        parts = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
        if all(part in own for part in parts):
            own[name.replace("q_proj", "qkv")] = torch.cat([own.pop(part) for part in parts])
    return own


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> those of `transformers`' InternVLVisionModel; q, k and v become three tensors."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        block = re.match(r"encoder\.layers\.(\d+)\.(.+)$", key)
        if block is None:
            out[_renamed(key, _EMBEDDINGS)] = value
            continue
        front, rest = f"encoder.layer.{block[1]}.", block[2]
        if rest.startswith("attn.qkv."):
            for part, third in zip("qkv", value.chunk(3), strict=True):
                out[f"{front}attention.{part}_proj.{rest.removeprefix('attn.qkv.')}"] = third
        else:
            out[front + _renamed(rest, _BLOCK)] = value
    return out


def _from_transformers(name: str) -> str:
    block = re.match(r"encoder\.layer\.(\d+)\.(.+)$", name)
    if block is None:
        return _renamed(name, {theirs: ours for ours, theirs in _EMBEDDINGS.items()})
    back = {theirs: ours for ours, theirs in _BLOCK.items()} | {"attention.": "attn."}  # q, k and v wait for each other
    return f"encoder.layers.{block[1]}.{_renamed(block[2], back)}"


def _renamed(name: str, table: dict[str, str]) -> str:
    for before, after in table.items():
        if name == before or (before.endswith(".") and name.startswith(before)):
            return after + name.removeprefix(before)
    return name

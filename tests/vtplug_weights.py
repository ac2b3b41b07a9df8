"""Weights of VT-PLUG's own parts (REF-VLM @ cdfeccd) by our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]
OF_LAYER = {
    "self_attn_layer_norm": "norm1",
    "encoder_attn_layer_norm": "norm2",
    "final_layer_norm": "norm3",
    "encoder_attn.out_proj": "multihead_attn.out_proj",
    "fc1": "linear1",
    "fc2": "linear2",
}


def below(state: State, prefix: str) -> dict[str, Tensor]:
    """What is under a name, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def detr_decoder(state: State, theirs: str, ours: str) -> dict[str, Tensor]:
    """The weights of a DETR decoder of `transformers` by our names: q, k and v are one."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if not name.startswith(theirs):
            continue
        own = name.removeprefix(theirs).replace("layernorm.", "norm.")
        for there, here in OF_LAYER.items():
            own = own.replace(f".{there}.", f".{here}.")
        if match := re.fullmatch(r"(.*)(self_attn|encoder_attn)\.q_proj\.(weight|bias)", own):
            whole = [state[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            attention = "multihead_attn" if match[2] == "encoder_attn" else "self_attn"
            found[f"{ours}{match[1]}{attention}.in_proj_{match[3]}"] = torch.cat(whole)
        elif not re.search(r"[kv]_proj", own):
            found[ours + own] = value
    return found


def layers(state: State, decoder: str = "decoder.") -> dict[str, Tensor]:
    """Everything that queries look with, of one decoder."""
    named = {"project": "in_proj_queries", "cells": "in_proj_visual_feats"}
    found = {f"layers.{own}.{one}": state[f"{of}.{one}"] for own, of in named.items() for one in ("weight", "bias")}
    found["layers.cells.weight"] = found["layers.cells.weight"].flatten(1)
    found["layers.slots.weight"] = state["query_position_embeddings.weight"]
    return found | detr_decoder(state, decoder, "layers.decoder.")


def three(state: State, ours: str, name: str = "layers.{}") -> dict[str, Tensor]:
    """Three linear layers with ReLU between."""
    return {f"{ours}.{2 * i}.{one}": state[name.format(i) + f".{one}"] for i in range(3) for one in ("weight", "bias")}


def pyramid(state: State) -> dict[str, Tensor]:
    """The pixel decoder of the masks."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        own = name.removeprefix("fpn.")
        own = re.sub(r"layers\.(\d)\.proj\.", r"laterals.\1.", own)
        own = re.sub(r"layers\.(\d)\.block\.", r"blocks.\1.", own)
        own = re.sub(r"^(stem|\w+\.\d)\.0\.", r"\1.", own)
        own = re.sub(r"^(stem|\w+\.\d)\.1\.", r"\1.norm.", own)
        found["pyramid." + own.replace("mask_projection.", "project.")] = value
    return found


def box_weights(state: State) -> dict[str, Tensor]:
    """Of a `query_box` of style detr."""
    return layers(state) | three(below(state, "predictor."), "boxes")


def mask_weights(state: State) -> dict[str, Tensor]:
    """Of a `query_mask`."""
    asks = three(below(state, "mask_embedder."), "asks", "{}.0")
    return layers(state, decoder="query_decoder.") | pyramid(below(state, "pixel_decoder.")) | asks


def filled(decoder: Any, state: State) -> Any:
    """With these weights, and what the original lacks: how well it fits."""
    missing, unexpected = decoder.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("quality." in name for name in missing), missing
    return decoder.eval()

"""The segmentation head in ViSFT's files (`eva_e_segment_heads.ckpt`): there twice, and with classes counted from 1.

Every tensor is in the file a second time, below `segment_head`. Its 80 outputs were trained with COCO's classes counted
from 1, so that output 0 never stood for anything, and the last class, toothbrush, fell on the number of no object and
was learned as such: it has no row. Everywhere else classes count from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vistruct.errors import UserError

ALIAS, OWN = "segment_head.", "segment_"
CLASSES = ("segment_predictor.class_embed.weight", "segment_predictor.class_embed.bias")
ROWS = 81  # for 80 classes and no object
POINTS = 4  # that a cell reads in a map, a head: no shape tells them from the number of heads
NOTE = (
    "its classes are COCO's, counted from 1: output 0 was never used, and toothbrush was learned as no object and has "
    "no row"
)


def each_once(part: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The tensors without their aliases.

    Raises:
        UserError: one that is there twice, and not the same.
    """
    names = {name: f"{OWN}{name.removeprefix(ALIAS)}" if name.startswith(ALIAS) else name for name in part}
    for name, own in names.items():
        if own in part and not torch.equal(part[name], part[own]):
            what = f"{name} and {own} are one tensor in ViSFT's head, and differ here"
            raise UserError(what, where=source, fix=f"leave out of the file what begins with visft_heads.{ALIAS}")
    return {own: part[name] for name, own in names.items()}


def without_output_0(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows of the classes 1 to 79 and of no object, where there are those of 80 classes."""
    return {name: value[1:] if name in CLASSES else value for name, value in part.items()}


def segment_settings(part: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes of the head say of its settings, by the names of `MaskQueriesConfig`."""
    queries, width = part["segment_predictor.query_feat.weight"].shape
    levels = len(part["segment_predictor.level_embed.weight"])
    encoder, decoder = "segment_pixel_decoder.transformer.encoder.layers.", "segment_predictor.transformer_ffn_layers."
    numbers = [
        len({name.removeprefix(front).partition(".")[0] for name in part if name.startswith(front)})
        for front in (encoder, decoder)
    ]
    return {
        "queries": queries,
        "width": width,
        "heads": len(part[f"{encoder}0.self_attn.attention_weights.bias"]) // (levels * POINTS),
        "levels": levels,
        "points": POINTS,
        "encoder_layers": numbers[0],
        "encoder_ffn": len(part[f"{encoder}0.linear1.bias"]),
        "decoder_layers": numbers[1],
        "decoder_ffn": len(part[f"{decoder}0.linear1.bias"]),
    }

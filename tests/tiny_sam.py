"""Promptable segmenters of a few thousand random weights, as folders that `from_pretrained` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2ImageProcessor,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2Processor,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

SIDE = 64  # pixels that they see
_DECODER = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}


def save_sam(folder: Path, seed: int = 0) -> Path:
    """SAM."""
    torch.manual_seed(seed)
    vision = SamVisionConfig(
        hidden_size=16, output_channels=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8,
        window_size=3, global_attn_indexes=[1], mlp_dim=16, num_pos_feats=16, initializer_range=0.2,
    )  # fmt: skip
    prompts = SamPromptEncoderConfig(hidden_size=32, image_size=SIDE, patch_size=8, mask_input_channels=8)
    model = SamModel(
        SamConfig(
            vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=SamMaskDecoderConfig(**_DECODER)
        )
    )
    image = SamImageProcessor(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE})
    return _saved(folder, model, SamProcessor(image))


def save_sam2(folder: Path, seed: int = 0) -> Path:
    """SAM 2."""
    torch.manual_seed(seed)
    hiera = Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[SIDE, SIDE], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    prompts = Sam2PromptEncoderConfig(hidden_size=32, image_size=SIDE, patch_size=16, mask_input_channels=8)
    model = Sam2Model(
        Sam2Config(
            vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=Sam2MaskDecoderConfig(**_DECODER)
        )
    )
    image = Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}, mask_size={"height": 16, "width": 16})
    return _saved(folder, model, Sam2Processor(image, target_size=SIDE))


def _saved(folder: Path, model: Any, processor: Any) -> Path:
    with torch.no_grad():  # what is small at the start would hide a prompt that never arrives
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "positional" not in name:
                torch.nn.init.normal_(weight, std=1.5 / weight[0].numel() ** 0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

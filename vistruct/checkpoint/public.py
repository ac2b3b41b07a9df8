"""Writing public layouts: the weights under their public names, and the configurations that belong to them.

`transformers`' InternVL has the same arithmetic; the original one is described by the configuration of its public code,
which runs on transformers 4.37 and so wants that version's names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, InternVLConfig, InternVLProcessor, InternVLVisionConfig
from transformers.models.got_ocr2 import GotOcr2ImageProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

from vistruct.backbones import intern_vit_names
from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.checkpoint.save import write_json
from vistruct.checkpoint.shards import write_shards
from vistruct.errors import UserError
from vistruct.vlm import chat
from vistruct.vlm.names import LanguageNames, Layout, to_public

TORCH_NAMES = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ORIGINAL_LANGUAGES = ("qwen2", "llama")  # that the public code and its version of `transformers` both have
OLD_ROPE = ("linear", "dynamic")  # scalings that this version knows by a factor alone
# Line ends are written as expressions, because Jinja takes away one that follows a block.
_TEMPLATE = (
    r"{% if SYSTEM and (not messages or messages[0]['role'] != 'system') %}"
    r"{{ '<|im_start|>system\n' + SYSTEM + '<|im_end|>\n' }}{% endif %}"
    r"{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    r"{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    r"{% if not loop.first and 'image' in (part['type'], loop.previtem['type']) %}{{ '\n' }}{% endif %}"
    r"{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>' }}{% elif part['type'] == 'text' %}{{ part['text'] }}"
    r"{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_whole(
    folder: Path, task: Any, state: Mapping[str, Tensor], layout: Layout, dtype: str, max_bytes: int
) -> None:
    """Write a vision-language model: weights, configuration, tokenizer, image processor.

    Args:
        folder: is there, and empty.
        task: Instruct.
        state: its weights, in the type that they are to have.
        dtype: that type, a key of `TORCH_NAMES`.
        max_bytes: of one safetensors file.
    """
    names = LanguageNames.of(task.language)
    if task.language.config.tie_word_embeddings:  # one table, written once
        state = {key: value for key, value in state.items() if not key.startswith(f"language.{names.head}")}
    write_shards(folder, to_public(state, layout, names), max_bytes)
    end, pad = task.tokenizer.convert_tokens_to_ids(chat.END), task.tokenizer.pad_token_id
    most = task.config.max_new_tokens
    GenerationConfig(eos_token_id=end, pad_token_id=pad, max_new_tokens=most, do_sample=False).save_pretrained(folder)
    if layout == "transformers":
        _write_processor(folder, task)
        config = transformers_config(task)
        config.architectures, config.dtype = ["InternVLForConditionalGeneration"], TORCH_NAMES[dtype]
        config.save_pretrained(folder)
        return
    write_json(folder / "config.json", original_config(task, dtype))
    write_json(folder / "preprocessor_config.json", _clip_processor(task))
    task.tokenizer.save_pretrained(folder)


def write_backbone(
    folder: Path, config: InternVitConfig, state: Mapping[str, Tensor], layout: Layout, dtype: str, max_bytes: int
) -> None:
    """Write an InternViT alone: weights and configuration."""
    if layout == "transformers":
        write_shards(folder, intern_vit_names.to_transformers(dict(state)), max_bytes)
        values = InternVLVisionConfig(**_vision_values(config))
        values.architectures, values.dtype = ["InternVLVisionModel"], TORCH_NAMES[dtype]
        values.save_pretrained(folder)
        return
    write_shards(folder, state, max_bytes)
    write_json(folder / "config.json", _original_vision(config, dtype))


def write_published(file: Path, state: Mapping[str, Tensor], key: str) -> None:
    """Write a state dict under its published names as codes read it that know pickles only; it holds tensors alone.

    Args:
        key: under which they look for it; "": it is all there is.
    """
    values = {name: value.contiguous() for name, value in state.items()}
    with file.open("wb") as stream:
        torch.save({key: values} if key else values, stream)
        stream.flush()
        os.fsync(stream.fileno())


def transformers_config(task: Any) -> InternVLConfig:
    """The model as `transformers`' InternVLConfig."""
    language = task.language.config.to_dict() | {"_name_or_path": ""}
    return InternVLConfig(
        vision_config=_vision_values(task.config.backbone),
        text_config=language,
        image_token_id=task.image_token,
        image_seq_length=task.tokens_per_tile,
        downsample_ratio=1 / task.config.shuffle,
        tie_word_embeddings=task.language.config.tie_word_embeddings,
    )


def original_config(task: Any, dtype: str) -> dict[str, Any]:
    """The model as the config.json of the public code; without the names of code files, which are not ours to ship.

    Raises:
        UserError: a language model that the public code does not have.
    """
    tiling = task.config.tiling
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "downsample_ratio": 1 / task.config.shuffle,
        "dynamic_image_size": tiling.max_tiles > 1,
        "force_image_size": tiling.size,
        "llm_config": _original_language(task.language, dtype),
        "max_dynamic_patch": tiling.max_tiles,
        "min_dynamic_patch": tiling.min_tiles,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "tie_word_embeddings": task.language.config.tie_word_embeddings,
        "torch_dtype": TORCH_NAMES[dtype],
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": tiling.thumbnail,
        "vision_config": _original_vision(task.config.backbone, dtype),
    }


def _original_language(language: Any, dtype: str) -> dict[str, Any]:
    config = language.config
    if config.model_type not in ORIGINAL_LANGUAGES:
        known = " and ".join(ORIGINAL_LANGUAGES)
        what = f"the original layout has language models of type {known} only, not {config.model_type}"
        raise UserError(what, fix="--format transformers")
    values = config.to_dict()
    rope = values.pop("rope_parameters")
    kind = rope.get("rope_type", "default")
    if kind != "default" and kind not in OLD_ROPE:
        what = f"the original layout has no rotary positions of type {kind}"
        raise UserError(what, fix="--format transformers")
    # Of transformers: only some families say the width of a head.
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head * config.num_attention_heads != config.hidden_size:
        what = f"the original layout has no heads of {head} numbers in a width of {config.hidden_size}"
        raise UserError(what, fix="--format transformers")
    dropped = ("_name_or_path", "transformers_version", "dtype", "layer_types", "head_dim")
    return {k: v for k, v in values.items() if k not in dropped} | {
        "architectures": [type(language).__name__],
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None if kind == "default" else {"type": kind, "factor": rope["factor"]},
        "torch_dtype": TORCH_NAMES[dtype],
    }


def _vision_values(config: InternVitConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "image_size": [config.image_size, config.image_size],
        "patch_size": [config.patch, config.patch],
        "num_channels": config.channels,
        "attention_bias": config.qkv_bias,
        "use_qk_norm": False,
        "norm_type": "layer_norm",
        "layer_norm_eps": config.norm_eps,
        "layer_scale_init_value": config.layer_scale,
        "use_absolute_position_embeddings": True,
        "use_mean_pooling": True,  # no norm behind the last block
    }


def _original_vision(config: InternVitConfig, dtype: str) -> dict[str, Any]:
    return {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",  # the public class has this name at every size
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "image_size": config.image_size,
        "patch_size": config.patch,
        "num_channels": config.channels,
        "qkv_bias": config.qkv_bias,
        "qk_normalization": False,
        "norm_type": "layer_norm",
        "layer_norm_eps": config.norm_eps,
        "hidden_act": "gelu",
        "initializer_factor": config.layer_scale,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "drop_path_rate": 0.0,  # a setting of training, which its scripts give anew
        "use_flash_attn": False,
        "torch_dtype": TORCH_NAMES[dtype],
    }


def _write_processor(folder: Path, task: Any) -> None:
    """Tokenizer and image processor of `transformers`, cutting and normalising as the model was trained."""
    tiling, size = task.config.tiling, {"height": task.config.tiling.size, "width": task.config.tiling.size}
    normal: dict[str, Any] = {"image_mean": list(task.config.mean), "image_std": list(task.config.std)}
    task.tokenizer.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        extra_special_tokens={
            "start_image_token": chat.IMAGE_START,
            "end_image_token": chat.IMAGE_END,
            "context_image_token": chat.IMAGE_TOKEN,
            # The processor asks for one; a token of its own would need a row of weights that nothing has trained, and
            # whatever it is, no text can hold it there.
            "video_token": task.tokenizer.convert_ids_to_tokens(task.hidden_token),
        },
    )
    InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            size=size, crop_to_patches=True, min_patches=tiling.min_tiles, max_patches=tiling.max_tiles, **normal
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size, **normal),
        image_seq_length=task.tokens_per_tile,
        chat_template=chat_template(task.config.system),
    ).save_pretrained(folder)


def chat_template(system: str) -> str:
    """ChatML as `vlm.chat` writes it, in Jinja; images and texts stand in their order, a line each.

    Args:
        system: said where a conversation does not begin with a system turn; "": nothing.
    """
    return _TEMPLATE.replace("SYSTEM", json.dumps(system, ensure_ascii=False))


def _clip_processor(task: Any) -> dict[str, Any]:
    """What lies beside the original weights; its public code reads the mean and the rest from its own source."""
    size = task.config.tiling.size
    return {
        "crop_size": size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": list(task.config.mean),
        "image_std": list(task.config.std),
        "resample": 3,
        "size": size,
    }

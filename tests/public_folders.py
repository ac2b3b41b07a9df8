"""Folders as the public makes them: an InternVL in either layout with few weights, and one of our own models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from conftest import GOLDEN
from safetensors.torch import load_file, save_file
from toy_vlm import QWEN, tokenizer
from transformers import InternVLConfig, InternVLForConditionalGeneration

from vistruct.checkpoint.layouts import Architecture, instruct_config
from vistruct.checkpoint.load import MODEL_FORMAT
from vistruct.checkpoint.tensors import write_tensors
from vistruct.config import Run
from vistruct.contracts import DataInfo
from vistruct.data.dataset import ChatDataConfig
from vistruct.engine.run_dir import info_to_dict
from vistruct.tasks.instruct import Instruct, InstructConfig
from vistruct.vlm.batch import ChatBatch

GOLDEN_CONFIG = {
    "architectures": ["InternVLChatModel"], "model_type": "internvl_chat",
    "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
    "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": 56, "max_dynamic_patch": 4,
    "min_dynamic_patch": 1, "ps_version": "v2", "select_layer": -1, "use_thumbnail": True, "template": "internvl2_5",
    "llm_config": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 300,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "use_bfloat16": True, "moe_config": None, "eos_token_id": 151643,
    },
    "vision_config": {
        "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "hidden_size": 64,
        "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "patch_size": 14, "image_size": 56,
        "norm_type": "layer_norm", "layer_norm_eps": 1e-6, "qkv_bias": True, "qk_normalization": False,
        "hidden_act": "gelu", "drop_path_rate": 0.1, "initializer_factor": 0.1,
    },
}  # fmt: skip


def golden_weights() -> dict[str, torch.Tensor]:
    """The original code's weights under the original names."""
    vision = load_file(GOLDEN / "intern_vit/weights.safetensors")
    return {f"vision_model.{k}": v for k, v in vision.items()} | load_file(GOLDEN / "vlm/weights.safetensors")


def original_folder(folder: Path, **changes: Any) -> Path:
    """The golden model in the original layout; `changes` are of its config.json, with dots into its parts."""
    folder.mkdir(parents=True)
    save_file(golden_weights(), folder / "model.safetensors")
    config = json.loads(json.dumps(GOLDEN_CONFIG))
    for path, value in changes.items():
        part, _, name = path.rpartition("__")
        (config[part] if part else config)[name] = value
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer(300).save_pretrained(folder)
    return folder


def transformers_folder(folder: Path, **language: Any) -> InternVLForConditionalGeneration:
    """`transformers`' own InternVL with random weights, saved by itself; `language` are options of its text part."""
    torch.manual_seed(0)
    text = {"model_type": "qwen2", **QWEN, "tie_word_embeddings": False, **language}
    config = InternVLConfig(
        vision_config={
            "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128,
            "image_size": [56, 56], "patch_size": [14, 14], "attention_bias": True,
        },
        text_config=text, downsample_ratio=0.5, image_token_id=tokenizer().convert_tokens_to_ids("<IMG_CONTEXT>"),
        tie_word_embeddings=text["tie_word_embeddings"],
    )  # fmt: skip
    theirs = InternVLForConditionalGeneration(config).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.1)
    theirs.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return theirs


def task_of(folder: Path, assets: Path, architecture: Architecture | None = None) -> Instruct:
    """A task as the folder says it is, with random weights."""
    config = InstructConfig.model_validate({**dict(architecture or instruct_config(folder)), "vrl": "off"})
    torch.manual_seed(1)
    return config.build(DataInfo(), assets).eval()


def ship_task(folder: Path, task: Any, info: DataInfo | None = None) -> Path:
    """One of our model directories, as a finished run leaves it."""
    folder.mkdir(parents=True)
    run = Run(task=task.config, data=ChatDataConfig(jsonl=Path("x.jsonl")), steps=1, batch=1)
    digest = write_tensors(folder / "model.safetensors", task.state_dict())
    if isinstance(task, Instruct):
        task.tokenizer.save_pretrained(folder / "tokenizer")
    values = {
        "format": MODEL_FORMAT, "run": run.model_dump(mode="json"), "task": run.only.task.model_dump(mode="json"),
        "info": info_to_dict(info or DataInfo()), "sha256": digest, "stream": "main",
        "input": {"mean": task.config.mean, "std": task.config.std}, "licence": "CC BY-NC 4.0",
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(values))
    return folder


def golden_batch(io: Any, case: str) -> ChatBatch:
    """The golden images are already normalised floats; they pass through as they are (mean 0, std 1, times 255)."""
    flags = io[f"{case}.image_flags"].squeeze(1).bool()
    seen = io[f"{case}.attention_mask"].bool()
    rows = [str(i) for i in range(len(seen))]
    return ChatBatch(
        ids=rows, image_ids=rows, owners=list(range(len(rows))), families=rows, seeds=[0] * len(rows),
        lengths=seen.sum(1).tolist(), tiles=io[f"{case}.pixel_values"][flags] * 255, tile_seeds=[0] * int(flags.sum()),
        mentions=torch.arange(int(flags.sum())), input_ids=io[f"{case}.input_ids"][seen],
        labels=io[f"{case}.labels"][seen], questions=rows, truths=rows, others=[()] * len(rows),
        forms=[None] * len(rows), answers=[None] * len(rows), objects=[], whole_tiles=[],
    )  # fmt: skip

"""Small CLIPs with random weights, in the public layouts, made by the libraries that they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vistruct.checkpoint.clip import load_clip
from vistruct.checkpoint.clip_layouts import public_clip
from vistruct.contracts import DataInfo
from vistruct.tasks.match import Match, MatchConfig

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}
OPEN_CLIP: dict[str, Any] = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}
TEXT_HF = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION_HF = TEXT_HF | {"hidden_size": 32, "intermediate_size": 50, "image_size": 32, "patch_size": 8}


def shuffled(model: nn.Module, seed: int = 0, std: float = 0.1) -> Any:
    """Weights that tell all inputs apart; the scale stays."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.numel() > 1:
            nn.init.normal_(parameter, std=std)
    return model.eval()


def open_clip_file(folder: Path) -> tuple[Any, Path, Path]:
    """A model of open_clip; its weights, and its configuration."""
    import open_clip

    model = shuffled(open_clip.CLIP(**OPEN_CLIP))
    weights, described = folder / "toy.pt", folder / "toy.json"
    torch.save(model.state_dict(), weights)
    described.write_text(json.dumps(OPEN_CLIP))
    return model, weights, described


def transformers_folder(folder: Path, kind: str) -> Any:
    """A CLIPModel or SiglipModel, saved with CLIP's tokenizer."""
    import open_clip
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, SiglipConfig, SiglipModel

    if kind == "clip":
        model: Any = CLIPModel(CLIPConfig(text_config=TEXT_HF, vision_config=VISION_HF, projection_dim=12))
    else:
        text = TEXT_HF | {"projection_size": 32, "vocab_size": 49408}
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION_HF))
    shuffled(model).save_pretrained(folder)
    ours = open_clip.SimpleTokenizer()
    ends = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    (folder / "vocab.json").write_text(json.dumps({ends.get(word, word): n for word, n in ours.encoder.items()}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in ours.bpe_ranks)]))
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    return model


def match_of(source: Path, assets: Path, model: str | None = None) -> Match:
    """A public CLIP as one of our tasks, with its weights."""
    found = public_clip(source, model)
    task = MatchConfig(backbone=found.backbone, clip=found.clip, mean=found.mean, std=found.std)
    built = task.build(DataInfo(), assets).eval()
    load_clip(built, source)
    return built


def eva_clip_file(folder: Path, visual: dict[str, Tensor], name: str, **vision: Any) -> tuple[Path, Path]:
    """A file as EVA-CLIP's releases are, with these weights of the image tower; and its configuration as there."""
    import open_clip

    text = shuffled(open_clip.CustomTextCLIP(24, VISION, TEXT).text, seed=1, std=0.5).state_dict()
    state = {f"visual.{key}": value for key, value in visual.items()} | {f"text.{k}": v for k, v in text.items()}
    described, weights = folder / "eva.json", folder / name
    torch.save(state | {"logit_scale": torch.tensor(3.0)}, weights)
    own = {"eva_model_name": "eva-clip-toy", "patch_size": 14, "xattn": True, "fusedLN": True} | vision
    tower = TEXT | {"xattn": False, "fusedLN": True}
    described.write_text(json.dumps({"embed_dim": 24, "vision_cfg": own, "text_cfg": tower}))
    return weights, described

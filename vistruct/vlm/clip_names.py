"""What public CLIPs call their tensors, and what ours does: `backbone.`, `clip.project.`, `clip.pool.`, `clip.text.`.

open_clip      visual.* with the text tower beside it or below text.*; visual.trunk.* where timm has the image tower
EVA-CLIP       visual.* as timm's Eva, with a head; text.*
transformers   vision_model.*, visual_projection; text_model.*, text_projection
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vistruct.backbones.clip_vit_names import OPEN_CLIP, TRANSFORMERS, fused, renamed

NOT_WEIGHTS = ("attn_mask", "position_ids", "input_resolution", "context_length", "vocab_size")
_OF_TEXT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")


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
        image = renamed(image, OPEN_CLIP)
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
    image = fused(renamed(image, TRANSFORMERS))
    return _parted(image, rest)


def _weights(state: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    bare = [(name.removeprefix("module."), value) for name, value in state.items()]
    return [(name, value) for name, value in bare if name.rpartition(".")[2] not in NOT_WEIGHTS]


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

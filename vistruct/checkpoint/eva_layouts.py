"""EVA's ViTs as `timm` and as LAVIS keep them: what these cannot hold, written and read back.

timm    model.safetensors, for `timm.create_model(NAME, checkpoint_path=...)`: without the row of positions of a class
        token that is not there
LAVIS   model.pth, a checkpoint of BLIP-2 that holds nothing but `visual_encoder.*`: without EVA-ViT-g's last block and
        last norm, which LAVIS leaves out
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vistruct.backbones.eva_vit import EVA02_E, EVA_G, EvaVit, EvaVitConfig
from vistruct.checkpoint.public import write_published
from vistruct.checkpoint.tensors import read_tensors, write_tensors
from vistruct.checkpoint.verify import Verified, rounded, same_tensors, verify_features
from vistruct.checkpoint.weights import read_public
from vistruct.errors import UserError

EvaLayout = Literal["backbone-timm", "backbone-lavis"]
EVA_LAYOUTS: tuple[str, ...] = get_args(EvaLayout)
_FRONT = "visual_encoder."  # of the ViT in LAVIS's BLIP-2


def check_eva(backbone: Any, format: str) -> tuple[str, ...]:
    """What a reader of one of `EVA_LAYOUTS` must know.

    Raises:
        UserError: a backbone that it cannot hold.
    """
    if not isinstance(backbone, EvaVit):
        raise UserError(f"{format} holds an EVA ViT, and this backbone is another", fix="--format backbone-plain")
    config = backbone.config
    if format == "backbone-timm":
        if not config.final_norm:
            raise UserError("timm's EVA has a norm behind its last block", fix="--format backbone-original")
        return (
            _use_timm(config),
            f"timm antialiases positions of images other than {config.image_size} x {config.image_size}, and its "
            "features of them differ; timm.layers.resample_abs_pos_embed(..., antialias=False) gives these",
        )
    lacks = (
        "no norms behind attention" if config.post_norm else "always a class token" if not config.class_token else ""
    )
    if lacks:
        raise UserError(f"LAVIS's ViT has {lacks}", fix="--format backbone-original")
    if config.final_norm and config.depth != EVA_G.depth:
        what = f"LAVIS's ViT has no last norm, and leaves out of {EVA_G.depth} blocks the last too; these are"
        raise UserError(f"{what} {config.depth} with a norm", fix="--format backbone-original")
    left = f"block {config.depth - 1} and the last norm are left out, as LAVIS does: what they learned is not in it"
    return (left,) if config.final_norm else ()


def write_eva(folder: Path, backbone: EvaVit, format: str, dtype: str) -> Verified:
    """Write one of `EVA_LAYOUTS` and read it back; afterwards `backbone` has the rounded weights.

    Raises:
        UserError: it is not the same backbone.
    """
    return (_write_timm if format == "backbone-timm" else _write_lavis)(folder, backbone, dtype)


def _write_timm(folder: Path, backbone: EvaVit, dtype: str) -> Verified:
    state = rounded(backbone.state_dict(), dtype)
    if not backbone.config.class_token:
        state["pos_embed"] = state["pos_embed"][:, 1:].contiguous()
    write_tensors(folder / "model.safetensors", state)
    same_tensors(state, read_tensors(folder / "model.safetensors"), [], folder)

    def theirs(image: Tensor) -> Tensor:
        model = _timm_model(backbone.config)
        model.load_state_dict(
            {name: value.float() for name, value in read_tensors(folder / "model.safetensors").items()}
        )
        return model.eval().forward_features(image)

    return verify_features(folder, backbone, dtype, theirs)


def _timm_model(config: EvaVitConfig) -> Any:
    from timm.models.eva import Eva  # seconds to import

    return Eva(
        img_size=config.image_size,
        patch_size=config.patch,
        in_chans=config.channels,
        num_classes=0,
        global_pool="token" if config.class_token else "avg",
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_width / config.width,
        use_post_norm=config.post_norm,
        class_token=config.class_token,
        use_fc_norm=False,
    )


def _use_timm(config: EvaVitConfig) -> str:
    sizes = {(EVA_G.width, EVA_G.depth): "eva_giant_patch14_clip_224"}
    sizes[EVA02_E.width, EVA02_E.depth] = "eva02_enormous_patch14_clip_224"
    name = sizes.get((config.width, config.depth), "NAME")
    more = "" if config.class_token else ", class_token=False, global_pool='avg', use_fc_norm=False"
    return f"timm.create_model('{name}', num_classes=0{more}, checkpoint_path='FOLDER/model.safetensors') reads it"


def _write_lavis(folder: Path, backbone: EvaVit, dtype: str) -> Verified:
    config = backbone.config
    if config.final_norm:
        config = config.model_copy(update={"depth": config.depth - 1, "final_norm": False})
    with torch.device("meta"):
        part = config.build().eval()
    part.load_state_dict(backbone.state_dict(), strict=False, assign=True)
    state = rounded(part.state_dict(), dtype)
    write_published(folder / "model.pth", {f"{_FRONT}{name}": value for name, value in state.items()}, "model")
    found, _ = read_public(folder)
    same_tensors(state, {name.removeprefix(_FRONT): value for name, value in found.items()}, [], folder)
    return verify_features(folder, part, dtype)

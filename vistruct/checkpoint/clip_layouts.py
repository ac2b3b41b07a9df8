"""Public CLIPs as parts of ours: what their configurations say, of open_clip, EVA-CLIP and `transformers`.

A folder says itself what it holds (`open_clip_config.json`, or config.json of `transformers`). A file of weights does
not: its name in open_clip is asked for, with a pretrained tag where one name stands for several arithmetics, or a file
in the form of open_clip's and EVA-CLIP's own model configurations.
Differs: what ours cannot carry (ResNets, text towers of other libraries, layer scale) is refused by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vistruct.backbones.eva_vit import EVA02_E, EVA_G, EvaVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.config import Part
from vistruct.errors import UserError, closest
from vistruct.files.json_files import read_record
from vistruct.transforms.sizing import Size
from vistruct.vlm.clip import CLIP_MEAN, CLIP_STD, ClipConfig, PoolConfig
from vistruct.vlm.text_tower import TextConfig, open_clip

OPEN_CLIP, TRANSFORMERS = "open_clip_config.json", "config.json"
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
_KINDS = ("clip", "siglip")  # model_type
_EVA = {
    "eva_giant_patch14_224": EVA_G,
    "eva_giant_patch14_clip_224": EVA_G,
    "eva02_enormous_patch14_clip_224": EVA02_E,
}
_EVA_FILES = (  # of EVA-CLIP's release, and what open_clip calls them; the longer names first
    ("EVA01_CLIP_g_14_plus", "EVA01-g-14-plus"),
    ("EVA01_CLIP_g_14", "EVA01-g-14"),
    ("EVA02_CLIP_B", "EVA02-B-16"),
    ("EVA02_CLIP_L_336", "EVA02-L-14-336"),
    ("EVA02_CLIP_L", "EVA02-L-14"),
    ("EVA02_CLIP_E_psz14_plus", "EVA02-E-14-plus"),
    ("EVA02_CLIP_E_psz14", "EVA02-E-14"),
)
_ACTS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
_CLIP_VIT = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
_EVA_VIT = _CLIP_VIT | {"eva_model_name", "drop_path_rate", "xattn", "postnorm", "fusedLN", "qkv_bias"}
_NO_NUMBERS = {"xattn", "fusedLN"}  # of EVA-CLIP's text towers: how it is computed, not what
OTHER = "use a CLIP with a ViT: EVA02-E-14-plus, EVA01-g-14, ViT-B-16-SigLIP, ..."


@dataclass(frozen=True, kw_only=True)
class PublicClip:
    """What a public model is made of, and how it is shown images."""

    backbone: Part
    clip: ClipConfig
    size: Size
    layout: Literal["open_clip", "transformers"] = "open_clip"
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD


def is_public_clip(path: Path) -> bool:
    """Whether a path may be a CLIP of others: a folder that says so, or a file of weights."""
    if path.is_file():
        return path.suffix in SUFFIXES
    if (path / "model.json").is_file() or (path / "run.yaml").is_file():
        return False
    return (path / OPEN_CLIP).is_file() or _model_type(path) in _KINDS


def public_clip(source: Path, model: str | None = None) -> PublicClip:
    """What a CLIP of others is made of; no weight is read.

    Args:
        model: of a file: its name in open_clip (NAME or NAME/TAG), or a json file that describes it.

    Raises:
        UserError: it cannot be told, or ours cannot carry it.
    """
    if source.is_dir() and model is None:
        if _model_type(source) in _KINDS:
            return _of_transformers(source)
        if not (source / OPEN_CLIP).is_file():
            what = f"no CLIP here: neither {OPEN_CLIP}, nor {TRANSFORMERS} of model_type {' or '.join(_KINDS)}"
            raise UserError(what, where=source, fix="give the folder or the file of a CLIP; of a file --model NAME too")
        values = read_record(source / OPEN_CLIP, dict[str, Any], "copy the folder again")
        found = _of_open_clip(_part(values, "model_cfg", source), source)
        return _shown(found, values.get("preprocess_cfg") or {})
    model = model or next((name for start, name in _EVA_FILES if source.name.startswith(start)), None)
    if model is None:
        what = "a file of weights does not say which CLIP it is"
        fix = f"--model NAME, as open_clip calls it: {_near(source.stem)}; or --model FILE.json that describes it"
        raise UserError(what, where=source, fix=fix)
    if model.endswith(".json"):
        values = read_record(Path(model), dict[str, Any], "a json as open_clip's model configurations are")
        found = _of_open_clip(_part({"model_cfg": values.get("model_cfg", values)}, "model_cfg", Path(model)), source)
        return _shown(found, values.get("preprocess_cfg") or {})
    return _named(model, source)


def _named(model: str, source: Path) -> PublicClip:
    library = open_clip()
    name, _, tag = model.partition("/")
    values = library.get_model_config(name)
    if values is None:
        fix = f"--model {_near(name)}"
        raise UserError(f"open_clip {library.__version__} has no model {name!r}", where="--model", fix=fix)
    tags = {one: library.get_pretrained_cfg(name, one) for one in library.list_pretrained_tags_by_model(name)}
    if tag and tag not in tags:
        fix = f"--model {name}/{closest(tag, tags)}" if tags else f"--model {name}"
        raise UserError(f"open_clip knows no weights {tag!r} of {name}", where="--model", fix=fix)
    kept = ("mean", "std", "resize_mode", "quick_gelu")
    ways: dict[tuple[Any, ...], str] = {}
    for one, told in tags.items():
        ways.setdefault(tuple(told.get(key) for key in kept), one)
    if len(ways) > 1 and not tag:
        what = (
            f"weights called {name} were trained in {len(ways)} ways (activation, mean, resizing), which no file shows"
        )
        fix = f"--model {name}/TAG of the one that these are, such as {', '.join(f'{name}/{t}' for t in ways.values())}"
        raise UserError(what, where="--model", fix=fix)
    told = tags[tag] if tag else next(iter(tags.values()), {})
    if told.get("quick_gelu"):
        values["quick_gelu"] = True
    return _shown(_of_open_clip(values, source), told)


def _near(name: str) -> str:
    """Models of open_clip that a name may mean."""
    known = {one.lower().replace("_", "-"): one for one in open_clip().list_models()}
    found = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=4)
    return " or ".join(known[one] for one in found) or "EVA02-E-14-plus, ViT-L-14/openai, ViT-B-16-SigLIP, ..."


def _of_open_clip(values: Mapping[str, Any], source: Path) -> PublicClip:
    """Of a model configuration as open_clip and EVA-CLIP write them."""
    vision, text = _part(values, "vision_cfg", source), _part(values, "text_cfg", source)
    quick, width = bool(values.get("quick_gelu", False)), int(values.get("embed_dim", 0))
    if not width:
        raise UserError("embed_dim is not said", where=source, fix="complete the model configuration")
    size = int(vision.get("image_size", 224))
    if vision.get("eva_model_name"):
        backbone, pool = _eva(vision, source), PoolConfig(project="bias")
    elif vision.get("timm_model_name"):
        backbone, pool = _of_timm(vision, size, source)
    else:
        backbone, pool = _vit(vision, quick, source), PoolConfig()
    options = {name: value for name, value in text.items() if name not in _NO_NUMBERS}
    tokenizer = source if source.is_dir() else source.parent
    tower = TextConfig(
        options=options,
        width=width,
        quick_gelu=quick,
        tokenizer=tokenizer if options.get("hf_tokenizer_name") else None,
    )
    has_bias = values.get("init_logit_bias") is not None
    clip = ClipConfig(pool=pool, text=tower, has_bias=has_bias)
    return PublicClip(backbone=backbone, clip=clip, size=_size(size))


def _eva(vision: Mapping[str, Any], source: Path) -> EvaVitConfig:
    odd = sorted(name for name in vision.keys() - _EVA_VIT if vision[name])
    if odd:
        fix = "--model with open_clip's name of it: EVA02-B-16, EVA02-L-14, EVA02-L-14-336"
        raise UserError(f"{', '.join(odd)} of this EVA are not carried here", where=source, fix=fix)
    width = int(vision["width"])
    return EvaVitConfig(
        width=width,
        depth=int(vision["layers"]),
        heads=width // int(vision.get("head_width", 64)),
        mlp_width=int(width * float(vision.get("mlp_ratio", 4.0))),
        patch=int(vision["patch_size"]),
        image_size=int(vision.get("image_size", 224)),
        post_norm=bool(vision.get("postnorm", False)),
        class_token=True,
    )


def _of_timm(vision: Mapping[str, Any], size: int, source: Path) -> tuple[Part, PoolConfig]:
    name, pool, project = vision["timm_model_name"], vision.get("timm_pool"), vision.get("timm_proj")
    if pool not in ("token", "map") or project not in (None, "", "none", "linear"):
        raise UserError(f"an image tower of timm with pool {pool!r} and {project!r}", where=source, fix=OTHER)
    is_bare = project == "linear" and not vision.get("timm_proj_bias", False)
    told: dict[str, Any] = {"project": "none" if project == "none" else "linear" if is_bare else "bias"}
    if name in _EVA:
        return _EVA[name].model_copy(update={"class_token": True, "image_size": size}), PoolConfig(**told)
    if pool == "map":
        told |= _query_of(name)
    return TimmConfig(name=name, image_size=size, final_norm=True), PoolConfig(**told)


def _query_of(name: str) -> dict[str, Any]:
    """How a model of timm pools by a query, without memory for its weights."""
    import timm
    from timm.layers.activations import GELUTanh

    with torch.device("meta"):
        read: Any = timm.create_model(name).attn_pool
    return {
        "by": "query",
        "heads": read.num_heads,
        "mlp_width": read.mlp.fc1.out_features,
        "act": "gelu_tanh" if isinstance(read.mlp.act, GELUTanh) else "gelu",
        "norm_eps": read.norm.eps,
    }


def _vit(vision: Mapping[str, Any], quick: bool, source: Path) -> TimmConfig:
    odd = sorted(vision.keys() - _CLIP_VIT)
    if odd or not isinstance(vision.get("layers", 12), int):
        what = f"{', '.join(odd)} of this image tower" if odd else "a ResNet as the image tower"
        raise UserError(f"{what} cannot be carried here", where=source, fix=OTHER)
    width = int(vision.get("width", 768))
    return _clip_vit(
        width=width,
        depth=int(vision.get("layers", 12)),
        heads=width // int(vision.get("head_width", 64)),
        ratio=float(vision.get("mlp_ratio", 4.0)),
        patch=int(vision.get("patch_size", 16)),
        size=int(vision.get("image_size", 224)),
        act="quick_gelu" if quick else "gelu",
    )


def _clip_vit(
    *, width: int, depth: int, heads: int, ratio: float, patch: int, size: int, act: str, by_query: bool = False
) -> TimmConfig:
    """CLIP's ViT, or SigLIP's, of any size, as timm builds them."""
    name = "vit_base_patch16_siglip_224" if by_query else "vit_base_patch16_clip_224"
    options: dict[str, Any] = {
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "patch_size": patch,
        "act_layer": act,
    }
    options |= {"mlp_ratio": ratio}
    return TimmConfig(name=name, image_size=size, final_norm=True, options=options)


def _of_transformers(folder: Path) -> PublicClip:
    """A CLIPModel or SiglipModel."""
    from transformers import CLIPConfig, SiglipConfig

    values = read_record(folder / TRANSFORMERS, dict[str, Any], "copy the folder again")
    is_siglip = values["model_type"] == "siglip"
    told = {name: value for name, value in values.items() if name != "model_type"}
    config: Any = SiglipConfig(**told) if is_siglip else CLIPConfig(**told)
    vision, text = config.vision_config, config.text_config
    eps = 1e-6 if is_siglip else 1e-5  # timm's own
    if vision.hidden_act not in _ACTS or vision.layer_norm_eps != eps or vision.num_channels != 3:
        what = (
            f"an image tower with {vision.hidden_act}, norms of {vision.layer_norm_eps}, {vision.num_channels} channels"
        )
        raise UserError(what, where=folder / TRANSFORMERS, fix=OTHER)
    act = _ACTS[vision.hidden_act]
    backbone = _clip_vit(
        width=vision.hidden_size,
        depth=vision.num_hidden_layers,
        heads=vision.num_attention_heads,
        ratio=(vision.intermediate_size + 0.5) / vision.hidden_size,  # rounded down there
        patch=vision.patch_size,
        size=vision.image_size,
        act=act,
        by_query=is_siglip,
    )
    pool = PoolConfig()
    if is_siglip:
        own: dict[str, Any] = {"heads": vision.num_attention_heads, "mlp_width": vision.intermediate_size, "act": act}
        pool = PoolConfig(by="query", project="none", **own)
    kept = set(type(text)().to_dict()) - set(_general())
    options = {name: value for name, value in text.to_dict().items() if name in kept}
    options |= {"model_type": text.model_type, "eos_token_id": text.eos_token_id}
    width = text.projection_size if is_siglip else config.projection_dim
    if not is_siglip:
        options["projection_dim"] = width
    tower = TextConfig(library="transformers", options=options, width=width, tokenizer=folder)
    clip = ClipConfig(pool=pool, text=tower, has_bias=is_siglip)
    found = PublicClip(backbone=backbone, clip=clip, size=_size(vision.image_size), layout="transformers")
    processor = folder / "preprocessor_config.json"
    shown = read_record(processor, dict[str, Any], "copy the folder again") if processor.is_file() else {}
    is_squashed = is_siglip if not shown else not shown.get("do_center_crop", False)
    names = {"mean": shown.get("image_mean"), "std": shown.get("image_std")}
    if is_siglip and not shown:
        names = dict.fromkeys(names, (0.5, 0.5, 0.5))
    return _shown(found, {**names, "resize_mode": "squash" if is_squashed else "shortest"})


def _general() -> dict[str, Any]:
    from transformers import PreTrainedConfig

    return PreTrainedConfig().to_dict()


def _shown(found: PublicClip, told: Mapping[str, Any]) -> PublicClip:
    """With the mean, deviation and way of resizing that are said of it."""
    side = found.size.height
    size = _size(side) if told.get("resize_mode") != "squash" else _size(side).model_copy(update=_SQUASHED)
    mean, std = (tuple(told.get(name) or default) for name, default in (("mean", found.mean), ("std", found.std)))
    return replace(found, size=size, mean=mean, std=std)


_SQUASHED = {"middle": None, "keep_aspect": False}


def _size(side: int) -> Size:
    """The shorter side brought to so many pixels, and as many from the middle of the longer: CLIP's way."""
    return Size(height=side, width=side, middle=1.0, interpolation="bicubic")


def _model_type(folder: Path) -> str:
    file = folder / TRANSFORMERS
    return str(read_record(file, dict[str, Any], "copy it again").get("model_type")) if file.is_file() else ""


def _part(values: Mapping[str, Any], name: str, where: Path) -> dict[str, Any]:
    part = values.get(name)
    if not isinstance(part, dict):
        raise UserError(f"no {name} in the model configuration", where=where, fix="a json as open_clip's are")
    return part

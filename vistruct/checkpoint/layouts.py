"""Whole vision-language models in public layouts: what their folders say, as parts of ours; and the named ones.

Two layouts of InternVL are in use. The original has `vision_config`, `llm_config` and the tiling in config.json; that
of `transformers` has `vision_config`, `text_config`, and the tiling beside it in the image processor's file. What the
weights are called in each is in `names`.
Source: InternVL2.5 (arXiv:2412.05271) and its public configurations.
Differs: what ours cannot carry (another pixel shuffle, norms of queries and keys, features of an inner layer) is
refused by name and never approximated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from pydantic import Field, ValidationError
from transformers import AutoConfig, InternVLConfig, PreTrainedConfig

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.checkpoint.shards import names_in
from vistruct.config import Part
from vistruct.errors import UserError
from vistruct.files.json_files import read_record
from vistruct.vlm import internlm2
from vistruct.vlm.language import LanguageConfig, known_options
from vistruct.vlm.names import Layout
from vistruct.vlm.tiling import Tiling

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OTHER = "use a model of the InternVL2.5 family (InternViT-300M; pixel shuffle v2), or load its backbone alone"


class Architecture(Part):
    """The parts of a whole model; `InstructConfig` has fields of these names. Training settings are not in it."""

    backbone: InternVitConfig
    language: LanguageConfig
    tiling: Tiling = Tiling()
    shuffle: int = Field(2, gt=0)  # patches merged into one visual token, per side
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of pixels in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD


def _rope(theta: float, **scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **scaling}}


MODELS = {
    # 938.2 M parameters; shapes as in the key table of tests/golden/vlm
    "internvl2_5-1b": Architecture(
        backbone=InternVitConfig(),
        language=LanguageConfig(
            model_type="qwen2",
            options={
                "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
                "intermediate_size": 4864, "vocab_size": 151_674, "max_position_embeddings": 32_768,
                "rms_norm_eps": 1e-6, **_rope(1e6), "tie_word_embeddings": False,
            },
        ),
    ),
    # 2,205.8 M parameters; its language model is an InternLM2.5-1.8B, read as the Llama that it is
    "internvl2_5-2b": Architecture(
        backbone=InternVitConfig(),
        language=LanguageConfig(
            model_type="llama",
            options={
                "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 8,
                "intermediate_size": 8192, "vocab_size": 92_553, "max_position_embeddings": 32_768,
                "rms_norm_eps": 1e-5, **_rope(1e6, rope_type="dynamic", factor=2.0), "tie_word_embeddings": False,
            },
        ),
    ),
}  # fmt: skip


def layout_of(folder: Path) -> Layout:
    """Which public layout a folder has.

    Raises:
        UserError: not the folder of a whole InternVL.
    """
    values = _json(folder / "config.json")
    if values.get("model_type") == "internvl_chat" or "llm_config" in values:
        return "original"
    if values.get("model_type") == "internvl":
        return "transformers"
    raise UserError(
        f"not a whole InternVL: config.json is of model_type {values.get('model_type')!r}",
        where=folder,
        fix="give a folder with an InternVL in the original or in `transformers`' layout, or one of our runs",
    )


def instruct_config(folder: Path) -> Architecture:
    """What a public folder holds, as parts of ours; its tokenizer is named and not read.

    Raises:
        UserError: no such folder, an incomplete configuration, or something that ours does not carry.
    """
    file = folder / "config.json"
    values = _json(file)
    read = _original if layout_of(folder) == "original" else _transformers
    try:
        return read(values, folder)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where=file, fix="correct config.json"
        ) from error


def _original(values: Mapping[str, Any], folder: Path) -> Architecture:
    file = folder / "config.json"
    vision, language = _part(values, "vision_config", file), _part(values, "llm_config", file)
    # Not written means the value of the public class, which was made for another model.
    _refuse(file, "ps_version", values.get("ps_version", "v1"), "v2")
    _refuse(file, "select_layer", values.get("select_layer", -1), -1)
    _refuse(file, "pad2square", values.get("pad2square", False), False)
    _refuse(file, "vision_config.norm_type", vision.get("norm_type", "rms_norm"), "layer_norm")
    _refuse(file, "vision_config.qk_normalization", vision.get("qk_normalization", True), False)
    _refuse(file, "vision_config.hidden_act", vision.get("hidden_act", "gelu"), "gelu")
    _refuse(file, "vision_config.num_channels", vision.get("num_channels", 3), 3)
    size = values.get("force_image_size") or _need(vision, "image_size", file)
    tiled = values.get("dynamic_image_size", False)
    return Architecture(
        backbone=InternVitConfig(
            width=_need(vision, "hidden_size", file),
            depth=_need(vision, "num_hidden_layers", file),
            heads=_need(vision, "num_attention_heads", file),
            mlp_width=_need(vision, "intermediate_size", file),
            patch=_need(vision, "patch_size", file),
            image_size=_need(vision, "image_size", file),
            layer_scale=vision.get("initializer_factor", 0.1),
            qkv_bias=vision.get("qkv_bias", True),
            norm_eps=vision.get("layer_norm_eps", 1e-6),
        ),
        language=_language(language, folder),
        tiling=Tiling(
            size=size,
            min_tiles=values.get("min_dynamic_patch", 1),
            max_tiles=values.get("max_dynamic_patch", 6) if tiled else 1,
            thumbnail=values.get("use_thumbnail", False),
        ),
        shuffle=_shuffle(values.get("downsample_ratio", 0.5), file),
        **_mean_std(_processor(folder)),
    )


def _transformers(values: Mapping[str, Any], folder: Path) -> Architecture:
    file = folder / "config.json"
    _part(values, "vision_config", file), _part(values, "text_config", file)
    language = dict(values["text_config"])
    known_options(str(language.get("model_type", "qwen2")))
    try:
        config: Any = InternVLConfig(**{k: v for k, v in values.items() if k != "model_type"})
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"not a configuration of InternVL: {error}", where=file, fix="correct config.json") from error
    vision = config.vision_config
    _refuse(file, "vision_feature_layer", config.vision_feature_layer, -1)
    _refuse(file, "vision_feature_select_strategy", config.vision_feature_select_strategy, "default")
    _refuse(file, "projector_hidden_act", config.projector_hidden_act, "gelu")
    _refuse(file, "vision_config.norm_type", vision.norm_type, "layer_norm")
    _refuse(file, "vision_config.use_qk_norm", vision.use_qk_norm, False)
    _refuse(file, "vision_config.hidden_act", vision.hidden_act, "gelu")
    _refuse(file, "vision_config.num_channels", vision.num_channels, 3)
    _refuse(file, "vision_config.use_mean_pooling", vision.use_mean_pooling, True)  # else it has a norm at its end
    _refuse(file, "vision_config.use_absolute_position_embeddings", vision.use_absolute_position_embeddings, True)
    for name, (height, width) in {"image_size": vision.image_size, "patch_size": vision.patch_size}.items():
        _refuse(file, f"vision_config.{name}", [height, width], [height, height])
    processor = _processor(folder)
    size = processor.get("size") or {}
    return Architecture(
        backbone=InternVitConfig(
            width=vision.hidden_size,
            depth=vision.num_hidden_layers,
            heads=vision.num_attention_heads,
            mlp_width=vision.intermediate_size,
            patch=vision.patch_size[0],
            image_size=vision.image_size[0],
            layer_scale=vision.layer_scale_init_value,
            qkv_bias=vision.attention_bias,
            norm_eps=vision.layer_norm_eps,
        ),
        language=_language(config.text_config.to_dict(), folder),
        tiling=Tiling(
            size=size.get("height", vision.image_size[0]),
            min_tiles=processor.get("min_patches", 1),
            max_tiles=processor.get("max_patches", 12),
            thumbnail=True,  # as that processor always does
        ),
        shuffle=_shuffle(config.downsample_ratio, file),
        **_mean_std(processor),
    )


def _language(values: Mapping[str, Any], folder: Path) -> LanguageConfig:
    """A causal language model's configuration as options of ours: what decides its shape and its arithmetic."""
    file = folder / "config.json"
    kind = values.get("model_type")
    if not kind:
        raise UserError("the language model's configuration has no model_type", where=file, fix="complete config.json")
    if kind == internlm2.MODEL_TYPE:
        kind, values = "llama", internlm2.llama_options(values)
    known = known_options(kind)
    general = PreTrainedConfig().to_dict().keys() | {"pad_token_id", "bos_token_id", "eos_token_id", "use_cache"}
    config: Any = AutoConfig.for_model(kind, **{k: v for k, v in values.items() if k not in general})
    options = {k: v for k, v in config.to_dict().items() if k in known and k not in general}
    if options.get("layer_types") == ["full_attention"] * config.num_hidden_layers:
        del options["layer_types"]
    if options.get("rope_parameters") is not None:  # an old name of one of its keys is kept beside the new one
        options["rope_parameters"] = {k: v for k, v in options["rope_parameters"].items() if k != "type"}
    # Whether one table serves as input and output is said in two places of either layout, and neither is relied upon
    # by the versions that wrote it: a second table in the weights is the truth.
    options["tie_word_embeddings"] = not any(
        name.endswith(("lm_head.weight", "model.output.weight")) for name in names_in(folder)
    )
    return LanguageConfig(model_type=kind, options=options, tokenizer=folder)


def _shuffle(ratio: float, file: Path) -> int:
    factor = round(1 / ratio) if ratio > 0 else 0
    if factor < 1 or abs(factor * ratio - 1) > 1e-6:
        raise UserError(f"downsample_ratio {ratio} does not merge whole patches", where=file, fix=OTHER)
    return factor


def _processor(folder: Path) -> dict[str, Any]:
    """The image processor's settings, wherever this version of the layout keeps them; {} where there are none."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            values = _json(folder / name)
            return values.get("image_processor") or values
    return {}


def _mean_std(processor: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    return {
        ours: tuple(processor[theirs])
        for ours, theirs in (("mean", "image_mean"), ("std", "image_std"))
        if processor.get(theirs)
    }


def _refuse(file: Path, name: str, found: Any, carried: Any) -> None:
    if found != carried:
        raise UserError(f"{name} is {found!r}; only {carried!r} is carried here", where=file, fix=OTHER)


def _part(values: Mapping[str, Any], name: str, file: Path) -> dict[str, Any]:
    part = values.get(name)
    if not isinstance(part, dict):
        raise UserError(f"config.json has no {name}", where=file, fix="copy or download the folder again")
    return part


def _need(values: Mapping[str, Any], name: str, file: Path) -> int:
    value = values.get(name)
    if not isinstance(value, int):
        raise UserError(f"vision_config.{name} is {value!r}, not a number", where=file, fix="complete config.json")
    return value


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError("no such file", where=file, fix="give the folder of a whole model, or one of our runs")
    return read_record(file, dict[str, Any], "copy or download the folder again")

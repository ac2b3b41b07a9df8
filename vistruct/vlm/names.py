"""The names of a whole model's weights: ours, and the two public layouts of InternVL, in both directions.

    ours            backbone.*               projector.{0,1,3}.*               language.*
    original        vision_model.*           mlp1.{0,1,3}.*                    language_model.*
    transformers    model.vision_tower.*     model.multi_modal_projector.*     model.language_model.*, lm_head.*
    (before 4.52)   vision_tower.*           multi_modal_projector.*           language_model.{model.*,lm_head.*}

Ours holds a whole causal language model of `transformers`, so that its own names (`model.`, `lm_head.`) stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from vistruct.backbones import intern_vit_names
from vistruct.vlm import internlm2

Layout = Literal["original", "transformers"]
_ORIGINAL = {"backbone.": "vision_model.", "projector.": "mlp1.", "language.": "language_model."}
_PROJECTOR = {"0.": "layer_norm.", "1.": "linear_1.", "3.": "linear_2."}


@dataclass(frozen=True, kw_only=True)
class LanguageNames:
    """How a causal language model calls its two parts."""

    body: str  # "model." in most
    head: str  # "lm_head." in most
    heads: int
    kv_heads: int

    @classmethod
    def of(cls, language: nn.Module) -> LanguageNames:
        model: Any = language
        head = model.get_output_embeddings()
        config = model.config
        return cls(
            body=f"{model.base_model_prefix}.",
            head=next(f"{name}." for name, module in model.named_modules() if module is head),
            heads=config.num_attention_heads,
            # Of transformers: a family without grouped queries has no such setting.
            kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        )


def to_ours(
    state: Mapping[str, Tensor], layout: Layout, names: LanguageNames, where: object = ""
) -> tuple[dict[str, Tensor], list[str]]:
    """A public state dict -> ours, and the keys that have no place in it.

    Args:
        where: the folder, for messages.

    Raises:
        UserError: an InternLM2's matrix does not fit its heads.
    """
    vision: dict[str, Tensor] = {}
    language: dict[str, Tensor] = {}
    own: dict[str, Tensor] = {}
    strange: list[str] = []
    for key, value in state.items():
        name = ours_of(key, layout, names)
        part, _, rest = name.partition(".")
        if part == "backbone":
            vision[rest] = value
        elif part == "language":
            language[rest] = value
        elif part == "projector":
            own[name] = value
        else:
            strange.append(key)
    if any(".attention.wqkv." in key for key in language):
        language = internlm2.to_llama(language, names.heads, names.kv_heads, where)
    converted = intern_vit_names.convert_keys(vision)
    own |= {f"backbone.{key}": value for key, value in converted.items()}
    own |= {f"language.{key}": value for key, value in language.items()}
    strange += sorted(key for key in vision if not key.startswith(("embeddings.", "encoder.")))
    return own, strange


def ours_of(key: str, layout: Layout, names: LanguageNames) -> str:
    """Where a public tensor belongs here, before its own part is renamed; "" for what is no part of ours."""
    if layout == "transformers":
        return _from_transformers(key, names)
    return next((o + key.removeprefix(t) for o, t in _ORIGINAL.items() if key.startswith(t)), "")


def to_public(state: Mapping[str, Tensor], layout: Layout, names: LanguageNames) -> dict[str, Tensor]:
    """Our state dict -> a public one."""
    if layout == "original":
        return {
            t + key.removeprefix(o): value
            for key, value in state.items()
            for o, t in _ORIGINAL.items()
            if key.startswith(o)
        }
    vision = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
    out = {f"model.vision_tower.{key}": v for key, v in intern_vit_names.to_transformers(vision).items()}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part == "projector":
            number = rest[:2]
            out[f"model.multi_modal_projector.{_PROJECTOR[number]}{rest.removeprefix(number)}"] = value
        elif part == "language":
            is_head = rest.startswith(names.head)
            out["lm_head." + rest.removeprefix(names.head) if is_head else _body(rest, names)] = value
    return out


def _body(rest: str, names: LanguageNames) -> str:
    return f"model.language_model.{rest.removeprefix(names.body)}"


def _from_transformers(key: str, names: LanguageNames) -> str:
    """Our name, or "" for what is no part of ours."""
    name = key.removeprefix("model.")
    if name.startswith("vision_tower."):
        return f"backbone.{name.removeprefix('vision_tower.')}"
    if name.startswith("multi_modal_projector."):
        rest = name.removeprefix("multi_modal_projector.")
        return next((f"projector.{o}{rest.removeprefix(t)}" for o, t in _PROJECTOR.items() if rest.startswith(t)), "")
    inner = name.removeprefix("language_model.")
    if inner.startswith("lm_head."):
        return f"language.{names.head}{inner.removeprefix('lm_head.')}"
    if name.startswith("language_model."):
        return f"language.{names.body}{inner.removeprefix('model.')}"
    return ""

"""InternLM2 read as the Llama that it is: other names, q, k and v in one matrix, and nothing else.

Source: Cai et al., arXiv:2403.17297, section 2.2, which describes the interleaved matrix, and the public configuration.
Differs: `transformers` does not carry InternLM2 and its public code is its own; as a Llama it needs none of it.
Shapes: K key heads, G query heads to each of them, D head width, W model width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vistruct.errors import UserError

MODEL_TYPE = "internlm2"
_NAMES = {
    "tok_embeddings.": "embed_tokens.",
    "attention.wo.": "self_attn.o_proj.",
    "attention_norm.": "input_layernorm.",
    "ffn_norm.": "post_attention_layernorm.",
    "feed_forward.w1.": "mlp.gate_proj.",
    "feed_forward.w3.": "mlp.up_proj.",
    "feed_forward.w2.": "mlp.down_proj.",
}


def llama_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """An InternLM2 configuration -> the same as options of a Llama; `bias` is of attention alone."""
    own = ("model_type", "bias", "attn_implementation", "auto_map", "architectures")
    return {k: v for k, v in values.items() if k not in own} | {"attention_bias": bool(values.get("bias", False))}


def to_llama(state: Mapping[str, Tensor], heads: int, kv_heads: int, where: object = "") -> dict[str, Tensor]:
    """Rename, and take q, k and v apart: for each key head its G query heads lie first, then k, then v.

    Args:
        state: of an `InternLM2ForCausalLM` (`model.*`, `output.weight`).
        heads: query heads, K * G.
        kv_heads: key heads, K.

    Returns:
        of a `LlamaForCausalLM` (`model.*`, `lm_head.weight`).

    Raises:
        UserError: a matrix whose rows are not a whole number of heads.
    """
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        name = re.sub(r"^output\.", "lm_head.", key)
        for theirs, ours in _NAMES.items():
            name = re.sub(rf"(^|\.){re.escape(theirs)}", rf"\g<1>{ours}", name)
        fused = re.match(r"(.*\.)attention\.wqkv\.(weight|bias)$", name)
        if fused is None:
            out[name] = value
            continue
        groups = heads // kv_heads
        if heads % kv_heads or len(value) % (kv_heads * (groups + 2)):
            raise UserError(
                f"{key} of {len(value)} rows is not {heads} query and {kv_heads} key heads",
                where=where,
                fix="check num_attention_heads and num_key_value_heads in config.json",
            )
        parts = value.unflatten(0, (kv_heads, groups + 2, -1))  # [K, G + 2, D, W]
        for part, rows in (("q", parts[:, :groups]), ("k", parts[:, groups]), ("v", parts[:, groups + 1])):
            out[f"{fused[1]}self_attn.{part}_proj.{fused[2]}"] = rows.reshape(-1, *value.shape[1:])
    return out

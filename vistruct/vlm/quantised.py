"""Quantised weights, integers or floats of one byte, mean nothing without their scales: never taken for weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vistruct.errors import UserError

_KINDS = {  # ends of names that only such a file has
    "bitsandbytes, int8": r"\.SCB",
    "bitsandbytes, 4 bits": r"\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*)",
    "GPTQ or AWQ": r"\.(qweight|qzeros)",
    "compressed-tensors": r"\.(weight_packed|weight_zero_point)",
}
_WHOLE = {"int8", "uint8", "int16", "int32", "int64", "i8", "u8", "i16", "i32", "i64"}
_WEIGHTS = re.compile(r"(weight|\.W_q|\.weight\._data|_blocks)$")  # and what HQQ, quanto and mxfp4 call theirs


def refuse_quantised(types: Iterable[tuple[str, str]], where: Path) -> None:
    """
    Args:
        types: name and type of each tensor, as torch or as safetensors call it.
        where: the folder or file; what a config.json there says of the kind is repeated.

    Raises:
        UserError: naming the kind and one tensor.
    """
    lower = [(name, type_.removeprefix("torch.").lower()) for name, type_ in types]
    whole = [(n, t) for n, t in lower if (t in _WHOLE and _WEIGHTS.search(n)) or t.startswith(("float8", "f8"))]
    named = {name: kind for name, _ in lower for kind, end in _KINDS.items() if re.search(rf"{end}$", name)}
    if whole or named:
        kind = _said(where) or (next(iter(named.values())) if named else "of a kind that is not said")
        name, type_ = whole[0] if whole else next(pair for pair in lower if pair[0] in named)
        raise UserError(
            f"these weights are quantised ({kind}): {name} is {type_}",
            where=where,
            fix="give the model in bf16, fp16 or float32, as it was before it was quantised",
        )


def refuse_quantised_folder(folder: Path) -> None:
    """The same of the safetensors files of a folder, of which only the headers are read."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                refuse_quantised([(name, file.get_slice(name).get_dtype()) for name in names], folder)
        except (OSError, SafetensorError):
            return  # who reads it says so


def _said(where: Path) -> str:
    """What config.json says of the kind: `bitsandbytes`, `gptq`."""
    file = (where if where.is_dir() else where.parent) / "config.json"
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
        parts = [values, values.get("text_config") or {}, values.get("llm_config") or {}]
        found = next((part["quantization_config"] for part in parts if part.get("quantization_config")), {})
        return str(found.get("quant_method") or "")
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return ""

"""Adapters (LoRA) without the model they adapt, in peft's own folder: adapter_config.json, adapter_model.safetensors.

What is written here loads with `peft.PeftModel.from_pretrained(model, folder)`, and a folder of peft's is read here. An
adapter of some rows of a layer alone (queries and values of a fused one) is written as what peft has a word for: one
whose B is zero in the other rows. The numbers are the same; peft would train the zeros too. Beside them lies base.json,
which peft does not look at: what tells the weights that they were trained beside.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from vistruct.checkpoint.low_rank import Adapters, LowRank, Prints, digest_of
from vistruct.checkpoint.save import write_json
from vistruct.checkpoint.tensors import read_tensors, write_tensors
from vistruct.errors import UserError
from vistruct.files.json_files import read_record

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
FILES = (CONFIG, WEIGHTS, BASE)
BASE_FORMAT = 1
_PREFIX = "base_model.model."
_NO_MATTER = {  # settings of peft's that change nothing of what an adapter gives, whatever they say
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version", "r"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_alpha", "lora_dropout"),
    *("rank_pattern", "alpha_pattern", "use_rslora", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
    *("eva_config", "peft_type", "velora_config"),
}
_PLAIN = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva")}


def adapters_dir(path: Path) -> Path | None:
    """The folder of adapters that `path` is or, as a run, holds."""
    return next((d for d in (path, path / "adapters") if (d / CONFIG).is_file()), None)


def write_adapters(
    folder: Path,
    adapters: Mapping[str, LowRank],
    *,
    modules: Iterable[str] | None,
    base: str,
    prints: Mapping[str, Prints],
    dropout: float = 0.0,
) -> None:
    """Write a folder for peft; its json last, so that with it all is there.

    Args:
        adapters: by the name of the layer within the model.
        modules: names of all modules of that model, so that no other layer is meant by the names given; None: unknown.
        base: what the adapters belong to, for the record.
        prints: of the weights they belong to, by the name of the layer; {}: not known.
        dropout: of an adapter's input in training, for who trains on.

    Raises:
        UserError: no room.
    """
    from peft import LoraConfig  # seconds to import

    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, BASE):
        (folder / name).unlink(missing_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, adapter in adapters.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = (
            adapter.a.clone()
        )  # two layers may share one: peft has no word for it
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = adapter.b.clone()
    partial = folder / f".{WEIGHTS}.partial"
    try:
        write_tensors(partial, tensors)
        os.replace(partial, folder / WEIGHTS)
    finally:
        partial.unlink(missing_ok=True)
    if prints:
        write_json(folder / BASE, {"format": BASE_FORMAT, "layers": {n: list(one) for n, one in prints.items()}})
    ranks = {name: len(adapter.a) for name, adapter in adapters.items()}
    alphas = {name: _whole(adapter.scale * ranks[name]) for name, adapter in adapters.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    targets = _targets(set(adapters), None if modules is None else set(modules))
    config = LoraConfig(
        base_model_name_or_path=base,
        inference_mode=True,
        r=rank,
        lora_alpha=alpha,  # ty: ignore[invalid-argument-type]  # only ever divided by the rank
        lora_dropout=dropout,
        target_modules=targets,
        rank_pattern={f"^{re.escape(name)}": r for name, r in ranks.items() if r != rank},
        alpha_pattern={f"^{re.escape(name)}": a for name, a in alphas.items() if a != alpha},
    )
    config.save_pretrained(str(folder))
    values = json.loads((folder / CONFIG).read_text())
    write_json(folder / CONFIG, values | {"target_modules": targets})  # peft has them in any order


def read_folder(folder: Path) -> Adapters:
    """Adapters by the name of the layer they belong to, on the CPU.

    Raises:
        UserError: a damaged folder, or adapters that do more than add a product of two matrices.
    """
    config = _read_config(folder / CONFIG)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(folder / WEIGHTS).items():
        parts = re.fullmatch(rf"(?:{re.escape(_PREFIX)})?(.+)\.lora_([AB])\.weight", key)
        if parts is None or tensor.ndim != 2:
            what = f"{key} {list(tensor.shape)} is no adapter of a linear layer"
            raise UserError(what, where=folder / WEIGHTS, fix="merge these into their model with peft itself")
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"NaN or infinity in {key}", where=folder / WEIGHTS, fix="use an earlier checkpoint")
        found.setdefault(parts[1], {})[parts[2]] = tensor
    adapters: dict[str, LowRank] = {}
    for name, pair in found.items():
        if pair.keys() != {"A", "B"} or len(pair["A"]) != pair["B"].shape[1]:
            shapes = {f"lora_{k}": list(v.shape) for k, v in pair.items()}
            raise UserError(f"A and B of {name} do not fit: {shapes}", where=folder / WEIGHTS, fix="copy it again")
        rank, alpha = len(pair["A"]), _by_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha", 8))
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        adapters[name] = LowRank(a=pair["A"], b=pair["B"], scale=scale)
    if not adapters:
        raise UserError("no adapter in this file", where=folder / WEIGHTS, fix="copy it again")
    return Adapters(source=folder, layers=adapters, digest=digest_of(adapters), base=_read_base(folder / BASE))


class _Base(BaseModel):
    format: Literal[1]
    layers: dict[str, Prints]


def _read_base(file: Path) -> dict[str, Prints]:
    return read_record(file, _Base, "copy it again").layers if file.is_file() else {}


def _targets(names: set[str], modules: set[str] | None) -> list[str] | str:
    """How peft finds these layers: by the ends of their names, as is usual, where no other module ends so."""
    ends = {name.rpartition(".")[2] for name in names}
    if modules is not None and {name for name in modules if name.rpartition(".")[2] in ends} == names:
        return sorted(ends)
    return "|".join(re.escape(name) for name in sorted(names))  # a string is matched as a whole name


class _Numbers(BaseModel):
    """Of peft's configuration, what is calculated with."""

    r: int = Field(8, gt=0)
    lora_alpha: float = 8
    use_rslora: bool = False
    rank_pattern: dict[str, float] | None = None
    alpha_pattern: dict[str, float] | None = None


def _read_config(file: Path) -> dict[str, Any]:
    config = read_record(file, dict[str, Any])
    if config.get("peft_type") != "LORA":
        kind = reprlib.repr(config.get("peft_type"))
        raise UserError(f"adapters of type {kind}", where=file, fix="only LoRA is read here")
    read_record(file, _Numbers)
    for key, value in config.items():
        if value and key not in _NO_MATTER and value not in _PLAIN.get(key, ()):
            what = f"these adapters do more than add a product of two matrices: {key}={value!r}"
            raise UserError(what, where=file, fix="merge them into their model with peft itself")
    return config


def _by_pattern(patterns: Mapping[str, float] | None, name: str, default: float) -> float:
    """Of the first pattern that matches, as peft has it: at the end of the name, from a point on."""
    found = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", name))
    return float(next(found, default))


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number

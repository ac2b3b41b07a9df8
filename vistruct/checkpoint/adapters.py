"""Adapters (LoRA) without the model they adapt, in peft's own folder: adapter_config.json, adapter_model.safetensors.

What is written here loads with `peft.PeftModel.from_pretrained(model, folder)`, and a folder of peft's is read here. An
adapter of some rows of a layer alone (queries and values of a fused one) is written as what peft has a word for: one
whose B is zero in the other rows. The numbers are the same; peft would train the zeros too.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from vistruct.checkpoint.save import write_json
from vistruct.checkpoint.tensors import read_tensors, write_tensors
from vistruct.errors import UserError, closest
from vistruct.files.json_files import read_record

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NO_MATTER = {  # settings of peft's that change nothing of what an adapter gives, whatever they say
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version", "r"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_alpha", "lora_dropout"),
    *("rank_pattern", "alpha_pattern", "use_rslora", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
    *("eva_config", "peft_type", "velora_config"),
}
_PLAIN = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva")}


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """What is added to the weight of one linear layer: scale * b @ a."""

    a: Tensor  # float[rank, in]
    b: Tensor  # float[out, rank]
    scale: float

    def delta(self) -> Tensor:
        """float[out, in]."""
        return self.scale * (self.b.float() @ self.a.float())

    def equals(self, other: LowRank) -> bool:
        """Whether all numbers are the same."""
        return self.scale == other.scale and torch.equal(self.a, other.a) and torch.equal(self.b, other.b)


def adapters_dir(path: Path) -> Path | None:
    """The folder of adapters that `path` is or, as a run, holds."""
    return next((d for d in (path, path / "adapters") if (d / CONFIG).is_file()), None)


def write_adapters(
    folder: Path, adapters: Mapping[str, LowRank], *, modules: Iterable[str], base: str, dropout: float = 0.0
) -> None:
    """Write a folder for peft; its json last, so that with it all is there.

    Args:
        adapters: by the name of the layer within the model.
        modules: names of all modules of that model, so that no other layer is meant by the names given.
        base: what the adapters belong to, for the record.
        dropout: of an adapter's input in training, for who trains on.

    Raises:
        UserError: no room.
    """
    from peft import LoraConfig  # seconds to import

    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
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
    ranks = {name: len(adapter.a) for name, adapter in adapters.items()}
    alphas = {name: _whole(adapter.scale * ranks[name]) for name, adapter in adapters.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    targets = _targets(set(adapters), set(modules))
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


def read_adapters(source: Path) -> dict[str, LowRank]:
    """Adapters by the name of the layer they belong to, on the CPU.

    Args:
        source: a folder of peft's, or a run that has one.

    Raises:
        UserError: none there, a damaged one, or adapters that do more than add a product of two matrices.
    """
    folder = adapters_dir(source)
    if folder is None:
        fix = "give a run that trained adapters (LoRA), its adapters/, or a folder of peft's"
        raise UserError(f"no adapters here: no {CONFIG}", where=source, fix=fix)
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
    return adapters


def placed(model: nn.Module, adapters: Mapping[str, LowRank], source: Path) -> dict[str, LowRank]:
    """The same adapters by the names that their layers have in `model`.

    They may have been made for a part of it alone: the prefix under which all of them are found is looked for.

    Raises:
        UserError: a layer that the model does not have, or that is no linear layer of this size; several prefixes.
    """
    shapes = {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    first = next(iter(adapters))
    prefixes = [name.removesuffix(first) for name in shapes if name == first or name.endswith(f".{first}")]
    fitting = [p for p in prefixes if all(p + name in shapes for name in adapters)]
    if "" in fitting:
        fitting = [""]
    if len(fitting) > 1:
        what = f"these adapters fit under several parts: {', '.join(sorted(p.rstrip('.') for p in fitting))}"
        raise UserError(what, where=source, fix="make them for the whole model, so that their names say which")
    if not fitting:
        prefix = prefixes[0] if prefixes else ""
        missing = [name for name in adapters if prefix + name not in shapes]
        raise UserError(
            f"{len(missing)} of {len(adapters)} adapters belong to linear layers that are not here: {missing[0]}",
            where=source,
            fix=f"use the model they were made for; {closest(prefix + missing[0], shapes)}",
        )
    mine = {fitting[0] + name: adapter for name, adapter in adapters.items()}
    for name, adapter in mine.items():
        wanted = (len(adapter.b), adapter.a.shape[1])
        if shapes[name] != wanted:
            what = f"the adapter of {name} is for a weight of {list(wanted)}, and here it is {list(shapes[name])}"
            raise UserError(what, where=source, fix="use the model they were made for")
    return mine


def merge_adapters(model: nn.Module, source: Path, stream: str = "") -> list[str]:
    """Add the adapters of a folder or run into the weights of a model that has none itself, in place; to which layers.

    Args:
        stream: of a run with several tasks: the one that the model is of. Adapters of the others are left out.

    Raises:
        UserError: as `read_adapters`, `placed` and `add_adapters`; adapters of several tasks and none of them is the
            model's.
    """
    adapters = placed(model, _of_task(read_adapters(source), stream, source), source)
    add_adapters(model, adapters, source)
    return list(adapters)


def _of_task(adapters: dict[str, LowRank], stream: str, source: Path) -> dict[str, LowRank]:
    """Those of a run with several tasks that belong to one of them, by the names that its layers have there."""
    parts = {name: name.split(".", 2) for name in adapters}
    tasks = {own[1] for own in parts.values() if own[0] == "tasks" and len(own) == 3}
    if not tasks:
        return adapters
    if stream not in tasks:
        known = ", ".join(sorted(tasks))
        what = f"these adapters are of the tasks {known}, and the model is of another: {stream or 'not said which'}"
        raise UserError(what, where=source, fix="export the model of one of these tasks: RUN/model/NAME")
    own = f"tasks.{stream}."
    return {name.removeprefix(own): one for name, one in adapters.items() if name.startswith((own, "backbone."))}


def add_adapters(model: nn.Module, adapters: Mapping[str, LowRank], source: Path) -> None:
    """Add adapters into the weights of `model`, in place.

    Args:
        adapters: as `placed` gives them.

    Raises:
        UserError: a weight that another layer reads too, which would change with it.
    """
    readers = readers_of(model)
    done: dict[int, LowRank] = {}
    for name, adapter in adapters.items():
        weight = model.get_parameter(f"{name}.weight")
        others = [n for n, module in readers[id(weight)].items() if n not in adapters or module is None]
        before = done.setdefault(id(weight), adapter)
        if others or not before.equals(adapter):
            raise UserError(
                f"{name} shares its weight with {', '.join(others) or 'a layer of another adapter'}",
                where=source,
                fix="untie them: --set task.language.options.tie_word_embeddings=false",
            )
        if before is adapter:
            with torch.no_grad():
                weight += adapter.delta().to(weight)


def readers_of(model: nn.Module) -> dict[int, dict[str, nn.Linear | None]]:
    """Of every parameter, by identity: the modules that hold it, each once, by name; None what is no linear layer of
    which it is the weight."""
    readers: dict[int, dict[str, nn.Linear | None]] = {}
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            is_linear = isinstance(module, nn.Linear) and own == "weight"
            readers.setdefault(id(parameter), {})[name] = module if is_linear else None
    return readers


def _targets(names: set[str], modules: set[str]) -> list[str] | str:
    """How peft finds these layers: by the ends of their names, as is usual, where no other module ends so."""
    ends = {name.rpartition(".")[2] for name in names}
    if {name for name in modules if name.rpartition(".")[2] in ends} == names:
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

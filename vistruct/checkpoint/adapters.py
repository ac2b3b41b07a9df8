"""Adapters (LoRA) from any file, and into the weights of a model: once, and of the model they were made for.

Read are a run that trained some, a folder of peft's (`peft_folder`), and the files of ViSFT (`visft_lora`). Layers are
found in a model whatever stands before their names, and by the words that several code bases have for the same layer:
one file serves a backbone of ours, timm's and open_clip's towers and BLIP-2 as `transformers` has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vistruct.checkpoint.low_rank import Adapters, LowRank, Record, one_spelling, print_of
from vistruct.checkpoint.peft_folder import BASE, CONFIG, adapters_dir, read_folder
from vistruct.checkpoint.visft_lora import FILE, read_visft
from vistruct.errors import UserError, closest


def read_adapters(source: Path) -> Adapters:
    """Adapters by the name of the layer they belong to, on the CPU.

    Args:
        source: a run that has some, a folder of peft's, or a file of ViSFT.

    Raises:
        UserError: none there, a damaged one, or adapters that do more than add a product of two matrices.
    """
    if source.is_file() and source.name != CONFIG:
        return read_visft(source)
    folder = adapters_dir(source.parent if source.is_file() else source)
    if folder is None and (source / FILE).is_file():  # as `vistruct export --format lora-visft` makes it
        return read_visft(source / FILE)
    if folder is None:
        what = f"no adapters here: no {CONFIG}" if source.exists() else "no such file or directory"
        fix = "give a run that trained adapters (LoRA), its adapters/, a folder of peft's, or a file of ViSFT"
        raise UserError(what, where=source, fix=fix)
    return replace(read_folder(folder), source=source)


def placed(model: nn.Module, adapters: Adapters) -> Adapters:
    """The same adapters by the names that their layers have in `model`.

    They may have been made for a part of it alone, as part of another model, and for other names of the same layers:
    the prefix under which all of them are found is looked for. Of a model that ends a block earlier (BLIP-2's ViT) the
    last block is left out.

    Raises:
        UserError: a layer that the model does not have, or that is no linear layer of this size; several prefixes.
    """
    return placed_among(
        {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, nn.Linear)}, adapters
    )


def placed_among(shapes: Mapping[str, tuple[int, ...]], adapters: Adapters) -> Adapters:
    """As `placed`, of a model whose linear layers are known by name and shape of their weight alone."""
    own: dict[str, list[str]] = {}
    for name in shapes:
        own.setdefault(one_spelling(name), []).append(name)
    wanted, prefixes = _where({name: one_spelling(name) for name in adapters.layers}, own)
    left = len(adapters.layers) - len(wanted)
    ends = f"{left} adapters of the last block left aside: this model ends a block earlier"
    notes = (*adapters.notes, ends) if left else adapters.notes
    found = [{name: own[prefix + one] for name, one in wanted.items()} for prefix in prefixes]
    if len(found) > 1 or any(len(names) > 1 for one in found for names in one.values()):
        what = f"these adapters fit under several parts: {', '.join(sorted(p.rstrip('.') for p in prefixes))}"
        raise UserError(what, where=adapters.source, fix="make them for the whole model, so that their names say which")
    if not found:
        raise _not_here(own, list(wanted.values()), adapters.source)
    mine = {name: names[0] for name, names in found[0].items()}
    for theirs, name in mine.items():
        needed = (len(adapters.layers[theirs].b), adapters.layers[theirs].a.shape[1])
        if shapes[name] != needed:
            what = f"the adapter of {name} is for a weight of {list(needed)}, and here it is {list(shapes[name])}"
            raise UserError(what, where=adapters.source, fix="use the model they were made for")
    return _renamed(adapters, mine, notes)


def _where(wanted: Mapping[str, str], own: Mapping[str, object]) -> tuple[dict[str, str], list[str]]:
    """The names that are there, without what stands before all of them, and what stands before them in the model.

    Args:
        wanted: by their own names, in one spelling.
        own: the model's, in the same.
    """
    at = dict(wanted)
    while True:
        prefixes = _prefixes(own, list(at.values()))
        if prefixes:
            return at, prefixes
        last = _last_block(list(at.values()))
        rest = {name: one for name, one in at.items() if not one.startswith(last)} if last else {}
        prefixes = [p for p in _prefixes(own, list(rest.values())) if not any(n.startswith(p + last) for n in own)]
        if prefixes:
            return rest, prefixes
        fronts = {one.partition(".")[0] for one in at.values()}
        inside = {name: one.partition(".")[2] for name, one in at.items()}
        if len(fronts) > 1 or any(not one or one[0].isdigit() for one in inside.values()):
            return dict(wanted), []
        at = inside


def _prefixes(own: Mapping[str, object], wanted: Sequence[str]) -> list[str]:
    """What may stand before all of these names so that they are all there; nothing, where that is enough."""
    if not wanted:
        return []
    prefixes = [n.removesuffix(wanted[0]) for n in own if n == wanted[0] or n.endswith(f".{wanted[0]}")]
    fitting = [prefix for prefix in prefixes if all(prefix + name in own for name in wanted)]
    return [""] if "" in fitting else fitting


def _last_block(names: Sequence[str]) -> str:
    """`blocks.39.` with what stands before it, if names are of several blocks, numbered without a gap."""
    parts = [re.match(r"(.*\bblocks\.)(\d+)\.", name) for name in names]
    numbers = {int(part[2]) for part in parts if part is not None}
    fronts = {part[1] for part in parts if part is not None}
    if None in parts or len(fronts) != 1 or numbers != set(range(len(numbers))) or len(numbers) < 2:
        return ""
    return f"{fronts.pop()}{max(numbers)}."


def _not_here(own: Mapping[str, object], wanted: Sequence[str], source: Path) -> UserError:
    partly = [n.removesuffix(wanted[0]) for n in own if n == wanted[0] or n.endswith(f".{wanted[0]}")]
    prefix = partly[0] if partly else ""
    missing = [name for name in wanted if prefix + name not in own]
    return UserError(
        f"{len(missing)} of {len(wanted)} adapters belong to linear layers that are not here: {missing[0]}",
        where=source,
        fix="use the model they were made for" + (f"; {closest(prefix + missing[0], own)}" if own else ""),
    )


def _renamed(adapters: Adapters, names: Mapping[str, str], notes: tuple[str, ...] | None = None) -> Adapters:
    """Some of the adapters, by other names."""
    return replace(
        adapters,
        layers={new: adapters.layers[old] for old, new in names.items()},
        base={new: adapters.base[old] for old, new in names.items() if old in adapters.base},
        notes=adapters.notes if notes is None else notes,
    )


def adapters_for(model: nn.Module, source: Path, stream: str = "", already: Sequence[Record] = ()) -> Adapters:
    """Adapters that can be added into the weights of a model, by the names that their layers have there.

    Args:
        source: as of `read_adapters`.
        stream: of a run with several tasks: the one that the model is of. Adapters of the others are left out.
        already: the adapters that its weights are known to have in them.

    Raises:
        UserError: as `read_adapters`, `placed` and `check_base`; adapters of several tasks and none of them is the
            model's; adapters that are in these weights already.
    """
    given = read_adapters(source)
    refuse_twice(given, already)
    found = placed(model, _of_task(given, stream))
    check_base(model, found)
    return found


def merge_adapters(model: nn.Module, source: Path, stream: str = "", already: Sequence[Record] = ()) -> Adapters:
    """Add adapters into the weights of a model that has none itself, in place; which ones, by its layers.

    Raises:
        UserError: as `adapters_for` and `add_adapters`.
    """
    found = adapters_for(model, source, stream, already)
    add_adapters(model, found)
    return found


def refuse_twice(adapters: Adapters, already: Sequence[Record]) -> None:
    """
    Raises:
        UserError: the same numbers are in the weights already.
    """
    if any(one["digest"] == adapters.digest for one in already):
        what = "these adapters (LoRA) are in the weights already, and would be added a second time"
        raise UserError(what, where=adapters.source, fix="leave --lora out")


def _of_task(adapters: Adapters, stream: str) -> Adapters:
    """Those of a run with several tasks that belong to one of them, by the names that its layers have there."""
    parts = {name: name.split(".", 2) for name in adapters.layers}
    tasks = {own[1] for own in parts.values() if own[0] == "tasks" and len(own) == 3}
    if not tasks:
        return adapters
    if stream not in tasks:
        known = ", ".join(sorted(tasks))
        what = f"these adapters are of the tasks {known}, and the model is of another: {stream or 'not said which'}"
        raise UserError(what, where=adapters.source, fix="export the model of one of these tasks: RUN/model/NAME")
    own = f"tasks.{stream}."
    return _renamed(adapters, {n: n.removeprefix(own) for n in parts if n.startswith((own, "backbone."))})


def check_base(model: nn.Module, adapters: Adapters) -> None:
    """See that adapters belong to the weights of `model`, where they say what they belong to.

    Args:
        adapters: as `placed` gives them.

    Raises:
        UserError: weights that have them already; other weights than those that they were trained beside.
    """
    weights = {name: dict(model.get_submodule(name).named_parameters(recurse=False)) for name in adapters.base}
    check_weights({name: own["weight"] for name, own in weights.items()}, adapters)


def check_weights(weights: Mapping[str, Tensor], adapters: Adapters) -> None:
    """`check_base` of weights alone, by the name of the layer."""
    for name, prints in adapters.base.items():
        found = print_of(weights[name])
        if found == prints.before:
            continue
        if found == prints.after:
            what = f"these adapters (LoRA) are in the weights already: {name} would get its own a second time"
            raise UserError(what, where=adapters.source, fix="leave --lora out, or give the weights it was trained on")
        what = f"these adapters (LoRA) were trained beside other weights than those of {name}"
        fix = f"give the weights they began with, or a model without adapters; {BASE} beside them says which they are"
        raise UserError(what, where=adapters.source, fix=fix)


def add_adapters(model: nn.Module, adapters: Adapters) -> None:
    """Add adapters into the weights of `model`, in place.

    Args:
        adapters: as `placed` gives them.

    Raises:
        UserError: a weight that another layer reads too, which would change with it.
    """
    readers = readers_of(model)
    done: dict[int, LowRank] = {}
    for name, adapter in adapters.layers.items():
        weight = model.get_parameter(f"{name}.weight")
        others = [n for n, module in readers[id(weight)].items() if n not in adapters.layers or module is None]
        before = done.setdefault(id(weight), adapter)
        if others or not before.equals(adapter):
            raise UserError(
                f"{name} shares its weight with {', '.join(others) or 'a layer of another adapter'}",
                where=adapters.source,
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

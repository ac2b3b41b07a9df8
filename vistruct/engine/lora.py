"""LoRA: low-rank adapters on linear layers, right wherever the weight of a layer is read.

An adapted layer stays the object that it was, under all of its names and in everybody's hands, and its weights keep
their names. It gets two more parameters and a class whose `weight` is the sum. Called, it never makes that sum, which
is as large as the layer; code that takes the weight past the layer (timm's EVA, BEiT and Swin V2 do, and torch's own
multi-head attention) gets the adapted one.

Source: Hu et al., arXiv:2106.09685. Adapters of some parts of a fused layer: as ViSFT trains them, arXiv:2401.10222.
Differs: peft wraps the layer in another, whose `weight` is the bare one: no adapter at all in those attentions.
Shapes: a layer of `out` x `in`, P parts of it adapted (1: all of it), O = out / 3 outputs in a part (or `out`).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vistruct.checkpoint.adapters import (
    add_adapters,
    check_base,
    placed,
    read_adapters,
    readers_of,
    refuse_twice,
)
from vistruct.checkpoint.low_rank import LowRank, Record
from vistruct.checkpoint.weights import Coverage
from vistruct.config import Lora
from vistruct.distributed.ranks import any_rank
from vistruct.distributed.shard import local
from vistruct.errors import UserError

PARTS = "qkv"  # what a fused layer gives, in this order
UNMOVED_STEPS = 10  # steps that an adapter may be used in without a gradient: gates that start at zero open in a few
UNUSED_STEPS = 1000  # steps that it may not be used in at all: images may be rare, and so may a stream of data
_OTHER_ORDERS = {  # timm's models whose `qkv` is not queries, keys and values in thirds
    f"timm.models.{name}" for name in ("maxxvit", "tiny_vit", "efficientformer", "gcvit", "csatv2")
}


def adapt(layers: Sequence[nn.Linear], lora: Lora, name: str) -> None:
    """Give linear layers that have one weight together one adapter together, in place.

    A is random and B zero: nothing changes before the first step.

    Args:
        name: by which an error calls them.
    """
    weight, num_parts = layers[0].weight, max(len(lora.parts), 1)
    part = len(weight) // (len(PARTS) if lora.parts else 1)
    a = nn.Parameter(weight.new_empty(num_parts * lora.rank, weight.shape[1]))  # those of all parts, one below another
    b = nn.Parameter(weight.new_zeros(num_parts * part, lora.rank))
    nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    for layer in layers:
        adapted: Any = layer
        adapted.lora_A, adapted.lora_B = a, b
        adapted.lora, adapted.lora_name, adapted.lora_uses = lora, name, 0
        adapted.__class__ = _adapted(type(layer))


@functools.cache
def _adapted(kind: type[nn.Linear]) -> type[nn.Linear]:
    own: dict[str, Any] = {"weight": property(_weight)}
    if kind.forward is nn.Linear.forward:  # another one is left to read the weight
        own["forward"] = _forward
    return type(f"Lora{kind.__name__}", (kind,), own)


def _forward(layer: Any, x: Tensor) -> Tensor:
    lora: Lora = layer.lora
    layer.lora_uses += torch.is_grad_enabled()
    y = F.linear(x, layer._parameters["weight"], layer.bias)
    low = lora.factor * F.linear(F.dropout(x, lora.dropout, layer.training), layer.lora_A)  # [..., P * rank]
    if not lora.parts:
        return y + F.linear(low, layer.lora_B)
    pieces = list(y.chunk(len(PARTS), dim=-1))
    for part, a, b in zip(lora.parts, low.chunk(len(lora.parts), -1), layer.lora_B.chunk(len(lora.parts)), strict=True):
        at = PARTS.index(part)
        pieces[at] = pieces[at] + F.linear(a, b)
    return torch.cat(pieces, dim=-1)


def _weight(layer: Any) -> Tensor:
    lora: Lora = layer.lora
    weight: Tensor = layer._parameters["weight"]
    if isinstance(weight, DTensor):  # spread over ranks, of which none has all: FSDP asks for what it holds
        return weight
    if lora.dropout and layer.training:
        raise UserError(
            f"{layer.lora_name} is not called: its weight is read, and there is no input for the adapter's dropout",
            where="trainable: lora: dropout",
            fix="set dropout: 0 for this layer",
        )
    layer.lora_uses += torch.is_grad_enabled()
    return weight + _delta(layer.lora_A, layer.lora_B, lora).to(weight.dtype)


def _delta(a: Tensor, b: Tensor, lora: Lora) -> Tensor:
    """float[out, in], what the adapter adds to the weight."""
    num_parts = max(len(lora.parts), 1)
    with torch.autocast(a.device.type, enabled=False):
        blocks = lora.factor * torch.bmm(
            b.view(num_parts, -1, lora.rank), a.view(num_parts, lora.rank, -1)
        )  # [P, O, in]
    if not lora.parts:
        return blocks[0]
    nothing = torch.zeros_like(blocks[0])
    return torch.cat([blocks[lora.parts.index(p)] if p in lora.parts else nothing for p in PARTS])


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers that have an adapter, each once, by name."""
    return {name: module for name, module in model.named_modules() if _is_adapted(module)}


def plain_name(name: str) -> str:
    """`blocks.0.qkv.lora_A` -> `blocks.0.qkv.weight`; of any other parameter its own name."""
    return re.sub(r"\.lora_[AB]$", ".weight", name)


def layers_to_adapt(
    model: nn.Module, weights: set[int], lora: Lora, matches: Callable[[str], bool]
) -> tuple[list[tuple[str, list[nn.Linear]]], list[str]]:
    """The linear layers that a rule adapts.

    A weight that several layers read (tied) is adapted if all of them are linear and matched: one adapter, read by all.
    Otherwise one of them would change and another not, which no merged weight can say: it is left as it is.

    Args:
        weights: identities of the parameters that the rule holds.
        matches: whether a parameter's name is one of the rule's.

    Returns:
        for each weight a name and its layers, in the model's order; and a sentence for each that was left.
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    found: list[tuple[str, list[nn.Linear]]] = []
    left: list[str] = []
    for identity, readers in readers_of(model).items():
        layers = [module for module in readers.values() if module is not None]
        matched = [layer for layer in layers if any(matches(f"{name}.weight") for name in names[layer])]
        if identity not in weights or not matched:
            continue
        name = names[matched[0]][0]
        if lora.parts and name.rpartition(".")[2] != PARTS:
            continue
        others = [other for other, module in readers.items() if module is None or module not in matched]
        if others:
            left.append(f"{name} is one table with {', '.join(others)}: not adapted")
            continue
        if lora.parts:
            _check_fused(model, name, matched[0])
        found.append((name, matched))
    return found, left


def _check_fused(model: nn.Module, name: str, layer: nn.Linear) -> None:
    kind = type(model.get_submodule(name.rpartition(".")[0]))
    if kind.__module__ in _OTHER_ORDERS or layer.out_features % len(PARTS):
        raise UserError(
            f"{name} of {kind.__name__} ({kind.__module__}) is not queries, keys and values in thirds",
            where="trainable: lora: parts",
            fix="leave parts out: the layer is adapted whole",
        )


def merged_state(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The state dict with adapters added into the weights they adapt, as the model would have it without any.

    A weight with several names (a backbone that two tasks share) is merged once, under all of them.

    Args:
        state: the model's own, with tensors that are whole (see `distributed.shard.on_main`); of a rank that has
            none of it, nothing. None: as the model holds it.
    """
    state = model.state_dict() if state is None else state
    if not state:
        return {}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    merged = dict(state)
    for name, layer in adapted_layers(model).items():
        weight = state[f"{name}.weight"]
        delta = _delta(state[f"{name}.lora_A"], state[f"{name}.lora_B"], layer.lora)
        merged |= dict.fromkeys(names[id(layer._parameters["weight"])], weight + delta.to(weight.dtype))
        for own in (layer.lora_A, layer.lora_B):
            for alias in names[id(own)]:
                merged.pop(alias, None)
    return merged


def adapters_of(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, LowRank]:
    """The adapters alone, by the name of their layer; of those of some parts, the whole layer's.

    Args:
        state: as in `merged_state`.
    """
    state = model.state_dict() if state is None else state
    found: dict[str, LowRank] = {}
    for name, layer in adapted_layers(model).items() if state else ():
        a, b, lora = state[f"{name}.lora_A"].cpu(), state[f"{name}.lora_B"].cpu(), layer.lora
        if lora.parts:
            rows = len(b) // len(lora.parts)
            whole = b.new_zeros(len(PARTS) * rows, len(a))
            for i, part in enumerate(lora.parts):
                at = PARTS.index(part) * rows
                whole[at : at + rows, i * lora.rank : (i + 1) * lora.rank] = b[i * rows : (i + 1) * rows]
            b = whole
        found[name] = LowRank(a=a, b=b, scale=lora.factor)
    return found


def begin_with(
    model: nn.Module, source: Path, before: Coverage | None = None, already: Sequence[Record] = ()
) -> Coverage:
    """Start from adapters that were trained before: what the model gives is what it gave there.

    Where a layer has an adapter already (a rule adapts it), that one takes the numbers and goes on training; into all
    other weights they are added.

    Args:
        before: what the backbone was started from.
        already: the adapters that the weights are known to have in them.

    Raises:
        UserError: as `checkpoint.adapters`; an adapter of another rank or of other parts.
    """
    given = read_adapters(source)
    refuse_twice(given, already)
    found, layers = placed(model, given), adapted_layers(model)
    check_base(model, found)
    going_on = {name: one for name, one in found.layers.items() if name in layers}
    rest = replace(found, layers={name: one for name, one in found.layers.items() if name not in layers})
    for name, adapter in going_on.items():
        _take(layers[name], adapter, source)
    add_adapters(model, rest)
    licence = "" if before is None else f"{before.licence}; "
    return Coverage(
        source=source,
        what="adapters",
        matched=tuple(sorted(found.layers)),
        fresh=tuple(sorted(layers.keys() - found.layers.keys())),
        notes=(*found.notes, f"{len(going_on)} train on, {len(rest.layers)} were added into the weights"),
        licence=f"{licence}of the adapters unknown: that of {source.name} holds",
        adapters=(given.record,),
        before=before,
    )


def _take(layer: Any, adapter: LowRank, source: Path) -> None:
    lora: Lora = layer.lora
    b = _of_parts(adapter.b, lora) if lora.parts else adapter.b
    if adapter.a.shape != layer.lora_A.shape or b is None or b.shape != layer.lora_B.shape:
        mine = f"rank {lora.rank}" + (f" for {', '.join(lora.parts)}" if lora.parts else "")
        raise UserError(
            f"{layer.lora_name} has an adapter of {mine}, there one of rank {len(adapter.a)} for other outputs",
            where=source,
            fix="give the rule the rank and parts they were trained with; without a rule they go into the weights",
        )
    with torch.no_grad():
        layer.lora_A.copy_(adapter.a)
        layer.lora_B.copy_(b * (adapter.scale / lora.factor))


def _of_parts(b: Tensor, lora: Lora) -> Tensor | None:
    """The blocks of a whole layer's B that belong to parts; None if there is more in it than those."""
    num_parts, rows = len(lora.parts), len(b) // len(PARTS)
    if b.shape[1] != num_parts * lora.rank:
        return None
    grid = b.view(len(PARTS), rows, num_parts, lora.rank)
    blocks = torch.cat([grid[PARTS.index(part), :, i] for i, part in enumerate(lora.parts)])
    return blocks if blocks.count_nonzero() == b.count_nonzero() else None


@dataclass
class _Waiting:
    """An adapter of which no gradient was seen yet."""

    name: str
    layer: Any
    uses: int = 0  # of the layer, when it was last looked at
    steps: int = 0  # with a use and without a gradient


class AdapterWatch:
    """Sees to it that every adapter has a share in the loss; one that has none would be shipped as a success.

    B is what is looked at: it starts at zero, and so does the gradient of A.
    """

    def __init__(self, model: nn.Module, *, resumed: bool = False) -> None:
        waiting = [_Waiting(name, layer) for name, layer in adapted_layers(model).items()]
        self.total, self.steps = len(waiting), 0
        if resumed and waiting:  # what is not zero any more had a gradient before
            moved = any_rank(*(bool(local(w.layer.lora_B).any()) for w in waiting))
            waiting = [w for w, has_moved in zip(waiting, moved, strict=True) if not has_moved]
        self._waiting = waiting

    def after_step(self, *, is_last: bool = False) -> None:
        """To be called after every step, of all ranks together, while the gradients are still there.

        Raises:
            UserError: adapters that were used in some steps and had no gradient in any; at the last step, or after very
                many, also those that were never used.
        """
        if not self._waiting:
            return
        self.steps += 1
        moved = any_rank(*(has_gradient(w.layer.lora_B) for w in self._waiting))
        used = any_rank(*(w.layer.lora_uses > w.uses for w in self._waiting))
        for waiting, is_used in zip(self._waiting, used, strict=True):
            waiting.uses = waiting.layer.lora_uses
            waiting.steps += is_used
        self._waiting = [w for w, has_moved in zip(self._waiting, moved, strict=True) if not has_moved]
        is_late = is_last or self.steps >= UNUSED_STEPS
        idle = [w for w in self._waiting if is_late or w.steps >= UNMOVED_STEPS]
        if idle:
            names = ", ".join(w.name for w in idle[:4]) + (", ..." if len(idle) > 4 else "")
            raise UserError(
                f"{len(idle)} of {self.total} adapters (LoRA) had no share in the loss of {self.steps} steps: {names}",
                where="trainable",
                fix="leave these layers out of the rule with mode lora, or let the loss depend on them",
            )


def has_gradient(parameter: nn.Parameter) -> bool:
    """Whether it has one that is not zero everywhere (on this rank)."""
    return parameter.grad is not None and bool(local(parameter.grad).any())


def unused_adapters(model: nn.Module) -> list[str]:
    """Names of adapted layers that the last backward pass left without a gradient."""
    return [name for name, layer in adapted_layers(model).items() if not has_gradient(layer.lora_B)]


def _is_adapted(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and "lora_A" in module._parameters

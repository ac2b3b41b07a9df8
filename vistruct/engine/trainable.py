"""What moves: an ordered list of rules over dotted names, of which the last that matches holds.

`backbone` matches that name and everything below it; `backbone.blocks.*.attn` and the like are shell
patterns. Without rules everything trains in full.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from vistruct.config import Lora, Move
from vistruct.errors import UserError, closest


@dataclass(frozen=True, kw_only=True)
class RuleCount:
    """What one rule came to hold."""

    pattern: str
    mode: str
    lr_factor: float
    tensors: int  # parameter tensors it holds, adapters included
    moving: int  # numbers that train
    frozen: int  # numbers that do not


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What trains, and how fast."""

    lr_factors: dict[str, float] = field(default_factory=dict)  # of each parameter that trains, by name
    frozen_modules: tuple[str, ...] = ()  # topmost modules of which nothing trains
    rules: tuple[RuleCount, ...] = ()

    @property
    def moving(self) -> int:
        """Numbers that train."""
        return sum(rule.moving for rule in self.rules)

    @property
    def total(self) -> int:
        """All numbers."""
        return sum(rule.moving + rule.frozen for rule in self.rules)

    def lines(self) -> list[str]:
        """What moves, a line for each rule and one for the sum."""
        lines = [
            f"{rule.pattern:<28} {rule.mode:<7} {rule.moving:>13,} move {rule.frozen:>13,} stay"
            + (f"   rate x {rule.lr_factor:g}" if rule.lr_factor != 1 else "")
            + ("   (later rules hold here)" if rule.tensors == 0 else "")
            for rule in self.rules
            if rule.tensors or rule.pattern != EVERYTHING.pattern
        ]
        share = self.moving / max(self.total, 1)
        return [*lines, f"{self.moving:,} of {self.total:,} parameters move ({share:.1%})"]


EVERYTHING = Move(pattern="*")


def apply_moves(model: nn.Module, moves: Sequence[Move]) -> Plan:
    """Freeze, unfreeze and adapt the parts of `model`, in place.

    Under a rule of mode `lora`, each matched `nn.Linear` gets an adapter (peft) and everything else it
    matches is frozen. A tensor known by several names (tied) obeys the last rule that matches any of them.

    Raises:
        UserError: a pattern that matches nothing, with the closest name; a `lora` rule without a linear
            layer; rules that leave nothing to train.
    """
    rules = [EVERYTHING, *moves]
    names: dict[int, list[str]] = {}  # of each tensor, all of its names
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for move in moves:
        if not any(_matches(name, move.pattern) for known in names.values() for name in known):
            raise UserError(
                f"nothing is called {move.pattern!r}",
                where="move",
                fix=_closest_name(move.pattern, names.values()),
            )
    holder = {
        name: max(i for i, rule in enumerate(rules) for n in known if _matches(n, rule.pattern))
        for known in names.values()
        for name in known
    }
    for i, rule in enumerate(rules):
        if rule.mode == "lora":
            _adapt(model, [name for name, held in holder.items() if held == i], rule)

    factors: dict[str, float] = {}
    counts = [[0, 0, 0] for _ in rules]  # tensors, moving, frozen
    for name, parameter in model.named_parameters():
        held = holder[name] if name in holder else holder[_plain_name(name)]
        trains = rules[held].mode == "full" or (rules[held].mode == "lora" and _is_adapter(name))
        parameter.requires_grad_(trains)
        if trains:
            factors[name] = rules[held].lr_factor
        counts[held][0] += 1
        counts[held][1 if trains else 2] += parameter.numel()
    if not factors:
        raise UserError(
            "nothing trains: every parameter is frozen",
            where="move",
            fix="leave one part in mode full or lora",
        )
    return Plan(
        lr_factors=factors,
        frozen_modules=tuple(_frozen_modules(model)),
        rules=tuple(
            RuleCount(pattern=r.pattern, mode=r.mode, lr_factor=r.lr_factor, tensors=t, moving=m, frozen=f)
            for r, (t, m, f) in zip(rules, counts, strict=True)
        ),
    )


def set_train_mode(model: nn.Module, plan: Plan) -> None:
    """Training mode where something trains; frozen ones in eval mode: no dropout, no running statistics."""
    model.train()
    for name in plan.frozen_modules:
        model.get_submodule(name).eval()


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with adapters added into the weights they adapt, by the names from before them."""
    state = model.state_dict()
    plain = {_plain_name(name): tensor for name, tensor in state.items() if not _is_adapter(name)}
    for name, module in model.named_modules():
        if f"{name}.base_layer.weight" in state:  # an adapted layer of peft
            adapted: Any = module
            for adapter in adapted.active_adapters:
                delta = adapted.get_delta_weight(adapter)
                plain[f"{name}.weight"] = plain[f"{name}.weight"] + delta.to(plain[f"{name}.weight"].dtype)
    return plain


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _closest_name(pattern: str, names: Iterable[list[str]]) -> str:
    known: set[str] = set()
    for group in names:
        for name in group:
            parts = name.split(".")
            known |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    shallow = {name for name in known if name.count(".") <= max(1, pattern.count("."))}
    return closest(pattern, shallow)


def _adapt(model: nn.Module, held: list[str], rule: Move) -> None:
    weights = {name.removesuffix(".weight") for name in held if name.endswith(".weight")}
    linears = sorted(name for name in weights if isinstance(model.get_submodule(name), nn.Linear))
    if not linears:
        raise UserError(
            f"no linear layer under {rule.pattern!r} to adapt",
            where="move",
            fix="mode: lora wants linear layers; see `inspect`",
        )
    import peft  # seconds to import, and few runs need it

    lora = rule.lora or Lora()
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # ty: ignore[invalid-argument-type]  # only ever divided by the rank
        lora_dropout=lora.dropout,
        target_modules="|".join(re.escape(name) for name in linears),  # a string is matched as a whole name
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # a second rule with another rank
        peft.inject_adapter_in_model(config, model)


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _plain_name(name: str) -> str:
    """`blocks.0.qkv.base_layer.weight` and `blocks.0.qkv.lora_A.default.weight` -> `blocks.0.qkv.weight`."""
    return re.sub(r"\.lora_[A-Z]\.[^.]+\.|\.base_layer\.", ".", name)


def _frozen_modules(model: nn.Module) -> Iterator[str]:
    """Topmost modules that hold parameters, none of which trains."""

    def walk(module: nn.Module, name: str) -> Iterator[str]:
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            yield name
            return
        for child, sub in module.named_children():
            yield from walk(sub, f"{name}.{child}" if name else child)

    return walk(model, "")

"""What is trainable and what is frozen: an ordered list of rules over names, of which the last that matches holds.

`backbone` matches that dotted name and everything below it; `backbone.blocks.*.attn` and the like are shell
patterns. Without rules everything trains in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from vistruct.config import Lora, Trainable
from vistruct.engine.lora import adapt, layers_to_adapt
from vistruct.errors import UserError, closest


@dataclass(frozen=True, kw_only=True)
class RuleCount:
    """What one rule came to hold."""

    pattern: str
    mode: str
    lr_factor: float
    tensors: int  # parameter tensors it holds, adapters included
    trainable: int  # numbers that train
    frozen: int  # numbers that do not
    adapted: int = 0  # linear layers that got an adapter (LoRA)
    notes: tuple[str, ...] = ()  # what it matches and leaves as it is


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What trains, and how fast."""

    lr_factors: dict[str, float] = field(default_factory=dict)  # of each parameter that trains, by name
    frozen_modules: tuple[str, ...] = ()  # topmost modules of which nothing trains, but for rules with `train_mode`
    rules: tuple[RuleCount, ...] = ()

    @property
    def trainable(self) -> int:
        """Numbers that train."""
        return sum(rule.trainable for rule in self.rules)

    @property
    def total(self) -> int:
        """All numbers."""
        return sum(rule.trainable + rule.frozen for rule in self.rules)

    def lines(self) -> list[str]:
        """A line for each rule and one for the sum."""
        lines: list[str] = []
        for rule in self.rules:
            if not rule.tensors and rule.pattern == EVERYTHING.pattern:
                continue
            said = f"{rule.pattern:<28} {rule.mode:<7} {rule.trainable:>13,} trainable {rule.frozen:>13,} frozen"
            said += f"   rate x {rule.lr_factor:g}" if rule.lr_factor != 1 else ""
            said += f"   adapters on {rule.adapted} linear layers" if rule.adapted else ""
            said += "   (later rules hold here)" if rule.tensors == 0 else ""
            lines += [said, *(f"  {note}" for note in rule.notes)]
        share = self.trainable / max(self.total, 1)
        return [*lines, f"{self.trainable:,} of {self.total:,} parameters trainable ({share:.1%})"]


EVERYTHING = Trainable(pattern="*")


def apply_rules(model: nn.Module, given: Sequence[Trainable]) -> Plan:
    """Freeze, unfreeze and adapt the parts of `model`, in place.

    Under a rule of mode `lora` each matched linear layer gets an adapter, and all else that it matches is frozen.
    A tensor known by several names (tied, or of a backbone that tasks share) obeys the last rule that matches any.

    Raises:
        UserError: a pattern that matches nothing, with the closest name; a `lora` rule without a linear
            layer; rules that leave nothing to train.
    """
    rules = [EVERYTHING, *given]
    names: dict[int, list[str]] = {}  # of each tensor, all of its names
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for rule in given:
        if not any(_matches(name, rule.pattern) for known in names.values() for name in known):
            raise UserError(
                f"nothing is called {rule.pattern!r}",
                where="trainable",
                fix=_closest_name(rule.pattern, names.values()),
            )
    holder = {
        identity: max(i for i, rule in enumerate(rules) for n in known if _matches(n, rule.pattern))
        for identity, known in names.items()
    }
    adapters: set[int] = set()
    adapted: list[int] = [0] * len(rules)
    notes: list[tuple[str, ...]] = [()] * len(rules)
    for i, rule in enumerate(rules):
        if rule.mode == "lora":
            before = set(map(id, model.parameters()))
            adapted[i], notes[i] = _adapt(model, i, rules, holder, names)
            new = set(map(id, model.parameters())) - before
            adapters |= new
            holder |= dict.fromkeys(new, i)

    factors: dict[str, float] = {}
    counts = [[0, 0, 0] for _ in rules]  # tensors, trainable, frozen
    for name, parameter in model.named_parameters():
        held = holder[id(parameter)]
        trains = rules[held].mode == "full" or id(parameter) in adapters
        parameter.requires_grad_(trains)
        if trains:
            factors[name] = rules[held].lr_factor
        counts[held][0] += 1
        counts[held][1 if trains else 2] += parameter.numel()
    kept = {identity for identity, held in holder.items() if rules[held].train_mode}
    if not factors:
        raise UserError(
            "nothing trains: every parameter is frozen",
            where="trainable",
            fix="leave one part in mode full or lora",
        )
    return Plan(
        lr_factors=factors,
        frozen_modules=tuple(_frozen_modules(model, kept)),
        rules=tuple(
            RuleCount(
                pattern=rule.pattern, mode=rule.mode, lr_factor=rule.lr_factor,
                tensors=counts[i][0], trainable=counts[i][1], frozen=counts[i][2],
                adapted=adapted[i], notes=notes[i],
            )
            for i, rule in enumerate(rules)
        ),
    )  # fmt: skip


def set_train_mode(model: nn.Module, plan: Plan) -> None:
    """Training mode where something trains, or a rule says so; else eval mode: no dropout, no running statistics."""
    model.train()
    for name in plan.frozen_modules:
        model.get_submodule(name).eval()


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


def _adapt(
    model: nn.Module, index: int, rules: Sequence[Trainable], holder: Mapping[int, int], names: Mapping[int, list[str]]
) -> tuple[int, tuple[str, ...]]:
    """Adapt what rule `index` holds; how many layers, and what was left as it was."""
    rule = rules[index]
    lora = rule.lora or Lora()

    def matched(weights: set[int]) -> tuple[list[tuple[str, list[nn.Linear]]], list[str]]:
        return layers_to_adapt(model, weights, lora, lambda name: _matches(name, rule.pattern))

    found, left = matched({identity for identity, held in holder.items() if held == index})
    if found:
        for name, layers in found:
            adapt(layers, lora, name)
        return len(found), tuple(left)
    kind = "fused layer of queries, keys and values (qkv)" if lora.parts else "linear layer"
    what, fix = f"no {kind} under {rule.pattern!r} to adapt", "mode: lora wants linear layers; see `inspect`"
    if lora.parts:
        fix = "leave parts out, and name the layers: queries and values of their own are often q_proj and v_proj"
    if left:
        what += f": {'; '.join(left)}"
        fix = "adapt the layers below it; or untie them: --set task.language.options.tie_word_embeddings=false"
    elsewhere, _ = matched(set(holder))
    if elsewhere:
        weight = id(elsewhere[0][1][0]._parameters["weight"])  # it may be adapted, and `weight` a sum
        later = rules[holder[weight]]
        known = next(name for name in names[weight] if _matches(name, later.pattern))
        what += f": {len(elsewhere)} are held by the later rule {later.pattern!r} ({later.mode}), such as {known}"
        fix = f"of several rules the last one holds: put the one for {rule.pattern!r} behind it"
    raise UserError(what, where="trainable", fix=fix)


def _frozen_modules(model: nn.Module, kept: set[int]) -> Iterator[str]:
    """Topmost modules that hold parameters, none of which trains or is `kept` in training mode; each by one name."""
    seen: set[nn.Module] = set()

    def walk(module: nn.Module, name: str) -> Iterator[str]:
        parameters = list(module.parameters())
        if module in seen or not parameters:
            return
        seen.add(module)
        if not any(p.requires_grad or id(p) in kept for p in parameters):
            yield name
            return
        for child, sub in module.named_children():
            yield from walk(sub, f"{name}.{child}" if name else child)

    return walk(model, "")

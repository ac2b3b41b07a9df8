"""A task that starts from another model of its kind: the backbone, what of neck and head fits, and classes by name.

The backbone comes whole, resized as its traits can, or the start is refused. Of neck and head comes what has the same
name and shape, layer by layer, a norm only behind the layer that it was learned behind. Layers of classes come row by
row. What stays as it was is in the report; where that is all of the head, the start is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vistruct.checkpoint.class_rows import ClassMatch, carry_rows, in_order, match_classes
from vistruct.checkpoint.weights import Coverage, backbone_dir, fill, fitted
from vistruct.contracts import ClassLayer
from vistruct.errors import UserError

BACKBONE = "backbone."
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)  # `LayerNorm2d` is a LayerNorm


@dataclass(kw_only=True)
class _Carried:
    """What comes into the layers above the backbone."""

    state: dict[str, Tensor] = field(default_factory=dict)
    by_class: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)


def carry(
    task: Any,
    state: Mapping[str, Tensor],
    names: Sequence[str] | None,
    report: Coverage,
    *,
    is_head_whole: bool = False,
) -> Coverage:
    """Start a task from the weights of another model of its kind.

    Args:
        task: nn.Module with `backbone`, `head` (its traits name the layers of classes) and perhaps a `neck`.
        state: `backbone.*`, `neck.*` and `head.*`, these two under the task's own names.
        names: of the classes there; None: they are not known, so that there must be equally many.
        report: what is known of the source already.
        is_head_whole: whether the head must come with every layer; such a source may be without a backbone, which then
            stays as it is.

    Returns:
        the report, complete.

    Raises:
        UserError: another backbone; nothing of the head, or not all of it; another number of classes and no names; NaN
            among the weights.
    """
    source = report.source
    inner = {key.removeprefix(BACKBONE): value for key, value in state.items() if key.startswith(BACKBONE)}
    above = {key: value for key, value in state.items() if not key.startswith(BACKBONE)}
    own = {key: value for key, value in task.state_dict().items() if not key.startswith(BACKBONE)}
    layers = {f"head.{layer.name}": layer for layer in task.head.traits.class_layers}
    match = _matched(task, layers, own, above, names, source)
    carried = _carried(task, own, above, layers, match)
    if not any(name.startswith("head.") for name in carried.state):
        has_head = any(name.startswith("head.") for name in above)
        why = _first_misfit(own, above) if has_head or source.is_file() else f": {'; '.join(report.notes)}"
        alike = "leave --head and --channels out" if source.is_dir() else "give neck and head the sizes they have there"
        fix = f"{alike}, or start from its backbone: {backbone_option(source)}"
        raise UserError(f"nothing of its head fits this one{why}", where=source, fix=fix)
    if is_head_whole and carried.fresh:
        misfit = _first_misfit(own, above)
        what = f"{len(carried.fresh)} tensors of the head are not in it, or of another shape{misfit}"
        fix = "name the backbone that it was trained on (--backbone), and set the head as it was"
        raise UserError(what, where=source, fix=fix)
    broken = next((name for name, value in carried.state.items() if not bool(value.isfinite().all())), None)
    if broken is not None:
        raise UserError(f"NaN or infinity in {broken}", where=source, fix="use an earlier checkpoint of that model")
    found = Coverage(source=source)
    if inner or not is_head_whole:
        converted, found = fitted(task.backbone, inner, source)
        found = fill(task.backbone, converted, found, allow_missing=False)
    task.load_state_dict(carried.state, strict=False)
    whole = [name for name in carried.state if name not in carried.by_class]
    return replace(
        report,
        what="model",
        matched=(*(f"{BACKBONE}{name}" for name in found.matched), *whole),
        resized=tuple(f"{BACKBONE}{name}" for name in found.resized),
        inflated=tuple(f"{BACKBONE}{name}" for name in found.inflated),
        by_class=tuple(carried.by_class),
        fresh=(*(f"{BACKBONE}{name}" for name in found.fresh), *carried.fresh),
        unexpected=(
            *(f"{BACKBONE}{name}" for name in found.unexpected),
            *(name for name in sorted(above) if name not in carried.state),
            *report.unexpected,
        ),
        notes=(*report.notes, *found.notes, *match.lines(task.traits.class_names)),
    )


def backbone_option(source: Path) -> str:
    """How to start from the backbone alone of what lies at `source`."""
    run = next((place for place in (source, *source.resolve().parents[:3]) if backbone_dir(place)), source)
    return f"--backbone {run} in place of --start"


def _matched(
    task: Any,
    layers: Mapping[str, ClassLayer],
    own: Mapping[str, Tensor],
    above: Mapping[str, Tensor],
    names: Sequence[str] | None,
    source: Path,
) -> ClassMatch:
    """Which classes are which.

    Raises:
        UserError: a head that does not say which layers know them; their names are not known, and they are not equally
            many.
    """
    if not layers and (names is None or tuple(names) != task.traits.class_names):
        raise UserError(
            "this head does not say which of its layers know the classes (HeadTraits.class_layers)",
            where=source,
            fix=backbone_option(source),
        )
    if names is not None:
        return match_classes(task.traits.class_names, names)
    for path, layer in layers.items():
        for name in (key for key in own if layer.each and key.rpartition(".")[0] == path and key in above):
            if len(own[name]) != len(above[name]):
                raise UserError(
                    f"another number of classes: {name} has {len(above[name])} rows there and {len(own[name])} here, "
                    "and the file does not say what its classes are called",
                    where=source,
                    fix=f"use data with its classes, or start from its backbone: {backbone_option(source)}",
                )
    return in_order(len(task.traits.class_names))


def _carried(
    task: Any,
    own: Mapping[str, Tensor],
    above: Mapping[str, Tensor],
    layers: Mapping[str, ClassLayer],
    match: ClassMatch,
) -> _Carried:
    found, lost = _Carried(), set[str]()
    for path, norm_of in _layers_of(task):
        mine = {key: value for key, value in own.items() if key.rpartition(".")[0] == path}
        there = {key: value for key, value in above.items() if key.rpartition(".")[0] == path}
        if not mine:
            continue
        if path in layers:
            rows = {key: carry_rows(layers[path], mine[key], there[key], match) for key in mine.keys() & there.keys()}
            known = bool(match.pairs) or layers[path].rest > 0
            fits = rows.keys() == mine.keys() and all(value is not None for value in rows.values()) and known
            there = {key: value for key, value in rows.items() if value is not None}
            is_whole = layers[path].each == 0 or match.pairs == tuple((i, i) for i in range(max(match.num)))
            found.by_class += sorted(mine) if fits and not is_whole else []
        else:
            fits = {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in there.items()}
            fits = fits and norm_of not in lost
        if fits:
            found.state |= there
        else:
            lost.add(path)
            found.fresh += sorted(mine)
    return found


def _layers_of(task: Any) -> Iterator[tuple[str, str | None]]:
    """The path of each module of neck and head with tensors of its own; of a norm, that of the layer before it too."""
    for path, module in task.named_modules():
        if path.partition(".")[0] in ("neck", "head"):
            for name, child, before in _children(module):
                is_norm = isinstance(child, _NORMS) and before is not None
                yield f"{path}.{name}", f"{path}.{before}" if is_norm else None
            if path in ("neck", "head"):
                yield path, None


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module, str | None]]:
    before = None
    for name, child in module.named_children():
        yield name, child, before
        before = name


def _first_misfit(own: Mapping[str, Tensor], above: Mapping[str, Tensor]) -> str:
    for name in (key for key in own if key in above):
        if name.startswith("head.") and own[name].shape != above[name].shape:
            return f": {name} is {list(above[name].shape)} there and {list(own[name].shape)} here"
    theirs = sorted(name for name in above if name.startswith("head."))
    mine = sorted(name for name in own if name.startswith("head."))
    return f": there are {', '.join(theirs[:3]) or 'no tensors of one'}; looked for were {', '.join(mine[:3])}"

"""Starting weights of one part of a task, by the name of its module: a projector, a tower, a decoder.

`start` brings a whole task and `init` its backbone; what is beside them, of public models or of runs of ours, comes
from files of its own: LLaVA's `mm_projector.bin`, the ConvNeXt of a CLIP for the tower that decoders look at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vistruct.checkpoint.fronts import take_front
from vistruct.checkpoint.weights import Coverage, fill, fitted, read_source
from vistruct.contracts import BackboneTraits, Described, HeadTraits
from vistruct.errors import UserError, closest
from vistruct.vlm.projector import Projector


def load_parts(task: nn.Module, sources: Mapping[str, Path], before: Coverage | None) -> Coverage | None:
    """Start some parts of a task, each from its file; what was done, `before` first.

    Args:
        sources: by the dotted name of the module in the task.

    Raises:
        UserError: the task has no such part; as `checkpoint.weights.load_backbone`.
    """
    for name, source in sources.items():
        before = replace(_load_part(task, name, source), before=before)
    return before


def _load_part(task: nn.Module, name: str, source: Path) -> Coverage:
    parts: dict[str, Any] = {path: module for path, module in task.named_modules() if path}
    if name not in parts:
        raise UserError(f"the task has no part {name!r}", where="start_parts", fix=closest(name, parts))
    part = parts[name]
    held, licence, notes = read_source(source)
    if isinstance(part, Described) and isinstance(part.traits, BackboneTraits):
        state, report = fitted(part, held, source)
        return fill(part, state, replace(report, what=name, licence=licence, notes=(*notes, *report.notes)), False)
    convert = _names_of(part)
    own = {key: value.shape for key, value in part.state_dict().items()}

    def fits(some: dict[str, Tensor]) -> tuple[int, int]:
        found = convert(some)
        shared = found.keys() & own.keys()
        return sum(found[key].shape == own[key] for key in shared), len(shared)

    state, more = take_front(held, fits, source, of_all=False)
    report = Coverage(source=source, what=name, names=tuple(held), licence=licence, notes=(*notes, *more))
    return fill(part, convert(state), report, False)


def _names_of(part: nn.Module) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Published names to the part's own."""
    if isinstance(part, Projector):
        return part.convert_keys
    if isinstance(part, Described) and isinstance(part.traits, HeadTraits) and part.traits.convert_keys is not None:
        return part.traits.convert_keys
    return dict

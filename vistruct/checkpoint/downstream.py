"""A published model of backbone and head in one file, as the mm toolboxes write it, into a task of ours.

Source: the names of mmseg's and open-cd's checkpoints: `backbone.*`, `decode_head.*`, and `auxiliary_head.*`, which has
    no place here. A head that can read them has `convert_keys` among its traits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from vistruct.checkpoint.fronts import take_front
from vistruct.checkpoint.weights import Coverage, fill, fitted, read_source
from vistruct.contracts import Described, HeadTraits
from vistruct.errors import UserError

BACKBONE = "backbone."


def load_downstream(task: Any, source: Path, *, allow_missing: bool = False) -> Coverage:
    """Start a whole task, backbone and head, from one file.

    Args:
        task: nn.Module with `backbone` and `head`, of the file's size, with as many classes.
        source: a .safetensors file, or a foreign .pth of plain tensors.
        allow_missing: leave tensors that the file lacks as they are, instead of refusing.

    Raises:
        UserError: a task whose head reads no published weights; else as `weights.load_backbone`.
    """
    head = dict(task.named_children()).get("head")
    traits = head.traits if isinstance(head, Described) else None
    convert_keys = traits.convert_keys if isinstance(traits, HeadTraits) else None
    if convert_keys is None:
        raise UserError(
            f"{type(head).__name__ if head is not None else 'this task'} reads no published weights",
            where=source,
            fix="use init for its backbone",
        )
    state, licence, notes = read_source(source)
    names = tuple(state)
    state, more = take_front(state, lambda part: (sum(map(_is_own, part)),), source, of_all=True)
    inner = {key.removeprefix(BACKBONE): value for key, value in state.items() if key.startswith(BACKBONE)}
    rest = {key: value for key, value in state.items() if not key.startswith(BACKBONE)}
    backbone, report = fitted(task.backbone, inner, source)
    own: dict[str, Tensor] = {f"{BACKBONE}{name}": value for name, value in backbone.items()}
    own |= {f"head.{name}": value for name, value in convert_keys(rest).items()}
    own |= {key: value for key, value in rest.items() if key.startswith("neck.")}
    taken = {id(value) for value in own.values()}
    report = Coverage(
        source=source,
        what="model",
        names=names,
        licence=licence,
        resized=tuple(f"{BACKBONE}{name}" for name in report.resized),
        inflated=tuple(f"{BACKBONE}{name}" for name in report.inflated),
        fresh=tuple(f"{BACKBONE}{name}" for name in report.fresh),
        unexpected=tuple(sorted(key for key, value in rest.items() if id(value) not in taken)),
        notes=(*notes, *more, *report.notes),
    )
    return fill(task, own, report, allow_missing)


def _is_own(key: str) -> bool:
    """Whether a name begins as those of a downstream model do."""
    return key.startswith((BACKBONE, "decode_head.", "neck.", "bbox_head.", "rpn_head.", "roi_head."))

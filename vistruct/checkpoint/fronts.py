"""What wrappers and larger models put before all names of a model's tensors, found and taken off.

module.                         data parallelism
_orig_mod.                      a compiled model, or a part of one
base_model.model.               peft
visual. teacher.backbone. ...   the model was a part of another
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from vistruct.errors import UserError

_INNER = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
DEEPEST = 5  # parts of a name that a front may have
Fits = tuple[int, ...]  # how well names fit under a front, better ones larger


def take_front(
    state: Mapping[str, Tensor], fits: Callable[[dict[str, Tensor]], Fits], source: Path, *, of_all: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors below the front under which most of them are the model's, without it; and in words what was.

    Wrappers that change nothing are taken off wherever they stand in a name.

    Args:
        fits: how many of the tensors given are the model's; it is asked with tensors that have no memory.
        of_all: only a front that all names share.

    Raises:
        UserError: several that fit alike.
    """
    notes = sorted({f"read without {found!r} in their names" for name in state for found in _INNER.findall(name)})
    state = {_INNER.sub("", name): value for name, value in state.items()}
    meta = {name: value.to("meta") for name, value in state.items()}
    scores = {"": fits(meta)}
    for front in _fronts(state):
        if not of_all or all(name.startswith(front) for name in state):
            scores[front] = fits(_below(meta, front))
    best = max(scores.values())
    found = [front for front, score in scores.items() if score == best]
    roots = [front for front in found if not any(front != other and front.startswith(other) for other in found)]
    if best <= fits({}) or "" in roots:
        return state, notes
    if len(roots) > 1:
        what = f"these weights fit under several names: {', '.join(root.rstrip('.') for root in roots)}"
        name = roots[0].rstrip(".")
        fix = f"take out one and start from that: vistruct inspect {source} --take {name} --out {name}.safetensors"
        raise UserError(what, where=source, fix=fix)
    return _below(state, roots[0]), [*notes, f"read without {roots[0]!r} before their names"]


def _fronts(names: Iterable[str]) -> list[str]:
    """Beginnings of names, the shorter before the longer; numbers are of blocks, below which no model is looked for."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")[:-1]
        for end in range(1, min(len(parts), DEEPEST) + 1):
            if parts[end - 1].isdigit():
                break
            found[".".join(parts[:end]) + "."] = None
    return sorted(found, key=lambda front: (front.count("."), front))


def _below(state: Mapping[str, Tensor], front: str) -> dict[str, Tensor]:
    return {name.removeprefix(front): value for name, value in state.items() if name.startswith(front)}

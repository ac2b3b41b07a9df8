"""How a question shows an object: as somebody drew it, else as itself; and places that show nothing.

Who makes rows of tokens draws clicks and strokes (`vlm.regions`): anew for every sample, inside of the mask or the box
of the row that a mark points at. Here is which row that is, and whether a click in it could as well mean another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vistruct.contracts import Objects, Prompt, Region
from vistruct.data.instructions.boxed import empty_box
from vistruct.data.instructions.material import Material

CLEAR = 0.25  # of an object's box: so much of it at most may lie in another's, else a click could mean both
_CORNERS = 16  # of an ellipse


def show(known: Material, row: int, prompt: Prompt) -> tuple[int, ...] | None:
    """The row that shows an object; None: what is shown could as well mean another one."""
    for one in known.known.drawn:
        if one.of == row and one.kind == prompt:
            return (one.row,)
    return None if prompt in ("point", "scribble") and _may_mean_another(known, row) else (row,)


def _may_mean_another(known: Material, row: int) -> bool:
    """Whether too much of an object's box is another's, and no masks tell them apart."""
    is_over = known.covered(row) > CLEAR
    if row in known.with_mask:
        is_over[known.with_mask] = False
    return bool(is_over.any())


def nowhere(known: Material, prompt: Prompt, rng: np.random.Generator) -> Region | None:
    """A place without any object, as large as one; None: there is none, or nobody knows."""
    box = empty_box(known.scene, rng) if known.is_complete else None
    if box is None:
        return None
    x0, y0, x1, y1 = box.tolist()
    if prompt != "mask":
        return Region(kind="box", xy=((x0, y0), (x1, y1)))
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    x, y = (x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(angles), (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(angles)
    return Region(kind="mask", xy=tuple(zip(x.tolist(), y.tolist(), strict=True)))


def with_regions(objects: Objects[np.ndarray], regions: Sequence[Region]) -> Objects[np.ndarray]:
    """The objects, and a row for each of these places behind them, with a mask where it is one."""
    if not regions:
        return objects
    more = len(regions)
    columns: dict[str, Any] = {name: _longer(column, more) for name, column in objects.columns().items()}
    hulls = [[*np.min(region.xy, axis=0), *np.max(region.xy, axis=0)] for region in regions]
    columns["labels"][-more:], columns["scores"][-more:] = -1, 1
    columns["boxes_xyxy"][-more:] = hulls
    masks = [[np.round(one.xy, 2).ravel().tolist()] if one.kind == "mask" else [] for one in regions]
    if objects.masks is not None or any(masks):
        columns["masks"] = (*(objects.masks or ([],) * len(objects)), *masks)
    made = Objects.of(columns)
    if objects.quads is not None:
        columns["quads"][-more:] = replace(made, quads=None).outlines[-more:]
    return Objects.of(columns)


def _longer(column: Any, more: int) -> Any:
    """With so many rows of nothing behind."""
    if isinstance(column, tuple):
        return (*column, *([] if column and not isinstance(column[0], str) else "" for _ in range(more)))
    return np.concatenate([column, np.zeros((more, *column.shape[1:]), column.dtype)])

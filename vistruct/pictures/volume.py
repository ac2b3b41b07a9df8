"""A volume as a grid of slices, with its labels, what was said of them, and where that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vistruct.contracts import IGNORED
from vistruct.pictures.areas import (
    Entry,
    Key,
    beside,
    checked,
    ground_of,
    joined,
    overlap,
    painted,
    score_legend,
    share_legend,
    stacked,
    text_size,
    wrong,
)
from vistruct.pictures.primitives import Colour, to_rgb, with_legend

SIDE = 320  # pixels: the long side of a slice


def draw_volume(
    slices: Sequence[Tensor],
    label_maps: Sequence[Tensor | None],
    class_names: Sequence[str],
    palette: Sequence[Colour] | None = None,
    *,
    numbers: Sequence[int] | None = None,
    predictions: Sequence[Tensor | None] | None = None,
    most: int = 12,
    columns: int = 6,
) -> Image.Image:
    """Slices of a volume in a grid, evenly spaced among those that have labels (or, if none has, that are not empty).

    With predictions there are three pictures of each slice, one below the other: truth, prediction, errors. The
    legend gives each class's share, or its Dice, over all that was given, drawn or not.

    Args:
        slices: number[C, H, W] each, at least one; the middle channel is shown, which is the slice itself where its
            neighbours are channels too.
        label_maps: int[H, W] each; None: not known.
        class_names: in their order; the background is one of the usual names, else the first.
        palette: a colour for each class; None: our own.
        numbers: of each slice in its volume, for the captions; None: 0, 1, 2, ...
        predictions: int[H, W] each; None: not asked for.
        most: slices drawn, at most.
        columns: slices side by side.

    Raises:
        ValueError: no slices, another number of maps than of slices, or a map that does not fit its slice.
    """
    found = list(predictions) if predictions is not None else [None] * len(slices)
    names = list(numbers) if numbers is not None else list(range(len(slices)))
    if not slices or not len(slices) == len(label_maps) == len(found) == len(names):
        counts = f"{len(slices)} slices, {len(label_maps)} label maps, {len(found)} predictions, {len(names)} numbers"
        raise ValueError(f"{counts}; as many of each, and at least one")
    key = Key.of(class_names, palette)
    key = key if key.bare is not None else Key(key.names, key.colours, 0)
    true, said = ([None if one is None else checked(image, one, key) for image, one in zip(slices, maps, strict=True)]
                  for maps in (label_maps, found))  # fmt: skip
    chosen = evenly(_worth_showing(slices, true, said, key), most)
    cells = [(f"slice {names[i]}", _cell(slices[i], true[i], said[i], key)) for i in chosen]
    rows = [beside(cells[i : i + columns]) for i in range(0, len(cells), columns)]

    legend: list[Entry] = []
    order = rest = ""
    both = [(s, t) for s, t in zip(said, true, strict=True) if s is not None and t is not None]
    maps = [
        one.ravel() for t, s in zip(true, said, strict=True) for one in (t if t is not None else s,) if one is not None
    ]
    if both:
        legend = score_legend(np.sum([overlap(s, t, len(key.names)) for s, t in both], axis=0), key, "Dice")
        order = "rows: truth, prediction, errors in the colour of what was said"
    elif maps:
        legend, rest = share_legend(np.concatenate(maps), key)
    shown = f"{len(chosen)} of {len(slices)} slices" if len(chosen) < len(slices) else ""
    return with_legend(stacked(rows), legend, joined(order, rest, shown), filled=True, size=text_size(cells[0][1]) + 3)


def evenly(candidates: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly spaced, with the first and the last where there is room for two."""
    if len(candidates) <= most:
        return list(candidates)
    if most == 1:
        return [candidates[len(candidates) // 2]]
    return [candidates[round(i * (len(candidates) - 1) / (most - 1))] for i in range(most)]


def _cell(image: Tensor, true: np.ndarray | None, said: np.ndarray | None, key: Key) -> Image.Image:
    ground, _ = ground_of(to_rgb(image, [image.shape[0] // 2]), SIDE, SIDE)
    maps = [one for one in (true, said) if one is not None]
    pictures = [painted(ground, one, key, 0.42) for one in maps] or [ground]
    if true is not None and said is not None:
        pictures.append(wrong(ground, said, true, key))
    return stacked(pictures)


def _worth_showing(
    slices: Sequence[Tensor], true: Sequence[np.ndarray | None], said: Sequence[np.ndarray | None], key: Key
) -> list[int]:
    """Slices with labels; without any, those with something said; those that are not of one grey; all."""
    for maps in (true, said):
        with_labels = [
            i for i, one in enumerate(maps) if one is not None and ((one != key.bare) & (one != IGNORED)).any()
        ]
        if with_labels:
            return with_labels
    varied = (bool((image != image.flatten()[0]).any()) for image in slices)  # torch has no least of 16 bits
    return [i for i, is_varied in enumerate(varied) if is_varied] or list(range(len(slices)))

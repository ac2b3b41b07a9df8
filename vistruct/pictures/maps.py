"""Pictures of label maps: what an image's pixels are, what was said of them, and where that is wrong.

The image stays readable: areas are translucent with a clear edge, the background class is left as it is, pixels
that are not counted are hatched. Right is quiet and wrong is loud.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from vistruct.contracts import IGNORED
from vistruct.pictures.areas import (
    HATCHED,
    Entry,
    Key,
    Picture,
    beside,
    checked,
    ground_of,
    joined,
    judged,
    overlap,
    painted,
    quiet,
    score_legend,
    share_legend,
    text_size,
    verdict_legend,
    wrong,
)
from vistruct.pictures.primitives import Colour, with_legend

PANEL = 640  # pixels: the longest side of a picture beside others


def draw_map(
    image: Picture,
    label_map: Tensor,
    class_names: Sequence[str],
    palette: Sequence[Colour] | None = None,
    *,
    alpha: float = 0.42,
) -> Image.Image:
    """An image under the classes of its pixels; the legend gives each one's share of the pixels that count.

    Args:
        image: PIL or number[C, H, W], of any C.
        label_map: int[H, W], classes or IGNORED, of the same size.
        class_names: in their order; one of the usual names of a background (`draw_areas.BACKGROUNDS`) is not painted.
        palette: a colour for each class; None: our own.
        alpha: how much of the image an area covers, in [0, 1]; its edge is always clear.

    Raises:
        ValueError: a map of another size, or a number that is no class.
    """
    key = Key.of(class_names, palette)
    labels = checked(image, label_map, key)
    ground, size = ground_of(image)
    legend, rest = share_legend(labels, key)
    return with_legend(painted(ground, labels, key, alpha), legend, joined(rest, size), filled=True)


def draw_map_prediction(
    image: Picture,
    prediction: Tensor,
    truth: Tensor | None,
    class_names: Sequence[str],
    palette: Sequence[Colour] | None = None,
    *,
    alpha: float = 0.42,
) -> Image.Image:
    """Truth and prediction side by side, and where they differ; the legend gives each class's IoU in this picture.

    In the third panel right pixels are grey, and wrong ones have the colour of what was said. Where there is one
    class beside the background, it shows instead what was found, false alarms and misses.

    Args:
        image: PIL or number[C, H, W], of any C.
        prediction: int[H, W], classes; IGNORED where nothing was said.
        truth: int[H, W], classes or IGNORED; None: the prediction alone is drawn.
        class_names: as for `draw_map`.
        palette: a colour for each class; None: our own.
        alpha: how much of the image an area covers, in [0, 1].

    Raises:
        ValueError: a map of another size, or a number that is no class.
    """
    if truth is None:
        return draw_map(image, prediction, class_names, palette, alpha=alpha)
    key = Key.of(class_names, palette)
    said, true = checked(image, prediction, key), checked(image, truth, key)
    ground, size = ground_of(image, widest=PANEL)
    panels = [("truth", painted(ground, true, key, alpha)), ("prediction", painted(ground, said, key, alpha))]
    counts = overlap(said, true, len(key.names))
    if key.positive is not None:
        panels.append(("differences", judged(ground, said, true, key.positive)))
        legend, summary = verdict_legend(counts, key, key.positive)
    else:
        panels.append(("errors, in the colour of what was said", wrong(ground, said, true, key)))
        legend, counted = score_legend(counts, key), true != IGNORED
        right = (said == true)[counted]
        summary = f"{right.mean():.1%} of the pixels right" if right.size else "no pixel counts"
    return with_legend(
        beside(panels),
        legend + _not_counted(true == IGNORED),
        joined(summary, size),
        filled=True,
        size=text_size(ground),
    )


def draw_pair(
    before: Picture,
    after: Picture,
    truth: Tensor | None = None,
    prediction: Tensor | None = None,
    class_names: Sequence[str] = ("unchanged", "changed"),
    palette: Sequence[Colour] | None = None,
) -> Image.Image:
    """Before, after, and what changed; with truth and prediction: what was found, false alarms and misses.

    The legend counts pixels and gives the F1 of the change in this picture. Where there are several kinds of change,
    errors have the colour of what was said.

    Args:
        before: PIL or number[C, H, W].
        after: likewise.
        truth: int[H, W] on the grid of `after`, classes or IGNORED; None: not known.
        prediction: likewise; None: not asked for.
        class_names: in their order; the background is one of the usual names, else the first.
        palette: a colour for each class; None: our own.

    Raises:
        ValueError: a map of another size, or a number that is no class.
    """
    key = Key.of(class_names, palette)
    key = key if key.bare is not None else Key(key.names, key.colours, 0)
    ground, note = ground_of(after, widest=PANEL)
    panels = [("before", ground_of(before)[0].resize(ground.size, Image.Resampling.LANCZOS)), ("after", ground)]
    maps = [checked(after, one, key) for one in (truth, prediction) if one is not None]
    legend: list[Entry] = []
    if truth is not None and prediction is not None:
        true, said = maps
        counts = overlap(said, true, len(key.names))
        if key.positive is not None:
            panels.append(("change", judged(ground, said, true, key.positive)))
            legend, summary = verdict_legend(counts, key, key.positive)
            note = joined(summary, note)
        else:
            panels.append(("errors, in the colour of what was said", wrong(ground, said, true, key)))
            legend = score_legend(counts, key)
        legend += _not_counted(true == IGNORED)
    elif maps:
        name = "change" if truth is not None else "change, as predicted"
        panels.append((name, painted(quiet(ground), maps[0], key, 0.75)))
        legend, rest = share_legend(maps[0], key)
        note = joined(rest, note)
    return with_legend(beside(panels), legend, note, filled=True, size=text_size(ground))


def _not_counted(ignored: np.ndarray) -> list[Entry]:
    """The legend's word for pixels bool[H, W] that are IGNORED, where there are any."""
    return [(HATCHED, f"not counted {ignored.mean():.1%}", True)] if ignored.any() else []

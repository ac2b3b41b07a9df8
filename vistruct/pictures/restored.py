"""Images, what was left of them, and what a model puts in the place of the rest, side by side."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vistruct.contracts import Panel, Restored
from vistruct.pictures.areas import beside
from vistruct.pictures.primitives import Colour, to_pil, with_legend

PANEL = 320  # pixels: the width of a panel
GONE: Colour = (52, 57, 64)  # where nothing is shown


def draw_restored(found: Restored) -> Image.Image:
    """The panels in a row, all of one brightness; of more than three channels the first three."""
    first = found.panels[0]
    size = PANEL, max(1, round(PANEL * first.image.shape[1] / first.image.shape[2]))
    row = beside([(panel.title, _shown(panel, first, size)) for panel in found.panels])
    return with_legend(row, [], found.note, size=15)


def _shown(panel: Panel, first: Panel, size: tuple[int, int]) -> Image.Image:
    picture = to_pil(panel.image, first.image if panel.image.dtype == first.image.dtype else None)
    if panel.is_gone is None:
        return picture.resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(picture).copy()
    pixels[panel.is_gone.numpy()] = GONE
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)  # patches have sharp edges

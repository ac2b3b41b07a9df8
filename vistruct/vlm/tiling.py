"""Dynamic tiling: a large image becomes a grid of square tiles near its own aspect ratio, and a thumbnail.

Source: InternVL 1.5, arXiv:2404.16821, section 3.2, and its public preprocessing.
Differs: uint8 tensors and torchvision's antialiased bicubic resize: 99 % of values are PIL's, the others one grey
level off (about five in a million: two). Of grids of the same area that are equally near, the one with more columns
wins; the public code leaves that to the order of a Python set (it never happens while `min_tiles` is 1).
`fit: pad` is LLaVA's `expand2square` (arXiv:2310.03744) and has a single tile.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vistruct.config import Part
from vistruct.contracts import RGB
from vistruct.transforms.fill import MEAN_COLOUR
from vistruct.vlm.picture import Fit, Frame


class Tiling(Part):
    """How an image is cut for the language side."""

    size: int = Field(448, gt=0)  # pixels, a tile's side
    max_tiles: int = Field(12, gt=0)  # without the thumbnail; shared by a sample's images
    min_tiles: int = Field(1, gt=0)
    thumbnail: bool = True  # the whole image, behind its tiles, when there is more than one
    fit: Fit = "stretch"  # to its tiles; pad: a single one shows the image in the middle of a square
    fill: RGB = MEAN_COLOUR  # around it there

    @model_validator(mode="after")
    def _fits(self) -> Tiling:
        if self.fit == "pad" and self.max_tiles != 1:
            raise ValueError("fit: pad shows an image in one square: set max_tiles: 1")
        return self


def num_tiles(size_hw: tuple[int, int], tiling: Tiling, num_images: int = 1, max_tiles: int | None = None) -> int:
    """How many tiles `tile` makes of an image of this size, the thumbnail included."""
    columns, rows = choose_grid(size_hw, tiling, _limit(tiling, num_images, max_tiles))
    return columns * rows + (tiling.thumbnail and columns * rows > 1)


def tile(image: Tensor, tiling: Tiling, num_images: int = 1, max_tiles: int | None = None) -> Tensor:
    """Cut an image into tiles, row by row, the thumbnail last.

    Args:
        image: uint8[3, H, W]; fastest where it is channels last in memory, as `read_image` gives it.
        num_images: how many images share the sample's tiles equally; each gets one at least.
        max_tiles: of this sample's images together, without thumbnails; None: `tiling.max_tiles`.

    Returns:
        uint8[T, 3, size, size], channels last in memory; may share it with the image where it is a single tile.
    """
    size = tiling.size
    if tiling.fit == "pad":
        image = in_square(image, tiling.fill)
    columns, rows = choose_grid((image.shape[1], image.shape[2]), tiling, _limit(tiling, num_images, max_tiles))
    resized = _resize(image, rows * size, columns * size).permute(1, 2, 0)  # [H, W, 3]: rows of whole pixels
    grid = columns * rows
    if grid == 1:
        return resized[None].permute(0, 3, 1, 2)  # in this order, or a batch of tiles loses its memory format
    tiles = torch.empty(grid + tiling.thumbnail, size, size, 3, dtype=image.dtype)
    cut = resized.reshape(rows, size, columns, size, 3).transpose(1, 2)
    tiles[:grid].view(rows, columns, size, size, 3).copy_(cut)
    if tiling.thumbnail:
        tiles[grid] = _resize(image, size, size).permute(1, 2, 0)
    return tiles.permute(0, 3, 1, 2)


def in_square(image: Tensor, fill: RGB) -> Tensor:
    """uint8[3, H, W] in the middle of a square of its longer side, where `picture.Frame` has it."""
    high, wide = image.shape[1:]
    if high == wide:
        return image
    frame = Frame(size_hw=(high, wide), fit="pad")
    y, x = frame.corner_yx
    square = torch.empty(*frame.square_hw, 3, dtype=image.dtype)  # [S, S, 3]: rows of whole pixels
    square.copy_(torch.tensor(fill, dtype=image.dtype))
    square[y : y + high, x : x + wide] = image.permute(1, 2, 0)
    return square.permute(2, 0, 1)


def normalise(tiles: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Tiles as a backbone wants them, on the device that they are on.

    Args:
        tiles: uint8[T, 3, S, S], any layout in memory.
        mean, std: float[3, 1, 1], of pixels in [0, 1].

    Returns:
        float[T, 3, S, S] in the precision of the mean, float32 at least; channels first in memory: on a CPU the sums
        here are four times as fast so, and a convolution over patches three times.
    """
    dtype = torch.promote_types(mean.dtype, torch.float32)
    pixels = torch.empty(tiles.shape, dtype=dtype, device=tiles.device)
    return pixels.copy_(tiles).div_(255).sub_(mean).div_(std)


def choose_grid(size_hw: tuple[int, int], tiling: Tiling, max_tiles: int) -> tuple[int, int]:
    """(columns, rows) with the aspect ratio nearest to the image's.

    Of equally near grids a larger one wins only if the image has more than half of its pixels.
    """
    return _nearest_grid(*size_hw, tiling.size, min(tiling.min_tiles, max_tiles), max_tiles)


@lru_cache(maxsize=65536)
def _nearest_grid(height: int, width: int, size: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    best, nearest = (1, 1), float("inf")
    for columns, rows in _grids(min_tiles, max_tiles):
        distance = abs(width / height - columns / rows)
        if distance < nearest:
            best, nearest = (columns, rows), distance
        elif distance == nearest and width * height > 0.5 * size**2 * columns * rows:
            best = (columns, rows)
    return best


@lru_cache(maxsize=64)
def _grids(min_tiles: int, max_tiles: int) -> list[tuple[int, int]]:
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles + 1)
        if min_tiles <= columns * rows <= max_tiles
    ]
    return sorted(grids, key=lambda g: g[0] * g[1])


def _limit(tiling: Tiling, num_images: int, max_tiles: int | None) -> int:
    most = tiling.max_tiles if max_tiles is None or tiling.fit == "pad" else max_tiles
    return max(1, most // num_images)


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[1:] == (height, width):
        return image
    return F.resize(image, [height, width], interpolation=F.InterpolationMode.BICUBIC, antialias=True)

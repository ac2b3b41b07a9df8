"""Depth as a soft mask of a whole image: a file of numbers, how many of them are one unit, and what counts as 1.

    {"depth": "0000000005.png", "scale": 256, "most": 80.0}     KITTI: 256 to a metre, 80 m and farther is 1
    {"depth": "gts/a.png", "most": 255, "inverse": true, "valid": "valid_masks/a.png"}     HR-WSI: 255 is nearest

Where nothing is known (the file is 0, or another value under `unknown`; or `valid`, a file beside it, is 0) the mask is
NaN: neither near nor far. A loss or a measure has to leave these pixels out; one that forgets to is NaN itself, and no
wrong number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from vistruct.files.decode import UnreadableImage
from vistruct.files.rasters import read_raster

LEAST = np.float32(2**-16)  # of what is known: on the picture that decoders look at, 0 is no measurement

_KEYS = {"depth", "most", "scale", "unknown", "inverse", "valid"}
_PATHS = ("depth", "valid")


def is_depth(mask: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a mask is a depth map, and no polygons or run lengths."""
    return isinstance(mask, dict) and "depth" in mask


def depth_faults(mask: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Why a depth map cannot be understood, if so: what, and the value."""
    for key in _PATHS:
        if key in mask and (not isinstance(mask[key], str) or not mask[key]):
            yield f"{key} of a depth map is the path of a file of numbers, this is not", f"{mask[key]!r:.60}"
    if strange := ", ".join(sorted(mask.keys() - _KEYS)):
        yield f"a depth map has {', '.join(sorted(_KEYS))}; this has others", strange
    for key in ("most", "scale"):
        value = mask.get(key, 1 if key == "scale" else None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
            yield f"{key} of a depth map is a number above 0, this is not", f"{value!r:.60}"
    if isinstance(mask.get("unknown"), bool) or not isinstance(mask.get("unknown"), int | None):
        yield "unknown of a depth map is a whole number or null, this is not", f"{mask['unknown']!r:.60}"
    if not isinstance(mask.get("inverse", False), bool):
        yield "inverse of a depth map is true or false, this is not", f"{mask['inverse']!r:.60}"


def paths_of(mask: dict[str, Any]) -> list[str]:
    """The files of a depth map."""
    return [mask[key] for key in _PATHS if key in mask]


def placed_depth(mask: dict[str, Any], place: Callable[[str], str]) -> dict[str, Any]:
    """The same with other paths."""
    return {key: place(value) if key in _PATHS else value for key, value in mask.items()}


def read_depth(mask: dict[str, Any], size_hw: tuple[int, int]) -> np.ndarray:
    """The soft mask of a depth map that `depth_faults` finds nothing wrong with.

    Args:
        mask: `depth`, a file as `read_raster` takes it, one band; `most`, the depth that is 1, as is all beyond it;
            `scale`, how many of the file's numbers are one of `most`'s units (1 by default); `unknown`, the number that
            says nothing (0 by default; null: each says something); `inverse`, whether numbers are large where it is
            near (disparities: the mask is then 1 - number / most, an order of near and far and no distance); `valid`,
            a file that is 0 where nothing is known.
        size_hw: pixels of the image.

    Returns:
        float32[H, W] from LEAST to 1, the farthest; NaN where nothing is known.

    Raises:
        UnreadableImage: no such file, one in colours, of another size than the image, or without any depth.
    """
    numbers = _numbers(mask["depth"], size_hw)
    shares = np.minimum(numbers.astype(np.float32) / np.float32(mask.get("scale", 1) * mask["most"]), np.float32(1))
    if mask.get("inverse", False):
        shares = 1 - shares
    shares = np.maximum(shares, LEAST)
    if (unknown := mask.get("unknown", 0)) is not None:
        shares[numbers == unknown] = np.nan
    if "valid" in mask:
        shares[_numbers(mask["valid"], size_hw) == 0] = np.nan
    if np.isnan(shares).all():
        raise UnreadableImage("a depth map that knows no pixel", where=mask["depth"], fix="leave this image out")
    return shares


def _numbers(path: str, size_hw: tuple[int, int]) -> np.ndarray:
    """number[H, W] of one file."""
    numbers = read_raster(Path(path))
    if numbers.ndim != 2:
        raise UnreadableImage("a depth map in colours", where=path, fix="write its numbers in one band")
    if numbers.shape != size_hw:
        sizes = f"{numbers.shape[1]} x {numbers.shape[0]} pixels for an image of {size_hw[1]} x {size_hw[0]}"
        raise UnreadableImage(f"a depth map of {sizes}", where=path, fix="bring both to the same grid")
    return numbers

"""Labels that are a file for each class: a folder of masks, painted over one another into one label volume.

A voxel in several masks has the value that is painted last, one in none of them the value of the background.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vistruct.errors import UserError
from vistruct.files.nifti import Nifti
from vistruct.files.nrrd import Nrrd
from vistruct.files.volume_grid import Grid
from vistruct.files.volume_names import is_volume_file, stem


@dataclass(frozen=True, kw_only=True)
class Painting:
    """Which files become which values."""

    values: tuple[tuple[str, int], ...]  # name of a file's class and its value, in the order of painting
    base: int = 0  # of voxels in none of the files


@dataclass(frozen=True, eq=False)
class ClassFiles:
    """The opened files of one case."""

    path: Path  # their folder
    grid: Grid
    parts: tuple[tuple[str, int, Nifti | Nrrd], ...]  # name of the class, value, file; in the order of painting
    base: int

    is_packed = True  # a slice lies across all of its files

    def values(self) -> np.ndarray:
        """uint8 or uint16[S, H, W].

        Raises:
            UserError: see `painted`.
        """
        return self.painted()[0]

    def painted(self) -> tuple[np.ndarray, Counter[tuple[str, str]]]:
        """uint8 or uint16[S, H, W]; and voxels by the class that has them and the one that lost them.

        Raises:
            UnreadableImage: damaged or cut short.
            UserError: a file of several values.
        """
        largest = max((value for _, value, _ in self.parts), default=0)
        stack = np.full(self.grid.stack_shape, self.base, np.min_scalar_type(max(largest, self.base)))
        by_whom, lost = np.zeros(self.grid.stack_shape, np.uint16), Counter[tuple[str, str]]()
        for number, (name, value, file) in enumerate(self.parts, 1):
            inside = _inside(file)
            for before, times in zip(*np.unique(by_whom[inside], return_counts=True), strict=True):
                if before:
                    lost[name, self.parts[before - 1][0]] += int(times)
            stack[inside], by_whom[inside] = value, number
        return stack, lost


def class_files(folder: Path) -> dict[str, Path]:
    """The mask of each class, by its name: that of the file, without the name of the case where all begin with it.

    Raises:
        UserError: two files of one class.
    """
    files = sorted(file for file in folder.iterdir() if is_volume_file(file))
    starts = [f"{case}{sign}" for case in (folder.name, folder.parent.name) for sign in "_-."]
    common = next((one for one in starts if files and all(stem(file).startswith(one) for file in files)), "")
    found: dict[str, Path] = {}
    for file in files:
        name = stem(file).removeprefix(common)
        if name in found:
            raise UserError(f"two files of class {name}", where=f"{found[name]}, {file}", fix="keep one of them")
        found[name] = file
    return found


def _inside(file: Nifti | Nrrd) -> np.ndarray:
    """bool[S, H, W]."""
    values = file.values()
    inside = values != 0
    own = values[inside]
    if own.size and (own != own[0]).any():
        what = f"a file of one class with several values ({own[0]:g}, {own[own != own[0]][0]:g}, ...)"
        raise UserError(what, where=file.path, fix="masks are 0 and one other value; or --format nifti")
    return inside

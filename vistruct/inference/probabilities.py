"""Probability maps (`--probabilities`): a folder for each class, in it a file for each image or volume.

    probabilities/1_tree/port.png       255 times the probability, of an image that lies nowhere
    probabilities/1_tree/port.tif       float32, of one that lies on the map
    probabilities/1_liver/case.nii.gz   float32, on the grid of the volume

They are what the labels are the strongest of, after all windows, flips and scales are joined.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from vistruct.inference.kind import Asked, EachFile
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case

FOLDER = "probabilities"
IN_MEMORY = 2**26  # numbers that are not put on disk while they are made
Write = Callable[[int, Model, Case, Any, Path, Asked], None]  # the probabilities of one class


def space_for(shape: tuple[int, ...], asked: Asked) -> np.ndarray | None:
    """float32[K, ...] to be filled, on disk where it is large; None: nobody asks for it."""
    if not asked.probabilities:
        return None
    if asked.scratch is None or np.prod(shape) <= IN_MEMORY:
        return np.zeros(shape, np.float32)
    with tempfile.TemporaryFile(dir=asked.scratch) as file:  # it goes with the last who looks into it
        return np.memmap(file, np.float32, "w+", shape=shape)


def by_class(
    files: Callable[[Sequence[Case], bool], Mapping[str, Path]], write: Write, class_names: Sequence[str]
) -> list[EachFile]:
    """A format for each class, whose folder has its number and name."""
    return [
        EachFile(
            name=f"probabilities of {name}",
            folder=f"{FOLDER}/{number}_{quote(name, safe=' ')[:100]}",
            files=files,
            write=partial(write, number),
            use="always",
            is_kept=True,  # they are in no other file
        )
        for number, name in enumerate(class_names)
    ]

"""The mean over what could be measured: a class that does not occur has no figure (NaN), and counts for nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike


def known_mean(values: ArrayLike) -> float:
    """Over those of any shape that are not NaN; NaN where none is."""
    numbers = np.asarray(values, np.float64)
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if known.size else float("nan")


def partial_means(numbers: Mapping[str, float]) -> list[str]:
    """`mIoU is over 1 of 2 classes: ...` for each mean that some classes are not in, in words.

    Args:
        numbers: of one evaluation: means (`mIoU`) and the figures of each class (`IoU/road`).
    """
    said = []
    for mean in (name for name in numbers if "/" not in name and name.startswith("m")):
        own = {name.partition("/")[2]: value for name, value in numbers.items() if name.startswith(f"{mean[1:]}/")}
        absent = [name for name, value in own.items() if math.isnan(value)]
        if absent and len(absent) < len(own):
            names = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            said.append(
                f"{mean} is over {len(own) - len(absent)} of {len(own)} classes: of {names} nothing can be said"
            )
    return said

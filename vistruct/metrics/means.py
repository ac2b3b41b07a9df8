"""The mean over what could be measured: a class that does not occur has no figure (NaN), and counts for nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def known_mean(values: ArrayLike) -> float:
    """Over those of any shape that are not NaN; NaN where none is."""
    numbers = np.asarray(values, np.float64)
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if known.size else float("nan")

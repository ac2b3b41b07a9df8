"""What a score is read against: the answer that does not look, and chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


def commonest(truths: Sequence[str], most: int) -> list[str]:
    """The truths that occur most often, to be given as the same answer every time; of equally common ones the first
    in the alphabet."""
    counts = Counter(truths)
    return sorted(counts, key=lambda truth: (-counts[truth], truth))[:most]


def standard_error(scores: np.ndarray) -> float:
    """Of the mean of float[N] scores of questions, from their spread."""
    return float(scores.std() / len(scores) ** 0.5)

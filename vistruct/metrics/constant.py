"""The answer that does not look: always the same one. What learned nothing from the images scores no better."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def commonest(truths: Sequence[str], most: int) -> list[str]:
    """The truths that occur most often; of equally common ones the first in the alphabet."""
    counts = Counter(truths)
    return sorted(counts, key=lambda truth: (-counts[truth], truth))[:most]

"""Words of a caption as the word lists of caption models count them: small letters, without punctuation.

Source: the `tokens` of Karpathy's splits (arXiv:1412.2306), which come of the sentences like this. The words that a
measure compares are found otherwise (`metrics/captions.py`).
"""

from __future__ import annotations

import string
from collections.abc import Mapping

UNKNOWN, START, END, PAD = "<unk>", "<start>", "<end>", "<pad>"  # words of a word map that nobody says
SPECIAL = (UNKNOWN, START, END, PAD)

_WITHOUT = str.maketrans("", "", string.punctuation)


def tokens_of(caption: str) -> list[str]:
    """The words of a caption; a word that stands for an unknown one stays."""
    plain = ((word if word in SPECIAL else word.lower().translate(_WITHOUT)) for word in caption.split())
    return [word for word in plain if word]


def word_map_of(counts: Mapping[str, int], least: int) -> dict[str, int]:
    """The number of each word that occurs so often, in the order in which they were first met, from 1; behind them
    unknown, start and end; padding is 0."""
    words = [word for word, count in counts.items() if count >= least and word not in SPECIAL]
    numbers = {word: number for number, word in enumerate(words, start=1)}
    return numbers | {word: len(words) + at for at, word in enumerate((UNKNOWN, START, END), start=1)} | {PAD: 0}

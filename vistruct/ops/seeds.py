"""Seeds derived from what a thing is, never from when it happened."""

from __future__ import annotations

import hashlib

_COMMON = 1 << 47  # seeds of a step; above are the ranks, up to 65,536 of them


def on_rank(seed: int, rank: int) -> int:
    """A seed for one of several ranks, in which `of_all_ranks` finds what they have in common."""
    return rank * _COMMON + seed % _COMMON


def of_all_ranks(seed: int) -> int:
    """What the seeds of all ranks have in common."""
    return seed % _COMMON


def derive(*parts: int | str) -> int:
    """A seed in [0, 2**63) from any number of parts; the same parts give the same seed on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

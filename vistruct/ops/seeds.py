"""Seeds derived from what a thing is, never from when it happened."""

from __future__ import annotations

import hashlib


def derive(*parts: int | str) -> int:
    """A seed in [0, 2**63) from any number of parts; the same parts give the same seed on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

"""Turn a domain's annotated images into a vision foundation model of that domain, and measure what it bought."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vistruct.inference.model import load as load

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> object:
    if name == "load":  # torch is imported when first needed: `import vistruct` stays under a second
        from vistruct.inference.model import load

        return load
    raise AttributeError(f"module 'vistruct' has no attribute {name!r}")

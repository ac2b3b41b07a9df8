"""Turn a domain's annotated images into a vision foundation model of that domain, and measure what it bought."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vistruct.inference.model import load as load
    from vistruct.study.verb import study as study
    from vistruct.verbs.check import check as check
    from vistruct.verbs.train import train as train

__version__ = "0.1.0"
__all__ = ["check", "load", "study", "train"]

# Imported when they are first called, and torch with them: `import vistruct` stays under a second.
_VERBS = {"check": "vistruct.verbs.check", "load": "vistruct.inference.model", "train": "vistruct.verbs.train"}


def __getattr__(name: str) -> object:
    if name in _VERBS:
        return vars(importlib.import_module(_VERBS[name]))[name]
    if name == "study":  # a package that can be called, see there
        return importlib.import_module("vistruct.study")
    raise AttributeError(f"module 'vistruct' has no attribute {name!r}")

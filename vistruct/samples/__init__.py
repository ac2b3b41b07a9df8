"""The small real data that ships with the package: aerial scenes with hand-drawn tree crowns.

Source, sensor and licences are in `trees/README.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TreeSample:
    """COCO json files of two scenes 13 km apart, each with its image beside it. Never pretrain on `test`."""

    train: Path  # 2299 x 2472 pixels, 574 crowns
    test: Path  # 1249 x 1035 pixels, 279 crowns


def trees() -> TreeSample:
    """Where the tree-crown scenes lie on disk."""
    folder = Path(str(resources.files(__name__))) / "trees"
    return TreeSample(train=folder / "train.json", test=folder / "test.json")

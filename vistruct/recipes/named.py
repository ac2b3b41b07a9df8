"""What follows for a recipe from `--backbone NAME`, public weights by name: the architecture, its mean and std."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vistruct.backbones.timm_model import TimmConfig
from vistruct.checkpoint.catalogue.find import backbone_of, entry_of
from vistruct.checkpoint.catalogue.here import found_or_told


def named_architecture(backbone: Path | None) -> tuple[Any, dict[str, Any]] | None:
    """The backbone's config, and the mean and std of its images where they are not ImageNet's; None: it is no name.

    Raises:
        UserError: these weights are not on this machine; which file to put where.
    """
    entry = None if backbone is None else entry_of(backbone)
    if entry is None:
        return None
    found_or_told(entry)
    parts = backbone_of(entry)
    if isinstance(parts, TimmConfig):
        known = parts.outline()
        return parts, {"mean": known.mean, "std": known.std}
    return parts, {} if entry.mean is None else {"mean": entry.mean, "std": entry.std}


def says_its_shape(backbone: Path) -> bool:
    """Whether it says what its weights are of: a folder of ours, or a name of public weights; a file does not."""
    return backbone.is_dir() or entry_of(backbone) is not None

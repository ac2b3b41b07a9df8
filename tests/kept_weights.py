"""The weights of a checkpoint, read without a model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vistruct.checkpoint.manifest import read_manifest
from vistruct.checkpoint.restore import Files


def read_weights(path: Path) -> dict[str, Tensor]:
    """All weights of a checkpoint by name, whole, on the CPU.

    Raises:
        UserError: no checkpoint, or a damaged one.
    """
    manifest, weights = read_manifest(path), {}
    with Files(path, manifest) as files:
        for name, entry in manifest.tensors.items():
            if name.startswith("model/"):
                weights[name] = torch.empty(entry.shape, dtype=vars(torch)[entry.dtype])
                files.read(name, weights[name])
    weights |= {name: weights[kept] for name, kept in manifest.aliases.items()}
    return {name.removeprefix("model/"): tensor for name, tensor in weights.items()}

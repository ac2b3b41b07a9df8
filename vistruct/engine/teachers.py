"""Teachers of a run's tasks: loaded from their files once, kept nowhere, noted where the model is explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vistruct.checkpoint.tensors import sha256
from vistruct.checkpoint.weights import Coverage, backbone_dir, load_backbone
from vistruct.contracts import Task
from vistruct.engine.kept_maps import digest_of


@dataclass(frozen=True, kw_only=True)
class Present:
    """A teacher with its weights in place."""

    name: str
    coverage: Coverage
    digest: str  # what the weights are, in words

    def line(self) -> str:
        """For a card."""
        return f"{self.name}, {self.coverage.source} ({self.digest}); licence: {self.coverage.licence}"


def present(tasks: Mapping[str, Task]) -> tuple[Present, ...]:
    """Load all teachers of all tasks, by the names of their streams.

    Raises:
        UserError: as `load_backbone`.
    """
    found = []
    for stream, task in tasks.items():
        for own, teacher in task.traits.teachers.items():
            name = own if len(tasks) == 1 else f"{stream}.{own}"
            backbone = teacher.begin()
            coverage = replace(load_backbone(backbone, teacher.weights), what=f"teacher {name}")
            file = file_of(teacher.weights)
            if file is None:
                digest = f"sha256 of all tensors {digest_of(backbone.state_dict())}"
            else:
                digest = f"sha256 {sha256(file)}"
            found.append(Present(name=name, coverage=coverage, digest=digest))
    return tuple(found)


def fetch(task: Any, device: torch.device) -> None:
    """Load the teachers of a task that was left without them, as before its loss is asked for outside of a run.

    Raises:
        UserError: as `load_backbone`.
    """
    absent = [teacher for teacher in task.traits.teachers.values() if not teacher.is_there]
    for teacher in absent:
        load_backbone(teacher.begin(), teacher.weights)
    if absent:
        task.to(device)


def file_of(source: Path) -> Path | None:
    """The one file that the weights lie in; None: a folder of several."""
    ours = backbone_dir(source)
    if ours is not None:
        return ours / "backbone.safetensors"
    return source if source.is_file() else None

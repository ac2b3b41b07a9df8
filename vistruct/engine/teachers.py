"""Teachers of a run's tasks: loaded from their files once, kept nowhere, noted where the model is explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vistruct.checkpoint.catalogue.here import located
from vistruct.checkpoint.tensors import sha256
from vistruct.checkpoint.weights import Coverage, backbone_dir, load_backbone
from vistruct.config import Run
from vistruct.contracts import OutsideTeacher, Task
from vistruct.distributed.ranks import Ranks, main_first
from vistruct.engine.kept_maps import KeptMaps, digest_of, refuse_varied


@dataclass(frozen=True, kw_only=True)
class Present:
    """A teacher with its weights in place."""

    name: str
    coverage: Coverage
    digest: str  # what the weights are, in words
    stream: str
    teacher: OutsideTeacher
    maps: KeptMaps | None = None  # on disk; None: it looks at every batch

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
            found.append(Present(name=name, coverage=coverage, digest=digest, stream=stream, teacher=teacher))
    return tuple(found)


def kept(teachers: Sequence[Present], run: Run, ranks: Ranks, amp: torch.dtype | None) -> tuple[Present, ...]:
    """The same, whose maps are kept on disk, each image's computed once.

    Args:
        teachers: on their device.
        run: with `cache_maps`.
        amp: autocast dtype; None: float32.

    Raises:
        UserError: images are varied at random; a folder that cannot be written.
    """
    asked, found = run.cache_maps, []
    assert asked is not None
    for one in teachers:
        refuse_varied(run, one.stream)
        decides = {"backbone": one.teacher.settings, "weights": one.digest}
        with main_first(ranks):
            maps = KeptMaps(one.teacher.look, asked, decides, ranks, amp, of=f"teacher {one.name}")
        one.teacher.keep(maps)
        found.append(replace(one, maps=maps))
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
    named = located(source)
    return named if named.is_file() else None

"""Stretches of a run in which every step computes the same, for whoever tells how long it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a run in which every step computes the same."""

    name: str  # in words: the heads alone
    first_step: int  # the number of steps done before it


@runtime_checkable
class Phased(Protocol):
    """A task's config that says in which phases a run goes, for whoever tells how long it takes; else it has one."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """In order, the first from step 0; (): one. Those behind the last step of a run are never reached."""
        ...

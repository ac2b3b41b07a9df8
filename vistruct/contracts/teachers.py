"""A teacher that no module of a task is, as the engine knows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:  # which names it in turn
    from vistruct.contracts.parts import Backbone


class OutsideTeacher(Protocol):
    """A frozen backbone outside of a task's modules: it is in no state dict."""

    weights: Path  # whatever a backbone can start from

    @property
    def is_there(self) -> bool:
        """Whether it has begun."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its map beside weights and image, as json."""
        ...

    def begin(self) -> Backbone:
        """Build it with random weights, for whoever puts its own in place."""
        ...

    def seen(self, images: Tensor) -> Tensor:
        """Images of a batch -> float[B, C, H, W] as it looks at them."""
        ...

    def look(self, seen: Tensor) -> Sequence[Tensor]:
        """Its maps of what is `seen`."""
        ...

    def keep(self, kept: Callable[[Tensor], Sequence[Tensor]]) -> None:
        """From now on ask this in place of `look`."""
        ...

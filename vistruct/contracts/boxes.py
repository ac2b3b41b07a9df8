"""What every box head learns from, and what it gives (`parts.BoxHead`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from vistruct.contracts.objects import Objects
from vistruct.contracts.step import Ratio

BoxTarget = Objects[Tensor]  # the truth about one image, in pixels of the padded batch; boxes have an area
Detections = Objects[Tensor]  # what was found in it, best score first; masks float[N, m, m] on a grid over each box


@dataclass(frozen=True, kw_only=True)
class HeadLoss:
    """The terms of a loss, each summed over the units that the head's `units` says, and figures for the log."""

    terms: Mapping[str, Tensor]  # float[] each
    metrics: Mapping[str, Ratio] = field(default_factory=dict)

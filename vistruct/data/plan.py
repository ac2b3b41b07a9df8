"""Which samples make up a step, and how they are shared among devices and micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What each sample of a data set costs a task, as measured before training; int32[N] each."""

    tokens: np.ndarray  # of all rows of the sample, before any are dropped at random
    visual: np.ndarray  # of those, visual tokens
    supervised: np.ndarray  # of those, tokens of answers
    tiles: np.ndarray  # images that go through the backbone

    def __len__(self) -> int:
        return len(self.tokens)

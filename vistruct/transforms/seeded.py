"""Libraries that draw from a global random state, asked as if they were given a seed; the state is as before then."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded_torch(seed: int) -> Generator[None]:
    """Torch's draws on the CPU follow `seed` inside; `torch.manual_seed` would set those of the devices as well."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def seeded_python(seed: int) -> Generator[None]:
    """The draws of Python's `random` and of numpy's global generator follow `seed` inside."""
    before, numpy_before = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)  # noqa: NPY002

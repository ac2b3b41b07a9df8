"""What many tests share: the reference tensors, and one thread (small tensors are slower on two)."""

from __future__ import annotations

import signal
from pathlib import Path

import hypothesis
import pytest
import torch
from safetensors.torch import load_file

# Where the tests are started in the background it is ignored, and every process they start would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, so that what passed here passes there; `--hypothesis-profile default` draws new ones.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

GOLDEN = Path(__file__).parent / "golden"

torch.set_num_threads(1)


class Golden:
    """Tensors of one golden file by name; images come back as float."""

    def __init__(self, path: str) -> None:
        self.tensors = load_file(GOLDEN / path)

    def __getitem__(self, name: str) -> torch.Tensor:
        value = self.tensors[name]
        return value.float() / 32 if value.dtype == torch.int8 else value


@pytest.fixture(scope="session")
def golden():
    return Golden

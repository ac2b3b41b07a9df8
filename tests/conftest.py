"""What many tests share: the reference tensors, and one thread (small tensors are slower on two)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from headless import NAMES, Browser, find_browser
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


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        why = f"pages are looked at in a browser, and none of {', '.join(NAMES)} is installed"
        if os.environ.get("VISTRUCT_NEEDS_BROWSER"):
            pytest.fail(why)
        pytest.skip(why)
    opened = Browser(program, tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.fixture
def with_a_terminal() -> Iterator[None]:
    """Signals of a terminal that closes arrive, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)

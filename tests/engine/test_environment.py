from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vistruct.distributed.precision import amp_dtype, autocast, has_native_bf16
from vistruct.engine.environment import describe, peak_memory_mb

CPU = torch.device("cpu")


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs the list that Linux has")
def test_native_bf16_agrees_with_what_the_kernel_says_of_this_processor():
    words = set(Path("/proc/cpuinfo").read_text().split())
    assert has_native_bf16(CPU) == bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def test_auto_uses_bf16_only_where_the_machine_has_it(monkeypatch):
    monkeypatch.setattr("vistruct.distributed.precision.cpu_capabilities", lambda: frozenset({"avx2"}))
    assert amp_dtype("auto", CPU) is None
    monkeypatch.setattr("vistruct.distributed.precision.cpu_capabilities", lambda: frozenset({"avx512_bf16"}))
    assert amp_dtype("auto", CPU) is torch.bfloat16
    assert amp_dtype("off", CPU) is None


def test_what_is_asked_for_is_done_anywhere():
    dtype = amp_dtype("bf16", CPU)
    with autocast(dtype, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16
    with autocast(None, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


def test_the_environment_can_be_written_down_and_names_the_versions():
    values = json.loads(json.dumps(describe(CPU, world=2)))
    assert values["packages"]["torch"] == torch.__version__.split("+")[0] or values["packages"]["torch"]
    assert values["processes"] == 2


def test_memory_grows_with_what_is_used():
    before = peak_memory_mb(CPU)
    held = torch.ones(64 << 18)  # 64 MiB
    assert peak_memory_mb(CPU) >= before
    assert peak_memory_mb(CPU) > 64
    del held

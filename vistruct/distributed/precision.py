"""The arithmetic of a run on a device, float32 or half precision: one for training, measuring and predicting."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch


def has_native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products run in hardware; emulated ones are several times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return bool(_CPU_BF16 & cpu_capabilities())
    return False


_CPU_BF16 = {"avx512_bf16", "amx_bf16", "amx_tile", "bf16", "sve_bf16"}


def cpu_capabilities() -> frozenset[str]:
    """The instruction sets that torch finds on this processor, by name; empty where it cannot tell."""
    if hasattr(torch.cpu, "get_capabilities"):  # torch >= 2.11
        return frozenset(name for name, value in torch.cpu.get_capabilities().items() if value is True)
    asked = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_tile": "_is_amx_tile_supported"}  # torch < 2.11
    return frozenset(name for name, f in asked.items() if vars(torch.cpu).get(f, bool)())


def amp_dtype(amp: Literal["auto", "bf16", "fp16", "off"], device: torch.device) -> torch.dtype | None:
    """The autocast dtype for a run; None: float32 throughout."""
    if amp == "fp16":
        return torch.float16
    wanted = amp == "bf16" or (amp == "auto" and has_native_bf16(device))
    return torch.bfloat16 if wanted else None


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to `dtype`, or nothing where it is None."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)

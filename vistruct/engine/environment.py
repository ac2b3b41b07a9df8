"""What machine this is: for env.json, and to choose the arithmetic that is fast on it."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from typing import Any, Literal

import torch

from vistruct.errors import UserError

PACKAGES = ("vistruct", "torch", "torchvision", "transformers", "peft", "safetensors", "numpy", "pillow")


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


def amp_dtype(amp: Literal["auto", "bf16", "off"], device: torch.device) -> torch.dtype | None:
    """The autocast dtype for a run; None: float32 throughout."""
    wanted = amp == "bf16" or (amp == "auto" and has_native_bf16(device))
    return torch.bfloat16 if wanted else None


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to `dtype`, or nothing where it is None."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@contextmanager
def explained_memory(device: torch.device) -> Generator[None]:
    """Running out of an accelerator's memory is a setting that can be mended, and not a page of traceback."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory on {device}: {str(error).splitlines()[0]}",
            where="batch, accumulate",
            fix="--set accumulate=N with a larger N: the same gradient from smaller pieces",
        ) from error


def peak_memory_mb(device: torch.device) -> float:
    """Most memory used so far, MiB: of the accelerator where there is one, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def describe(device: torch.device, world: int = 1) -> dict[str, Any]:
    """What env.json holds: versions, device, cores. Nothing that names a person or a place."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else (platform.processor() or "cpu"),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "processes": world,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "native_bf16": has_native_bf16(device),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

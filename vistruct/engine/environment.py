"""What machine this is, for env.json, and what its memory holds."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from importlib import metadata
from typing import Any

import torch

from vistruct.distributed.precision import has_native_bf16
from vistruct.errors import UserError

PACKAGES = ("vistruct", "torch", "torchvision", "transformers", "peft", "safetensors", "numpy", "pillow")


def out_of_memory(said: str, device: torch.device) -> UserError:
    """Running out of an accelerator's memory is a setting that can be mended, and not a page of traceback."""
    return UserError(
        f"out of memory on {device}: {(said or 'it says no more').splitlines()[0]}",
        where="batch, accumulate",
        fix="--batch auto, or --set accumulate=N with a larger N: the same gradient from smaller pieces",
    )


def peak_memory_mb(device: torch.device) -> float:
    """Most memory used so far, MiB: of the accelerator where there is one, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def compute_seconds(device: torch.device) -> float:
    """A clock of what a run computes: on an accelerator the time, once all that was asked of it is done; else what the
    processor has spent on all threads of this process."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


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

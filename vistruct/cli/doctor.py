"""`vistruct doctor`: what this machine is, how fast it is, and what to do about what is wrong."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistruct.cli.output import as_json, table

if TYPE_CHECKING:
    import torch

NEEDED = (
    "torch", "torchvision", "transformers", "tokenizers", "peft", "safetensors", "hotcoco",
    "tensorboard", "matplotlib",
)  # fmt: skip
LOW_DISK_GB = 5.0  # checkpoints of a small model, twice


def command(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Examine this machine: versions, devices, measured speed, disk, and what to do about problems.

    Ends with 1 where something is missing that vistruct cannot do without.
    """
    facts = examine()
    if json:
        as_json(facts)
    else:
        plain = {name: value for name, value in facts.items() if name not in ("packages", "problems")}
        table(["", ""], plain.items())
        table(["package", "version"], facts["packages"].items())
        for problem in facts["problems"]:
            typer.echo(f"problem: {problem['what']}\n    try: {problem['try']}")
        if not facts["problems"]:
            typer.echo("no known problems")
    raise typer.Exit(1 if any(problem["stops"] for problem in facts["problems"]) else 0)


def examine() -> dict[str, Any]:
    """Everything that the command shows, as plain values."""
    import torch

    from vistruct.data.loading.parallel import cores
    from vistruct.distributed.precision import has_native_bf16

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    fp32, bf16 = (matmul_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "usable_cores": cores(),
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else ["cpu"],
        "native_bf16": has_native_bf16(device),
        "fp32_gflops": round(fp32, 1),
        "bf16_gflops": round(bf16, 1),
        "free_disk_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "packages": {name: version(name) for name in NEEDED},
    }
    facts["problems"] = problems(facts)
    return facts


def problems(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What is wrong with the facts: what, what to try, and whether nothing works before it is mended."""
    found = []

    def add(what: str, fix: str, stops: bool = False) -> None:
        found.append({"what": what, "try": fix, "stops": stops})

    missing = [name for name, number in facts["packages"].items() if number is None]
    if missing:
        add(
            f"not installed: {', '.join(missing)}",
            f"pip install {' '.join(missing).replace('_', '-')}",
            stops=True,
        )
    if facts["free_disk_gb"] < LOW_DISK_GB:
        add(
            f"{facts['free_disk_gb']} GB of disk space are left here",
            "make room, or train with --out elsewhere",
        )
    if facts["threads"] > facts["usable_cores"]:
        threads, cores = facts["threads"], facts["usable_cores"]
        add(f"torch uses {threads} threads on {cores} usable cores", f"export OMP_NUM_THREADS={cores}")
    if shutil.which("nvidia-smi") and facts["devices"] == ["cpu"]:
        add(
            "there is an NVIDIA driver, but torch sees no device",
            "install the torch build for your CUDA driver",
        )
    if facts["native_bf16"] and facts["bf16_gflops"] < facts["fp32_gflops"]:
        add("bfloat16 is native here but was slower than float32", "compare --set amp=off with the default")
    return found


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 768, seconds: float = 0.25) -> float:
    """Measured speed of square matrix products, in 10^9 floating-point operations a second.

    Args:
        device: where.
        dtype: of both matrices.
        size: rows and columns.
        seconds: how long to measure, after one product to warm up.
    """
    import torch

    a = torch.ones(size, size, dtype=dtype, device=device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    a @ a
    wait()
    start, rounds = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        a @ a
        wait()
        rounds += 1
    return 2 * size**3 * rounds / (time.perf_counter() - start) / 1e9


def version(name: str) -> str | None:
    """The installed version of a package; None where it is not there."""
    from importlib import metadata

    if importlib.util.find_spec(name) is None:
        return None
    try:
        return metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return "unknown"

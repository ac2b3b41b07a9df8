"""DCNv3 beside a direct gather of every point in plain torch, and beside `grid_sample`; forward and backward.

Run:  uv run python benchmarks/dcnv3.py [--device cuda] [--image 448] [--rounds 3]

The four stages of InternImage-XL (16 channels a group) at one image, in one process, turn about, after the same
outputs and gradients were found. `gather` reads the four cells of each point with `torch.gather`, weighs and adds
them, point by point; `grid_sample` reads all nine points of all groups at once, as the published fallback without the
compiled operator does. float32; milliseconds are medians, of processor time of one thread, on a GPU by the clock; peak
is the memory that torch has in use at most, beside what goes in.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from vistruct.ops.dcnv3 import dcnv3

SCALE, WIDTH, POINTS = 2.0, 16, 9
STAGES = ((4, 12), (8, 24), (16, 48), (32, 96))  # stride and groups
Inputs = tuple[Tensor, Tensor, Tensor]


def places(offset: Tensor) -> tuple[Tensor, Tensor]:
    """float[B, h, w, G, P] each: x and y that are read, in cells."""
    _, height, width, _ = offset.shape
    tap = torch.arange(-1, 2, device=offset.device)
    shift = offset.unflatten(3, (-1, POINTS, 2))
    x = torch.arange(width, device=offset.device)[:, None, None] + SCALE * (tap.repeat_interleave(3) + shift[..., 0])
    y = torch.arange(height, device=offset.device)[:, None, None, None] + SCALE * (tap.repeat(3) + shift[..., 1])
    return x, y


def gather(value: Tensor, offset: Tensor, weights: Tensor) -> Tensor:
    batch, height, width, _ = value.shape
    groups = weights.shape[-1] // POINTS
    cells, (x, y) = value.view(batch, height * width, groups, WIDTH), places(offset)
    share, out = weights.unflatten(3, (groups, POINTS)), torch.zeros_like(value).unflatten(3, (groups, WIDTH))
    left, top = x.floor(), y.floor()
    for point in range(POINTS):
        for dx in (0, 1):
            for dy in (0, 1):
                column, row = left[..., point] + dx, top[..., point] + dy
                is_inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                at = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
                index = at.long().flatten(1, 2)[..., None].expand(-1, -1, -1, WIDTH)
                near = (1 - (x[..., point] - column).abs()) * (1 - (y[..., point] - row).abs())
                part = (near * is_inside * share[..., point])[..., None]
                out = out + part * cells.gather(1, index).view_as(out)
    return out.flatten(3)


def sample(value: Tensor, offset: Tensor, weights: Tensor) -> Tensor:
    batch, height, width, _ = value.shape
    groups, (x, y) = weights.shape[-1] // POINTS, places(offset)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)  # [B, h, w, G, P, 2]
    grid = grid.flatten(1, 2).transpose(1, 2).flatten(0, 1)
    maps = value.unflatten(3, (groups, WIDTH)).permute(0, 3, 4, 1, 2).flatten(0, 1)
    read = F.grid_sample(maps, grid, align_corners=False)  # [B * G, D, h * w, P]
    share = weights.unflatten(3, (groups, POINTS)).flatten(1, 2).transpose(1, 2).flatten(0, 1)[:, None]
    return (read * share).sum(-1).view(batch, -1, height * width).transpose(1, 2).view_as(value)


def ours(value: Tensor, offset: Tensor, weights: Tensor) -> Tensor:
    return dcnv3(value, offset, weights, offset_scale=SCALE)


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"gather": gather, "grid_sample": sample, "ours": ours}


def inputs(side: int, groups: int, device: str) -> Inputs:
    torch.manual_seed(0)
    value = torch.randn(1, side, side, groups * WIDTH, device=device, requires_grad=True)
    offset = torch.randn(1, side, side, groups * POINTS * 2, device=device, requires_grad=True)
    weights = torch.randn(1, side, side, groups, POINTS, device=device).softmax(-1).flatten(3)
    return value, offset, weights.requires_grad_()


def check(given: Inputs) -> None:
    """All ways give the same; of offsets but for those within rounding of a cell, where the gradient jumps."""
    found = []
    for way in WAYS.values():
        out = way(*given)
        found.append((out, *torch.autograd.grad(out.square().sum(), given)))
    for name, others in zip(list(WAYS)[1:], found[1:], strict=True):
        for what, a, b in zip(("output", "value", "offset", "weights"), found[0], others, strict=True):
            apart = ((a - b).abs() > 1e-3 * b.abs().max()).float().mean().item()
            assert apart < (1e-4 if what == "offset" else 1e-9), f"{name} has another {what}"


def seconds(way: Callable[[Tensor, Tensor, Tensor], Tensor], given: Inputs, along: Tensor) -> tuple[float, float]:
    """Of the way there and the way back."""
    is_cpu = given[0].device.type == "cpu"

    def clock() -> float:
        if is_cpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    start = clock()
    out = way(*given)
    middle = clock()
    torch.autograd.grad(out, given, along)
    return middle - start, clock() - middle


def peak_mib(way: Callable[[Tensor, Tensor, Tensor], Tensor], given: Inputs, along: Tensor) -> float:
    if given[0].device.type != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(way(*given), given, along)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        torch.autograd.grad(way(*given), given, along)
    now = most = 0
    events = record.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--image", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("map", "groups", "way", "forward ms", "backward ms", "gather / this", "grid_sample / this", "peak MiB")
    table = Table(*columns, title=f"DCNv3, image of {given.image} px, {given.device}")
    for stride, groups in STAGES:
        side = given.image // stride
        read = inputs(side, groups, given.device)
        along = torch.randn_like(read[0])
        check(read)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
        for _ in range(given.rounds):
            for name, way in WAYS.items():
                times[name].append(seconds(way, read, along))
        medians = {name: [statistics.median(part) for part in zip(*t, strict=True)] for name, t in times.items()}
        total = {name: sum(parts) for name, parts in medians.items()}
        for name, way in WAYS.items():
            there, back = medians[name]
            ratios = [f"{total[other] / total[name]:.1f} x" for other in ("gather", "grid_sample")]
            cost = f"{peak_mib(way, read, along):.0f}"
            table.add_row(
                f"{side} x {side}", str(groups), name, f"{1e3 * there:.1f}", f"{1e3 * back:.1f}", *ratios, cost
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

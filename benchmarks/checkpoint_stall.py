"""How long a save holds up training: written at once, against written in the background.

Run:  uv run python benchmarks/checkpoint_stall.py [--rounds 3] [--megabytes 300] [--folder DIR]

A stack of linear layers with AdamW takes 12 steps between two saves of weights and optimiser state; the two ways take
turns. Call: how long `save` keeps the step. Stall: the longest of the 12 steps, its save included, less the
median of those without one; on a busy machine that is mostly the machine's own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from vistruct.checkpoint.save import steps
from vistruct.checkpoint.saver import Saver

WINDOW = 12  # steps
LAYERS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=300, help="of weights and optimiser state together")
    parser.add_argument("--folder", type=Path, help="on the disk to write to; by default the temporary folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    width = round((options.megabytes * 2**20 / (12 * LAYERS)) ** 0.5)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(LAYERS)))
    names = [name for name, _ in model.named_parameters()]
    optimizer = torch.optim.AdamW([{"params": list(model.parameters()), "names": names}], fused=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        ways = {False: "at once", True: "background"}
        found: dict[bool, list[list[float]]] = {way: [] for way in ways}
        calls: dict[bool, list[float]] = {way: [] for way in ways}
        savers = {way: Saver(Path(folder, str(way)), keep=1, background=way) for way in ways}
        for number in range(options.rounds + 1):
            for way, saver in savers.items():
                call, seconds = window(model, optimizer, saver, number * WINDOW)
                saver.finish()
                if number:  # the first makes the memory that the others use again
                    found[way].append(seconds)
                    calls[way].append(call)
        written = sum(f.stat().st_size for f in steps(Path(folder, "True"))[0].iterdir()) / 2**20
    plain = statistics.median(s for windows in found.values() for w in windows for s in w[1:])
    table = Table(title=f"{written:.0f} MiB, {WINDOW} steps of {1000 * plain:.0f} ms, median of {options.rounds} saves")
    for column in ("written", "call, ms", "longest step, ms", "stall, ms", "stall, steps"):
        table.add_column(column)
    for way, windows in found.items():
        longest = statistics.median(max(w) for w in windows)
        stall = longest - plain
        call = f"{1000 * statistics.median(calls[way]):.0f}"
        table.add_row(ways[way], call, f"{1000 * longest:.0f}", f"{1000 * stall:.0f}", f"{stall / plain:.2f}")
    Console().print(table)


def window(model: nn.Module, optimizer: torch.optim.Optimizer, saver: Saver, first: int) -> tuple[float, list[float]]:
    """Seconds in the call of `save`, and of each step; the save is in the first."""
    width = model[0].in_features  # ty: ignore[not-subscriptable]
    x = torch.randn(128, width)
    seconds, call = [], 0.0
    for step in range(WINDOW):
        start = time.perf_counter()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if step == 0:
            begun = time.perf_counter()
            saver.save(first + step + 1, model, optimizer)
            call = time.perf_counter() - begun
        seconds.append(time.perf_counter() - start)
    return call, seconds


if __name__ == "__main__":
    main()

"""Gradients summed over two ranks: while the backward pass runs, against all of them after it.

Run:  uv run python benchmarks/gradient_sum.py [--ranks 2] [--rounds 15] [--layers 60] [--width 512] [--rows 256]

One step of a stack of linear layers, over gloo on the CPU; the two ways take turns in the same processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import time

import torch
from torch import nn

from vistruct.distributed.gradients import GradientSum
from vistruct.distributed.ranks import barrier, leave, setup


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rows", type=int, default=256)
    options = parser.parse_args()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=measure, args=(rank, port, options)) for rank in range(options.ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def measure(rank: int, port: int, options: argparse.Namespace) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(options.ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    setup()
    model = nn.Sequential(*(nn.Linear(options.width, options.width) for _ in range(options.layers)))
    summed = GradientSum(model.parameters())
    x = torch.randn(options.rows, options.width)
    seconds: dict[str, list[float]] = {"backward pass alone": [], "summed after it": [], "summed meanwhile": []}
    for number in range(options.rounds + 1):
        for way, found in seconds.items():
            model.zero_grad(set_to_none=True)
            total = model(x).square().sum()
            barrier()
            start = time.perf_counter()
            if way == "summed meanwhile":
                summed.start()
            total.backward()
            if way != "backward pass alone":
                summed.finish()
            barrier()
            if number:  # the first round warms up
                found.append(time.perf_counter() - start)
    if rank == 0:
        size = sum(p.numel() for p in model.parameters()) * 4 / 2**20
        print(f"{options.ranks} ranks, gloo, {size:.0f} MiB of gradients, medians of {options.rounds}")
        base = statistics.median(seconds["summed after it"])
        for way, found in seconds.items():
            print(f"  {way:<22} {1000 * statistics.median(found):>8.1f} ms  {statistics.median(found) / base:>6.2f} x")
    leave()


if __name__ == "__main__":
    main()

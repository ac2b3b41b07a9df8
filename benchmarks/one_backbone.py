"""A step of three tasks on two data sets over one backbone: images decoded and passed once, or once for each task.

Run:  uv run python benchmarks/one_backbone.py [--device cuda] [--rounds 5]

MTP's pretraining on made-up scenes in SAMRS's layout (crops of 224, two images of each data set in a step, the
published variation): a ViT with RVSA, and UPerNet, Mask R-CNN and Oriented R-CNN with narrow layers, so that the
backbone is most of a step, as it is at the published sizes. Compared are, with as many samples:

    apart       six streams, each with samples of its own, one after the other
    samples     the three tasks of a data set learn from the same samples: decoded once, passed once
    one pass    likewise, and both data sets as one batch of the backbone: what the recipe does

Printed: seconds of a step with its loading (in this process), median over the rounds; peak memory on an accelerator.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vistruct.backbones.vit_rvsa import VitRvsaConfig
from vistruct.config import Run
from vistruct.distributed.ranks import Ranks
from vistruct.engine.run import build
from vistruct.engine.step import train_step
from vistruct.engine.train import loader_of
from vistruct.recipes.mtp import pretrain

VIT = VitRvsaConfig(width=384, depth=12, heads=6, drop_path=0.0)


def runs() -> dict[str, Run]:
    base = pretrain.tiny()
    streams = {}
    for name, one in base.streams.items():
        task: Any = one.task
        data: Any = one.data
        told = {"task": task.model_copy(update={"backbone": VIT}), "batch": 2}
        told["data"] = data.model_copy(update={"augment": pretrain.augment(224)})
        streams[name] = one.model_copy(update=told)
    base = base.model_copy(update={"streams": streams, "evals": {}, "amp": "off"})
    own = {name: one.model_copy(update={"samples": ""}) for name, one in streams.items()}
    return {
        "apart": base.model_copy(update={"streams": own, "one_pass": False}),
        "samples": base.model_copy(update={"one_pass": False}),
        "one pass": base,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of each, in a round")
    told = parser.parse_args()
    device = torch.device(told.device)
    torch.set_num_threads(1)
    ready = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, run in runs().items():
            state = build(run, Path(folder) / name, Ranks(device=device))
            ready[name] = state, iter(loader_of(state))
            train_step(state, next(ready[name][1]))  # warm
        seconds: dict[str, list[float]] = {name: [] for name in ready}
        memory = dict.fromkeys(ready, 0)
        for _ in range(told.rounds):
            for name, (state, batches) in ready.items():
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                start = time.perf_counter() if device.type == "cuda" else time.process_time()
                for _ in range(told.steps):
                    train_step(state, next(batches))
                if device.type == "cuda":
                    torch.cuda.synchronize()
                    memory[name] = max(memory[name], torch.cuda.max_memory_allocated())
                end = time.perf_counter() if device.type == "cuda" else time.process_time()
                seconds[name].append((end - start) / told.steps)
        for _, batches in ready.values():
            batches.close()
    table = Table("streams", "a step, s", "of apart", "peak, MiB")
    for name, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["apart"], found, strict=True))
        peak = f"{memory[name] / 2**20:.0f}" if memory[name] else ""
        table.add_row(name, f"{statistics.median(found):.2f}", f"{ratio:.2f} x as fast", peak)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

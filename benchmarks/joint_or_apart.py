"""Does one backbone with two tasks serve each as well as a backbone of its own?

Run:  uv run python benchmarks/joint_or_apart.py [--steps 100] [--seeds 5] [--out DIR]

The recipe `labels` on crops of the shipped training scene: crowns found as boxes and filled as pixels, by one small ViT
from random weights, and by two of them, each with one of the tasks. All take as many steps on the same data, from the
same weights of the backbone, so that apart is twice the passes of a backbone. Measured on the other scene, paired by
seed; intervals and words as in a study (`vistruct/study/statistics.py`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vistruct.config import Run, Trainable, of_one_task
from vistruct.data.instructions.write import LABELS, write_instructions
from vistruct.engine.train import train
from vistruct.recipes import labels
from vistruct.recipes.vitp.pretrain import SIZES
from vistruct.samples import trees
from vistruct.settings import with_settings
from vistruct.study.statistics import paired_gain
from vistruct.study.trial import last_numbers

CROPS, BATCH = 600, 8
MEASURED = {labels.BOXES: f"{labels.BOXES}_val/AP50", labels.FILLED: f"{labels.FILLED}_val/IoU/tree"}
SETTINGS = (
    "streams.boxes.data.tiles=null",
    "streams.boxes.data.augment=null",
    "streams.boxes.data.resize={height: 96, width: 96, keep_aspect: false}",
    "streams.boxes.task.neck={kind: simple_pyramid, channels: 64, strides: [16, 32]}",
    "streams.boxes.task.head={kind: fcos, num_convs: 1, nms_iou: 0.35, prior: 0.1}",
    "evals.boxes_val.data.tiles={size: 128, overlap: 48}",
    "streams.filled.task.slide={size: 128, overlap: 32}",
    "optim.weight_decay=0.01",
    "workers=0",
    "save_every=100000",
)


def both(data: Path, steps: int, seed: int) -> Run:
    """The run of one backbone with both tasks."""
    run = labels.recipe(
        data=data, val=trees().test, steps=steps, size=144, overlap=0, batch=BATCH, channels=64, lr=2e-3, seed=seed,
        map_head="linear",
    )  # fmt: skip
    streams = {}
    for name, stream in run.streams.items():
        task: Any = stream.task
        small = task.model_copy(update={"backbone": SIZES["small"].task.backbone})
        streams[name] = stream.model_copy(update={"task": small})
    schedule = run.schedule.model_copy(update={"warmup_steps": steps // 5})
    more = {"streams": streams, "trainable": (Trainable(pattern="backbone", lr_factor=0.5),), "schedule": schedule}
    more["eval_every"] = None
    return with_settings(run.model_copy(update=more), list(SETTINGS))


def measured(run: Run, out: Path) -> tuple[dict[str, float], float]:
    """The tasks' numbers, and seconds of the processor."""
    began = time.process_time()
    found = last_numbers(train(run, out))
    numbers = {name: value for name, metric in MEASURED.items() if (value := found.get(metric)) is not None}
    return numbers, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(tempfile.mkdtemp()), help="runs are kept here")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    write_instructions(
        trees().train, asked.out / "talk", crops=CROPS, crop_size=(72, 144), questions=1, rot90=True,
        boxes=asked.out / "labels",
    )  # fmt: skip
    together: dict[str, list[float]] = {name: [] for name in MEASURED}
    apart: dict[str, list[float]] = {name: [] for name in MEASURED}
    seconds = {"together": 0.0, "apart": 0.0}
    for seed in range(asked.seeds):
        run = both(asked.out / "labels" / LABELS, asked.steps, seed)
        numbers, took = measured(run, asked.out / f"together-{seed}")
        seconds["together"] += took
        for name in MEASURED:
            together[name].append(numbers[name])
            own, took = measured(of_one_task(run, name), asked.out / f"{name}-{seed}")
            apart[name].append(own[name])
            seconds["apart"] += took
    table = Table(
        "task", "two backbones", "one", "one - two", "Student, 95 %", "bootstrap, 95 %", "verdict", "better in"
    )
    for name, metric in MEASURED.items():
        gain = paired_gain(together[name], apart[name])
        means = [sum(values[name]) / asked.seeds for values in (apart, together)]
        ends = [f"{i.low:+.3f} to {i.high:+.3f}" if i else "-" for i in (gain.student, gain.bootstrap)]
        table.add_row(
            f"{name}, {metric.partition('/')[2]}", *(f"{mean:.3f}" for mean in means), f"{gain.mean:+.3f}", *ends,
            gain.verdict, f"{gain.wins} of {gain.pairs}",
        )  # fmt: skip
    Console(width=140).print(table)
    print({name: [round(value, 3) for value in values] for name, values in together.items()}, "one backbone")
    print({name: [round(value, 3) for value in values] for name, values in apart.items()}, "two")
    print(f"processor time with evaluation: {seconds['together']:.0f} s together, {seconds['apart']:.0f} s apart")


if __name__ == "__main__":
    main()

"""Stage 1 with the maps of its frozen backbone kept on disk and without: seconds and memory of a step, side by side.

    python benchmarks/cached_maps.py [--width 384] [--depth 12] [--size 224] [--images 16] [--batch 4] [--rounds 3]
                                     [--head detect|segment|distill]

The same run four ways in one process, in turns, each measured from its second step on: `trained` moves the backbone as
well (what a graph costs), `frozen` does not, `first` also writes the maps, `kept` reads them. Memory is what the
process takes at most beyond what it had before the step (Linux alone). Maps are on the disk of --folder, and in the
cache that the system has of it. With --head distill the ViT is a frozen teacher, and the small ViT of the recipe its
student, which trains.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from vistruct.backbones.eva_vit import EvaVitConfig
from vistruct.checkpoint.tensors import write_tensors
from vistruct.config import CacheMaps, Run, with_values
from vistruct.engine.run import State, build
from vistruct.engine.step import train_step
from vistruct.engine.train import loader_of
from vistruct.recipes import distill
from vistruct.recipes.visft import detect, segment
from vistruct.samples import trees
from vistruct.tasks.distill import LessonConfig
from vistruct.tasks.teacher import TeacherConfig
from vistruct.windows.tiles import Tiles

WAYS = {"detect": ("trained", "frozen", "first", "kept"), "distill": ("frozen", "first", "kept")}
WAYS["segment"] = WAYS["detect"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("width", 384), ("depth", 12), ("size", 224), ("images", 16), ("batch", 4), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--head", choices=tuple(WAYS), default="detect")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    place, ways = Path(tempfile.mkdtemp(dir=asked.folder)), WAYS[asked.head]
    make = distilled if asked.head == "distill" else run_of
    try:
        states = {way: build(make(asked, way, place), place / way) for way in ways}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        memory: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(asked.rounds):
            shutil.rmtree(place / "maps", ignore_errors=True)
            for way, state in states.items():
                for step, (took, peak) in enumerate(steps_of(state, asked.images // asked.batch)):
                    if step or asked.rounds == 1:
                        seconds[way].append(took)
                        memory[way].append(peak)
        size = sum(file.stat().st_size for file in (place / "maps").rglob("*.safetensors"))
        each = size / asked.images / 1e6
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, maps of an image {each:.3g} MB")
        for way in ways:
            print(f"{way:8} {statistics.median(seconds[way]):8.3f} s a step {max(memory[way]):8.0f} MB at most")
    finally:
        shutil.rmtree(place)


def run_of(asked: argparse.Namespace, way: str, place: Path) -> Run:
    """On windows of trees, each looked at once in a round."""
    recipe = {"detect": detect, "segment": segment}[asked.head].recipe
    run = recipe(
        data=trees().train, model="eva_g", backbone=place, size=asked.size, augment=False, cache=str(place / "maps")
    )
    task: Any = run.only.task
    vit = EvaVitConfig(width=asked.width, depth=asked.depth, heads=6, mlp_width=4 * asked.width)
    data: Any = run.only.data
    cut = Tiles(size=asked.size, overlap=0, skip_empty=True)
    records = len(data.model_copy(update={"tiles": cut}).build())
    data = data.model_copy(update={"tiles": cut, "fraction": min(1.0, (asked.images + 0.5) / records)})
    run = with_values(run, task=task.model_copy(update={"backbone": vit}), data=data, batch=asked.batch, workers=0)
    kept = CacheMaps(folder=place / "maps") if way in ("first", "kept") else None
    rules = () if way == "trained" else run.trainable
    return run.model_copy(update={"init": None, "cache_maps": kept, "trainable": rules, "amp": "off"})


def distilled(asked: argparse.Namespace, way: str, place: Path) -> Run:
    """On as many windows; of the student alone the colours change."""
    teacher = TeacherConfig(
        backbone=EvaVitConfig(width=asked.width, depth=asked.depth, heads=6, mlp_width=4 * asked.width),
        weights=place / "teacher.safetensors",
    )
    if not teacher.weights.exists():
        write_tensors(teacher.weights, teacher.backbone.build().state_dict())
    data = sorted(trees().train.parent.rglob("*.jpg"))
    run = distill.recipe(
        data=tuple(data), teacher=(str(teacher.weights),), model="small", size=asked.size, tile=asked.size,
        augment=False, batch=asked.batch, cache=None if way == "frozen" else str(place / "maps"),
    )  # fmt: skip
    task: Any = run.only.task
    images: Any = run.only.data
    records = len(images.build())
    images = images.model_copy(update={"fraction": min(1.0, (asked.images + 0.5) / records)})
    task = task.model_copy(update={"lessons": {"eva": LessonConfig(teacher=teacher)}})
    return with_values(run, task=task, data=images, workers=0, amp="off")


def steps_of(state: State, number: int) -> list[tuple[float, float]]:
    """Seconds of the processor, and megabytes at most beyond what was there before, of each step."""
    found = []
    batches = iter(loader_of(state))
    for _ in range(number):
        batch = next(batches)
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what other steps have left
        before = memory_mb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak until now
        start = time.process_time()  # other processes may be at work here
        train_step(state, batch)
        found.append((time.process_time() - start, memory_mb("VmHWM") - before))
    return found


def memory_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


if __name__ == "__main__":
    main()

"""How long a run takes to find its place in a million conversations, in a process that has just started.

Run:  uv run python benchmarks/resume_position.py [--lines 1000000] [--folder FOLDER]

A synthetic set of short conversations about eight small images is written and indexed once, as the first start of a run
would. Then a fresh process opens the index, makes the data set (fingerprint and counts included), takes the measured
costs, and asks the loader for the samples due at 99 % of the epoch. No sample that was seen before is decoded.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from vistruct.contracts import Measure, Record, Sample
from vistruct.data.chat.costs import admit
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.loading.loader import Loader

BATCH, ROUNDS = 128, 5
PARTS = ("open the index, make the data set", "take the costs", "find the place, first sample decoded")


@dataclass(frozen=True)
class Words:
    """A token a word: the tokenizer is not what is measured here."""

    key: str = "words"

    def __call__(self, record: Record, sizes_hw: Sequence[tuple[int, int]]) -> Measure:
        words = sum(len(turn.text.split()) for turn in record.turns)
        return Measure(
            tokens=words + 256 * len(sizes_hw), visual=256 * len(sizes_hw), supervised=1, tiles=len(sizes_hw)
        )


def write(folder: Path, lines: int) -> Path:
    for number in range(8):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
    path = folder / "chat.jsonl"
    with path.open("w") as file:
        for number in range(lines):
            turns = [{"from": "human", "value": f"<image>\nWhat is number {number}?"}]
            turns += [{"from": "gpt", "value": f"It is the scene with the number {number}."}]
            file.write(json.dumps({"id": number, "image": f"{number % 8}.png", "conversations": turns}) + "\n")
    return path


def names(samples: list[Sample]) -> list[str]:
    return [sample.id for sample in samples]


def memory() -> float:
    """MiB that this process holds now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def once(path: Path, cache: Path) -> dict[str, float]:
    """Seconds of each part, and MiB."""
    before, times, cpu = memory(), [time.perf_counter()], time.process_time()
    dataset = ChatDataConfig(jsonl=path).build(cache)
    times.append(time.perf_counter())
    dataset, costs = admit(dataset, Words(), max_left_out=0.01, cache=cache)
    times.append(time.perf_counter())
    assert costs is not None
    loader = Loader(dataset, names, batch=BATCH, first_step=int(0.99 * len(dataset)) // BATCH)
    share = loader.share(loader.first_step)
    dataset.sample(share[0][0][1], 0)
    times.append(time.perf_counter())
    spent = {name: after - start for name, start, after in zip(PARTS, times, times[1:], strict=False)}
    return {**spent, "cpu": time.process_time() - cpu, "memory": memory() - before}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--once", action="store_true")
    args = parser.parse_args()
    if args.once:
        print(json.dumps(once(args.folder / "chat.jsonl", args.folder / "index")))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        path = write(folder, args.lines)
        first = once(path, folder / "index")
        command = [sys.executable, __file__, "--once", "--folder", str(folder)]
        rounds = [json.loads(subprocess.check_output(command)) for _ in range(ROUNDS)]
        kept = sum(file.stat().st_size for file in (folder / "index").iterdir()) / 2**20
    table = Table("part", "first start, s", f"later, s (median of {ROUNDS})", title=f"{args.lines:,} conversations")
    for part in PARTS:
        table.add_row(part, f"{first[part]:.2f}", f"{statistics.median(r[part] for r in rounds):.3f}")
    totals = [sum(r[part] for part in PARTS) for r in rounds]
    table.add_row("together", f"{sum(first[p] for p in PARTS):.2f}", f"{statistics.median(totals):.3f}")
    table.add_row(
        "of that on the processor", f"{first['cpu']:.2f}", f"{statistics.median(r['cpu'] for r in rounds):.3f}"
    )
    console = Console()
    console.print(table)
    console.print(
        f"memory: {statistics.median(r['memory'] for r in rounds):.0f} MiB more in the process; on disk: {kept:.0f} MiB"
    )


if __name__ == "__main__":
    main()

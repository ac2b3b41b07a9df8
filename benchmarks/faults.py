"""Runs that are killed again and again, and JPEGs that are damaged: what is left, what is lost, what is found.

Run:  uv run python benchmarks/faults.py [--kills 200] [--folder DIR]

A run of a very small task saves every three steps. It is killed with signal 9 at random moments (one in ten while it
starts, the others while it trains, saves and clears away old checkpoints), started again, and at last left to
its end. After each kill every checkpoint is read and compared with its checksums. The smaller the task, the larger
the part of its time that it spends in saves.

    unusable    kills after which a checkpoint was damaged, or one that had been there was gone
    orphans     kills that left half a checkpoint; and how many such were still there once the next start had swept
    lost        steps that were done and that no checkpoint had
    equal       the final weights and optimiser state are, bit for bit, those of a run that nobody killed
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from damaged_jpegs import conversations, flipped, zeroed
from killed_runs import Kill, kill_often
from several_processes import train_in_ranks
from toy_engine import toy_run

from vistruct.checkpoint.save import steps
from vistruct.checkpoint.tensors import sha256
from vistruct.distributed.ranks import TIMEOUT
from vistruct.files.decode import UnreadableImage, decode
from vistruct.files.images import read_image

EVERY = 3  # steps between two saves
MOST_STEPS = 8  # of a life
WAYS = (  # share of the kills, title, ranks, one rank only, settings
    (0.50, "one process, saved in the background", 1, False, {}),
    (0.20, "one process, saved at once", 1, False, {"save_async": False}),
    (0.15, "two ranks (ddp), both killed", 2, False, {}),
    (0.15, "two ranks (fsdp), one killed", 2, True, {"parallel": "fsdp"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="on the disk to write to; by default the temporary folder")
    options = parser.parse_args()
    os.environ[TIMEOUT] = "20"  # for a rank that dies before it has joined: elsewhere a launcher ends the others
    console = Console(width=140)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        killed(options.kills, Path(folder), console)
        damaged(200, Path(folder), console)
    console.print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}")


def killed(number: int, folder: Path, console: Console) -> None:
    table = Table(
        "run", "kills", "unusable", "orphans", "unswept", "lost: mean", "most", "equal", "others ended within"
    )
    places: Counter[str] = Counter()
    begun = time.monotonic()
    for at, (share, title, world, only_one, settings) in enumerate(WAYS):
        kills = max(1, round(share * number))
        run = toy_run(steps=kills * (MOST_STEPS + 4), save_every=EVERY, log_every=100, **settings)
        cut, whole = folder / f"cut{at}", folder / f"whole{at}"
        found = list(kill_often(run, cut, kills, seed=at, world=world, only_one=only_one, most_steps=MOST_STEPS))
        ended = [train_in_ranks(world, run, out_dir) for out_dir in (cut, whole)]
        is_equal = ended == [[0] * world] * 2 and final(cut) == final(whole)
        lost = [kill.lost for kill in found]
        table.add_row(
            title,
            str(len(found)),
            str(unusable(found)),
            str(sum(kill.left > 0 for kill in found)),
            str(sum(kill.unswept for kill in found)),
            f"{statistics.mean(lost):.1f}",
            str(max(lost)),
            "yes" if is_equal else "NO",
            f"{max(kill.quiet_s for kill in found):.1f} s" if only_one else "",
        )
        places.update(kill.where for kill in found)
    console.print(table)
    where = Table("where the kills fell: training; and the save, if one was under way", "kills")
    for place, count in places.most_common():
        where.add_row(place, str(count))
    console.print(where)
    console.print(f"{time.monotonic() - begun:.0f} s")


def unusable(kills: list[Kill]) -> int:
    """Kills that left a damaged checkpoint, or took one away that had been finished."""
    before = [None, *(kill.newest for kill in kills)]
    return sum(bool(k.damaged) or (k.newest or 0) < (b or 0) for b, k in zip(before, kills, strict=False))


def final(out_dir: Path) -> list[str]:
    last = steps(out_dir / "checkpoints")[0]
    return [sha256(out_dir / "model" / "model.safetensors"), *map(sha256, sorted(last.glob("*.safetensors")))]


def damaged(number: int, folder: Path, console: Console) -> None:
    table = Table("damage", "JPEGs", "found by Pillow", "by our decoder", "by the checksum")
    for name, damage in (("4 KiB of zeros", zeroed), ("three flipped bits", flipped)):
        file = conversations(folder / damage.__name__, number, side=224)
        rng = np.random.default_rng(0)
        found: Counter[str] = Counter()
        for index in range(number):
            path = file.with_name(f"{index}.jpg")
            whole = path.read_bytes()
            path.write_bytes(damage(whole, rng))
            data, checksum = path.read_bytes(), zlib.crc32(whole)
            found["pillow"] += fails(lambda data=data: Image.open(io.BytesIO(data)).load())
            found["ours"] += fails(lambda data=data, path=path: decode(data, path))
            found["checksum"] += fails(lambda path=path, checksum=checksum: read_image(path, crc32=checksum))
        shares = [f"{found[way] / number:.1%}" for way in ("pillow", "ours", "checksum")]
        table.add_row(name, str(number), *shares)
    console.print(table)


def fails(work: Callable[[], object]) -> bool:
    try:
        work()
    except (OSError, SyntaxError, ValueError, UnreadableImage):
        return True
    return False


if __name__ == "__main__":
    main()

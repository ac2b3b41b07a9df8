"""Data sets of every format, damaged in every way that comes to mind: what does reading them end with?

Run:  uv run python benchmarks/fuzz_readers.py [--mutants 2000] [--first 0] [--only coco,yolo]

Each mutant is a small sound data set (or archive, weights, model card, run file) of which one or two files were
changed: bytes, lines, values, names, encodings, what lies in its place. It is read as `vistruct check` reads it. What
may come of it is that it is read, or an error of three lines; a traceback, an end that does not come within 20 s, a
process that dies or more than 2 GiB is a fault, and is shown with the number that makes it again (`--first N --mutants
1`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from mutants import MADE, fuzz, sound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", default="", help="names of data sets, parted by commas")
    asked = parser.parse_args()
    begun, ends, faults = time.monotonic(), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        places = sound(Path(folder) / "sound", asked.only.split(",") if asked.only else list(MADE))
        seeds = iter(range(asked.first, asked.first + asked.mutants))
        scratch = Path(folder) / "mutants"
        scratch.mkdir()
        for one in fuzz(Path(folder) / "sound", places, seeds, scratch):
            ends[one.how if one.how in ("read", "refused") else "fault"] += 1
            if one.how not in ("read", "refused"):
                faults[one.how] += 1
                if faults[one.how] == 1:
                    print(f"--- {one.seed} {one.name}: {one.what}\n{one.how}\n{one.trace}", flush=True)
    print(f"{ends.total()} mutants in {time.monotonic() - begun:.0f} s: {dict(ends)}")
    for how, number in faults.most_common():
        print(f"{number:4} x {how}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

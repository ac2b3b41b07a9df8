"""Answers that models might write, sound, damaged and without sense: are they read, and in time?

Run:  uv run python benchmarks/fuzz_answers.py [--answers 100000] [--seed 0]

Each answer is read, and what holds of every reading is checked (`tests/broken_answers.py`). Then texts that would be
slow to read if any part of them were looked at again and again grow from 1 kB to 1 MB: the time for a character.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from broken_answers import answers, check, growing

from vistruct.vlm.grammar import Grammar, read_answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    begun, defects, faults = time.process_time(), Counter[str](), 0
    for number, (text, grammar) in enumerate(itertools.islice(answers(asked.seed), asked.answers)):
        try:
            defects.update(check(text, grammar).defects or ("(none)",))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what is looked for
            faults += 1
            print(f"answer {number}: {type(error).__name__}: {error}\n{text!r}", flush=True)
    print(f"{asked.answers} answers in {time.process_time() - begun:.0f} s, {faults} faults")
    for name, count in defects.most_common():
        print(f"{count:7} x {name}")
    found = []
    for (name, short), (_, long) in zip(growing(1_000), growing(1_000_000), strict=True):
        first, last = seconds_each(short, 50), seconds_each(long, 1)
        found.append((last / first, first * 1e6, last * 1e6, name))
    print(f"{len(found)} texts; microseconds for a character of 1 kB, of 1 MB, and the ratio; the worst:")
    for ratio, first, last, name in sorted(found, reverse=True)[:8]:
        print(f"{first:8.3f} {last:8.3f} {ratio:6.2f}  {name}")
    print(f"the slowest of 1 MB: {max(last for _, _, last, _ in found):.2f} s")
    sys.exit(1 if faults or max(found)[0] > 10 else 0)


def seconds_each(text: str, times: int) -> float:
    """Processor time for a character: the median of three."""
    taken = []
    for _ in range(3):
        begun = time.process_time()
        for _ in range(times):
            read_answer(text, Grammar())
        taken.append((time.process_time() - begun) / times / len(text))
    return statistics.median(taken)


if __name__ == "__main__":
    main()

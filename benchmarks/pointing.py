"""Does a model that points gain from the images? Two runs on the same questions, with intervals.

Run:  uv run python benchmarks/pointing.py RUN OTHER ...

The first run against each other one: a control (`vistruct instruct --control`), or the same without a part of it. Each
has measured `answers` on the same conversations. Two kinds of numbers, both over all questions:

    written     what is in `evaluations/answers.json`: what the model wrote itself, and drew for it
    told        with the true answers given, so that only what is drawn is left: IoU of the boxes or masks

Differences are paired by picture; intervals are 95 % of a bootstrap over pictures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from vistruct.checkpoint.load import load_model
from vistruct.config import read_run
from vistruct.engine.evaluate import eval_mode, measurable
from vistruct.ops.seeds import derive

Sums = Mapping[str, tuple[float, float]]  # of each picture a sum and what it is divided by
DRAWS = 10_000
WRITTEN = ("acc50", "f1_50", "recall50", "precision50", "iou", "count", "named")


def written(run: Path) -> dict[str, Sums]:
    """Numbers of what a run wrote, picture by picture; those of all questions together."""
    details = json.loads((run / "evaluations" / "answers.json").read_text())["details"]["per_image"]
    chosen = {name: row for name, row in details.items() if name.split("/")[0] in WRITTEN}
    return {name: {key: (pair[0], pair[1]) for key, pair in row.items()} for name, row in chosen.items()}


@torch.no_grad()
def told(run: Path) -> dict[str, Sums]:
    """IoU of what is drawn where the true answers are given, picture by picture."""
    task, _ = load_model(run)
    evaluation = read_run(run / "run.yaml").evals["val"]
    dataset = measurable(task, evaluation, evaluation.data.build())
    found: dict[str, dict[str, tuple[float, float]]] = {}
    with eval_mode(task):
        for index in range(len(dataset)):
            sample = dataset.sample(index, derive(0, index))
            for name, ratio in task(task.collator([sample])).metrics.items():
                if name.endswith(".iou") and float(ratio.count):
                    found.setdefault(f"{name}, told", {})[sample.image_id] = (float(ratio.total), float(ratio.count))
    return found


def difference(first: Sums, second: Sums) -> tuple[float, float, float, float, float] | None:
    """Both numbers, their difference and its interval; None: one of them is of nothing."""
    keys = sorted(first.keys() & second.keys())
    table = np.array([[*first[key], *second[key]] for key in keys])
    if not table[:, 1].any() or not table[:, 3].any():
        return None
    drawn = np.random.default_rng(0).multinomial(len(keys), np.full(len(keys), 1 / len(keys)), size=DRAWS) @ table
    drawn = drawn[(drawn[:, 1] > 0) & (drawn[:, 3] > 0)]
    ends = np.quantile(drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3], (0.025, 0.975))
    whole = table.sum(axis=0)
    own, other = whole[0] / whole[1], whole[2] / whole[3]
    return own, other, own - other, float(ends[0]), float(ends[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("others", type=Path, nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured: dict[Path, dict[str, Any]] = {}
    for run in (arguments.run, *arguments.others):
        measured[run] = {**told(run), **written(run)}
    for other in arguments.others:
        table = Table("number", str(arguments.run), str(other), "difference", "95 %")
        for name in sorted(measured[arguments.run].keys() & measured[other].keys()):
            found = difference(measured[arguments.run][name], measured[other][name])
            if found is None:
                continue
            own, its, gain, low, high = found
            table.add_row(name, f"{own:.3f}", f"{its:.3f}", f"{gain:+.3f}", f"[{low:+.3f}, {high:+.3f}]")
        Console(width=120).print(table)


if __name__ == "__main__":
    main()

"""COCO's box metrics of many detections from memory, beside pycocotools and faster-coco-eval; the same precision.

Run:  uv run --with faster-coco-eval python benchmarks/coco_eval.py [--detections 100000] [--no-others]

2,000 made-up images with 20 classes; for every object five detections: shaken copies, of which every fifth has another
class. All that CocoBoxes measures. The others get dicts as they take them; ours gets the same columns as arrays.
Seconds of processor time of all threads, what is made from the columns for each counted too.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vistruct.metrics.coco_rows import CocoRows, precision_recall

IMAGES, CLASSES = 2000, 20


def made(num: int) -> tuple[CocoRows, CocoRows]:
    """Objects, and five detections of each."""
    rng = np.random.default_rng(0)
    objects = num // 5
    image = np.sort(rng.integers(0, IMAGES, objects))
    low, side = rng.uniform(0, 800, (objects, 2)), rng.uniform(5, 120, (objects, 2))
    labels = rng.integers(0, CLASSES, objects)
    boxes = np.concatenate([low, low + side], axis=1)
    of = np.repeat(np.arange(objects), 5)
    shaken = boxes[of] + rng.normal(0, 4, (len(of), 4))
    shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
    said = np.where(rng.random(len(of)) < 0.8, labels[of], rng.integers(0, CLASSES, len(of)))
    return _rows(image, labels, boxes, np.zeros(objects)), _rows(image[of], said, shaken, rng.random(len(of)))


def _rows(images: np.ndarray, labels: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> CocoRows:
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    crowd = np.zeros(len(boxes), bool)
    return CocoRows(images=images, labels=labels, boxes_xyxy=boxes, areas=areas, is_crowd=crowd, scores=scores)


def by_others(core: str, evaluation: str, truth: CocoRows, found: CocoRows, most: int) -> np.ndarray:
    """float[10, 101, C, 4]: precision by pycocotools, or by what has its names."""
    module: Any = importlib.import_module(core)
    judge: Any = importlib.import_module(evaluation)
    shared = {
        "images": [{"id": i, "height": 0, "width": 0} for i in range(IMAGES)],
        "categories": [{"id": k + 1, "name": str(k)} for k in range(CLASSES)],
    }
    sides = []
    for rows in (truth, found):
        side = module.COCO()
        side.dataset = {**shared, "annotations": rows.annotations()}
        side.createIndex()
        sides.append(side)
    kind = judge.COCOeval_faster if "faster" in core else judge.COCOeval
    running = kind(*sides, "bbox")
    running.params.maxDets = [most]
    running.evaluate()
    running.accumulate()
    return running.eval["precision"][..., 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detections", type=int, default=100_000)
    parser.add_argument("--no-others", action="store_true", help="ours alone: the others take minutes for 500,000")
    asked = parser.parse_args()
    truth, found = made(asked.detections)
    most = int(np.bincount(found.images).max())
    sizes, names = [(0, 0)] * IMAGES, [str(k) for k in range(CLASSES)]
    ways = {"ours (hotcoco)": lambda: precision_recall("bbox", truth, found, sizes, names, most)[0]}
    if not asked.no_others:
        for name, *modules in (
            ("faster-coco-eval", "faster_coco_eval.core.coco", "faster_coco_eval.core.faster_eval_api"),
            ("pycocotools", "pycocotools.coco", "pycocotools.cocoeval"),
        ):
            ways[name] = lambda modules=modules: by_others(*modules, truth, found, most)
    table = Table("", "processor time", "clock", "x ours", title=f"{asked.detections} detections")
    first, reference = 0.0, np.zeros(0)
    for number, (name, run) in enumerate(ways.items()):
        clock, work = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            precision = np.nan_to_num(run(), nan=-1)
        work, clock = time.process_time() - work, time.perf_counter() - clock
        if number == 0:
            first, reference = work, precision
        apart = float(np.abs(precision - reference).max())
        assert apart < 1e-9, f"{name} is {apart:.1e} away"
        table.add_row(name, f"{work:.2f} s", f"{clock:.2f} s", f"{work / first:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()

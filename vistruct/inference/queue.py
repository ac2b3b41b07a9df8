"""Which images a model is least sure of: the order in which people look at what it found (`vistruct predict --queue`).

    queue.csv    image, uncertainty, objects; the most uncertain first

A detection with score p, or a label of several with probability p, is as uncertain as

    confidence   1 - p
    margin       1 - |2p - 1|                              the two best of yes and no
    entropy      -p log2 p - (1 - p) log2(1 - p)

and an image as the mean of its detections (labels). Of one class among K with probabilities p1 >= p2 >= ...

    confidence   1 - p1
    margin       1 - (p1 - p2)
    entropy      -sum p log p / log K

All lie between 0 and 1. An image in which nothing was found has no detection to doubt: 0, and it comes last.

Source: least confidence, margin and entropy: Settles, Active Learning Literature Survey (2009), section 3.1; averages
over detections: Brust et al., arXiv:1809.09875.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vistruct.errors import UserError, closest
from vistruct.files.text import write_text
from vistruct.inference.kind import Done, Doubt, Kind, OneFile
from vistruct.progress import notice

if TYPE_CHECKING:
    from vistruct.inference.model import Model

MEASURES = ("confidence", "margin", "entropy")


def of_each(p: np.ndarray, measure: str) -> float:
    """Mean uncertainty of yes-or-no questions, whose probabilities are float[N]; 0 where there are none."""
    if not p.size:
        return 0.0
    p = p.astype(np.float64)
    if measure == "confidence":
        return float((1 - p).mean())
    if measure == "margin":
        return float((1 - np.abs(2 * p - 1)).mean())
    return float(-(_times_log(p) + _times_log(1 - p)).mean() / np.log(2))


def of_one(p: np.ndarray, measure: str) -> float:
    """Uncertainty of one class among those with probabilities float[K]; 0 where there is but one."""
    if len(p) < 2:
        return 0.0
    best, second = np.sort(p.astype(np.float64))[:-3:-1]
    if measure == "confidence":
        return float(1 - best)
    if measure == "margin":
        return float(1 - (best - second))
    return float(-_times_log(p.astype(np.float64)).sum() / np.log(len(p)))


def check_queue(kind: Kind, measure: str) -> None:
    """
    Raises:
        UserError: no such measure, or a kind of prediction that says nothing of how sure it is.
    """
    if measure not in MEASURES:
        raise UserError(f"no measure {measure!r} of uncertainty", where="--queue", fix=closest(measure, MEASURES))
    if kind.doubt is None:
        what = f"the results of a model of {kind.name} have no scores to put images in order by"
        raise UserError(what, where="--queue", fix="leave --queue out; boxes and classes of images have")


def queued(kind: Kind, done: Sequence[Done], measure: str) -> list[Done]:
    """The most uncertain first, equal ones as they came; how many have nothing to doubt is said."""
    doubts = [_doubt(kind, one, measure) for one in done]
    empty = sum(one.objects == 0 for one in doubts)
    if empty:
        notice(f"queue: nothing was found in {empty} of {len(done)} images; they come last, and may lack objects")
    order = sorted(range(len(done)), key=lambda number: -doubts[number].value)
    return [done[number] for number in order]


def queue_file(measure: str) -> OneFile:
    """The table of the queue."""
    return OneFile(name="queue", file="queue.csv", write=partial(_write, measure), use="always")


def _write(measure: str, model: Model, done: Sequence[Done], file: Path) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "uncertainty", "objects"])
    for one in done:
        doubt = _doubt(model.kind, one, measure)
        writer.writerow([one.case.name, f"{doubt.value:.6f}", doubt.objects])
    write_text(file, [text.getvalue()])
    return file


def _doubt(kind: Kind, one: Done, measure: str) -> Doubt:
    assert kind.doubt is not None  # see check_queue
    return kind.doubt(one.read(), measure)


def _times_log(p: np.ndarray) -> np.ndarray:
    return p * np.log(np.where(p > 0, p, 1))

"""Counts of each image, resampled: what a difference would have been on other images of the same kind.

Seeds say how much chance there is in training, images how much in what it is measured on. Both are drawn anew here,
the same images for both sides of a pair. Metrics that are no function of counts (average precision) have none of
this; and what a file's counts give must be what the file reports, else they are not used.

Shapes: S pairs, N images, K classes; counts are int64[N, K, 3], true positives, false positives and misses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.files.json_files import read_record
from vistruct.reports.measured import Kept
from vistruct.study.statistics import Interval, from_draws

PIXELS = ("pixels", "volumes_overlap")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One evaluation of a run, image by image."""

    images: tuple[str, ...]
    class_names: tuple[str, ...]
    counts: np.ndarray  # float64[N, K, 3]
    positive: str | None = None  # the class that `IoU`, `F1`, ... without a name are about

    def of(self, images: Sequence[str]) -> Measured:
        """The same for some of its images, in the order asked for."""
        place = {name: i for i, name in enumerate(self.images)}
        kept = self.counts[[place[name] for name in images]]
        return Measured(images=tuple(images), class_names=self.class_names, counts=kept, positive=self.positive)


@dataclass(frozen=True, kw_only=True)
class ImageGain:
    """A difference with an interval over seeds and images."""

    mean: float
    interval: Interval
    images: int
    pairs: int


def read_measured(run_dir: Path, evaluation: str, metric: str, value: float | None) -> Measured | None:
    """The counts of each image of an evaluation, if there are any and they give the number that was reported.

    Args:
        metric: without the evaluation's name, `mIoU`.
        value: what the run reports.
    """
    path = run_dir / "evaluations" / f"{evaluation}.json"
    if value is None or not path.is_file():
        return None
    kept = read_record(path, Kept)
    details = {} if kept.details is None else kept.details.model_dump(exclude_none=True)
    measured = _from_details(kept.metric, details)
    if measured is None or not len(measured.images):
        return None
    again = score(measured.counts.sum(0), metric, measured.class_names, measured.positive)
    return measured if again is not None and math.isclose(float(again), value, abs_tol=1e-4) else None


def _from_details(kind: str, details: dict[str, Any]) -> Measured | None:
    if "images" not in details or "class_names" not in details:
        return None
    names, images = tuple(details["class_names"]), details["images"]
    if kind in PIXELS:
        counts = np.array(list(images.values()), np.float64).reshape(len(images), len(names), 3)
    elif kind == "classes":
        rows = [_single(one["truth"], one["scores"], len(names)) for one in images.values()]
        if any(row is None for row in rows):
            return None
        counts = np.array(rows, np.float64).reshape(len(images), len(names), 3)
    else:
        return None
    return Measured(images=tuple(images), class_names=names, counts=counts, positive=details.get("positive"))


def _single(truth: Sequence[int], scores: Sequence[float], classes: int) -> np.ndarray | None:
    """float64[K, 3] of one image with one class; None for any other number of classes."""
    if len(truth) != 1:
        return None
    row = np.zeros((classes, 3))
    answer = int(np.argmax(scores))
    if answer == truth[0]:
        row[answer, 0] = 1
    else:
        row[answer, 1] = 1
        row[truth[0], 2] = 1
    return row


def score(
    counts: np.ndarray, metric: str, class_names: Sequence[str], positive: str | None = None
) -> np.ndarray | None:
    """A metric of counts; of each resample where there are several.

    Args:
        counts: float64[..., K, 3].
        metric: `mIoU`, `mF1`, `mDice`, `mAcc`, `aAcc`, `OA`, `IoU/<class>`, `F1/<class>`, `precision/<class>`,
            `recall/<class>`, or the last four without a class, of the positive one.

    Returns:
        float64[...], NaN where there is nothing to measure on; None: not a function of counts.
    """
    tp, fp, fn = (counts[..., i] for i in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        of_class = {
            "IoU": tp / (tp + fp + fn),
            "F1": 2 * tp / (2 * tp + fp + fn),
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
        }
        if metric in ("aAcc", "OA"):
            return tp.sum(-1) / (tp + fn).sum(-1)
    means = {"mIoU": "IoU", "mF1": "F1", "mDice": "F1", "mAcc": "recall"}
    if metric in means:
        values = of_class[means[metric]]
        known = np.isfinite(values)
        return np.where(known, values, 0).sum(-1) / np.where(known.any(-1), known.sum(-1), np.nan)
    name, has_class, wanted = metric.partition("/")
    wanted = wanted if has_class else positive or ""
    if name not in of_class or wanted not in class_names:
        return None
    return of_class[name][..., list(class_names).index(wanted)]


def image_gain(
    after: Sequence[Measured],
    before: Sequence[Measured],
    metric: str,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> ImageGain | None:
    """Compare pairs of evaluations over images, and over pairs where there are several.

    Args:
        after, before: S evaluations each, paired; images are paired by name.

    Returns:
        None: no pair, other classes, fewer than two images in common, or a metric that is no function of counts.
    """
    if not after or len(after) != len(before):
        return None
    everything = [*after, *before]
    common = set.intersection(*(set(one.images) for one in everything))
    shared = [name for name in after[0].images if name in common]
    if len(shared) < 2 or len({one.class_names for one in everything}) > 1:
        return None
    names, positive = after[0].class_names, after[0].positive
    sides = [np.stack([one.of(shared).counts for one in side]) for side in (after, before)]  # [S, N, K, 3] each
    values = [score(side.sum(1), metric, names, positive) for side in sides]  # [S] each
    if values[0] is None or values[1] is None:
        return None
    rng = np.random.default_rng(seed)
    n, pairs = len(shared), len(after)
    differences = np.empty((draws, pairs))
    flat = [side.reshape(pairs, n, -1) for side in sides]
    for at in range(0, draws, 256):  # a part at a time: memory does not grow with the draws
        part = min(256, draws - at)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=part).astype(np.float64)  # [part, N]
        for pair in range(pairs):
            scores = [
                score((weights @ side[pair]).reshape(part, len(names), 3), metric, names, positive) for side in flat
            ]
            assert scores[0] is not None
            assert scores[1] is not None
            differences[at : at + part, pair] = scores[0] - scores[1]
    chosen = rng.integers(0, pairs, (draws, pairs))  # of seeds, again
    means = np.take_along_axis(differences, chosen, axis=1).mean(1)
    mean = float((values[0] - values[1]).mean())
    if not np.isfinite(means).any() or not math.isfinite(mean):
        return None
    return ImageGain(mean=mean, interval=from_draws(means, mean, level=level), images=n, pairs=pairs)

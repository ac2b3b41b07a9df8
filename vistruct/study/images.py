"""What each image adds to a number, resampled: what a difference would have been on other images of the same kind.

Seeds say how much chance there is in training, images how much in what it is measured on. Both are drawn anew here,
the same images for both sides of a pair. A number is known image by image where it is a ratio of sums over images
(`per_image` in the details of its metric), or where it is a function of counts of classes. Other numbers (average
precision) have none of this; and what a file's images give must be what the file reports, else they are not used.

Shapes: S pairs, N images, K classes or numbers; counts are float64[N, K, 3] of classes (true positives, false positives
and misses) or float64[N, K, 2] of numbers (totals and what they are divided by).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.files.json_files import read_record
from vistruct.reports.measured import Kept
from vistruct.study.statistics import Interval, from_draws

COUNTED = ("pixels", "volumes_overlap", "identified")  # metrics whose details count by class in each image


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One evaluation of a run, image by image."""

    images: tuple[str, ...]
    names: tuple[str, ...]  # of the classes, or of the numbers
    counts: np.ndarray  # float64[N, K, 3] or float64[N, K, 2]
    positive: str | None = None  # the class that `IoU`, `F1`, ... without a name are about

    def of(self, images: Sequence[str]) -> Measured:
        """The same for some of its images, in the order asked for."""
        place = {name: i for i, name in enumerate(self.images)}
        kept = self.counts[[place[name] for name in images]]
        return Measured(images=tuple(images), names=self.names, counts=kept, positive=self.positive)

    def gives(self, metric: str, value: float) -> bool:
        """Whether a metric of all images together is this number."""
        again = score(self.counts.sum(0), metric, self.names, self.positive)
        return again is not None and math.isclose(float(again), value, abs_tol=1e-4)


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
    return next((one for one in by_image(kept.metric, details) if one.gives(metric, value)), None)


def by_image(kind: str, details: Mapping[str, Any]) -> list[Measured]:
    """What the details of a metric say of each image; of more than one sort where it keeps several.

    Args:
        kind: of the metric.
        details: with `per_image` (number -> image -> [total, count], where the number is the sum of totals divided by
            the sum of counts), or with `images` and `class_names`.
    """
    found = []
    sums: Mapping[str, Mapping[str, Sequence[float]]] = details.get("per_image") or {}
    if sums:
        images = tuple(dict.fromkeys(image for own in sums.values() for image in own))
        rows = [[own.get(image, (0.0, 0.0)) for own in sums.values()] for image in images]
        counts = np.array(rows, np.float64).reshape(len(images), len(sums), 2)
        found.append(Measured(images=images, names=tuple(sums), counts=counts))
    if not details.get("images") or "class_names" not in details:
        return found
    names, images = tuple(details["class_names"]), details["images"]
    if kind in COUNTED:
        rows = list(images.values())
    elif kind == "classes":
        rows = [_single(one["truth"], one["scores"], len(names)) for one in images.values()]
        if any(row is None for row in rows):
            return found
    else:
        return found
    counts = np.array(rows, np.float64).reshape(len(images), len(names), 3)
    return [*found, Measured(images=tuple(images), names=names, counts=counts, positive=details.get("positive"))]


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


def score(counts: np.ndarray, metric: str, names: Sequence[str], positive: str | None = None) -> np.ndarray | None:
    """A metric of counts; of each resample where there are several.

    Args:
        counts: float64[..., K, 3] of classes, or float64[..., K, 2] of numbers.
        metric: one of the numbers; of classes `mIoU`, `mF1`, `mDice`, `mAcc`, `aAcc`, `OA`, `IoU/<class>`,
            `F1/<class>`, `precision/<class>`, `recall/<class>`, or the last four without a class, of the positive one.

    Returns:
        float64[...], NaN where there is nothing to measure on; None: not a function of counts.
    """
    if counts.shape[-1] == 2:
        if metric not in names:
            return None
        total, count = np.moveaxis(counts[..., list(names).index(metric), :], -1, 0)
        return np.divide(total, count, out=np.full(np.shape(total), math.nan), where=count != 0)
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
    if name not in of_class or wanted not in names:
        return None
    return of_class[name][..., list(names).index(wanted)]


def image_gain(
    after: Sequence[Measured],
    before: Sequence[Measured],
    metric: str,
    *,
    level: float = 0.95,
    draws: int = 2000,
) -> ImageGain | None:
    """`image_gains` of one metric."""
    return image_gains(after, before, (metric,), level=level, draws=draws).get(metric)


def image_gains(
    after: Sequence[Measured],
    before: Sequence[Measured],
    metrics: Sequence[str],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, ImageGain]:
    """Compare pairs of evaluations over images, and over pairs where there are several.

    Args:
        after, before: S evaluations each, paired; images are paired by name.

    Returns:
        by metric; nothing where there is no pair, other classes, or fewer than two images in common, and without the
        metrics that are no function of these counts.
    """
    if not after or len(after) != len(before):
        return {}
    everything = [*after, *before]
    common = set.intersection(*(set(one.images) for one in everything))
    shared = [name for name in after[0].images if name in common]
    if len(shared) < 2 or len({one.names for one in everything}) > 1:
        return {}
    names, positive = after[0].names, after[0].positive
    sides = [np.stack([one.of(shared).counts for one in side]) for side in (after, before)]  # [S, N, K, 2 or 3] each
    scored = {metric: [score(side.sum(1), metric, names, positive) for side in sides] for metric in metrics}  # [S] each
    values = {metric: a - b for metric, (a, b) in scored.items() if a is not None and b is not None}
    rng = np.random.default_rng(seed)
    n, pairs = len(shared), len(after)
    differences = {metric: np.empty((draws, pairs)) for metric in values}
    flat = [side.reshape(pairs, n, -1) for side in sides]
    for at in range(0, draws if values else 0, 256):  # a part at a time: memory does not grow with the draws
        part = min(256, draws - at)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=part).astype(np.float64)  # [part, N]
        for pair in range(pairs):
            drawn = [(weights @ side[pair]).reshape(part, *sides[0].shape[2:]) for side in flat]
            for metric, rows in differences.items():
                a, b = (score(one, metric, names, positive) for one in drawn)
                assert a is not None
                assert b is not None
                rows[at : at + part, pair] = a - b
    chosen = rng.integers(0, pairs, (draws, pairs))  # of seeds, again
    found = {}
    for metric, rows in differences.items():
        means, mean = np.take_along_axis(rows, chosen, axis=1).mean(1), float(values[metric].mean())
        if np.isfinite(means).any() and math.isfinite(mean):
            interval = from_draws(means, mean, level=level)
            found[metric] = ImageGain(mean=mean, interval=interval, images=n, pairs=pairs)
    return found

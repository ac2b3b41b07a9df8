"""What evaluations keep beside their numbers, `evaluations/NAME.json`: read, and sorted by class and by image.

The file is `{"metric", "step", "numbers", "details"}`; `details` is what the metric of that kind makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from vistruct.files.json_files import read_record
from vistruct.metrics.means import known_mean


class Details(BaseModel, extra="allow"):
    """What metrics keep; some of them more than this."""

    class_names: list[str] | None = None
    region_names: list[str] | None = None
    confusion: list[list[int]] | None = None
    hd95: dict[str, list[float | None]] | None = None
    images: dict[str, Any] | None = None


class Kept(BaseModel):
    """`evaluations/NAME.json`."""

    metric: str = ""
    step: int | None = None
    numbers: dict[str, float | None] = {}
    details: Details | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation's last result."""

    name: str
    metric: str  # kind of the metric
    step: int | None
    numbers: Mapping[str, float]  # NaN where nothing could be measured
    details: Mapping[str, Any]

    @property
    def is_volumes(self) -> bool:
        """Whether its images are volumes."""
        return self.metric == "volumes_overlap"

    @property
    def unit(self) -> str:
        """What its confusion counts."""
        return {"classes": "images", "volumes_overlap": "voxels"}.get(self.metric, "pixels")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.details.get("class_names") or ())

    @property
    def confusion(self) -> np.ndarray | None:
        """int64[K, K], rows are the truth; None where there is none."""
        found = self.details.get("confusion")
        return np.asarray(found, np.int64) if found else None

    @property
    def hd95(self) -> Mapping[str, Sequence[float | None]]:
        """Of each case, of each of `region_names`, in millimetres; None where a surface is missing."""
        return self.details.get("hd95") or {}

    @property
    def region_names(self) -> tuple[str, ...]:
        """What surface distances are of: classes, or several taken together."""
        return tuple(self.details.get("region_names") or self.class_names)


def read_evaluations(run_dir: Path) -> list[Evaluation]:
    """All of a run, by name; none where there is no such folder."""
    found = []
    for path in sorted((run_dir / "evaluations").glob("*.json")):
        kept = read_record(path, Kept, f"measure again: vistruct eval {run_dir}")
        numbers = {name: math.nan if value is None else value for name, value in kept.numbers.items()}
        details = (kept.details or Details()).model_dump(exclude_unset=True)
        found.append(Evaluation(name=path.stem, metric=kept.metric, step=kept.step, numbers=numbers, details=details))
    return found


def parted(metric: str) -> tuple[str, str | None]:
    """What is measured, and of which class, region or family alone (None: of all): `IoU/road` -> (IoU, road)."""
    prefix = "mask/" if metric.startswith("mask/") else ""
    figure, slash, group = metric.removeprefix(prefix).partition("/")
    return prefix + figure, group if slash else None


def by_group(numbers: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The numbers of each class, region or family: group -> figure -> value, both in their order."""
    groups: dict[str, dict[str, float]] = {}
    for metric, value in numbers.items():
        figure, group = parted(metric)
        if group is not None:
            groups.setdefault(group, {})[figure] = value
    return groups


def image_scores(evaluation: Evaluation) -> list[tuple[str, float]]:
    """Every image's id and score in [0, 1], the worst first; images of which nothing is counted are left out.

    Of maps the mean IoU over the classes that are there or were said to be; of volumes the mean Dice over those without
    the first, the background; of classes the score of the true one, of several labels one minus the mean distance of
    scores and truth; of captions ROUGE-L.
    """
    scores = []
    if evaluation.metric == "captions":
        scores = [(image_id, float(one[0])) for image_id, one in evaluation.details["per_image"]["ROUGE-L"].items()]
    for image_id, kept in (evaluation.details.get("images") or {}).items():
        score = _of_classes(kept, evaluation) if isinstance(kept, Mapping) else known_mean(_overlaps(kept, evaluation))
        if not math.isnan(score):
            scores.append((image_id, score))
    return sorted(scores, key=lambda pair: (pair[1], pair[0]))


def weakest_class(evaluation: Evaluation, image_id: str) -> tuple[str, float]:
    """The class with the lowest IoU (in volumes Dice) in an image of which `image_scores` has a score; and that."""
    overlaps = _overlaps(evaluation.details["images"][image_id], evaluation)
    weakest = int(np.nanargmin(overlaps))
    return evaluation.class_names[weakest], float(overlaps[weakest])


def _overlaps(counts: Sequence[Sequence[int]], evaluation: Evaluation) -> np.ndarray:
    """float64[K] of int[K, 3] (right, false alarm, missed); NaN where a class does not occur."""
    right, false, missed = np.asarray(counts, np.float64).reshape(-1, 3).T
    weight = 2 if evaluation.is_volumes else 1
    total = weight * right + false + missed
    overlaps = np.divide(weight * right, total, out=np.full(len(total), math.nan), where=total > 0)
    if evaluation.is_volumes:
        overlaps[:1] = math.nan
    return overlaps


def _of_classes(kept: Mapping[str, Any], evaluation: Evaluation) -> float:
    truth, scores = list(kept["truth"]), np.asarray(kept["scores"], np.float64)
    if not scores.size:
        return math.nan
    if evaluation.confusion is not None:
        return float(scores[truth[0]])
    target = np.zeros(len(scores))
    target[truth] = 1.0
    return float(1 - np.abs(scores - target).mean())

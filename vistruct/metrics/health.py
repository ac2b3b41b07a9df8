"""Whether features still tell images apart: a collapse shows here while the loss falls.

Source: RankMe (arXiv:2210.02885) for the effective rank, of features of length 1 that are not centred.
Shapes: N images, D numbers of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from vistruct.config import Part
from vistruct.contracts import Embedded
from vistruct.errors import UserError

REMEDY = "lower the rate; of a task with a teacher check its momentum and centre, of one that contrasts its negatives"
FALLS = {"deviation": 0.25, "effective_rank": 0.5}  # an alarm below this part of the run's first measurement


class HealthConfig(Part):
    """Where an alarm is raised, beside a fall below a part of the run's first measurement (`FALLS`)."""

    kind: Literal["health"] = "health"
    least_deviation: float = 0.02  # as part of 1 / sqrt(D), what features that fill their space have
    most_cosine: float = 0.9999
    limit: int | None = 1000  # images, drawn once and for all; None: all of them

    def build(self, dataset: Any) -> Health:
        """Images of one class each tell which belong together; of other data neighbours are not measured."""
        labels = {one.id: one.image_labels for one in dataset.records}
        return Health({name: int(own[0]) for name, own in labels.items() if own is not None and len(own) == 1})

    def usual(self, data: Any) -> str:
        """The effective rank."""
        return "effective_rank"

    def higher_is_better(self, number: str) -> bool | None:
        """Deviation, rank and right neighbours; a high cosine is near to a collapse."""
        return {"images": None, "mean_cosine": False}.get(number, True)

    def alarms(self, numbers: Mapping[str, float], first: Mapping[str, float | None]) -> list[str]:
        """What is wrong, each with what to do; nothing where all is well.

        Args:
            first: the run's first measurement, or nothing.
        """
        found = []
        if numbers["deviation"] < self.least_deviation:
            found.append(f"deviation {numbers['deviation']:.3g} is below {self.least_deviation:g}")
        if numbers["mean_cosine"] > self.most_cosine:
            found.append(f"mean cosine {numbers['mean_cosine']:.6f} is above {self.most_cosine:g}")
        for name, part in FALLS.items():
            before = first.get(name)
            if before is not None and numbers[name] < part * before:
                found.append(f"{name.replace('_', ' ')} fell from {before:.3g} to {numbers[name]:.3g}")
        return [f"features collapse: {one} ({REMEDY})" for one in found]


class Health:
    """Collects the features of images; `labels` says the class of those whose neighbours are asked."""

    def __init__(self, labels: Mapping[str, int] | None = None) -> None:
        self.labels = dict(labels or {})
        self.found: dict[str, Embedded] = {}

    @staticmethod
    def condense(prediction: Embedded) -> Embedded:
        """The image's vector alone, of its own memory."""
        image = prediction.image.float().clone()
        return replace(prediction, image=image, texts=image.new_zeros(0, len(image)), captions=())

    def update(self, predictions: Sequence[Embedded]) -> None:
        """Add predictions, in any number.

        Raises:
            UserError: a vector that has a NaN.
            ValueError: an image a second time.
        """
        for one in predictions:
            if one.id in self.found:
                raise ValueError(f"{one.id} was predicted twice")
            if not one.image.isfinite().all():
                raise UserError("a vector with a NaN", where=one.id, fix="the training has diverged: lower the rate")
            self.found[one.id] = one

    def compute(self) -> dict[str, float]:
        """deviation (mean over channels, as part of 1 / sqrt(D)), mean_cosine of all pairs, effective_rank; with labels
        neighbour_accuracy (is the nearest other image of the same class); images. NaN of less than two images."""
        number = len(self.found)
        if number < 2:
            names = ("deviation", "mean_cosine", "effective_rank")
            return dict.fromkeys(names, math.nan) | {"images": float(number)}
        rows = np.stack([one.image.double().numpy() for one in self.found.values()])
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        cosine = (np.square(rows.sum(axis=0)).sum() - np.square(rows).sum()) / (number * (number - 1))
        values = np.linalg.svd(rows, compute_uv=False)
        share = values / max(values.sum(), 1e-12)
        share = share[share > 0]
        numbers = {
            "deviation": float(rows.std(axis=0).mean() * math.sqrt(rows.shape[1])),
            "mean_cosine": float(cosine),
            "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
        }
        known = [place for place, name in enumerate(self.found) if name in self.labels]
        if len(known) > 1:
            near = rows[known] @ rows[known].T
            np.fill_diagonal(near, -np.inf)
            truth = np.array([self.labels[name] for name in self.found if name in self.labels])
            numbers["neighbour_accuracy"] = float((truth[near.argmax(axis=1)] == truth).mean())
        return numbers | {"images": float(number)}

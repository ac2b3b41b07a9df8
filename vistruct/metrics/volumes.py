"""Overlap and surface distance of whole volumes, the mean over cases (`volumes_overlap`).

All slices of a case are counted together, every case counts alike, and every class too:

    Dice = 2 tp / (2 tp + fp + fn)      mDice: mean over cases of each class, then over classes without the background

That is how medical challenges measure. MMSegmentation's mDice, and with it probably ViTP's, adds up voxels over all
cases first, so that large organs of large patients decide: `mDice_pooled` here.

A class that is neither in a case nor predicted there has no Dice. `absent` says what happens: "skip" leaves the case
out of that class's mean, a false alarm counts 0; "skip_false_alarms" leaves it out even then, as MONAI's `ignore_empty`
does; "one" counts 1, as BraTS does.

HD95 is the 95th percentile of the distances, in millimetres, from each surface to the other, the larger of the two
directions. It is MONAI's (`compute_hausdorff_distance`): a surface distance has many definitions, and a kept library's
is the one to be compared with. Where one of both is empty there is no distance: such cases are counted beside the mean
(`HD95_missing`) and not in it, while BraTS adds 373 mm for each.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from vistruct.config import Part
from vistruct.contracts import IGNORED, MapPrediction
from vistruct.data.dataset import RecordDataset
from vistruct.data.volumes import EMPTY_SLICE, SPACING
from vistruct.errors import UserError, closest
from vistruct.metrics.means import known_mean
from vistruct.metrics.pixels import Counted, Pixels

PERCENTILE = 95.0


class VolumesConfig(Part):
    """What is measured in each volume, and how absent classes count."""

    kind: Literal["volumes_overlap"] = "volumes_overlap"
    regions: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # classes taken together, in place of single ones
    ignore_classes: tuple[str, ...] | None = None  # left out of the means; None: the first class, the background
    absent: Literal["skip", "skip_false_alarms", "one"] = "skip"
    hd95: bool = False  # surface distances too; takes time, and needs the extra `medical`

    def build(self, dataset: RecordDataset) -> Volumes:
        """Measure against the labels of the data set's volumes.

        Raises:
            UserError: slices were left out, no labels, a class that the data do not have; MONAI is missing.
        """
        if dataset.report.counts[EMPTY_SLICE]:
            what = f"{dataset.report.counts[EMPTY_SLICE]} empty slices of the evaluation data are left out"
            raise UserError(
                f"{what}: false alarms there would not count", where="metric", fix="--set evals.val.data.empty=1"
            )
        if self.hd95:
            try:
                import monai.metrics  # noqa: F401
            except ImportError:
                fix = 'pip install "vistruct[medical]"'
                raise UserError("surface distances need MONAI, which is not installed", where="hd95", fix=fix) from None
        return Volumes(dataset, self)

    def usual(self, data: Any) -> str:
        """mDice."""
        return "mDice"

    def higher_is_better(self, number: str) -> bool | None:
        """Of overlaps more is better, of distances less; the number of volumes is no merit."""
        return None if number == "volumes" else number.partition("/")[0] not in ("mHD95", "HD95", "HD95_missing")


@dataclass(frozen=True, kw_only=True)
class SliceCount:
    """A predicted slice as it travels between ranks."""

    counted: Counted
    packed: bytes | None  # int16[H, W] of the prediction, deflated; None: surfaces are not asked for


class Volumes:
    """Counts voxels case by case; `compute` gives the figures."""

    def __init__(self, dataset: RecordDataset, config: VolumesConfig | None = None) -> None:
        self.dataset, self.config, self.class_names = dataset, config or VolumesConfig(), dataset.info.class_names
        self.pixels = Pixels(dataset)
        left_out = self.config.ignore_classes
        left_out = self.class_names[:1] if left_out is None else left_out
        for name in (*left_out, *(name for region in self.config.regions.values() for name in region)):
            if name not in self.class_names:
                fix = closest(name, self.class_names)
                raise UserError(f"no class {name!r}", where="metric: volumes_overlap", fix=fix)
        regions = self.config.regions or {name: (name,) for name in self.class_names}
        self.regions = {name: [self.class_names.index(one) for one in classes] for name, classes in regions.items()}
        self.meant = [name for name in self.regions if self.config.regions or name not in left_out]
        if not self.meant:
            raise UserError("no class is left for a mean", where="metric.ignore_classes", fix="leave some in")
        self.slices = Counter(record.image_id for record in dataset.records)
        self.seen: Counter[str] = Counter()
        self.packed: dict[str, bytes] = {}  # by record id
        self.surfaces: dict[str, dict[str, float | None]] = {}  # HD95 by case and region

    def condense(self, prediction: MapPrediction) -> SliceCount:
        """Read the truth and count, where the prediction was made.

        Raises:
            UserError: see `Pixels.condense`.
        """
        counted = self.pixels.condense(prediction)
        label_map = prediction.label_map.cpu().numpy().astype(np.int16)
        return SliceCount(counted=counted, packed=zlib.compress(label_map.tobytes(), 1) if self.config.hd95 else None)

    def update(self, predictions: Sequence[MapPrediction | SliceCount]) -> None:
        """Add predictions; the slices of a case may come in any order and batch.

        Raises:
            UserError: as `condense`.
            ValueError: a slice was predicted before.
        """
        for prediction in predictions:
            one = self.condense(prediction) if isinstance(prediction, MapPrediction) else prediction
            self.pixels.update([one.counted])
            self.seen[one.counted.image_id] += 1
            if one.packed is not None:
                self.packed[one.counted.id] = one.packed

    def compute(self) -> dict[str, float]:
        """The figures; NaN where there is nothing to measure on.

        Returns:
            mDice, mIoU, mDice_pooled, `Dice/<class or region>`, `IoU/...`, volumes (their number); where asked for
            also mHD95, `HD95/...` in millimetres, and HD95_missing, the number of surfaces without a counterpart.

        Raises:
            UserError: a case of which not every slice was predicted.
        """
        for case, seen in self.seen.items():
            if seen < self.slices[case]:
                what = f"{seen} of the {self.slices[case]} slices of {case} were predicted"
                raise UserError(what, where=case, fix="predict every slice of a volume that is measured")
        tables = {case: self.pixels.images[case] for case in self.seen}
        dice = {name: known_mean([self._dice(_hits(table, own)) for table in tables.values()])
                for name, own in self.regions.items()}  # fmt: skip
        iou = {name: known_mean([_over(*_hits(table, own)) for table in tables.values()])
               for name, own in self.regions.items()}  # fmt: skip
        empty = np.zeros((len(self.class_names),) * 2, np.int64)
        whole = sum(tables.values(), start=empty)
        numbers = {
            "mDice": known_mean([dice[name] for name in self.meant]),
            "mIoU": known_mean([iou[name] for name in self.meant]),
            "mDice_pooled": known_mean([_dice(*_hits(whole, self.regions[name])) for name in self.meant]),
            "volumes": float(len(tables)),
            **{f"Dice/{name}": value for name, value in dice.items()},
            **{f"IoU/{name}": value for name, value in iou.items()},
        }
        return numbers | (self._distances(list(tables)) if self.config.hd95 else {})

    def details(self) -> dict[str, Any]:
        """Counts of each case and class, and its surface distances, as plain json."""
        details: dict[str, Any] = self.pixels.details()
        if self.config.hd95:
            details["region_names"] = self.meant  # of the distances: regions, or the classes without the background
            details["hd95"] = {case: [own[name] for name in self.meant] for case, own in self.surfaces.items()}
        return details

    def _dice(self, counts: tuple[int, int, int]) -> float:
        tp, fp, fn = counts
        if tp + fn == 0:
            if self.config.absent == "skip_false_alarms":
                return math.nan
            if self.config.absent == "one" and fp == 0:
                return 1.0
        return _dice(tp, fp, fn)

    def _distances(self, cases: Sequence[str]) -> dict[str, float]:
        missing = 0
        for case in cases:
            self.surfaces[case], lost = self._distances_of(case)
            missing += lost
        means = {name: known_mean([_or_nan(own[name]) for own in self.surfaces.values()]) for name in self.meant}
        numbers = {
            "mHD95": known_mean(list(means.values())),
            **{f"HD95/{name}": value for name, value in means.items()},
        }
        return numbers | {"HD95_missing": float(missing)}

    def _distances_of(self, case: str) -> tuple[dict[str, float | None], int]:
        """Millimetres by region, None where there is no distance; and how many have a surface on one side alone."""
        own = [(record.slice or 0, number) for number, record in enumerate(self.dataset.records)
               if record.image_id == case]  # fmt: skip
        planes, truths = [], []
        for _, number in sorted(own):
            truth = self.dataset.truth(number).numpy()
            shape = truth.shape
            found = np.frombuffer(zlib.decompress(self.packed[self.dataset.records[number].id]), np.int16)
            planes.append(np.where(truth == IGNORED, IGNORED, found.reshape(shape)))
            truths.append(truth)
        predicted, truth = np.stack(planes), np.stack(truths)
        spacing = [float(side) for side in self.dataset.records[own[0][1]].notes[SPACING].split()]
        distances: dict[str, float | None] = {}
        missing = 0
        for name in self.meant:
            a, b = np.isin(predicted, self.regions[name]), np.isin(truth, self.regions[name])
            distances[name] = hd95(a, b, spacing) if a.any() and b.any() else None
            missing += int(a.any() != b.any())
        return distances, missing


def hd95(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> float:
    """95th percentile of the distances between two surfaces, the larger of both directions.

    Args:
        a: bool[S, H, W], not empty.
        b: likewise.
        spacing: millimetres along each axis.
    """
    from monai.metrics import compute_hausdorff_distance

    places = np.argwhere(a | b)
    (z0, y0, x0), (z1, y1, x1) = places.min(axis=0), places.max(axis=0) + 1
    part = (slice(z0, z1), slice(y0, y1), slice(x0, x1))  # surfaces are looked for in here alone
    one, other = (torch.from_numpy(np.pad(mask[part], 1))[None, None] for mask in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI's about an argument that it gives itself
        found = compute_hausdorff_distance(
            one, other, include_background=True, percentile=PERCENTILE, spacing=[float(side) for side in spacing]
        )
    return float(found[0, 0])


def _hits(table: np.ndarray, own: Sequence[int]) -> tuple[int, int, int]:
    """True positive, false positive and false negative voxels of classes taken together, of int64[K, K] counts."""
    tp = int(table[np.ix_(own, own)].sum())
    return tp, int(table[:, own].sum()) - tp, int(table[own, :].sum()) - tp


def _dice(tp: int, fp: int, fn: int) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else math.nan


def _over(tp: int, fp: int, fn: int) -> float:
    return tp / (tp + fp + fn) if tp + fp + fn else math.nan


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value

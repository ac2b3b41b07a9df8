"""Predictions that lie in files, measured: the numbers of the model that made them, without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistruct.data.dataset import RecordDataset
from vistruct.data.predicted.maps import Coded
from vistruct.data.predicted.read import Predicted, opened, predictions_at
from vistruct.issues import IssueCounter
from vistruct.metrics.caption_scores import CaptionsConfig
from vistruct.metrics.coco import CocoBoxesConfig, CocoMasksConfig
from vistruct.metrics.oriented import OrientedBoxesConfig
from vistruct.metrics.pixels import PixelsConfig
from vistruct.metrics.texts import TEXT_FORMATS, TextConfig
from vistruct.metrics.volumes import VolumesConfig

BOXES_ALONE = "truth without a mask: boxes are measured, and no masks"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What was measured, and what was not."""

    metric: str  # its kind
    numbers: dict[str, float]
    read: IssueCounter  # of the truth
    left: IssueCounter  # of the predictions: what did not fit


def score(path: Path, part: Any, *, patches: str | None = None, coded: Coded = "auto") -> Scored:
    """Measure predictions in files.

    Args:
        path: file, folder or zip; see `data/predicted/read.py`.
        part: data config of the truth, whole and without variation.
        patches, coded: see there.

    Raises:
        UserError: predictions that are not known or do not fit; nothing to measure; what the readers raise.
    """
    if part.kind == "boxes":
        part = part.model_copy(update={"as_written": True})
    dataset = part.build()
    with opened(path) as place:
        predicted = predictions_at(place, part, dataset, patches=patches, coded=coded)
        config: Any = metric_for(part, dataset, predicted)
        metric = config.build(dataset)
        for one in predicted.predictions:
            metric.update([metric.condense(one)])  # a mask of every object is kept no longer than it must
    return Scored(metric=config.kind, numbers=metric.compute(), read=dataset.report, left=predicted.report)


def metric_for(part: Any, dataset: RecordDataset, predicted: Predicted) -> Any:
    """The metric that such predictions on such a truth usually have."""
    if part.kind == "maps":
        return PixelsConfig()
    if part.kind == "volumes":
        return VolumesConfig()
    if part.kind == "captions":
        return TextConfig() if part.format in TEXT_FORMATS else CaptionsConfig()
    tables = [record.objects for record in dataset.whole_records]
    if predicted.is_oriented:
        return OrientedBoxesConfig()
    if predicted.has_masks and any(table.masks is not None for table in tables):
        bare = [record.id for record in dataset.whole_records if not all(record.objects.masks or [True])]
        if not bare:
            return CocoMasksConfig()
        for name in bare:
            predicted.report.note(BOXES_ALONE, name, "kept")
    if any(table.quads is not None for table in tables) and all(table.masks is None for table in tables):
        return OrientedBoxesConfig(boxes="hulls")
    return CocoBoxesConfig()

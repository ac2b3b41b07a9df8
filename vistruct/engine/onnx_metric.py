"""The numbers of an evaluation by an exported ONNX file beside those of the model itself, on the same images."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from vistruct.checkpoint.load import ModelCard
from vistruct.data.dataset import RecordDataset
from vistruct.engine.data_sets import for_classes
from vistruct.engine.evaluate import asks_as_trained, measure
from vistruct.errors import UserError

SAME = 0.005  # of a number, or of 1 where that is less


def numbers_beside(task: Any, other: Any, card: ModelCard, *, most: int = 32) -> str:
    """Measure a task and its export on the first evaluation of its run, one image at a time, on the CPU.

    Args:
        other: the same task, computed by the file.
        most: samples, of whole images, at most.

    Returns:
        what was found, or why there was nothing to measure.

    Raises:
        UserError: a number differs by more than SAME.
    """
    try:
        name, asked, dataset = _data(card, most)
        own, said = (measure(one, asked, torch.device("cpu"), 1, dataset=dataset).numbers for one in (task, other))
    except UserError as error:
        return f"no metric was compared: {error.what}"
    apart = {number: _apart(value, said[number]) for number, value in own.items()}
    worst = max(apart, key=lambda number: apart[number])
    on = f"{name}, {len(dataset)} samples"
    if apart[worst] > SAME:
        what = f"on {on} it has {worst} {said[worst]:.4f}, and the model {own[worst]:.4f}"
        raise UserError(
            what, where="--format onnx", fix="report this, with the settings of the run; --limit 0 leaves it out"
        )
    metric: Any = asked.metric
    usual = metric.usual(asked.data)
    both = f"{usual} {own[usual]:.4f} by torch and {said[usual]:.4f} by onnxruntime"
    return f"{on}: {both}; all {len(own)} numbers within {apart[worst]:.1e}"


def _apart(own: float, said: float) -> float:
    if math.isnan(own) and math.isnan(said):
        return 0.0
    apart = abs(own - said) / max(1.0, abs(own))
    return apart if math.isfinite(apart) else math.inf


def _data(card: ModelCard, most: int) -> tuple[str, Any, RecordDataset]:
    """The first evaluation of predictions, and of its data as many whole images as have so many samples together.

    Raises:
        UserError: there is none, or its data cannot be read.
    """
    for name, asked in card.run.evals.items():
        data: Any = for_classes(asked.data, card.info)
        dataset = data.build()
        if isinstance(dataset, RecordDataset) and not asks_as_trained(asked, dataset):
            return name, asked, _part(dataset, most)
    raise UserError("this run has no evaluation of images", where=card.path, fix="--val PATH of the recipe")


def _part(dataset: RecordDataset, most: int) -> RecordDataset:
    """Whole images, those with objects first."""
    pieces = Counter(record.image_id for record in dataset.records)
    full = {record.image_id for record in dataset.records if len(record.objects)}
    kept: set[str] = set()
    left = most
    for image in sorted(pieces, key=lambda one: one not in full):
        if pieces[image] <= left:
            kept.add(image)
            left -= pieces[image]
    if not kept:
        what = f"every image is cut into more than {most} windows"
        raise UserError(what, where="--limit", fix=f"--limit {min(pieces.values())}")
    return replace(dataset, records=[record for record in dataset.records if record.image_id in kept])

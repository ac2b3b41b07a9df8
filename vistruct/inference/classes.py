"""A classifier asked about many images: `classes.csv`, a row for each with its class and the score of every class."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch

from vistruct.contracts import ClassPrediction
from vistruct.files.text import write_text
from vistruct.inference.cache import Parts
from vistruct.inference.files import settings
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case
from vistruct.progress import notice, tracking

SAID = 0.5  # score from which on one of several labels is said


def predict_classes(
    model: Model, cases: Sequence[Case], target: Path, *, batch: int = 8
) -> tuple[list[ClassPrediction], Path]:
    """Look at every image that is not done yet; what was done stays done.

    Args:
        batch: images in one pass, where they are of one size.

    Returns:
        A prediction for each image, and the csv.

    Raises:
        UserError: an image that cannot be read; those before its batch are done.
    """
    parts = Parts(target / "parts", settings(model), model.class_names)
    if parts.num_removed:
        notice(f"{target}: another model or other views than last time; all images are looked at again")
    left = [case for case in cases if not parts.has(case.name, *case.files)]
    done = len(cases) - len(left)
    if done:
        notice(f"{target}: {done} of {len(cases)} images were done before")
    with tracking("predicting", done=done, total=len(cases)) as show:
        for start in range(0, len(left), batch):
            some = left[start : start + batch]
            found = model.classify([case.files[0] for case in some], [case.name for case in some], batch=batch)
            for case, prediction in zip(some, found, strict=True):
                parts.write_values(case.name, case.files, {"scores": prediction.scores.tolist()})
            show(done + start + len(some), some[-1].name)
    is_multi_label = bool(getattr(model.task.config, "multi_label", False))
    predictions = [
        ClassPrediction(
            id=case.name,
            image_id=case.name,
            scores=torch.tensor(parts.read_values(case.name)["scores"]),
            class_names=model.task.class_names,
            is_multi_label=is_multi_label,
        )
        for case in cases
    ]
    return predictions, write_classes(target / "classes.csv", predictions)


def said(prediction: ClassPrediction) -> list[str]:
    """The class with the highest score; of several labels all from a half on, the highest first."""
    order = prediction.scores.argsort(descending=True, stable=True).tolist()
    if not prediction.is_multi_label:
        return [prediction.class_names[order[0]]]
    return [prediction.class_names[i] for i in order if prediction.scores[i] >= SAID]


def write_classes(file: Path, predictions: Sequence[ClassPrediction]) -> Path:
    """A csv: image, class (several parted by semicolons, none: empty), and the score of each class in its column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", *(predictions[0].class_names if predictions else ())])
    for one in predictions:
        writer.writerow([one.image_id, ";".join(said(one)), *(f"{score:.6g}" for score in one.scores.tolist())])
    write_text(file, [text.getvalue()])
    return file

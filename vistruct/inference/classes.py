"""Classes of whole images (`classes`): `classes.csv`, a row for each with its class and the score of every class."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vistruct.contracts import RGB, ClassPrediction, Sample
from vistruct.errors import UserError
from vistruct.files.text import write_text
from vistruct.inference.in_supervision import classifications
from vistruct.inference.kind import SEEN, Asked, Done, Doubt, Kind, OneFile, Told, Values
from vistruct.inference.model import Model
from vistruct.inference.queue import of_each, of_one
from vistruct.inference.scenes import Case, small
from vistruct.inference.view import View
from vistruct.transforms.sizing import sized
from vistruct.windows.views import Views

if TYPE_CHECKING:
    from PIL import Image

SAID = 0.5  # score from which on one of several labels is said


@torch.inference_mode()
def in_batches(model: Model, cases: Sequence[Case], asked: Asked) -> list[Any]:
    """Images of one size go through the model together."""
    found: list[Any] = []
    waiting: list[Sample] = []
    collate = model.task.traits.predict_collator or model.task.collator
    for case in cases:
        scene = model.scene(case)
        sample = Sample(id=case.name, image_id=case.name, seed=0, images=list(scene.read(scene.whole)))
        sample = sized(sample, model.input.resize)
        if waiting and (len(waiting) == asked.batch or waiting[0].images[0].shape != sample.images[0].shape):
            found += model.task.predict(collate(waiting).to(model.device))
            waiting = []
        waiting.append(sample)
    return found + (model.task.predict(collate(waiting).to(model.device)) if waiting else [])


def said(prediction: ClassPrediction) -> list[str]:
    """The class with the highest score; of several labels all from a half on, the highest first."""
    order = prediction.scores.argsort(descending=True, stable=True).tolist()
    if not prediction.is_multi_label:
        return [prediction.class_names[order[0]]]
    return [prediction.class_names[i] for i in order if prediction.scores[i] >= SAID]


def _pack(case: Case, prediction: ClassPrediction) -> dict[str, Any]:
    return {"scores": prediction.scores.tolist(), "is_multi_label": prediction.is_multi_label}


def _unpack(model: Model, case: Case, values: Values, _: Any) -> ClassPrediction:
    return ClassPrediction(
        id=case.name,
        image_id=case.name,
        scores=torch.tensor(values["scores"]),
        class_names=model.class_names,
        is_multi_label=values["is_multi_label"],
    )


def _tell(model: Model, done: Sequence[Done]) -> Told:
    rows = [{"image": one.case.name, "classes": said(one.read())} for one in done]
    counts = Counter(name for row in rows for name in row["classes"])
    lines = [f"{len(done)} images", *(f"  {name}: {count}" for name, count in counts.most_common())]
    return Told(values={"classes": rows}, lines=lines)


def _view(model: Model, done: Done) -> View:
    found: ClassPrediction = done.read()
    order = found.scores.argsort(descending=True, stable=True).tolist()
    rows = [(found.class_names[number], round(float(found.scores[number]), 4)) for number in order]
    return View(columns=("class", "score"), rows=rows, words=", ".join(said(found)) or "none of the classes")


def _draw(found: Sequence[ClassPrediction], sample: Sample, _: Sequence[RGB] | None) -> Image.Image:
    from vistruct.pictures.classes import draw_classes

    return draw_classes(sample, found[0])


def _doubt(found: ClassPrediction, measure: str) -> Doubt:
    scores = found.scores.float().cpu().numpy()
    value = of_each(scores, measure) if found.is_multi_label else of_one(scores, measure)
    return Doubt(value=value, objects=len(said(found)))


def sample_of(model: Model, case: Case) -> Sample:
    """Its image, to be drawn."""
    return Sample(id=case.name, image_id=case.name, seed=0, images=small(model.scene(case), SEEN))


def _write(model: Model, done: Sequence[Done], file: Path) -> Path:
    """Image, class (several parted by semicolons, none: empty), and the score of each class in its column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", *model.class_names])
    for one in done:
        scores = (f"{score:.6g}" for score in one.values["scores"])
        writer.writerow([one.case.name, ";".join(said(one.read())), *scores])
    write_text(file, [text.getvalue()])
    return file


def _seen_in(config: Any, views: Views) -> Any:
    if views.scales != (1.0,):
        raise UserError("a classifier has one size", where=f"scales={views.scales}", fix="leave the scales out")
    return config.model_copy(update={"flips": views.flips})


CLASSES = Kind(
    name="classes",
    prediction=ClassPrediction,
    look=in_batches,
    pack=_pack,
    unpack=_unpack,
    tell=_tell,
    draw=_draw,
    picture=lambda model, case, found, asked: _draw([found], sample_of(model, case), None),
    supervision=classifications,
    doubt=_doubt,
    view=_view,
    at_once=True,
    seen_in=_seen_in,
    metrics=lambda task: ("classes",),
    formats=(OneFile(name="csv", file="classes.csv", write=_write, use="always"),),
)

"""Vectors of images (`embeddings`) of a model that puts images and texts into one space.

embeddings.csv   image, and the E numbers of its unit vector
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vistruct.contracts import Embedded
from vistruct.files.text import write_text
from vistruct.inference.classes import in_batches
from vistruct.inference.kind import Done, Kind, OneFile, Told, Values
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case
from vistruct.inference.view import View


def _unpack(model: Model, case: Case, values: Values, _: Any) -> Embedded:
    image = torch.tensor(values["embedding"])
    return Embedded(id=case.name, image_id=case.name, image=image, texts=image.new_zeros(0, len(image)))


def tell_vectors(what: str, model: Model, done: Sequence[Done]) -> Told:
    """How many images (or volumes) there are, and how long their vectors."""
    width = len(done[0].values["embedding"]) if done else 0
    return Told(values={what: len(done), "width": width}, lines=[f"{len(done)} {what} as {width} numbers each"])


def _view(model: Model, done: Done) -> View:
    numbers = done.values["embedding"]
    words = f"The image as a vector of {len(numbers)} numbers and length 1: what looks or means alike lies close by."
    rows = [(number, round(value, 6)) for number, value in enumerate(numbers)]
    return View(columns=("number", "value"), rows=rows, words=words)


def write_vectors(head: str, model: Model, done: Sequence[Done], file: Path) -> Path:
    """A row for each image or volume: its name under `head`, and its numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    width = len(done[0].values["embedding"]) if done else 0
    writer.writerow([head, *range(width)])
    writer.writerows([one.case.name, *(f"{value:.7g}" for value in one.values["embedding"])] for one in done)
    write_text(file, [text.getvalue()])
    return file


EMBEDDINGS = Kind(
    name="embeddings",
    prediction=Embedded,
    look=in_batches,
    pack=lambda case, found: {"embedding": found.image.tolist()},
    unpack=_unpack,
    tell=partial(tell_vectors, "images"),
    view=_view,
    at_once=True,
    of_slices="volume_embeddings",
    metrics=lambda task: ("retrieval",),
    formats=(OneFile(name="csv", file="embeddings.csv", write=partial(write_vectors, "image"), use="always"),),
)

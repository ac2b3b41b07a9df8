"""Counts (`counts`): one number for an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vistruct.contracts import Sample
from vistruct.files.text import write_text
from vistruct.inference.files import own_files
from vistruct.inference.kind import Asked, Done, EachFile, Kind, OneFile, Told
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case


@dataclass(frozen=True, kw_only=True)
class Count:
    """What the task's `predict` gives for a sample."""

    id: str
    number: int


@torch.inference_mode()
def look(model: Model, cases: Sequence[Case], asked: Asked) -> list[Count]:
    found = []
    for case in cases:
        scene = model.scene(case)
        sample = Sample(id=case.name, image_id=case.name, seed=0, images=list(scene.read(scene.whole)))
        found += model.task.predict(model.task.collator([sample]).to(model.device))
    return found


def draw(found: Sequence[Count], sample: Sample, palette: Any) -> Image.Image:
    return Image.new("RGB", (40, 40), (min(255, 20 * found[0].number), 0, 0))


def tell(model: Model, done: Sequence[Done]) -> Told:
    total = sum(one.values["number"] for one in done)
    return Told(values={"total": total}, lines=[f"{total} in {len(done)} images"])


def write_table(model: Model, done: Sequence[Done], file: Path) -> Path:
    write_text(file, ["image,number\n", *(f"{one.case.name},{one.values['number']}\n" for one in done)])
    return file


def write_word(model: Model, case: Case, found: Count, file: Path, asked: Asked) -> None:
    file.write_text("spot " * found.number)


COUNTS = Kind(
    name="counts",
    prediction=Count,
    look=look,
    pack=lambda case, found: {"number": found.number},
    unpack=lambda model, case, values, files: Count(id=case.name, number=values["number"]),
    tell=tell,
    draw=draw,
    formats=(
        OneFile(name="csv", file="counts.csv", write=write_table, use="always"),
        EachFile(
            name="words",
            folder="words",
            files=lambda cases, is_asked: own_files(".txt", lambda name: name.rpartition(".")[0], cases),
            write=write_word,
        ),
    ),
)

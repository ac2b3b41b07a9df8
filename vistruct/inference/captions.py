"""Captions (`captions`) of whole images.

captions.json   [{"image_id": ..., "caption": ...}], as COCO's caption tools score it; a number where names of images
                end in numbers that differ, as COCO's do, else the name
captions.csv    image, caption, log_probability, whether it was finished
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistruct.contracts import RGB, CaptionPrediction, Sample
from vistruct.data.formats.captions.said import end_numbers
from vistruct.files.text import write_text
from vistruct.inference.classes import in_batches, sample_of
from vistruct.inference.kind import Done, Kind, OneFile, Told, Values
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case
from vistruct.inference.view import View

if TYPE_CHECKING:
    from PIL import Image


def _pack(case: Case, prediction: CaptionPrediction) -> dict[str, Any]:
    return {
        "caption": prediction.caption,
        "log_probability": prediction.log_probability,
        "is_finished": prediction.is_finished,
    }


def _unpack(model: Model, case: Case, values: Values, _: Any) -> CaptionPrediction:
    return CaptionPrediction(id=case.name, image_id=case.name, **values)


def _tell(model: Model, done: Sequence[Done]) -> Told:
    rows = [{"image": one.case.name, **one.values} for one in done]
    lines = [f"{row['image']}: {row['caption']}" for row in rows]
    cut = sum(not row["is_finished"] for row in rows)
    lines += [f"{cut} of {len(rows)} captions were cut at {model.task.config.longest} units"] if cut else []
    return Told(values={"captions": rows}, lines=lines)


def _view(model: Model, done: Done) -> View:
    values = done.values
    notes = () if values["is_finished"] else (f"cut at {model.task.config.longest} units",)
    known = values["log_probability"]
    rows = [] if known is None else [("log probability", round(known, 4))]
    return View(columns=("of the caption", "value"), rows=rows, words=values["caption"], notes=notes)


def _draw(found: Sequence[CaptionPrediction], sample: Sample, _: Sequence[RGB] | None) -> Image.Image:
    from vistruct.pictures.captions import draw_captions

    return draw_captions(sample, found[0].caption)


def _write_json(model: Model, done: Sequence[Done], file: Path) -> Path:
    names = [one.case.name for one in done]
    ids = end_numbers(names) or names
    rows = [{"image_id": id, "caption": one.values["caption"]} for id, one in zip(ids, done, strict=True)]
    write_text(file, [json.dumps(rows, ensure_ascii=False) + "\n"])
    return file


def _write_csv(model: Model, done: Sequence[Done], file: Path) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "caption", "log_probability", "is_finished"])
    for one in done:
        values = one.values
        writer.writerow(
            [one.case.name, values["caption"], f"{values['log_probability']:.6g}", str(values["is_finished"]).lower()]
        )
    write_text(file, [text.getvalue()])
    return file


CAPTIONS = Kind(
    name="captions",
    prediction=CaptionPrediction,
    look=in_batches,
    pack=_pack,
    unpack=_unpack,
    tell=_tell,
    draw=_draw,
    picture=lambda model, case, found, asked: _draw([found], sample_of(model, case), None),
    view=_view,
    at_once=True,
    metrics=lambda task: ("text" if task.config.units == "characters" else "captions",),
    formats=(
        OneFile(name="json", file="captions.json", write=_write_json, use="always"),
        OneFile(name="csv", file="captions.csv", write=_write_csv, use="always"),
    ),
)

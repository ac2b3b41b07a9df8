"""Answers that point (`grounded`): what a model wrote about an image, and the objects that it points at.

answers.jsonl      {"image", "question", "answer", "words", "phrases", "boxes", "scores", ...}, a line for each
predictions.json   COCO json of the objects, a score on each; categories are the phrases
geojson/a.geojson  their outlines on the map
pictures/a.jpg     the image with its objects, and the answer with its phrases in their colours
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vistruct.contracts import RGB, BoxPrediction, Grounded, GroundedPrediction, MaskPatch, Phrase, Sample
from vistruct.files.features import Feature
from vistruct.files.text import printable, write_text
from vistruct.inference import answers, boxes
from vistruct.inference.files import picture_format
from vistruct.inference.in_supervision import detections
from vistruct.inference.kind import Asked, Done, Kind, OneFile, Told, Values
from vistruct.inference.model import Model
from vistruct.inference.on_map import outline_formats
from vistruct.inference.scenes import Case, as_pixels, size_hw_of
from vistruct.inference.view import Mark, Spoken, View

if TYPE_CHECKING:
    from PIL import Image


def _pack(case: Case, prediction: GroundedPrediction) -> dict[str, Any]:
    found = prediction.found
    return {
        "question": prediction.question,
        "answer": prediction.answer,
        "words": found.words,
        "phrases": [
            {"text": p.text, "unit": p.unit, "objects": list(p.rows), "start": p.start, "end": p.end}
            for p in found.phrases
        ],
        "plan": [list(row) for row in found.plan],
        "defects": list(found.defects),
        "size_hw": list(size_hw_of(case.pictures[0])) if case.pictures else [],
        **boxes.packed_objects(found.objects),
    }


def _unpack(model: Model, case: Case, values: Values, _: Any) -> GroundedPrediction:
    found = Grounded(
        words=values["words"],
        phrases=tuple(
            Phrase(text=p["text"], unit=p["unit"], rows=tuple(p["objects"]), start=p["start"], end=p["end"])
            for p in values["phrases"]
        ),
        objects=boxes.unpacked_objects(values),
        plan=tuple((name, unit, num) for name, unit, num in values["plan"]),
        defects=tuple(values["defects"]),
    )
    return GroundedPrediction(
        id=case.name, image_id=case.name, question=values["question"], answer=values["answer"], found=found
    )


def _as_boxes(prediction: GroundedPrediction, names: Sequence[str] = ()) -> BoxPrediction:
    """The objects as detections, whose classes are the phrases; best first. A depth has no outline."""
    found = prediction.found
    names = names or list(dict.fromkeys(phrase.text for phrase in found.phrases))
    labels, kept = torch.zeros(len(found.objects), dtype=torch.int64), []
    for phrase in found.phrases:
        for row in phrase.rows:
            labels[row] = names.index(phrase.text)
            kept += [row] if phrase.unit != "depth" else []
    masks = found.objects.masks
    drawn = masks is not None and all(masks[row].pixels.size for row in kept)  # else of some there are boxes alone
    table = BoxPrediction(
        id=prediction.id, image_id=prediction.image_id, objects=found.objects, class_names=tuple(names)
    ).with_columns(labels=labels, **({} if drawn else {"masks": None}))
    rows = sorted(kept, key=lambda row: -float(found.objects.scores[row]))
    return table.keep(torch.tensor(rows, dtype=torch.int64))


def _features(model: Model, case: Case, prediction: GroundedPrediction, asked: Asked) -> Iterator[Feature]:
    return boxes.features(model, case, _as_boxes(prediction), asked)


def _rows(done: Sequence[Done]) -> list[dict[str, Any]]:
    """What was said of each image, in plain words and numbers."""
    out = []
    for one in done:
        files = [printable(str(file)) for file in one.case.files]
        objects = one.read().found.objects
        row: dict[str, Any] = {
            "image": files[0] if len(files) == 1 else files,
            **{key: one.values[key] for key in ("question", "answer", "words", "phrases")},
            "boxes": np.round(objects.boxes_xyxy.numpy().astype(float), 2).tolist(),
            "scores": np.round(objects.scores.numpy().astype(float), 5).tolist(),
        }
        if objects.keypoints is not None:
            row["keypoints"] = np.round(objects.keypoints.numpy().astype(float), 2).tolist()
        if objects.masks is not None:
            row["masks"] = [boxes.packed_mask(mask) for mask in objects.masks]
        out.append(row | {key: one.values[key] for key in ("plan", "defects") if one.values[key]})
    return out


def _tell(model: Model, done: Sequence[Done]) -> Told:
    lines = []
    for one in done:
        lines.append(f"{one.case.name}: {one.values['words']}")
        lines += [
            f"  {phrase['text']}: {len(phrase['objects'])} x {phrase['unit']}" for phrase in one.values["phrases"]
        ]
        lines += [f"  the answer's form is broken: {defect}" for defect in one.values["defects"]]
    return Told(values={"answers": _rows(done)}, lines=lines)


def _write(model: Model, done: Sequence[Done], file: Path) -> Path:
    write_text(file, [json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(done)])
    return file


def _write_coco(model: Model, done: Sequence[Done], file: Path) -> Path:
    from vistruct.data.formats.boxes.submissions import write_coco

    names = list(dict.fromkeys(phrase["text"] for one in done for phrase in one.values["phrases"]))
    sizes = {one.case.name: (one.values["size_hw"][0], one.values["size_hw"][1]) for one in done}
    write_coco(file, sizes, (_as_boxes(one.read(), names) for one in done), names)
    return file


def _picture(model: Model, case: Case, prediction: GroundedPrediction, asked: Asked) -> Image.Image:
    from vistruct.pictures.grounded import draw_grounded

    image = as_pixels(case.pictures[0], case.name)
    return draw_grounded(image, prediction, asked.regions)


def _draw(found: Sequence[GroundedPrediction], sample: Sample, _: Sequence[RGB] | None) -> Image.Image:
    from vistruct.pictures.grounded import draw_grounded_sample

    return draw_grounded_sample(sample, found)


def _view(model: Model, done: Done) -> View:
    from vistruct.pictures.primitives import PALETTE

    found: Grounded = done.read().found
    marks: list[Mark] = []
    rows, spoken = [], []
    colours: dict[str, RGB] = {}
    for phrase in found.phrases:
        colour = colours.setdefault(phrase.text.lower(), PALETTE[len(colours) % len(PALETTE)])
        first = len(marks)
        for row in phrase.rows:
            mark = _mark(found, phrase, row, colour)
            marks.append(mark)
            x0, y0, x1, y1 = found.objects.boxes_xyxy[row].tolist()
            numbers = (round(x0, 1), round(y0, 1), round(x1 - x0, 1), round(y1 - y0, 1))
            rows.append((phrase.text, phrase.unit, round(float(found.objects.scores[row]), 4), *numbers))
        numbers_of = tuple(range(first, len(marks)))
        spoken.append(Spoken(start=phrase.start, end=phrase.end, colour=colour, marks=numbers_of))
    return View(
        columns=("phrase", "unit", "score", "x", "y", "width", "height"),
        rows=rows,
        marks=marks,
        words=found.words,
        spoken=tuple(spoken),
        notes=tuple(f"The answer's form is broken: {defect}" for defect in found.defects),
    )


def _mark(found: Grounded, phrase: Phrase, row: int, colour: RGB) -> Mark:
    from vistruct.files.outlines import outlines

    objects = found.objects
    mask: MaskPatch | None = None if objects.masks is None else objects.masks[row]
    is_area = phrase.unit == "mask" and mask is not None and mask.pixels.size > 0
    rings = [objects.outlines[row].double().numpy()]
    if is_area and mask is not None:
        shape = outlines([mask.pixels.astype(np.int32) - 1], mask.pixels.shape[1])
        rings = [ring + np.array([mask.x, mask.y]) for ring in itertools.chain(*(one.rings for one in shape))]
    keypoints = None
    if phrase.unit in ("keypoint", "point") and objects.keypoints is not None:
        keypoints = objects.keypoints[row].numpy()
    score = float(objects.scores[row])
    return Mark(name=phrase.text, colour=colour, rings=rings, is_area=is_area, score=score, keypoints=keypoints)


GROUNDED = Kind(
    name="grounded",
    prediction=GroundedPrediction,
    look=answers.look,
    pack=_pack,
    unpack=_unpack,
    tell=_tell,
    draw=_draw,
    picture=_picture,
    supervision=lambda case, found: detections(case, _as_boxes(found)),
    view=_view,
    check=answers.check,
    at_once=True,
    has_questions=True,
    prompts=("point", "box", "scribble", "mask"),
    metrics=lambda task: ("grounded", "mean_loss"),
    formats=(
        picture_format(_picture, use="usual", settings=lambda asked: asked.said),
        OneFile(name="jsonl", file="answers.jsonl", write=_write, use="always"),
        OneFile(name="coco", file="predictions.json", write=_write_coco, use="usual"),
        *outline_formats(_features, {"class": str, "score": float}),
    ),
)

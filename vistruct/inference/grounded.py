"""Answers that point (`grounded`): what a model wrote about an image, and the objects that it points at.

answers.jsonl      {"image", "question", "answer", "words", "phrases", "boxes", "scores", ...}, a line for each
predictions.json   COCO json of the objects: categories are the phrases
geojson/a.geojson  their outlines on the map
pictures/a.jpg     the image with its objects, beside the answer with its phrases in their colours
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vistruct.contracts import RGB, Grounded, GroundedPrediction, MaskPatch, Objects, Phrase, Sample
from vistruct.files.text import printable, write_text
from vistruct.inference import answers
from vistruct.inference.kind import Done, Kind, OneFile, Told, Values
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case

if TYPE_CHECKING:
    from PIL import Image


def _pack(case: Case, prediction: GroundedPrediction) -> dict[str, Any]:
    found = prediction.found
    objects = found.objects.arrays()
    out: dict[str, Any] = {
        "question": prediction.question,
        "answer": prediction.answer,
        "words": found.words,
        "phrases": [
            {"text": p.text, "unit": p.unit, "objects": list(p.rows), "start": p.start, "end": p.end}
            for p in found.phrases
        ],
        "boxes": np.round(objects.boxes_xyxy, 2).tolist(),
        "scores": np.round(objects.scores, 5).tolist(),
    }
    if objects.masks is not None:
        out["masks"] = [_mask(mask) for mask in objects.masks]
    if objects.keypoints is not None:
        out["keypoints"] = np.round(objects.keypoints, 2).tolist()
    if found.plan:
        out["plan"] = [list(row) for row in found.plan]
    if found.defects:
        out["defects"] = list(found.defects)
    return out


def _mask(mask: MaskPatch) -> dict[str, Any] | None:
    """Where it lies, and its pixels as run lengths; those of a depth as numbers from 0 to 255."""
    if not mask.pixels.size:
        return None
    place: dict[str, Any] = {"x": mask.x, "y": mask.y, "size": list(mask.pixels.shape)}
    if mask.pixels.dtype != bool:
        return place | {"values": np.round(mask.pixels * 255).astype(int).tolist()}
    flat = mask.pixels.flatten(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, len(flat)]).tolist()
    return place | {"counts": [0, *counts] if flat[0] else counts}


def _unmask(value: dict[str, Any] | None) -> MaskPatch:
    if value is None:
        return MaskPatch(pixels=np.zeros((0, 0), bool), x=0, y=0)
    if "values" in value:
        return MaskPatch(pixels=np.array(value["values"], np.float32) / 255, x=value["x"], y=value["y"])
    high, wide = value["size"]
    flat = np.repeat(np.arange(len(value["counts"])) % 2 == 1, value["counts"])
    return MaskPatch(pixels=flat.reshape(wide, high).T, x=value["x"], y=value["y"])


def _unpack(model: Model, case: Case, values: Values, _: Any) -> GroundedPrediction:
    masks = None if "masks" not in values else tuple(_unmask(one) for one in values["masks"])
    keypoints = None if "keypoints" not in values else torch.tensor(values["keypoints"], dtype=torch.float32)
    boxes = torch.tensor(values["boxes"], dtype=torch.float32).reshape(-1, 4)
    objects: Objects[Tensor] = Objects(
        labels=torch.full((len(boxes),), -1),
        boxes_xyxy=boxes,
        scores=torch.tensor(values["scores"], dtype=torch.float32),
        masks=masks,
        keypoints=keypoints,
    )
    found = Grounded(
        words=values["words"],
        phrases=tuple(
            Phrase(text=p["text"], unit=p["unit"], rows=tuple(p["objects"]), start=p["start"], end=p["end"])
            for p in values["phrases"]
        ),
        objects=objects,
        plan=tuple((name, unit, num) for name, unit, num in values.get("plan", ())),
        defects=tuple(values.get("defects", ())),
    )
    return GroundedPrediction(
        id=case.name, image_id=case.name, question=values["question"], answer=values["answer"], found=found
    )


def _rows(done: Sequence[Done]) -> list[dict[str, Any]]:
    files = [[printable(str(file)) for file in one.case.files] for one in done]
    return [{"image": own[0] if len(own) == 1 else own, **one.values} for own, one in zip(files, done, strict=True)]


def _tell(model: Model, done: Sequence[Done]) -> Told:
    lines = []
    for one in done:
        lines.append(f"{one.case.name}: {one.values['words']}")
        lines += [
            f"  {phrase['text']}: {len(phrase['objects'])} x {phrase['unit']}" for phrase in one.values["phrases"]
        ]
        lines += [f"  (the answer's form is broken: {defect})" for defect in one.values.get("defects", ())]
    return Told(values={"answers": _rows(done)}, lines=lines)


def _write(model: Model, done: Sequence[Done], file: Path) -> Path:
    write_text(file, [json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(done)])
    return file


def _draw(found: Sequence[GroundedPrediction], sample: Sample, _: Sequence[RGB] | None) -> Image.Image:
    raise NotImplementedError


GROUNDED = Kind(
    name="grounded",
    prediction=GroundedPrediction,
    look=answers.look,
    pack=_pack,
    unpack=_unpack,
    tell=_tell,
    draw=None,
    check=answers.check,
    at_once=True,
    has_questions=True,
    metrics=lambda task: ("grounded", "mean_loss"),
    formats=(OneFile(name="jsonl", file="answers.jsonl", write=_write, use="always"),),
)

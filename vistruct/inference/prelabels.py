"""Detections in the layouts of annotation tools, for people to correct (`--format label-studio`, `cvat`, `yolo`).

    label-studio/tasks.json         to import, and label_config.xml for the project; scores of regions and of tasks
    cvat/annotations.xml            "CVAT for images 1.1", with an attribute `score`
    yolo/data.yaml, labels/a.txt    class and coordinates; no score, which tools would not read
    yolo-conf/...                   the same with the score behind each row, as Ultralytics' save_conf has it

Boxes, oriented boxes and masks. CVAT has masks whole; of the others a mask is one outline, the largest: parts and holes
that are lost are counted and said. Images are named as in every other result, in the order of the cases.

Source: labelstud.io, "Import pre-annotated data"; docs.cvat.ai, "XML annotation format", version 1.1;
docs.ultralytics.com, "Predict", save_txt and save_conf. Read back by data/formats/boxes: label_studio, cvat, yolo.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import yaml

from vistruct.contracts import BoxPrediction
from vistruct.data.formats.boxes.dota import refuse_twins
from vistruct.files.outlines import outlines
from vistruct.files.text import write_text
from vistruct.inference.kind import Done, OneFile
from vistruct.inference.scenes import Case
from vistruct.issues import IssueCounter
from vistruct.progress import notice

if TYPE_CHECKING:
    from vistruct.inference.model import Model

LOST = "mask of several parts or with holes: its largest outline written, there is room for no more"


def ring_of(found: BoxPrediction, number: int, report: IssueCounter) -> np.ndarray:
    """float[N, 2], the largest outline of a mask, in pixels of the image."""
    patch = found.objects.masks[number]
    parts = list(outlines([patch.pixels.astype(np.int32) - 1], patch.pixels.shape[1]))
    if not parts:
        x0, y0, x1, y1 = found.objects.boxes_xyxy[number].tolist()
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    largest = max(parts, key=lambda part: part.pixels)
    if len(parts) > 1 or len(largest.rings) > 1:
        report.note(LOST, f"{found.image_id}: object {number}", "repaired")
    return largest.rings[0] + np.array([patch.x, patch.y])


def _write_label_studio(model: Model, done: Sequence[Done], folder: Path) -> Path:
    report = IssueCounter()
    file = folder / "tasks.json"

    def pieces() -> Iterator[str]:
        yield "["
        for number, one in enumerate(done):
            yield ("" if number == 0 else ",") + "\n" + json.dumps(_task(one, number, report), ensure_ascii=False)
        yield "\n]\n"

    write_text(file, pieces())
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in model.class_names)
    kinds = [f'<{one} name="{name}" toName="image">{labels}</{one}>' for one, name in _CONTROLS]
    config = f'<View><Image name="image" value="$image"/>{"".join(kinds)}</View>\n'
    write_text(folder / "label_config.xml", [config])
    _tell("label-studio", report)
    return file


_CONTROLS = (("RectangleLabels", "box"), ("PolygonLabels", "outline"))


def _task(one: Done, number: int, report: IssueCounter) -> dict[str, Any]:
    found: BoxPrediction = one.read()
    height, width = one.values["size_hw"]
    scores = found.objects.scores.tolist()
    regions = [_region(found, row, width, height, report) for row in range(len(scores))]
    prediction = {"model_version": "vistruct", "score": sum(scores) / len(scores) if scores else 0.0, "result": regions}
    image = f"/data/local-files/?d={quote(one.case.name)}"
    return {"id": number + 1, "data": {"image": image}, "predictions": [prediction]}


def _region(found: BoxPrediction, row: int, width: int, height: int, report: IssueCounter) -> dict[str, Any]:
    objects, name = found.objects, found.class_names[int(found.objects.labels[row])]
    value: dict[str, Any]
    if objects.masks is not None:
        kind, control = "polygonlabels", "outline"
        value = {"points": (ring_of(found, row, report) * (100 / width, 100 / height)).tolist(), "closed": True}
    else:
        kind, control = "rectanglelabels", "box"
        x, y, w, h, angle = _turned(found, row)
        value = {"x": 100 * x / width, "y": 100 * y / height, "width": 100 * w / width, "height": 100 * h / height}
        value["rotation"] = math.degrees(angle) % 360
    return {
        "id": f"r{row}",
        "type": kind,
        "from_name": control,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": float(objects.scores[row]),
        "value": {**value, kind: [name]},
    }


def _turned(found: BoxPrediction, row: int) -> tuple[float, float, float, float, float]:
    """Top left corner before it is turned about it, width, height and angle (radians, clockwise on the screen)."""
    if found.objects.boxes_cxcywha is None:
        x0, y0, x1, y1 = found.objects.boxes_xyxy[row].tolist()
        return x0, y0, x1 - x0, y1 - y0, 0.0
    cx, cy, w, h, angle = found.objects.boxes_cxcywha[row].tolist()
    cos, sin = math.cos(angle), math.sin(angle)
    return cx - cos * w / 2 + sin * h / 2, cy - sin * w / 2 - cos * h / 2, w, h, angle


def _write_cvat(model: Model, done: Sequence[Done], folder: Path) -> Path:
    file = folder / "annotations.xml"
    score = (
        "<attributes><attribute><name>score</name><mutable>False</mutable><input_type>text</input_type>"
        "<default_value></default_value><values></values></attribute></attributes>"
    )
    labels = "".join(f"<label><name>{_text(name)}</name>{score}</label>" for name in model.class_names)

    def pieces() -> Iterator[str]:
        yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        yield f"<meta><task><labels>{labels}</labels></task></meta>\n"
        for number, one in enumerate(done):
            height, width = one.values["size_hw"]
            name = quoteattr(one.case.name)
            yield f'<image id="{number}" name={name} width="{width}" height="{height}">\n'
            yield from _shapes(one.read())
            yield "</image>\n"
        yield "</annotations>\n"

    write_text(file, pieces())
    return file


def _shapes(found: BoxPrediction) -> Iterator[str]:
    objects = found.objects
    for row, label in enumerate(objects.labels.tolist()):
        said = f'label={quoteattr(found.class_names[label])} source="auto" occluded="0" z_order="0"'
        inside = f'<attribute name="score">{float(objects.scores[row]):.6f}</attribute>'
        if objects.masks is not None:
            patch = objects.masks[row]
            height, width = patch.pixels.shape
            flat = patch.pixels.ravel()
            edges = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
            runs = [*([0] if flat.size and flat[0] else []), *np.diff(edges).tolist()]  # outside first
            where = f'rle="{", ".join(map(str, runs))}" left="{patch.x}" top="{patch.y}" '
            yield f'<mask {said} {where}width="{width}" height="{height}">{inside}</mask>\n'
            continue
        if objects.boxes_cxcywha is None:
            (x0, y0, x1, y1), turn = objects.boxes_xyxy[row].tolist(), ""
        else:
            cx, cy, w, h, angle = objects.boxes_cxcywha[row].tolist()
            x0, y0, x1, y1 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
            turn = f' rotation="{math.degrees(angle) % 360:.6f}"'
        edges_said = f'xtl="{x0:.4f}" ytl="{y0:.4f}" xbr="{x1:.4f}" ybr="{y1:.4f}"'
        yield f"<box {said} {edges_said}{turn}>{inside}</box>\n"


def _text(name: str) -> str:
    return quoteattr(name)[1:-1]


def _check_yolo(format: str, cases: Sequence[Case], class_names: Sequence[str]) -> None:
    names = [case.name for case in cases]
    refuse_twins([str(_label(name)) for name in names], names, "images", Path(f"--format {format}"))


def _label(name: str) -> PurePosixPath:
    return PurePosixPath(name.lstrip("/")).with_suffix(".txt")


def _write_yolo(has_scores: bool, model: Model, done: Sequence[Done], folder: Path) -> Path:
    from vistruct.ops.oriented import cxcywha_to_quads

    report = IssueCounter()
    for one in done:
        found: BoxPrediction = one.read()
        objects, (height, width) = found.objects, one.values["size_hw"]
        lines = []
        for row, label in enumerate(objects.labels.tolist()):
            x0, y0, x1, y1 = objects.boxes_xyxy[row].tolist()
            values = np.array([[(x0 + x1) / 2, (y0 + y1) / 2], [x1 - x0, y1 - y0]])
            if objects.masks is not None:
                values = ring_of(found, row, report)
                values = np.concatenate([values, values[:1]]) if len(values) == 4 else values  # else an oriented box
            elif objects.boxes_cxcywha is not None:
                values = cxcywha_to_quads(objects.boxes_cxcywha[row : row + 1])[0].double().numpy()
            said = [f"{value:.9f}" for value in (values / (width, height)).ravel().tolist()]
            lines.append(" ".join([str(label), *said, *([f"{float(objects.scores[row]):.6f}"] * has_scores)]) + "\n")
        write_text(folder / "labels" / _label(one.case.name), lines)
    content = {"train": "images", "val": "images", "names": dict(enumerate(model.class_names))}
    write_text(folder / "data.yaml", [yaml.safe_dump(content, sort_keys=False, allow_unicode=True)])
    _tell("yolo-conf" if has_scores else "yolo", report)
    if not has_scores:
        notice("yolo: rows have no place for scores; --format yolo-conf has them behind each row")
    return folder / "data.yaml"


def _tell(format: str, report: IssueCounter) -> None:
    for line in report.lines():
        notice(f"{format}: {line}")


PRELABELS = (
    OneFile(name="label-studio", file="label-studio", write=_write_label_studio),
    OneFile(name="cvat", file="cvat", write=_write_cvat),
    OneFile(name="yolo", file="yolo", write=partial(_write_yolo, False), check=partial(_check_yolo, "yolo")),
    OneFile(
        name="yolo-conf", file="yolo-conf", write=partial(_write_yolo, True), check=partial(_check_yolo, "yolo-conf")
    ),
)

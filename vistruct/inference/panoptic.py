"""Things and stuff (`panoptic`): every pixel of an image as part of one segment, or of none.

panoptic.json          as COCO's panoptic tools score it, and as `--format coco-panoptic` reads it; categories are
                       numbered from 1
panoptic/port.png      the segment of every pixel, R + 256 G + 65536 B; 0: of none
pictures/port.jpg      the image under its segments
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from vistruct.contracts import RGB, PanopticPrediction, Sample, Segment
from vistruct.data.formats.boxes.coco_panoptic import colours_of, ids_of
from vistruct.data.formats.captions.said import end_numbers
from vistruct.files.label_png import write_png
from vistruct.files.rasters import read_raster
from vistruct.files.text import write_text
from vistruct.inference.files import own_files, picture_format
from vistruct.inference.in_supervision import segments
from vistruct.inference.kind import Asked, Done, EachFile, Kind, OneFile, Told, Values
from vistruct.inference.model import Model
from vistruct.inference.on_map import stem_of
from vistruct.inference.scenes import Case, overview
from vistruct.inference.view import Areas, View
from vistruct.transforms.sizing import sized

if TYPE_CHECKING:
    from PIL import Image

_pngs = partial(own_files, ".png", stem_of)


@torch.inference_mode()
def _look(model: Model, cases: Sequence[Case], asked: Asked) -> list[PanopticPrediction]:
    """Whole images, one after the other; nothing is said where they have no data."""
    found: list[PanopticPrediction] = []
    for case in cases:
        scene = model.scene(case)
        sample = Sample(id=case.name, image_id=case.name, seed=0, images=list(scene.read(scene.whole)))
        batch = model.task.collator([sized(sample, model.input.resize)]).to(model.device)
        one = model.task.predict(batch)[0]
        valid = scene.valid(scene.whole)
        if valid is not None:
            one.segment_map[torch.from_numpy(~valid)] = 0
        found.append(one)
    return found


def _pack(case: Case, prediction: PanopticPrediction) -> dict[str, Any]:
    areas = prediction.segment_map.flatten().long().bincount(minlength=len(prediction.segments) + 1)[1:]
    rows = zip(prediction.segments, areas.tolist(), strict=True)
    return {
        "size_hw": list(prediction.segment_map.shape),
        "segments": [[one.label, one.is_thing, one.score, area] for one, area in rows],
    }


def _unpack(model: Model, case: Case, values: Values, files: Mapping[str, Path]) -> PanopticPrediction:
    segments = tuple(Segment(label=row[0], is_thing=row[1], score=row[2]) for row in values["segments"])
    found = torch.from_numpy(ids_of(read_raster(files["png"]))).int()
    return PanopticPrediction(
        id=case.name, image_id=case.name, segment_map=found, segments=segments, class_names=model.class_names
    )


def _tell(model: Model, done: Sequence[Done]) -> Told:
    number = Counter(bool(row[1]) for one in done for row in one.values["segments"])
    line = f"{number[True]} things and {number[False]} areas of stuff in {len(done)} images"
    return Told(values={"things": number[True], "stuff": number[False]}, lines=[line])


def _names(found: PanopticPrediction) -> list[str]:
    """Of each segment; things of one class are told apart by their numbers."""
    names = found.class_names
    return [
        f"{names[one.label]} #{number}" if one.is_thing else names[one.label]
        for number, one in enumerate(found.segments, start=1)
    ]


def _view(model: Model, done: Done) -> View:
    from vistruct.pictures.areas import Key

    found: PanopticPrediction = done.read()
    names = _names(found)
    rows = [
        (name, "thing" if is_thing else "stuff", round(score, 4), area)
        for name, (_, is_thing, score, area) in zip(names, done.values["segments"], strict=True)
    ]
    areas = Areas(labels=found.segment_map.numpy() - 1, names=names, colours=Key.of(names).colours)
    return View(columns=("segment", "is", "score", "pixels"), rows=rows, areas=areas)


def _draw(found: Sequence[PanopticPrediction], sample: Sample, _: Sequence[RGB] | None) -> Image.Image:
    from vistruct.pictures.maps import draw_map

    size_hw = (sample.images[0].shape[1], sample.images[0].shape[2])
    shown = F.interpolate(found[0].segment_map[None, None].float(), size_hw, mode="nearest-exact")[0, 0]
    return draw_map(sample.images[0], shown.to(torch.int16) - 1, _names(found[0]))


def _picture(model: Model, case: Case, found: PanopticPrediction, asked: Asked) -> Image.Image:
    from vistruct.pictures.maps import draw_map

    images, shown = overview(model.scene(case), found.segment_map.numpy())
    return draw_map(images[0], shown - 1, _names(found))


def _write_png(model: Model, case: Case, found: PanopticPrediction, file: Path, asked: Asked) -> None:
    ids = found.segment_map.numpy()
    write_png(file, [colours_of(ids)], ids.shape)


def _write_json(model: Model, done: Sequence[Done], file: Path) -> Path:
    names = [one.case.name for one in done]
    numbers = end_numbers(names) or list(range(1, len(done) + 1))
    pngs = _pngs([one.case for one in done])
    images, annotations = [], []
    for one, number in zip(done, numbers, strict=True):
        height, width = one.values["size_hw"]
        images.append({"id": number, "file_name": one.case.name, "width": width, "height": height})
        segments = [
            {"id": i, "category_id": label + 1, "iscrowd": 0, "area": area, "score": round(score, 6)}
            for i, (label, _, score, area) in enumerate(one.values["segments"], start=1)
            if area
        ]
        png = pngs[one.case.name].as_posix()
        annotations.append({"image_id": number, "file_name": png, "segments_info": segments})
    things = model.task.num_things
    categories = [
        {"id": label + 1, "name": name, "isthing": int(label < things)} for label, name in enumerate(model.class_names)
    ]
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_text(file, [json.dumps(content, ensure_ascii=False) + "\n"])
    return file


PANOPTIC = Kind(
    name="panoptic",
    prediction=PanopticPrediction,
    look=_look,
    pack=_pack,
    unpack=_unpack,
    tell=_tell,
    draw=_draw,
    picture=_picture,
    supervision=segments,
    view=_view,
    metrics=lambda task: ("panoptic_quality",),
    formats=(
        EachFile(name="png", folder="panoptic", files=_pngs, write=_write_png, use="always", is_kept=True),
        OneFile(name="json", file="panoptic.json", write=_write_json, use="always"),
        picture_format(_picture),
    ),
)

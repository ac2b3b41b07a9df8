"""Boxes (`boxes`): objects in an image, horizontal, oriented or with masks, every window's detections joined.

predictions.json        COCO json with a score on each annotation
geojson/port.geojson    outlines on the map, see on_map.py (gpkg/port.gpkg likewise)
dota/Task1.zip          to submit, and its files
fair1m/test.zip         to submit, and its files
xview/predictions.zip   to score, and its files
spacenet/proposals.csv  to score, of buildings, and GeoJSONs
label-studio/ cvat/ yolo/ yolo-conf/    for people to correct, see prelabels.py
pictures/port.tif.jpg   the image with its detections
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vistruct.contracts import RGB, BoxPrediction, Column, MaskPatch, Objects, Sample, Window
from vistruct.errors import UserError
from vistruct.files.features import Feature
from vistruct.files.outlines import outlines
from vistruct.files.packing import zip_files
from vistruct.inference.files import picture_format
from vistruct.inference.in_supervision import detections
from vistruct.inference.kind import PICTURED, Asked, Done, Doubt, Kind, OneFile, Told, Values
from vistruct.inference.model import Model
from vistruct.inference.on_map import footprint_format, outline_formats
from vistruct.inference.prelabels import PRELABELS
from vistruct.inference.queue import of_each
from vistruct.inference.scenes import Case, Scene, size_hw_of, small
from vistruct.inference.view import Mark, View
from vistruct.ops.oriented import cxcywha_to_quads
from vistruct.progress import notice, tracking
from vistruct.transforms.sizing import sized
from vistruct.windows.merge import WindowMerger, join
from vistruct.windows.patches import DOTA, Patch, in_whole, joined_patches, patch_of, pattern_of
from vistruct.windows.tiles import Tiles, windows

if TYPE_CHECKING:
    from PIL import Image


_LONGEST = 8192  # pixels of the longer side of a picture


def places(model: Model, size_hw: tuple[int, int]) -> list[Window]:
    """The windows in which an image of this size is looked at, row by row."""
    how = model.input.windows
    if how is None:
        return [(0, 0, size_hw[1], size_hw[0])]
    return windows(size_hw, Tiles(size=how.size, overlap=how.overlap))


@torch.inference_mode()
def _look(model: Model, cases: Sequence[Case], asked: Asked) -> list[BoxPrediction]:
    return [_found(model, case, asked) for case in cases]


def _found(model: Model, case: Case, asked: Asked) -> BoxPrediction:
    name, scene = case.name, model.scene(case)
    every, batch = places(model, scene.size_hw), asked.batch
    merger = WindowMerger(name, (0.0, 0.0, float(scene.size_hw[1]), float(scene.size_hw[0])))
    finished: list[BoxPrediction] = []
    empty = 0  # windows
    is_quiet = asked.quiet or len(every) < 4 * batch
    with tracking(f"  {name}", done=0, total=len(every), quiet=is_quiet) as show:
        for start in range(0, len(every), batch):
            samples = []
            for window in every[start : start + batch]:
                x0, y0, x1, y1 = window
                valid = scene.valid(window)
                if valid is not None and not valid.any():
                    empty += 1
                    continue
                sample = Sample(
                    id=f"{name}@{x0}_{y0}_{x1}_{y1}",
                    image_id=name,
                    seed=0,
                    images=list(scene.read(window)),
                    origin_xy=(float(x0), float(y0)),
                )
                samples.append(sized(sample, model.input.resize))
            for found in model.task.predict(model.task.collator(samples).to(model.device)) if samples else ():
                merger.add(_with_data(scene, found))
            done = min(start + batch, len(every))
            if done < len(every) and every[done][1] > every[start][1]:  # a row has come to its end
                finished.append(merger.take_finished(every[done][1]))
            show(done, "windows")
    finished.append(merger.finish())
    if empty:
        notice(f"{name}: {empty} of {len(every)} windows have no data and are not searched")
    prediction = join(finished)
    return prediction.keep(prediction.objects.scores.argsort(descending=True, stable=True))


def _with_data(scene: Scene, found: BoxPrediction) -> BoxPrediction:
    """Without detections that lie wholly where the file has no data."""
    height, width = scene.size_hw
    x0, y0, x1, y1 = (int(edge) for edge in found.window_xyxy or (0, 0, width, height))
    valid = scene.valid((max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)))
    if valid is None or valid.all():
        return found
    boxes = found.objects.boxes_xyxy - torch.tensor([x0, y0, x0, y0])
    edges = [(int(a), int(b), math.ceil(c), math.ceil(d)) for a, b, c, d in boxes.clamp(min=0).tolist()]
    return found.keep(torch.tensor([bool(valid[b:d, a:c].any()) for a, b, c, d in edges], dtype=torch.bool))


def _pack(case: Case, prediction: BoxPrediction) -> dict[str, Any]:
    return {"size_hw": list(size_hw_of(case.pictures[0])), **packed_objects(prediction.objects)}


def packed_objects(objects: Objects[Tensor]) -> dict[str, Any]:
    """A table of objects as json; `unpacked_objects` gives it back."""
    tensors: dict[str, list[Any]] = {}
    tuples: dict[str, list[Any]] = {}
    for name, column in objects.columns().items():
        if isinstance(column, tuple):
            tuples[name] = [packed_mask(row) if isinstance(row, MaskPatch) else row for row in column]
        else:
            tensors[name] = [str(column.dtype).removeprefix("torch."), list(column.shape), column.tolist()]
    return {"num": len(objects), "tensors": tensors, "tuples": tuples}


def packed_mask(mask: MaskPatch) -> dict[str, Any]:
    from vistruct.ops.mask_runs import patch_runs

    height, width = mask.pixels.shape
    if mask.pixels.dtype != bool:  # of a depth, to a thousandth
        shares = np.round(mask.pixels * 1000).astype(int).tolist()
        return {"x": int(mask.x), "y": int(mask.y), "size_hw": [height, width], "thousandths": shares}
    runs = patch_runs(mask.pixels, 0, 0, (height, width)).tolist()
    return {"x": int(mask.x), "y": int(mask.y), "size_hw": [height, width], "runs": runs}


def _unpack(model: Model, case: Case, values: Values, _: Any) -> BoxPrediction:
    objects = unpacked_objects(values)
    return BoxPrediction(id=case.name, image_id=case.name, objects=objects, class_names=model.class_names)


def unpacked_objects(values: Values) -> Objects[Tensor]:
    """What `packed_objects` was given."""
    columns: dict[str, Column] = {
        name: torch.tensor(rows, dtype=vars(torch)[dtype]).reshape(shape)
        for name, (dtype, shape, rows) in values["tensors"].items()
    }
    for name, rows in values["tuples"].items():
        columns[name] = tuple(unpacked_mask(row) if name == "masks" else row for row in rows)
    return Objects.of(columns)


def unpacked_mask(values: Values) -> MaskPatch:
    height, width = values["size_hw"]
    if "thousandths" in values:
        shares = np.array(values["thousandths"], np.float32).reshape(height, width) / 1000
        return MaskPatch(pixels=shares, x=values["x"], y=values["y"])
    runs = np.asarray(values["runs"], np.int64)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs)  # outside, inside, outside, ... down the columns
    return MaskPatch(pixels=columns.reshape(width, height).T, x=values["x"], y=values["y"])


def _tell(model: Model, done: Sequence[Done]) -> Told:
    total = sum(one.values["num"] for one in done)
    number = sum(one.values["num"] if one.is_all else len(one.read().objects) for one in done)
    values, lines = {"detections": number}, [f"{number} detections in {len(done)} image{'' if len(done) == 1 else 's'}"]
    if number < total:
        values["left_out"] = total - number
        lines.append(f"  {total - number} more are left out: of lower scores than --min-score, or of other classes")
    elif (sure := sum(sum(score >= PICTURED for score in _scores(one.values)) for one in done)) < number:
        lines.append(f"  {sure} score {PICTURED} or more, as in pictures; --min-score {PICTURED} leaves out the others")
    return Told(values=values, lines=lines)


def _scores(values: Values) -> list[float]:
    return values["tensors"]["scores"][2]


def _chosen(found: BoxPrediction, asked: Asked) -> BoxPrediction:
    wanted = torch.tensor(asked.wanted(found.class_names), dtype=torch.bool)
    return found.keep(wanted[found.objects.labels] & (found.objects.scores >= (asked.min_score or 0)))


def _doubt(found: BoxPrediction, measure: str) -> Doubt:
    scores = found.objects.scores.float().cpu().numpy()
    return Doubt(value=of_each(scores, measure), objects=len(scores))


def features(model: Model, case: Case, found: BoxPrediction, asked: Asked) -> Iterator[Feature]:
    """Each detection: its mask, else its oriented box, else its box."""
    objects = found.objects
    quads = objects.outlines if objects.boxes_cxcywha is None else cxcywha_to_quads(objects.boxes_cxcywha)
    for number, (label, score) in enumerate(zip(objects.labels.tolist(), objects.scores.tolist(), strict=True)):
        polygons = [[quads[number].double().numpy()]]
        if objects.masks is not None:
            patch = objects.masks[number]
            shape = outlines([patch.pixels.astype(np.int32) - 1], patch.pixels.shape[1])
            polygons = [[ring + np.array([patch.x, patch.y]) for ring in one.rings] for one in shape]
        if polygons:
            yield Feature(polygons=polygons, values={"class": found.class_names[label], "score": round(score, 6)})


def _view(model: Model, done: Done) -> View:
    found: BoxPrediction = done.read()
    colours = dict(zip(model.class_names, model.palette, strict=True))
    marks, rows = [], []
    for one in features(model, done.case, found, Asked()):
        name, score, rings = str(one.values["class"]), float(one.values["score"]), [*itertools.chain(*one.polygons)]
        is_area = found.objects.masks is not None
        marks.append(Mark(name=name, colour=colours[name], rings=rings, is_area=is_area, score=score))
        corners = np.concatenate(rings)
        (x0, y0), (x1, y1) = corners.min(axis=0).round(1).tolist(), corners.max(axis=0).round(1).tolist()
        rows.append((name, score, x0, y0, round(x1 - x0, 1), round(y1 - y0, 1)))
    return View(columns=("class", "score", "x", "y", "width", "height"), rows=rows, marks=marks)


def _draw(found: Sequence[BoxPrediction], sample: Sample, _: Sequence[RGB] | None) -> Image.Image:
    from vistruct.pictures.in_sample import boxes_in_sample
    from vistruct.pictures.objects import draw_prediction

    return draw_prediction(sample.images[0], boxes_in_sample(found[0], sample), truth=sample.objects)


def _picture(model: Model, case: Case, found: BoxPrediction, asked: Asked) -> Image.Image:
    from vistruct.pictures.in_sample import boxes_in_sample
    from vistruct.pictures.objects import draw_prediction

    scene = model.scene(case)
    (height, width), image = scene.size_hw, small(scene, _LONGEST)[0]
    scale = (image.shape[2] / width, image.shape[1] / height)
    shown = boxes_in_sample(found, Sample(id=case.name, image_id=case.name, seed=0, images=[image], scale_xy=scale))
    return draw_prediction(image, shown, min_score=PICTURED if asked.min_score is None else asked.min_score)


def _sizes_hw(done: Sequence[Done]) -> dict[str, tuple[int, int]]:
    return {one.case.name: (one.values["size_hw"][0], one.values["size_hw"][1]) for one in done}


def _write_coco(model: Model, done: Sequence[Done], file: Path) -> Path:
    from vistruct.data.formats.boxes.submissions import write_coco

    write_coco(file, _sizes_hw(done), (one.read() for one in done), model.class_names)
    return file


def _patch_of(name: str) -> Patch | None:
    """What the name of a case says, where DOTA's splitting tool has cut its image."""
    return patch_of(PurePosixPath(name).stem, [pattern_of(DOTA)])


def _whole(done: Sequence[Done], format: str) -> Iterator[BoxPrediction]:
    """A prediction for each image that a server knows: of those that were cut, all patches joined."""
    patches: dict[str, list[tuple[Done, Patch]]] = {}
    for one in done:
        patch = _patch_of(one.case.name)
        if patch is None:
            yield one.read()
        else:
            patches.setdefault(patch.name, []).append((one, patch))
    if patches:
        number = sum(map(len, patches.values()))
        notice(f"{format}: predictions on {number} patches are joined to those on {len(patches)} whole images")
    for name, parts in patches.items():
        sizes = [one.values["size_hw"] for one, _ in parts]
        placed = [replace(patch, size_wh=(size[1], size[0])) for (_, patch), size in zip(parts, sizes, strict=True)]
        yield from joined_patches(
            [in_whole(one.read(), patch, f"{name}.png") for (one, _), patch in zip(parts, placed, strict=True)]
        )


def _whole_names(cases: Sequence[Case]) -> list[str]:
    """The names of `_whole`."""
    told = [(case.name, _patch_of(case.name)) for case in cases]
    return list(dict.fromkeys(name if patch is None else f"{patch.name}.png" for name, patch in told))


def _check_dota(cases: Sequence[Case], class_names: Sequence[str]) -> None:
    from vistruct.data.formats.boxes.submissions import check_dota_names

    check_dota_names(_whole_names(cases), class_names, Path("--format dota"))


def _write_dota(model: Model, done: Sequence[Done], folder: Path) -> Path:
    from vistruct.data.formats.boxes.submissions import write_dota

    return write_dota(folder, _whole(done, "dota"), model.class_names)


def _check_fair1m(cases: Sequence[Case], class_names: Sequence[str]) -> None:
    from vistruct.data.formats.boxes import fair1m
    from vistruct.data.formats.boxes.dota import refuse_twins

    names = [case.name for case in cases]
    refuse_twins([Path(name).stem for name in names], names, "images", Path("--format fair1m"))
    patch = next((name for name in names if _patch_of(name) is not None), None)
    if patch is not None:
        what = "FAIR1M's files are of whole images of known size, and this is a patch of one"
        raise UserError(what, where=patch, fix="predict on the whole images; they are cut into windows by themselves")
    for name in class_names:
        fair1m.official_name(name)


def _check_xview(cases: Sequence[Case], class_names: Sequence[str]) -> None:
    from vistruct.data.formats.boxes.submissions import check_xview_names, xview_numbers

    check_xview_names(_whole_names(cases), Path("--format xview"))
    xview_numbers(class_names, "--format xview")


def _write_xview(model: Model, done: Sequence[Done], folder: Path) -> Path:
    from vistruct.data.formats.boxes.submissions import write_xview

    archive, report = write_xview(folder, _whole(done, "xview"), _whole_names([one.case for one in done]))
    for line in report.lines():
        notice(f"xview: {line}")
    return archive


def _write_fair1m(model: Model, done: Sequence[Done], folder: Path) -> Path:
    from vistruct.data.formats.boxes import fair1m

    files = fair1m.write_predictions(folder / "test", (one.read() for one in done), _sizes_hw(done))
    return zip_files(folder / "test.zip", files, folder)


def _metrics(task: Any) -> tuple[str, ...]:
    """Where boxes alone do not say it, what the head gives."""
    if task.head.traits.is_oriented:
        return ("oriented_boxes",)
    return ("coco_masks",) if task.head.traits.masks != "none" else ("coco_boxes",)


BOXES = Kind(
    name="boxes",
    prediction=BoxPrediction,
    look=_look,
    pack=_pack,
    unpack=_unpack,
    tell=_tell,
    draw=_draw,
    picture=_picture,
    doubt=_doubt,
    supervision=detections,
    view=_view,
    windows="file",
    choices=frozenset({"min_score", "classes"}),
    chosen=_chosen,
    seen_in=lambda config, views: config.model_copy(update={"views": views}),
    metrics=_metrics,
    formats=(
        picture_format(_picture, settings=lambda asked: asked.choice),
        OneFile(name="coco", file="predictions.json", write=_write_coco, use="usual"),
        *outline_formats(features, {"class": str, "score": float}),
        OneFile(name="dota", file="dota", write=_write_dota, check=_check_dota),
        OneFile(name="fair1m", file="fair1m", write=_write_fair1m, check=_check_fair1m),
        OneFile(name="xview", file="xview", write=_write_xview, check=_check_xview),
        footprint_format(features),
        *PRELABELS,
    ),
)

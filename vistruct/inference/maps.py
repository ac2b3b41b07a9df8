"""Label maps (`maps`): the class of every pixel of an image, or of what changed in a pair.

    labels/port.png      the class of every pixel as the masks of the training data write it (values, colours, palette)
    legend.json          which value and colour that is
    colour/port.png      the colours themselves
    geotiff/port.tif     numbers again, where the image lies on the map
    geojson/port.geojson regions of a class as outlines, see on_map.py (gpkg/port.gpkg likewise)
    loveda/loveda.zip    to submit, and its files, see data/formats/maps/submissions.py
    spacenet/proposals.csv    to score, of buildings, and GeoJSONs, see on_map.py
    pictures/port.jpg    the image under its classes
    areas.csv            pixels, share (and square metres, on the map) of every class in every image

Rows leave the model from top to bottom and go to disk as they come, so that a GeoTIFF larger than memory can be
segmented. The number PNG is the prediction as it is kept, and other formats are written from it.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vistruct.contracts import IGNORED, RGB, MapPrediction, Sample
from vistruct.data.formats.maps.submissions import (
    SUBMISSIONS,
    Submission,
    check_submission,
    write_submission,
)
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.features import Feature
from vistruct.files.label_png import write_png
from vistruct.files.outlines import outlines
from vistruct.files.packing import zip_files
from vistruct.files.rasters import read_raster
from vistruct.files.text import write_text
from vistruct.inference.files import own_files, picture_format
from vistruct.inference.kind import Asked, Done, EachFile, Kind, OneFile, Told, Values
from vistruct.inference.model import Model
from vistruct.inference.on_map import footprint_format, on_map, outline_formats, stem_of
from vistruct.inference.pixels import num_windows_of, rows_of
from vistruct.inference.probabilities import by_class, space_for
from vistruct.inference.scenes import Case, overview
from vistruct.inference.view import Areas, View
from vistruct.progress import tracking

if TYPE_CHECKING:
    from PIL import Image

_ROWS = 1024  # of a map that is written, at a time
IN_MEMORY = 2**26  # pixels of a map that is not put on disk while it is made


@dataclass(frozen=True, kw_only=True)
class Area:
    """How much of an image (or volume) a class has."""

    name: str
    class_name: str
    count: int  # pixels or voxels
    share: float
    measured: float | None  # square metres, or millilitres; None: not known


def _look(model: Model, cases: Sequence[Case], asked: Asked) -> list[MapPrediction]:
    return [map_of(model, case, asked) for case in cases]


def map_of(model: Model, case: Case, asked: Asked) -> MapPrediction:
    """The class of every pixel of an image or a pair, IGNORED where it has no data; of a large one on disk and without
    confidence, where there is a `scratch` folder."""
    scene = model.scene(case)
    height, width = scene.size_hw
    unwanted = ~np.array([*asked.wanted(model.class_names), True])  # the last is IGNORED
    is_large = asked.scratch is not None and height * width > IN_MEMORY
    label_map, confidence = np.zeros((0, width), np.int16), None
    if is_large:  # the file goes with the last who looks into it
        with tempfile.TemporaryFile(dir=asked.scratch) as file:
            label_map = np.memmap(file, np.int16, "w+", shape=(height, width))
    else:
        label_map, confidence = np.zeros((height, width), np.int16), torch.zeros(height, width, dtype=torch.uint8)
    probabilities = space_for((len(model.class_names), height, width), asked)
    total = num_windows_of(model, scene.size_hw)
    with tracking(f"  {case.name}", done=0, total=total, quiet=asked.quiet or total < 4 * asked.batch) as show:
        for rows in rows_of(model, scene, batch=asked.batch, show=lambda done: show(done, "windows")):
            part = slice(rows.y0, rows.y1)
            found = rows.label_map.numpy()
            label_map[part] = np.where(unwanted[found], IGNORED, found)
            if confidence is not None:
                confidence[part] = rows.confidence
            if probabilities is not None:
                probabilities[:, part] = rows.probabilities.float().cpu().numpy()
            valid = scene.valid((0, rows.y0, width, rows.y1))
            if valid is not None:
                label_map[part][~valid] = IGNORED
                if confidence is not None:
                    confidence[part][torch.from_numpy(~valid)] = 0
                if probabilities is not None:
                    probabilities[:, part][:, ~valid] = np.nan
    return MapPrediction(
        id=case.name,
        image_id=case.name,
        label_map=torch.from_numpy(label_map),
        class_names=model.class_names,
        confidence=confidence,
        probabilities=None if probabilities is None else torch.from_numpy(probabilities),
    )


def counted(label_map: Tensor, num_classes: int, each: float | None) -> dict[str, Any]:
    """How many pixels or voxels each class has; `each` is what one measures, None: not known. IGNORED has no class."""
    counts = np.zeros(num_classes, np.int64)
    for strip in _strips(label_map.numpy()):
        counts += np.bincount(strip[strip >= 0], minlength=num_classes)
    return {"counts": counts.tolist(), "each": each}


def _pack(case: Case, prediction: MapPrediction) -> dict[str, Any]:
    return counted(prediction.label_map, len(prediction.class_names), _pixel_m2(case))


def _unpack(model: Model, case: Case, values: Values, files: Mapping[str, Path]) -> MapPrediction:
    raster, coding = read_raster(files["png"]), coding_of(model).written
    label_map = torch.from_numpy(np.concatenate([coding.decode(strip, files["png"]) for strip in _strips(raster)]))
    return MapPrediction(id=case.name, image_id=case.name, label_map=label_map, class_names=model.class_names)


def tell_areas(what: str, model: Model, done: Sequence[Done]) -> Told:
    """The share of each class."""
    counts = Counter({name: 0 for name in model.class_names})
    for area in areas_of(model, done):
        counts[area.class_name] += area.count
    shares = {name: count / max(counts.total(), 1) for name, count in counts.most_common()}
    what = what if model.input.images == 1 else "pairs"
    lines = [f"{len(done)} {what}", *(f"  {name}: {share:.2%}" for name, share in shares.items() if share)]
    return Told(values={"shares": shares}, lines=lines)


def _draw(found: Sequence[MapPrediction], sample: Sample, palette: Sequence[RGB] | None) -> Image.Image:
    from vistruct.pictures.in_sample import map_in_sample
    from vistruct.pictures.maps import draw_map_prediction, draw_pair

    said, names = map_in_sample(found[0], sample), found[0].class_names
    if len(sample.images) == 2:
        return draw_pair(*sample.images, sample.label_map, said, names, palette)
    return draw_map_prediction(sample.images[0], said, sample.label_map, names, palette)


def view_areas(unit: str, measured: str, model: Model, done: Done) -> View:
    """The classes themselves, and a row for each; the heads of two columns are the first arguments."""
    from vistruct.pictures.areas import Key

    bare = Key.of(model.class_names).bare
    bare = 0 if bare is None and model.input.images == 2 else bare
    areas = areas_of(model, [done])
    has_measure = any(area.measured is not None for area in areas)
    rows = [
        (one.class_name, one.count, f"{one.share:.2%}", *((f"{one.measured or 0:,.4g}",) if has_measure else ()))
        for one in sorted(areas, key=lambda area: -area.count)
    ]
    labels = done.read().label_map.numpy()
    return View(
        columns=("class", unit, "share", *((measured,) if has_measure else ())),
        rows=rows,
        areas=Areas(labels=labels, names=model.class_names, colours=model.palette, bare=bare),
    )


def areas_of(model: Model, done: Sequence[Done]) -> list[Area]:
    """Of every class in every image (or volume)."""
    found = []
    for one in done:
        counts, each = one.values["counts"], one.values["each"]
        for name, count in zip(model.class_names, counts, strict=True):
            measured, share = None if each is None else count * each, count / max(sum(counts), 1)
            found.append(Area(name=one.case.name, class_name=name, count=count, share=share, measured=measured))
    return found


def write_areas(what: str, count: str, unit: str, model: Model, done: Sequence[Done], file: Path) -> Path:
    """A csv with a row for every class of every image; the heads of its columns are the first three arguments."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([what, "class", count, "share", unit])
    for area in areas_of(model, done):
        measured = "" if area.measured is None else f"{area.measured:.6g}"
        writer.writerow([area.name, area.class_name, area.count, f"{area.share:.6f}", measured])
    write_text(file, [text.getvalue()])
    return file


def _strips(label_map: np.ndarray) -> Iterator[np.ndarray]:
    for y in range(0, len(label_map), _ROWS):
        yield np.asarray(label_map[y : y + _ROWS])


def _write_numbers(model: Model, case: Case, found: MapPrediction, file: Path, asked: Asked) -> None:
    label_map, coding = found.label_map.numpy(), coding_of(model).written
    write_png(file, map(coding.encode, _strips(label_map)), label_map.shape, _palette(model, coding))


def coding_of(model: Model) -> Coding:
    """How the masks of the training data were written; of a model that does not say it, the numbers of the classes."""
    known = model.input.coding
    return known if known is not None and known.classes == model.class_names else Coding(classes=model.class_names)


def _palette(model: Model, coding: Coding) -> list[RGB] | None:
    """That of the masks of the training data; of a model that does not know them the colours of its classes."""
    numbers = {*(coding.values or ()), *coding.ignored}
    if coding.colours is not None or max(numbers) > 255:
        return None
    known = model.input.label_palette
    if known is None and model.input.coding is not None:
        return None
    colours = dict(enumerate(known or ())) or dict(zip(coding.values or (), model.palette, strict=True))
    return [colours.get(number, _without_data(model.palette)) for number in range(max(numbers) + 1)]


def _write_legend(model: Model, done: Sequence[Done], file: Path) -> Path:
    """Of each class its value in label maps (of colour masks: in GeoTIFFs) and its colour; and what stands for none."""
    coding, numbers = coding_of(model).written, coding_of(model).in_numbers
    rows = [
        {"class": name, "value": value, "colour": list(colour)}
        for name, value, colour in zip(model.class_names, numbers.values or (), model.palette, strict=True)
    ]
    in_colour = coding.colours is not None
    if in_colour:
        rows = [{**row, "png": list(colour)} for row, colour in zip(rows, coding.colours or (), strict=True)]
    none = {"value": numbers.ignored[0], **({"png": list(coding.ignored_colours[0])} if in_colour else {})}
    write_text(file, [json.dumps({"classes": rows, "no_data": none}, indent=1, ensure_ascii=False), "\n"])
    return file


def _without_data(palette: Sequence[RGB]) -> RGB:
    """A grey that no class has, the darkest."""
    return next((grey, grey, grey) for grey in range(256) if (grey, grey, grey) not in palette)


def _write_colours(model: Model, case: Case, found: MapPrediction, file: Path, asked: Asked) -> None:
    colours = np.array([*model.palette, _without_data(model.palette)], np.uint8)  # IGNORED, -1, is the last
    label_map = found.label_map.numpy()
    write_png(file, (colours[strip] for strip in _strips(label_map)), label_map.shape)


def _write_geotiff(model: Model, case: Case, found: MapPrediction, file: Path, asked: Asked) -> None:
    from vistruct.files.geo import write_geotiff

    label_map, coding = found.label_map.numpy(), coding_of(model).in_numbers
    strips = ((number * _ROWS, strip.astype(np.int16)) for number, strip in enumerate(_strips(label_map)))
    values = (*(coding.values or ()), coding.ignored[0])
    write_geotiff(file, strips, on_map(case), model.palette, size_hw=label_map.shape, values=values)


def _write_probability(number: int, model: Model, case: Case, found: MapPrediction, file: Path, asked: Asked) -> None:
    assert found.probabilities is not None  # see `EachFile.is_kept`
    values = found.probabilities[number].numpy()
    if file.suffix == ".png":
        strips = ((255 * np.nan_to_num(strip) + 0.5).astype(np.uint8) for strip in _strips(values))
        write_png(file, strips, values.shape)
        return
    from vistruct.files.geo import write_geotiff

    strips = ((at * _ROWS, strip) for at, strip in enumerate(_strips(values)))
    write_geotiff(file, strips, on_map(case), size_hw=values.shape, num_classes=None)


def _probability_files(cases: Sequence[Case], _: bool) -> dict[str, Path]:
    """GeoTIFF of images that lie on the map, PNG of others."""
    return own_files(".png", stem_of, cases) | _geotiffs(cases, False)


def _check_geotiff(cases: Sequence[Case], class_names: Sequence[str]) -> None:
    if importlib.util.find_spec("rasterio") is None:
        raise UserError("writing GeoTIFF needs rasterio", where="--format geotiff", fix='pip install "vistruct[geo]"')


def picture_of_map(model: Model, case: Case, found: MapPrediction, asked: Asked) -> Image.Image:
    """An image (or a pair) under its classes, small enough to be drawn."""
    from vistruct.pictures.maps import draw_map, draw_pair

    images, labels = overview(model.scene(case), found.label_map.numpy())
    if len(images) == 2:
        return draw_pair(*images, prediction=labels, class_names=model.class_names, palette=model.palette)
    return draw_map(images[0], labels, model.class_names, model.palette)


def _submission(kind: Submission) -> OneFile:
    def check(cases: Sequence[Case], class_names: Sequence[str]) -> None:
        check_submission(kind, [case.name for case in cases], class_names)

    def write(model: Model, done: Sequence[Done], folder: Path) -> Path:
        files = []
        for one in done:
            label_map = one.read().label_map.numpy()
            strips, names = _strips(label_map), model.class_names
            files.append(write_submission(kind, folder, one.case.name, strips, label_map.shape, names))
        return zip_files(folder / f"{kind}.zip", sorted(files), folder)

    return OneFile(name=kind, file=kind, write=write, check=check)


def _named(ending: str) -> Callable[[Sequence[Case], bool], dict[str, Path]]:
    return partial(own_files, ending, stem_of)


def _geotiffs(cases: Sequence[Case], is_asked: bool) -> dict[str, Path]:
    """Unless they are asked for, only of images that lie on the map."""
    wanted = {case.name for case in cases if is_asked or on_map(case) is not None}
    return {name: file for name, file in own_files(".tif", stem_of, cases).items() if name in wanted}


def _features(model: Model, case: Case, found: MapPrediction, asked: Asked) -> Iterator[Feature]:
    """Each region of one class, joined by edges of pixels."""
    label_map = found.label_map.numpy()
    for one in outlines(_strips(label_map), label_map.shape[1]):
        values = {"class": found.class_names[one.value], "value": one.value, "pixels": one.pixels}
        yield Feature(polygons=[one.rings], values=values)


def _pixel_m2(case: Case) -> float | None:
    """Square metres of a pixel; None where coordinates are angles or not known."""
    profile = on_map(case)
    if profile is None or not profile.crs:
        return None
    crs = importlib.import_module("rasterio.crs").CRS.from_wkt(profile.crs)
    if not crs.is_projected:
        return None
    a, b, _, d, e, _ = profile.transform
    return abs(a * e - b * d) * crs.linear_units_factor[1] ** 2


MAPS = Kind(
    name="maps",
    prediction=MapPrediction,
    look=_look,
    pack=_pack,
    unpack=_unpack,
    tell=partial(tell_areas, "images"),
    draw=_draw,
    picture=picture_of_map,
    view=partial(view_areas, "pixels", "m²"),
    windows="shown",
    choices=frozenset({"classes"}),
    seen_in=lambda config, views: config.model_copy(update={"views": views}),
    metrics=lambda task: ("pixels",),
    of_slices="volumes",
    probabilities=partial(by_class, _probability_files, _write_probability),
    formats=(
        EachFile(name="png", folder="labels", files=_named(".png"), write=_write_numbers, use="always", is_kept=True),
        EachFile(name="color", folder="colour", files=_named(".png"), write=_write_colours, use="usual"),
        EachFile(
            name="geotiff", folder="geotiff", files=_geotiffs, write=_write_geotiff, use="usual", check=_check_geotiff
        ),
        *outline_formats(_features, {"class": str, "value": int, "pixels": int}),
        *map(_submission, SUBMISSIONS),
        footprint_format(_features),
        picture_format(picture_of_map),
        OneFile(name="legend", file="legend.json", write=_write_legend, use="always"),
        OneFile(name="areas", file="areas.csv", write=partial(write_areas, "image", "pixels", "m2"), use="always"),
    ),
)

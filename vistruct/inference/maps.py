"""A model of pixels asked about many images or pairs: label maps, drawn, measured, and written as others take them.

    labels/port.png      number of the class of every pixel, with the classes' colours as its palette
    colour/port.png      the colours themselves
    geotiff/port.tif     numbers again, where the image lies on the map
    loveda/ ...          to submit, see data/formats/map_submissions.py
    pictures/port.jpg    the image under its classes
    areas.csv            pixels, share (and square metres, on the map) of every class in every image

Rows leave the model from top to bottom and go to disk as they come, so that a GeoTIFF larger than memory can be
segmented. What was done stays done: the number PNG is kept, and other formats are written from it.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import torch

from vistruct.contracts import RGB
from vistruct.data.formats.maps.submissions import (
    SUBMISSIONS,
    Submission,
    check_submission,
    submission_file,
    write_submission,
)
from vistruct.errors import UserError
from vistruct.files.label_png import write_png
from vistruct.files.rasters import read_raster
from vistruct.files.text import write_text
from vistruct.inference.cache import Parts
from vistruct.inference.files import picture_files, settings
from vistruct.inference.model import Model
from vistruct.inference.pixels import num_windows_of, rows_of
from vistruct.inference.scenes import GEOTIFF, Case, Scene, overview
from vistruct.progress import notice, tracking

MapFormat = Literal["png", "color", "geotiff", "loveda", "uavid", "isaid"]
MAP_FORMATS: tuple[MapFormat, ...] = get_args(MapFormat)
_ROWS = 1024  # of a map that is written, at a time
_IN_MEMORY = 2**26  # pixels of a map that is not put on disk while it is made


@dataclass(frozen=True, kw_only=True)
class Area:
    """How much of an image (or volume) a class has."""

    name: str
    class_name: str
    count: int  # pixels or voxels
    share: float
    measured: float | None  # square metres, or millilitres; None: not known


def predict_maps(
    model: Model, cases: Sequence[Case], target: Path, *, formats: Sequence[MapFormat] | None = None, batch: int = 8
) -> tuple[list[Area], dict[str, Path]]:
    """Look at every image or pair that is not done yet, and write what was asked for.

    Args:
        formats: beside the number PNG, which is always written; None: colours, and GeoTIFF where an image has a place
            on the map and rasterio is installed.
        batch: windows in one pass.

    Returns:
        The areas, and the folders (and csv) that were written.

    Raises:
        UserError: an image that cannot be read; those before it are done. Names or classes that a format cannot hold.
    """
    check_map_formats(formats or (), cases, model.task.class_names)
    parts = Parts(target / "parts", settings(model), model.class_names)
    if parts.num_removed:
        notice(f"{target}: another model, other windows or other views than last time; all images are looked at again")
    places = _places(cases, target, formats)
    pictures = picture_files([case.name for case in cases], target)
    palette = palette_of(model)
    done = [parts.has(case.name, *case.files) and places[case.name]["png"].is_file() for case in cases]
    if any(done):
        notice(f"{target}: {sum(done)} of {len(cases)} images were done before")
    with tracking("predicting", done=0, total=len(cases)) as show:
        for number, (case, is_done) in enumerate(zip(cases, done, strict=True)):
            wanted = {**places[case.name], "picture": pictures[case.name]}
            if not is_done or not all(file.is_file() for file in wanted.values()):
                scene = model.scene(case.files[0] if len(case.files) == 1 else case.files, case.name)
                with _label_map(scene.size_hw, wanted["png"], target / "parts", is_done, len(palette)) as label_map:
                    if not is_done:
                        values = _predicted(model, scene, label_map, batch)
                        parts.file(case.name).unlink(missing_ok=True)  # of an image that has changed
                    for kind, file in wanted.items():
                        if not (is_done and file.is_file()):
                            _write(kind, file, label_map, case, scene, model, palette)
                    if not is_done:  # last, so that what is done has all its files
                        parts.write_values(case.name, case.files, values)
            show(number + 1, case.name)
    areas = [area for case in cases for area in _areas(case, parts.read_values(case.name), model.task.class_names)]
    written: dict[str, Path] = {kind: target / _FOLDERS[kind] for place in places.values() for kind in place}
    written["areas"] = write_areas(target / "areas.csv", areas, "image", "pixels", "m2")
    return areas, written


def check_map_formats(formats: Sequence[MapFormat], cases: Sequence[Case], class_names: Sequence[str]) -> None:
    """
    Raises:
        UserError: names of images or classes that a format cannot hold, or rasterio is missing; said before hours of
            work and not after.
    """
    for kind in SUBMISSIONS:
        if kind in formats:
            check_submission(kind, [case.name for case in cases], class_names)
    if "geotiff" in formats and importlib.util.find_spec("rasterio") is None:
        raise UserError("writing GeoTIFF needs rasterio", where="--format geotiff", fix='pip install "vistruct[geo]"')


def possible_map_formats(cases: Sequence[Case], class_names: Sequence[str]) -> list[MapFormat]:
    """All formats that can hold these names and classes; of the others it is said why not."""
    possible: list[MapFormat] = []
    for kind in MAP_FORMATS:
        try:
            check_map_formats([kind], cases, class_names)
        except UserError as error:
            notice(f"no {kind}: {error.what}")
        else:
            possible.append(kind)
    return possible


def palette_of(model: Model) -> tuple[RGB, ...]:
    """The colours of the data set, or our own."""
    from vistruct.pictures.areas import Key

    names, own = model.task.class_names, model.card.info.palette
    return tuple(own) if own is not None else Key.of(names).colours


def write_areas(file: Path, areas: Sequence[Area], what: str, count: str, unit: str) -> Path:
    """A csv with a row for every class of every image; the heads of its columns are the last three arguments."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([what, "class", count, "share", unit])
    for area in areas:
        measured = "" if area.measured is None else f"{area.measured:.6g}"
        writer.writerow([area.name, area.class_name, area.count, f"{area.share:.6f}", measured])
    write_text(file, [text.getvalue()])
    return file


_FOLDERS: Mapping[str, str] = {"png": "labels", "color": "colour", **{kind: kind for kind in MAP_FORMATS[2:]}}


def _places(
    cases: Sequence[Case], target: Path, formats: Sequence[MapFormat] | None
) -> dict[str, dict[MapFormat, Path]]:
    """The file of each case in each format; two images that differ in their endings alone keep them."""
    stems = [str(PurePosixPath(case.name.lstrip("/")).with_suffix("")) for case in cases]
    number = Counter(stems)
    kinds = ("color",) if formats is None else formats
    found: dict[str, dict[MapFormat, Path]] = {}
    for case, stem in zip(cases, stems, strict=True):
        own = stem if number[stem] == 1 else case.name.lstrip("/")
        mine: dict[MapFormat, Path] = {"png": target / _FOLDERS["png"] / f"{own}.png"}
        for kind in kinds:
            if kind in SUBMISSIONS:
                mine[kind] = target / _FOLDERS[kind] / submission_file(_submission(kind), case.name)
            else:
                mine[kind] = target / _FOLDERS[kind] / f"{own}{'.tif' if kind == 'geotiff' else '.png'}"
        if formats is None and _on_map(case.files[-1]) is not None:
            mine["geotiff"] = target / _FOLDERS["geotiff"] / f"{own}.tif"
        found[case.name] = mine
    return found


def _submission(kind: str) -> Submission:
    return next(one for one in SUBMISSIONS if one == kind)


@contextmanager
def _label_map(
    size_hw: tuple[int, int], known: Path, folder: Path, is_done: bool, num_classes: int
) -> Generator[np.ndarray]:
    """integer[H, W] to be filled, on disk where it is large; or as it was kept."""
    if is_done:
        yield read_raster(known)
        return
    number_type = np.uint8 if num_classes <= 256 else np.uint16
    if size_hw[0] * size_hw[1] <= _IN_MEMORY:
        yield np.zeros(size_hw, number_type)
        return
    file = folder / "label_map.npy"
    try:
        yield np.lib.format.open_memmap(file, mode="w+", dtype=number_type, shape=size_hw)
    finally:
        file.unlink(missing_ok=True)


def _predicted(model: Model, scene: Scene, label_map: np.ndarray, batch: int) -> dict[str, Any]:
    """Fill `label_map`; what is kept of it in the parts."""
    counts, confidence = torch.zeros(len(model.task.class_names), dtype=torch.int64), 0
    total = num_windows_of(model, scene.size_hw)
    with tracking(f"  {scene.name}", done=0, total=total, quiet=total < 4 * batch) as show:
        for rows in rows_of(model, scene, batch=batch, show=lambda done: show(done, "")):
            label_map[rows.y0 : rows.y1] = rows.label_map.numpy()
            counts += torch.bincount(rows.label_map.flatten(), minlength=len(counts))
            confidence += int(rows.confidence.sum(dtype=torch.int64))
    pixels = scene.size_hw[0] * scene.size_hw[1]
    return {"size_hw": list(scene.size_hw), "pixels": counts.tolist(), "confidence": confidence / (255 * pixels)}


def _strips(label_map: np.ndarray) -> Iterator[np.ndarray]:
    for y in range(0, len(label_map), _ROWS):
        yield np.asarray(label_map[y : y + _ROWS])


def _write(
    kind: str, file: Path, label_map: np.ndarray, case: Case, scene: Scene, model: Model, palette: Sequence[RGB]
) -> None:
    names = model.task.class_names
    if kind == "png":
        write_png(file, _strips(label_map), scene.size_hw, palette if len(palette) <= 256 else None)
    elif kind == "color":
        colours = np.array(palette, np.uint8)
        write_png(file, (colours[strip] for strip in _strips(label_map)), scene.size_hw)
    elif kind == "geotiff":
        from vistruct.files.geo import write_geotiff

        strips = ((number * _ROWS, strip.astype(np.int16)) for number, strip in enumerate(_strips(label_map)))
        profile, count = _on_map(case.files[-1]), len(names)
        write_geotiff(file, strips, profile, palette, size_hw=scene.size_hw, num_classes=count)
    elif kind == "picture":
        _draw(file, label_map, scene, names, palette)
    else:
        depth = len(submission_file(_submission(kind), case.name).parts)
        write_submission(
            _submission(kind), file.parents[depth - 1], case.name, _strips(label_map), scene.size_hw, names
        )


def _draw(file: Path, label_map: np.ndarray, scene: Scene, names: Sequence[str], palette: Sequence[RGB]) -> None:
    from vistruct.pictures.maps import draw_map, draw_pair

    images, labels = overview(scene, label_map)
    if len(images) == 2:
        picture = draw_pair(*images, prediction=labels, class_names=names, palette=palette)
    else:
        picture = draw_map(images[0], labels, names, palette)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, quality=90)


def _areas(case: Case, values: Mapping[str, Any], class_names: Sequence[str]) -> Iterator[Area]:
    height, width = values["size_hw"]
    pixel_m2 = _pixel_m2(case.files[-1])
    for name, count in zip(class_names, values["pixels"], strict=True):
        measured = None if pixel_m2 is None else count * pixel_m2
        yield Area(name=case.name, class_name=name, count=count, share=count / (height * width), measured=measured)


def _on_map(file: Path) -> Any:
    """Where a file lies on the map; None: nowhere, or rasterio is not there to say it."""
    if file.suffix.lower() not in GEOTIFF or importlib.util.find_spec("rasterio") is None:
        return None
    from vistruct.files.geo import geo_profile

    return geo_profile(file)


def _pixel_m2(file: Path) -> float | None:
    """Square metres of a pixel; None where coordinates are angles or not known."""
    profile = _on_map(file)
    if profile is None or not profile.crs:
        return None
    crs = importlib.import_module("rasterio.crs").CRS.from_wkt(profile.crs)
    if not crs.is_projected:
        return None
    a, b, _, d, e, _ = profile.transform
    return abs(a * e - b * d) * crs.linear_units_factor[1] ** 2

"""Polygons drawn over georeferenced scenes, as a GIS writes them: a GeoJSON (or GeoPackage) for all, or one for each.

    crowns.geojson + scene.tif                     one for all georeferenced images beside it, or in `images/`
    a.geojson + a.tif, b.geojson + b.tif           each for the image of its name; images also in `images/`
    train/..., val/...                             the same for each split

A feature is an object; its polygons go through the coordinate system that `crs` names (longitude and latitude where
nothing is named, or the scene's own where the numbers can be no degrees) to that of the scene, and through its
transform to pixels. Of a feature that several scenes have, each has its part. Four corners are an oriented box, see
`exports`; holes are filled, and counted; points, lines and what lies in no scene too.

The class is in the property that is called class, label, category or the like; `--class-field` names another, where
none is called so or several are. Needs rasterio (extra `geo`). xView's GeoJSON is a format of its own, and SpaceNet's
footprints are label maps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.data.formats.boxes.class_fields import class_field, class_of
from vistruct.data.formats.boxes.coco_shapes import POLYGON_SHORT
from vistruct.data.formats.boxes.drawn import HOLE, NO_SHAPE, Picture, Shape
from vistruct.data.formats.boxes.exports import places_of, records_of
from vistruct.data.formats.boxes.objects import WHERE_IMAGES
from vistruct.data.formats.boxes.xview import has_keys
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.json_kind import json_kind
from vistruct.data.formats.splits import IMAGE_SUFFIXES, chosen
from vistruct.errors import UserError
from vistruct.files.gpkg import read_gpkg
from vistruct.files.json_files import read_json
from vistruct.files.scenes import DEGREES, Grid, Ring, grid_of, polygons_of
from vistruct.issues import IssueCounter

NOWHERE = "image left out: it does not say where on the map it lies"
OUTSIDE_SCENES = "feature left out: in no scene"
EMPTY_SCENE = "image left out: no feature lies in it, so it may not have been looked at"
NO_GEOMETRY = "feature left out: no geometry"
SAME_CRS = "coordinates that say no system, or of a scene that says none: taken as in that of the other"

_SPACENET = re.compile(r"AOI_\d+_", re.IGNORECASE)
_SUFFIXES = (".geojson", ".json")
_LAYERS = (".gpkg", ".shp")  # where no GeoJSON is


@dataclass(frozen=True, kw_only=True)
class Feature:
    """An object on the map."""

    name: str  # of its class
    polygons: list[list[Ring]]
    where: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of features with the images that it may be of."""

    file: Path
    images: tuple[Path, ...]
    is_pair: bool  # the image of its own name


def is_one(file: Path) -> bool:
    """Whether it is a GeoJSON, and none of a published data set that is read in another way."""
    is_other = bool(_SPACENET.search(file.name))
    return file.suffix.lower() in _SUFFIXES and not is_other and json_kind(file) == "geojson" and not has_keys(file)


def looks_like(path: Path) -> bool:
    """Whether there are such files."""
    try:
        return path.suffix.lower() in _LAYERS or is_one(path) if path.is_file() else bool(_files(path))
    except UserError:
        return False


def splits(path: Path) -> tuple[str, ...]:
    """The names of the folders, or of files that are no pair with an image."""
    return tuple(_sources(path, None)) if path.is_dir() else ()


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record a scene with features.

    Raises:
        UserError: nothing here, no such split, no image that says where it lies, or no field of classes.
    """
    known = _sources(path, ask.images)
    names = list(known) if list(known) == [""] and ask.split in (None, path.name) else chosen(ask.split, known, path)
    sources = [source for name in names for source in known[name]]
    files: dict[Path, Picture] = {}
    for source in sources:
        features, crs = read_features(source.file, ask, report, stop)
        grids = [grid for image in source.images if (grid := _grid(image, report, stop)) is not None]
        if not grids:
            what = "no image here says where on the map it lies" if source.images else "no image of these features"
            raise UserError(what, where=source.file, fix=f"GeoTIFFs: {WHERE_IMAGES}")
        pictures = _drawn(features, crs, grids, source, report)
        twice = [image for image in pictures if image in files]
        if twice:
            where = f"{twice[0]}: {files[twice[0]].beside}, {source.file}"
            raise UserError("two files of features for one image", where=where, fix=f"name the one: {source.file}")
        files |= pictures
    return records_of(files, (), path, ask, report, stop)


def read_features(file: Path, ask: Ask, report: IssueCounter, stop: Stop) -> tuple[list[Feature], str | None]:
    """The objects of a GeoJSON, and their coordinate system as it names it.

    Raises:
        UserError: no GeoJSON, or no field of classes.
    """
    content = _content(file)
    entries = content.get("features") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError("no list of features in this json", where=file, fix="export the layer as GeoJSON again")
    kept: list[tuple[str, Mapping[str, Any], list[list[Ring]]]] = []
    for number, entry in enumerate(entries):
        where = f"{file}, feature {number}"
        if not isinstance(entry, dict) or entry.get("geometry") is None:
            report.note(NO_GEOMETRY, where)
            continue
        try:
            polygons = polygons_of(entry["geometry"])
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, AttributeError):
            stop(UserError("a geometry that is none of GeoJSON's", where=where, fix="export the layer again"))
            continue
        if polygons is None:
            report.note(NO_SHAPE, where)
            continue
        if any(len(polygon) > 1 for polygon in polygons):
            report.note(HOLE, where, "repaired")
        said = entry.get("properties")
        kept.append((where, said if isinstance(said, dict) else {}, polygons))
    field = class_field([said for _, said, _ in kept], ask, file, report)
    features = []
    for where, said, polygons in kept:
        try:
            features.append(Feature(name=class_of(said, field, where), polygons=polygons, where=where))
        except UserError as error:
            stop(error)
    named = content.get("crs")
    properties = named.get("properties") if isinstance(named, dict) else None
    crs = properties.get("name") if isinstance(properties, dict) else None
    return features, crs if isinstance(crs, str) and crs else None


def _content(file: Path) -> Any:
    if file.suffix.lower() == ".shp":
        fix = f"ogr2ogr -f GeoJSON {file.with_suffix('.geojson').name} {file.name}; or save it as GeoJSON in QGIS"
        raise UserError("shapefiles are not read", where=file, fix=fix)
    return read_gpkg(file) if file.suffix.lower() == ".gpkg" else read_json(file)


def _drawn(
    features: Sequence[Feature], crs: str | None, grids: Sequence[Grid], source: Source, report: IssueCounter
) -> dict[Path, Picture]:
    """What each scene has of the features, in its pixels; scenes that have nothing of another's file are left out.

    Raises:
        UserError: all features lie elsewhere.
    """
    points = [ring for feature in features for polygon in feature.polygons for ring in polygon[:1]]
    flat = np.concatenate(points) if points else np.zeros((0, 2))
    own = _own_system(flat, crs)
    shapes: dict[Path, list[Shape]] = {grid.path: [] for grid in grids}
    seen: set[int] = set()
    for grid in grids:
        if own is None or grid.crs is None:
            report.note(SAME_CRS, str(grid.path), "kept")
        at = grid.pixels(flat, own)
        start = 0
        for number, feature in enumerate(features):
            rings = []
            for polygon in feature.polygons:
                rings.append(at[start : start + len(polygon[0])])
                start += len(polygon[0])
            if not _overlaps(np.concatenate(rings) if rings else at[:0], grid.size_hw):
                continue
            seen.add(number)
            mask = [ring.reshape(-1).tolist() for ring in rings if len(ring) >= 3]
            for _ in range(len(rings) - len(mask)):
                report.note(POLYGON_SHORT, feature.where)
            if mask:
                shapes[grid.path].append(Shape(name=feature.name, where=feature.where, mask=mask))
    if features and not seen:
        low, high = flat.min(axis=0), flat.max(axis=0)
        there = f"{low[0]:.10g} {low[1]:.10g} to {high[0]:.10g} {high[1]:.10g} in {own or 'the system of the scene'}"
        fix = "--images FOLDER of the scenes that were annotated; or export the layer in the system that it says"
        raise UserError("no feature lies in any image here", where=f"{source.file}: {there}", fix=fix)
    for number, feature in enumerate(features):
        if number not in seen:
            report.note(OUTSIDE_SCENES, feature.where)
    pictures: dict[Path, Picture] = {}
    for path, found in shapes.items():
        if not found and not source.is_pair:
            report.note(EMPTY_SCENE, str(path))
            continue
        where = f"{source.file}: {path.name}"
        pictures[path] = Picture(names=(path.name,), beside=source.file, where=where, shapes=found)
    return pictures


def _own_system(points: np.ndarray, crs: str | None) -> str | None:
    """The coordinate system that is meant; None: the scene's own."""
    if crs is not None or not len(points):
        return crs
    is_degrees = np.abs(points[:, 0]).max() <= 180 and np.abs(points[:, 1]).max() <= 90
    return DEGREES if is_degrees else None


def _overlaps(points: np.ndarray, size_hw: tuple[int, int]) -> bool:
    if not len(points) or not np.isfinite(points).all():
        return False
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return bool(x1 > 0 and y1 > 0 and x0 < size_hw[1] and y0 < size_hw[0])


def _grid(image: Path, report: IssueCounter, stop: Stop) -> Grid | None:
    try:
        grid = grid_of(image)
    except UserError as error:
        stop(error)
        return None
    if grid is None:
        report.note(NOWHERE, str(image))
    return grid


def _files(path: Path) -> dict[Path, list[Path]]:
    """The files of features by their folder, from the first places that have any.

    Raises:
        UserError: no such path.
    """
    if path.is_file():
        return {path.parent: [path]}
    for places in places_of(path):
        inside = {place: sorted(place.iterdir()) for place in places}
        for fits in (is_one, lambda file: file.suffix.lower() in _LAYERS):
            found = {place: files for place, all_of in inside.items() if (files := [*filter(fits, all_of)])}
            if found:
                return found
    return {}


def _sources(path: Path, images: Path | None) -> dict[str, list[Source]]:
    """By split: files of the names of images, else each file with all images that lie nearest."""
    known: dict[str, list[Source]] = {}
    for folder, files in _files(path).items():
        nearest = _images(folder) if images is None else _below(images)
        by_stem: dict[str, list[Path]] = {}
        for image in nearest:
            by_stem.setdefault(image.stem.lower(), []).append(image)
        top = folder.name if folder != path and path.is_dir() else ""
        top = "" if folder.parent == path and top.lower() in ("annotations", "labels", "geojson", "ann") else top
        pairs = {file: tuple(by_stem.get(file.stem.lower(), [])) for file in files}
        are_pairs = all(pairs.values())
        for file in files:
            split = top if are_pairs or len(files) == 1 else "/".join(filter(None, (top, file.stem)))
            source = Source(file=file, images=pairs[file] or tuple(nearest), is_pair=bool(pairs[file]))
            known.setdefault(split, []).append(source)
    return known


def _images(folder: Path) -> list[Path]:
    """The images beside a file, else in the folders of images in it, beside it, or one higher."""
    for place in (folder, folder / "images", folder.parent / "images", folder.parent):
        found = [one for one in sorted(place.iterdir()) if _is_image(one)] if place.is_dir() else []
        if found:
            return found
    return []


def _below(folder: Path) -> list[Path]:
    return [one for one in sorted(folder.rglob("*")) if _is_image(one)]


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and not file.name.startswith(".")


FORMAT = Format(kind="boxes", looks_like=looks_like, splits=splits, walk=walk)

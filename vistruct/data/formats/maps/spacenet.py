"""SpaceNet 1 and 2: satellite images with the footprints of buildings as GeoJSON, which are painted.

    3band/3band_AOI_1_RIO_img1.tif    8band/8band_AOI_1_RIO_img1.tif    geojson/Geo_AOI_1_RIO_img1.geojson
    RGB-PanSharpen/RGB-PanSharpen_AOI_2_Vegas_img1.tif   geojson/buildings/buildings_AOI_2_Vegas_img1.geojson

An image and its footprints share the part of their names from `AOI` on. Of several kinds of images of one place,
`data.images` says which is meant by its folder (3band, 8band, RGB-PanSharpen, MUL-PanSharpen, ...); by itself the first
of these is taken. Eight bands are shown as red, green and blue (WorldView's bands 5, 3 and 2) between the 1st and the
99th percentile of each image, unless `data.intake` says otherwise; so are three bands of 16 bits.

Corners are in longitude and latitude or in what `crs` names; where they can be neither (beyond 180 degrees without a
`crs`), they are taken as the image's own. A pixel is building if its centre is in a footprint, holes are none, as GDAL
paints. Lines and points have no area and paint nothing. Footprints need rasterio (extra `geo`).

Split by `train.txt` and the like (names of images or their parts from AOI on), or by folders of that name; the
published data have labels for what they call train alone.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.maps.files import files_below, split_lists_of
from vistruct.data.formats.splits import chosen, read_list
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.geo import raster_bands, raster_type
from vistruct.files.geo_outlines import paint_outlines
from vistruct.files.intake import Intake
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter

CODING = Coding(classes=("background", "building"), values=(0, 1), ignored=())
KINDS = ("3band", "RGB-PanSharpen", "PS-RGB", "8band", "MUL-PanSharpen", "PS-MS", "MUL", "PAN")
NO_FOOTPRINTS = "image left out: no footprints"
NO_IMAGE = "footprints left out: no image"

_KEY = re.compile(r".*?(AOI_\d+_.+)", re.IGNORECASE)
_SPLIT = re.compile(r"train|val|valid|test", re.IGNORECASE)


def looks_like(path: Path) -> bool:
    """Whether there are GeoJSONs and TIFFs whose names share a part from AOI on."""
    if not path.is_dir():
        return False
    outlines = _outlines(path, most=3)
    return bool(outlines) and any(key in _images(path, None) for key in outlines)


def splits(path: Path) -> tuple[str, ...]:
    """Lists, or else folders."""
    return tuple(split_lists_of(path) or _split_folders(path))


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record an image, whose `label_map` is the GeoJSON."""
    top, names = _chosen(path, ask.split)
    images, outlines = _images(top, ask.images), _outlines(top)
    if not images:
        raise UserError(f"no images {ask.images or 'of SpaceNet'} here", where=top, fix="--images 3band, say")
    keys = list(images) if names is None else names
    records = []
    for key in keys:
        if key in images and key in outlines:
            files = images[key]
            records.append(Record(id=files.name, images=(files,), label_map=outlines[key]))
        elif ask.missing == "drop":
            report.note(NO_FOOTPRINTS if key in images else NO_IMAGE, key)
        else:
            what = "no footprints of an image" if key in images else "a listed image is not on disk"
            stop(UserError(what, where=images.get(key, top / key), fix="copy them; or --missing drop"))
    for key in outlines.keys() - images.keys() if names is None else ():
        if ask.missing == "drop":
            report.note(NO_IMAGE, str(outlines[key]))
        else:
            stop(UserError("no image of these footprints", where=outlines[key], fix="copy it; or --missing drop"))
    intake = _intake(records[0].images[0]) if records else None
    return Walked(records=records, coding=ask.coding or CODING, intake=intake, raster=footprints)


def footprints(record: Record) -> np.ndarray:
    """uint8[h, w] of a record, or of its window: 1 where a building is.

    Raises:
        UserError: no GeoJSON of outlines, or a coordinate system that nobody knows.
    """
    assert record.label_map is not None
    status = os.stat(record.label_map)
    shapes, crs = _shapes(record.label_map, status.st_mtime_ns)
    return paint_outlines(record.images[0], shapes, crs, record.window_xyxy)


@functools.lru_cache(maxsize=64)  # the windows of an image, and several images ahead of them
def _shapes(path: Path, _written_at: int) -> tuple[list[dict[str, Any]], str | None]:
    """GeoJSON geometries, and their coordinate system where it is named."""
    try:
        content = read_json(path)
        shapes = [feature["geometry"] for feature in content["features"]]
        crs = (content.get("crs") or {}).get("properties", {}).get("name")
    except (KeyError, TypeError, AttributeError) as error:
        what = f"no GeoJSON of features: {type(error).__name__} {error}"
        raise UserError(what, where=path, fix="copy it again") from error
    flat = [shape for shape in shapes if shape is not None]
    parts = [part for shape in flat for part in (shape.get("geometries", []) if "geometries" in shape else [shape])]
    return [part for part in parts if part.get("type") in ("Polygon", "MultiPolygon") and part["coordinates"]], crs


def _intake(image: Path) -> Intake | None:
    """Of a kind of images that are no 8-bit colours."""
    number = raster_bands(image)
    if number == 3 and raster_type(image) == "uint8":
        return None
    bands = {8: (5, 3, 2), 1: (1,)}.get(number, (1, 2, 3) if number == 3 else None)
    return Intake(bands=bands, percentiles=(1, 99), channels=3 if number == 1 else None)


def _images(top: Path, kind: Path | None) -> dict[str, Path]:
    """The image of each place; of the kind asked for, else of the first that there is."""
    by_kind: dict[str, dict[str, Path]] = {}
    for file in files_below(top):
        if file.suffix.lower() in (".tif", ".tiff") and (key := place_of(file)) is not None:
            by_kind.setdefault(_kind(file, key), {})[key] = file
    if kind is not None:
        wanted = kind.name.lower()
        return next((found for name, found in by_kind.items() if name.lower() == wanted), {})
    return next((by_kind[name] for name in KINDS if name in by_kind), next(iter(by_kind.values()), {}))


def _kind(file: Path, key: str) -> str:
    """What stands before the place in a name, else the folder: 3band_AOI_1_RIO_img1 is 3band."""
    before = file.stem[: -len(key)].strip("_")
    return next((name for name in KINDS if name in (before, file.parent.name)), before or file.parent.name)


def _outlines(top: Path, most: int | None = None) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder, inside, names in os.walk(top):
        inside.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if file.suffix.lower() == ".geojson" and (key := place_of(file)) is not None:
                found[key] = file
                if len(found) == most:
                    return found
    return found


def place_of(file: Path) -> str | None:
    """The part of a name from AOI on, which an image shares with its footprints; None: it has none."""
    match = _KEY.fullmatch(file.stem)
    return match[1] if match else None


def _split_folders(path: Path) -> Mapping[str, Path]:
    return {child.name: child for child in sorted(path.iterdir()) if child.is_dir() and _SPLIT.fullmatch(child.name)}


def _chosen(path: Path, split: str | None) -> tuple[Path, list[str] | None]:
    """The folder of a split, and the places that a list chooses; None: all."""
    lists = split_lists_of(path)
    if lists:
        names = [name for part in chosen(split, lists, path) for name in read_list(lists[part])]
        matches = [(_KEY.fullmatch(name), name) for name in names]
        return path, list(dict.fromkeys(match[1] if match else name for match, name in matches))
    folders = _split_folders(path)
    if not folders and split is None:
        return path, None
    if not folders:
        what = f"no split {split!r}: neither {split}.txt with names of images nor a folder {split}"
        raise UserError(what, where=path, fix="write a list of names for each split")
    names = chosen(split, folders, path)
    if len(names) > 1:
        raise UserError("several folders of splits at once", where=path, fix="lists of names can be put together")
    return folders[names[0]], None


FORMAT = Format(kind="maps", looks_like=looks_like, splits=splits, walk=walk)

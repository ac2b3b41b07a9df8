"""Footprints of buildings as SpaceNet's challenges take them: a table of polygons in pixels, and a GeoJSON an image.

    proposals.csv                         ImageId,BuildingId,PolygonWKT_Pix,Confidence
                                          AOI_1_RIO_img1,1,"POLYGON ((5 4, 9 4, 9 8, 5 8, 5 4))",0.93
                                          AOI_1_RIO_img2,-1,POLYGON EMPTY,1
    geojson/Geo_AOI_1_RIO_img1.geojson    the same where the image lies, as the published labels are

An image is called by its name from AOI on (others by their whole name, without folder and ending), whichever of its
kinds (3band, 8band, ...) was looked at. Every image has a line; one without a building that of -1. A building is one
polygon, with its holes: of several parts the largest. What has fewer than `MIN_PIXELS` pixels is no building (ours);
both are counted. Where a model of pixels does not say how sure it is of a building, `Confidence` is 1.

Source: the statement of the first challenge, and the utilities that its authors published (their names of columns, -1
and POLYGON EMPTY).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from vistruct.data.formats.boxes.dota import refuse_twins
from vistruct.data.formats.maps.spacenet import place_of
from vistruct.files.features import Feature, Layer, write_geojson
from vistruct.files.geo import GeoProfile
from vistruct.files.text import write_text
from vistruct.issues import IssueCounter

MIN_PIXELS = 20.0
SMALL = "building left out: fewer than 20 pixels"
PART = "part of a building left out: it has a larger one, and SpaceNet one polygon a building"

_COLUMNS = ("ImageId", "BuildingId", "PolygonWKT_Pix", "Confidence")


@dataclass(frozen=True, kw_only=True)
class Footprints:
    """The buildings of an image."""

    name: str  # of the image, with its folders
    features: Iterable[Feature]  # in pixels; with a score among the values, or without
    profile: GeoProfile | None  # where the image lies; None: nowhere, its GeoJSON has pixels


def image_id(name: str) -> str:
    """What SpaceNet calls an image."""
    return place_of(Path(name)) or PurePosixPath(name).stem


def check_images(names: Sequence[str], where: Path) -> None:
    """
    Raises:
        UserError: two images that SpaceNet calls the same.
    """
    refuse_twins([image_id(name) for name in names], names, "images", where)


def write_footprints(folder: Path, images: Iterable[Footprints]) -> tuple[Path, IssueCounter]:
    """Write the table and the GeoJSONs; images are taken one by one.

    Returns:
        The table; and what was left out.

    Raises:
        UserError: a coordinate system, and no rasterio.
    """
    report = IssueCounter()
    columns = {"BuildingId": int, "Confidence": float}

    def rows() -> Iterator[str]:
        yield _line(_COLUMNS)
        for image in images:
            name = image_id(image.name)
            buildings: list[Feature] = []
            for polygon, score in _buildings(image, report):
                values = {"BuildingId": len(buildings) + 1, "Confidence": score}
                buildings.append(Feature(polygons=[polygon], values=values))
            layer = Layer(name=f"Geo_{name}", columns=columns, profile=image.profile)
            write_geojson(Path(folder) / "geojson" / f"Geo_{name}.geojson", buildings, layer)
            for one in buildings:
                yield _line((name, one.values["BuildingId"], _wkt(one.polygons[0]), f"{one.values['Confidence']:.9g}"))
            if not buildings:
                yield _line((name, -1, "POLYGON EMPTY", 1))

    write_text(Path(folder) / "proposals.csv", rows())
    return Path(folder) / "proposals.csv", report


def _buildings(image: Footprints, report: IssueCounter) -> Iterator[tuple[Sequence[np.ndarray], float]]:
    """Rings and confidence."""
    for number, feature in enumerate(image.features):
        here = f"{image.name}: building {number}"
        sizes = [_pixels(rings) for rings in feature.polygons]
        largest = int(np.argmax(sizes))
        if sizes[largest] < MIN_PIXELS:
            report.note(SMALL, here)
            continue
        for _ in sizes[1:]:
            report.note(PART, here)
        yield feature.polygons[largest], float(feature.values.get("score", 1))


def _pixels(rings: Sequence[np.ndarray]) -> float:
    """The area of a polygon without its holes."""
    areas = []
    for ring in rings:
        x, y = ring.T
        areas.append(abs(float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)) / 2)
    return areas[0] - sum(areas[1:])


def _wkt(rings: Sequence[np.ndarray]) -> str:
    texts = [", ".join(f"{x:.9g} {y:.9g}" for x, y in [*ring.tolist(), ring[0].tolist()]) for ring in rings]
    return f"POLYGON ({', '.join(f'({text})' for text in texts)})"


def _line(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()

"""Outlines with what is known of them, as GeoJSON and GeoPackage: what GIS programs open.

GeoJSON has the coordinates of the image's own system and says which in the member `crs`, as QGIS and GDAL write and
read it. (RFC 7946 has longitude and latitude only, in which a corner of a pixel is no longer that corner.) GeoPackage
is SQLite with a few fixed tables and needs no library of its own: fiona and pyogrio would be a second GDAL.

Source: GeoJSON 2008 (`crs`); OGC 12-128r19, GeoPackage 1.3: tables and the header of a geometry.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.files.geo import GeoProfile
from vistruct.files.raster_headers import rasterio_
from vistruct.files.whole import whole_file

IN_PIXELS = "coordinates are pixels of the image: x to the right, y down"

_CRS84 = "urn:ogc:def:crs:OGC:1.3:CRS84"  # longitude, latitude: the order of the numbers here
_ISSUED = "2000-01-01T00:00:00.000Z"  # the date of every layer, so that equal results are equal bytes
_OWN_SYSTEM = 100_000  # number of a coordinate system that EPSG has none for
_UNKNOWN = -1  # number that GeoPackage has for plain numbers
_TYPES: dict[type, str] = {str: "TEXT", int: "INTEGER", float: "REAL"}


@dataclass(frozen=True, kw_only=True)
class Feature:
    """Polygons in pixels of an image, and what is known of them."""

    polygons: Sequence[Sequence[np.ndarray]]  # of each its rings, float[N, 2]: clockwise on the screen, holes not
    values: Mapping[str, str | int | float]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """How the features of an image are written."""

    name: str
    columns: Mapping[str, type]  # of each value its type: str, int or float
    profile: GeoProfile | None  # where the image lies; None: nowhere, coordinates are pixels

    @property
    def authority(self) -> tuple[str, str] | None:
        """Who numbers its coordinate system, and how."""
        if self.profile is None or not self.profile.crs:
            return None
        return rasterio_().crs.CRS.from_wkt(self.profile.crs).to_authority()

    def placed(self, feature: Feature) -> list[list[np.ndarray]]:
        """Its rings on the map, closed, and anticlockwise there (those of holes clockwise), as both formats have it."""
        a, b, c, d, e, f = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0) if self.profile is None else self.profile.transform
        step = 1 if a * e - b * d > 0 else -1
        found = []
        for rings in feature.polygons:
            closed = [np.concatenate([ring, ring[:1]])[::step] for ring in rings]
            found.append([ring @ np.array([[a, d], [b, e]]) + np.array([c, f]) for ring in closed])
        return found


def write_geojson(path: Path, features: Iterable[Feature], layer: Layer) -> None:
    """Write a GeoJSON, complete or not at all; features are taken one by one.

    Raises:
        OSError: the folder cannot be made, or the disk is full.
        UserError: a coordinate system, and no rasterio.
    """
    head: dict[str, Any] = {"type": "FeatureCollection", "name": layer.name}
    if layer.profile is None:
        head["description"] = IN_PIXELS
    elif layer.profile.crs:
        head["crs"] = {"type": "name", "properties": {"name": _crs_name(layer)}}
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f'{json.dumps(head, ensure_ascii=False)[:-1]}, "features": [')
        for number, feature in enumerate(features):
            polygons = [[_numbers(ring) for ring in rings] for rings in layer.placed(feature)]
            is_one = len(polygons) == 1
            geometry: dict[str, Any] = {"type": "Polygon" if is_one else "MultiPolygon"}
            geometry["coordinates"] = polygons[0] if is_one else polygons
            one = {"type": "Feature", "properties": dict(feature.values), "geometry": geometry}
            file.write(("" if number == 0 else ",") + "\n" + json.dumps(one, ensure_ascii=False))
        file.write("\n]}\n")


def write_gpkg(path: Path, features: Iterable[Feature], layer: Layer) -> None:
    """Write a GeoPackage of one layer of (multi)polygons, complete or not at all; features are taken one by one.

    Raises:
        OSError: as `write_geojson`.
        UserError: as `write_geojson`.
    """
    number, system = _system(layer)
    columns = ", ".join(f'"{name}" {_TYPES[kind]}' for name, kind in layer.columns.items())
    with whole_file(path) as temporary:
        try:
            with closing(sqlite3.connect(temporary, isolation_level=None)) as base:
                base.executescript(_TABLES)
                base.execute("BEGIN")
                base.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)", system)
                table = '"{}"'.format(layer.name.replace('"', '""'))
                base.execute(f"CREATE TABLE {table} (fid INTEGER PRIMARY KEY NOT NULL, geom MULTIPOLYGON, {columns})")
                edges = [np.inf, np.inf, -np.inf, -np.inf]
                places = ", ".join("?" * len(layer.columns))
                named = ", ".join(f'"{name}"' for name in layer.columns)
                base.executemany(
                    f"INSERT INTO {table} (geom, {named}) VALUES (?, {places})", _rows(features, layer, number, edges)
                )
                bounds = edges if np.isfinite(edges).all() else [None] * 4
                said = IN_PIXELS if layer.profile is None else ""
                base.execute(
                    "INSERT INTO gpkg_contents VALUES (?, 'features', ?, ?, ?, ?, ?, ?, ?, ?)",
                    [layer.name, layer.name, said, _ISSUED, *bounds, number],
                )
                base.execute(
                    "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'MULTIPOLYGON', ?, 0, 0)",
                    [layer.name, number],
                )
                base.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise OSError(f"{path}: {error}") from error


def _rows(features: Iterable[Feature], layer: Layer, number: int, edges: list[float]) -> Iterator[list[Any]]:
    """A row for each feature; `edges` become those of all."""
    for feature in features:
        polygons = layer.placed(feature)
        every = np.concatenate([ring for rings in polygons for ring in rings])
        low, high = every.min(axis=0).tolist(), every.max(axis=0).tolist()
        edges[:] = [*map(min, edges[:2], low), *map(max, edges[2:], high)]
        # magic, version, little-endian with an envelope of x and y, system; then well-known binary
        head = b"GP" + struct.pack("<BBi4d", 0, 0b11, number, low[0], high[0], low[1], high[1])
        parts = [struct.pack("<BII", 1, 6, len(polygons))]
        for rings in polygons:
            parts.append(struct.pack("<BII", 1, 3, len(rings)))
            parts += [struct.pack("<I", len(ring)) + ring.astype("<f8").tobytes() for ring in rings]
        yield [head + b"".join(parts), *(feature.values.get(name) for name in layer.columns)]


def _numbers(ring: np.ndarray) -> list[list[float]]:
    """Of twelve digits: a thousandth of a millimetre on a map, and no tail of what floats cannot say."""
    return [[float(f"{x:.12g}"), float(f"{y:.12g}")] for x, y in ring.tolist()]


def _crs_name(layer: Layer) -> str:
    """As GDAL takes it: the number of an authority, else the system itself."""
    authority = layer.authority
    if authority is None:
        assert layer.profile is not None
        return layer.profile.crs
    return _CRS84 if authority == ("EPSG", "4326") else f"urn:ogc:def:crs:{authority[0]}::{authority[1]}"


def _system(layer: Layer) -> tuple[int, list[tuple[str, int, str, int, str, str]]]:
    """Number of the layer's system, and the row that tells of it (none, where every GeoPackage has it)."""
    if layer.profile is None or not layer.profile.crs:
        return _UNKNOWN, []
    wkt, (who, which) = layer.profile.crs, layer.authority or ("NONE", str(_OWN_SYSTEM))
    if (who, which) == ("EPSG", "4326"):
        return 4326, []
    number = int(which) if which.isdecimal() else _OWN_SYSTEM
    name = rasterio_().crs.CRS.from_wkt(wkt).to_dict().get("proj", "") if who == "NONE" else f"{who}:{which}"
    return number, [(name or "own", number, who, int(which) if which.isdecimal() else number, wkt, "")]


_WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,AUTHORITY["EPSG","7030"]],'
    'AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],UNIT["degree",0.0174532925199433,'
    'AUTHORITY["EPSG","9122"]],AUTHORITY["EPSG","4326"]]'
)
_TABLES = f"""
PRAGMA journal_mode = OFF;
PRAGMA application_id = {int.from_bytes(b"GPKG", "big")};
PRAGMA user_version = 10300;
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
    organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
INSERT INTO gpkg_spatial_ref_sys VALUES ('Undefined Cartesian SRS', -1, 'NONE', -1, 'undefined', ''),
    ('Undefined geographic SRS', 0, 'NONE', 0, 'undefined', ''), ('WGS 84', 4326, 'EPSG', 4326, '{_WGS84}', '');
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
    description TEXT DEFAULT '', last_change DATETIME NOT NULL, min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE,
    srs_id INTEGER, CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL, geometry_type_name TEXT NOT
    NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL, CONSTRAINT pk_geom_cols PRIMARY KEY
    (table_name, column_name), CONSTRAINT uk_gc_table_name UNIQUE (table_name), CONSTRAINT fk_gc_tn FOREIGN KEY
    (table_name) REFERENCES gpkg_contents (table_name), CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES
    gpkg_spatial_ref_sys (srs_id));
"""

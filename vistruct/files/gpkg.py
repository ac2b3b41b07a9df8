"""Polygons of a GeoPackage, as features of GeoJSON: a GeoPackage is a data base of SQLite, which Python reads itself.

Source: OGC 12-128r18, clauses 2.1.3 (geometries), 1.1.2 (coordinate systems); OGC 06-103r4 for well-known binary.
"""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vistruct.errors import UserError

_ENVELOPES = {0: 0, 1: 32, 2: 48, 3: 48, 4: 64}  # bytes, by their code
_NAMES = {1: "Point", 2: "LineString", 3: "Polygon", 4: "MultiPoint", 5: "MultiLineString", 6: "MultiPolygon"}


def read_gpkg(path: Path) -> dict[str, Any]:
    """The one layer of features of a GeoPackage as a FeatureCollection, with its `crs` as GDAL names it.

    Raises:
        UserError: no GeoPackage, or several layers.
    """
    try:
        opened = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
    except sqlite3.Error as error:
        raise UserError(f"cannot read: {error}", where=path, fix="check path and permissions") from error
    try:
        return _collection(opened, path)
    except (sqlite3.Error, struct.error, TypeError) as error:
        raise UserError(f"no GeoPackage of features: {error}", where=path, fix="export the layer again") from error
    finally:
        opened.close()


def _collection(base: sqlite3.Connection, path: Path) -> dict[str, Any]:
    layers = base.execute("SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns").fetchall()
    if len(layers) != 1:
        names = ", ".join(str(name) for name, _, _ in layers) or "none"
        fix = f"one layer a file: ogr2ogr -f GeoJSON {path.with_suffix('.geojson').name} {path.name} LAYER"
        raise UserError(f"a GeoPackage of {len(layers)} layers: {names}", where=path, fix=fix)
    ((table, column, system),) = layers
    named = "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys WHERE srs_id = ?"
    found = base.execute(named, (system,)).fetchone()
    crs = None
    if found is not None and system not in (0, -1):  # these two are known to nobody
        crs = f"{found[0]}:{found[1]}" if str(found[0]).upper() == "EPSG" else str(found[2])
    quoted = str(table).replace('"', '""')
    rows = base.execute(f'SELECT * FROM "{quoted}"')
    columns = [one[0] for one in rows.description]
    features = []
    for row in rows:
        said = dict(zip(columns, row, strict=True))
        geometry = _geometry(said.pop(column))
        features.append({"type": "Feature", "properties": said, "geometry": geometry})
    return {
        "type": "FeatureCollection",
        "features": features,
        "crs": None if crs is None else {"type": "name", "properties": {"name": crs}},
    }


def _geometry(blob: Any) -> dict[str, Any] | None:
    """
    Raises:
        struct.error: it ends too early, or is of a kind that has no place here.
    """
    if blob is None:
        return None
    if not isinstance(blob, bytes) or blob[:2] != b"GP":
        raise struct.error("no geometry of a GeoPackage")
    flags = blob[3]
    if flags & 0b10000:  # empty
        return None
    return _well_known(blob, 8 + _ENVELOPES.get((flags >> 1) & 7, 0))[0]


def _well_known(blob: bytes, at: int) -> tuple[dict[str, Any], int]:
    """A geometry of well-known binary, and where it ends."""
    order = "<" if blob[at] == 1 else ">"
    (code,) = struct.unpack_from(f"{order}I", blob, at + 1)
    kind, dimensions = code % 1000, {0: 2, 1: 3, 2: 3, 3: 4}.get(code // 1000, 0)
    name = _NAMES.get(kind)
    if name is None or not dimensions:
        raise struct.error(f"a geometry of kind {code}")
    at += 5

    def points(number: int) -> list[list[float]]:
        nonlocal at
        flat = struct.unpack_from(f"{order}{number * dimensions}d", blob, at)
        at += 8 * number * dimensions
        return [list(flat[one * dimensions : one * dimensions + 2]) for one in range(number)]

    def count() -> int:
        nonlocal at
        (number,) = struct.unpack_from(f"{order}I", blob, at)
        at += 4
        return number

    if name == "Point":
        return {"type": name, "coordinates": points(1)[0]}, at
    if name == "LineString":
        return {"type": name, "coordinates": points(count())}, at
    if name == "Polygon":
        return {"type": name, "coordinates": [points(count()) for _ in range(count())]}, at
    parts = []
    for _ in range(count()):
        part, at = _well_known(blob, at)
        parts.append(part["coordinates"])
    return {"type": name, "coordinates": parts}, at

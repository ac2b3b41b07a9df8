"""GeoJSON and GeoPackage, read by GDAL and by hand."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import shapely
from gdal_vectors import read_vectors
from rasterio.crs import CRS

from vistruct.files.features import Feature, Layer, write_geojson, write_gpkg
from vistruct.files.geo import GeoProfile

SQUARE = np.array([[10.0, 20.0], [30, 20], [30, 60], [10, 60]])
HOLE = np.array([[12.0, 22], [12, 24], [14, 24], [14, 22]])
NORTH_UP = (0.1, 0.0, 500000.0, 0.0, -0.1, 4976000.0)
COLUMNS = {"class": str, "score": float, "value": int}
WRITERS = {".geojson": write_geojson, ".gpkg": write_gpkg}


def layer(crs: CRS | None, transform: tuple[float, ...] | None = NORTH_UP, name: str = "scene") -> Layer:
    profile = None
    if transform is not None:
        a, b, c, d, e, f = transform
        profile = GeoProfile(crs="" if crs is None else crs.to_wkt(), transform=(a, b, c, d, e, f))
    return Layer(name=name, columns=COLUMNS, profile=profile)


def features() -> list[Feature]:
    values = {"class": 'a "b", ä', "score": 0.25, "value": 7}
    return [
        Feature(polygons=[[SQUARE, HOLE]], values=values),
        Feature(polygons=[[SQUARE], [SQUARE + 100]], values=values),
    ]


@pytest.mark.parametrize("ending", WRITERS)
def test_corners_are_on_the_map_in_the_system_of_the_scene(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a{ending}"
    WRITERS[ending](file, features(), layer(CRS.from_epsg(32612)))
    crs, found = read_vectors(file)
    assert crs == "EPSG:32612"
    (first, values), (second, _) = found
    assert values == {"class": 'a "b", ä', "score": 0.25, "value": 7}
    np.testing.assert_allclose(first.bounds, [500001.0, 4975994.0, 500003.0, 4975998.0], rtol=0, atol=1e-6)
    assert first.area == pytest.approx(2 * 4 - 0.2 * 0.2)
    assert second.area == pytest.approx(16)
    assert first.is_valid
    assert second.is_valid
    outer = shapely.get_parts(first)[0].exterior
    assert outer.is_ccw
    assert not shapely.get_parts(first)[0].interiors[0].is_ccw


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize(
    "crs",
    [
        CRS.from_epsg(4326),
        CRS.from_epsg(3857),
        CRS.from_string("+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84 +units=m"),
        None,
    ],
)
def test_systems_come_back(tmp_path: Path, ending: str, crs: CRS | None) -> None:
    file = tmp_path / f"a{ending}"
    rotated = (0.5, 0.1, 10.0, 0.2, -0.4, 50.0)
    WRITERS[ending](file, features(), layer(crs, rotated))
    system, found = read_vectors(file)
    x, y = found[0][0].geoms[0].exterior.coords[0] if ending == ".gpkg" else found[0][0].exterior.coords[0]
    assert (x, y) == pytest.approx((0.5 * 10 + 0.1 * 20 + 10, 0.2 * 10 - 0.4 * 20 + 50))
    if crs is not None:
        assert CRS.from_user_input(system.replace("OGC:CRS84", "EPSG:4326")) == crs
    elif ending == ".gpkg":
        assert "Undefined" in system or not system


@pytest.mark.parametrize("ending", WRITERS)
def test_a_picture_without_coordinates_has_pixels_and_says_so(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a{ending}"
    WRITERS[ending](file, features(), layer(None, None))
    _, found = read_vectors(file)
    assert found[0][0].bounds == (10, 20, 30, 60)
    if ending == ".geojson":
        said = json.loads(file.read_text())
        assert "crs" not in said
        assert "y down" in said["description"]
    else:
        with sqlite3.connect(file) as base:
            assert "y down" in base.execute("SELECT description FROM gpkg_contents").fetchone()[0]


@pytest.mark.parametrize("ending", WRITERS)
def test_nothing_found_is_an_empty_layer_and_equal_results_are_equal_bytes(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b"):
        WRITERS[ending](tmp_path / f"{name}{ending}", [], layer(CRS.from_epsg(32612), name='odd "name" ä'))
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()
    assert read_vectors(tmp_path / f"a{ending}")[1] == []

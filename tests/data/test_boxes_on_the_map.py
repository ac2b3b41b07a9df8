"""Polygons over georeferenced scenes: pixels by the transform, worked out by hand, whatever system they are in."""

from __future__ import annotations

import json
import math
import sqlite3
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vistruct.data.formats.detect import family_of, matching
from vistruct.data.formats.format import Ask
from vistruct.data.formats.read import read
from vistruct.errors import UserError

rasterio = pytest.importorskip("rasterio")

UTM = "EPSG:32612"
LEFT, TOP, PIXEL = 500_000.0, 4_976_000.0, 0.1  # metres


def scene(path: Path, left: float = LEFT, crs: str | None = UTM) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = rasterio.Affine(PIXEL, 0, left, 0, -PIXEL, TOP)
    place = {} if crs is None else {"crs": crs, "transform": transform}
    with rasterio.open(path, "w", driver="GTiff", width=96, height=80, count=3, dtype="uint8", **place) as file:
        file.write(np.random.default_rng(0).integers(0, 255, (3, 80, 96), np.uint8))
    return path


def on_map(pixels: list[tuple[float, float]]) -> list[list[float]]:
    ring = [[LEFT + PIXEL * x, TOP - PIXEL * y] for x, y in pixels]
    return [*ring, ring[0]]


def feature(*rings: list[list[float]], **properties: Any) -> dict[str, Any]:
    geometry = {"type": "Polygon", "coordinates": list(rings)}
    return {"type": "Feature", "properties": properties or {"class": "crown"}, "geometry": geometry}


def layer(path: Path, *features: dict[str, Any], crs: str | None = "urn:ogc:def:crs:EPSG::32612") -> Path:
    named = {} if crs is None else {"crs": {"type": "name", "properties": {"name": crs}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", **named, "features": list(features)}))
    return path


UPRIGHT = [(10.0, 8.0), (34.0, 8.0), (34.0, 30.0), (10.0, 30.0)]
COS, SIN = math.cos(0.4), math.sin(0.4)
TURNED = [(55 + COS * x - SIN * y, 40 + SIN * x + COS * y) for x, y in ((-15, -8), (15, -8), (15, 8), (-15, 8))]


def test_rectangles_keep_their_corners_in_pixels(tmp_path: Path) -> None:
    scene(tmp_path / "scene.tif")
    layer(tmp_path / "crowns.geojson", feature(on_map(UPRIGHT)), feature(on_map(TURNED)))
    assert matching(tmp_path, "boxes") == ["geojson"]
    assert family_of(tmp_path).format == "geojson"
    walked, report = read(tmp_path, "boxes")
    (record,) = walked.records
    assert walked.class_names == ("crown",)
    assert record.objects.quads is not None
    np.testing.assert_allclose(record.objects.quads, [UPRIGHT, TURNED], atol=1e-4)
    assert not report.counts


def test_longitude_and_latitude_go_through_the_projection(tmp_path: Path) -> None:
    scene(tmp_path / "scene.tif")
    xs, ys = zip(*on_map(TURNED), strict=True)
    degrees = rasterio.warp.transform(UTM, "EPSG:4326", list(xs), list(ys))
    ring = [list(point) for point in zip(*degrees, strict=True)]
    layer(tmp_path / "crowns.geojson", feature(ring), crs=None)
    record = read(tmp_path, "boxes")[0].records[0]
    assert record.objects.quads is not None
    np.testing.assert_allclose(record.objects.quads[0], TURNED, atol=1e-3)


def test_outlines_parts_holes_and_what_lies_elsewhere(tmp_path: Path) -> None:
    scene(tmp_path / "scene.tif")
    hole = on_map([(12, 12), (14, 12), (14, 14)])
    five = on_map([(10, 10), (30, 10), (40, 20), (30, 30), (10, 30)])
    parts = [[on_map([(50, 50), (60, 50), (60, 60)])], [on_map([(70, 60), (80, 60), (80, 70)])]]
    several = {**feature(), "geometry": {"type": "MultiPolygon", "coordinates": parts}}
    point = {**feature(), "geometry": {"type": "Point", "coordinates": [LEFT, TOP]}}
    away = feature(on_map([(500, 500), (510, 500), (510, 510)]))
    empty = {**feature(), "geometry": None}
    layer(tmp_path / "crowns.geojson", feature(five, hole), several, point, away, empty)
    walked, report = read(tmp_path, "boxes")
    objects = walked.records[0].objects
    np.testing.assert_allclose(objects.boxes_xyxy, [[10, 10, 40, 30], [50, 50, 80, 70]], atol=1e-4)
    assert objects.quads is None
    assert objects.masks is not None
    assert [len(mask) for mask in objects.masks] == [1, 2]
    assert sorted(report.counts.values()) == [1, 1, 1, 1]


def test_each_scene_has_its_part_of_one_layer(tmp_path: Path) -> None:
    scene(tmp_path / "images" / "west.tif")
    scene(tmp_path / "images" / "east.tif", left=LEFT + 9.6)
    scene(tmp_path / "images" / "far.tif", left=LEFT + 1000)
    over = [(90.0, 10.0), (106.0, 10.0), (106.0, 20.0), (90.0, 20.0)]
    layer(tmp_path / "crowns.geojson", feature(on_map(UPRIGHT)), feature(on_map(over)))
    walked, report = read(tmp_path, "boxes")
    found = {record.id: record.objects.boxes_xyxy for record in walked.records}
    np.testing.assert_allclose(found["west.tif"], [[10, 8, 34, 30], [90, 10, 96, 20]], atol=1e-4)
    np.testing.assert_allclose(found["east.tif"], [[0, 10, 10, 20]], atol=1e-4)
    assert "far.tif" not in found
    assert any("no feature lies in it" in reason for reason in report.counts)


def test_a_layer_of_the_name_of_a_scene_is_of_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        scene(tmp_path / "images" / f"{name}.tif")
        layer(tmp_path / "labels" / f"{name}.geojson", feature(on_map(UPRIGHT), label=name))
    walked, _ = read(tmp_path, "boxes")
    assert walked.class_names == ("a", "b")
    assert [record.objects.labels.tolist() for record in walked.records] == [[0], [1]]


@pytest.mark.parametrize(
    ("properties", "words", "answer", "names"),
    [
        ({"label": "x", "class": "y"}, "several fields may say the class", "label", ("x",)),
        ({"height": 3, "Baumart": "y"}, "no field is called as a class is", "Baumart", ("y",)),
        ({"height": 3}, "no field is called as a class is", "none", ("object",)),
    ],
)
def test_the_field_of_the_class_is_a_question(
    tmp_path: Path, properties: dict[str, Any], words: str, answer: str, names: tuple[str, ...]
) -> None:
    scene(tmp_path / "scene.tif")
    layer(tmp_path / "crowns.geojson", feature(on_map(UPRIGHT), **properties))
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path, "boxes")
    assert "--class-field" in caught.value.fix
    assert read(tmp_path, "boxes", ask=Ask(class_field=answer))[0].class_names == names


def test_a_layer_with_numbers_only_is_one_class_and_counted(tmp_path: Path) -> None:
    scene(tmp_path / "scene.tif")
    layer(tmp_path / "crowns.geojson", feature(on_map(UPRIGHT), fid=1, area=5.28))
    walked, report = read(tmp_path, "boxes")
    assert walked.class_names == ("object",)
    assert list(report.counts.values()) == [1]


def test_a_layer_somewhere_else_stops(tmp_path: Path) -> None:
    scene(tmp_path / "scene.tif")
    layer(tmp_path / "crowns.geojson", feature(on_map(UPRIGHT)), crs="EPSG:32633")
    with pytest.raises(UserError, match="no feature lies in any image here"):
        read(tmp_path, "boxes")
    layer(tmp_path / "crowns.geojson", feature(on_map(UPRIGHT)), crs="EPSG:999999")
    with pytest.raises(UserError, match="coordinates in EPSG:999999"):
        read(tmp_path, "boxes")


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_images_that_lie_nowhere_stop(tmp_path: Path) -> None:
    scene(tmp_path / "scene.tif", crs=None)
    layer(tmp_path / "crowns.geojson", feature(on_map(UPRIGHT)))
    with pytest.raises(UserError, match="no image here says where on the map it lies"):
        read(tmp_path, "boxes")


def geopackage(path: Path, rings: list[list[list[float]]]) -> Path:
    """As the standard has it: header GP, version 0, little-endian with an envelope, then well-known binary."""
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE gpkg_spatial_ref_sys (srs_id, organization, organization_coordsys_id, definition)")
    base.execute("CREATE TABLE gpkg_geometry_columns (table_name, column_name, geometry_type_name, srs_id, z, m)")
    base.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (32612, 'EPSG', 32612, '')")
    base.execute("INSERT INTO gpkg_geometry_columns VALUES ('crowns', 'geom', 'POLYGON', 32612, 0, 0)")
    base.execute("CREATE TABLE crowns (fid INTEGER PRIMARY KEY, geom BLOB, class TEXT)")
    for ring in rings:
        binary = struct.pack("<BIII", 1, 3, 1, len(ring)) + b"".join(struct.pack("<2d", *point) for point in ring)
        blob = b"GP" + struct.pack("<BBi4d", 0, 0b0011, 32612, 0, 0, 0, 0) + binary
        base.execute("INSERT INTO crowns (geom, class) VALUES (?, 'crown')", (blob,))
    base.commit()
    base.close()
    return path


def test_a_geopackage_says_the_same_as_the_geojson(tmp_path: Path) -> None:
    scene(tmp_path / "scene.tif")
    geopackage(tmp_path / "crowns.gpkg", [on_map(UPRIGHT), on_map(TURNED)])
    assert family_of(tmp_path).format == "geojson"
    record = read(tmp_path, "boxes")[0].records[0]
    assert record.objects.quads is not None
    np.testing.assert_allclose(record.objects.quads, [UPRIGHT, TURNED], atol=1e-4)
    (tmp_path / "crowns.gpkg").write_bytes(b"SQLite format 3\0" + b"x" * 100)
    with pytest.raises(UserError, match="no GeoPackage of features"):
        read(tmp_path, "boxes")


def test_a_shapefile_says_what_to_type(tmp_path: Path) -> None:
    scene(tmp_path / "scene.tif")
    (tmp_path / "crowns.shp").write_bytes(b"\0\0\x27\x0a")
    with pytest.raises(UserError, match="shapefiles are not read") as caught:
        read(tmp_path, "boxes")
    assert "ogr2ogr -f GeoJSON crowns.geojson crowns.shp" in caught.value.fix

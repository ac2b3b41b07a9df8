"""SpaceNet: footprints of buildings painted where they are."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.warp
from shapely.geometry import Point, Polygon

from vistruct.data.checks.check import check
from vistruct.data.formats.detect import family_of
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError
from vistruct.windows.tiles import Tiles

H, W = 40, 60
DEGREES = rasterio.Affine(4.5e-6, 0.0, -43.68, 0.0, -4.5e-6, -22.96)  # Rio, half a metre
METRES = rasterio.Affine(0.5, 0.0, 660_000.0, 0.0, -0.5, 4_000_000.0)
# In pixels (x, y): one with a hole, one over the border, one on its own.
OUTLINES = [
    [[(5.2, 5.1), (25.3, 6.2), (24.7, 20.4), (6.1, 19.6)], [(10.2, 9.8), (15.3, 10.1), (15.1, 15.2), (10.4, 14.9)]],
    [[(50.5, 30.2), (70.1, 31.3), (69.7, 55.6), (49.8, 54.2)]],
    [[(30.3, 25.4), (38.6, 27.7), (35.1, 35.9)]],
]


def painted(outlines: list[Any] | None = None) -> np.ndarray:
    """bool[H, W]: whether shapely finds the centre of a pixel inside."""
    shapes = [Polygon(ring, holes) for ring, *holes in (OUTLINES if outlines is None else outlines)]
    return np.array([[any(s.contains(Point(x + 0.5, y + 0.5)) for s in shapes) for x in range(W)] for y in range(H)])


def image(path: Path, bands: int = 3, dtype: str = "uint8", crs: str = "EPSG:4326", place: Any = DEGREES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 200, (bands, H, W)).astype(dtype)
    colours = {"photometric": "rgb"} if bands == 3 else {}
    shape = {"driver": "GTiff", "count": bands, "height": H, "width": W, "dtype": dtype, "crs": crs, "transform": place}
    with rasterio.open(path, "w", **shape, **colours) as file:
        file.write(values)


def geojson(path: Path, place: Any, *, crs: str | None = None, to: Any = None, outlines: Any = OUTLINES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    features = []
    for rings in outlines:
        on_map = [[list(place @ corner) for corner in [*ring, ring[0]]] for ring in rings]
        shape: Any = {"type": "Polygon", "coordinates": on_map}
        shape = to(shape) if to is not None else shape
        features.append({"type": "Feature", "properties": {}, "geometry": shape})
    content: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if crs is not None:
        content["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(content))


def rio(root: Path, number: int = 3) -> Path:
    for n in range(number):
        image(root / "3band" / f"3band_AOI_1_RIO_img{n}.tif")
        image(root / "8band" / f"8band_AOI_1_RIO_img{n}.tif", 8, "uint16")
        geojson(
            root / "geojson" / f"Geo_AOI_1_RIO_img{n}.geojson", DEGREES, outlines=OUTLINES[:n] if n < 2 else OUTLINES
        )
    return root


def label_map(root: Path, index: int, **settings: Any) -> np.ndarray:
    sample = MapDataConfig(root=root, **settings).build().sample(index, 0)
    assert sample.label_map is not None
    assert tuple(sample.label_map.shape) == tuple(sample.images[0].shape[1:])
    return sample.label_map.numpy()


def test_footprints_in_degrees_are_painted_with_holes_as_shapely_finds_them(tmp_path: Path) -> None:
    root = rio(tmp_path)
    assert (family_of(root).kind, family_of(root).format) == ("maps", "spacenet")
    dataset = pickle.loads(pickle.dumps(MapDataConfig(root=root).build()))
    assert dataset.info.class_names == ("background", "building")
    assert [record.id for record in dataset.records] == [f"3band_AOI_1_RIO_img{n}.tif" for n in range(3)]
    for n, outlines in enumerate(([], OUTLINES[:1], OUTLINES)):
        assert np.array_equal(dataset.truth(n).numpy(), painted(outlines))


def test_windows_are_parts_of_the_whole(tmp_path: Path) -> None:
    dataset = MapDataConfig(root=rio(tmp_path), tiles=Tiles(size=25, overlap=5)).build()
    whole = painted()
    windows = [(i, r.window_xyxy) for i, r in enumerate(dataset.records) if r.image_id.endswith("img2.tif")]
    assert len(windows) > 4
    for index, window in windows:
        assert window is not None
        x0, y0, x1, y1 = window
        assert np.array_equal(dataset.truth(index).numpy(), whole[y0:y1, x0:x1])


def test_degrees_on_an_image_in_metres_are_transformed(tmp_path: Path) -> None:
    name = "RGB-PanSharpen_AOI_2_Vegas_img1"
    image(tmp_path / "RGB-PanSharpen" / f"{name}.tif", 3, "uint16", "EPSG:32611", METRES)

    def to_degrees(shape: Any) -> Any:
        return rasterio.warp.transform_geom("EPSG:32611", "EPSG:4326", shape)

    file = tmp_path / "geojson" / "buildings" / "buildings_AOI_2_Vegas_img1.geojson"
    for crs in (None, "urn:ogc:def:crs:OGC:1.3:CRS84", "EPSG:4326"):
        geojson(file, METRES, crs=crs, to=to_degrees)
        assert (label_map(tmp_path, 0) != painted()).mean() < 0.002  # a millimetre of rounding at an edge
    geojson(file, METRES, crs="urn:ogc:def:crs:EPSG::32611")
    assert np.array_equal(label_map(tmp_path, 0), painted())


def test_coordinates_that_are_no_degrees_are_the_images_own(tmp_path: Path) -> None:
    image(tmp_path / "PAN" / "PAN_AOI_3_Paris_img1.tif", 1, "uint16", "EPSG:32631", METRES)
    geojson(tmp_path / "geojson" / "buildings_AOI_3_Paris_img1.geojson", METRES)
    assert np.array_equal(label_map(tmp_path, 0), painted())


def test_the_kind_of_image_is_chosen_by_its_folder(tmp_path: Path) -> None:
    root = rio(tmp_path)
    assert MapDataConfig(root=root).build().sample(0, 0).images[0].max() < 200  # 8-bit colours stay as they are
    eight = MapDataConfig(root=root, images="8band", format="spacenet").build()
    assert eight.records[0].images[0].parent.name == "8band"
    assert eight.info.channels == 3  # red, green and blue of them
    assert eight.sample(0, 0).images[0].int().max() == 65535
    with pytest.raises(UserError, match="no images MUL here"):
        MapDataConfig(root=root, images="MUL", format="spacenet").build()


def test_lists_and_folders_are_splits(tmp_path: Path) -> None:
    root = rio(tmp_path / "one")
    (root / "train.txt").write_text("3band_AOI_1_RIO_img2.tif\nAOI_1_RIO_img0\n")
    (root / "val.txt").write_text("AOI_1_RIO_img1\n")
    named = [record.id[-8:-4] for record in MapDataConfig(root=root, split="train").build().records]
    assert named == ["img2", "img0"]
    with pytest.raises(UserError, match="several splits"):
        MapDataConfig(root=root).build()
    for split in ("train", "val"):
        rio(tmp_path / "two" / split, 2)
    assert len(MapDataConfig(root=tmp_path / "two", split="val").build()) == 2


def test_what_lacks_its_other_half_is_told_or_counted(tmp_path: Path) -> None:
    root = rio(tmp_path)
    (root / "geojson" / "Geo_AOI_1_RIO_img1.geojson").unlink()
    (root / "3band" / "3band_AOI_1_RIO_img2.tif").unlink()
    with pytest.raises(UserError, match="no footprints of an image"):
        MapDataConfig(root=root).build()
    dataset = MapDataConfig(root=root, missing="drop").build()
    assert len(dataset) == 1
    assert dict(dataset.report.counts) == {"image left out: no footprints": 1, "footprints left out: no image": 1}


@pytest.mark.parametrize("content", ["{", "[]", '{"features": [{}]}'])
def test_a_file_that_is_no_geojson_is_named(tmp_path: Path, content: str) -> None:
    root = rio(tmp_path, 1)
    (root / "geojson" / "Geo_AOI_1_RIO_img0.geojson").write_text(content)
    with pytest.raises(UserError, match=r"no GeoJSON of features|not valid json") as caught:
        label_map(root, 0)
    assert "img0.geojson" in caught.value.where


def test_points_lines_and_nothing_paint_nothing(tmp_path: Path) -> None:
    root = rio(tmp_path, 1)
    shapes: list[Any] = [
        None,
        {"type": "Point", "coordinates": [-43.68, -22.96]},
        {"type": "Polygon", "coordinates": []},
    ]
    content = {"features": [{"type": "Feature", "geometry": shape} for shape in shapes]}
    (root / "geojson" / "Geo_AOI_1_RIO_img0.geojson").write_text(json.dumps(content))
    assert not label_map(root, 0).any()


def test_check_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    result = check(rio(tmp_path))
    assert result.ok
    assert result.format == "spacenet"
    assert result.classes["building"] == painted().sum() + painted(OUTLINES[:1]).sum()

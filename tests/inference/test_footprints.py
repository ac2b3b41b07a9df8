"""SpaceNet's table and GeoJSONs: read back by shapely, by rasterio and by our own reader, pixel for pixel."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
import shapely.geometry
import shapely.wkt
from pixel_models import segmenter
from scipy import ndimage

from vistruct.contracts import Record
from vistruct.data.formats.maps import footprints, spacenet
from vistruct.data.formats.maps.footprints import Footprints, write_footprints
from vistruct.errors import UserError
from vistruct.files.features import Feature
from vistruct.inference.files import chosen_formats, predict_files
from vistruct.inference.maps import MAPS
from vistruct.inference.scenes import Case

SIZE_HW = (60, 80)
RIO = rasterio.Affine(4.5e-6, 0.0, -43.68, 0.0, -4.5e-6, -22.96)


def buildings(seed: int) -> np.ndarray:
    """bool[60, 80]: large and small ones, some with a hole, some touching by a corner."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SIZE_HW), 2)
    found = noise > 0.12
    found[40:52, 10:30], found[44:48, 15:20] = True, False  # a yard
    return found


def scene(path: Path, mask: np.ndarray, crs: str = "EPSG:4326") -> Case:
    """Green where a building is, red elsewhere."""
    pixels = np.zeros((3, *SIZE_HW), np.uint8)
    pixels[1], pixels[0] = 200 * mask, 200 * ~mask
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"driver": "GTiff", "count": 3, "height": SIZE_HW[0], "width": SIZE_HW[1], "dtype": "uint8"}
    with rasterio.open(path, "w", **shape, crs=crs, transform=RIO) as file:
        file.write(pixels)
    return Case(pictures=(path,), name=path.name)


def large(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The pixels of regions of 20 and more, joined by edges, and how many regions these are."""
    numbers, count = ndimage.label(mask)
    kept = [number for number in range(1, count + 1) if (numbers == number).sum() >= 20]
    return np.isin(numbers, kept), len(kept)


def test_buildings_of_a_label_map_are_read_back_pixel_for_pixel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = {"AOI_1_RIO_img1": buildings(1), "AOI_1_RIO_img2": buildings(2), "AOI_1_RIO_img3": np.zeros(SIZE_HW, bool)}
    masks["AOI_1_RIO_img3"][3, 4] = True  # too small
    cases = [scene(tmp_path / f"3band_{name}.tif", mask) for name, mask in masks.items()]
    model = segmenter(monkeypatch, names=("background", "building", "road"))
    found = predict_files(model, cases, tmp_path / "out", formats=["spacenet"])
    assert found.made == tmp_path / "out" / "spacenet" / "proposals.csv"
    with found.made.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["ImageId", "BuildingId", "PolygonWKT_Pix", "Confidence"]
    assert rows[-1] == {
        "ImageId": "AOI_1_RIO_img3", "BuildingId": "-1", "PolygonWKT_Pix": "POLYGON EMPTY", "Confidence": "1",
    }  # fmt: skip
    for case, (name, mask) in zip(cases, masks.items(), strict=True):
        expected, count = large(mask)
        own = [row for row in rows if row["ImageId"] == name and row["BuildingId"] != "-1"]
        assert [row["BuildingId"] for row in own] == [str(number + 1) for number in range(count)]
        assert {row["Confidence"] for row in own} <= {"1"}
        shapes = [shapely.wkt.loads(row["PolygonWKT_Pix"]) for row in own]
        assert all(shape.is_valid and shape.geom_type == "Polygon" for shape in shapes)
        assert sum(shape.area for shape in shapes) == expected.sum()  # in pixels
        painted = rasterio.features.rasterize(shapes, out_shape=SIZE_HW) if shapes else np.zeros(SIZE_HW)
        np.testing.assert_array_equal(painted, expected)
        written = tmp_path / "out" / "spacenet" / "geojson" / f"Geo_{name}.geojson"
        record = Record(id=case.name, images=case.files, label_map=written)
        np.testing.assert_array_equal(spacenet.footprints(record), expected)
        content = json.loads(written.read_text())
        assert content["crs"]["properties"]["name"].endswith("CRS84")
        assert [one["properties"]["BuildingId"] for one in content["features"]] == list(range(1, count + 1))
        on_map = [shapely.geometry.shape(one["geometry"]) for one in content["features"]]
        for shape, there in zip(shapes, on_map, strict=True):  # by the corners that rasterio's transform gives
            moved = shapely.transform(shape, lambda xy: np.array([RIO @ tuple(corner) for corner in xy]))
            assert shapely.normalize(moved).equals_exact(shapely.normalize(there), 1e-9)


def test_the_largest_part_of_a_building_is_written_with_its_score_and_the_rest_is_counted(tmp_path: Path) -> None:
    def square(x: float, y: float, side: float) -> list[np.ndarray]:
        return [np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]])]

    features = [
        Feature(polygons=[square(0, 0, 5), square(10.25, 0, 6)], values={"score": 0.75}),
        Feature(polygons=[square(30, 0, 4)], values={"score": 0.5}),
    ]
    images = [Footprints(name="a/AOI_2_RIO_img7.tif", features=features, profile=None)]
    table, report = write_footprints(tmp_path, images)
    assert table.read_text().splitlines()[1:] == [
        'AOI_2_RIO_img7,1,"POLYGON ((10.25 0, 16.25 0, 16.25 6, 10.25 6, 10.25 0))",0.75'
    ]
    assert dict(report.counts) == {footprints.PART: 1, footprints.SMALL: 1}
    again = write_footprints(tmp_path / "again", images)[0]
    assert again.read_bytes() == table.read_bytes()


def test_a_model_without_buildings_and_images_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    cases = [scene(tmp_path / f"{kind}_AOI_1_RIO_img1.tif", buildings(1)) for kind in ("3band", "8band")]
    with pytest.raises(UserError, match="about the class building; the model has road, tree"):
        chosen_formats(MAPS, ["spacenet"], cases[:1], ("road", "tree"))
    with pytest.raises(UserError, match="two images"):
        chosen_formats(MAPS, ["spacenet"], cases, ("background", "building"))

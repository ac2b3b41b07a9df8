"""Where two files say that they lie, they lie on the same pixels; and all images have the bands that are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vistruct.data.checks.check import check
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.files.positions import apart, position

rasterio = pytest.importorskip("rasterio")

UTM17, UTM18 = "EPSG:32617", "EPSG:32618"


def raster(path: Path, *, east: float = 0.0, crs: str | None = UTM17, pixel: float = 10.0, bands: int = 1) -> Path:
    """20 x 30 pixels, moved so many metres east."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = rasterio.Affine(pixel, 0, 500000 + east, 0, -pixel, 4100000)
    values = np.random.default_rng(len(str(path))).integers(0, 2, (bands, 20, 30)).astype(np.uint8)
    settings = {"driver": "GTiff", "height": 20, "width": 30, "count": bands, "dtype": "uint8", "transform": place}
    with rasterio.open(path, "w", crs=crs, **settings) as file:
        file.write(values)
    return path


@pytest.mark.parametrize(
    ("how", "pixels"),
    [
        ({}, None),
        ({"east": 4.0}, None),
        ({"east": 6.0}, 0.6),
        ({"east": 120.0}, 12.0),
        ({"pixel": 11.0}, np.hypot(3, 2)),  # one tenth of 30 x 20, at the far corner
        ({"crs": None}, None),
        ({"crs": None, "east": 120.0}, 12.0),
    ],
)
def test_a_distance_is_that_of_the_corner_furthest_away(tmp_path: Path, how: dict, pixels: float | None) -> None:
    one, other = raster(tmp_path / "a.tif"), raster(tmp_path / "b.tif", **how)
    away = apart(position(one), position(other), (20, 30))
    assert (away is None) == (pixels is None)
    assert away is None or away.pixels == pytest.approx(pixels, abs=1e-6)


def test_another_zone_is_measured_on_the_ground(tmp_path: Path) -> None:
    from rasterio.warp import transform

    one, other = raster(tmp_path / "a.tif"), raster(tmp_path / "b.tif", crs=UTM18)
    away = apart(position(one), position(other), (20, 30))
    (x,), (y,) = transform(UTM18, UTM17, [500000], [4100000])
    assert away is not None
    assert away.pixels == pytest.approx(np.hypot(x - 500000, y - 4100000) / 10, rel=0.01)
    assert UTM18 in str(away)
    assert apart(position(one), None, (20, 30)) is None


@pytest.mark.parametrize("pair", [False, True])
def test_labels_and_second_images_elsewhere_stop_unless_the_coordinates_are_wrong(tmp_path: Path, pair: bool) -> None:
    folders = ("A", "B", "label") if pair else ("images", "masks")
    for folder in folders:
        raster(
            tmp_path / folder / "0.tif", east=120.0 * (folder in ("masks", "B")), bands=1 if folder[0] in "lm" else 3
        )
    with pytest.raises(UserError, match="lies elsewhere on the map") as caught:
        MapDataConfig(root=tmp_path).build()
    assert f"{folders[1]}/0.tif: 12.0 pixels away" in caught.value.where
    assert caught.value.fix.startswith("--coordinates ignored")
    assert any("lies elsewhere" in problem.what for problem in check(tmp_path).problems)
    assert len(MapDataConfig(root=tmp_path, coordinates="ignored").build()) == 1


def test_an_image_without_a_band_stops_before_anything_is_read(tmp_path: Path) -> None:
    for number, bands in enumerate((6, 6, 4)):
        raster(tmp_path / "images" / f"{number}.tif", bands=bands)
        raster(tmp_path / "masks" / f"{number}.tif")
    low = {"low": (0,), "high": (3000,)}
    for intake, what in ((Intake(bands=(6, 5), **low), "no band 6 in an image of 4"), (Intake(**low), "4 bands among")):
        with pytest.raises(UserError, match=what) as caught:
            MapDataConfig(root=tmp_path, intake=intake).build()
        assert caught.value.where.endswith("2.tif")
    MapDataConfig(root=tmp_path, intake=Intake(bands=(4, 3), **low)).build()

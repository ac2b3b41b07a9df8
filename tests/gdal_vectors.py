"""Vector files as GDAL reads them: the library that comes with rasterio, by its C interface."""

from __future__ import annotations

import ctypes
import glob
from ctypes import byref, c_char_p, c_double, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import pytest
import rasterio
import shapely

_VECTOR = 4  # GDAL_OF_VECTOR


def read_vectors(file: Path) -> tuple[str, list[tuple[Any, dict[str, Any]]]]:
    """Coordinate system of the only layer (EPSG:1, WKT, or "" for none), and its features: shapes with their values."""
    gdal = _gdal()
    opened = gdal.GDALOpenEx(str(file).encode(), _VECTOR, None, None, None)
    assert opened, f"GDAL does not open {file}"
    assert gdal.GDALDatasetGetLayerCount(opened) == 1
    layer = gdal.GDALDatasetGetLayer(opened, 0)
    system = gdal.OGR_L_GetSpatialRef(layer)
    crs = ""
    if system:
        text = c_char_p()
        gdal.OSRExportToWkt(system, byref(text))
        name, code = gdal.OSRGetAuthorityName(system, None), gdal.OSRGetAuthorityCode(system, None)
        crs = f"{name.decode()}:{code.decode()}" if name else (text.value or b"").decode()
    found = []
    while feature := gdal.OGR_L_GetNextFeature(layer):
        geometry = gdal.OGR_F_GetGeometryRef(feature)
        data = ctypes.create_string_buffer(gdal.OGR_G_WkbSize(geometry))
        gdal.OGR_G_ExportToWkb(geometry, 1, data)
        values: dict[str, Any] = {}
        for number in range(gdal.OGR_F_GetFieldCount(feature)):
            field = gdal.OGR_F_GetFieldDefnRef(feature, number)
            kind, name = gdal.OGR_Fld_GetType(field), gdal.OGR_Fld_GetNameRef(field).decode()
            text = gdal.OGR_F_GetFieldAsString(feature, number).decode()
            values[name] = {0: int, 12: int, 2: float}.get(kind, str)(text)
        found.append((shapely.from_wkb(bytes(data)), values))
    gdal.GDALClose(opened)
    return crs, found


def _gdal() -> Any:
    files = glob.glob(str(Path(rasterio.__file__).parents[1] / "rasterio.libs" / "libgdal*"))
    if not files:
        pytest.skip("rasterio brings no GDAL of its own here")
    gdal = ctypes.CDLL(files[0])
    for name, gives, takes in (
        ("GDALOpenEx", c_void_p, [c_char_p, c_int, c_void_p, c_void_p, c_void_p]),
        ("GDALDatasetGetLayerCount", c_int, [c_void_p]),
        ("GDALDatasetGetLayer", c_void_p, [c_void_p, c_int]),
        ("GDALClose", None, [c_void_p]),
        ("OGR_L_GetSpatialRef", c_void_p, [c_void_p]),
        ("OSRExportToWkt", c_int, [c_void_p, c_void_p]),
        ("OSRGetAuthorityName", c_char_p, [c_void_p, c_char_p]),
        ("OSRGetAuthorityCode", c_char_p, [c_void_p, c_char_p]),
        ("OGR_L_GetNextFeature", c_void_p, [c_void_p]),
        ("OGR_F_GetGeometryRef", c_void_p, [c_void_p]),
        ("OGR_G_WkbSize", c_size_t, [c_void_p]),
        ("OGR_G_ExportToWkb", c_int, [c_void_p, c_int, c_void_p]),
        ("OGR_F_GetFieldCount", c_int, [c_void_p]),
        ("OGR_F_GetFieldDefnRef", c_void_p, [c_void_p, c_int]),
        ("OGR_Fld_GetType", c_int, [c_void_p]),
        ("OGR_Fld_GetNameRef", c_char_p, [c_void_p]),
        ("OGR_F_GetFieldAsString", c_char_p, [c_void_p, c_int]),
        ("OGR_F_GetFieldAsDouble", c_double, [c_void_p, c_int]),
    ):
        function = getattr(gdal, name)  # kept by the library, unlike gdal[name]
        function.restype, function.argtypes = gives, takes
    gdal.GDALAllRegister()
    return gdal

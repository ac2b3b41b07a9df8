"""What was found as outlines on the map (`--format geojson`, `--format gpkg`): a file, with one layer, for each scene.

    geojson/port.geojson    for every GIS, and to read
    gpkg/port.gpkg          the same for large results
    spacenet/ ...           of buildings alone, to submit (see data/formats/maps/footprints.py)

Coordinates are those of the scene's own system, which the file names; each scene has its file, so that scenes of
several systems can be asked about together. Of a scene without coordinates they are pixels (y down), and it is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from vistruct.data.formats.maps.footprints import Footprints, check_images, write_footprints
from vistruct.errors import UserError
from vistruct.files.features import Feature, Layer, write_geojson, write_gpkg
from vistruct.files.geo import GeoProfile, geo_profile
from vistruct.files.raster_headers import driver_of, has_rasterio
from vistruct.inference.files import own_files
from vistruct.inference.kind import Asked, Done, EachFile, OneFile
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case
from vistruct.progress import notice

Features = Callable[[Model, Case, Any, Asked], Iterable[Feature]]  # of a prediction, in pixels of the scene


def on_map(case: Case) -> GeoProfile | None:
    """Where a scene (of a pair the second) lies on the map; None: nowhere, or rasterio is not there to say it."""
    if not case.files or not has_rasterio():
        return None
    try:
        return geo_profile(case.files[-1])
    except UserError:  # it cannot be read: looking at it will say so
        return None


def stem_of(name: str) -> str:
    """The name of a case without its ending."""
    return str(PurePosixPath(name).with_suffix(""))


def outline_formats(features: Features, columns: Mapping[str, type]) -> tuple[EachFile, EachFile]:
    """GeoJSON and GeoPackage of a kind of prediction.

    Args:
        columns: what is known of a feature, and its type; `image` comes to it.
    """
    columns = {**columns, "image": str}
    return (
        EachFile(
            name="geojson",
            folder="geojson",
            files=partial(own_files, ".geojson", stem_of),
            write=partial(_write, write_geojson, features, columns),
            check=partial(_check, "geojson"),
            settings=lambda asked: asked.choice,
        ),
        EachFile(
            name="gpkg",
            folder="gpkg",
            files=partial(own_files, ".gpkg", stem_of),
            write=partial(_write, write_gpkg, features, columns),
            check=partial(_check, "gpkg"),
            settings=lambda asked: asked.choice,
        ),
    )


def footprint_format(features: Features) -> OneFile:
    """The buildings of a kind of prediction as SpaceNet takes them: of a model that has a class of that name."""

    def check(cases: Sequence[Case], class_names: Sequence[str]) -> None:
        check_images([case.name for case in cases], Path("--format spacenet"))
        _building(class_names)
        _check("spacenet", cases, class_names)

    def write(model: Model, done: Sequence[Done], folder: Path) -> Path:
        building = _building(model.class_names)

        def of(one: Done) -> Iterator[Feature]:
            every = features(model, one.case, one.read(), Asked())
            return (feature for feature in every if feature.values["class"] == building)

        images = (Footprints(name=one.case.name, features=of(one), profile=on_map(one.case)) for one in done)
        table, report = write_footprints(folder, images)
        for line in report.lines():
            notice(f"spacenet: {line}")
        return table

    return OneFile(name="spacenet", file="spacenet", write=write, check=check)


def _building(class_names: Sequence[str]) -> str:
    """
    Raises:
        UserError: no class of buildings.
    """
    found = next((name for name in class_names if name.lower() in ("building", "buildings")), None)
    if found is None:
        what = f"SpaceNet is about the class building; the model has {', '.join(class_names)}"
        raise UserError(what, where="--format spacenet", fix="--format geojson has outlines of every class")
    return found


def _write(
    write: Callable[[Path, Iterable[Feature], Layer], None],
    features: Features,
    columns: Mapping[str, type],
    model: Model,
    case: Case,
    found: Any,
    file: Path,
    asked: Asked,
) -> None:
    layer = Layer(name=PurePosixPath(stem_of(case.name)).name, columns=columns, profile=on_map(case))
    every = features(model, case, found, asked)
    named = (Feature(polygons=one.polygons, values={**one.values, "image": case.name}) for one in every)
    write(file, named, layer)


def _check(format: str, cases: Sequence[Case], class_names: Sequence[str]) -> None:
    """Say how many scenes lie nowhere.

    Raises:
        UserError: scenes that may lie on the map, and no rasterio to say where.
    """
    if not has_rasterio():
        rasters = [case for case in cases if case.files and _is_raster(case.files[-1])]
        if rasters:
            what = "where a raster lies on the map is read by rasterio"
            raise UserError(what, where=f"--format {format}", fix='pip install "vistruct[geo]"')
    nowhere = [case.name for case in cases if on_map(case) is None]
    if nowhere:
        names = f"{nowhere[0]}{', ...' if len(nowhere) > 1 else ''}"
        what = f"{len(nowhere)} of {len(cases)} images have no coordinates ({names})"
        notice(f"{format}: {what}; their outlines are in pixels, y down")


def _is_raster(file: Path) -> bool:
    try:
        return driver_of(file) in ("GTiff", "JP2OpenJPEG", "HFA", "VRT")
    except UserError:
        return False

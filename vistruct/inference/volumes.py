"""Label volumes (`volumes`): maps slice by slice, written as NIfTI on the grid of the files that were given.

nifti/case.nii.gz       the label values of the training data, voxel by voxel where the file has them
dicomseg/case.dcm       of DICOM series, where it is asked for: a segmentation object with a segment a class
pictures/case.jpg       slices with their classes
volumes.csv             voxels, share and millilitres of every class in every volume
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vistruct.contracts import MapPrediction, VolumePrediction
from vistruct.data.formats.volumes.dicom import NO_IMAGE
from vistruct.data.formats.volumes.names import by_case, rest_of_label
from vistruct.data.formats.volumes.nifti import modality_names
from vistruct.data.formats.volumes.series import series_below
from vistruct.data.input import Slices
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.dicom_seg import write_segmentation
from vistruct.files.dicom_series import Series, series_in
from vistruct.files.volume_files import (
    is_volume,
    label_values,
    num_channels,
    open_volume,
    write_label_volume,
    write_volume,
)
from vistruct.files.volume_names import channel_path, file_of, is_volume_file, stem
from vistruct.inference.files import own_files, picture_format
from vistruct.inference.kind import Asked, EachFile, Kind, OneFile, Values
from vistruct.inference.maps import MAPS, counted, map_of, picture_of_map, tell_areas, view_areas, write_areas
from vistruct.inference.model import Model
from vistruct.inference.pixels import open_case, slices_of
from vistruct.inference.probabilities import by_class, space_for
from vistruct.inference.scenes import Case
from vistruct.inference.view import Frames
from vistruct.issues import IssueCounter
from vistruct.progress import notice, tracking

if TYPE_CHECKING:
    from PIL import Image

_VOLUMES = "volumes are .nii, .nii.gz, .nrrd, .mha, or a folder with a DICOM series"


def _look(model: Model, cases: Sequence[Case], asked: Asked) -> list[VolumePrediction | MapPrediction]:
    """A picture is looked at as one slice."""
    return [_found(model, case, asked) if case.files else map_of(model, case, asked) for case in cases]


def _found(model: Model, case: Case, asked: Asked) -> VolumePrediction:
    if case.fault is not None:
        raise case.fault
    volume = open_case(model, paths_of(case))
    label_map = np.zeros((volume.num_slices, *volume.size_hw), np.int16)
    probabilities = space_for((len(model.class_names), *label_map.shape), asked)
    with tracking(f"  {case.name}", done=0, total=volume.num_slices, quiet=asked.quiet) as show:
        slices = slices_of(model, volume, batch=asked.batch, show=lambda done: show(done, "slices"))
        for number, rows in enumerate(slices):
            label_map[number] = rows.label_map.numpy()
            if probabilities is not None:
                probabilities[:, number] = rows.probabilities.float().cpu().numpy()
    return VolumePrediction(
        id=case.name,
        image_id=case.name,
        label_map=torch.from_numpy(label_map),
        class_names=model.class_names,
        spacing_mm=volume.spacing,
        probabilities=None if probabilities is None else torch.from_numpy(probabilities),
    )


def paths_of(case: Case) -> tuple[Path, ...]:
    """Of a case, those of its modalities, which may be channels of one file."""
    return tuple(Path(one) for one in case.pictures if isinstance(one, str | Path))


def needs_reader(model: Model, cases: Sequence[Case], asked: Asked) -> None:
    """
    Raises:
        UserError: what reads volumes is not installed.
    """
    if importlib.util.find_spec("nibabel") is None:
        raise UserError("volumes need nibabel", where="nibabel", fix='pip install "vistruct[medical]"')


def _pack(case: Case, prediction: VolumePrediction) -> dict[str, Any]:
    millilitres = float(np.prod(prediction.spacing_mm)) / 1000
    return counted(prediction.label_map, len(prediction.class_names), millilitres)


def _unpack(model: Model, case: Case, values: Values, files: Mapping[str, Path]) -> VolumePrediction:
    volume, coding = open_volume(files["nifti"], shown(model).axis), coding_of(model)
    label_map = [coding.decode(np.ascontiguousarray(one), files["nifti"]) for one in label_values(volume)]
    return VolumePrediction(
        id=case.name,
        image_id=case.name,
        label_map=torch.from_numpy(np.stack(label_map)),
        class_names=model.class_names,
        spacing_mm=volume.grid.spacing,
    )


def shown(model: Model) -> Slices:
    """How volumes become images."""
    assert model.input.slices is not None  # else it would be asked for maps
    return model.input.slices


def coding_of(model: Model) -> Coding:
    """What the label values of volumes mean, as the training data had it."""
    return model.input.coding or Coding(classes=model.class_names, ignored=())


def volumes_at(model: Model, sources: Sequence[Path]) -> list[Case]:
    """Volumes, DICOM series, and all cases in folders, with the modalities that the model was trained on. A case that
    lacks one has its fault.

    Raises:
        UserError: nothing at a path, or nothing that is a volume.
    """
    wanted = shown(model).modalities
    cases: list[Case] = []
    files = [source for source in sources if source.is_file() and is_volume_file(source)]
    grouped = by_case(files, wanted=wanted)
    cases += [_case(images[""].name if "" in images else name, images, wanted) for name, images in grouped.items()]
    for source in (source for source in sources if source not in files):
        if not source.exists():
            raise UserError("no such volume or folder", where=source, fix="check the path")
        if is_volume(source):
            cases += [_of_series(one, source.name, source) for one in series_in(source)]
        elif source.is_file():
            raise UserError("no volume", where=source, fix=_VOLUMES)
        else:
            cases += _cases_in(source, wanted)
    names = [case.name for case in cases]
    return [case if names.count(case.name) == 1 else replace(case, name=str(case.files[0])) for case in cases]


def _of_series(path: Path, name: str, folder: Path) -> Case:
    """Called as its folder is, where it is the only one in it."""
    return Case(pictures=(path,), name=name if path == folder else f"{name}/{path.name}")


def _cases_in(folder: Path, wanted: Sequence[str]) -> list[Case]:
    from vistruct.data.formats import find_format
    from vistruct.data.formats.detect import matching
    from vistruct.data.formats.format import Ask

    formats = matching(folder, "volumes")
    if len(formats) > 1:
        what = f"several kinds of volumes are here: {', '.join(formats)}"
        raise UserError(what, where=folder, fix="name the folders of the images themselves, one after another")
    if formats == ["dicom"]:
        found, others = series_below(folder)
        if others:
            notice(f"{folder}: {len(others)} x {NO_IMAGE} ({others[0]}{', ...' if len(others) > 1 else ''})")
        return [_of_series(path, one.name, one.folder) for one in found for path in series_in(one.folder)]
    if formats:
        report, walk = IssueCounter(), find_format(formats[0], "volumes").walk
        assert walk is not None
        walked = walk(folder, Ask(modalities=tuple(wanted), missing="drop"), report, lambda error: None)  # of labels
        for line in report.lines():
            notice(f"{folder}: {line}")
        if walked.cases:
            return [_case(case.name, case.images, wanted) for case in walked.cases]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and is_volume_file(path))
    images = [file for file in files if rest_of_label(stem(file)) is None]
    if len(images) < len(files):
        notice(f"{folder}: {len(files) - len(images)} label volumes are skipped")
    if not images:
        raise UserError("no volumes in this folder", where=folder, fix=_VOLUMES)
    return [_case(file.relative_to(folder).as_posix(), {"": file}, wanted) for file in images]


def _case(name: str, images: Mapping[str, Path], wanted: Sequence[str]) -> Case:
    """A case with the modalities that are wanted, in their order; or with all it has, and what it lacks."""
    lacking = [one for one in wanted if one not in images]
    if not lacking:
        return Case(pictures=tuple(images[one] for one in wanted), name=name)
    if len(wanted) == len(images) == 1 and lacking == [""]:
        return Case(pictures=tuple(images.values()), name=name)
    if list(images) == [""]:
        channels = _channels(images[""], wanted)
        if channels:
            return Case(pictures=channels, name=name)
    has, others = (", ".join(repr(one) if one else "a single volume" for one in ones) for ones in (images, lacking))
    where = ", ".join(map(str, images.values()))
    fix = f"give the files of {', '.join(wanted)} together" if all(wanted) else "give one volume a case"
    fault = UserError(f"case {name} has {has}, and the model was trained on {others} too", where=where, fix=fix)
    return Case(pictures=tuple(images.values()), name=name, fault=fault)


def _channels(file: Path, wanted: Sequence[str]) -> tuple[Path, ...]:
    """Those of a file of four axes that are wanted: as the dataset.json beside it names them, by their numbers, or all
    where there are as many; (): it has none. The only volume of a file is what a model of one modality wants."""
    number = num_channels(file)
    names = modality_names(file.parent)
    if number == 1:
        return (file,) if len(wanted) == 1 else ()
    if set(wanted) <= set(names):
        return tuple(channel_path(file, names.index(one)) for one in wanted)
    if all(one.isdecimal() for one in wanted):
        return tuple(channel_path(file, int(one)) for one in wanted)
    return tuple(channel_path(file, one) for one in range(number)) if number == len(wanted) else ()


def plain_name(name: str) -> str:
    """The name of a case without the ending of its file."""
    plain = name.strip("/")
    return str(Path(plain).with_name(stem(Path(plain))))


def _write_nifti(model: Model, case: Case, found: VolumePrediction, file: Path, asked: Asked) -> None:
    write_label_volume(file, found.label_map.numpy(), paths_of(case)[0], coding_of(model), shown(model).axis)


def frames_of(model: Model, case: Case) -> Frames:
    """The slices of a case, to look at."""
    if case.fault is not None:
        raise case.fault
    volume = open_case(model, paths_of(case))

    def read(number: int) -> list[Tensor]:
        image = volume.slice(number)
        return [image[image.shape[0] // 2][None]]  # the slice itself, where its neighbours are channels too

    return Frames(size_hw=volume.size_hw, count=volume.num_slices, read=read)


def _check_series(cases: Sequence[Case], class_names: Sequence[str]) -> None:
    for case in cases:
        if not all(file_of(path).is_dir() for path in paths_of(case)):
            what = f"case {case.name} is no DICOM series, to whose files a DICOM SEG would refer"
            raise UserError(what, where=", ".join(map(str, paths_of(case))), fix="--format nifti")


def _write_dicomseg(model: Model, case: Case, found: VolumePrediction, file: Path, asked: Asked) -> None:
    series = open_volume(paths_of(case)[0], shown(model).axis)
    assert isinstance(series, Series)  # see _check_series
    write_segmentation(file, found.label_map.numpy(), series, found.class_names)


def _write_probability(
    number: int, model: Model, case: Case, found: VolumePrediction, file: Path, asked: Asked
) -> None:
    assert found.probabilities is not None  # see `EachFile.is_kept`
    write_volume(file, found.probabilities[number].numpy(), open_volume(paths_of(case)[0], shown(model).axis))


def _picture(model: Model, case: Case, found: Any, asked: Asked) -> Image.Image:
    if not case.files:  # it was looked at as one slice
        return picture_of_map(model, case, found, asked)
    from vistruct.pictures.volume import draw_volume

    volume = open_case(model, paths_of(case))
    numbers = _worth_drawing(found.label_map.numpy())
    slices, labels = [volume.slice(number) for number in numbers], [found.label_map[number] for number in numbers]
    return draw_volume(slices, labels, model.class_names, model.palette, numbers=numbers)


def _worth_drawing(label_maps: np.ndarray, most: int = 12) -> list[int]:
    """Slices with more than one class, evenly spaced; any, where there are none: not all are read again to be drawn."""
    numbers = [n for n, one in enumerate(label_maps) if (one != one.flat[0]).any()] or list(range(len(label_maps)))
    picked = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().astype(int)
    return [numbers[place] for place in picked]


VOLUMES = Kind(
    name="volumes",
    prediction=VolumePrediction,
    look=_look,
    pack=_pack,
    unpack=_unpack,
    tell=partial(tell_areas, "volumes"),
    draw=MAPS.draw,  # of samples, which are slices
    picture=_picture,
    frames=frames_of,
    view=partial(view_areas, "voxels", "ml"),
    cases=volumes_at,
    check=needs_reader,
    what="volumes",
    windows="shown",
    probabilities=partial(by_class, partial(own_files, ".nii.gz", plain_name), _write_probability),
    seen_in=MAPS.seen_in,
    metrics=lambda task: ("volumes_overlap",),
    formats=(
        EachFile(
            name="nifti",
            folder="nifti",
            files=partial(own_files, ".nii.gz", plain_name),
            write=_write_nifti,
            use="always",
            is_kept=True,
        ),
        EachFile(
            name="dicomseg",
            folder="dicomseg",
            files=partial(own_files, ".dcm", plain_name),
            write=_write_dicomseg,
            check=_check_series,
        ),
        picture_format(_picture),
        OneFile(name="volumes", file="volumes.csv", write=partial(write_areas, "volume", "voxels", "ml"), use="always"),
    ),
)

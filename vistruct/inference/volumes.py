"""Label volumes (`volumes`): maps slice by slice, written as NIfTI on the grid of the files that were given.

nifti/case.nii.gz       the label values of the training data, voxel by voxel where the file has them
pictures/case.jpg       slices with their classes
volumes.csv             voxels, share and millilitres of every class in every volume
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vistruct.contracts import MapPrediction, VolumePrediction
from vistruct.data.input import Slices
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.nifti import is_nifti, stem
from vistruct.files.volume_files import is_volume, label_values, open_volume, write_label_volume
from vistruct.inference.files import flat_files, own_files
from vistruct.inference.kind import Asked, EachFile, Kind, OneFile, Values
from vistruct.inference.maps import MAPS, counted, map_of, tell_areas, write_areas
from vistruct.inference.model import Model
from vistruct.inference.pixels import open_case, slices_of
from vistruct.inference.scenes import Case
from vistruct.progress import notice, tracking


def _look(model: Model, cases: Sequence[Case], asked: Asked) -> list[VolumePrediction | MapPrediction]:
    """A picture is looked at as one slice."""
    return [_found(model, case, asked) if case.files else map_of(model, case, asked) for case in cases]


def _found(model: Model, case: Case, asked: Asked) -> VolumePrediction:
    volume = open_case(model, case.files)
    label_map = np.zeros((volume.num_slices, *volume.size_hw), np.int16)
    with tracking(f"  {case.name}", done=0, total=volume.num_slices, quiet=asked.quiet) as show:
        slices = slices_of(model, volume, batch=asked.batch, show=lambda done: show(done, "slices"))
        for number, rows in enumerate(slices):
            label_map[number] = rows.label_map.numpy()
    return VolumePrediction(
        id=case.name,
        image_id=case.name,
        label_map=torch.from_numpy(label_map),
        class_names=model.class_names,
        spacing_mm=volume.spacing,
    )


def _check(model: Model, cases: Sequence[Case], asked: Asked) -> None:
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
    """Volumes, DICOM series, and all cases in folders, with the modalities that the model was trained on.

    Raises:
        UserError: nothing at a path, or nothing that is a volume.
    """
    cases: list[Case] = []
    for source in sources:
        if not source.exists():
            raise UserError("no such volume or folder", where=source, fix="check the path")
        if is_volume(source):
            cases.append(Case(pictures=(source,), name=source.name))
        elif source.is_file():
            raise UserError("no volume", where=source, fix="volumes are .nii, .nii.gz, or a folder with a DICOM series")
        else:
            cases += _cases_in(source, model)
    names = [case.name for case in cases]
    return [
        case if names.count(case.name) == 1 else Case(pictures=case.files, name=str(case.files[0])) for case in cases
    ]


def _cases_in(folder: Path, model: Model) -> list[Case]:
    from vistruct.data.formats.detect import matching
    from vistruct.data.formats.read import read

    formats = matching(folder, "volumes")
    if formats:
        walked, report = read(folder, "volumes", format=formats[0])
        found = walked.cases
        for line in report.lines():
            notice(f"{folder}: {line}")
        wanted = shown(model).modalities
        lacking = [case.name for case in found if not set(wanted) <= set(case.images)]
        if lacking:
            what = f"{len(lacking)} cases without all of {', '.join(wanted)}"
            raise UserError(what, where=f"{folder}: {', '.join(lacking[:3])}", fix="add them, or name the others")
        return [Case(pictures=tuple(case.images[name] for name in wanted), name=case.name) for case in found]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and is_nifti(path))
    if not files:
        what = "no volumes in this folder"
        raise UserError(what, where=folder, fix="volumes are .nii, .nii.gz, or a folder with a DICOM series")
    return [Case(pictures=(file,), name=file.relative_to(folder).as_posix()) for file in files]


def _stem(name: str) -> str:
    plain = name.strip("/")
    return str(Path(plain).with_name(stem(Path(plain))))


def _write_nifti(model: Model, case: Case, found: VolumePrediction, file: Path, asked: Asked) -> None:
    write_label_volume(file, found.label_map.numpy(), case.files[0], coding_of(model), shown(model).axis)


def _write_picture(model: Model, case: Case, found: VolumePrediction, file: Path, asked: Asked) -> None:
    from vistruct.pictures.volume import draw_volume

    volume = open_case(model, case.files)
    numbers = _worth_drawing(found.label_map.numpy())
    slices, labels = [volume.slice(number) for number in numbers], [found.label_map[number] for number in numbers]
    draw_volume(slices, labels, model.class_names, model.palette, numbers=numbers).save(file, quality=90)


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
    cases=volumes_at,
    check=_check,
    what="volumes",
    windows="shown",
    seen_in=MAPS.seen_in,
    metrics=lambda task: ("volumes_overlap",),
    formats=(
        EachFile(
            name="nifti",
            folder="nifti",
            files=partial(own_files, ".nii.gz", _stem),
            write=_write_nifti,
            use="always",
            is_kept=True,
        ),
        EachFile(name="pictures", folder="pictures", files=flat_files, write=_write_picture, use="always"),
        OneFile(name="volumes", file="volumes.csv", write=partial(write_areas, "volume", "voxels", "ml"), use="always"),
    ),
)

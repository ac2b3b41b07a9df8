"""A model of slices asked about volumes: NIfTI label volumes on the grid of the files, drawn and measured.

nifti/case.nii.gz       the label values of the training data, voxel by voxel where the file has them
pictures/case.jpg       slices with their classes
volumes.csv             voxels, share and millilitres of every class in every volume
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vistruct.data.formats.detect import matching
from vistruct.data.formats.read import read
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.nifti import is_nifti, stem
from vistruct.files.volume_files import VolumeFile, is_volume, write_label_volume
from vistruct.inference.cache import Parts
from vistruct.inference.files import picture_files, settings
from vistruct.inference.maps import Area, palette_of, write_areas
from vistruct.inference.model import Model
from vistruct.inference.pixels import open_case, slices_of
from vistruct.inference.scenes import Case
from vistruct.progress import notice, tracking


def predict_volumes(
    model: Model, cases: Sequence[Case], target: Path, *, batch: int = 8
) -> tuple[list[Area], dict[str, Path]]:
    """Look at every volume that is not done yet; what was done stays done.

    Args:
        batch: slices (or windows of them) in one pass.

    Returns:
        The areas, `count` in voxels and `measured` in millilitres; and the folder and csv that were written.

    Raises:
        UserError: a volume that cannot be read; those before it are done.
    """
    if importlib.util.find_spec("nibabel") is None:
        raise UserError("writing volumes needs nibabel", where="nibabel", fix='pip install "vistruct[medical]"')
    coding, names = coding_of(model), model.task.class_names
    parts = Parts(target / "parts", settings(model), model.class_names)
    if parts.num_removed:
        notice(f"{target}: another model, other windows or other views than last time; all are looked at again")
    pictures = picture_files([case.name for case in cases], target)
    files = {case.name: target / "nifti" / f"{_without_ending(case.name)}.nii.gz" for case in cases}
    done = [
        parts.has(case.name, *case.files) and files[case.name].is_file() and pictures[case.name].is_file()
        for case in cases
    ]
    if any(done):
        notice(f"{target}: {sum(done)} of {len(cases)} volumes were done before")
    for case, is_done in zip(cases, done, strict=True):
        if is_done:
            continue
        volume = open_case(model, case.files)
        label_maps = np.zeros((volume.num_slices, *volume.size_hw), np.int16)
        with tracking(f"predicting {case.name}", done=0, total=volume.num_slices) as show:
            for number, rows in enumerate(slices_of(model, volume, batch=batch, show=lambda n: show(n, "slices"))):
                label_maps[number] = rows.label_map.numpy()
        write_label_volume(files[case.name], label_maps, case.files[0], coding, volume.axis)
        _draw(pictures[case.name], volume, label_maps, model)
        values = {"voxels": np.bincount(label_maps.ravel(), minlength=len(names)).tolist()}
        values["voxel_ml"] = float(np.prod(volume.spacing)) / 1000  # cubic millimetres in a millilitre
        parts.write_values(case.name, case.files, values)
    areas = [area for case in cases for area in _areas(case.name, parts.read_values(case.name), names)]
    table = write_areas(target / "volumes.csv", areas, "volume", "voxels", "ml")
    return areas, {"nifti": target / "nifti", "volumes": table}


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
            cases.append(Case(files=(source,), name=source.name))
        elif source.is_file():
            raise UserError("no volume", where=source, fix="volumes are .nii, .nii.gz, or a folder with a DICOM series")
        else:
            cases += _cases_in(source, model)
    names = [case.name for case in cases]
    return [case if names.count(case.name) == 1 else Case(files=case.files, name=str(case.files[0])) for case in cases]


def coding_of(model: Model) -> Coding:
    """What the label values of volumes mean, as the training data had it."""
    return model.input.coding or Coding(classes=model.task.class_names, ignored=())


def _cases_in(folder: Path, model: Model) -> list[Case]:
    formats = matching(folder, "volumes")
    if formats:
        walked, report = read(folder, "volumes", format=formats[0])
        found = walked.cases
        for line in report.lines():
            notice(f"{folder}: {line}")
        slices = model.input.slices
        assert slices is not None
        wanted = slices.modalities
        lacking = [case.name for case in found if not set(wanted) <= set(case.images)]
        if lacking:
            what = f"{len(lacking)} cases without all of {', '.join(wanted)}"
            raise UserError(what, where=f"{folder}: {', '.join(lacking[:3])}", fix="add them, or name the others")
        return [Case(files=tuple(case.images[name] for name in wanted), name=case.name) for case in found]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and is_nifti(path))
    if not files:
        what = "no volumes in this folder"
        raise UserError(what, where=folder, fix="volumes are .nii, .nii.gz, or a folder with a DICOM series")
    return [Case(files=(file,), name=file.relative_to(folder).as_posix()) for file in files]


def _without_ending(name: str) -> str:
    plain = name.strip("/")
    return str(Path(plain).with_name(stem(Path(plain))))


def _draw(file: Path, volume: VolumeFile, label_maps: np.ndarray, model: Model) -> None:
    from vistruct.pictures.volume import draw_volume

    shown = _worth_drawing(label_maps)
    slices = [volume.slice(number) for number in shown]
    labels = [torch.from_numpy(label_maps[number]) for number in shown]
    picture = draw_volume(slices, labels, model.task.class_names, palette_of(model), numbers=shown)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, quality=90)


def _worth_drawing(label_maps: np.ndarray, most: int = 12) -> list[int]:
    """Slices with more than one class, evenly spaced; any, where there are none: not all are read again to be drawn."""
    numbers = [n for n, one in enumerate(label_maps) if (one != one.flat[0]).any()] or list(range(len(label_maps)))
    picked = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().astype(int)
    return [numbers[place] for place in picked]


def _areas(name: str, values: dict[str, Any], class_names: Sequence[str]) -> list[Area]:
    total = sum(values["voxels"])
    return [
        Area(name=name, class_name=one, count=count, share=count / total, measured=count * values["voxel_ml"])
        for one, count in zip(class_names, values["voxels"], strict=True)
    ]

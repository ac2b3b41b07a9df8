"""Volumes as stacks of slices, and label maps back into a volume on the grid that they came from.

A slice of a plain `.nii` is read alone. Of a packed one (`.nii.gz`, DICOM) a slice costs the whole volume, which is
unpacked once: see `volume_stacks.py`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistruct.errors import UserError
from vistruct.files.class_files import ClassFiles, Painting, class_files
from vistruct.files.coding import Coding
from vistruct.files.dicom_series import Series, is_series, open_series
from vistruct.files.intake import FROM_TAGS, Intake
from vistruct.files.metaimage import open_metaimage
from vistruct.files.nifti import Nifti, open_nifti
from vistruct.files.nrrd import Nrrd, open_nrrd
from vistruct.files.volume_grid import Axis
from vistruct.files.volume_names import METAIMAGE, channel_path, file_of, is_nifti, is_volume_file
from vistruct.files.volume_stacks import copied, recent, stack_of, stamp_of

Volume = Nifti | Nrrd | Series


def open_volume(path: Path, axis: Axis = "axial") -> Volume:
    """The header of a NIfTI file, or of a folder with a DICOM series.

    Raises:
        UserError: see `open_nifti` and `open_series`; or it is neither.
    """
    path = Path(path)
    if not file_of(path).is_dir() and not is_volume_file(file_of(path)):
        what = "no volume: neither .nii, .nii.gz, .nrrd or .mha, nor a folder with a DICOM series"
        raise UserError(what, where=path, fix="check the path, or convert it to NIfTI")
    return _opened(path, stamp_of(path), axis)


@functools.lru_cache(maxsize=1024)
def _opened(path: Path, stamp: tuple[int, int], axis: Axis) -> Volume:
    """Headers alone; of a series as many as it has files, which would cost more than the slice that is asked for."""
    if file_of(path).is_dir():
        return open_series(path, axis)
    if is_nifti(file_of(path)):
        return open_nifti(path, axis)
    return open_metaimage(path, axis) if path.name.endswith(METAIMAGE) else open_nrrd(path, axis)


def is_volume(path: Path) -> bool:
    """Whether a path names a NIfTI file or a folder with DICOM files."""
    return is_volume_file(path) if path.is_file() else is_series(path)


def num_channels(path: Path) -> int:
    """Volumes in a file: 1, but for NIfTI of four axes.

    Raises:
        UserError: it cannot be read.
    """
    volume = open_volume(channel_path(path, 0)) if is_nifti(path) else None
    return max(volume.image.shape[3:], default=1) if isinstance(volume, Nifti) else 1


def check_range(values: np.ndarray, intake: Intake, path: Path) -> None:
    """
    Raises:
        UserError: values that are no 8-bit ones, and an intake that says nothing of them.
    """
    if values.dtype != np.uint8 and intake.pixels == "uint8" and not intake.has_range:
        what = f"values of type {values.dtype}, and nothing says which become black and white"
        fix = "--window abdomen (or another) for CT, --percentiles 0.5,99.5 for MR"
        raise UserError(what, where=path, fix=fix)


@dataclass(frozen=True, eq=False)
class VolumeFile:
    """One case: a volume, or several of one grid (modalities), as slices."""

    parts: tuple[Volume, ...]
    axis: Axis
    neighbours: int
    intake: Intake
    cache: Path | None

    @classmethod
    def open(
        cls,
        path: Path | Sequence[Path],
        *,
        axis: Axis = "axial",
        neighbours: int = 0,
        intake: Intake | None = None,
        cache: Path | None = None,
    ) -> VolumeFile:
        """Read the headers.

        Args:
            path: of a volume; or of several modalities, the channels in order.
            neighbours: slices on either side that become channels too; beyond the ends the last slice again.
            intake: what becomes of the values; None: volumes of 8 bits.
            cache: folder for unpacked copies; None: they are kept in memory alone.

        Raises:
            UserError: a file that is no volume; modalities of different grids; values without a range.
        """
        paths = (path,) if isinstance(path, (str, os.PathLike)) else tuple(path)
        parts = tuple(open_volume(Path(one), axis) for one in paths)
        for part in parts[1:]:
            parts[0].grid.check_same(part.grid, f"{parts[0].path}, {part.path}", "modalities")
        intake = intake or Intake()
        if intake.bands is not None:
            what = "volumes have modalities, and no bands"
            raise UserError(what, where="intake.bands", fix="choose --modalities")
        return cls(parts, axis, neighbours, intake, cache)

    @property
    def num_slices(self) -> int:
        return self.parts[0].grid.num_slices

    @property
    def size_hw(self) -> tuple[int, int]:
        """Of a slice, pixels."""
        return self.parts[0].grid.size_hw

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from slice to slice, row to row and column to column."""
        return self.parts[0].grid.spacing

    def slice(self, number: int) -> Tensor:
        """number[C, H, W] of the slices number - neighbours to number + neighbours, each modality in turn.

        Raises:
            UserError: no such slice; a file that cannot be read; several channels that should become another number.
        """
        if not 0 <= number < self.num_slices:
            what = f"slice {number} of a volume of {self.num_slices}"
            raise UserError(what, where=self.parts[0].path, fix="the volume changed meanwhile: start again")
        around = range(number - self.neighbours, number + self.neighbours + 1)
        wanted = [min(max(one, 0), self.num_slices - 1) for one in around]
        planes = [self._plane(part, one) for one in wanted for part in range(len(self.parts))]
        return self.intake.repeated(torch.from_numpy(np.stack(planes)))

    def _plane(self, part: int, number: int) -> np.ndarray:
        """number[H, W]."""
        volume = self.parts[part]
        if volume.is_packed:
            return stack_of(volume, self.axis, self._intake_key(part), self.cache, lambda: self._taken(part))[number]
        return self._scaled(volume.slice_values(number)[None], part, self._ranges(part))[0]

    def _taken(self, part: int) -> np.ndarray:
        """number[S, H, W], slice by slice: the whole in floats would be two or four times as large."""
        values = self.parts[part].values()
        ranges = self._ranges(part, values)
        return np.stack([self._scaled(plane[None], part, ranges)[0] for plane in values])

    def _scaled(self, values: np.ndarray, part: int, ranges: Any) -> np.ndarray:
        check_range(values, self.intake, self.parts[part].path)
        return self.intake.scaled(values, ranges)

    def _ranges(self, part: int, values: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """float64[1] lowest and highest, of one modality."""
        if not self.intake.has_range:
            return None
        volume = self.parts[part]
        if self.intake.window == FROM_TAGS:
            window = volume.tag_window if isinstance(volume, Series) else None
            if window is None:
                fix = "name a window: --window abdomen"
                raise UserError("no window in the tags of this volume", where=volume.path, fix=fix)
            return np.array(window[:1]), np.array(window[1:])
        if self.intake.percentiles is not None:
            percentiles, background = self.intake.percentiles, self.intake.background
            if values is not None:
                return Intake(percentiles=percentiles, background=background).ranges(values[None])
            return _percentiles(os.fspath(volume.path), stamp_of(volume.path), percentiles, background)
        low, high = self.intake.ranges(np.empty((len(self.parts), 0)))
        return low[part : part + 1], high[part : part + 1]

    def _intake_key(self, part: int) -> str:
        one = self.intake.model_copy(update={"channels": None})
        return f"{one.model_dump_json()} {part}"


def open_labels(
    path: Path, axis: Axis = "axial", like: Path | None = None, painting: Painting | None = None
) -> Volume | ClassFiles:
    """A label volume; where its header is not believed, on the grid of the image that it is like.

    Args:
        painting: of a folder with a file for each class.

    Raises:
        UserError: see `open_volume`; files of classes that lie elsewhere than the others.
    """
    if painting is not None:
        return _open_classes(path, axis, like, painting)
    volume = open_volume(path, axis)
    return volume if like is None else replace(volume, grid=open_volume(like, axis).grid)


def _open_classes(path: Path, axis: Axis, like: Path | None, painting: Painting) -> ClassFiles:
    files = class_files(path)
    opened: list[tuple[str, int, Any]] = [
        (name, value, open_volume(files[name], axis)) for name, value in painting.values if name in files
    ]
    first = opened[0][2] if opened else open_volume(next(iter(files.values())), axis)
    for _, _, one in opened if like is None else ():
        first.grid.check_same(one.grid, f"{first.path}, {one.path}", "files of classes")
    if like is not None:
        grid = open_volume(like, axis).grid
        for _, _, one in opened:
            if one.grid.shape != grid.shape:
                what = f"labels of {one.grid.shape} voxels for an image of {grid.shape}"
                raise UserError(what, where=f"{one.path}, {like}", fix="bring both to the same grid")
        opened = [(name, value, replace(one, grid=grid)) for name, value, one in opened]
        return ClassFiles(path, grid, tuple(opened), painting.base)
    return ClassFiles(path, first.grid, tuple(opened), painting.base)


def label_slice(
    path: Path,
    number: int,
    axis: Axis = "axial",
    cache: Path | None = None,
    like: Path | None = None,
    painting: Painting | None = None,
) -> np.ndarray:
    """integer[H, W], the raw label values of one slice.

    Args:
        like: the image, if the labels lie as its array does and not as their header says.
        painting: of a folder with a file for each class.

    Raises:
        UserError: values that are no whole numbers; no such slice; a file that cannot be read.
    """
    volume = open_labels(path, axis, like, painting)
    if not 0 <= number < volume.grid.num_slices:
        what = f"slice {number} of labels with {volume.grid.num_slices}"
        raise UserError(what, where=path, fix="bring image and labels to the same grid")
    if volume.is_packed or isinstance(volume, ClassFiles):
        purpose = "labels" if like is None else f"labels like {volume.grid.axes} {volume.grid.is_backwards}"
        purpose += "" if painting is None else f" {painting}"
        return stack_of(volume, axis, purpose, cache, lambda: label_values(volume))[number]
    return _whole_numbers(volume.slice_values(number), path)


def filled_slices(
    path: Path,
    background: Sequence[int],
    axis: Axis = "axial",
    cache: Path | None = None,
    like: Path | None = None,
    painting: Painting | None = None,
) -> np.ndarray:
    """bool[S]: whether a slice has a label value that is none of `background`; found once, and kept in `cache`."""

    volume = open_labels(path, axis, like, painting)

    def find() -> np.ndarray:
        return np.array([not np.isin(plane, background).all() for plane in label_values(volume)])

    if cache is None:
        return find()
    key = (
        os.fspath(path.absolute()),
        *map(str, stamp_of(path)),
        axis,
        f"filled {sorted(background)} {like} {painting or ''}",
    )
    return np.array(copied(key, cache, find))


def label_values(volume: Volume | ClassFiles) -> np.ndarray:
    """integer[S, H, W], all raw label values, in the smallest type that holds them."""
    return _whole_numbers(volume.values(), volume.path)


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            odd = values[~np.isfinite(values) | (values != np.rint(values))][0]
            fix = "labels are whole numbers: resample them with nearest neighbour, not linearly"
            raise UserError(f"a label of {odd:g}", where=path, fix=fix)
    elif values.dtype.itemsize == 1:
        return values
    least = np.result_type(np.min_scalar_type(int(values.min())), np.min_scalar_type(int(values.max())))
    return values.astype(least)


def write_label_volume(
    out: Path, label_maps: Iterable[np.ndarray], like: Path, coding: Coding, axis: Axis = "axial"
) -> None:
    """Write label maps as a NIfTI volume on the grid of the file that they were predicted from.

    Orientation, affine, units and description are those of `like`; so is the type of the voxels where it is a whole
    number that can hold every label value, else the smallest that can. A DICOM series gives its geometry.

    Args:
        out: `.nii` or `.nii.gz`; its folder is made.
        label_maps: int16[H, W] classes of every slice, in the order that `VolumeFile` has them.

    Raises:
        UserError: another number of slices, or of another size; a pixel of no class where the coding has no value
            for it; an ending that is no NIfTI's.
    """
    volume = open_volume(like, axis)
    planes = [coding.encode(label_map) for label_map in label_maps]
    if len(planes) != volume.grid.num_slices or any(plane.shape != volume.grid.size_hw for plane in planes):
        sizes = " and ".join(sorted({" x ".join(map(str, plane.shape)) for plane in planes})) or "nothing"
        what = f"{len(planes)} slices of {sizes} for a volume of {volume.grid.stack_shape}"
        raise UserError(what, where=out, fix="predict every slice of this file")
    stack = np.stack(planes)
    values = coding.values if coding.values is not None else range(len(coding.classes))
    largest, smallest = max(*values, *coding.ignored[:1], 0), min(*values, 0)
    type_ = np.result_type(stack.dtype, np.min_scalar_type(largest))
    if isinstance(volume, Nifti):
        own = volume.image.get_data_dtype()
        holds = own.kind in "iu" and np.iinfo(own).min <= smallest and largest <= np.iinfo(own).max
        type_ = own if holds else type_
    write_volume(out, stack, volume, type_)


def write_volume(out: Path, stack: np.ndarray, like: Volume, type_: Any = np.float32) -> None:
    """Write number[S, H, W] as NIfTI on the grid of a volume, in voxels of a type.

    Raises:
        UserError: an ending that is no NIfTI's.
    """
    import nibabel

    if not is_nifti(out):
        raise UserError("volumes are written as .nii or .nii.gz", where=out, fix=f"{out.stem}.nii.gz")
    array = np.asarray(like.grid.unstacked(stack), type_)
    if isinstance(like, Nifti):
        header = like.image.header.copy()
        header.set_slope_inter(1, 0)
        header.set_data_dtype(type_)
        header["cal_min"] = header["cal_max"] = 0  # of the image's own values
        whole = like.image.shape
        shape = whole if max(whole[3:], default=1) == 1 else whole[:3]
        image = type(like.image)(array.reshape(shape), like.image.affine, header)  # keeps sform and qform as they are
    else:
        image = nibabel.Nifti1Image(array, like.grid.affine)
        image.header.set_xyzt_units("mm")
    out.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, out)


def clear_volumes() -> None:
    """Forget every volume of this process."""
    recent.clear()
    _opened.cache_clear()
    _percentiles.cache_clear()


@functools.lru_cache(maxsize=4096)
def _percentiles(
    path: str, stamp: tuple[int, int], percentiles: tuple[float, float], background: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of a whole plain file; `stamp` makes a changed file another one."""
    values = open_volume(Path(path)).values()
    return Intake(percentiles=percentiles, background=background).ranges(values[None])

"""One NIfTI file: its header checked, its voxels by the slice or all at once.

nibabel reads the format; what is added are the checks that it leaves out: it gives a file without any affine one that
puts the middle of the volume at the origin, and takes a spacing of zero for one.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.errors import UserError
from vistruct.files.images import UnreadableImage
from vistruct.files.volume_grid import Axis, Grid, grid
from vistruct.files.volume_names import file_and_channel


@dataclass(frozen=True, eq=False)
class Nifti:
    """An opened file, or one channel of it."""

    path: Path  # of the channel, where it is one
    grid: Grid
    image: Any  # nibabel's
    beyond: tuple[int, ...] = ()  # where on the axes after the third

    @property
    def is_packed(self) -> bool:
        """Whether a slice costs the whole volume."""
        return str(self.image.get_filename()).endswith(".gz")

    def values(self) -> np.ndarray:
        """number[S, H, W], slope and intercept of the header applied.

        Raises:
            UnreadableImage: damaged or cut short.
        """
        return self.grid.stacked(self._read((slice(None),) * 3 + self.beyond))

    def slice_values(self, number: int) -> np.ndarray:
        """number[H, W] of one slice; of a file that is not packed, nothing else is read."""
        return self.grid.upright(self._read(self.grid.plane(number) + self.beyond))

    def _read(self, place: Any) -> np.ndarray:
        try:
            return np.asanyarray(self.image.dataobj[place])
        except FileNotFoundError:
            raise UnreadableImage("no such volume", where=self.path, fix="check the path") from None
        except (OSError, EOFError, ValueError, zlib.error) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UnreadableImage(
                f"cannot read the voxels: {reason}", where=self.path, fix="copy or download it again"
            ) from error


def open_nifti(path: Path, axis: Axis = "axial") -> Nifti:
    """Read and check a header; no voxel is read.

    Args:
        path: of a file, or of a channel of one of four axes (see `volume_names.py`).

    Raises:
        UnreadableImage: no such file, or no NIfTI.
        UserError: no affine, a spacing of zero, more or fewer than three axes, no such channel; nibabel is missing.
    """
    named, (path, channel) = path, file_and_channel(Path(path))
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError
    except ImportError:
        fix = 'pip install "vistruct[medical]"'
        raise UserError("reading NIfTI needs nibabel, which is not installed", where=path, fix=fix) from None
    try:
        image: Any = nibabel.load(path)
    except FileNotFoundError:
        raise UnreadableImage("no such volume", where=path, fix="check the path") from None
    except (ImageFileError, HeaderDataError) as error:
        reason = str(error).splitlines()[0]
        raise UnreadableImage(f"no NIfTI: {reason}", where=path, fix="copy or download it again") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableImage(f"cannot read the header: {error}", where=path, fix="download it again") from error
    header = image.header
    if not isinstance(header, nibabel.Nifti1Header):
        raise UnreadableImage("no NIfTI, but another format", where=path, fix="convert it to .nii.gz")
    if image.get_data_dtype().fields is not None or image.get_data_dtype().kind not in "iuf":
        what = f"voxels of type {image.get_data_dtype()} are no single numbers"
        raise UserError(what, where=path, fix="save one number a voxel")
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        what = "the header does not say how the volume lies in the patient (sform_code and qform_code are 0)"
        raise UserError(what, where=path, fix="write an affine into it, with the tool that made the file")
    spacing = _written_spacing(path, type(header))
    if int(header["qform_code"]) > 0 and not (np.isfinite(spacing).all() and (spacing != 0).all()):
        what = f"the header gives a spacing of {' x '.join(f'{side:g}' for side in spacing)} mm"
        raise UserError(what, where=path, fix="mend the header (pixdim)")
    shape = image.shape
    beyond = shape[3:]  # all of one, as some tools write a single time step; or one of the channels
    if channel is not None or all(side == 1 for side in beyond):
        number = max(beyond, default=1)
        if channel is not None and (channel >= number or sum(side > 1 for side in beyond) > 1):
            what = f"channel {channel} of an array of {' x '.join(map(str, shape))}"
            raise UserError(what, where=path, fix="modalities in one file lie along a fourth axis: mend dataset.json")
        shape, beyond = shape[:3], tuple((channel or 0) if side > 1 else 0 for side in beyond)
    return Nifti(Path(named), grid(shape, image.affine, axis, path), image, beyond)


def _written_spacing(path: Path, kind: Any) -> np.ndarray:
    """float64[3], millimetres, as the header has them: nibabel's loading mends them without a word."""
    from nibabel.openers import ImageOpener

    with ImageOpener(str(path)) as stream:
        return np.asarray(kind.from_fileobj(stream, check=False)["pixdim"][1:4], np.float64)

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

ENDINGS = (".nii", ".nii.gz")


def is_nifti(path: Path) -> bool:
    """By its name; files that a system hides beside the real ones are none."""
    return path.name.endswith(ENDINGS) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """The name without `.nii` or `.nii.gz`, or of a folder as it is."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


@dataclass(frozen=True, eq=False)
class Nifti:
    """An opened file."""

    path: Path
    grid: Grid
    image: Any  # nibabel's

    @property
    def is_packed(self) -> bool:
        """Whether a slice costs the whole volume."""
        return self.path.name.endswith(".gz")

    def values(self) -> np.ndarray:
        """number[S, H, W], slope and intercept of the header applied.

        Raises:
            UnreadableImage: damaged or cut short.
        """
        return self.grid.stacked(self._read(...).reshape(self.grid.shape))

    def slice_values(self, number: int) -> np.ndarray:
        """number[H, W] of one slice; of a file that is not packed, nothing else is read."""
        place = self.grid.plane(number) + (0,) * (len(self.image.shape) - 3)
        return self.grid.upright(self._read(place))

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

    Raises:
        UnreadableImage: no such file, or no NIfTI.
        UserError: no affine, a spacing of zero, more or fewer than three axes; nibabel is missing.
    """
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
    while len(shape) > 3 and shape[-1] == 1:  # a single time step, as some tools write it
        shape = shape[:-1]
    return Nifti(Path(path), grid(shape, image.affine, axis, path), image)


def _written_spacing(path: Path, kind: Any) -> np.ndarray:
    """float64[3], millimetres, as the header has them: nibabel's loading mends them without a word."""
    from nibabel.openers import ImageOpener

    with ImageOpener(str(path)) as stream:
        return np.asarray(kind.from_fileobj(stream, check=False)["pixdim"][1:4], np.float64)

"""How the array of a volume file lies in the patient, and which of its planes is a slice as radiologists see it.

A file may hold its voxels in any of 48 orders; the affine in its header says which. Here every volume becomes a stack
int[S, H, W] of slices in one order, whatever the file's:

    axial       slices from the feet up, front of the patient on top, the patient's right on the picture's left
    coronal     slices from the back to the front, head on top, the patient's right on the left
    sagittal    slices from the patient's left to the right, head on top, front on the left

Source: the NIfTI-1 standard (millimetres, +x to the patient's right, +y to the front, +z up: "RAS"); nibabel says which
axis of an array runs along which of those. Oblique volumes are not resampled: the nearest order is taken, and the
slices stay the planes that were measured. Nothing is interpolated, so `unstacked(stacked(x))` is x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vistruct.errors import UserError

APART = 0.5  # of the smallest spacing: what lies farther apart than this is at another place
Axis = Literal["axial", "coronal", "sagittal"]
# For slices, rows and columns: axis of the patient (0 right, 1 front, 2 up) and whether it is walked backwards.
_ORDERS: dict[str, tuple[tuple[int, bool], tuple[int, bool], tuple[int, bool]]] = {
    "axial": ((2, False), (1, True), (0, True)),
    "coronal": ((1, False), (2, True), (0, True)),
    "sagittal": ((0, False), (2, True), (1, True)),
}


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of a file, and how to walk them."""

    shape: tuple[int, int, int]  # of the file's array
    affine: np.ndarray  # float64[4, 4], indices into the file's array -> millimetres in the patient, RAS
    axes: tuple[int, int, int]  # of the file's array, along which slices, rows and columns run
    is_backwards: tuple[bool, bool, bool]  # likewise, whether from the last to the first

    @property
    def num_slices(self) -> int:
        return self.shape[self.axes[0]]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Of a slice, voxels."""
        return self.shape[self.axes[1]], self.shape[self.axes[2]]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from slice to slice, row to row and column to column; their product is the volume of a voxel.

        So slices that lie askew on each other (a tilted gantry) are as far apart as their planes are.
        """
        sides = np.linalg.norm(self.affine[:3, :3], axis=0)
        row_mm, column_mm = float(sides[self.axes[1]]), float(sides[self.axes[2]])
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / (row_mm * column_mm), row_mm, column_mm

    @property
    def stack_affine(self) -> np.ndarray:
        """float64[4, 4], (slice, row, column) of the stack -> millimetres in the patient, RAS."""
        own = np.eye(4)
        own[:3, :3] = 0
        for place, (axis, back) in enumerate(zip(self.axes, self.is_backwards, strict=True)):
            own[axis, place] = -1 if back else 1
            own[axis, 3] = self.shape[axis] - 1 if back else 0
        return self.affine @ own

    def stacked(self, array: np.ndarray) -> np.ndarray:
        """[S, H, W], a view of the file's array."""
        return np.flip(array.transpose(self.axes), tuple(i for i in range(3) if self.is_backwards[i]))

    def unstacked(self, stack: np.ndarray) -> np.ndarray:
        """The file's array, a view of the stack [S, H, W]."""
        turned = np.flip(stack, tuple(i for i in range(3) if self.is_backwards[i]))
        return turned.transpose(np.argsort(self.axes))

    def plane(self, number: int) -> tuple[int | slice, ...]:
        """Where slice `number` lies in the file's array."""
        place: list[int | slice] = [slice(None)] * 3
        place[self.axes[0]] = self.num_slices - 1 - number if self.is_backwards[0] else number
        return tuple(place)

    def upright(self, plane: np.ndarray) -> np.ndarray:
        """[H, W] of what `plane` cut out of the file's array."""
        turned = plane.T if self.axes[1] > self.axes[2] else plane
        return np.flip(turned, tuple(i for i in range(2) if self.is_backwards[i + 1]))

    def offset_mm(self, other: Grid) -> float:
        """How far apart the same voxel of two stacks of one shape lies, at the corner where it is worst."""
        ends = np.array(self.stack_shape) - 1
        corners = np.array([[*(ends * bits), 1] for bits in np.ndindex(2, 2, 2)], np.float64)  # [8, 4]
        apart = corners @ (self.stack_affine - other.stack_affine).T
        return float(np.linalg.norm(apart[:, :3], axis=1).max())

    def check_same(self, other: Grid, where: object, what: str, fix: str = "") -> None:
        """Stacks are one grid where no voxel lies half a voxel beside its partner. The order of voxels in the files
        does not matter: both are turned into one.

        Raises:
            UserError: other numbers of voxels, or another place in the patient.
        """
        fix = fix or "bring both to the same grid (ITK-SNAP, 3D Slicer, nibabel.processing.resample_from_to)"
        if other.stack_shape != self.stack_shape:
            sizes = f"{self.stack_shape} and {other.stack_shape} slices, rows and columns"
            raise UserError(f"{what} with other numbers of voxels", where=f"{where}: {sizes}", fix=fix)
        if not self.is_same(other):
            what, where = (
                f"{what} at different places",
                f"{where}: {self.offset_mm(other):.1f} mm apart, by their headers",
            )
            raise UserError(what, where=where, fix=fix)

    def is_same(self, other: Grid) -> bool:
        """Whether the voxels of two stacks lie in one another, and not half a voxel aside."""
        return self.stack_shape == other.stack_shape and self.offset_mm(other) <= APART * min(self.spacing)

    @property
    def stack_shape(self) -> tuple[int, int, int]:
        return (self.num_slices, *self.size_hw)

    @property
    def code(self) -> str:
        """Where the file's own axes point, as in "RAS"."""
        import nibabel

        return "".join(nibabel.orientations.aff2axcodes(self.affine))


def grid(shape: tuple[int, ...], affine: np.ndarray, axis: Axis, where: object) -> Grid:
    """How to walk an array.

    Raises:
        UserError: another number of axes than three, no voxels, or an affine that says no place for them.
    """
    import nibabel

    if len(shape) != 3 or 0 in shape:
        text = " x ".join(map(str, shape))
        fix = "a volume has three axes"
        if len(shape) > 3:
            numbers = ",".join(map(str, range(min(max(shape[3:]), 4))))
            fix = f"--modalities {numbers} takes them as channels; time steps are volumes of their own"
        raise UserError(f"an array of {text} is no single volume", where=where, fix=fix)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    found = nibabel.orientations.io_orientation(affine) if np.isfinite(affine).all() and (sides > 0).all() else None
    if found is None or np.isnan(found).any():
        what = f"the header gives voxels of {' x '.join(f'{side:g}' for side in sides)} mm that fill no space"
        raise UserError(what, where=where, fix="mend the header: spacing and directions of the three axes")
    axes, backwards = [], []
    for wanted, back in _ORDERS[axis]:
        own = int(np.flatnonzero(found[:, 0] == wanted)[0])
        axes.append(own)
        backwards.append((found[own, 1] < 0) != back)
    return Grid(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        affine=np.asarray(affine, np.float64),
        axes=(axes[0], axes[1], axes[2]),
        is_backwards=(backwards[0], backwards[1], backwards[2]),
    )

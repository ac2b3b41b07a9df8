"""What a model is shown of an image: the part of its card that prediction reads, and nothing else of its training.

Wrong input units are the costliest silent mistake, so that they are written down by who knows them: a data set in its
`DataInfo.input`, the task beside it, and a finished run in `model.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from vistruct.config import Part, explain
from vistruct.contracts import RGB
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake
from vistruct.files.volume_grid import Axis
from vistruct.transforms.sizing import Size, Sizing, sized_hw


class Windows(Part):
    """Into which images are cut (tiles, patches), what is found in them being put together again."""

    size: int = Field(gt=0)  # pixels, both sides
    overlap: int = Field(ge=0)  # pixels shared by neighbours
    blend: Literal["smooth", "even"] = "smooth"  # probabilities weigh less towards a border, or the same everywhere
    unit: Literal["file", "shown"]  # pixels before, or after an image is resized

    @model_validator(mode="after")
    def _overlap_leaves_a_stride(self) -> Self:
        if self.overlap >= self.size:
            what = f"overlap={self.overlap} is not below size={self.size}"
            raise UserError(what, where="windows", fix="an overlap as large as the largest object, if that can be")
        return self

    def shown(self, resize: Sizing | None) -> Windows:
        """The same windows in pixels after resizing, as models of label maps take them.

        Args:
            resize: what happens to each window.
        """
        if self.unit == "shown":
            return self
        square = self.size, self.size
        size = max((resize.height, resize.width) if isinstance(resize, Size) else sized_hw(square, resize))
        overlap = min(size - 1, round(self.overlap * size / self.size))
        return Windows(size=size, overlap=overlap, blend=self.blend, unit="shown")


class Slices(Part):
    """How a volume becomes images."""

    axis: Axis = "axial"  # across which it is sliced
    neighbours: int = Field(0, ge=0)  # slices on either side that are channels too
    modalities: tuple[str, ...] = ("",)  # of several volumes of one patient, the channels in order; "": the only one


class Input(Part):
    """How images are put before a model."""

    images: int = Field(1, gt=0)  # looked at together; 2: before and after
    channels: int = Field(3, gt=0)  # of each; without an intake three are red, green and blue
    intake: Intake | None = None  # which bands they are, and what of their values; None: 8-bit colours
    resize: Sizing | None = None  # factor, or a size; of a window, if `unit` is file
    windows: Windows | None = None  # None: an image is looked at as a whole
    slices: Slices | None = None  # None: images, and no volumes
    coding: Coding | None = None  # what values stand for classes in label maps and volumes
    label_palette: tuple[RGB, ...] | None = None  # of label maps that have one: the colour of each value
    mean: tuple[float, ...] | None = None  # for the record: the task itself divides and normalises
    std: tuple[float, ...] | None = None


def read_input(values: Mapping[str, Any], where: object) -> Input:
    """
    Raises:
        UserError: no such contract, or one of another version.
    """
    try:
        return Input.model_validate(dict(values))
    except ValidationError as error:
        raise explain(error, Input, where) from error


def as_measured(training: Input, measured: Sequence[Input]) -> Input:
    """How images are put before a model that was trained: in its windows, otherwise as in its evaluations.

    Training may show images at random sizes, evaluations do not. A size that is of each window is that of training.

    Args:
        measured: of evaluations on data of the same kind.
    """
    if not measured or (training.windows is not None and training.windows.unit == "file"):
        return training
    own = {"windows": training.windows, "coding": training.coding, "label_palette": training.label_palette}
    return measured[0].model_copy(update=own)

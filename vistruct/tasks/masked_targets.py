"""What is to be told of what was taken from an image, and how far off a decoder is.

Source: pixels: MAE (arXiv:2111.06377), standardised patch by patch; SimMIM (arXiv:2111.09886), as they are, absolute
    errors. Oriented gradients: MaskFeat (arXiv:2112.09133). Spectrum: MFM (arXiv:2206.07706).
Differs: a loss is a sum, over hidden patches of the mean over a patch's values, or over images; oriented gradients are
    those of the image as it is stored, before it is normalised.
Shapes: B images of L = h * w patches of p pixels, C channels, V values told of a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import Field
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import StepOutput
from vistruct.errors import UserError
from vistruct.ops.hog import oriented_gradients
from vistruct.ops.spectra import spectral_distance
from vistruct.tasks.masked_batches import MaskedBatch


class Target(Protocol):
    """Of patches of one size and number of channels."""

    @property
    def term(self) -> str: ...  # of the loss

    @property
    def values(self) -> int: ...  # V

    def loss(self, told: Tensor, batch: MaskedBatch, images: Tensor) -> StepOutput:
        """From float[B, L, V] that was told, and the whole images float[B, C, H, W], normalised."""
        ...

    def units(self, batch: MaskedBatch) -> Mapping[str, float | Tensor]:
        """Over how many the loss is summed."""
        ...


class Pixels(Part):
    """Every pixel of a hidden patch, of normalised images."""

    kind: Literal["pixels"] = "pixels"
    standardised: bool = True  # each patch with its own mean and deviation taken out
    error: Literal["squared", "absolute"] = "squared"

    def build(self, patch: int, channels: int) -> PixelTarget:
        return PixelTarget(config=self, patch=patch, values=patch**2 * channels)


@dataclass(frozen=True, kw_only=True)
class PixelTarget:
    """Values of a patch by row, column, channel."""

    config: Pixels
    patch: int
    values: int
    term = "pixels"

    def loss(self, told: Tensor, batch: MaskedBatch, images: Tensor) -> StepOutput:
        off = told.float() - self.truth(images)
        return _of_hidden(self.term, off.abs() if self.config.error == "absolute" else off.square(), batch)

    def units(self, batch: MaskedBatch) -> Mapping[str, float | Tensor]:
        """Hidden patches."""
        return {self.term: batch.is_hidden.sum()}

    def truth(self, images: Tensor) -> Tensor:
        """float[B, C, H, W], normalised -> float[B, L, V]."""
        pixels = patches_of_pixels(images, self.patch)
        if not self.config.standardised:
            return pixels
        variance, mean = pixels.var(dim=2, keepdim=True), pixels.mean(dim=2, keepdim=True)  # unbiased, as published
        return (pixels - mean) / (variance + 1e-6).sqrt()


class OrientedGradients(Part):
    """HOG: how often which direction occurs in the cells of a hidden patch."""

    kind: Literal["hog"] = "hog"
    cell: int = Field(8, gt=0)  # pixels; of smaller patches the patch
    bins: int = Field(9, gt=0)  # of half a turn

    def build(self, patch: int, channels: int) -> HogTarget:
        """
        Raises:
            UserError: patches that are no whole number of cells.
        """
        cell = min(self.cell, patch)
        if patch % cell:
            what = f"cells of {cell} pixels in patches of {patch}: no whole number"
            fix = f"--set task.target.cell={patch // 2 if patch % 2 == 0 else patch}"
            raise UserError(what, where="task.target.cell", fix=fix)
        values = (patch // cell) ** 2 * channels * self.bins
        return HogTarget(bins=self.bins, cells=patch // cell, cell=cell, values=values)


@dataclass(frozen=True, kw_only=True)
class HogTarget:
    """Values of a patch by row and column of its cells, channel, bin."""

    bins: int
    cells: int  # along a side of a patch
    cell: int  # pixels
    values: int
    term = "hog"

    def loss(self, told: Tensor, batch: MaskedBatch, images: Tensor) -> StepOutput:
        return _of_hidden(self.term, (told.float() - self.truth(batch.images)).square(), batch)

    def units(self, batch: MaskedBatch) -> Mapping[str, float | Tensor]:
        """Hidden patches."""
        return {self.term: batch.is_hidden.sum()}

    def truth(self, images: Tensor) -> Tensor:
        """Images as they are stored [B, C, H, W] -> float[B, L, V]."""
        found = oriented_gradients(images.float(), self.cell, self.bins)
        cut = found.unflatten(3, (-1, self.cells)).unflatten(2, (-1, self.cells))  # [B, C, h, n, w, n, bins]
        return cut.permute(0, 2, 4, 3, 5, 1, 6).flatten(3).flatten(1, 2)


class Spectrum(Part):
    """The frequencies that were removed, of normalised images; of all of them where patches were hidden instead."""

    kind: Literal["spectrum"] = "spectrum"
    power: Literal[1, 2] = 1  # of the distance
    focal: float = Field(0.0, ge=0)  # weights by this power of the distance (focal frequency loss: 1, and power 2)

    def build(self, patch: int, channels: int) -> SpectrumTarget:
        return SpectrumTarget(config=self, patch=patch, values=patch**2 * channels)


@dataclass(frozen=True, kw_only=True)
class SpectrumTarget:
    """Values of a patch are pixels, by row, column, channel; together they are an image with a spectrum."""

    config: Spectrum
    patch: int
    values: int
    term = "spectrum"

    def loss(self, told: Tensor, batch: MaskedBatch, images: Tensor) -> StepOutput:
        whole = image_of_patches(told.float(), self.patch, images.shape[3] // self.patch)
        off = spectral_distance(whole, images, _counted(batch), self.config.power, self.config.focal)
        return StepOutput(terms={self.term: off.sum()})

    def units(self, batch: MaskedBatch) -> Mapping[str, float | Tensor]:
        """Images of which something was removed."""
        return {self.term: _counted(batch).flatten(1).any(dim=1).sum()}


TargetPart = Annotated[Pixels | OrientedGradients | Spectrum, Field(discriminator="kind")]


def _counted(batch: MaskedBatch) -> Tensor:
    """bool[B, H, W]."""
    if batch.is_removed is not None:
        return batch.is_removed
    return batch.is_hidden.any(dim=1)[:, None, None].expand(-1, *batch.images.shape[2:])


def _of_hidden(term: str, off: Tensor, batch: MaskedBatch) -> StepOutput:
    """float[B, L, V] -> the mean over the values of each hidden patch, summed."""
    return StepOutput(terms={term: (off.mean(dim=2) * batch.is_hidden).sum()})


def patches_of_pixels(images: Tensor, patch: int) -> Tensor:
    """float[B, C, H, W] -> float[B, L, p * p * C], values of a patch by row, column, channel."""
    cut = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [B, C, h, p, w, p]
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def image_of_patches(patches: Tensor, patch: int, across: int) -> Tensor:
    """float[B, L, p * p * C] -> float[B, C, H, W], what `patches_of_pixels` took apart."""
    cells = patches.unflatten(2, (patch, patch, -1)).unflatten(1, (-1, across))  # [B, h, w, p, p, C]
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

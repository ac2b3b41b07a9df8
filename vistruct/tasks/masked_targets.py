"""What is to be told of what was taken from an image, and how far off a decoder is.

Source: pixels: MAE (arXiv:2111.06377), standardised patch by patch; SimMIM (arXiv:2111.09886), as they are, absolute
    errors. Oriented gradients: MaskFeat (arXiv:2112.09133). Spectrum: MFM (arXiv:2206.07706).
    Positions: DropPos (arXiv:2309.03576) and its public code: cross-entropy with labels that are smooth over the grid
    at first and sharp at the end, weighted by how much a patch looks like the class token of the whole image.
Differs: a loss is a sum, over hidden patches of the mean over a patch's values, or over images; oriented gradients are
    those of the image as it is stored, before it is normalised; the smooth labels of every place sum to 1, where the
    published map is divided by the wrong sums (0.89 to 1.11); what is measured is neither smooth nor weighted.
Shapes: B images of L = h * w patches of p pixels, C channels, V values told of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import Ratio, StepOutput, Tokens
from vistruct.errors import UserError
from vistruct.ops.hog import drawn_gradients, oriented_gradients
from vistruct.ops.spectra import spectral_distance, with_frequencies
from vistruct.tasks.masked_batches import MaskedBatch

RESTORED = "reconstruction"
STROKE = 15  # pixels of a drawn cell of oriented gradients; odd, so that it has a middle


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Of the images as they were, beside what was told."""

    images: Tensor  # float[B, C, H, W], normalised
    tokens: Callable[[], Tokens]  # all of them, without a gradient
    done: float  # share of the run; 1 where nothing is learned


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture of every image of a batch."""

    title: str
    images: Tensor  # number[B, C, H, W]
    is_normalised: bool = True  # False: as images are stored, or a drawing
    is_gone: Tensor | None = None  # bool[B, H, W]; see `Panel`


class Target(Protocol):
    """Of patches of one size and number of channels."""

    @property
    def term(self) -> str: ...  # of the loss

    @property
    def values(self) -> int: ...  # V

    @property
    def of_shown(self) -> bool: ...  # told of the K patches that are shown, by who does not know where they lie

    def loss(self, told: Tensor, batch: MaskedBatch, whole: Whole) -> StepOutput:
        """From float[B, L, V] that was told, or float[B, K, V]."""
        ...

    def units(self, batch: MaskedBatch) -> Mapping[str, float | Tensor]:
        """Over how many the loss is summed."""
        ...

    def drawn(self, told: Tensor, batch: MaskedBatch, whole: Whole) -> tuple[Drawn, ...]:
        """What was told, with what was shown around it, and what it is to be compared with beside the image."""
        ...

    @property
    def note(self) -> str: ...  # what must be known to read these; "": nothing


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
    of_shown = False

    def loss(self, told: Tensor, batch: MaskedBatch, whole: Whole) -> StepOutput:
        off = told.float() - self.truth(whole.images)
        return _of_hidden(self.term, off.abs() if self.config.error == "absolute" else off.square(), batch)

    def units(self, batch: MaskedBatch) -> Mapping[str, float | Tensor]:
        """Hidden patches."""
        return {self.term: batch.is_hidden.sum()}

    def truth(self, images: Tensor) -> Tensor:
        """float[B, C, H, W], normalised -> float[B, L, V]."""
        pixels = patches_of_pixels(images, self.patch)
        if not self.config.standardised:
            return pixels
        mean, deviation = _statistics(pixels)
        return (pixels - mean) / deviation

    def drawn(self, told: Tensor, batch: MaskedBatch, whole: Whole) -> tuple[Drawn, ...]:
        """The image, with what was told in place of what was hidden."""
        told = told.float()
        if self.config.standardised:
            mean, deviation = _statistics(patches_of_pixels(whole.images, self.patch))
            told = told * deviation + mean
        return (Drawn(title=RESTORED, images=_put(told, batch, whole, self.patch)),)

    @property
    def note(self) -> str:
        """Patches have lost what they are drawn with."""
        standardised = "of a hidden patch the pattern alone is told: its mean and contrast are those of the image"
        return standardised if self.config.standardised else ""


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
    of_shown = False

    def loss(self, told: Tensor, batch: MaskedBatch, whole: Whole) -> StepOutput:
        return _of_hidden(self.term, (told.float() - self.truth(batch.images)).square(), batch)

    def units(self, batch: MaskedBatch) -> Mapping[str, float | Tensor]:
        """Hidden patches."""
        return {self.term: batch.is_hidden.sum()}

    def drawn(self, told: Tensor, batch: MaskedBatch, whole: Whole) -> tuple[Drawn, ...]:
        """Those of the image, and with what was told in place of what was hidden; as strokes along edges."""
        truth = self.truth(batch.images)
        across = batch.images.shape[3] // (self.cells * self.cell)
        found = []
        for values in (truth, torch.where(batch.is_hidden[..., None], told.float(), truth)):
            cut = values.unflatten(2, (self.cells, self.cells, -1, self.bins)).unflatten(1, (-1, across))
            cells = cut.permute(0, 5, 1, 3, 2, 4, 6).flatten(4, 5).flatten(2, 3)  # [B, C, h * n, w * n, bins]
            found.append(drawn_gradients(cells, STROKE))
        titles = ("oriented gradients (HOG)", RESTORED)
        return tuple(
            Drawn(title=title, images=one, is_normalised=False) for title, one in zip(titles, found, strict=True)
        )

    note = ""

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
    of_shown = False

    def loss(self, told: Tensor, batch: MaskedBatch, whole: Whole) -> StepOutput:
        image = image_of_patches(told.float(), self.patch, whole.images.shape[3] // self.patch)
        off = spectral_distance(image, whole.images, _counted(batch), self.config.power, self.config.focal)
        return StepOutput(terms={self.term: off.sum()})

    def units(self, batch: MaskedBatch) -> Mapping[str, float | Tensor]:
        """Images of which something was removed."""
        return {self.term: _counted(batch).flatten(1).any(dim=1).sum()}

    def drawn(self, told: Tensor, batch: MaskedBatch, whole: Whole) -> tuple[Drawn, ...]:
        """The image, with the frequencies that were told in place of those removed, or such patches."""
        if batch.is_removed is None:
            return (Drawn(title=RESTORED, images=_put(told.float(), batch, whole, self.patch)),)
        image = image_of_patches(told.float(), self.patch, whole.images.shape[3] // self.patch)
        return (Drawn(title=RESTORED, images=with_frequencies(whole.images, image, batch.is_removed)),)

    note = ""


class Positions(Part):
    """Where a patch lies of which the encoder was not told: a class for every place of a grid."""

    kind: Literal["positions"] = "positions"
    grid: tuple[int, int] = (14, 14)  # patches down and across
    smooth: float = Field(1.0, ge=0)  # patches, at the start of a run; falls to 0
    weighted: bool = True  # by what of the whole image the class token looks like
    temperature: float = Field(0.1, gt=0)  # of these weights

    def build(self, patch: int, channels: int) -> PositionTarget:
        return PositionTarget(config=self, patch=patch, values=self.grid[0] * self.grid[1])


@dataclass(frozen=True, kw_only=True)
class PositionTarget:
    """Values of a patch are logits of places, row by row."""

    config: Positions
    patch: int
    values: int
    term = "positions"
    of_shown = True

    def loss(self, told: Tensor, batch: MaskedBatch, whole: Whole) -> StepOutput:
        """
        Raises:
            UserError: images of another grid.
        """
        found = (batch.images.shape[2] // self.patch, batch.images.shape[3] // self.patch)
        if batch.is_unplaced is None or found != self.config.grid:
            down, across = self.config.grid
            what = f"images of {found[0]} x {found[1]} patches, and places of {down} x {across}"
            raise UserError(what, where="task.target.grid", fix=f"--size {down * self.patch}")
        labels = near_places(found, self.config.smooth * (1 - whole.done)).to(told.device)[batch.shown]
        off = -(labels * told.float().log_softmax(dim=2)).sum(dim=2)  # [B, K]
        if self.config.weighted and whole.done < 1:
            off = off * self.weights(whole.tokens(), batch.shown)
        right = (told.argmax(dim=2) == batch.shown) & batch.is_unplaced
        accuracy = Ratio(total=right.sum(), count=batch.is_unplaced.sum())
        return StepOutput(terms={self.term: (off * batch.is_unplaced).sum()}, metrics={"accuracy": accuracy})

    def units(self, batch: MaskedBatch) -> Mapping[str, float | Tensor]:
        """Patches without a place."""
        return {self.term: 0.0 if batch.is_unplaced is None else batch.is_unplaced.sum()}

    def drawn(self, told: Tensor, batch: MaskedBatch, whole: Whole) -> tuple[Drawn, ...]:
        """Every patch that was shown where it was said to lie; of several at one place the surest."""
        assert batch.is_unplaced is not None  # see `loss`
        sure, places = told.float().max(dim=2)
        places = torch.where(batch.is_unplaced, places, batch.shown)
        sure = sure.masked_fill(~batch.is_unplaced, torch.inf)  # these are where they are
        pixels = patches_of_pixels(whole.images, self.patch)
        moved, is_gone = torch.zeros_like(pixels), torch.ones_like(pixels[..., 0], dtype=torch.bool)
        for row in range(len(pixels)):
            order = sure[row].argsort()  # what is put there last stays
            for at in order.tolist():
                moved[row, places[row, at]], is_gone[row, places[row, at]] = pixels[row, batch.shown[row, at]], False
        image = image_of_patches(moved, self.patch, self.config.grid[1])
        hw = (image.shape[2], image.shape[3])
        return (Drawn(title="where it puts them", images=image, is_gone=over_pixels(is_gone, hw, self.patch)),)

    note = "patches whose place was not told are put where the model takes them to be"

    def weights(self, tokens: Tokens, shown: Tensor) -> Tensor:
        """float[B, K], 1 in the mean over the patches of an image that are shown."""
        patches = tokens.patches.float()
        about = patches.mean(dim=1) if tokens.class_token is None else tokens.class_token.float()
        share = (F.cosine_similarity(about[:, None], patches, dim=2) / self.config.temperature).softmax(dim=1)
        share = share.gather(1, shown)
        return share / share.mean(dim=1, keepdim=True)


TargetPart = Annotated[Pixels | OrientedGradients | Spectrum | Positions, Field(discriminator="kind")]


def _counted(batch: MaskedBatch) -> Tensor:
    """bool[B, H, W]."""
    if batch.is_removed is not None:
        return batch.is_removed
    return batch.is_hidden.any(dim=1)[:, None, None].expand(-1, *batch.images.shape[2:])


def _of_hidden(term: str, off: Tensor, batch: MaskedBatch) -> StepOutput:
    """float[B, L, V] -> the mean over the values of each hidden patch, summed."""
    return StepOutput(terms={term: (off.mean(dim=2) * batch.is_hidden).sum()})


def _statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each patch float[B, L, V], float[B, L, 1] both."""
    variance, mean = pixels.var(dim=2, keepdim=True), pixels.mean(dim=2, keepdim=True)  # unbiased, as published
    return mean, (variance + 1e-6).sqrt()


def _put(told: Tensor, batch: MaskedBatch, whole: Whole, patch: int) -> Tensor:
    """float[B, C, H, W], images with the patches that were told, float[B, L, p * p * C], in place of those hidden."""
    image = image_of_patches(told, patch, whole.images.shape[3] // patch)
    hidden = over_pixels(batch.is_hidden, (image.shape[2], image.shape[3]), patch)
    return torch.where(hidden[:, None], image, whole.images)


def over_pixels(cells: Tensor, size_hw: tuple[int, int], patch: int) -> Tensor:
    """What is said of patches [B, L], of their pixels [B, H, W]."""
    grid = cells.unflatten(1, (size_hw[0] // patch, size_hw[1] // patch))
    return grid.repeat_interleave(patch, 1).repeat_interleave(patch, 2)


def patches_of_pixels(images: Tensor, patch: int) -> Tensor:
    """float[B, C, H, W] -> float[B, L, p * p * C], values of a patch by row, column, channel."""
    cut = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [B, C, h, p, w, p]
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def image_of_patches(patches: Tensor, patch: int, across: int) -> Tensor:
    """float[B, L, p * p * C] -> float[B, C, H, W], what `patches_of_pixels` took apart."""
    cells = patches.unflatten(2, (patch, patch, -1)).unflatten(1, (-1, across))  # [B, h, w, p, p, C]
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def near_places(grid_hw: tuple[int, int], smooth: float) -> Tensor:
    """float[L, L], how much every place (column) counts as each (row): exp(-(distance / smooth)^2), a row sums to 1."""
    if smooth < 1e-3:
        return torch.eye(grid_hw[0] * grid_hw[1])
    places = torch.cartesian_prod(*(torch.arange(side).double() for side in grid_hw))
    return (-torch.cdist(places, places).square() / smooth**2).softmax(dim=1).float()

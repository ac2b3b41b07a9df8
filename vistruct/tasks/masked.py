"""Hidden pixels: most of an image is hidden, and what was there is to be told from the rest.

Source: MAE (arXiv:2111.06377): patches hidden at random, an encoder that sees the others alone, a light decoder that
    sees a mask vector in their place, and the standardised pixels of each hidden patch as the target; Pixio
    (arXiv:2512.15715) hides squares of patches.
Differs: pixels of hidden patches are set to the mean colour before the encoder, for one with a convolutional stem would
    see them through its overlapping kernels; the patches are drawn from the sample's seed; the loss is a sum over
    hidden patches; the decoder starts with a norm of its own, which in an encoder with a last norm is that one.
Shapes: B images of L = h * w patches of p pixels, K of them shown and M hidden, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import Backbone, DataInfo, Embedded, Sample, StepOutput, TaskTraits, TokenBackbone
from vistruct.errors import UserError
from vistruct.heads.patch_decoder import PatchDecoderConfig
from vistruct.kinds import BackbonePart
from vistruct.ops.seeds import derive
from vistruct.tasks.features import backbone_for
from vistruct.tasks.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalise,
    Statistics,
    stacked,
    with_statistics,
)

NO_TOKENS = "use a plain ViT: kind intern_vit, or one of timm: --timm vit_base_patch16_224"


class MaskedConfig(Part):
    """The parts; images of one batch must have one size (augment.resized_crop, or data.resize)."""

    kind: Literal["masked"] = "masked"
    backbone: BackbonePart
    decoder: PatchDecoderConfig = PatchDecoderConfig()
    hidden: float = Field(
        0.75, gt=0, lt=1
    )  # share of the patches that is hidden, rounded up to whole squares but for one
    square: int = Field(1, gt=0)  # patches a side of what is hidden or shown together; Pixio: 4
    standardised: bool = True  # pixels of each patch with its own mean and deviation taken out
    mean: Statistics = IMAGENET_MEAN  # of each channel in [0, 1]; data: measured on the training data
    std: Statistics = IMAGENET_STD

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Masked:
        """Build for the channels of the data; nothing is kept in `assets`.

        Raises:
            UserError: a backbone without tokens; parts that do not fit each other.
        """
        return Masked(with_statistics(self, info), info.channels, backbone)


@dataclass(kw_only=True)
class MaskedBatch:
    """Images of one size, and which of their patches are shown."""

    ids: list[str]
    image_ids: list[str]
    images: Tensor  # uint8, uint16 or float32[B, C, H, W]
    shown: Tensor  # int64[B, K], patches row by row, rising
    is_hidden: Tensor  # bool[B, L]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        moved = {"images": self.images, "shown": self.shown, "is_hidden": self.is_hidden}
        return replace(self, **{name: one.to(device, non_blocking=True) for name, one in moved.items()})


@dataclass(frozen=True, kw_only=True)
class MaskedCollator:
    """Samples -> MaskedBatch. Holds no weights, so that it travels to worker processes."""

    channels: int
    patch: int  # pixels
    hidden: float
    square: int

    def __call__(self, samples: list[Sample]) -> MaskedBatch:
        shape = samples[0].images[0].shape
        for sample in samples:
            self._check(sample, shape)
        side = self.patch * self.square
        grid = (shape[1] // side, shape[2] // side)  # of squares
        drawn = [drawn_squares(grid, self.hidden, derive(sample.seed, "hidden")) for sample in samples]
        cells = torch.stack(drawn).repeat_interleave(self.square, 1).repeat_interleave(self.square, 2)
        is_hidden = cells.flatten(1)
        return MaskedBatch(
            ids=[sample.id for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            images=stacked([sample.images[0] for sample in samples], (shape[1], shape[2])),
            shown=torch.stack([(~one).nonzero()[:, 0] for one in is_hidden]),
            is_hidden=is_hidden,
        )

    def _check(self, sample: Sample, shape: torch.Size) -> None:
        if len(sample.images) != 1:
            what = f"{len(sample.images)} images, where one is looked at"
            raise UserError(what, where=sample.id, fix="use data with one image each (kind: images)")
        found = sample.images[0].shape
        if found[0] != self.channels:
            what = f"an image of {found[0]} channels, the model takes {self.channels}"
            raise UserError(what, where=sample.id, fix="choose --bands")
        if found != shape:
            what = f"images of {found[2]} x {found[1]} and {shape[2]} x {shape[1]} pixels in one batch"
            raise UserError(what, where=sample.id, fix="--size N brings all to one size")
        side = self.patch * self.square
        if shape[1] % side or shape[2] % side:
            what = f"{shape[2]} x {shape[1]} pixels are no whole number of patches"
            raise UserError(what, where=sample.id, fix=f"--size N, a multiple of {side}")


class Masked(nn.Module):
    """MaskedBatch -> StepOutput in training, vectors of whole images from `predict`."""

    def __init__(self, config: MaskedConfig, channels: int, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        self.normalise = Normalise(config.mean, config.std, channels)
        built = backbone_for(config.backbone, channels, backbone)
        if not isinstance(built, TokenBackbone):
            what = f"a backbone of kind {config.backbone.kind} has no tokens to hide"
            raise UserError(what, where="task.backbone", fix=NO_TOKENS)
        self.backbone = built
        self.decoder = config.decoder.build(built.width, built.patch**2 * channels)

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(prediction="embeddings", terms=("pixels",))

    @property
    def collator(self) -> MaskedCollator:
        return MaskedCollator(
            channels=self.channels, patch=self.backbone.patch, hidden=self.config.hidden, square=self.config.square
        )

    def forward(self, batch: MaskedBatch) -> StepOutput:
        """Squared error of the pixels of each hidden patch, the mean over its values."""
        target = self.target(self.normalise(batch.images))
        off = (self.told(batch).float() - target).square().mean(dim=2)  # [B, L]
        return StepOutput(terms={"pixels": (off * batch.is_hidden).sum()})

    def units(self, batch: MaskedBatch) -> Mapping[str, float | Tensor]:
        """Hidden patches."""
        return {"pixels": batch.is_hidden.sum()}

    def told(self, batch: MaskedBatch) -> Tensor:
        """float[B, L, p * p * C], what the decoder says of every patch, in the order of `target`."""
        images = without(self.normalise(batch.images), batch.is_hidden, self.backbone.patch)
        height, width = (side // self.backbone.patch for side in images.shape[2:])
        return self.decoder(self.backbone.tokens(images, batch.shown), batch.shown, (height, width))

    def target(self, images: Tensor) -> Tensor:
        """float[B, C, H, W], normalised -> float[B, L, p * p * C]: pixels of each patch by row, column, channel."""
        pixels = patches_of_pixels(images, self.backbone.patch)
        if not self.config.standardised:
            return pixels
        variance, mean = torch.var_mean(pixels, dim=2, keepdim=True)  # unbiased, as published
        return (pixels - mean) / (variance + 1e-6).sqrt()

    def predict(self, batch: MaskedBatch) -> list[Embedded]:
        """The mean of the patches of each whole image, of length 1, on the CPU."""
        found = F.normalize(self.backbone.tokens(self.normalise(batch.images)).patches.float().mean(dim=1), dim=1).cpu()
        return [
            Embedded(
                id=batch.ids[i], image_id=batch.image_ids[i], image=found[i], texts=found.new_zeros(0, found.shape[1])
            )
            for i in range(len(batch))
        ]


def drawn_squares(grid_hw: tuple[int, int], share: float, seed: int) -> Tensor:
    """bool[h, w], true at so large a share of the cells, rounded up; one at least is false."""
    cells = grid_hw[0] * grid_hw[1]
    noise = torch.rand(cells, generator=torch.Generator().manual_seed(seed))
    is_hidden = torch.ones(cells, dtype=torch.bool)
    is_hidden[noise.argsort()[: max(1, int(cells * (1 - share)))]] = False
    return is_hidden.view(grid_hw)


def patches_of_pixels(images: Tensor, patch: int) -> Tensor:
    """float[B, C, H, W] -> float[B, L, p * p * C], values of a patch by row, column, channel."""
    cut = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [B, C, h, p, w, p]
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def without(images: Tensor, is_hidden: Tensor, patch: int) -> Tensor:
    """Normalised images float[B, C, H, W] with the mean colour in place of hidden patches, bool[B, L]."""
    height, width = (side // patch for side in images.shape[2:])
    cells = is_hidden.view(len(images), 1, height, width)
    return images.masked_fill(cells.repeat_interleave(patch, 2).repeat_interleave(patch, 3), 0.0)

"""Something is taken from an image, and is to be told from what is left: corruption, target and decoder chosen apart.

Source: MAE (arXiv:2111.06377): patches hidden at random, an encoder that sees the others alone, a light decoder that
    sees a mask vector in their place; MaskFeat (arXiv:2112.09133) and SimMIM (arXiv:2111.09886): an encoder that sees
    something learned in their place, and one linear layer behind it; MFM (arXiv:2206.07706): frequencies of the whole
    image removed; DropPos (arXiv:2309.03576): an encoder that is told of few patches where they lie;
    CroCo (arXiv:2210.10716): a second image of the same place, seen whole, that the decoder looks at.
Differs: pixels of hidden patches are set to the mean colour before the encoder, for one with a convolutional stem would
    see them through its overlapping kernels, and what is learned in their place is a patch of pixels: a linear patch
    embedding makes any vector of it, and any other encoder can be shown it; the loss is a sum; a decoder
    starts with a norm of its own, which in an encoder with a last norm is that one.
Shapes: B images of L = h * w patches of p pixels, K of them shown and M hidden, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import (
    Backbone,
    DataInfo,
    Embedded,
    Panel,
    Restored,
    StepOutput,
    TaskTraits,
    TokenBackbone,
    Tokens,
    UnplacedBackbone,
)
from vistruct.errors import UserError
from vistruct.heads.patch_decoder import LinearPatchesConfig, PatchDecoderConfig
from vistruct.kinds import BackbonePart
from vistruct.ops.spectra import without_frequencies
from vistruct.ops.values import full_scale
from vistruct.tasks.features import backbone_for
from vistruct.tasks.masked_batches import Corruption, HidePatches, MaskedBatch, MaskedCollator
from vistruct.tasks.masked_targets import Drawn, Pixels, TargetPart, Whole, over_pixels
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise, Statistics, with_statistics

NO_TOKENS = (
    "use a plain ViT: --timm vit_base_patch16_224; "
    "or --set task.corruption.replaced=true, which any backbone can be shown"
)


class MaskedConfig(Part):
    """The parts; images of one batch must have one size (augment.resized_crop, or data.resize)."""

    kind: Literal["masked"] = "masked"
    backbone: BackbonePart
    corruption: Corruption = HidePatches()
    target: TargetPart = Pixels()
    decoder: Annotated[PatchDecoderConfig | LinearPatchesConfig, Field(discriminator="kind")] = PatchDecoderConfig()
    mean: Statistics = IMAGENET_MEAN  # of each channel in [0, 1]; data: measured on the training data
    std: Statistics = IMAGENET_STD

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Masked:
        """Build for the channels of the data; nothing is kept in `assets`.

        Raises:
            UserError: patches that are dropped of a backbone without tokens; parts that do not fit each other.
        """
        return Masked(with_statistics(self, info), info, backbone)


class Masked(nn.Module):
    """MaskedBatch -> StepOutput in training, vectors of whole images from `predict`."""

    def __init__(self, config: MaskedConfig, info: DataInfo, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config, self.channels, self.is_raw = config, info.channels, info.pixels == "raw"
        channels, drops = info.channels, config.corruption.drops
        self.normalise = Normalise(config.mean, config.std, channels)
        built = backbone_for(config.backbone, channels, backbone)
        is_plain = isinstance(built, TokenBackbone)
        self.backbone = built
        self.patch = built.patch if is_plain else built.specs[-1].stride
        self.target = config.target.build(self.patch, channels)
        self.done = 0.0  # share of the run
        _check_fit(config, built, of_shown=self.target.of_shown)
        width = built.width if is_plain else built.specs[-1].channels
        self.decoder = config.decoder.build(width, self.target.values, fills=drops and not self.target.of_shown)
        if isinstance(config.corruption, HidePatches) and not drops:
            self.instead = nn.Parameter(torch.empty(channels, self.patch, self.patch))
            nn.init.normal_(self.instead, std=0.02)
        if config.corruption.unplaced:
            self.nowhere = nn.Parameter(torch.empty(width))
            nn.init.normal_(self.nowhere, std=0.02)

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(
            prediction="embeddings",
            terms=(self.target.term,),
            before_step=self.before_step,
            restore=self.restore,
            predict_collator=replace(self.collator, images="first"),
        )

    def before_step(self, step: int, steps: int) -> None:
        """Labels may follow the run."""
        self.done = step / steps

    @property
    def collator(self) -> MaskedCollator:
        return MaskedCollator(
            channels=self.channels,
            patch=self.patch,
            corruption=self.config.corruption,
            images="two" if self.config.decoder.looks_beside else "one",
        )

    def forward(self, batch: MaskedBatch) -> StepOutput:
        """How far what is told is from what was there."""
        return self.target.loss(self.told(batch), batch, self._whole(batch))

    def _whole(self, batch: MaskedBatch) -> Whole:
        images = self.normalise(batch.images)

        def tokens() -> Tokens:
            with torch.no_grad():
                return cells_of(self.backbone, images)

        return Whole(images=images, tokens=tokens, done=self.done if self.training else 1.0)

    def restore(self, batch: MaskedBatch) -> list[Restored]:
        """Pictures of each image, of what was left of it and of what is told, on the CPU and as images are stored."""
        whole = self._whole(batch)
        images = batch.images
        drawn = [Drawn(title="image", images=images, is_normalised=False)]
        if batch.beside is not None:
            drawn.append(Drawn(title="other date, seen whole", images=batch.beside, is_normalised=False))
        if batch.is_removed is None:
            hidden = over_pixels(batch.is_hidden, (images.shape[2], images.shape[3]), self.patch)
            title = f"shown, {float((~hidden).float().mean()):.0%}"
            drawn.append(Drawn(title=title, images=images, is_normalised=False, is_gone=hidden))
        else:
            drawn.append(Drawn(title="shown, without some frequencies", images=self.corrupted(batch)))
        drawn += self.target.drawn(self.told(batch), batch, whole)
        return [
            Restored(
                id=batch.ids[i],
                image_id=batch.image_ids[i],
                panels=tuple(self._panel(one, i, images.dtype) for one in drawn),
                note=self.target.note,
            )
            for i in range(len(batch))
        ]

    def _panel(self, drawn: Drawn, at: int, dtype: torch.dtype) -> Panel:
        """Of one image; of normalised ones as they were stored."""
        image = drawn.images[at]
        image = self.normalise.undone(image, dtype) if drawn.is_normalised else image
        return Panel(
            title=drawn.title, image=image.cpu(), is_gone=None if drawn.is_gone is None else drawn.is_gone[at].cpu()
        )

    def units(self, batch: MaskedBatch) -> Mapping[str, float | Tensor]:
        """As the target counts."""
        return self.target.units(batch)

    def told(self, batch: MaskedBatch) -> Tensor:
        """float[B, L, V], what the decoder says of every patch, in the order of the target's values.

        Of a target of the patches that are shown float[B, K, V].
        """
        images = self.corrupted(batch)
        shown = batch.shown if self.config.corruption.drops else None
        grid_hw = (images.shape[2] // self.patch, images.shape[3] // self.patch)
        if batch.is_unplaced is not None and isinstance(self.backbone, UnplacedBackbone):
            tokens = self.backbone.unplaced_tokens(images, batch.shown, batch.is_unplaced, self.nowhere)
        else:
            tokens = cells_of(self.backbone, images, shown)
        if self.target.of_shown:
            return self.decoder.among(tokens)
        beside = None if batch.beside is None else cells_of(self.backbone, self.normalise(batch.beside))
        return self.decoder(tokens, shown, grid_hw, beside)

    def corrupted(self, batch: MaskedBatch) -> Tensor:
        """float[B, C, H, W], normalised: what the encoder is shown of, or as a whole."""
        if batch.is_removed is None:
            images = self.normalise(batch.images)
            gone = images.new_zeros(1, self.patch, self.patch) if self.config.corruption.drops else self.instead
            return without(images, batch.is_hidden, gone)
        left = without_frequencies(batch.images.float() / full_scale(batch.images.dtype), batch.is_removed)
        return self.normalise(left if self.is_raw else left.clamp(0, 1))  # raw values have no black and white

    def predict(self, batch: MaskedBatch) -> list[Embedded]:
        """The mean of the patches of each whole image, of length 1, on the CPU."""
        found = F.normalize(cells_of(self.backbone, self.normalise(batch.images)).patches.float().mean(dim=1), dim=1)
        found = found.cpu()
        return [
            Embedded(
                id=batch.ids[i], image_id=batch.image_ids[i], image=found[i], texts=found.new_zeros(0, found.shape[1])
            )
            for i in range(len(batch))
        ]


def _check_fit(config: MaskedConfig, backbone: Backbone, *, of_shown: bool) -> None:
    """
    Raises:
        UserError: parts that do not fit each other.
    """
    told = config.corruption
    if told.drops and not isinstance(backbone, TokenBackbone):
        what = f"a backbone of kind {config.backbone.kind} has no tokens to hide"
        raise UserError(what, where="task.backbone", fix=NO_TOKENS)
    if told.drops and not of_shown and not config.decoder.tells_of_others:
        what = "a decoder that says of each patch what it alone is given tells nothing of those that were dropped"
        raise UserError(what, where="task.decoder", fix="--set task.corruption.replaced=true")
    if told.unplaced and not told.drops:
        what = "positions are left out where patches are dropped, and here the encoder sees something in their place"
        raise UserError(what, where="task.corruption.unplaced", fix="--set task.corruption.replaced=false")
    if told.unplaced and not isinstance(backbone, UnplacedBackbone):
        what = f"a backbone of kind {config.backbone.kind} always says where a patch lies"
        raise UserError(what, where="task.backbone", fix="use kind intern_vit")
    if of_shown and not told.unplaced:
        what = "positions are to be told, and the encoder knows them all"
        raise UserError(what, where="task.target", fix="--set 'task.corruption={kind: patches, unplaced: 0.75}'")
    if of_shown and config.decoder.looks_beside:
        what = "a decoder that looks at another image of the same place needs to know no position of this one"
        raise UserError(what, where="task.decoder.looks_beside", fix="--set task.decoder.looks_beside=false")


def cells_of(backbone: Backbone, images: Tensor, keep: Tensor | None = None) -> Tokens:
    """Patches of images float[B, C, H, W]: a ViT's tokens, or the cells of any other's last map, which keeps all."""
    if isinstance(backbone, TokenBackbone):
        return backbone.tokens(images, keep)
    last = backbone(images)[-1]
    cells = last.flatten(2).transpose(1, 2)
    return Tokens(patches=cells, grid_hw=(last.shape[2], last.shape[3]), before_norm=cells)


def without(images: Tensor, is_hidden: Tensor, instead: Tensor) -> Tensor:
    """Normalised images float[B, C, H, W] with a patch float[C or 1, p, p] in place of those hidden, bool[B, L]."""
    patch = instead.shape[1]
    height, width = (side // patch for side in images.shape[2:])
    cells = is_hidden.view(len(images), 1, height, width)
    return torch.where(
        cells.repeat_interleave(patch, 2).repeat_interleave(patch, 3), instead.repeat(1, height, width), images
    )

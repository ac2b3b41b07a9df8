"""Images and texts in one space: which caption belongs to which image.

Source: CLIP (arXiv:2103.00020).
Differs: the contrastive loss looks at the images of one micro-batch, on one device; that of a whole step would need the
    vectors of all of them at once.
Shapes: B images, N captions (any number each) -> unit vectors float[B, E], float[N, E].
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import Backbone, DataInfo, Embedded, Ratio, Sample, StepOutput, TaskTraits
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart
from vistruct.ops.seeds import derive
from vistruct.tasks.features import tokens_of
from vistruct.tasks.pixels import Normalise, padded_to, stacked
from vistruct.vlm.clip import CLIP_MEAN, CLIP_STD, ClipConfig
from vistruct.vlm.text_tower import Tokenizer


class MatchConfig(Part):
    """A CLIP."""

    kind: Literal["match"] = "match"
    backbone: BackbonePart
    clip: ClipConfig
    mean: tuple[float, float, float] = CLIP_MEAN  # of RGB in [0, 1]
    std: tuple[float, float, float] = CLIP_STD

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Match:
        """A tokenizer that is not CLIP's own lies in `assets`.

        Raises:
            UserError: parts that do not fit each other.
        """
        return Match(self, assets, backbone)


@dataclass(kw_only=True)
class PairBatch:
    """Images of one size with their captions."""

    ids: list[str]
    image_ids: list[str]
    images: Tensor  # uint8, uint16 or float32[B, 3, H, W]
    tokens: Tensor  # int64[N, L], captions end to end
    captions: list[tuple[str, ...]]  # of each image
    chosen: list[int]  # of all captions, the one of each image that is learned; empty: of an image that has none
    cut: list[int]  # of each image, captions whose end is not read

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        moved = {"images": self.images, "tokens": self.tokens}
        return replace(self, **{name: one.to(device, non_blocking=True) for name, one in moved.items()})


@dataclass(frozen=True, kw_only=True)
class PairCollator:
    """Samples -> PairBatch. Holds no weights, so that it travels to worker processes."""

    tokenizer: Tokenizer

    def __call__(self, samples: list[Sample]) -> PairBatch:
        shape = samples[0].images[0].shape
        other = next((one for one in samples if one.images[0].shape != shape), None)
        if other is not None:
            what = f"images of {_said(other.images[0])} and {_said(samples[0].images[0])} pixels in one batch"
            raise UserError(what, where=other.id, fix="--size N brings all to one size")
        starts = [0]
        for sample in samples:
            starts.append(starts[-1] + len(sample.captions))
        drawn = [random.Random(derive(one.seed, "caption")).randrange(len(one.captions) or 1) for one in samples]
        return PairBatch(
            ids=[sample.id for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            images=stacked([sample.images[0] for sample in samples], (shape[1], shape[2])),
            tokens=self.tokenizer([text for sample in samples for text in sample.captions]),
            captions=[sample.captions for sample in samples],
            chosen=[at + n for at, n, one in zip(starts, drawn, samples, strict=False) if one.captions],
            cut=[sum(map(self.tokenizer.is_cut, sample.captions)) for sample in samples],
        )


class Match(nn.Module):
    """PairBatch -> StepOutput in training, vectors from `predict`."""

    def __init__(self, config: MatchConfig, assets: Path, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(config.mean, config.std, 3)
        self.backbone = tokens_of(config.backbone, backbone)
        self.clip = config.clip.build(self.backbone.width, assets)

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(prediction="embeddings", terms=("pairs",))

    @property
    def collator(self) -> PairCollator:
        return PairCollator(tokenizer=self.clip.text.tokenizer)

    def of_images(self, images: Tensor) -> Tensor:
        """float[B, E], of length 1, of images [B, 3, H, W] as a batch has them."""
        return self.clip.of_images(self.backbone.tokens(padded_to(self.normalise(images), self.backbone.patch)))

    def forward(self, batch: PairBatch) -> StepOutput:
        """Symmetric contrastive loss: each image among the captions of this micro-batch, each caption among its images.

        A caption of each image is drawn. A larger micro-batch is a harder question: with another split over
        micro-batches and devices the loss is another one, which no other task's is.

        Raises:
            UserError: an image without a caption.
        """
        if len(batch.chosen) < len(batch):
            name = next(name for name, own in zip(batch.ids, batch.captions, strict=True) if not own)
            raise UserError("no caption to learn from", where=name, fix="use data with captions (kind: captions)")
        chosen = batch.tokens[torch.tensor(batch.chosen, device=batch.tokens.device)]
        logits = self.clip.logits(self.of_images(batch.images), self.clip.of_tokens(chosen))  # [B, B]
        own = torch.arange(len(batch), device=logits.device)
        total = sum(F.cross_entropy(way, own, reduction="sum") for way in (logits, logits.T)) / 2
        right = Ratio(total=(logits.detach().argmax(dim=1) == own).sum(), count=len(batch))
        return StepOutput(terms={"pairs": torch.as_tensor(total)}, metrics={"right": right})

    def units(self, batch: PairBatch) -> Mapping[str, float | Tensor]:
        """Images."""
        return {"pairs": float(len(batch))}

    def predict(self, batch: PairBatch) -> list[Embedded]:
        """The vectors of each image and of its captions, on the CPU."""
        images, texts = self.of_images(batch.images).cpu(), self.clip.of_tokens(batch.tokens).cpu()
        each = texts.split([len(own) for own in batch.captions])
        return [
            Embedded(
                id=batch.ids[i],
                image_id=batch.image_ids[i],
                image=images[i],
                texts=each[i],
                captions=batch.captions[i],
                cut=batch.cut[i],
            )
            for i in range(len(batch))
        ]


def _said(image: Tensor) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"

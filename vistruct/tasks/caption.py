"""Captions: a sentence about an image as a whole; of single characters, the text that is in it.

Each time an image is shown one of its captions is learned, drawn by the sample's seed. The published code shows every
caption as a sample of its own: the same in the mean where all images have as many captions, and else images of many
captions weigh more there; a batch here never has an image twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vistruct.config import Part
from vistruct.contracts import Backbone, CaptionPrediction, DataInfo, Ratio, Sample, StepOutput, TaskTraits
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart, CaptionHeadPart, NeckPart
from vistruct.ops.seeds import derive
from vistruct.tasks.features import features
from vistruct.tasks.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalise,
    Statistics,
    padded_to,
    stacked,
    with_statistics,
)
from vistruct.vlm.beam import search
from vistruct.vlm.vocabulary import Units, Vocabulary, open_vocabulary
from vistruct.vlm.words import END, PAD, START

NEEDS = "use data with captions (kind: captions)"


class CaptionConfig(Part):
    """The parts; images of one batch must have one size (data.resize)."""

    kind: Literal["caption"] = "caption"
    backbone: BackbonePart
    neck: NeckPart | None = None
    head: CaptionHeadPart
    units: Units = "words"  # words in small letters without punctuation; characters as they are; subwords of any text
    words: Path | None = None  # a WORDMAP json, or a tokenizer.json of subwords; None: made of the training captions
    least_count: int = Field(6, gt=0)  # words, characters: how often one must occur to be known
    vocab_size: int = Field(4096, ge=300)  # subwords: of a vocabulary that is made
    longest: int = Field(50, gt=0)  # units of a caption, learned or said; the rest of a longer one is cut off
    beams: int = Field(3, gt=0)  # sentences followed at once; 1: greedy
    mean: Statistics = IMAGENET_MEAN  # of each channel in [0, 1]; data: measured on the training data
    std: Statistics = IMAGENET_STD

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Caption:
        """Build with the words in `assets`, which are put there if they are not.

        Raises:
            UserError: data without captions, or parts that do not fit each other.
        """
        words = open_vocabulary(
            assets, self.units, info.corpus, given=self.words, least=self.least_count, size=self.vocab_size
        )
        return Caption(with_statistics(self, info), words, info.channels, backbone)


@dataclass(kw_only=True)
class CaptionBatch:
    """Images of one size, with one caption of each."""

    ids: list[str]
    image_ids: list[str]
    images: Tensor  # uint8, uint16 or float32[B, C, H, W]
    captions: Tensor  # int64[B, L], start, units, end, padding
    lengths: Tensor  # int64[B], start and end too; 0: an image without a caption
    is_cut: Tensor  # bool[B], whether its caption was longer

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        moved = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class CaptionCollator:
    """Samples -> CaptionBatch. Holds no weights, so that it travels to worker processes."""

    channels: int
    vocabulary: Vocabulary
    longest: int

    def __call__(self, samples: list[Sample]) -> CaptionBatch:
        drawn = [self._drawn(sample, samples[0]) for sample in samples]
        end = self.vocabulary.numbers[END]
        kept = [row if len(row) <= self.longest + 2 else [*row[: self.longest + 1], end] for row in drawn]
        height, width = samples[0].images[0].shape[1:]
        return CaptionBatch(
            ids=[sample.id for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            images=stacked([sample.images[0] for sample in samples], (height, width)),
            captions=pad_sequence(
                [torch.tensor(row, dtype=torch.int64) for row in kept],
                batch_first=True,
                padding_value=self.vocabulary.numbers[PAD],
            ),
            lengths=torch.tensor([len(row) for row in kept]),
            is_cut=torch.tensor([len(row) < len(whole) for row, whole in zip(kept, drawn, strict=True)]),
        )

    def _drawn(self, sample: Sample, first: Sample) -> list[int]:
        """The numbers of one of its captions.

        Raises:
            UserError: not one image, or one of another size than the first.
        """
        if len(sample.images) != 1:
            what = f"a caption is about one image, this sample has {len(sample.images)}"
            raise UserError(what, where=sample.id, fix=NEEDS)
        found, shape = (tuple(one.images[0].shape) for one in (sample, first))
        if found[0] != self.channels:
            what = f"an image of {found[0]} channels, the model takes {self.channels}"
            raise UserError(what, where=sample.id, fix="choose --bands")
        if found != shape:
            what = f"images of {found[2]} x {found[1]} and {shape[2]} x {shape[1]} pixels in one batch"
            raise UserError(what, where=sample.id, fix="--size N of `caption` brings all to one size")
        if not sample.captions:
            return []
        return self.vocabulary.encode(sample.captions[derive(sample.seed, "caption") % len(sample.captions)])


class Caption(nn.Module):
    """CaptionBatch -> StepOutput in training, sentences from `predict`."""

    def __init__(
        self, config: CaptionConfig, words: Vocabulary, channels: int, backbone: Backbone | None = None
    ) -> None:
        super().__init__()
        self.config, self.vocabulary, self.channels = config, words, channels
        maps = features(config.backbone, config.neck, channels=channels, shared=backbone)
        self.normalise = Normalise(config.mean, config.std, channels)
        self.backbone, self.neck, self.size_divisor = maps.backbone, maps.neck, maps.size_divisor
        self.head = config.head.build(maps.specs, len(words))

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(prediction="captions", terms=self.head.terms)

    @property
    def collator(self) -> Callable[[list[Sample]], CaptionBatch]:
        return CaptionCollator(channels=self.channels, vocabulary=self.vocabulary, longest=self.config.longest)

    def forward(self, batch: CaptionBatch) -> StepOutput:
        """
        Raises:
            UserError: an image without captions.
        """
        return self.learn(self.backbone(self.images(batch)), batch)

    def images(self, batch: CaptionBatch) -> Tensor:
        """float[B, C, H, W] that the backbone is shown."""
        return padded_to(self.normalise(batch.images), self.size_divisor)

    def learn(self, maps: list[Tensor], batch: CaptionBatch) -> StepOutput:
        """The terms of the loss, from the backbone's maps.

        Raises:
            UserError: an image without captions.
        """
        if not bool(batch.lengths.all()):
            name = batch.ids[int((batch.lengths == 0).nonzero()[0])]
            raise UserError("no caption to learn from", where=name, fix=NEEDS)
        found = self.head.learn(self._features(maps), batch.captions, batch.lengths)
        cut = Ratio(total=batch.is_cut.sum(), count=len(batch))
        return StepOutput(terms=found.terms, metrics={**found.metrics, "cut": cut})

    def units(self, batch: CaptionBatch) -> Mapping[str, float | Tensor]:
        """Over how many words (and places) the batch sums its loss."""
        return self.head.units(batch.lengths)

    def _features(self, maps: list[Tensor]) -> list[Tensor]:
        return maps if self.neck is None else self.neck(maps)

    @torch.no_grad()
    def predict(self, batch: CaptionBatch) -> list[CaptionPrediction]:
        """One sentence for each sample."""
        state = self.head.begin(self._features(self.backbone(self.images(batch))))
        numbers = self.vocabulary.numbers
        said = search(
            self.head.step,
            state,
            start=numbers[START],
            end=numbers[END],
            beams=min(self.config.beams, len(self.vocabulary)),
            longest=self.config.longest,
        )
        return [
            CaptionPrediction(
                id=batch.ids[row],
                image_id=batch.image_ids[row],
                caption=self.vocabulary.decode(list(one.numbers)),
                log_probability=one.log_probability,
                is_finished=one.is_finished,
            )
            for row, one in enumerate(said)
        ]

"""Alignment: an image's visual tokens are near to those rows of the vocabulary that its answers are near to.

Source: CoMP (arXiv:2503.18931): cross-entropy of images' shares of word prototypes with Sinkhorn-balanced ones of
    texts, beside the next-token loss with a weight of 0.05; temperatures 0.005 as published.
Differs: Sinkhorn's factors come from earlier steps, a round a step (as in `self_distill`), so that the loss is a sum
    over images; prototypes are balanced to how often earlier answers held each word, not to a list from elsewhere.
    Answers are joined in their order, and of several tiles or images the one that shows all of the first image counts.
Shapes: S samples with an image and an answer, V words, D language width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.distributed.ranks import all_reduce_sum
from vistruct.vlm import packed
from vistruct.vlm.batch import ChatBatch, send
from vistruct.vlm.chat import IGNORE

MOST_SHIFT = 1.0  # of the logarithm of a word's load, in a round of Sinkhorn's
LEAST_SHARE = 1e-9  # of a word, below which it is as good as never said


class Alignment(Part):
    """How sharp shares are, and how fast balance is found."""

    image_temperature: float = Field(0.005, gt=0)
    text_temperature: float = Field(0.005, gt=0)
    rate: float = Field(0.1, gt=0, le=1)  # that balance follows the steps with

    def build(self, words: int) -> Aligned:
        """For a vocabulary of so many rows."""
        return Aligned(self, words)


class Aligned(nn.Module):
    """What images' and texts' means say of the vocabulary, compared."""

    centre: Tensor  # float32[V], taken from texts' similarities: Sinkhorn's factors as logarithms
    said: Tensor  # float32[V], how often earlier answers held each word, fading

    def __init__(self, config: Alignment, words: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("centre", torch.zeros(words))
        self.register_buffer("said", torch.zeros(words))
        self._step: list[Tensor] = []  # of each micro-batch of this step, float32[2, V]: shares of texts, words

    def before_step(self) -> None:
        """Forget what a step that was broken off has left."""
        self._step = []

    @torch.no_grad()
    def after_step(self) -> None:
        """Words that texts were given too often, for what answers hold, are given less from now on; over all ranks."""
        own = torch.stack(self._step).sum(dim=0) if self._step else self.centre.new_zeros(2, len(self.centre))
        load, words = all_reduce_sum(own)
        rate = self.config.rate
        if words.sum() > 0:
            self.said.mul_(1 - rate).add_(rate * words)
            due = (self.said / self.said.sum()).clamp(min=LEAST_SHARE)
            shift = ((load / load.sum()).clamp(min=LEAST_SHARE) / due).log().clamp(-MOST_SHIFT, MOST_SHIFT)
            self.centre.add_(rate * self.config.text_temperature * shift)
        self._step = []

    def forward(self, images: Tensor, texts: Tensor, table: Tensor, words: Tensor) -> Tensor:
        """float[], cross-entropy of what images say with what texts say, summed over samples.

        Args:
            images, texts: float[S, D], means; only images learn.
            table: float[V, D], of the vocabulary's output.
            words: int64[...], of all answers of these samples.
        """
        with torch.autocast(images.device.type, enabled=False):
            prototypes = F.normalize(table.detach().float(), dim=1)
            near = F.normalize(texts.detach().float(), dim=1) @ prototypes.T
            told = ((near - self.centre) / self.config.text_temperature).softmax(dim=1)  # [S, V]
            said = (F.normalize(images.float(), dim=1) @ prototypes.T / self.config.image_temperature).log_softmax(1)
            if self.training:
                counts = torch.bincount(words, minlength=len(self.centre)).to(told)
                self._step.append(torch.stack([told.sum(dim=0), counts]))
            return -(told * said).sum()


def joined_answers(batch: ChatBatch, end: int) -> tuple[list[int], list[Tensor]]:
    """Samples that have an image and an answer, and int64[...] the words of their answers, end marks left out."""
    answers: dict[int, list[Tensor]] = {}
    for owner, labels in zip(batch.owners, batch.labels.split(batch.lengths), strict=True):
        if owner >= 0 and batch.whole_tiles[owner] >= 0:
            answers.setdefault(owner, []).append(labels[(labels != IGNORE) & (labels != end)])
    joined = {owner: torch.cat(parts) for owner, parts in answers.items()}
    kept = [owner for owner, words in joined.items() if len(words)]
    return kept, [joined[owner] for owner in kept]


def aligned(task: Any, batch: ChatBatch, visual: Tensor | None, cells: Tensor | None) -> Tensor:
    """float[], the term of Instruct for a batch; of its samples without an image or an answer nothing.

    Args:
        visual: float[P, D], what the language model may see of the batch's tiles; None: there are none.
        cells: bool[T, C], which cells these are; None: all.
    """
    samples, words = joined_answers(batch, task.end_token)
    table = task.language.get_output_embeddings().weight
    # Of no sample as well: every rank calls the language model equally often.
    texts = text_means(task.language, words or [torch.tensor([task.end_token])])
    if visual is None or not samples:
        return texts.new_zeros(())
    if cells is None:
        shown = torch.arange(len(batch.tiles)).repeat_interleave(len(visual) // len(batch.tiles))
    else:
        shown = cells.nonzero()[:, 0]
    own = torch.tensor([batch.whole_tiles[number] for number in samples])
    shares = F.normalize((shown[None] == own[:, None]).float(), p=1, dim=1)  # [S, P]
    with torch.autocast(visual.device.type, enabled=False):
        images = send(shares, visual.device) @ visual.float()
    return task.alignment(images, texts, table, send(torch.cat(words), visual.device))


@torch.no_grad()
def text_means(language: nn.Module, texts: Sequence[Tensor]) -> Tensor:
    """float32[S, D], the mean of the last states over each text, int64[...] on the CPU, read for itself."""
    model: Any = language
    table = model.get_input_embeddings()
    lengths, device = [len(text) for text in texts], table.weight.device
    positions = send(torch.cat([torch.arange(length) for length in lengths]), device)
    embedded = table(send(torch.cat(list(texts)), device))
    hidden = packed.decode(language, embedded, positions, packed.segments(lengths, device))
    return torch.stack([row.float().mean(dim=0) for row in hidden.split(lengths)])

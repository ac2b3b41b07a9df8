"""Images and texts in one space: which caption belongs to which image.

Source: CLIP (arXiv:2103.00020); SigLIP (arXiv:2303.15343) for pairs that are right or wrong each by itself; texts that
    stand still, from LiT (arXiv:2111.07991) with the sides exchanged.
Differs: among captions of a batch the loss looks at one micro-batch, on one device. Among the bank, all texts of the
    data, it is a sum over images, the same however a step was split; the text tower stands still there.
Shapes: B images, N captions (any number each), M texts in the bank -> unit vectors float[B, E], [N, E], [M, E].
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import Backbone, DataInfo, Embedded, Ratio, Sample, StepOutput, TaskTraits
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.files.text import write_text
from vistruct.kinds import BackbonePart
from vistruct.ops.contrast import are_first, sigmoid_loss, softmax_loss
from vistruct.ops.seeds import derive
from vistruct.tasks.features import tokens_of
from vistruct.tasks.pixels import Normalise, padded_to, stacked
from vistruct.vlm.clip import CLIP_MEAN, CLIP_STD, ClipConfig
from vistruct.vlm.text_tower import Tokenizer

TEXTS = "text_bank.json"  # beside a model's weights


class MatchConfig(Part):
    """A CLIP."""

    kind: Literal["match"] = "match"
    backbone: BackbonePart
    clip: ClipConfig
    among: Literal["batch", "bank"] = (
        "batch"  # what a caption is told from: those of a micro-batch, all texts of the data
    )
    loss: Literal["softmax", "sigmoid"] = "softmax"  # sigmoid: SigLIP's, among the bank
    mean: tuple[float, float, float] = CLIP_MEAN  # of RGB in [0, 1]
    std: tuple[float, float, float] = CLIP_STD

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Match:
        """A tokenizer that is not CLIP's own lies in `assets`, and the texts of the bank.

        Raises:
            UserError: data without texts for the bank; parts that do not fit each other.
        """
        if self.loss == "sigmoid" and self.among == "batch":
            what = "the sigmoid loss looks at all pairs of a text and an image, and a micro-batch has a few"
            raise UserError(what, where="--loss", fix="--among bank")
        if self.loss == "sigmoid" and not self.clip.has_bias:
            what = "the sigmoid loss needs the bias that SigLIPs have, and this CLIP has none"
            raise UserError(what, where="--loss", fix="--loss softmax")
        texts = texts_of(assets, info.corpus) if self.among == "bank" else ()
        return Match(self, assets, texts, backbone)


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


@dataclass(frozen=True, kw_only=True)
class Bank:
    """All texts of the data."""

    vectors: Tensor  # float32[M, E], of length 1
    places: Mapping[str, int]

    def place(self, text: str) -> int:
        """Where it stands.

        Raises:
            UserError: it is none of them.
        """
        if text not in self.places:
            what = f"a text that is none of those learned from: {text!r}"
            raise UserError(what, where="data", fix="measure by retrieval: --data PATH of `vistruct eval`")
        return self.places[text]


class Match(nn.Module):
    """PairBatch -> StepOutput in training, vectors from `predict`."""

    def __init__(
        self,
        config: MatchConfig,
        assets: Path,
        texts: Sequence[str] = (),
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(config.mean, config.std, 3)
        self.backbone = tokens_of(config.backbone, backbone)
        self.clip = config.clip.build(self.backbone.width, assets)
        self.texts = tuple(texts)
        self._bank: Bank | None = None

    @property
    def traits(self) -> TaskTraits:
        still = ("clip.text",) if self.config.among == "bank" else ()
        return TaskTraits(prediction="embeddings", terms=("pairs",), still=still)

    @property
    def collator(self) -> PairCollator:
        return PairCollator(tokenizer=self.clip.text.tokenizer)

    def of_images(self, images: Tensor) -> Tensor:
        """float[B, E], of length 1, of images [B, 3, H, W] as a batch has them."""
        return self.clip.of_images(self.backbone.tokens(padded_to(self.normalise(images), self.backbone.patch)))

    def forward(self, batch: PairBatch) -> StepOutput:
        """Symmetric contrastive loss: each image among the captions of this micro-batch, each caption among its images;
        or each image among all texts of the data (`among`).

        A caption of each image is drawn. Of the first kind, a larger micro-batch is a harder question: with another
        split over micro-batches and devices the loss is another one, which no other task's is.

        Raises:
            UserError: an image without a caption.
        """
        if len(batch.chosen) < len(batch):
            name = next(name for name, own in zip(batch.ids, batch.captions, strict=True) if not own)
            raise UserError("no caption to learn from", where=name, fix="use data with captions (kind: captions)")
        if self.config.among == "bank":
            return self._among_all(batch)
        chosen = batch.tokens[torch.tensor(batch.chosen, device=batch.tokens.device)]
        logits = self.clip.logits(self.of_images(batch.images), self.clip.of_tokens(chosen))  # [B, B]
        own = torch.arange(len(batch), device=logits.device)
        total = sum(F.cross_entropy(way, own, reduction="sum") for way in (logits, logits.T)) / 2
        right = Ratio(total=(logits.detach().argmax(dim=1) == own).sum(), count=len(batch))
        return StepOutput(terms={"pairs": torch.as_tensor(total)}, metrics={"right": right})

    def _among_all(self, batch: PairBatch) -> StepOutput:
        """Each image's caption among all texts of the data but its other captions."""
        bank, images = self.bank(), self.of_images(batch.images)
        said = [text for own in batch.captions for text in own]
        right = torch.tensor([bank.place(said[at]) for at in batch.chosen], device=images.device)
        is_none = torch.zeros(len(images), len(bank.vectors), dtype=torch.bool)
        for row, own in zip(is_none, batch.captions, strict=True):
            row[[bank.place(text) for text in own]] = True
        with torch.autocast(images.device.type, enabled=False):
            logits, is_none = self.clip.logits(images.float(), bank.vectors), is_none.to(images.device)
            pair = logits.gather(1, right[:, None])[:, 0]
            loss = sigmoid_loss if self.config.loss == "sigmoid" else softmax_loss
            total = loss(pair, logits, is_none)
        first = Ratio(total=are_first(pair, logits, is_none).sum(), count=len(batch))
        return StepOutput(terms={"pairs": total}, metrics={"right": first})

    @torch.no_grad()
    def bank(self) -> Bank:
        """All texts of the data, read once, for the text tower does not learn beside it."""
        if self._bank is None:
            is_training = self.clip.text.training
            with torch.autocast(self.clip.logit_scale.device.type, enabled=False):
                self.clip.text.eval()
                vectors = self.clip.of_texts(self.texts)
            self.clip.text.train(is_training)
            self._bank = Bank(vectors=vectors, places={text: n for n, text in enumerate(self.texts)})
        return self._bank

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


def texts_of(assets: Path, corpus: Callable[[], Iterator[str]] | None) -> tuple[str, ...]:
    """Each text once: those kept in `assets`, and those of the data, which are kept there too.

    Raises:
        UserError: there are none.
    """
    file = assets / TEXTS
    kept: list[str] = read_json(file) if file.is_file() else []
    texts = tuple(dict.fromkeys([*kept, *(() if corpus is None else corpus())]))
    if not texts:
        raise UserError("no texts to tell apart", where="data", fix="use data with captions (kind: captions)")
    if len(texts) > len(kept):
        write_text(file, [json.dumps(texts, ensure_ascii=False)])
    return texts


def _said(image: Tensor) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"

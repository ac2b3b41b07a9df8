"""Instruct: a vision-language model answers about the image; the backbone learns from the answers.

Source: InternVL (arXiv:2312.14238) for the model, ViTP (arXiv:2509.17562) for training it end to end under
VRL.
Differs: only supervised positions reach the vocabulary (the same loss and gradient, far less work); rows are
padded to the longest of the batch and no further.
Shapes: B rows, L tokens in a row, T tiles of all rows together, N visual tokens a tile, D language width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from vistruct.config import AnyPart, Part
from vistruct.contracts import AnswerPrediction, DataInfo, Sample, StepOutput
from vistruct.ops.seeds import derive
from vistruct.vlm import chat
from vistruct.vlm import vrl as vrl_
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.projector import Projector, pixel_shuffle
from vistruct.vlm.splice import splice
from vistruct.vlm.tiling import Tiling, tile

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class InstructConfig(Part):
    """A vision-language model and how its backbone is made robust."""

    kind: Literal["instruct"] = "instruct"
    backbone: AnyPart
    language: LanguageConfig = LanguageConfig()
    tiling: Tiling = Tiling()
    shuffle: int = Field(2, gt=0)  # patches merged into one visual token, per side
    vrl: vrl_.Vrl | Literal["off", "paper", "published-code"] = "paper"
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of pixels in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD
    independent: bool = False  # each question of a conversation is asked alone; one pass of the backbone for all
    image_last: bool = False  # images stand behind independent questions and not in front
    answer_dropout: float = Field(0.0, ge=0, le=1)  # chance that an answer's token is hidden from those after it
    max_new_tokens: int = Field(64, gt=0)  # of a generated answer

    @model_validator(mode="after")
    def _fits(self) -> InstructConfig:
        cell = getattr(self.backbone, "patch", 1) * self.shuffle
        if self.tiling.size % cell:
            raise ValueError(f"tiling.size={self.tiling.size} is not a multiple of patch * shuffle = {cell}")
        return self

    def build(self, info: DataInfo, assets: Path) -> Instruct:
        return Instruct(self, self.language.load_tokenizer(assets, info.corpus))


@dataclass(kw_only=True)
class ChatBatch:
    """Rows padded to the longest; padding has `is_padding` true and label IGNORE.

    Several rows may ask about the same image: `tiles` holds it once, `mentions` says which tiles each row
    shows.
    """

    ids: list[str]  # of the rows' samples
    image_ids: list[str]
    seeds: Tensor  # int64[B]
    tiles: Tensor  # uint8[T, 3, S, S]
    mentions: Tensor  # int64[M], tiles in the order in which the rows mention them
    input_ids: Tensor  # int64[B, L]
    labels: Tensor  # int64[B, L]
    is_padding: Tensor  # bool[B, L]
    questions: list[str]  # the last user turn of each row, without an image mark before or behind it
    truths: list[str]  # the answer after it, "" if there is none

    def to(self, device: torch.device) -> Self:
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor) and f.name != "seeds"
        }
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class ChatCollator:
    """Samples -> ChatBatch; holds the tokenizer and no weights, so that it can travel to a worker."""

    tokenizer: Any  # PreTrainedTokenizerFast
    tiling: Tiling
    tokens_per_tile: int
    independent: bool = False  # see `InstructConfig`
    image_last: bool = False
    generate: bool = False  # rows end with an open answer, the last answer becomes the truth

    def __call__(self, samples: Sequence[Sample]) -> ChatBatch:
        tiles: list[Tensor] = []
        rows: list[chat.Row] = []
        mentions: list[int] = []
        owners: list[tuple[Sample, int]] = []  # of each row, and which question of the sample's it is
        questions, truths = [], []
        for sample in samples:
            cut = [tile(image, self.tiling, len(sample.images)) for image in sample.images]
            numbers = list(range(sum(map(len, tiles)), sum(map(len, tiles)) + sum(map(len, cut))))
            tiles += cut
            turns = chat.with_marks(sample.turns, len(cut))
            apart = chat.apart(turns, image_last=self.image_last) if self.independent else [turns]
            for at, asked in enumerate(apart[-1:] if self.generate else apart):
                shown, truth = list(asked), ""
                if self.generate and shown and shown[-1].role == "assistant":
                    truth = shown.pop().text
                counts = [len(t) * self.tokens_per_tile for t in cut]
                rows.append(chat.encode(shown, counts, self.tokenizer, answer=self.generate))
                mentions += numbers
                owners.append((sample, at))
                last = next((t.text for t in reversed(shown) if t.role == "user"), "")
                questions.append(last.removeprefix(f"{chat.IMAGE_PLACE}\n").removesuffix(f"\n{chat.IMAGE_PLACE}"))
                truths.append(truth)
        size = self.tiling.size
        return ChatBatch(
            ids=[s.id for s, _ in owners],
            image_ids=[s.image_id for s, _ in owners],
            seeds=torch.tensor([derive(s.seed, "row", at) for s, at in owners], dtype=torch.int64),
            tiles=torch.cat(tiles) if tiles else torch.zeros(0, 3, size, size, dtype=torch.uint8),
            mentions=torch.tensor(mentions, dtype=torch.int64),
            input_ids=_pad([r.input_ids for r in rows], self.tokenizer.pad_token_id or 0),
            labels=_pad([r.labels for r in rows], chat.IGNORE),
            is_padding=_pad([[0] * len(r.input_ids) for r in rows], 1).bool(),
            questions=questions,
            truths=truths,
        )


def _pad(rows: Sequence[list[int]], value: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], dtype=torch.int64)


class Instruct(nn.Module):
    """Backbone, pixel shuffle, projector and language model, trained on the answers."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: InstructConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.vrl = vrl_.PRESETS[config.vrl] if isinstance(config.vrl, str) else config.vrl
        part: Any = config.backbone
        self.backbone: Any = part.build()
        self.language: Any = config.language.build(tokenizer)
        width = self.language.get_input_embeddings().weight.shape[1]
        self.projector = Projector(self.backbone.width * config.shuffle**2, width)
        self.image_token: Any = tokenizer.convert_tokens_to_ids(chat.IMAGE_TOKEN)
        self.grid = config.tiling.size // self.backbone.patch  # patches a tile's side
        self.tokens_per_tile = (self.grid // config.shuffle) ** 2
        self.register_buffer("pixel_mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    @property
    def is_blind_to_answers(self) -> bool:
        """Whether every token of an answer is written without reading those before it."""
        return self.config.answer_dropout == 1.0

    @property
    def hidden_token(self) -> int:
        """What stands where an answer's token is hidden."""
        return self.tokenizer.pad_token_id or 0

    @property
    def collator(self) -> ChatCollator:
        """For training: whole conversations with their answers."""
        return ChatCollator(
            tokenizer=self.tokenizer,
            tiling=self.config.tiling,
            tokens_per_tile=self.tokens_per_tile,
            independent=self.config.independent,
            image_last=self.config.image_last,
        )

    @property
    def predict_collator(self) -> ChatCollator:
        """For `predict`: the last answer is taken off and becomes the truth."""
        return dataclasses.replace(self.collator, generate=True)

    def visual_tokens(self, tiles: Tensor) -> Tensor:
        """uint8[T, 3, S, S] -> float[T, N, D], what the language model sees of each tile."""
        pixels = (tiles.float() / 255 - self.pixel_mean) / self.pixel_std
        patches = self.backbone.tokens(pixels)  # [T, grid * grid, width]
        return self.projector(pixel_shuffle(patches, (self.grid, self.grid), self.config.shuffle))

    def hide_answers(self, batch: ChatBatch) -> Tensor:
        """int64[B, L], the tokens as the language model reads them: in training, some answer tokens become padding.

        A small language model soon guesses an answer's next word from the words before it and leaves the
        image alone; what it cannot read it must see. One that has never read an answer (a chance of 1) reads
        none later.
        Source: word dropout, Bowman et al., arXiv:1511.06349, section 3.1.
        """
        chance = self.config.answer_dropout
        if chance == 0.0 or not (self.training or self.is_blind_to_answers):
            return batch.input_ids
        draws = [
            torch.rand(batch.labels.shape[1], generator=torch.Generator().manual_seed(derive(seed, "answer dropout")))
            for seed in batch.seeds.tolist()
        ]  # by row, so that a row's draw does not depend on its batch
        hidden = (batch.labels != chat.IGNORE) & (torch.stack(draws) < chance).to(batch.labels.device)
        return batch.input_ids.masked_fill(hidden, self.hidden_token)

    def embed(self, batch: ChatBatch) -> tuple[Tensor, Tensor]:
        """Text embeddings with the visual tokens in their places: float[B, L, D]; and where those are: bool[B, L]."""
        text = self.language.get_input_embeddings()(self.hide_answers(batch))
        is_image = batch.input_ids == self.image_token
        if len(batch.tiles):
            # Not by indexing: its gradient adds what several rows say of a tile in any order, so that no run
            # repeats.
            visual = self.visual_tokens(batch.tiles).index_select(0, batch.mentions)
            return splice(text, visual, is_image), is_image
        if dist.is_initialized() and torch.is_grad_enabled():  # a rank without images must still meet the others
            size = self.config.tiling.size
            dummy = self.visual_tokens(batch.tiles.new_zeros(1, 3, size, size))
            text = text + 0.0 * dummy.sum()
        return text, is_image

    def forward(self, batch: ChatBatch) -> StepOutput:
        """Next-token cross-entropy over the answers, from what VRL keeps of the image."""
        embeddings, is_image = self.embed(batch)
        labels, is_padding = batch.labels, batch.is_padding
        positions = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
        if self.training and self.vrl.drop_prob > 0:
            keep = vrl_.keep_mask(is_image, self.vrl, batch.seeds) & ~is_padding
            embeddings, labels, positions, is_padding = vrl_.shorten(
                keep, embeddings, labels, positions, is_padding, fill=(0.0, chat.IGNORE, 0, True)
            )
        total, count, right = embeddings.new_zeros(()), 0, 0
        for rows, length in like_lengths((~is_padding).sum(1)):
            hidden = self.hidden(embeddings[rows, :length], is_padding[rows, :length], positions[rows, :length])
            # The token at i is predicted from i - 1. Gather the supervised ones before the vocabulary, which
            # is the larger part of a small model's work.
            target = labels[rows, 1:length]
            supervised = target != chat.IGNORE
            logits = self.language.get_output_embeddings()(hidden[:, :-1][supervised]).float()  # [M, V]
            total = total + F.cross_entropy(logits, target[supervised], reduction="sum")
            count += len(logits)
            right += int((logits.detach().argmax(-1) == target[supervised]).sum())
        return StepOutput(total=total, count=count, metrics={"token_accuracy": right / max(count, 1)})

    def hidden(self, embeddings: Tensor, is_padding: Tensor, positions: Tensor) -> Tensor:
        """float[B, L, D], the last hidden states of the language model."""
        # The 2D mask is passed even without padding: from gaps in the positions alone `transformers` would
        # conclude that several samples were packed into the row, and keep them apart.
        decoder = self.language.get_decoder()
        out = decoder(inputs_embeds=embeddings, attention_mask=(~is_padding).long(), position_ids=positions)
        return out.last_hidden_state

    @torch.inference_mode()
    def predict(self, batch: ChatBatch) -> list[AnswerPrediction]:
        """Greedy answers to batches of `predict_collator`, one row at a time."""
        embeddings, _ = self.embed(batch)
        answers = []
        for row in range(len(batch.ids)):
            kept = ~batch.is_padding[row]
            ids = self.greedy(embeddings[row : row + 1, kept])
            answers.append(
                AnswerPrediction(
                    id=batch.ids[row],
                    image_id=batch.image_ids[row],
                    question=batch.questions[row],
                    answer=str(self.tokenizer.decode(ids, skip_special_tokens=False)).strip(),
                    truth=batch.truths[row],
                )
            )
        return answers

    def greedy(self, embeddings: Tensor) -> list[int]:
        """Tokens of the likeliest answer to float[1, L, D], its end mark left out."""
        end, most = self.tokenizer.convert_tokens_to_ids(chat.END), self.config.max_new_tokens
        if self.is_blind_to_answers:  # no token waits for another: one pass writes them all
            blanks = torch.full((1, most - 1), self.hidden_token, device=embeddings.device)
            row = torch.cat([embeddings, self.language.get_input_embeddings()(blanks).to(embeddings.dtype)], dim=1)
            positions = torch.arange(row.shape[1], device=row.device)[None]
            written = self.hidden(row, torch.zeros_like(positions, dtype=torch.bool), positions)[:, -most:]
            ids = self.language.get_output_embeddings()(written)[0].argmax(-1).tolist()
        else:
            ids = self.language.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device),
                max_new_tokens=most,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=self.tokenizer.pad_token_id,
            )[0].tolist()
        return ids[: ids.index(end)] if end in ids else ids


def like_lengths(lengths: Tensor, spread: float = 1.5) -> list[tuple[Tensor, int]]:
    """Rows grouped so that no row is padded to more than `spread` times its length.

    Args:
        lengths: int64[B].

    Returns:
        for each group, its rows int64[K] and the longest length among them; every row is in one group.
    """
    order = lengths.argsort(stable=True)
    ranked = lengths[order].tolist()
    groups, start = [], 0
    for at in range(1, len(ranked) + 1):
        if at == len(ranked) or ranked[at] > spread * ranked[start]:
            groups.append((order[start:at], ranked[at - 1]))
            start = at
    return groups

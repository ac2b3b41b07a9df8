"""Instruct: a vision-language model answers about the image; the backbone learns from the answers.

Source: InternVL (arXiv:2312.14238) for the model, ViTP (arXiv:2509.17562) for training it end to end under VRL.
Differs: only supervised positions reach the vocabulary (the same loss and gradient, far less work); conversations lie
end to end in one row and nothing is padded. The published ways are there for comparison (`rows`, `head`).
Shapes: N tokens of B rows end to end, K of them kept, T tiles of C visual tokens, D language width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from vistruct.config import Part
from vistruct.contracts import (
    AnswerPrediction,
    Backbone,
    Costs,
    DataInfo,
    Ratio,
    StepOutput,
    TaskTraits,
    TokenBackbone,
    Weights,
)
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart
from vistruct.ops.precision import at_least_float32
from vistruct.ops.seeds import derive
from vistruct.tasks.features import tokens_of
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD
from vistruct.vlm import chat, packed
from vistruct.vlm import vrl as vrl_
from vistruct.vlm.batch import ChatBatch, ChatCollator, ChatMeasurer, send
from vistruct.vlm.generate import answer_tokens
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.projector import Projector, pixel_shuffle
from vistruct.vlm.tiling import Tiling, normalise


class InstructConfig(Part):
    """A vision-language model and how its backbone is made robust."""

    kind: Literal["instruct"] = "instruct"
    backbone: BackbonePart
    language: LanguageConfig = LanguageConfig()
    tiling: Tiling = Tiling()
    shuffle: int = Field(2, gt=0)  # patches merged into one visual token, per side
    vrl: vrl_.Vrl | Literal["off", "paper", "published-code"] = "paper"
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of pixels in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD
    system: str = ""  # said first where a conversation has no system turn; "": nothing
    max_tokens: int | None = Field(None, gt=0)  # of a row; longer ones are cut, or left out where that loses an image
    independent: bool = False  # each question of a conversation is asked alone; one pass of the backbone for all
    image_last: bool = False  # images stand behind independent questions and not in front
    answer_dropout: float = Field(0.0, ge=0, le=1)  # chance that an answer's token is hidden from those after it
    max_new_tokens: int = Field(64, gt=0)  # of a generated answer
    rows: Literal["packed", "grouped", "padded"] = "packed"  # end to end; like lengths together; all to the longest
    pad_to: int | None = Field(None, gt=0)  # tokens, where rows are padded: at least so many
    head: Literal["supervised", "all"] = "supervised"  # positions that reach the vocabulary

    @model_validator(mode="after")
    def _fits(self) -> InstructConfig:
        padded = isinstance(self.vrl, vrl_.Vrl) and not self.vrl.shorten
        if self.rows == "packed" and (self.pad_to is not None or padded):
            raise ValueError("packed rows have no padding: set rows=padded with pad_to or vrl.shorten=false")
        return self

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Instruct:
        """Build with the tokenizer in `assets`, which is put there if it is not."""
        return Instruct(self, self.language.load_tokenizer(assets, info.corpus), backbone)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the language model reads of a batch, after VRL; all on the CPU, so that nothing waits for the device."""

    input_ids: Tensor  # int64[K]
    labels: Tensor  # int64[K]
    positions: Tensor  # int64[K], in the row as it was
    lengths: list[int]  # kept tokens of each row
    whole: list[int]  # tokens of each row before any were dropped
    places: Tensor  # int64[P], where visual tokens stand
    visual: Tensor  # int64[P], which one stands there: tile * C + cell, or a number among the kept cells
    cells: Tensor | None  # bool[T, C], those that enter the backbone; None: all


class Instruct(nn.Module):
    """Backbone, pixel shuffle, projector and language model, trained on the answers."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, config: InstructConfig, tokenizer: PreTrainedTokenizerFast, backbone: Backbone | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.vrl = vrl_.PRESETS[config.vrl] if isinstance(config.vrl, str) else config.vrl
        self.backbone = _token_backbone(config, backbone)
        self.language: Any = config.language.build(tokenizer)
        packed.enable(self.language)
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
    def traits(self) -> TaskTraits:
        return TaskTraits(
            prediction="answers",
            terms=("answers",),
            predict_collator=self._collator(generate=True),
            measurer=ChatMeasurer(collator=self.collator),
            work=self.work,
            repeated_blocks=tuple(self.language.get_decoder().layers),
            uneven_calls=self._uneven_calls(),
        )

    def _uneven_calls(self) -> str:
        if self.config.rows == "grouped":
            return "task.rows=grouped calls the language model once for each group of lengths"
        if self.vrl.is_on and self.vrl.drop_at == "patches" and self.vrl.drop_prob < 1:
            return "vrl.drop_at=patches with a drop_prob below 1 calls the backbone twice where whole tiles are left"
        return ""

    @property
    def hidden_token(self) -> int:
        """What stands where an answer's token is hidden: the padding token, whose row learns here as any other does
        (`LanguageConfig.build`); where a tokenizer has none of its own, an added token that texts hardly use."""
        number: Any = self.tokenizer.convert_tokens_to_ids
        pad = self.tokenizer.pad_token_id
        return number(chat.HIDDEN) if pad in (None, number(chat.END)) else pad

    @property
    def collator(self) -> ChatCollator:
        """For training: whole conversations with their answers."""
        return self._collator(generate=False)

    def _collator(self, *, generate: bool) -> ChatCollator:
        return ChatCollator(
            tokenizer=self.tokenizer,
            tiling=self.config.tiling,
            tokens_per_tile=self.tokens_per_tile,
            independent=self.config.independent,
            image_last=self.config.image_last,
            max_tokens=self.config.max_tokens,
            system=self.config.system,
            generate=generate,
        )

    def work(self, costs: Costs) -> np.ndarray:
        """float64[...], multiplications that each sample takes in the forward pass, VRL counted in."""
        dropped = self.vrl.drop_prob * self.vrl.drop_ratio
        seen = 1.0 - dropped if self.vrl.drop_at == "patches" else 1.0
        patches, width = self.grid**2 + 1, self.backbone.width
        blocks = self.backbone.traits.repeated_blocks
        tile = _size(self.backbone) * patches * seen + 2 * len(blocks) * width * (patches * seen) ** 2
        head = _size(self.language.get_output_embeddings())
        tokens = costs.tokens - costs.visual * dropped
        body = _size(self.language.get_decoder()) - _size(self.language.get_input_embeddings())
        return costs.tiles * tile + tokens * body + costs.supervised * head + costs.visual * _size(self.projector)

    def read(self, batch: ChatBatch) -> Reading:
        """Choose what the language model reads: in training some answers are hidden, and VRL drops visual tokens."""
        is_image = batch.input_ids == self.image_token
        num_cells = self.tokens_per_tile
        visual = (batch.mentions[:, None] * num_cells + torch.arange(num_cells)).flatten()  # of each image place
        if len(visual) != int(is_image.sum()):
            raise UserError(
                f"{int(is_image.sum())} image places in the text but {len(visual)} visual tokens",
                fix="check the collator",
            )
        vrl = self.vrl if self.training else vrl_.OFF
        cells, keep = None, torch.ones_like(is_image)
        if vrl.is_on and vrl.drop_at == "patches" and len(batch.tiles):
            cells = vrl_.keep_cells(num_cells, vrl, batch.tile_seeds)
            keep[is_image] = cells.flatten()[visual]
        elif vrl.is_on:
            keep = vrl_.keep_tokens(is_image, batch.lengths, vrl, batch.seeds)
        visual = visual[keep[is_image]]
        if cells is not None:
            visual = (cells.flatten().cumsum(0) - 1)[visual]
        positions = torch.cat([torch.arange(length) for length in batch.lengths])
        return Reading(
            input_ids=self.hide_answers(batch)[keep],
            labels=batch.labels[keep],
            positions=positions[keep],
            lengths=[int(row.sum()) for row in keep.split(batch.lengths)],
            whole=batch.lengths,
            places=is_image[keep].nonzero().squeeze(1),
            visual=visual,
            cells=cells,
        )

    def hide_answers(self, batch: ChatBatch) -> Tensor:
        """int64[N], the tokens as the language model reads them: in training, some answer tokens become padding.

        A small language model soon guesses an answer's next word from the words before it and leaves the image
        alone; what it cannot read it must see. One that has never read an answer (a chance of 1) reads none later.
        Source: word dropout, Bowman et al., arXiv:1511.06349, section 3.1.
        """
        chance = self.config.answer_dropout
        if chance == 0.0 or not (self.training or self.is_blind_to_answers):
            return batch.input_ids
        draws = [
            torch.rand(length, generator=torch.Generator().manual_seed(derive(seed, "answer dropout")))
            for length, seed in zip(batch.lengths, batch.seeds, strict=True)
        ]  # by row, so that a row's draw does not depend on its batch
        hidden = (batch.labels != chat.IGNORE) & (torch.cat(draws) < chance)
        return batch.input_ids.masked_fill(hidden, self.hidden_token)

    def visual_tokens(self, tiles: Tensor, cells: Tensor | None = None) -> Tensor:
        """uint8[T, 3, S, S] -> float[T * C, D], what the language model sees; of the kept `cells` bool[T, C] only."""
        pixels = normalise(tiles, self.pixel_mean, self.pixel_std).to(next(self.projector.parameters()).dtype)
        if cells is None:
            patches = self.backbone.tokens(pixels).patches  # [T, grid * grid, width]
            return self.projector(pixel_shuffle(patches, (self.grid, self.grid), self.config.shuffle)).flatten(0, 1)
        parts, rows = [], []
        counts = cells.sum(1)
        for count in counts.unique().tolist():  # two at most: tiles that are dropped from, and whole ones
            at = (counts == count).nonzero().squeeze(1)
            kept = cells[at].nonzero()[:, 1].view(len(at), count)  # row-major, as the cells of a tile are
            tokens = self.backbone.tokens(pixels[send(at, pixels.device)], send(self._patches(kept), pixels.device))
            merged = tokens.patches.reshape(len(at), count, -1)  # the patches of a cell lie next to each other
            parts.append(self.projector(merged).flatten(0, 1))
            rows.append((at[:, None] * cells.shape[1] + kept).flatten())
        back = torch.cat(rows).argsort()
        return torch.cat(parts).index_select(0, send(back, tiles.device))

    def _patches(self, cells: Tensor) -> Tensor:
        """int64[B, K] cells -> int64[B, K * shuffle^2] patches, row by row inside each cell."""
        side, wide = self.config.shuffle, self.grid // self.config.shuffle
        first = (cells // wide) * side * self.grid + (cells % wide) * side  # [B, K], its upper left patch
        inside = (torch.arange(side)[:, None] * self.grid + torch.arange(side)).flatten()
        return (first[..., None] + inside).flatten(1)

    def embed(self, batch: ChatBatch, reading: Reading) -> Tensor:
        """float[K, D], text embeddings with the visual tokens in their places."""
        device = self.pixel_mean.device
        text = self.language.get_input_embeddings()(send(reading.input_ids, device))
        if len(batch.tiles):
            visual = self.visual_tokens(batch.tiles, reading.cells)
            # Not by indexing: its gradient adds what several rows say of a tile in any order, so that no run repeats.
            seen = visual.index_select(0, send(reading.visual, device))
            return text.index_copy(0, send(reading.places, device), seen.to(text.dtype))
        if dist.is_initialized() and torch.is_grad_enabled():  # a rank without images must still meet the others
            size = self.config.tiling.size
            dummy = self.visual_tokens(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device))
            text = text + 0.0 * dummy.sum()
        return text

    def forward(self, batch: ChatBatch) -> StepOutput:
        """Next-token cross-entropy over the answers, from what VRL keeps of the image."""
        reading = self.read(batch)
        hidden = self.hidden(self.embed(batch, reading), reading)
        # The token at i is predicted from i - 1; a row never begins with an answer. Gather the supervised ones before
        # the vocabulary, which is the larger part of a small model's work.
        target = reading.labels[1:]
        at = (target != chat.IGNORE).nonzero().squeeze(1)
        where, target = send(at, hidden.device), send(target[at], hidden.device)
        head = self.language.get_output_embeddings()
        if self.config.head == "all":
            logits = at_least_float32(head(hidden)).index_select(0, where)
        else:
            logits = at_least_float32(head(hidden.index_select(0, where)))  # [M, V]
        total = F.cross_entropy(logits, target, reduction="sum")
        right = (logits.detach().argmax(-1) == target).sum()
        return StepOutput(terms={"answers": total}, metrics={"token_accuracy": Ratio(total=right, count=len(at))})

    def units(self, batch: ChatBatch) -> dict[str, float]:
        """Tokens of answers; VRL drops none of them."""
        return {"answers": float((batch.labels[1:] != chat.IGNORE).sum())}

    def hidden(self, embeddings: Tensor, reading: Reading) -> Tensor:
        """float[K, D], the last hidden states of the language model."""
        positions = send(reading.positions, embeddings.device)
        if self.config.rows == "packed":
            where = packed.segments(reading.lengths, embeddings.device)
            return packed.decode(self.language, embeddings, positions, where)
        spread = 1.5 if self.config.rows == "grouped" else float("inf")
        least = max(reading.whole) if not self.vrl.shorten else 0
        rows, places = embeddings.split(reading.lengths), positions.split(reading.lengths)
        found: dict[int, Tensor] = {}
        for members in like_lengths(reading.lengths, spread):
            longest = max(reading.lengths[row] for row in members)
            length = max(longest, least, self.config.pad_to or 0)
            out = self._padded([rows[row] for row in members], [places[row] for row in members], length)
            found |= {row: out[number, : reading.lengths[row]] for number, row in enumerate(members)}
        return torch.cat([found[row] for row in range(len(rows))])

    def _padded(self, rows: Sequence[Tensor], positions: Sequence[Tensor], length: int) -> Tensor:
        """float[B, L, D] of rows padded to `length`."""
        short = [len(row) for row in rows]
        embeddings = F.pad(pad_sequence(list(rows), batch_first=True), (0, 0, 0, length - max(short)))
        places = F.pad(pad_sequence(list(positions), batch_first=True), (0, length - max(short)))
        seen = torch.arange(length)[None] < torch.tensor(short)[:, None]
        # The 2D mask is passed even without padding: from gaps in the positions alone `transformers` would conclude
        # that several samples were packed into the row, and keep them apart.
        out = self.language.get_decoder()(
            inputs_embeds=embeddings, attention_mask=send(seen.long(), embeddings.device), position_ids=places
        )
        return out.last_hidden_state

    @torch.inference_mode()
    def predict(self, batch: ChatBatch) -> list[AnswerPrediction]:
        """Greedy answers to batches made to be asked about, one for each row."""
        reading = self.read(batch)
        rows = self.embed(batch, reading).split(reading.lengths)
        tokens = answer_tokens(self, rows, self.config.max_new_tokens)
        return [
            AnswerPrediction(
                id=batch.ids[row],
                image_id=batch.image_ids[row],
                question=batch.questions[row],
                answer=str(self.tokenizer.decode(ids, skip_special_tokens=False)).strip(),
                truth=batch.truths[row],
                others=batch.others[row],
                form=batch.forms[row],
                family=batch.families[row],
            )
            for row, ids in enumerate(tokens)
        ]


def _token_backbone(config: InstructConfig, shared: Backbone | None) -> TokenBackbone:
    """
    Raises:
        UserError: a backbone without tokens, or tiles that are no whole number of visual tokens.
    """
    backbone = tokens_of(config.backbone, shared)
    cell = backbone.patch * config.shuffle
    if config.tiling.size % cell:
        what = f"tiles of {config.tiling.size} pixels are not a multiple of patch * shuffle = {cell}"
        raise UserError(what, where="task.tiling.size", fix=f"use {config.tiling.size // cell * cell or cell}")
    return backbone


def _size(module: Weights) -> float:
    """Parameters; a float, for the int32 of `Costs` would overflow beside a whole number."""
    return float(sum(p.numel() for p in module.parameters()))


def like_lengths(lengths: Sequence[int], spread: float = 1.5) -> list[list[int]]:
    """Rows grouped so that no row is padded to more than `spread` times its length; every row is in one group."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if not groups or lengths[row] > spread * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(row)
    return groups

"""Instruct: a vision-language model answers about the image; the backbone learns from the answers.

Source: InternVL (arXiv:2312.14238) for the model, ViTP (arXiv:2509.17562) for training it end to end under VRL.
Differs: only supervised positions reach the vocabulary (the same loss and gradient, far less work); conversations lie
end to end in one row and nothing is padded. The published ways are there for comparison (`rows`, `head`).
Shapes: N tokens of B rows end to end, K of them kept, T tiles of C visual tokens, D language width.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from vistruct.config import Part
from vistruct.contracts import (
    AnswerPrediction,
    Backbone,
    DataInfo,
    GroundedPrediction,
    Ratio,
    StepOutput,
    TaskTraits,
)
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart
from vistruct.ops.precision import at_least_float32
from vistruct.tasks.alignment import Aligned, Alignment, aligned, joined_answers
from vistruct.tasks.features import tokens_of_tiles
from vistruct.tasks.grounded import grounded
from vistruct.tasks.instruct_work import work_of
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD
from vistruct.tasks.pointing import PointingConfig, Seen
from vistruct.tasks.token_weights import TokenWeighing, TokenWeights
from vistruct.vlm import chat, packed, padded
from vistruct.vlm import vrl as vrl_
from vistruct.vlm.batch import ChatBatch, ChatCollator, ChatMeasurer, send
from vistruct.vlm.generate import answer_tokens
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.loss_reduction import LossReduction, token_weights
from vistruct.vlm.projector import Projector, pixel_shuffle
from vistruct.vlm.reading import Reading, drawn_answers, text_alone
from vistruct.vlm.templates import TEMPLATES, TemplateName
from vistruct.vlm.tiling import Tiling, normalise


class InstructConfig(Part):
    """A vision-language model and how its backbone is made robust."""

    kind: Literal["instruct"] = "instruct"
    backbone: BackbonePart
    language: LanguageConfig = LanguageConfig()
    tiling: Tiling = Tiling()
    shuffle: int = Field(2, gt=0)  # patches merged into one visual token, per side
    projector_norm: bool = True  # a LayerNorm before the projector's two layers, as InternVL has it; LLaVA has none
    vrl: vrl_.Vrl | Literal["off", "paper", "published-code"] = "paper"
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of pixels in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD
    template: TemplateName = "chatml"
    system: str = ""  # said first where a conversation has no system turn; "": nothing
    max_tokens: int | None = Field(None, gt=0)  # of a row; longer ones are cut, or left out where that loses an image
    independent: bool = False  # each question of a conversation is asked alone; one pass of the backbone for all
    image_last: bool = False  # images stand behind independent questions and not in front
    answer_dropout: float = Field(0.0, ge=0, le=1)  # chance that an answer's token is hidden from those after it
    max_new_tokens: int = Field(64, gt=0)  # of a generated answer
    rows: Literal["packed", "grouped", "padded"] = "packed"  # end to end; like lengths together; all to the longest
    pad_to: int | None = Field(None, gt=0)  # tokens, where rows are padded: at least so many
    head: Literal["supervised", "all"] = "supervised"  # positions that reach the vocabulary
    loss_reduction: LossReduction = "token"  # all tokens count alike; by 1 / sqrt(tokens of the answer); all answers
    token_weights: TokenWeights | None = None  # in training, of answer tokens by what the text alone tells; None: alike
    alignment: Alignment | None = None  # in training, of images with the words of their answers; None: not at all
    pointing: PointingConfig | None = None  # answers point at objects, questions show regions; None: they are words

    @model_validator(mode="after")
    def _fits(self) -> InstructConfig:
        padded = isinstance(self.vrl, vrl_.Vrl) and not self.vrl.shorten
        if self.rows == "packed" and (self.pad_to is not None or padded):
            raise ValueError("packed rows have no padding: set rows=padded with pad_to or vrl.shorten=false")
        if self.pointing is not None and self.answer_dropout == 1.0:
            raise ValueError("a model that never reads its own answer cannot point: set answer_dropout below 1")
        whole = self.tiling.thumbnail or self.tiling.max_tiles == 1
        if (self.pointing is not None or self.alignment is not None) and not whole:
            raise ValueError("of tiles without a thumbnail none shows the whole picture: set tiling.thumbnail=true")
        return self

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Instruct:
        """Build with the tokenizer in `assets`, which is put there if it is not."""
        added = () if self.pointing is None else self.pointing.added_tokens
        return Instruct(self, self.language.load_tokenizer(assets, info.corpus, added, self.template), backbone)


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
        self.backbone = tokens_of_tiles(config.backbone, config.tiling.size, config.shuffle, backbone)
        self.language: Any = config.language.build(tokenizer, config.template)
        packed.enable(self.language)
        width = self.language.get_input_embeddings().weight.shape[1]
        self.projector = Projector(self.backbone.width * config.shuffle**2, width, norm=config.projector_norm)
        self.image_token: Any = tokenizer.convert_tokens_to_ids(chat.IMAGE_TOKEN)
        self.grid = config.tiling.size // self.backbone.patch  # patches a tile's side
        self.tokens_per_tile = (self.grid // config.shuffle) ** 2
        point, tile = config.pointing, config.tiling.size
        sizes: dict[str, Any] = {"tile": tile, "shuffle": config.shuffle, "width": width}
        colours: dict[str, Any] = {"mean": config.mean, "std": config.std}
        self.pointing = None if point is None else point.build(self.backbone, tokenizer, **sizes, **colours)
        self.token_weights = None if config.token_weights is None else config.token_weights.build()
        words = self.language.get_output_embeddings().weight.shape[0]
        self.alignment = None if config.alignment is None else config.alignment.build(words)
        self.register_buffer("pixel_mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    @property
    def is_blind_to_answers(self) -> bool:  # whether every token of an answer is written without reading those before
        return self.config.answer_dropout == 1.0

    @property
    def traits(self) -> TaskTraits:
        asked = self._collator(generate=True)
        return TaskTraits(
            prediction="answers" if self.pointing is None else "grounded",
            terms=(
                "answers",
                *(() if self.alignment is None else ("alignment",)),
                *(() if self.pointing is None else self.pointing.terms),
            ),
            predict_collator=asked,
            measurer=ChatMeasurer(collator=self.collator),
            predict_measurer=ChatMeasurer(collator=asked),
            work=partial(work_of, self),
            repeated_blocks=tuple(self.language.get_decoder().layers),
            uneven_calls=self._uneven_calls(),
            before_step=self.before_step,
            after_step=self.after_step,
        )

    @property
    def following(self) -> list[TokenWeighing | Aligned]:  # what keeps averages of earlier steps
        return [one for one in (self.token_weights, self.alignment) if one is not None]

    def before_step(self, step: int, steps: int) -> None:
        """Averages of earlier steps begin to note this one."""
        for one in self.following:
            one.before_step()

    def after_step(self) -> None:
        """Averages of earlier steps take in this one, of all ranks."""
        for one in self.following:
            one.after_step()

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
        return number(chat.HIDDEN) if pad in (None, self.end_token) else pad

    @property
    def end_token(self) -> int:
        """What stands behind an answer."""
        end: Any = self.tokenizer.convert_tokens_to_ids(TEMPLATES[self.config.template].end)
        return end

    @property
    def collator(self) -> ChatCollator:
        """For training: whole conversations with their answers."""
        return self._collator(generate=False)

    def _collator(self, *, generate: bool) -> ChatCollator:
        point = self.pointing
        return ChatCollator(
            tokenizer=self.tokenizer,
            tiling=self.config.tiling,
            tokens_per_tile=self.tokens_per_tile,
            template=self.config.template,
            independent=self.config.independent,
            image_last=self.config.image_last,
            max_tokens=self.config.max_tokens,
            system=self.config.system,
            pointer=None if point is None else point.pointer(self.config.tiling, self.grid, vary=not generate),
            generate=generate,
        )

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
        if self.pointing is not None:
            cells = None  # what decoders and regions look at is all there; only the language model sees less
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
            **self._marks(batch.input_ids[keep]),
        )

    def _marks(self, ids: Tensor) -> dict[str, Tensor]:
        """Where object tokens and those of regions stand among int64[K]."""
        tokens = (-1, -1) if self.pointing is None else (self.pointing.object_token, self.pointing.region_token)
        return {
            name: (ids == token).nonzero().squeeze(1)
            for name, token in zip(("objects", "regions"), tokens, strict=True)
        }

    def hide_answers(self, batch: ChatBatch) -> Tensor:
        """int64[N], the tokens as the language model reads them: in training, some answer tokens become padding.

        A small language model soon guesses an answer's next word from the words before it and leaves the image
        alone; what it cannot read it must see. One that has never read an answer (a chance of 1) reads none later.
        """
        chance = self.config.answer_dropout
        if chance == 0.0 or not (self.training or self.is_blind_to_answers):
            return batch.input_ids
        hidden = drawn_answers(batch, chance)
        if self.pointing is not None:
            hidden &= batch.input_ids != self.pointing.object_token  # whose states ask the decoders
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
            patches = vrl_.patches_of(kept, self.config.shuffle, self.grid)
            tokens = self.backbone.tokens(pixels[send(at, pixels.device)], send(patches, pixels.device))
            merged = tokens.patches.reshape(len(at), count, -1)  # the patches of a cell lie next to each other
            parts.append(self.projector(merged).flatten(0, 1))
            rows.append((at[:, None] * cells.shape[1] + kept).flatten())
        back = torch.cat(rows).argsort()
        return torch.cat(parts).index_select(0, send(back, tiles.device))

    def see(self, batch: ChatBatch, reading: Reading) -> Seen | None:
        """What the backbone makes of the batch's tiles, in one pass; None: there are none."""
        if not len(batch.tiles):
            return None
        if self.pointing is None:
            return Seen(visual=self.visual_tokens(batch.tiles, reading.cells))
        pixels = normalise(batch.tiles, self.pixel_mean, self.pixel_std).to(next(self.projector.parameters()).dtype)
        last, *maps = self.pointing.look(self.backbone, pixels)
        merged = pixel_shuffle(last.patches, (self.grid, self.grid), self.config.shuffle)
        visual = self.projector(merged).flatten(0, 1)
        return Seen(visual=visual, patches=last.patches, maps=tuple(one.map for one in maps))

    def embed(self, batch: ChatBatch, reading: Reading, seen: Seen | None = None) -> Tensor:
        """float[K, D], text embeddings with the visual tokens, and what regions show, in their places."""
        device = self.pixel_mean.device
        text = self.language.get_input_embeddings()(send(reading.input_ids, device))
        seen = self.see(batch, reading) if seen is None else seen
        if seen is not None:
            # Not by indexing: its gradient adds what several rows say of a tile in any order, so that no run repeats.
            visual = seen.visual.index_select(0, send(reading.visual, device))
            text = text.index_copy(0, send(reading.places, device), visual.to(text.dtype))
            if self.pointing is not None and len(reading.regions):
                shown = self.pointing.show(batch, seen, self.projector)
                text = text.index_copy(0, send(reading.regions, device), shown.to(text.dtype))
            return text
        if dist.is_initialized() and torch.is_grad_enabled():  # a rank without images must still meet the others
            size = self.config.tiling.size
            dummy = self.visual_tokens(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device))
            text = text + 0.0 * dummy.sum()
        return text

    def forward(self, batch: ChatBatch) -> StepOutput:
        """Next-token cross-entropy over the answers, from what VRL keeps of the image."""
        reading = self.read(batch)
        seen = self.see(batch, reading)
        embedded = self.embed(batch, reading, seen)
        hidden = self.hidden(embedded, reading)
        logits, target = self.said(hidden, reading.labels)
        right = (logits.detach().argmax(-1) == target).sum()
        metrics = {"token_accuracy": Ratio(total=right, count=len(target))}
        weights = token_weights(reading.labels, self.config.loss_reduction)[1:][reading.labels[1:] != chat.IGNORE]
        losses = F.cross_entropy(logits, target, reduction="none") * send(weights.to(logits.dtype), hidden.device)
        if self.token_weights is not None and self.training:
            likelihood = self.likelihood(text_alone(reading))
            losses = losses * self.token_weights(likelihood)
            metrics["text_likelihood"] = Ratio(total=likelihood.sum(), count=len(target))
        total = losses.sum()
        terms = {"answers": total}
        if self.alignment is not None and self.training:
            terms["alignment"] = aligned(self, batch, None if seen is None else seen.visual, reading.cells)
        if self.pointing is not None:
            states = self.pointing.queries(hidden, embedded, reading.objects, reading.regions, reading.lengths)
            drawn, figures = self.pointing.learn(states, batch, seen)
            terms, metrics = terms | drawn, metrics | figures
        return StepOutput(terms=terms, metrics=metrics)

    def said(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """float[M, V] logits and int64[M] targets at the supervised tokens, from states float[K, D] and int64[K].

        The token at i is predicted from i - 1; a row never begins with an answer. The supervised ones are gathered
        before the vocabulary, which is the larger part of a small model's work.
        """
        target = labels[1:]
        at = (target != chat.IGNORE).nonzero().squeeze(1)
        where, target = send(at, hidden.device), send(target[at], hidden.device)
        head = self.language.get_output_embeddings()
        if self.config.head == "all":
            return at_least_float32(head(hidden)).index_select(0, where), target
        return at_least_float32(head(hidden.index_select(0, where))), target

    @torch.no_grad()
    def likelihood(self, reading: Reading) -> Tensor:
        """float[M], of each supervised token of rows without an image."""
        ids = send(reading.input_ids, self.pixel_mean.device)
        hidden = self.hidden(self.language.get_input_embeddings()(ids), reading)
        logits, target = self.said(hidden, reading.labels)
        return logits.softmax(dim=-1).gather(1, target[:, None]).squeeze(1)

    def units(self, batch: ChatBatch) -> dict[str, float | Tensor]:
        """What the tokens of answers count together: each one, or as `loss_reduction` says; VRL drops none of them. In
        training also samples that can be aligned."""
        answers = token_weights(batch.labels, self.config.loss_reduction)[1:].sum()
        found: dict[str, float | Tensor] = {"answers": float(answers)}
        if self.alignment is not None and self.training:
            found["alignment"] = float(len(joined_answers(batch, self.end_token)[0]))
        return found if self.pointing is None else found | self.pointing.units(batch)

    def hidden(self, embeddings: Tensor, reading: Reading) -> Tensor:
        """float[K, D], the last hidden states of the language model."""
        positions = send(reading.positions, embeddings.device)
        if self.config.rows == "packed":
            where = packed.segments(reading.lengths, embeddings.device)
            return packed.decode(self.language, embeddings, positions, where)
        least = max(reading.whole) if not self.vrl.shorten else 0
        return padded.decode(
            self.language,
            embeddings.split(reading.lengths),
            positions.split(reading.lengths),
            least=max(least, self.config.pad_to or 0),
            spread=1.5 if self.config.rows == "grouped" else float("inf"),
        )

    @torch.inference_mode()
    def predict(self, batch: ChatBatch) -> list[AnswerPrediction] | list[GroundedPrediction]:
        """Greedy answers to batches made to be asked about, one for each row."""
        reading = self.read(batch)
        seen = self.see(batch, reading)
        rows = self.embed(batch, reading, seen).split(reading.lengths)
        tokens = answer_tokens(self, rows, self.config.max_new_tokens, batch.on_text)
        if self.pointing is not None:
            return grounded(self, batch, seen, rows, tokens)
        texts = [str(self.tokenizer.decode(ids, skip_special_tokens=False)).strip() for ids in tokens]
        return batch.answered(texts)

"""Samples -> rows of tokens, laid end to end, and the tiles that they show."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from vistruct.contracts import IMAGE_MARK, AnswerPrediction, Form, Measure, Objects, Record, Sample, Turn
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.vlm import chat
from vistruct.vlm.lacking import misfit
from vistruct.vlm.pointed import NOTHING_SPOKEN, Boxes, Pointed, Pointer, Spoken, size_of
from vistruct.vlm.templates import TEMPLATES, TemplateName
from vistruct.vlm.tiling import Tiling, num_tiles, tile

TOO_LONG = "left out: an image or every answer lies beyond the longest row"
CUT = "cut to the longest row"
_MARKS_AROUND = re.compile(rf"\A(?:{IMAGE_MARK}\n?)+|(?:\n?{IMAGE_MARK})+\Z")


@dataclass(kw_only=True)
class ChatBatch:
    """Rows end to end, without padding; only the tiles, which are large, ever move to the device from here.

    Several rows may ask about the same image: `tiles` holds it once, `mentions` says which tiles each row shows.
    """

    ids: list[str]  # of the rows' samples
    image_ids: list[str]
    owners: list[int]  # which of the batch's samples each row is of
    families: list[str]  # of each row's last question
    seeds: list[int]  # of each row
    lengths: list[int]  # tokens of each row
    tiles: Tensor  # uint8[T, 3, S, S], channels last in memory
    tile_seeds: list[int]
    mentions: Tensor  # int64[M], tiles in the order in which the rows mention them
    input_ids: Tensor  # int64[N]
    labels: Tensor  # int64[N]
    questions: list[str]  # the last user turn of each row, without image marks before or behind it
    truths: list[str]  # the answer after it, "" if there is none
    others: list[tuple[str, ...]]  # of each row's truth, see `Turn`
    forms: list[Form | None]  # likewise
    answers: list[Turn | None]  # the turn that `truths` are the words of
    objects: list[Objects[Tensor]]  # of each of the batch's samples, in pixels of its image
    whole_tiles: list[int]  # of each of the batch's samples, the tile that shows all of its first image; -1: no image
    pointed: Pointed | None = None  # what the rows show and point at; None: marks are words to this model
    on_text: Callable[[str], None] | None = None  # told the answer of a batch of one row, as it is written

    def to(self, device: torch.device) -> Self:
        return dataclasses.replace(self, tiles=send(self.tiles, device))

    def answered(self, texts: Sequence[str]) -> list[AnswerPrediction]:
        """What was asked, with an answer to each row."""
        return [
            AnswerPrediction(
                id=self.ids[row],
                image_id=self.image_ids[row],
                question=self.questions[row],
                answer=text,
                truth=self.truths[row],
                others=self.others[row],
                form=self.forms[row],
                family=self.families[row],
            )
            for row, text in enumerate(texts)
        ]

    def pin_memory(self) -> Self:
        """For the loader: page-locked tiles travel while the device computes."""
        pointed = None if self.pointed is None else self.pointed.pin_memory()
        return dataclasses.replace(self, tiles=self.tiles.pin_memory(), pointed=pointed)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device, without waiting for what it is computing."""
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One row before it is a tensor."""

    row: chat.Row
    question: str
    images: int = 0  # how many of the sample's images it shows, from the first on
    is_cut: bool = False
    truth: Turn | None = None
    family: str = ""
    spoken: Spoken = NOTHING_SPOKEN  # what its marks became, of a model that points


@dataclass(frozen=True, kw_only=True)
class ChatCollator:
    """Samples -> ChatBatch; holds the tokenizer and no weights, so that it can travel to a worker."""

    tokenizer: Any  # PreTrainedTokenizerFast
    tiling: Tiling
    tokens_per_tile: int
    template: TemplateName = "chatml"
    independent: bool = False  # see `InstructConfig`
    image_last: bool = False
    max_tokens: int | None = None  # of a row
    system: str = ""  # said first where a conversation has no system turn; "": nothing
    pointer: Pointer | None = None  # of a model that points
    generate: bool = False  # a row for each question, ending where its answer begins; the answer becomes the truth

    def __call__(self, samples: Sequence[Sample]) -> ChatBatch:
        """Nothing at all becomes a row of one token that teaches nothing, so that ranks stay in step.

        Raises:
            UserError: a sample that `measurer` leaves out.
        """
        tiles: list[Tensor] = []
        tile_seeds: list[int] = []
        rows: list[Asked] = []
        whole_tiles: list[int] = []
        mentions: list[int] = []
        owners: list[tuple[int, int]] = []  # of each row, its sample and which question of the sample's it is
        for number, sample in enumerate(samples):
            if any(image.dtype != torch.uint8 for image in sample.images):
                what = f"an image of {sample.images[0].dtype}: conversations are about 8-bit colours"
                raise UserError(what, where=sample.id, fix="scale it to uint8 RGB")
            cut = [tile(image, self.tiling, len(sample.images), sample.max_tiles) for image in sample.images]
            first, ends = len(tile_seeds), [0, *itertools.accumulate(map(len, cut))]
            whole_tiles.append(first + ends[1] - 1 if cut else -1)  # a thumbnail stands behind its tiles
            tiles += cut
            tile_seeds += [derive(sample.seed, "tile", at) for at in range(ends[-1])]
            parts = () if self.pointer is None else self.pointer.parts(sample.objects.boxes_xyxy, size_of(sample))
            asked = self.rows(sample.turns, sample.families, [len(t) for t in cut], parts)
            if not isinstance(asked, list):
                raise UserError(asked, where=sample.id, fix="--set task.max_tokens=N, or leave this sample out")
            rows += asked
            for one in asked:
                mentions += range(first, first + ends[one.images])
            owners += [(number, at) for at in range(len(asked))]
        if not rows:
            end = self.tokenizer.convert_tokens_to_ids(TEMPLATES[self.template].end)
            rows = [Asked(row=chat.Row(input_ids=[end], labels=[chat.IGNORE]), question="")]
            owners = [(-1, 0)]
        size = self.tiling.size
        own = [samples[number] if number >= 0 else None for number, _ in owners]
        return ChatBatch(
            ids=[s.id for s in own if s is not None],
            image_ids=[s.image_id for s in own if s is not None],
            owners=[number for number, _ in owners],
            families=[r.family for r in rows],
            seeds=[0 if s is None else derive(s.seed, "row", at) for s, (_, at) in zip(own, owners, strict=True)],
            lengths=[len(r.row.input_ids) for r in rows],
            tiles=torch.cat(tiles) if tiles else torch.zeros(0, 3, size, size, dtype=torch.uint8),
            tile_seeds=tile_seeds,
            mentions=torch.tensor(mentions, dtype=torch.int64),
            input_ids=torch.tensor([i for r in rows for i in r.row.input_ids], dtype=torch.int64),
            labels=torch.tensor([i for r in rows for i in r.row.labels], dtype=torch.int64),
            questions=[r.question for r in rows],
            truths=["" if r.truth is None else r.truth.text for r in rows],
            others=[() if r.truth is None else r.truth.others for r in rows],
            forms=[None if r.truth is None else r.truth.form for r in rows],
            answers=[r.truth for r in rows],
            objects=[sample.objects for sample in samples],
            whole_tiles=whole_tiles,
            pointed=None
            if self.pointer is None
            else self.pointer.pointed(samples, [r.spoken for r in rows], [number for number, _ in owners]),
        )

    def rows(
        self, turns: Sequence[Turn], families: Sequence[str], tiles: Sequence[int], boxes: Boxes = ()
    ) -> list[Asked] | str:
        """The rows of one sample, or why it has none.

        Args:
            turns: the conversation.
            families: of each of its answers; empty: not known.
            tiles: of each image.
            boxes: of its objects, for a model that writes coordinates (`Pointer.parts`).
        """
        counts = [number * self.tokens_per_tile for number in tiles]
        turns = chat.with_marks(turns, len(counts))
        if self.system and (not turns or turns[0].role != "system"):
            turns = [Turn(role="system", text=self.system), *turns]
        whole = chat.apart(turns, image_last=self.image_last) if self.independent else [tuple(turns)]
        out: list[Asked] = []
        before = 0  # answers in the rows so far
        for one in whole:
            for asked in questions_of(one) if self.generate else [one]:
                shown, truth = list(asked), None
                answer = before + _answers(asked)
                if self.generate and not asked[-1].is_taught:
                    continue  # nobody vouches for such an answer
                if self.generate and shown and shown[-1].role == "assistant":
                    truth = shown.pop()
                marks = sum(turn.text.count(IMAGE_MARK) for turn in shown if turn.role == "user")
                last = next((t.text for t in reversed(shown) if t.role == "user"), "")
                spoken = Spoken(turns=tuple(shown)) if self.pointer is None else self.pointer.speak(shown, truth, boxes)
                row = whole_row = TEMPLATES[self.template].encode(
                    spoken.turns, counts[:marks], self.tokenizer, begin=self.begin, answer=self.generate
                )
                if self.max_tokens is not None and len(row.input_ids) > self.max_tokens and not self.generate:
                    row = row.cut(self.max_tokens, self.image_token)
                    if row is None:
                        return TOO_LONG
                if self.pointer is not None:
                    spoken = self.pointer.kept(row.input_ids, spoken)
                out.append(
                    Asked(
                        row=row,
                        images=marks,
                        is_cut=row is not whole_row,
                        question=_MARKS_AROUND.sub("", last),
                        truth=truth,
                        spoken=spoken,
                        family=families[answer - 1] if _answers(asked) and answer <= len(families) else "",
                    )
                )
            before += _answers(one)
        return out

    @cached_property
    def begin(self) -> list[int]:
        """What every row begins with."""
        return TEMPLATES[self.template].beginning(self.tokenizer)

    @cached_property
    def image_token(self) -> int:
        """What stands for one visual token."""
        return self.tokenizer.convert_tokens_to_ids(chat.IMAGE_TOKEN)


def _answers(turns: Sequence[Turn]) -> int:
    return sum(turn.role == "assistant" for turn in turns)


def questions_of(turns: Sequence[Turn]) -> list[tuple[Turn, ...]]:
    """A conversation up to each of its answers; all of it where it has none."""
    ends = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
    return [tuple(turns[: end + 1]) for end in ends] or [tuple(turns)]


@dataclass(frozen=True, kw_only=True)
class ChatMeasurer:
    """How many tokens and tiles a conversation will be, from its text and the sizes of its images alone."""

    collator: ChatCollator

    @cached_property
    def key(self) -> str:
        """sha256 over the tokenizer and every setting that changes a row."""
        own = self.collator
        said = {
            "tokenizer": own.tokenizer.backend_tokenizer.to_str(),
            "tiling": own.tiling.model_dump(mode="json"),
            "rest": [
                own.tokens_per_tile,
                own.template,
                own.independent,
                own.image_last,
                own.max_tokens,
                own.system,
                own.generate,
            ],
            "pointer": repr(own.pointer),
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def __call__(self, record: Record, sizes_hw: Sequence[tuple[int, int]]) -> Measure:
        own = self.collator
        tiles = [num_tiles(size, own.tiling, len(sizes_hw), record.max_tiles) for size in sizes_hw]
        first = sizes_hw[0] if sizes_hw else None
        why = misfit(record.objects, first)
        if not why and own.pointer is not None:
            why = own.pointer.lacking(record.objects, record.turns, first)
        if why:
            return Measure(
                tokens=0, visual=0, supervised=0, tiles=sum(tiles), reason=f"left out: {why}", is_left_out=True
            )
        try:
            boxes = torch.from_numpy(record.objects.boxes_xyxy)
            parts = () if own.pointer is None or not sizes_hw else own.pointer.parts(boxes, sizes_hw[0])
            if own.pointer is not None and own.generate:  # what is asked for is written as well, to be compared with
                own.pointer.speak(record.turns, boxes=parts)
            rows = own.rows(record.turns, record.families, tiles, parts)
        except UserError as error:
            rows = f"left out: {error.what}"
        if not isinstance(rows, list):
            # What the longest row would take, for the message; of other reasons nothing can be said.
            whole = dataclasses.replace(own, max_tokens=None) if rows == TOO_LONG else None
            needed = whole.rows(record.turns, record.families, tiles, parts) if whole is not None else ""
            longest = max(len(one.row.input_ids) for one in needed) if isinstance(needed, list) else 0
            return Measure(tokens=longest, visual=0, supervised=0, tiles=sum(tiles), reason=rows, is_left_out=True)
        tokens = sum(len(r.row.input_ids) for r in rows)
        return Measure(
            tokens=tokens,
            visual=sum(r.row.input_ids.count(own.image_token) for r in rows),
            supervised=sum(label != chat.IGNORE for r in rows for label in r.row.labels),
            tiles=sum(tiles),
            reason=CUT if any(r.is_cut for r in rows) else "",
        )

"""A language model that points: the state behind each object token of an answer is a query, and a decoder draws it.

Source: REF-VLM (arXiv:2503.07413), published as VT-PLUG: one token for each object, its last hidden state asks a
    decoder for a box, a mask or key points; a chain of thought says first what will be named and how often.
Differs: which decoder draws is what the answer *wrote*, object by object, so that one answer may hold several units;
    queries are ragged and masked; what is asked about images is packed and batched as any conversation is; every object
    has a confidence: how likely the language model was to write it there, times how well the decoder thinks it drew it.
Shapes: N tokens of B rows end to end, Q object tokens among them, D language width; S samples, T tiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from vistruct.config import Part
from vistruct.contracts import (
    PHRASE_CLOSE,
    PHRASE_OPEN,
    REGION_MARK,
    FeatureSpec,
    HeadLoss,
    Queries,
    Ratio,
    TokenBackbone,
    Tokens,
    named_term,
)
from vistruct.kinds import BackbonePart, DecoderPart
from vistruct.vlm.answers import UNIT_CLOSE
from vistruct.vlm.batch import ChatBatch, send
from vistruct.vlm.grammar import Grammar, added_tokens, refuse_twins
from vistruct.vlm.pointed import Asking, Pointed, Pointer
from vistruct.vlm.region_tokens import RegionTokensConfig
from vistruct.vlm.tiling import Tiling, normalise

if TYPE_CHECKING:
    from collections.abc import Callable


SLOPE = 0.1  # of the logits of `Recall`, for each token further away than the nearest region
FAR = 1 << 20  # tokens


class PointingConfig(Part):
    """How answers point, what draws what they point at, and how questions show regions."""

    grammar: Grammar = Grammar()
    regions: RegionTokensConfig | None = RegionTokensConfig()  # None: questions cannot show any
    decoders: dict[str, DecoderPart] = Field(
        {}
    )  # by the unit that an answer writes; of others only the words are learned
    layers: tuple[int, ...] = (-1,)  # blocks of the backbone whose maps decoders get, behind those of the tower
    tower: BackbonePart | None = None  # another backbone, which only decoders see
    tower_size: int | None = Field(None, gt=0)  # pixels, a side of its picture; None: as the tiles
    # Whether what asks a decoder also looks straight at the regions that were shown before it: in 200 steps a
    # language model of few layers did not learn to carry a place from a question to an answer. Published: it does not.
    recall: bool = False
    mask_size: int = Field(112, gt=0)  # pixels, a side of the masks that are learned

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """What a tokenizer must have, beside the tokens of every conversation."""
        return added_tokens(self.grammar)

    def build(
        self,
        backbone: TokenBackbone,
        tokenizer: PreTrainedTokenizerFast,
        *,
        tile: int,
        shuffle: int,
        width: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> Pointing:
        """Build beside a backbone that looks at tiles of `tile` pixels and a language model of `width`.

        Args:
            shuffle: patches that the projector takes at once, per side.
        """
        return Pointing(self, backbone, tokenizer, tile=tile, shuffle=shuffle, width=width, mean=mean, std=std)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the backbone made of the tiles of a batch."""

    visual: Tensor  # float[T * C, D] or those of kept cells, as the language model sees them
    patches: Tensor | None = None  # float[T, L, W] of the last block; None: nobody points
    maps: tuple[Tensor, ...] = ()  # float[T, W, g, g] of each of `layers`


class Pointing(nn.Module):
    """The region tokens, the tower and the decoders beside a language model."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: PointingConfig,
        backbone: TokenBackbone,
        tokenizer: PreTrainedTokenizerFast,
        *,
        tile: int,
        shuffle: int,
        width: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.config = config
        self.size = config.tower_size or tile  # pixels, the picture's side
        refuse_twins(config.added_tokens, tokenizer.get_added_vocab())
        number: Any = tokenizer.convert_tokens_to_ids
        self.object_token: int = number(config.grammar.object_token)
        self.region_token: int = number(REGION_MARK)
        self.grid = (tile // backbone.patch, tile // backbone.patch)
        asks = config.regions
        self.regions = None if asks is None else asks.build(backbone.width, width, self.grid, shuffle)
        self.tower = None if config.tower is None or not config.decoders else config.tower.build()
        stride = max(1, round(backbone.patch * self.size / tile))
        own = tuple(FeatureSpec(channels=backbone.width, stride=stride) for _ in config.layers)
        specs = (*(() if self.tower is None else self.tower.specs), *own)
        self.decoders = nn.ModuleDict(
            {unit: cast(nn.Module, part.build(specs, width)) for unit, part in config.decoders.items()}
        )
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

        self.tokens_per_region = 0 if asks is None else asks.tokens_per_region
        self.recall = Recall(width, self.tokens_per_region) if config.recall and asks is not None else None
        opens, closes, unit_closes = number([PHRASE_OPEN, PHRASE_CLOSE, UNIT_CLOSE])
        self.marks: dict[str, int] = {"opens": opens, "closes": closes, "unit_closes": unit_closes}

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of what decoders learn, `UNIT.TERM`."""
        return tuple(named_term(unit, term) for unit, decoder in self.drawing() for term in decoder.terms)

    def drawing(self) -> list[tuple[str, Any]]:
        """Each unit with what draws it."""
        return list(self.decoders.items())

    def pointer(self, tiling: Tiling, grid: int, *, vary: bool) -> Pointer:
        """What a collator must know.

        Args:
            vary: see `Pointer`.
            tiling: of the images.
            grid: patches a tile's side.
        """
        masks = frozenset(unit for unit, decoder in self.drawing() if decoder.traits.masks != "none")
        return Pointer(
            grammar=self.config.grammar,
            regions=self.config.regions,
            object_token=self.object_token,
            region_token=self.region_token,
            tiling=tiling,
            size=self.size,
            grid=grid,
            mask_size=self.config.mask_size,
            tower=self.tower is not None,
            vary=vary,
            mask_units=masks,
            key_points={unit: n for unit, decoder in self.drawing() if (n := decoder.traits.key_points)},
        )

    def look(self, backbone: TokenBackbone, pixels: Tensor) -> list[Tokens]:
        """float[T, 3, S, S] -> the tokens that the language model sees, and those of `layers`, in one pass."""
        wanted = self.config.layers if self.config.decoders else ()
        return backbone.layers(pixels, [-1, *wanted], norm=backbone.traits.last_norm)

    def show(self, batch: ChatBatch, seen: Seen, project: Callable[[Tensor], Tensor]) -> Tensor:
        """float[R * n, D], what stands for the regions of a batch."""
        pointed = batch.pointed
        assert pointed is not None
        assert self.regions is not None
        assert seen.patches is not None
        device = seen.patches.device
        at = torch.tensor(batch.whole_tiles, dtype=torch.int64)[pointed.shown_in]
        covered, kinds, boxes = (send(one, device) for one in (pointed.coverage, pointed.kinds, pointed.boxes))
        return self.regions(seen.patches, self.grid, covered, at, kinds, boxes, project).flatten(0, 1)

    def maps(self, pointed: Pointed, seen: Seen, whole: Sequence[int], samples: Sequence[int]) -> list[Tensor]:
        """Of the pictures of some samples, what decoders look at: the tower's maps, then those of the backbone."""
        device = self.mean.device
        found: list[Tensor] = []
        if self.tower is not None:
            chosen = pointed.pictures[torch.tensor(samples, dtype=torch.int64)]
            dtype = next(self.tower.parameters()).dtype
            found += self.tower(normalise(send(chosen, device), self.mean, self.std).to(dtype))
        at = send(torch.tensor([whole[number] for number in samples], dtype=torch.int64), device)
        return found + [one.index_select(0, at) for one in seen.maps]

    def queries(
        self, hidden: Tensor, embedded: Tensor, objects: Tensor, regions: Tensor, lengths: Sequence[int]
    ) -> Tensor:
        """float[Q, D], what all object tokens of some rows ask decoders with.

        Args:
            hidden: float[N, D], states of the language model, rows end to end.
            embedded: float[N, D], what it was given.
            objects, regions: int64[Q] and int64[R * n] on the CPU, where object tokens and what regions show stand.
            lengths: tokens of each row.
        """
        states = hidden.index_select(0, send(objects, hidden.device))
        if self.recall is None or not len(objects) or not len(regions):
            return states
        first = regions[:: self.tokens_per_region]
        row_of = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        sees = (row_of[objects][:, None] == row_of[first][None]) & (first[None] < objects[:, None])
        away = (objects[:, None] - first[None]).masked_fill(~sees, -1)
        shown = embedded.index_select(0, send(regions, embedded.device)).unflatten(0, (len(first), -1))
        return self.recall(states, shown, send(away, states.device))

    def learn(self, states: Tensor, batch: ChatBatch, seen: Seen | None) -> tuple[dict[str, Tensor], dict[str, Ratio]]:
        """What the decoders' terms of the loss are, and figures for the log.

        Args:
            states: float[Q, D], of all object tokens of the batch in order.
        """
        pointed = batch.pointed
        assert pointed is not None
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Ratio] = {}
        for unit, decoder in self.drawing():
            asked = pointed.asked(unit)
            if not asked.answers or seen is None:
                terms |= {named_term(unit, term): states.sum() * 0.0 for term in decoder.terms}
                continue
            output = self.ask(decoder, states, asked, pointed, seen, batch.whole_tiles)
            loss: HeadLoss = decoder.loss(output, [one.to(states.device) for one in asked.targets(pointed)])
            terms |= {named_term(unit, term): loss.terms[term] for term in decoder.terms}
            metrics |= {named_term(unit, name): value for name, value in loss.metrics.items()}
        undrawn = sum(aim.unit not in self.config.decoders for row in pointed.aims for aim in row)
        metrics["undrawn"] = Ratio(total=undrawn, count=sum(map(len, pointed.aims)))
        return terms, metrics

    def units(self, batch: ChatBatch) -> dict[str, float | Tensor]:
        """How many units each term of the decoders is summed over."""
        pointed = batch.pointed
        assert pointed is not None
        found: dict[str, float | Tensor] = {}
        for unit, decoder in self.drawing():
            targets = pointed.asked(unit).targets(pointed)
            own: Mapping[str, float | Tensor] = decoder.units(targets) if targets else dict.fromkeys(decoder.terms, 0.0)
            found |= {named_term(unit, term): own[term] for term in decoder.terms}
        return found

    def ask(
        self, decoder: Any, states: Tensor, asked: Asking, pointed: Pointed, seen: Seen, whole: Sequence[int]
    ) -> Any:
        """What a decoder makes of the object tokens of some rows."""
        rows = [states[send(torch.tensor(places), states.device)] for places in asked.places]
        queries = Queries(states=pad_sequence(rows, batch_first=True), groups=asked.groups)
        samples = [pointed.owners[number] for number in asked.answers]
        once = sorted(set(samples))  # several rows may ask about the same picture
        maps = self.maps(pointed, seen, whole, once)
        if len(once) < len(samples):
            again = send(torch.tensor([once.index(number) for number in samples]), states.device)
            maps = [one.index_select(0, again) for one in maps]
        return decoder(queries, maps, pointed.shown(samples))


class Recall(nn.Module):
    """Object tokens look once at the regions that were shown before them, at all tokens of one side by side.

    Tokens of a region do not compete: an attention that could choose between its content and its place chose its
    content, and the place never came through. Of several regions the nearer weighs more (a learned slope, as ALiBi's),
    for nothing in them says which question they belong to.
    """

    def __init__(self, width: int, tokens_per_region: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.asks, self.keys = nn.Linear(width, width), nn.Linear(width * tokens_per_region, width)
        self.values = nn.Linear(width * tokens_per_region, width)
        self.slope = nn.Parameter(torch.tensor(math.log(SLOPE)))

    def forward(self, states: Tensor, shown: Tensor, away: Tensor) -> Tensor:
        """What is seen, added to states.

        Args:
            states: float[Q, D].
            shown: float[R, n, D].
            away: int64[Q, R], tokens between them, negative where one may not look.
        """
        tokens = self.norm(shown.to(self.norm.weight.dtype)).flatten(1)
        hidden = away < 0
        further = away - away.masked_fill(hidden, FAR).min(dim=1, keepdim=True).values
        likes = (self.asks(states) @ self.keys(tokens).T).float() / states.shape[1] ** 0.5
        likes = (likes - self.slope.exp() * further.clamp(min=0)).masked_fill(hidden, -FAR)
        weights = likes.softmax(dim=1).masked_fill(hidden, 0.0)
        return states + weights.to(tokens.dtype) @ self.values(tokens)

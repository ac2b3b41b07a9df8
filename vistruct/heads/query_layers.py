"""What every decoder of queries does first: states become queries, and these look at the picture.

Source: the layers are DETR's (`detr_layers`); that the hidden states of a language model's object tokens are the
    queries, and the published sizes, are of VT-PLUG (REF-VLM), whose decoders they are.
Differs:
    - there are as many queries as were asked, with a mask, and what is drawn of one does not depend on how many others
      the batch has room for; published (`slots`): a row has a fixed number of slots with a learned embedding each, all
      of them look at each other, empty ones too, at padding as well, and what is beyond them is cut;
    - without slots maps are normalised cell by cell: those of many networks are large (a standard deviation of 9 in an
      EfficientNet of ImageNet) and drown where a cell is, so that nothing was learned; published: as they are;
    - without slots the place of a query in its group, as waves, tells queries of one phrase apart;
    - what they look at is one map, or a few of them resized to the first; published: all, at the size of the finest.
Shapes: B rows, Q queries of a row, N queries of all rows end to end, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import BoxTarget, FeatureSpec, Queries, Ratio, Shown
from vistruct.errors import UserError
from vistruct.heads.conv_norm import resized
from vistruct.heads.detr_layers import Decoder, sine_positions, waves
from vistruct.heads.set_matching import assign_within


class QueryLayersConfig(Part):
    """Which maps are looked at, and by how many layers of what size."""

    levels: tuple[int, ...] = Field((-1,), min_length=1)  # of the maps, the finest is 0; all are resized to the first
    width: int = Field(256, gt=0, multiple_of=4)
    layers: int = Field(6, gt=0)
    heads: int = Field(8, gt=0)  # of each attention
    hidden: int = Field(2048, gt=0)  # units between the two linear layers of a layer
    dropout: float = Field(0.1, ge=0, lt=1)
    slots: int | None = Field(
        None, gt=0
    )  # published: so many queries a row, empty ones look too; None: as many as asked

    def build(self, specs: tuple[FeatureSpec, ...], query_width: int, parts: int = 1) -> QueryLayers:
        """Build over these maps, for states of so many channels.

        Args:
            specs: of the maps.
            query_width: channels of a state.
            parts: queries that each state becomes.

        Raises:
            UserError: there is no such level, or a width that `heads` does not divide.
        """
        for level in self.levels:
            chosen_spec(specs, level)
        if self.width % self.heads:
            fix = f"a width of {-(-self.width // self.heads) * self.heads}"
            raise UserError(f"{self.heads} heads do not divide width {self.width}", where="layers.heads", fix=fix)
        return QueryLayers(self, specs, query_width, parts)


def chosen_spec(specs: Sequence[FeatureSpec], level: int) -> FeatureSpec:
    """One of them, counted from the finest, or from the last with -1.

    Raises:
        UserError: there is none.
    """
    if not -len(specs) <= level < len(specs):
        fix = f"a level from {-len(specs)} to {len(specs) - 1}"
        raise UserError(f"no feature map {level} among {len(specs)}", where="levels", fix=fix)
    return specs[level]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which queries there are, of all rows end to end, and the picture that they are about."""

    groups: tuple[tuple[int, ...], ...]  # of each row, how many queries each group has
    cut: tuple[int, ...]  # of each row, queries behind these for which there was no slot: nothing is drawn of them
    shown: Shown  # in pixels of the padded picture

    @classmethod
    def of(cls, queries: Queries, slots: int | None, shown: Shown) -> Asked:
        """All of them, or of each row the first ones."""
        kept: list[tuple[int, ...]] = []
        for sizes in queries.groups:
            left = sum(sizes) if slots is None else slots
            fitting: list[int] = []
            for size in sizes:
                fitting.append(min(size, left))
                left -= fitting[-1]
            kept.append(tuple(fitting))
        cut = tuple(every - sum(one) for every, one in zip(queries.counts, kept, strict=True))
        return cls(groups=tuple(kept), cut=cut, shown=shown)

    @property
    def counts(self) -> list[int]:
        """How many queries each row has."""
        return [sum(sizes) for sizes in self.groups]

    @property
    def share(self) -> Ratio:
        """The part of the queries for which there was no slot."""
        return Ratio(total=sum(self.cut), count=sum(self.cut) + sum(self.counts))

    def flat(self, table: Tensor) -> Tensor:
        """[B, Q, ...] -> [N, ...]."""
        places = [row * table.shape[1] + at for row, count in enumerate(self.counts) for at in range(count)]
        return table.flatten(0, 1)[torch.tensor(places, dtype=torch.int64, device=table.device)]

    @property
    def rows(self) -> Tensor:
        """int64[N], on the CPU: the row of each query."""
        return torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts, dtype=torch.int64))

    def truths(self, targets: Sequence[BoxTarget]) -> list[BoxTarget]:
        """Of each row the objects of the queries that were not cut.

        Raises:
            ValueError: a row has more or fewer objects than it has queries.
        """
        for target, count, cut in zip(targets, self.counts, self.cut, strict=True):
            if len(target) != count + cut:
                raise ValueError(f"{len(target)} objects for {count + cut} queries")
        return [
            target.keep(torch.arange(count, device=target.labels.device)) if cut else target
            for target, count, cut in zip(targets, self.counts, self.cut, strict=True)
        ]

    def order(self, cost: Callable[[slice], Tensor], use_groups: bool, device: torch.device) -> Tensor:
        """int64[N]: the object of each query, of its group the cheapest; or as they come."""
        sizes = [size for sizes in self.groups for size in sizes] if use_groups else [1] * sum(self.counts)
        with torch.autocast(device.type, enabled=False):
            return assign_within(sizes, cost, device)

    def within_rows(self, order: Tensor) -> list[Tensor]:
        """`order` int64[N] -> of each row, the places of its queries' objects in its own table."""
        starts = [sum(self.counts[:row]) for row in range(len(self.counts))]
        return [one - start for one, start in zip(order.split(self.counts), starts, strict=True)]

    def clipped(self, corners: Tensor, padded_hw: tuple[int, int]) -> Tensor:
        """float[N, 2 * n] x and y in turn, in pixels of a picture of this size, moved to where there is image."""
        scale = [size / own for size, own in zip(padded_hw, self.shown.padded_hw, strict=True)]
        starts = self.shown.corners_yx or ((0, 0),) * len(self.shown.sizes_hw)
        edges = [
            (x * scale[1], y * scale[0], (x + width) * scale[1], (y + height) * scale[0])
            for (y, x), (height, width) in zip(starts, self.shown.sizes_hw, strict=True)
        ]
        limits = corners.new_tensor(edges).view(-1, 2, 2)[self.rows.to(corners.device)]  # [N, 2, 2]
        repeats = corners.shape[-1] // 2
        low, high = (limits[:, i].repeat(1, repeats) for i in (0, 1))
        return corners.clamp(low, high)

    def split(self, said: Tensor) -> list[Tensor]:
        """[N, ...] -> of each row its own, and zeros for what was cut."""
        each = said.split(self.counts)
        return [
            torch.cat([one, one.new_zeros(cut, *one.shape[1:])]) if cut else one
            for one, cut in zip(each, self.cut, strict=True)
        ]


def all_of(maps: Sequence[Tensor], specs: Sequence[FeatureSpec], shown: Shown | None) -> Shown:
    """What of the pictures is image: all of it where nobody says."""
    if shown is not None:
        return shown
    size_hw = (maps[0].shape[2] * specs[0].stride, maps[0].shape[3] * specs[0].stride)
    return Shown(sizes_hw=(size_hw,) * len(maps[0]), padded_hw=size_hw)


def object_units(targets: Sequence[BoxTarget], slots: int | None) -> float:
    """How many objects something is drawn of."""
    return float(sum(len(target) if slots is None else min(slots, len(target)) for target in targets))


class QueryLayers(nn.Module):
    """Queries and maps list[float[B, C_i, h_i, w_i]] -> float[B, Q * parts, D], the parts of a query side by side."""

    def __init__(self, config: QueryLayersConfig, specs: tuple[FeatureSpec, ...], query_width: int, parts: int) -> None:
        super().__init__()
        self.config, self.count = config, parts
        width = config.width
        self.project = nn.Linear(query_width, width)
        channels = sum(specs[level].channels for level in config.levels)
        self.norm = nn.LayerNorm(channels) if config.slots is None else None
        self.cells = nn.Linear(channels, width)
        self.parts = nn.Embedding(parts, width) if parts > 1 else None
        self.slots = None if config.slots is None else nn.Embedding(config.slots * parts, width)
        self.decoder = Decoder(width, config.layers, config.heads, config.hidden, config.dropout, look_near=False)

    @property
    def repeated_blocks(self) -> tuple[nn.Module, ...]:
        """Its layers."""
        return tuple(self.decoder.layers)

    def forward(self, queries: Queries, maps: list[Tensor], shown: Shown) -> Tensor:
        chosen = [maps[level] for level in self.config.levels]
        grid = (chosen[0].shape[2], chosen[0].shape[3])
        cells = torch.cat([resized(one, grid) for one in chosen], dim=1).flatten(2).transpose(1, 2)
        memory = self.cells(cells if self.norm is None else self.norm(cells))
        everywhere = torch.zeros(1, *grid, dtype=torch.bool, device=memory.device)
        positions = sine_positions(everywhere, self.config.width).to(memory.dtype)
        states, places = self._states(queries), self._places(queries)
        if self.parts is not None:
            states = (states[:, :, None] + self.parts.weight).flatten(1, 2)
        if self.slots is not None:
            return self.decoder(self.slots.weight, memory, positions, None, states)[-1]
        unseen = ~nn.functional.pad(queries.is_there, (0, states.shape[1] // self.count - queries.states.shape[1]))
        unseen[:, 0] = False  # of a row without queries the first place looks at itself: no row is without any
        unseen = unseen.repeat_interleave(self.count, dim=1)
        padding = shown.padding(grid, memory.device).flatten(1)
        return self.decoder(places.to(states.dtype), memory, positions, padding, states, unseen)[-1]

    def _states(self, queries: Queries) -> Tensor:
        """float[B, Q, D], what queries begin with: at least one a row, as many as there are slots."""
        states, slots = queries.states, self.config.slots
        room = max(1, states.shape[1]) if slots is None else slots
        return self.project(nn.functional.pad(states, (0, 0, 0, room - states.shape[1])))

    def _places(self, queries: Queries) -> Tensor:
        """float32[B, Q * parts, D]: the place of each query in its group, as waves."""
        room = max(1, queries.states.shape[1])
        each = [[at for size in sizes for at in range(size)] for sizes in queries.groups]
        places = torch.tensor([[*row, *[0] * (room - len(row))] for row in each], device=queries.states.device)
        known = waves(torch.stack([places / 16, places / 256], dim=-1), self.config.width)
        return known.repeat_interleave(self.count, dim=1)


def mlp(width: int, last: int, first: int | None = None) -> nn.Sequential:
    """Three linear layers with ReLU between them."""
    return nn.Sequential(
        nn.Linear(width if first is None else first, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, last),
    )

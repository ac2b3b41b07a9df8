"""What the rows of a batch show and point at: written into their turns before they are tokens, kept beside them after.

A question's `<region>` becomes tokens that the task fills with what it sees there; an answer's `<object>` becomes the
grammar's way to point, with a token for each object. Both lie on the *picture*: a square that shows all of the first
image of a sample, as the tile does that the language model sees of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice

import numpy as np
import torch
from torch import Tensor

from vistruct.contracts import OBJECT_MARK, REGION_MARK, Objects, Prompt, Region, Sample, Shown, Turn
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.transforms.points import move_points
from vistruct.vlm.grammar import Aim, Grammar, write_turns
from vistruct.vlm.lacking import lacking
from vistruct.vlm.picture import Frame, coverage, places, published_rasters, shown
from vistruct.vlm.region_tokens import KINDS, RegionTokensConfig
from vistruct.vlm.regions import region_of
from vistruct.vlm.tiling import Tiling, tile


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """Turns as they are read, and what their marks became, in order."""

    turns: tuple[Turn, ...]
    aims: tuple[tuple[Aim, ...], ...] = ()  # of each answer that points, its object tokens
    regions: tuple[tuple[int, Prompt], ...] = ()  # object and kind of each region


Boxes = Sequence[Sequence[float]]  # xyxy each, parts of the picture
NOTHING_SPOKEN = Spoken(turns=())


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """What of a model that points a collator must know; it holds no weights."""

    grammar: Grammar
    regions: RegionTokensConfig | None  # None: questions cannot show any
    object_token: int
    region_token: int
    tiling: Tiling
    size: int  # pixels, the picture's side, in which decoders learn
    grid: int  # patches, a tile's side
    mask_size: int  # pixels, a side of the masks that decoders learn
    tower: bool  # whether pictures of `size` are needed beside the tiles
    vary: bool  # whether the place of a click and the way of a stroke are drawn anew in every epoch
    mask_units: frozenset[str]  # units whose decoders learn from masks
    key_points: Mapping[str, int]  # of those whose decoders learn key points, how many of each object

    def parts(self, boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> Boxes:
        """Boxes of objects as parts of the picture, where they are to be written; else nothing.

        Args:
            boxes_xyxy: float[N, 4], pixels of an image of `size_hw`.
        """
        if not self.grammar.coordinates:
            return ()
        corners = boxes_xyxy.double().view(-1, 2, 2)
        frame = Frame(size_hw=size_hw, fit=self.tiling.fit)
        return tuple(map(tuple, move_points(corners, frame.matrix()).flatten(1).tolist()))

    def speak(self, turns: Sequence[Turn], answer: Turn | None = None, boxes: Boxes = ()) -> Spoken:
        """The turns with their marks written out.

        Args:
            answer: to the last of them, which is asked for: a command says what it will be like.
            boxes: of the sample's objects, see `parts`.

        Raises:
            UserError: a question shows a region, which this model cannot be shown.
        """
        asked = [*turns, answer] if answer is not None and self.grammar.command else list(turns)
        said, flat = write_turns(asked, self.grammar, boxes)
        if len(asked) > len(turns):
            said.pop()
        tokens, aims = iter(flat), []
        for turn in said:
            own = tuple(islice(tokens, sum(map(len, turn.points)))) if turn.role == "assistant" else ()
            aims += [own] if own else []
        regions: list[tuple[int, Prompt]] = []
        for number, turn in enumerate(said):
            if turn.role != "user" or not turn.points:
                continue
            if self.regions is None:
                fix = "--set task.pointing.regions.style=pooled"
                raise UserError("a question shows a region, and this model has no tokens for one", fix=fix)
            pieces = turn.text.split(REGION_MARK)
            marks = [REGION_MARK * (self.regions.tokens_per_region * len(rows)) for rows in turn.points]
            text = pieces[0] + "".join(a + b for a, b in zip(marks, pieces[1:], strict=True))
            kinds: Sequence[Prompt] = turn.prompts or ("box",) * len(turn.points)
            regions += [(row, kind) for rows, kind in zip(turn.points, kinds, strict=True) for row in rows]
            said[number] = replace(turn, text=text)
        return Spoken(turns=tuple(said), aims=tuple(aims), regions=tuple(regions))

    def lacking(self, objects: Objects[np.ndarray], turns: Sequence[Turn], size_hw: tuple[int, int] | None) -> str:
        """Why a conversation cannot be learned by its annotations (see `lacking.lacking`); "": it can."""
        if self.grammar.coordinates:  # decoders and region tokens learn nothing
            return lacking(objects, turns, size_hw, masks=frozenset(), key_points={})
        return lacking(objects, turns, size_hw, masks=self.mask_units, key_points=self.key_points)

    def kept(self, ids: Sequence[int], spoken: Spoken) -> Spoken:
        """What of it is in a row that may have been cut.

        Raises:
            UserError: a text holds one of the tokens itself.
        """
        objects, regions = ids.count(self.object_token), ids.count(self.region_token)
        whole = regions if self.regions is None else regions // self.regions.tokens_per_region
        spare = sum(map(len, spoken.aims)) - objects
        if spare < 0 or whole > len(spoken.regions):
            mark = OBJECT_MARK if spare < 0 else REGION_MARK
            fix = "only marks that `points` explains stand for something: remove it from the text"
            raise UserError(f"a text holds {mark} itself", fix=fix)
        left = iter([aim for own in spoken.aims for aim in own][:objects])
        aims = tuple(kept for own in spoken.aims if (kept := tuple(islice(left, len(own)))))
        return replace(spoken, aims=aims, regions=spoken.regions[:whole])

    def pointed(self, samples: Sequence[Sample], rows: Sequence[Spoken], owners: Sequence[int]) -> Pointed:
        """What the rows of these samples show and point at.

        Args:
            owners: of each row, the number of its sample.

        Raises:
            UserError: an object in another image than the sample's first one, or one without what is to be drawn.
        """
        frames = [Frame(size_hw=size_of(sample), fit=self.tiling.fit) for sample in samples]
        wanted: list[list[int]] = [[] for _ in samples]
        shows: list[tuple[int, Region]] = []
        aims: list[tuple[Aim, ...]] = []
        of: list[int] = []
        for row, owner in zip(rows, owners, strict=True):
            kept = wanted[owner] if owner >= 0 else []
            kept += sorted({aim.row for own in row.aims for aim in own} - {*kept})
            aims += [tuple(replace(aim, row=kept.index(aim.row)) for aim in own) for own in row.aims]
            of += [owner] * len(row.aims)
            for number, (at, kind) in enumerate(row.regions):
                seed = derive(samples[owner].seed, "region", number) if self.vary else None
                shows.append((owner, region_of(samples[owner].objects, at, kind, seed)))
        for sample, kept in zip(samples, wanted, strict=True):
            _check_images(sample, kept)
        covered = [self._cover(region, frames[owner]) for owner, region in shows]
        with_masks = not self.mask_units.isdisjoint(aim.unit for own in aims for aim in own)
        one = self.tiling.model_copy(update={"size": self.size, "max_tiles": 1, "min_tiles": 1})
        return Pointed(
            frames=tuple(frames),
            size=self.size,
            pictures=torch.cat([tile(sample.images[0], one) for sample in samples if sample.images])
            if self.tower and any(sample.images for sample in samples)
            else torch.zeros(0, 3, self.size, self.size, dtype=torch.uint8),
            owners=of,
            aims=aims,
            coverage=torch.stack(covered) if covered else torch.zeros(0, 1, 1),
            shown_in=torch.tensor([owner for owner, _ in shows], dtype=torch.int64),
            kinds=torch.tensor([KINDS.index(region.kind) for _, region in shows], dtype=torch.int64),
            boxes=torch.cat([torch.zeros(0, 4), *(places([region], frames[owner]) for owner, region in shows)]),
            targets=[
                self._targets(sample.objects, kept, frame, with_masks)
                for sample, kept, frame in zip(samples, wanted, frames, strict=True)
            ],
        )

    def _cover(self, region: Region, frame: Frame) -> Tensor:
        """float32[h, w], how much of each cell a region covers, on the grid of its tokens."""
        assert self.regions is not None
        side = self.tiling.size
        if self.regions.style == "published":
            return published_rasters([region], frame, side)[0]
        return coverage([region], frame, self.regions.raster_hw((side, side), (self.grid, self.grid)))[0]

    def _targets(self, objects: Objects[Tensor], rows: list[int], frame: Frame, with_masks: bool) -> Objects[Tensor]:
        own = objects.keep(torch.tensor(rows, dtype=torch.int64))
        moved = frame.into(replace(own, masks=None, extra={}), self.size)
        if not with_masks or own.masks is None:
            return moved
        return replace(moved, masks=frame.into(replace(own, extra={}), self.mask_size).masks.float())


def size_of(sample: Sample) -> tuple[int, int]:
    """Of its first image in pixels; of none a pixel."""
    return (int(sample.images[0].shape[1]), int(sample.images[0].shape[2])) if sample.images else (1, 1)


def _check_images(sample: Sample, rows: Sequence[int]) -> None:
    images = sample.objects.extra.get("images")
    if images is not None and any(images[row] for row in rows):
        what = "an answer points at objects in another image than the first"
        raise UserError(what, where=sample.id, fix="put that image first, or ask about it in a conversation of its own")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """The object tokens of one unit, answer by answer: those of one do not know of those of another."""

    answers: tuple[int, ...]  # numbers of `Pointed.aims`, those with any
    places: tuple[tuple[int, ...], ...]  # of each, which of all object tokens of the batch
    aims: tuple[tuple[Aim, ...], ...]
    groups: tuple[tuple[int, ...], ...]  # of each, how many tokens each of its phrases has

    def targets(self, pointed: Pointed) -> list[Objects[Tensor]]:
        """Of each answer an object for each token, in pixels of the picture."""
        return [
            pointed.targets[pointed.owners[number]].keep(torch.tensor([aim.row for aim in aims]))
            for number, aims in zip(self.answers, self.aims, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Pointed:
    """What the rows of a batch show and point at; all on the CPU."""

    frames: tuple[Frame, ...]  # of each sample, where its first image lies on its picture
    size: int  # pixels, a side of the picture
    pictures: Tensor  # uint8[S, 3, size, size] for a tower; [0, ...]: there is none
    aims: list[tuple[Aim, ...]]  # of each answer that points, its object tokens; their rows are those of `targets`
    owners: list[int]  # of each of these answers, its sample
    coverage: Tensor  # float[R, g, g], shares of cells of the picture that each region covers, all rows end to end
    shown_in: Tensor  # int64[R], the sample whose picture it is
    kinds: Tensor  # int64[R], numbers of KINDS
    boxes: Tensor  # float[R, 4], xyxy from 0 to 1 of the picture
    targets: list[Objects[Tensor]]  # of each sample, the objects that it points at, in pixels of the picture

    def asked(self, unit: str) -> Asking:
        """The object tokens that are to be drawn as this unit."""
        answers, places, kept, groups, first = [], [], [], [], 0
        for number, aims in enumerate(self.aims):
            own = [(first + at, aim) for at, aim in enumerate(aims) if aim.unit == unit]
            first += len(aims)
            if own:
                answers.append(number)
                places.append(tuple(place for place, _ in own))
                kept.append(tuple(aim for _, aim in own))
                groups.append(tuple(len(list(same)) for _, same in groupby(aim.group for _, aim in own)))
        return Asking(answers=tuple(answers), places=tuple(places), aims=tuple(kept), groups=tuple(groups))

    def shown(self, samples: Sequence[int]) -> Shown:
        """What of the pictures of these samples is image."""
        return shown([self.frames[number] for number in samples], self.size)

    def pin_memory(self) -> Pointed:
        """See `ChatBatch.pin_memory`."""
        return replace(self, pictures=self.pictures.pin_memory())

"""What annotations say: of a file before it is decoded (Record) and beside its pixels (Sample)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from torch import Tensor

from vistruct.contracts.objects import NO_OBJECTS, Objects
from vistruct.errors import UserError

Role = Literal["system", "user", "assistant"]
# How an answer is measured: as words, by its first word, as a number, as one box or several, as a map of cells, as a
# description, or by how many of those who were asked gave it.
Form = Literal["words", "yes_no", "number", "box", "boxes", "map", "caption", "vqa"]
RGB = tuple[int, int, int]  # 0 to 255
Window = tuple[int, int, int, int]  # xyxy in pixels, right and bottom exclusive
Pixels = Literal["uint8", "uint16", "float32", "raw"]  # 1 is 255, 65535, 1; raw: float32 in the unit of the files
IGNORED = -1  # in a label map: a pixel that is neither learned nor counted


IMAGE_MARK = "<image>"  # in a question: an image goes here
REGION_MARK, OBJECT_MARK = "<region>", "<object>"  # in a question, in an answer: what stands for objects
PHRASE_OPEN, PHRASE_CLOSE = "<Phrase>", "</Phrase>"  # in an answer, around the words for the objects behind them
Prompt = Literal["box", "point", "scribble", "mask"]  # how a question shows a region
POINT_MARKS: Mapping[Role, str] = {"user": REGION_MARK, "assistant": OBJECT_MARK}


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """What a question shows of an image, drawn by hand, in pixels of the image."""

    kind: Prompt
    xy: tuple[
        tuple[float, float], ...
    ] = ()  # a point's place, two corners of a box, a scribble's line, a mask's outline
    mask: np.ndarray | None = None  # bool[H, W], of a mask, or of a scribble that was painted

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: an unknown kind; another number of places than it has, or one that is no number; no mask.
        """
        places = {"point": 1, "box": 2}.get(self.kind, len(self.xy))
        fix = 'Region(kind="point", xy=((120, 80),)), a box of two corners, a scribble of a line or mask, a mask'
        if self.kind not in get_args(Prompt):
            raise UserError(f"no way to show a region is {self.kind!r}", where="Region", fix=fix)
        drawn = self.mask is not None and self.kind in ("mask", "scribble")
        least = 3 if self.kind == "mask" else 1
        if not drawn and (len(self.xy) < least or len(self.xy) != places):
            raise UserError(f"a {self.kind} of {len(self.xy)} places", where="Region", fix=fix)
        if not all(len(place) == 2 and all(map(math.isfinite, place)) for place in self.xy):
            raise UserError(f"{self.kind} at {self.xy!r:.60}, which is no place", where="Region", fix=fix)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation."""

    role: Role
    text: str
    is_taught: bool = True  # an answer that is only read, and never learned or asked for, is not
    points: tuple[tuple[int, ...], ...] = ()  # of each region or object mark, in order: rows of the sample's objects
    units: tuple[str, ...] = ()  # of each object mark of an answer, what is drawn of it: box, mask, ...; (): boxes
    prompts: tuple[Prompt, ...] = ()  # of each region mark of a question, how it is shown; (): as boxes
    task: str = ""  # of an answer, what is asked for, as a task command says it; "": as the answer looks
    others: tuple[str, ...] = ()  # of an answer, those of others who were asked, each as often as it was given
    form: Form | None = None  # of an answer, how it is measured; None: as it looks


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the annotations say of one image, of a window of it, or of a slice of a volume, before decoding anything."""

    id: str  # unique in its data set; names the image (and window) in every message
    images: tuple[Path, ...]  # one; several for pairs (before, after), bands in files of their own, and chats
    size_hw: tuple[int, int] | None = None  # pixels, of the window if there is one; None: not known before decoding
    window_xyxy: tuple[int, int, int, int] | None = None  # the part of images[0] that this record is about
    image_id: str = ""  # the whole image's record id; equal to `id` unless this is a window
    objects: Objects[np.ndarray] = field(default_factory=lambda: NO_OBJECTS)  # pixels of the window, else the image
    label_map: Path | None = None  # raster with the class of every pixel, on the grid of images[0]
    slice: int | None = None  # of a volume: which, from 0
    image_labels: tuple[int, ...] | None = None  # classes of the image as a whole: one, or any number (multi-label)
    group: str = ""  # what must not straddle training and test: a patient, a scene, a flight; "": nothing known
    notes: Mapping[str, str] = field(default_factory=dict)  # what else a format says of the image: gsd, source, ...
    captions: tuple[str, ...] = ()  # what people said of the image as a whole
    turns: tuple[Turn, ...] = ()
    families: tuple[str, ...] = ()  # of each answer, the kind of its question; empty: not known
    max_tiles: int | None = None  # of its images together; None: as the task has it

    def __post_init__(self) -> None:
        if not self.image_id:
            object.__setattr__(self, "image_id", self.id)

    def keep(self, rows: np.ndarray) -> Self:
        """The same with some of its objects: bool[N] or int64[K]."""
        return replace(self, objects=self.objects.keep(rows))

    def with_columns(self, **columns: Any) -> Self:
        """The same with other columns of objects in the place of its own."""
        return replace(self, objects=replace(self.objects, **columns))


@dataclass(kw_only=True)
class Sample:
    """One decoded record. Everything random about it derives from `seed`, never from a global state."""

    id: str
    image_id: str
    seed: int
    images: list[Tensor]  # each uint8, uint16 or float32[C, H, W], all of one type; three channels are RGB
    objects: Objects[Tensor] = field(default_factory=lambda: Objects().tensors())  # pixels of images[0]
    label_map: Tensor | None = None  # int16[H, W], the class of every pixel of images[0], or IGNORED
    image_labels: tuple[int, ...] | None = None  # classes of the image as a whole
    captions: tuple[str, ...] = ()  # what people said of it
    turns: tuple[Turn, ...] = ()
    families: tuple[str, ...] = ()
    max_tiles: int | None = None
    origin_xy: tuple[float, float] = (0.0, 0.0)  # this sample's top left corner in the whole image, pixels
    scale_xy: tuple[float, float] = (1.0, 1.0)  # sample pixels to a pixel of the whole image

    def keep(self, rows: Tensor) -> Self:
        """The same with some of its objects: bool[N] or int64[K]."""
        return replace(self, objects=self.objects.keep(rows))

    def with_columns(self, **columns: Any) -> Self:
        """The same with other columns of objects in the place of its own."""
        return replace(self, objects=replace(self.objects, **columns))

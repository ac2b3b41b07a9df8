"""Images that a formula draws, with classes (`formula`): a data set of any size without a file.

A class is a wave around an oval: rings of vertices that grow outwards line by line, in a random grey on black. Which
numbers make a class, and which noise an image, follows from seeds alone, so that every machine draws the same.

Source: Visual Atoms (VisualAtom), Takashima et al., CVPR 2023: the ranges and the growth of its public renderer (MIT).
Differs: every class and image is drawn from a seed of its own, not from one stream of random numbers; the renderer's
    Perlin noise, asked at random places of 0 to 10,000, is drawn from its distribution; lengths follow the size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from PIL import Image, ImageDraw
from pydantic import Field
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import DataInfo, Record
from vistruct.data.dataset import RecordDataset
from vistruct.data.input import Input
from vistruct.errors import UserError
from vistruct.issues import IssueCounter
from vistruct.ops.seeds import derive
from vistruct.transforms.augment import Augment
from vistruct.transforms.sizing import Sizing

SLOPES = np.array([*range(-8, 0), *range(1, 9)], dtype=np.float64)
RENDERED = 512  # pixels a side that the lengths of a class are given for
_WHERE = "number"  # note of a record: which image of its class


class FormulaDataConfig(Part):
    """So many classes of so many images each."""

    kind: Literal["formula"] = "formula"
    classes: int = Field(1000, gt=0)
    each: int = Field(1000, gt=0)  # images of a class
    first: int = Field(0, ge=0)  # number of the first image of each class: others than those that were learned from
    size: int = Field(RENDERED, ge=16)  # pixels a side that images are drawn at
    seed: int = 0  # of another seed, all classes are others
    augment: Augment | None = None  # random variation; None, as in evaluation: none
    resize: Sizing | None = None  # factor, or a size, of each image

    def build(self, cache: Path | None = None) -> RecordDataset:
        """Nothing is drawn before it is asked for, and nothing is kept."""
        records = Drawn(self.classes, self.each, self.first, self.size)
        names = tuple(f"{number:04d}" for number in range(self.classes))
        told = f"visual atoms {self.classes} {self.each} {self.first} {self.size} {self.seed}"
        shown = self.resize if self.augment is None else self.augment.usual or self.resize
        info = DataInfo(
            class_names=names,
            input=Input(channels=3, resize=shown).model_dump(mode="json"),
            num_records=len(records),
            fingerprint=hashlib.sha256(told.encode()).hexdigest(),
            counts=dict.fromkeys(names, self.each),
        )
        read = partial(_image_of, seed=self.seed)  # a partial travels to worker processes
        return RecordDataset(records, info, IssueCounter(), self.resize, self.augment, read_images=read)


class Drawn(Sequence[Record]):
    """The records of all images, class by class; none of them is held."""

    def __init__(self, classes: int, each: int, first: int, size: int) -> None:
        self.classes, self.each, self.first, self.size = classes, each, first, size

    def __len__(self) -> int:
        return self.classes * self.each

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")
        label, number = divmod(index % len(self), self.each)
        name = f"{label:04d}/{self.first + number:06d}"
        return Record(
            id=name,
            images=(Path(f"{name}.png"),),  # no file: the name alone
            size_hw=(self.size, self.size),
            image_labels=(label,),
            notes={_WHERE: str(self.first + number)},
        )


@dataclass(frozen=True, kw_only=True)
class Atom:
    """What makes a class; lengths in pixels of an image of 512."""

    vertices: int  # of each line, 200 to 1,000
    lines: int  # 1 to 200
    noise: float  # 2 to 6: how far a line is from the one before it, and how uneven
    growth: float  # 0 to 0.01, outwards, a line
    radius: int  # 0 to 50, of what the first line starts from
    waves: tuple[int, int]  # 0 to 20 around the oval; equal only where both are 0
    oval: tuple[float, float]  # 1 to 2, of x and y


def atom(seed: int, label: int) -> Atom:
    """The class of a number; the same at every call."""
    draw = np.random.default_rng(derive(seed, "atom", label))
    first = int(draw.integers(0, 21))
    others = [one for one in range(21) if one != first or first == 0]
    return Atom(
        vertices=int(draw.integers(200, 1001)),
        lines=int(draw.integers(1, 201)),
        noise=float(draw.uniform(2, 6)),
        growth=float(draw.uniform(0, 0.01)),
        radius=int(draw.integers(0, 51)),
        waves=(first, int(draw.choice(others))),
        oval=(float(draw.uniform(1, 2)), float(draw.uniform(1, 2))),
    )


def lines_of(atom: Atom, draw: np.random.Generator) -> np.ndarray:
    """float64[lines, vertices, 2], x and y about the centre: every line of an image of a class.

    From one line to the next, a vertex at angle a goes outwards in x by c - c p + (sin n1 a + sin n2 a) / 2 + growth,
    and in y with another p; p is Perlin noise.
    """
    angles = 2 * np.pi / atom.vertices * np.arange(atom.vertices)
    out = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # [V, 2]
    waves = np.sin(np.outer(atom.waves, angles)).sum(axis=0) / 2  # [V]
    noise = perlin(draw, (atom.lines, atom.vertices, 2))
    steps = atom.noise * (1 - noise) + waves[:, None] + atom.growth
    return out * atom.radius * np.array(atom.oval) + np.cumsum(out * steps, axis=0)


def perlin(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Perlin noise in one dimension at places that have nothing to do with each other: between two slopes of 1 to 8,
    up or down, smoothly (6 t^5 - 15 t^4 + 10 t^3), times 0.4."""
    place = draw.random(shape)
    before, after = SLOPES[draw.integers(0, len(SLOPES), (2, *shape), dtype=np.int8)]
    share = place * place * place * (place * (place * 6 - 15) + 10)
    return 0.4 * ((1 - share) * before * place + share * after * (place - 1))


def drawn(seed: int, label: int, number: int, size: int) -> np.ndarray:
    """uint8[size, size, 3]: an image of a class; the same at every call."""
    draw = np.random.default_rng(derive(seed, "image", label, number))
    lines = lines_of(atom(seed, label), draw)
    greys = draw.integers(0, 256, len(lines)).tolist()
    centre = draw.integers(0, 2 * RENDERED + 1, 2) / 2
    picture = Image.new("L", (size, size))
    pen = ImageDraw.Draw(picture)
    closed = np.concatenate([lines, lines[:, :1]], axis=1) + centre  # [L, V + 1, 2]
    points = (closed * (size / RENDERED)).reshape(len(lines), -1).tolist()
    for grey, line in zip(greys, points, strict=True):
        pen.line(line, fill=grey, width=1)
    return np.asarray(picture)[:, :, None].repeat(3, axis=2)


def _image_of(record: Record, seed: int) -> list[Tensor]:
    """uint8[3, H, W] of a record."""
    assert record.size_hw is not None
    assert record.image_labels is not None
    pixels = drawn(seed, record.image_labels[0], int(record.notes[_WHERE]), record.size_hw[0])
    return [torch.from_numpy(pixels.transpose(2, 0, 1).copy())]


def drawn_instead(
    classes: int, said: Mapping[str, object], groups: Sequence[Any], *, augment: Augment, resize: Sizing, seed: int
) -> tuple[FormulaDataConfig, FormulaDataConfig]:
    """What is learned from and what is measured on, about a thousand images that are not learned from.

    Args:
        said: by their options, what means something for data on disk alone.
        groups: of such options, as dataclasses with their defaults.

    Raises:
        UserError: any of these is said; fewer than two classes.
    """
    changed = {
        f"--{field.name.replace('_', '-')}": vars(group)[field.name] != field.default
        for group in groups
        for field in fields(group)
    }
    for flag, value in {**said, **changed}.items():
        if value:
            what = f"{flag} means nothing for images that a formula draws"
            raise UserError(what, where=flag, fix=f"leave {flag} out")
    if classes < 2:
        raise UserError(f"--formula {classes}: there is nothing to tell apart", where="--formula", fix="--formula 1000")
    learned = FormulaDataConfig(classes=classes, seed=seed, augment=augment)
    others = {"first": learned.each, "each": max(1, 1000 // classes)}
    measured = learned.model_copy(update={"augment": None, "resize": resize, **others})
    return learned, measured

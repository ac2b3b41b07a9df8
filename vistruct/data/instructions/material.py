"""What questions that point are made of: the objects of one picture, which of them have what, what may lie between."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from vistruct.data.instructions.known import Known
from vistruct.data.instructions.scene import CROWD, Scene, overlap
from vistruct.files.depth import is_depth
from vistruct.files.images import image_size

Telling = Literal["expression", "description", "caption"]  # what keys begin with, before the number of what was said


@dataclass(frozen=True, kw_only=True)
class Material:
    """One picture. Rows are those of `known.objects`; an object that counts is single, and has an area."""

    known: Known
    asked: set[tuple[Hashable, ...]] = field(default_factory=set)  # keys of what was asked about it so far
    _options: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    _covered: dict[int, np.ndarray] = field(default_factory=dict)

    @cached_property
    def size_hw(self) -> tuple[int, int]:
        """Pixels."""
        return self.known.size_hw or image_size(self.known.image)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The word for each object; "" where nobody says."""
        given = self.known.objects.extra.get("names")
        return ("",) * len(self.known.objects) if given is None else tuple(given)

    @cached_property
    def rows(self) -> np.ndarray:
        """int64[K], the objects that count."""
        boxes = self.known.objects.boxes_xyxy
        counts = self.known.objects.is_single & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        counts[[one.row for one in self.known.drawn]] = False  # a click, a stroke
        counts[self.depths] = False
        return np.flatnonzero(counts)

    @cached_property
    def named(self) -> np.ndarray:
        """int64[K], those of them that have a word."""
        return np.array([row for row in self.rows.tolist() if self.names[row]], np.int64)

    @cached_property
    def depths(self) -> list[int]:
        """What is no object, but the depth of the whole image."""
        return [row for row, mask in enumerate(self.known.objects.masks or ()) if is_depth(mask)]

    @cached_property
    def with_mask(self) -> np.ndarray:
        """int64[K], those that have a mask."""
        masks = self.known.objects.masks
        return self.rows[:0] if masks is None else self._having([bool(mask) for mask in masks])

    @cached_property
    def with_keypoints(self) -> np.ndarray:
        """int64[K], those of which a key point is known."""
        points = self.known.objects.keypoints
        return self.rows[:0] if points is None else self._having((points[:, :, 2] > 0).any(axis=1))

    @cached_property
    def is_complete(self) -> bool:
        """Whether "all" and "none" can be said: every object of the classes is there, and all have words."""
        return self.known.is_complete and len(self.named) == len(self.rows)

    @cached_property
    def number(self) -> dict[str, int]:
        """Of each of `classes`, its place in them."""
        return {name: number for number, name in enumerate(self.classes)}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Words that were looked for, and those of objects."""
        return tuple(dict.fromkeys([*self.known.class_names, *(name for name in self.names if name)]))

    def told(self, kind: Telling) -> tuple[Any, ...]:
        """What somebody said of it: expressions and descriptions are `Said`, captions `Told`."""
        known = self.known
        return {"expression": known.expressions, "description": known.regions, "caption": known.sentences}[kind]

    def untold(self, kind: Telling) -> set[int]:
        """Numbers of what was said and not used in any question yet."""
        return {*range(len(self.told(kind)))} - {key[1] for key in self.asked if key[0] == kind}

    def tellable(self, kind: Telling, way: str, fits: Callable[[Any], bool]) -> list[tuple[int, Any]]:
        """What was said that fits and was not asked for in this way; of these what was not used at all, if there is."""
        told = [(at, one) for at, one in enumerate(self.told(kind)) if (kind, at, way) not in self.asked and fits(one)]
        fresh = self.untold(kind)
        return [pair for pair in told if pair[0] in fresh] or told

    @cached_property
    def scene(self) -> Scene:
        """The named objects as question writers without marks see them; box i is object `named[i]`."""
        objects, at = self.known.objects, self.number
        doubtful = np.flatnonzero(~objects.is_single)
        boxes = objects.boxes_xyxy.astype(np.float64)
        known = [row for row in doubtful.tolist() if self.names[row]]
        # A crowd without a word may be of any class: one of each.
        rows = [*known, *(row for row in doubtful.tolist() if not self.names[row] for _ in self.classes)]
        labels = [at[self.names[row]] for row in known]
        labels += [number for _ in range(len(doubtful) - len(known)) for number in range(len(self.classes))]
        return Scene(
            size_hw=self.size_hw,
            boxes_xyxy=boxes[self.named],
            labels=np.array([at[self.names[row]] for row in self.named.tolist()], np.int64),
            names=self.classes,
            doubtful_xyxy=boxes[rows],
            doubtful_labels=np.array(labels, np.int64),
            doubtful_most=np.where(objects.is_crowd[rows], CROWD, 1),
        )

    def is_all_known_of(self, name: str) -> bool:
        """Whether every object of a class is there, and none of them is doubtful."""
        return self.is_complete and name in self.number and not self.scene.possible(self.number[name])

    def is_all_shown_of(self, name: str) -> bool:
        """Whether those that are there are all that can be drawn: what the border cuts off need not be, but is not
        nothing."""
        if not self.is_complete or name not in self.number:
            return False
        label = self.number[name]
        doubtful = self.scene.doubtful_of(label)
        return not len(doubtful) or (name in self.by_name and len(self.scene.cut_of(label)) == len(doubtful))

    def of(self, name: str) -> list[int]:
        """The objects of a class, in reading order."""
        return self.by_name.get(name, [])

    @cached_property
    def by_name(self) -> dict[str, list[int]]:
        """The objects of each class that has any, in reading order."""
        rows: dict[str, list[int]] = {}
        for row in self.in_order(self.named.tolist()):
            rows.setdefault(self.names[row], []).append(row)
        return rows

    @cached_property
    def labels(self) -> np.ndarray:
        """int64[N], the number of each object's class; -1: it has no word."""
        return np.array([self.number.get(name, -1) for name in self.names], np.int64)

    def covered(self, row: int) -> np.ndarray:
        """float64[N], how much of an object's box each other one's covers, in [0, 1]; 0 of what was drawn by hand."""
        if row not in self._covered:
            boxes = self.known.objects.boxes_xyxy.astype(np.float64)
            shares = overlap(boxes, boxes[row]) / np.prod(boxes[row, 2:] - boxes[row, :2])
            shares[[row, *(one.row for one in self.known.drawn), *self.depths]] = 0
            self._covered[row] = shares
        return self._covered[row]

    def in_order(self, rows: list[int]) -> list[int]:
        """From top to bottom, from left to right."""
        boxes = self.known.objects.boxes_xyxy
        return sorted(rows, key=lambda row: (float(boxes[row, 1]), float(boxes[row, 0]), row))

    def options(self, *needs: str) -> list[int]:
        """The objects that have what all of these need: a unit or a prompt, or "name"."""
        if needs not in self._options:
            having = {"mask": self.with_mask, "keypoint": self.with_keypoints, "name": self.named}
            rows = [{*having.get(need, self.rows).tolist()} for need in needs]
            self._options[needs] = sorted(set.intersection(*rows))
        return self._options[needs]

    def _having(self, is_there: Any) -> np.ndarray:
        return np.intersect1d(self.rows, np.flatnonzero(is_there), assume_unique=True)

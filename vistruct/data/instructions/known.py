"""What is known of one image before anything is asked about it, whatever file says so.

Sources of any layout become this, and every kind of instruction that it allows is written from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vistruct.contracts import NO_OBJECTS, Objects, Prompt, Turn


@dataclass(frozen=True, kw_only=True)
class Said:
    """Words that mean objects: an expression that only they fit, a description of a region, a phrase of a caption."""

    text: str
    rows: tuple[int, ...]  # of the image's objects; (): it means none of them, which is known
    start: int = 0  # of a phrase in its caption
    end: int = 0  # behind it


@dataclass(frozen=True, kw_only=True)
class Told:
    """A sentence about the image, and what its phrases mean; without phrases a plain caption."""

    text: str
    phrases: tuple[Said, ...] = ()  # in order, none inside another


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """How somebody showed an object by hand. Its own row is no object: no question may count, name or box it."""

    kind: Prompt
    row: int  # of what was drawn: a box, a mask of what was painted, and of a point a key point
    of: int  # the row of the object that it shows


@dataclass(frozen=True, kw_only=True)
class Known:
    """Annotations of one image. Objects are in pixels of it; `objects.extra["names"]` has their words, "" unknown."""

    id: str
    image: Path
    size_hw: tuple[int, int] | None = None  # pixels; None: the file says
    objects: Objects[np.ndarray] = field(default_factory=lambda: NO_OBJECTS)
    is_complete: bool = False  # whether every object of the named classes is here, so that "all" can be asked for
    class_names: tuple[str, ...] = ()  # classes that were looked for, of which those without an object are absent
    expressions: tuple[Said, ...] = ()  # each fits its objects and no others
    regions: tuple[Said, ...] = ()  # descriptions of objects that may fit others, too
    sentences: tuple[Told, ...] = ()
    talks: tuple[tuple[Turn, ...], ...] = ()  # conversations as they are, which may point at the objects
    drawn: tuple[Drawn, ...] = ()  # prompts that come with the data; objects without any are shown as we draw them
    image_labels: tuple[str, ...] = ()  # classes of the image as a whole

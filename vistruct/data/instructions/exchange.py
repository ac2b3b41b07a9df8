"""One question with its answer, and how a family draws what it asks about from a scene."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np

from vistruct.contracts import Prompt, Region, Turn
from vistruct.data.instructions.scene import HALVES, REGIONS, Scene

NOTHING = "none"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One question with its answer, and what balancing looks at."""

    family: str
    question: str
    answer: str
    answer_class: str  # the answer, or its kind
    about: str = ""  # what of the question could give the answer away, such as the class it names
    varies: bool = False  # answers of this kind are all different, so that a common kind is not easy to guess
    shown: tuple[
        tuple[int, ...] | Region, ...
    ] = ()  # of each <region>: rows of the picture's objects, or drawn by hand
    prompts: tuple[Prompt, ...] = ()  # how each is shown
    points: tuple[tuple[int, ...], ...] = ()  # of each <object>: rows of the picture's objects
    unit: str = ""  # what is drawn of them
    task: str = ""  # what is asked for, as a task command says it
    key: tuple[Hashable, ...] = ()  # what is asked, however it is put: never twice of one picture
    talk: tuple[Turn, ...] = ()  # in the place of question and answer: turns as somebody else wrote them


Family = Callable[[Scene, np.random.Generator], Exchange | None]


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def any_class(scene: Scene, rng: np.random.Generator, *, present: bool = False) -> int | None:
    """A class: one in the scene every second time (every time if `present`), else any; None if there is none."""
    seen = sorted(set(scene.labels.tolist()))
    options = seen if present or (seen and rng.random() < 0.5) else list(range(len(scene.names)))
    return options[rng.integers(len(options))] if options else None


def any_place(scene: Scene, boxes: np.ndarray, rng: np.random.Generator) -> tuple[str, np.ndarray, np.ndarray | None]:
    """The picture, a half or a region: its name, the boxes with their centre in it, its pixels (None: all)."""
    draw = rng.random()
    if draw < 0.4:
        return "the image", boxes, None
    if draw < 0.7:
        half = int(rng.integers(4))
        return f"the {HALVES[half]} of the image", boxes[scene.in_half(boxes, half)], scene.half_xyxy(half)
    at = int(rng.integers(9))
    return f"the {REGIONS[at]} of the image", boxes[scene.region_of(boxes) == at], scene.region_xyxy(at)


def about_part(name: str, scene: Scene, area: np.ndarray | None) -> str:
    """A class and how large a part of the picture is asked about: small parts are more often empty, and a yes would be
    guessed from the question's words for the part.

    Args:
        area: float[4], pixels, as `any_place` gives it; None: all of the picture.
    """
    if area is None:
        return name
    whole = scene.size_hw[0] * scene.size_hw[1]
    return f"{name}, 1/{round(whole / float(np.prod(area[2:] - area[:2])))}"

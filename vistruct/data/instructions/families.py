"""Families of questions: each writes one question with its answer from a scene's boxes, or says that it cannot.

A family draws what it asks about (a class, a place, a box) from the generator; `converse` calls it a few
times and keeps the candidate whose answer has been rarest so far, so that no answer can be guessed from the
question alone. No answer depends on a doubtful object (see `scene`): where one could change it, the family is
silent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vistruct.data.instructions.scene import HALVES, REGIONS, Scene, overlap
from vistruct.data.instructions.words import article, plural, several

MAX_BOXES = 12  # more than these are not asked for in one answer
MAP_CELLS = 6  # of a map, each side
NOTHING = "none"
CLEAR_AREA = 0.8  # the second largest has at most this part of the largest one's area, else neither is "the largest"
CLEAR_SHIFT = 0.02  # of the picture's side, by which the leftmost must be left of the next, and so on


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One question with its answer, and what balancing looks at."""

    family: str
    question: str
    answer: str
    answer_class: str  # the answer, or its kind
    about: str = ""  # what of the question could give the answer away, such as the class it names
    varies: bool = False  # answers of this kind are all different, so that a common kind is not easy to guess


Family = Callable[[Scene, np.random.Generator], Exchange | None]


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _class(scene: Scene, rng: np.random.Generator, *, present: bool = False) -> int | None:
    """A class: one in the scene every second time (every time if `present`), else any; None if there is none."""
    seen = sorted(set(scene.labels.tolist()))
    options = seen if present or (seen and rng.random() < 0.5) else list(range(len(scene.names)))
    return options[rng.integers(len(options))] if options else None


def _place(scene: Scene, boxes: np.ndarray, rng: np.random.Generator) -> tuple[str, np.ndarray, np.ndarray | None]:
    """The picture, a half or a region: its name, the boxes with their centre in it, its pixels (None: all)."""
    draw = rng.random()
    if draw < 0.4:
        return "the image", boxes, None
    if draw < 0.7:
        half = int(rng.integers(4))
        return f"the {HALVES[half]} of the image", boxes[scene.in_half(boxes, half)], scene.half_xyxy(half)
    at = int(rng.integers(9))
    return f"the {REGIONS[at]} of the image", boxes[scene.region_of(boxes) == at], scene.region_xyxy(at)


def presence(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """Is there one, in the picture or in a part of it?"""
    label = _class(scene, rng)
    if label is None:
        return None
    name = scene.names[label]
    place, boxes, area = _place(scene, scene.of(label), rng)
    there = len(boxes) > 0
    if not there and scene.possible(label, area):
        return None
    if not there and area is not None and overlap(scene.of(label), area).any():
        return None  # one reaches in from next door: neither yes nor no
    question = _pick(
        (
            f"Is there {article(name)} in {place}?",
            f"Does {place} show {article(name)}?",
            f"Can you see any {plural(name)} in {place}?",
        ),
        rng,
    )
    answer = "yes" if there else "no"
    return Exchange(family="presence", question=question, answer=answer, answer_class=answer, about=name)


def count(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """How many, in the picture or in a part of it?"""
    label = _class(scene, rng)
    if label is None:
        return None
    name = scene.names[label]
    place, boxes, area = _place(scene, scene.of(label), rng)
    if scene.possible(label, area):
        return None
    question = _pick(
        (
            f"How many {plural(name)} are in {place}?",
            f"Count the {plural(name)} in {place}.",
            f"What is the number of {plural(name)} in {place}?",
        ),
        rng,
    )
    answer = str(len(boxes))
    return Exchange(family="count", question=question, answer=answer, answer_class=answer, about=name)


def where(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """In which region is the only one, the largest one, or are most of them?"""
    label = _class(scene, rng, present=True)
    if label is None:
        return None
    name, boxes = scene.names[label], scene.of(label)
    regions = scene.region_of(boxes)
    if len(boxes) == 1 and not scene.possible(label):
        region = int(regions[0])
        words = (
            f"Where is the {name}?",
            f"In which part of the image is the {name}?",
            f"Locate the {name} in words.",
        )
    elif rng.random() < 0.5 or len(boxes) == 1:
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        rivals = [
            *np.sort(area)[:-1],
            *np.prod(np.diff(scene.doubtful_of(label).reshape(-1, 2, 2), axis=1), axis=2),
        ]
        if any(np.asarray(rival).item() > CLEAR_AREA * area.max() for rival in rivals):
            return None
        region = int(regions[area.argmax()])
        words = (
            f"Where is the largest {name}?",
            f"In which part of the image is the largest {name}?",
            f"Locate the largest {name} in words.",
        )
    else:
        found = most_in(scene, label)
        if found is None:
            return None
        region = found
        words = (
            f"Where are most of the {plural(name)}?",
            f"Which part of the image has the most {plural(name)}?",
            f"In which region do the {plural(name)} stand densest?",
        )
    place = REGIONS[region]
    return Exchange(family="where", question=_pick(words, rng), answer=place, answer_class=place, about=name)


def most_in(scene: Scene, label: int) -> int | None:
    """The region that has more of a class than any other, whatever the doubtful are; None if there is none."""
    tally = np.bincount(scene.region_of(scene.of(label)), minlength=9)
    best = int(tally.argmax())
    most = [int(tally[at]) + scene.possible(label, scene.region_xyxy(at)) for at in range(9)]
    return best if all(tally[best] > most[at] for at in range(9) if at != best) else None


def ground_one(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """The box of one object that words single out."""
    label = _class(scene, rng, present=True)
    if label is None:
        return None
    name, boxes = scene.names[label], scene.of(label)
    if len(boxes) == 1 and not scene.possible(label):
        way, phrase, box = "only", name, boxes[0]
    else:
        way = _pick(tuple(WAYS), rng)
        phrase, clearest = WAYS[way][0].format(name), WAYS[way][1](scene, label)
        if clearest is None:
            return None
        box = boxes[clearest]
    question = _pick(
        (
            f"Give the box of the <ref>{phrase}</ref>.",
            f"Where exactly is the <ref>{phrase}</ref>?",
            f"Find the <ref>{phrase}</ref> and box it.",
        ),
        rng,
    )
    answer = scene.box_text(box)
    return Exchange(family="ground_one", question=question, answer=answer, answer_class=way, varies=True)


def _clear(rank: np.ndarray, doubt: np.ndarray, gap: float) -> int | None:
    """Index of the smallest rank, if the next one and every doubtful one is behind it by more than `gap`."""
    best = int(rank.argmin())
    others = np.concatenate([np.delete(rank, best), doubt])
    return best if (others > rank[best] + gap).all() else None


def _largest(scene: Scene, label: int) -> int | None:
    area, doubt = (np.log(_areas(boxes)) for boxes in (scene.of(label), scene.doubtful_of(label)))
    return _clear(-area, -doubt, -np.log(CLEAR_AREA))


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), 1e-9)


def _nearest(scene: Scene, label: int) -> int | None:
    middle = np.array([scene.size_hw[1], scene.size_hw[0]]) / 2
    boxes, doubt = scene.of(label), scene.doubtful_of(label)
    near = np.clip(middle, doubt[:, :2], doubt[:, 2:])  # a doubtful one's centre is nowhere nearer than this
    distance = np.linalg.norm((boxes[:, :2] + boxes[:, 2:]) / 2 - middle, axis=1)
    return _clear(distance, np.linalg.norm(near - middle, axis=1), CLEAR_SHIFT * max(scene.size_hw))


def _outermost(axis: int, sign: int) -> Callable[[Scene, int], int | None]:
    def clearest(scene: Scene, label: int) -> int | None:
        boxes, doubt = scene.of(label), scene.doubtful_of(label)
        centre = sign * (boxes[:, axis] + boxes[:, 2 + axis]) / 2
        edge = sign * doubt[:, axis if sign > 0 else 2 + axis]  # its centre is nowhere further out than this
        return _clear(centre, edge, CLEAR_SHIFT * scene.size_hw[1 - axis])

    return clearest


# What singles an object out: the words, and which one it is (None where it is not clear).
WAYS: dict[str, tuple[str, Callable[[Scene, int], int | None]]] = {
    "largest": ("largest {}", _largest),
    "nearest": ("{} nearest to the centre", _nearest),
    "leftmost": ("leftmost {}", _outermost(0, 1)),
    "rightmost": ("rightmost {}", _outermost(0, -1)),
    "uppermost": ("uppermost {}", _outermost(1, 1)),
    "lowest": ("lowest {}", _outermost(1, -1)),
}


def ground_all(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """Every box of a class in the picture or a part of it, from top to bottom."""
    label = _class(scene, rng)
    if label is None:
        return None
    name = scene.names[label]
    place, boxes, area = _place(scene, scene.of(label), rng)
    if len(boxes) > MAX_BOXES or scene.possible(label, area):
        return None
    boxes = boxes[np.lexsort((boxes[:, 0], boxes[:, 1]))]
    question = _pick(
        (
            f"Detect all {plural(name)} in {place}.",
            f"Box every {name} in {place}.",
            f"List the boxes of all <ref>{plural(name)}</ref> in {place}.",
        ),
        rng,
    )
    answer = scene.boxes_text(boxes) if len(boxes) else NOTHING
    kind = several(len(boxes), "box") if len(boxes) else NOTHING
    return Exchange(
        family="ground_all",
        question=question,
        answer=answer,
        answer_class=kind,
        about=name,
        varies=len(boxes) > 0,
    )


def describe_box(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """What is in this box: an object, or none of the known ones?"""
    if rng.random() < 0.5:
        if not len(scene.boxes_xyxy):
            return None
        at = int(rng.integers(len(scene.boxes_xyxy)))
        box, label = scene.boxes_xyxy[at], int(scene.labels[at])
        if _shared_with_another_class(scene, box, label):
            return None
        answer = article(scene.names[label])
    else:
        empty = empty_box(scene, rng)
        if empty is None:
            return None
        box, answer = empty, NOTHING
    text = scene.box_text(box)
    question = _pick((f"What is in {text}?", f"Which object does {text} show?", f"Name the object in {text}."), rng)
    return Exchange(family="describe_box", question=question, answer=answer, answer_class=answer)


def _shared_with_another_class(scene: Scene, box: np.ndarray, label: int) -> bool:
    """Whether an object of another class lies on half of the box or more."""
    others = [scene.boxes_xyxy[scene.labels != label]]
    others += [scene.doubtful_of(other) for other in range(len(scene.names)) if other != label]
    return bool((overlap(np.concatenate(others), box) >= 0.5 * np.prod(box[2:] - box[:2])).any())


def empty_box(scene: Scene, rng: np.random.Generator) -> np.ndarray | None:
    """A box as large as objects are, on a place where there is none; None if ten draws find no such place."""
    height, width = scene.size_hw
    for _ in range(10):
        if len(scene.boxes_xyxy):
            box = scene.boxes_xyxy[rng.integers(len(scene.boxes_xyxy))]
            size = box[2:] - box[:2]
        else:
            size = np.array([width, height]) * rng.uniform(0.15, 0.4)
        corner = rng.uniform(0, 1, 2) * (np.array([width, height]) - size)
        box = np.concatenate([corner, corner + size])
        if scene.covered(box) < 0.05:
            return box
    return None


def compare_halves(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """Which half has more?"""
    label = _class(scene, rng, present=True)
    if label is None:
        return None
    name, boxes = scene.names[label], scene.of(label)
    first = 0 if rng.random() < 0.5 else 2
    few = [int(scene.in_half(boxes, half).sum()) for half in (first, first + 1)]
    many = [n + scene.possible(label, scene.half_xyxy(first + i)) for i, n in enumerate(few)]
    left, right = HALVES[first], HALVES[first + 1]
    if few[0] > many[1]:
        answer = left
    elif few[1] > many[0]:
        answer = right
    elif few[0] == few[1] and few == many:
        answer = "equal"
    else:
        return None
    question = _pick(
        (
            f"Which half has more {plural(name)}, the {left} or the {right}?",
            f"Are there more {plural(name)} in the {left} or in the {right}?",
            f"Compare the {left} with the {right}: where are more {plural(name)}?",
        ),
        rng,
    )
    about = f"{name}, {left}"
    return Exchange(family="compare_halves", question=question, answer=answer, answer_class=answer, about=about)


def compare_boxes(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """Two boxes of the size of objects, one with an object: which?"""
    if not len(scene.boxes_xyxy):
        return None
    at = int(rng.integers(len(scene.boxes_xyxy)))
    full, empty = scene.boxes_xyxy[at], empty_box(scene, rng)
    if empty is None:
        return None
    name = scene.names[int(scene.labels[at])]
    first = rng.random() < 0.5
    a_text, b_text = (scene.box_text(box) for box in ((full, empty) if first else (empty, full)))
    question = _pick(
        (
            f"Which box holds {article(name)}, the first {a_text} or the second {b_text}?",
            f"First {a_text}, second {b_text}: which shows {article(name)}?",
            f"Is the {name} in the first box {a_text} or in the second {b_text}?",
        ),
        rng,
    )
    answer = "first" if first else "second"
    return Exchange(family="compare_boxes", question=question, answer=answer, answer_class=answer)


def cell(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """What lies under the middle of one cell of a grid?"""
    cells = int(rng.choice([4, 6]))
    row, column = int(rng.integers(cells)), int(rng.integers(cells))
    if _middles(scene, scene.doubtful_xyxy, cells)[row, column]:
        return None
    labels = range(len(scene.names))
    found = [label for label in labels if _middles(scene, scene.of(label), cells)[row, column]]
    if len(found) > 1:
        return None  # two classes on top of each other
    answer = scene.names[found[0]] if found else NOTHING
    place = f"row {row + 1}, column {column + 1}"
    question = _pick(
        (
            f"What is at {place} of a {cells} x {cells} grid?",
            f"In a {cells} x {cells} grid, which object covers {place}?",
            f"Grid of {cells} x {cells}: name what lies at {place}.",
        ),
        rng,
    )
    return Exchange(family="cell", question=question, answer=answer, answer_class=answer)


def _middles(scene: Scene, boxes: np.ndarray, cells: int) -> np.ndarray:
    """bool[cells, cells], whether any box covers the middle of each cell of a grid."""
    height, width = scene.size_hw
    x = ((np.arange(cells) + 0.5) * width / cells)[None, :, None]
    y = ((np.arange(cells) + 0.5) * height / cells)[:, None, None]
    return ((boxes[:, 0] < x) & (x < boxes[:, 2]) & (boxes[:, 1] < y) & (y < boxes[:, 3])).any(-1)


def grid_map(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """A class drawn on a coarse grid: for each cell, does its middle lie on an object?

    An object that the border cuts covers what it covers, so that it counts here; only crowds leave doubt. The
    words
    follow each other in reading order without any mark between the rows: the way from a cell to its word is
    the same for all of them.
    """
    label = _class(scene, rng)
    if label is None:
        return None
    name, cells = scene.names[label], MAP_CELLS
    inside = _middles(scene, np.concatenate([scene.of(label), scene.cut_of(label)]), cells)
    if (_middles(scene, scene.doubtful_of(label), cells) & ~inside).any():
        return None
    question = _pick(
        (
            f"Map the {plural(name)} on a grid of {cells} x {cells} cells.",
            f"Which cells of a {cells} x {cells} grid lie on {article(name)}? Answer row by row.",
            f"Draw the {plural(name)} as {cells} rows of {cells} cells.",
        ),
        rng,
    )
    answer = " ".join(name if hit else NOTHING for hit in inside.flatten())
    kind = f"{max(1, round(4 * inside.mean())) * 25} %" if inside.any() else NOTHING
    return Exchange(
        family="grid_map",
        question=question,
        answer=answer,
        answer_class=kind,
        about=name,
        varies=bool(inside.any()),
    )


def caption(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """A short description: what, how many (at least, where some are doubtful), where most."""
    parts = []
    for label in sorted(set(scene.labels.tolist())):
        boxes, name = scene.of(label), scene.names[label]
        text = f"{'at least ' if scene.possible(label) else ''}{several(len(boxes), name)}"
        if len(boxes) == 1:
            text += f" in the {REGIONS[int(scene.region_of(boxes)[0])]}"
        elif (region := most_in(scene, label)) is not None:
            text += f", most in the {REGIONS[region]}"
        parts.append(text)
    if not parts and len(scene.doubtful_xyxy):
        return None
    question = _pick(
        ("Describe the image in one sentence.", "What does the image show?", "Write a short caption."), rng
    )
    gist = " and ".join(parts) if parts else f"{NOTHING} of the known objects"
    return Exchange(
        family="caption",
        question=question,
        answer=f"The image shows {gist}.",
        answer_class=gist,
        varies=bool(parts),
    )


# In the order in which a conversation asks: what gives more away comes later.
FAMILIES: dict[str, Family] = {
    "presence": presence,
    "cell": cell,
    "describe_box": describe_box,
    "compare_boxes": compare_boxes,
    "compare_halves": compare_halves,
    "count": count,
    "where": where,
    "ground_one": ground_one,
    "caption": caption,
    "grid_map": grid_map,
    "ground_all": ground_all,
}

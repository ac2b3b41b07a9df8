"""Families of questions: each writes one question with its answer from a scene's boxes, or says that it cannot.

A family draws what it asks about (a class, a region, a box) from the generator; `build` calls it a few times and
keeps the candidate whose answer has been rarest so far, so that no answer can be guessed from the question alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vistruct.data.instructions.scene import HALVES, REGIONS, Scene, article, plural, several

MAX_BOXES = 12  # more than these are not asked for in one answer
NOTHING = "none"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One question with its answer. `answer_class` is what balancing counts: the answer, or its kind."""

    family: str
    question: str
    answer: str
    answer_class: str


Family = Callable[[Scene, np.random.Generator], Exchange | None]


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _class(scene: Scene, rng: np.random.Generator, present: bool | None = None) -> int | None:
    """A class: any, or one that is (not) in the scene; None if there is no such class."""
    labels = set(scene.labels.tolist())
    options = [i for i in range(len(scene.names)) if present is None or (i in labels) == present]
    return options[rng.integers(len(options))] if options else None


def presence(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """Is there one, in the picture or in a region of it?"""
    label = _class(scene, rng)
    if label is None:
        return None
    name, boxes = scene.names[label], scene.of(label)
    if rng.random() < 0.3:
        place, there = "the image", len(boxes) > 0
        if not there and len(scene.doubtful_xyxy):
            return None
    else:
        region = int(rng.integers(9))
        place, there = f"the {REGIONS[region]} of the image", bool((scene.region_of(boxes) == region).any())
        if not there and _touched(scene, label, scene.region_xyxy(region)):
            return None  # a crown reaches in from next door: neither yes nor no
    question = _pick(
        (
            f"Is there {article(name)} in {place}?",
            f"Does {place} show {article(name)}?",
            f"Can you see any {name} in {place}?",
        ),
        rng,
    )
    answer = "yes" if there else "no"
    return Exchange(family="presence", question=question, answer=answer, answer_class=answer)


def _touched(scene: Scene, label: int, region: np.ndarray) -> bool:
    boxes = np.concatenate([scene.of(label), scene.doubtful_xyxy])
    low, high = np.maximum(boxes[:, :2], region[:2]), np.minimum(boxes[:, 2:], region[2:])
    return bool((np.prod(np.clip(high - low, 0, None), axis=1) > 0).any())


def count(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """How many, in the picture or in a half of it?"""
    label = _class(scene, rng)
    if label is None:
        return None
    name, boxes = scene.names[label], scene.of(label)
    place = "the image"
    if rng.random() < 0.5:
        half = int(rng.integers(4))
        place, boxes = f"the {HALVES[half]} of the image", boxes[scene.in_half(boxes, half)]
    question = _pick(
        (
            f"How many {plural(name)} are in {place}?",
            f"Count the {plural(name)} in {place}.",
            f"What is the number of {plural(name)} in {place}?",
        ),
        rng,
    )
    return Exchange(family="count", question=question, answer=str(len(boxes)), answer_class=str(len(boxes)))


def where(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """In which region is the largest one, or are most of them?"""
    label = _class(scene, rng, present=True)
    if label is None:
        return None
    name, boxes = scene.names[label], scene.of(label)
    regions = scene.region_of(boxes)
    if rng.random() < 0.5 or len(boxes) == 1:
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        order = np.argsort(-area)
        if len(boxes) > 1 and area[order[1]] > 0.8 * area[order[0]]:
            return None  # no clear largest
        region = regions[order[0]]
        question = _pick(
            (
                f"Where is the largest {name}?",
                f"In which part of the image is the largest {name}?",
                f"Locate the largest {name} in words.",
            ),
            rng,
        )
    else:
        tally = np.bincount(regions, minlength=9)
        region = int(tally.argmax())
        if (tally == tally[region]).sum() > 1:
            return None
        question = _pick(
            (
                f"Where are most of the {plural(name)}?",
                f"Which part of the image has the most {plural(name)}?",
                f"In which region do the {plural(name)} stand densest?",
            ),
            rng,
        )
    return Exchange(family="where", question=question, answer=REGIONS[region], answer_class=REGIONS[region])


def ground_one(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """The box of one object that words single out."""
    label = _class(scene, rng, present=True)
    if label is None:
        return None
    name, boxes = scene.names[label], scene.of(label)
    height, width = scene.size_hw
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    from_centre = ((centres - [width / 2, height / 2]) ** 2).sum(1)
    ways = {
        "largest": (f"largest {name}", -area),
        "nearest": (f"{name} nearest to the centre", from_centre),
        "leftmost": (f"leftmost {name}", centres[:, 0]),
        "rightmost": (f"rightmost {name}", -centres[:, 0]),
        "uppermost": (f"uppermost {name}", centres[:, 1]),
        "lowest": (f"lowest {name}", -centres[:, 1]),
    }
    way = _pick(tuple(ways), rng)
    phrase, rank = ways[way]
    box = boxes[int(np.argmin(rank))]
    question = _pick(
        (
            f"Give the box of the <ref>{phrase}</ref>.",
            f"Where exactly is the <ref>{phrase}</ref>?",
            f"Find the <ref>{phrase}</ref> and box it.",
        ),
        rng,
    )
    return Exchange(family="ground_one", question=question, answer=scene.box_text(box), answer_class=way)


def ground_all(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """Every box of a class, from top to bottom."""
    label = _class(scene, rng)
    if label is None:
        return None
    name, boxes = scene.names[label], scene.of(label)
    if len(boxes) > MAX_BOXES or (not len(boxes) and len(scene.doubtful_xyxy)):
        return None
    boxes = boxes[np.lexsort((boxes[:, 0], boxes[:, 1]))]
    question = _pick(
        (
            f"Detect all {plural(name)}.",
            f"Box every {name} in the image.",
            f"List the boxes of all <ref>{plural(name)}</ref>.",
        ),
        rng,
    )
    answer = scene.boxes_text(boxes) if len(boxes) else NOTHING
    return Exchange(family="ground_all", question=question, answer=answer, answer_class=str(len(boxes)))


def describe_box(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """What is in this box: an object, or none of the known ones?"""
    if rng.random() < 0.5:
        if not len(scene.boxes_xyxy):
            return None
        at = int(rng.integers(len(scene.boxes_xyxy)))
        box, answer = scene.boxes_xyxy[at], article(scene.names[int(scene.labels[at])])
    else:
        empty = empty_box(scene, rng)
        if empty is None:
            return None
        box, answer = empty, NOTHING
    text = scene.box_text(box)
    question = _pick(
        (f"What is in {text}?", f"Which object does {text} show?", f"Name the object in {text}."), rng
    )
    return Exchange(family="describe_box", question=question, answer=answer, answer_class=answer)


def empty_box(scene: Scene, rng: np.random.Generator) -> np.ndarray | None:
    """A box as large as objects are, on a place where there is none; None if ten draws find no such place."""
    height, width = scene.size_hw
    for _ in range(10):
        if len(scene.boxes_xyxy):
            box = scene.boxes_xyxy[rng.integers(len(scene.boxes_xyxy))]
            size = box[2:] - box[:2]
        else:
            size = np.array([width, height]) * rng.uniform(0.15, 0.4)
        size = np.minimum(size, [width, height])
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
    a, b = (int(scene.in_half(boxes, half).sum()) for half in (first, first + 1))
    left, right = HALVES[first], HALVES[first + 1]
    question = _pick(
        (
            f"Which half has more {plural(name)}, the {left} or the {right}?",
            f"Are there more {plural(name)} in the {left} or in the {right}?",
            f"Compare the {left} with the {right}: where are more {plural(name)}?",
        ),
        rng,
    )
    answer = "equal" if a == b else left if a > b else right
    return Exchange(family="compare_halves", question=question, answer=answer, answer_class=answer)


def compare_boxes(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """Two boxes of the same size, one with an object: which?"""
    if not len(scene.boxes_xyxy):
        return None
    at = int(rng.integers(len(scene.boxes_xyxy)))
    full, empty = scene.boxes_xyxy[at], empty_box(scene, rng)
    if empty is None:
        return None
    name = scene.names[int(scene.labels[at])]
    first = rng.random() < 0.5
    a, b = (full, empty) if first else (empty, full)
    a_text, b_text = scene.box_text(a), scene.box_text(b)
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
    height, width = scene.size_hw
    x, y = (column + 0.5) * width / cells, (row + 0.5) * height / cells

    def under(boxes: np.ndarray) -> np.ndarray:
        return (boxes[:, 0] < x) & (x < boxes[:, 2]) & (boxes[:, 1] < y) & (y < boxes[:, 3])

    if under(scene.doubtful_xyxy).any():
        return None
    found = sorted(set(scene.labels[under(scene.boxes_xyxy)].tolist()))
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


def grid_map(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """A class drawn on a coarse grid: for each cell, does its middle lie on an object?"""
    label = _class(scene, rng)
    if label is None:
        return None
    name, boxes = scene.names[label], scene.of(label)
    cells = int(rng.choice([4, 6]))
    height, width = scene.size_hw
    x = (np.arange(cells) + 0.5) * width / cells
    y = (np.arange(cells) + 0.5) * height / cells
    inside = (
        (x[None, :, None] > boxes[:, 0]) & (x[None, :, None] < boxes[:, 2])
        & (y[:, None, None] > boxes[:, 1]) & (y[:, None, None] < boxes[:, 3])
    ).any(-1)  # fmt: skip  # [rows, columns]
    question = _pick(
        (
            f"Map the {plural(name)} on a grid of {cells} x {cells} cells.",
            f"Which cells of a {cells} x {cells} grid lie on {article(name)}? Answer row by row.",
            f"Draw the {plural(name)} as {cells} rows of {cells} cells.",
        ),
        rng,
    )
    answer = ";".join(" ".join(name if hit else NOTHING for hit in row) for row in inside)
    share = f"{round(4 * inside.mean()) * 25} %"
    return Exchange(family="grid_map", question=question, answer=answer, answer_class=share)


def caption(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """A short description: what, how many, where most."""
    parts = []
    for label in sorted(set(scene.labels.tolist())):
        boxes = scene.of(label)
        text = several(len(boxes), scene.names[label])
        tally = np.bincount(scene.region_of(boxes), minlength=9)
        if len(boxes) > 1 and (tally == tally.max()).sum() == 1:
            text += f", most in the {REGIONS[int(tally.argmax())]}"
        elif len(boxes) == 1:
            text += f" in the {REGIONS[int(tally.argmax())]}"
        parts.append(text)
    if not parts and len(scene.doubtful_xyxy):
        return None
    question = _pick(
        ("Describe the image in one sentence.", "What does the image show?", "Write a short caption."), rng
    )
    answer = (
        f"The image shows {' and '.join(parts)}." if parts else "The image shows none of the known objects."
    )
    return Exchange(family="caption", question=question, answer=answer, answer_class=str(len(scene.labels)))


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

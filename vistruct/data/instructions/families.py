"""Families of questions: each writes one question with its answer from a scene's boxes, or says that it cannot.

A family draws what it asks about (a class, a place, a box) from the generator; `converse` calls it a few
times and keeps the candidate whose answer has been rarest so far, so that no answer can be guessed from the
question alone. No answer depends on a doubtful object (see `scene`): where one could change it, the family is
silent.
"""

from __future__ import annotations

import numpy as np

from vistruct.data.instructions.boxed import CLEAR_AREA, compare_boxes, describe_box, ground_all, ground_one
from vistruct.data.instructions.exchange import NOTHING, Exchange, Family, about_part, any_class, any_place, pick
from vistruct.data.instructions.scene import HALVES, REGIONS, Scene, overlap
from vistruct.data.instructions.words import article, plural, several

MAP_CELLS = 6  # of a map, each side


def presence(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """Is there one, in the picture or in a part of it?"""
    label = any_class(scene, rng)
    if label is None:
        return None
    name = scene.names[label]
    place, boxes, area = any_place(scene, scene.of(label), rng)
    there = len(boxes) > 0
    if not there and scene.possible(label, area):
        return None
    if not there and area is not None and overlap(scene.of(label), area).any():
        return None  # one reaches in from next door: neither yes nor no
    question = pick(
        (
            f"Is there {article(name)} in {place}?",
            f"Does {place} show {article(name)}?",
            f"Can you see any {plural(name)} in {place}?",
        ),
        rng,
    )
    answer = "yes" if there else "no"
    return Exchange(
        family="presence", question=question, answer=answer, answer_class=answer, about=about_part(name, scene, area)
    )


def count(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """How many, in the picture or in a part of it?"""
    label = any_class(scene, rng)
    if label is None:
        return None
    name = scene.names[label]
    place, boxes, area = any_place(scene, scene.of(label), rng)
    if scene.possible(label, area):
        return None
    question = pick(
        (
            f"How many {plural(name)} are in {place}?",
            f"Count the {plural(name)} in {place}.",
            f"What is the number of {plural(name)} in {place}?",
        ),
        rng,
    )
    answer = str(len(boxes))
    return Exchange(
        family="count", question=question, answer=answer, answer_class=answer, about=about_part(name, scene, area)
    )


def where(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """In which region is the only one, the largest one, or are most of them?"""
    label = any_class(scene, rng, present=True)
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
    return Exchange(family="where", question=pick(words, rng), answer=place, answer_class=place, about=name)


def most_in(scene: Scene, label: int) -> int | None:
    """The region that has more of a class than any other, whatever the doubtful are; None if there is none."""
    tally = np.bincount(scene.region_of(scene.of(label)), minlength=9)
    best = int(tally.argmax())
    most = [int(tally[at]) + scene.possible(label, scene.region_xyxy(at)) for at in range(9)]
    return best if all(tally[best] > most[at] for at in range(9) if at != best) else None


def compare_halves(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """Which half has more?"""
    label = any_class(scene, rng, present=True)
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
    question = pick(
        (
            f"Which half has more {plural(name)}, the {left} or the {right}?",
            f"Are there more {plural(name)} in the {left} or in the {right}?",
            f"Compare the {left} with the {right}: where are more {plural(name)}?",
        ),
        rng,
    )
    about = f"{name}, {left}"
    return Exchange(family="compare_halves", question=question, answer=answer, answer_class=answer, about=about)


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
    question = pick(
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

    An object that the border cuts covers what it covers, so that it counts here; only crowds leave doubt. The words
    follow each other in reading order without any mark between the rows: the way from a cell to its word is
    the same for all of them.
    """
    label = any_class(scene, rng)
    if label is None:
        return None
    name, cells = scene.names[label], MAP_CELLS
    inside = _middles(scene, np.concatenate([scene.of(label), scene.cut_of(label)]), cells)
    if (_middles(scene, scene.doubtful_of(label), cells) & ~inside).any():
        return None
    question = pick(
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
    question = pick(("Describe the image in one sentence.", "What does the image show?", "Write a short caption."), rng)
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

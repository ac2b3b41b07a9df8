"""The families of questions with boxes in the question or in the answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vistruct.data.instructions.exchange import NOTHING, Exchange, about_part, any_class, any_place, pick
from vistruct.data.instructions.scene import Scene, overlap
from vistruct.data.instructions.words import article, plural, several

MAX_BOXES = 12  # more than these are not asked for in one answer
CLEAR_AREA = 0.8  # the second largest has at most this part of the largest one's area, else neither is "the largest"
CLEAR_SHIFT = 0.02  # of the picture's side, by which the leftmost must be left of the next, and so on


def ground_one(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """The box of one object that words single out."""
    label = any_class(scene, rng, present=True)
    if label is None:
        return None
    name, boxes = scene.names[label], scene.of(label)
    if len(boxes) == 1 and not scene.possible(label):
        way, phrase, box = "only", name, boxes[0]
    else:
        way = pick(tuple(WAYS), rng)
        phrase, clearest = WAYS[way][0].format(name), WAYS[way][1](scene, label)
        if clearest is None:
            return None
        box = boxes[clearest]
    question = pick(
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
    label = any_class(scene, rng)
    if label is None:
        return None
    name = scene.names[label]
    place, boxes, area = any_place(scene, scene.of(label), rng)
    if len(boxes) > MAX_BOXES or scene.possible(label, area):
        return None
    boxes = boxes[np.lexsort((boxes[:, 0], boxes[:, 1]))]
    question = pick(
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
        about=about_part(name, scene, area),
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
    question = pick((f"What is in {text}?", f"Which object does {text} show?", f"Name the object in {text}."), rng)
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
    question = pick(
        (
            f"Which box holds {article(name)}, the first {a_text} or the second {b_text}?",
            f"First {a_text}, second {b_text}: which shows {article(name)}?",
            f"Is the {name} in the first box {a_text} or in the second {b_text}?",
        ),
        rng,
    )
    answer = "first" if first else "second"
    return Exchange(family="compare_boxes", question=question, answer=answer, answer_class=answer)

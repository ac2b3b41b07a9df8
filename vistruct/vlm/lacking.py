"""What keeps a conversation from being learned by a model that points, told from its annotations alone.

A decoder of masks learns nothing from an object that has none, and a region beyond its image shows nothing: such a
conversation is left out before any training, for a reason that is the same for all of its kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vistruct.contracts import Objects, Turn
from vistruct.files.depth import is_depth

NO_IMAGE = "points at an object, and shows no image"
OTHER_IMAGE = "points at an object in another image than the first"
BEYOND = "points at an object that lies beyond its image"
OTHER_POINTS = "an object has more or fewer key points than its decoder draws (`points` of it)"
OTHER_SIZE = "a mask has another size than its image"
_NOUNS = {"keypoint": "key points", "depth": "depth map"}


def gives(objects: Objects[np.ndarray], row: int, word: str) -> bool:
    """Whether what a unit or a prompt is made of is known of an object."""
    mask = None if objects.masks is None else objects.masks[row]
    if word == "mask":
        return bool(mask) and not is_depth(mask)
    if word == "depth":
        return is_depth(mask)
    if word == "keypoint":
        return objects.keypoints is not None  # one of which none is annotated teaches where it is
    return True


def is_lacking(kind: str, word: str) -> str:
    """The words for it: `kind` is unit or prompt."""
    return f"{kind} {word} of an object without {_NOUNS.get(word, word)}"


def astray(objects: Objects[np.ndarray], row: int, size_hw: tuple[int, int] | None) -> str:
    """Why an object is nowhere on the image that a model points at, the first; "": it is there.

    Args:
        size_hw: pixels of that image; None: there is none.
    """
    if size_hw is None:
        return NO_IMAGE
    if objects.extra.get("images", [0] * len(objects))[row]:
        return OTHER_IMAGE
    x0, y0, x1, y1 = objects.boxes_xyxy[row].tolist()
    return "" if x0 < size_hw[1] and y0 < size_hw[0] and x1 > 0 and y1 > 0 else BEYOND


def misfit(objects: Objects[np.ndarray], size_hw: tuple[int, int] | None) -> str:
    """Why the masks of an image cannot be painted; "": they can."""
    sizes = [mask["size"] for mask in objects.masks or () if isinstance(mask, dict) and "size" in mask]
    return OTHER_SIZE if size_hw is not None and any(tuple(one) != tuple(size_hw) for one in sizes) else ""


def lacking(
    objects: Objects[np.ndarray],
    turns: Sequence[Turn],
    size_hw: tuple[int, int] | None,
    *,
    masks: frozenset[str],
    key_points: Mapping[str, int],
) -> str:
    """Why a conversation cannot be learned; "": it can.

    Args:
        objects: of its line.
        size_hw: see `astray`.
        masks: units whose decoders learn from masks.
        key_points: units whose decoders learn from key points, and of how many.
    """
    for turn in turns:
        kind = "prompt" if turn.role == "user" else "unit"
        words = (turn.prompts if turn.role == "user" else turn.units) or ("box",) * len(turn.points)
        for row, word in ((row, word) for rows, word in zip(turn.points, words, strict=True) for row in rows):
            if why := astray(objects, row, size_hw):
                return why
            needs = word if word == "depth" else "mask" if kind == "prompt" or word in masks else "keypoint"
            is_asked = word == "mask" if kind == "prompt" else word in masks or word in key_points
            if is_asked and not gives(objects, row, needs):
                return is_lacking(kind, word)
            num = key_points.get(word, 0) if kind == "unit" else 0
            if num and objects.keypoints is not None and objects.keypoints.shape[1] != num:
                return OTHER_POINTS
    return ""

"""Boxes in texts: how they are written and in which scale, and `<bbox>` and `<ref-object>` filled in.

    <box>[[83, 125, 417, 625]]</box>    integers from 0 to 1000 of the image, xyxy, as InternVL writes them: ours
    [83, 125, 417, 625]                 the brackets alone
    <box>(83,125),(417,625)</box>       Qwen-VL; also between <|box_start|> and <|box_end|>
    [{"bbox_2d": [4, 6, 20, 30], ...}]  Qwen2.5-VL
    <ref-object> <bbox>                 ms-swift: what they stand for is in `objects`, under `ref` and `bbox`

Shares of the image (0 to 1), and pixels, are read as well: an intersection over union is the same in every scale.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from vistruct.contracts import Turn
from vistruct.data.formats.chat.turns import OBJECTS, OTHER_BOXES, PIXEL_BOXES, POINTS, UNIT_BOXES, Defect
from vistruct.data.instructions.exchange import NOTHING

Scale = Literal["0 to 1000", "0 to 1", "pixels"]
NONE = {NOTHING, "nothing", "no"}  # an answer that says: no box
REF, BBOX = "<ref-object>", "<bbox>"
ROUNDING_PX = 1.0

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_QUAD = rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}\s*\]"
_QUADS = re.compile(rf"\s*(?:\[\s*{_QUAD}(?:\s*,\s*{_QUAD})*\s*\]|{_QUAD}(?:\s*,\s*{_QUAD})*)\s*")
_CORNERS = re.compile(
    rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)\s*,?\s*\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)"
)  # (x0,y0),(x1,y1)
_MARKED = re.compile(r"<box>(.*?)</box>", re.DOTALL)
_TAGS = {
    "<|box_start|>": "<box>",
    "<|box_end|>": "</box>",
    "<|object_ref_start|>": "<ref>",
    "<|object_ref_end|>": "</ref>",
}
_KEYED = re.compile(r"\"(?:bbox_2d|bbox|box_2d|box)\"\s*:\s*(\[[^\]\[]*\])")
_OTHER = re.compile(r"(?:<loc\d{4}>){4}|\{(?:<\d+>){4}\}|(?:<bin_\d+>){4}")  # PaliGemma, MiniGPT-v2, Kosmos and others
_MOST = 12  # digits of a number


def read_boxes(text: str) -> np.ndarray | None:
    """The boxes that a text gives, in whatever scale.

    Returns:
        float64[N, 4]; no rows where the text says that there is none; None where it is malformed: neither boxes nor
        "none", an open bracket, not four numbers, or a right edge left of the left one.
    """
    text = _plain(text)
    marked = _MARKED.findall(text)
    if text.count("<box>") != len(marked) or text.count("</box>") != len(marked):
        return None
    parts = [_CORNERS.sub(r"[\1,\2,\3,\4]", part) for part in marked] or _KEYED.findall(text) or bracketed(text)
    if not parts:
        said = text.strip().lower().removesuffix(".")
        return np.zeros((0, 4)) if said in NONE else None
    if not all(_QUADS.fullmatch(part) for part in parts):
        return None
    numbers = [number[:_MOST] for part in parts for number in re.findall(_NUMBER, part)]
    boxes = np.array([float(number.rstrip("eE+-.")) for number in numbers]).reshape(-1, 4)
    is_sound = np.isfinite(boxes).all() and boxes.min() >= 0 and (boxes[:, :2] <= boxes[:, 2:]).all()
    return boxes if is_sound else None


def _plain(text: str) -> str:
    if "<|" in text:
        for theirs, ours in _TAGS.items():
            text = text.replace(theirs, ours)
    return text


def bracketed(text: str) -> list[str]:
    """Outermost brackets with a digit in them, the last one perhaps still open."""
    found, start, depth = [], 0, 0
    for at, sign in enumerate(text):
        if sign == "[":
            start = start if depth else at
            depth += 1
        elif sign == "]" and depth:
            depth -= 1
            if not depth:
                found.append(text[start : at + 1])
    return [part for part in [*found, text[start:] if depth else ""] if re.search(r"\d", part)]


def scale_of(boxes: np.ndarray) -> Scale:
    """What the numbers of some boxes, float[N, 4], can only be."""
    if not len(boxes) or (boxes.max() <= 1000 and (boxes == boxes.round()).all()):
        return "0 to 1000"
    return "0 to 1" if boxes.max() <= 1 else "pixels"


def is_boxes(text: str) -> bool:
    """Whether a text is boxes and nothing else that is said; names in `<ref>` may stand beside them."""
    rest = re.sub(r"<ref>.*?</ref>", "", _plain(text), flags=re.DOTALL)
    boxes = read_boxes(rest)
    if boxes is None or not len(boxes):
        return False
    if _KEYED.search(rest) and not _MARKED.search(rest):
        return rest.strip().removeprefix("```json").strip()[:1] in ("[", "{")
    rest = _MARKED.sub("", rest)
    for part in bracketed(rest):
        rest = rest.replace(part, "")
    return not re.search(r"\w", rest)


def note_of_boxes(answer: str) -> str:
    """What is to be said of the scale of an answer's boxes; "" where it has none, or ours."""
    if _OTHER.search(answer):
        return OTHER_BOXES
    if not re.search(r"<box>|<\|box_start\|>|\"(?:bbox|box)", answer) and not _QUADS.fullmatch(answer):
        return ""
    boxes = read_boxes(answer)
    scale = "0 to 1000" if boxes is None else scale_of(boxes)
    return {"0 to 1000": "", "0 to 1": UNIT_BOXES, "pixels": PIXEL_BOXES}[scale]


# --- <bbox> and <ref-object>


@dataclass(frozen=True, kw_only=True)
class Filling:
    """Boxes that stand for the `<bbox>` of a conversation, in order, once the size of their image is known."""

    boxes_xyxy: tuple[tuple[float, ...], ...]
    images: tuple[int, ...]  # of each box, the number of its image


def is_grounding(value: object) -> bool:
    """Whether `objects` are ms-swift's, and not ours."""
    if isinstance(value, dict):
        return bool({"ref", "bbox"} & set(value)) and "boxes" not in value
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "bbox" in one for one in value)


def fill_refs(turns: Sequence[Turn], value: object, num_images: int) -> tuple[list[Turn], Filling | None]:
    """The turns with `<ref-object>` written out, and `<bbox>` where that needs no image's size; else what they need.

    Raises:
        Defect: no objects for the marks, or not as many; what is no box.
    """
    text = "".join(turn.text for turn in turns)
    num_refs, num_boxes = text.count(REF), text.count(BBOX)
    if not num_refs and not num_boxes:
        return list(turns), None
    if not is_grounding(value):
        what = f"{REF if num_refs else BBOX} in a text, and no `objects` with ref and bbox to fill it in"
        raise Defect(POINTS, what, 'add "objects": {"ref": [...], "bbox": [[x0, y0, x1, y1], ...]}')
    table = _as_table(value)
    refs, boxes = table.get("ref") or [], table.get("bbox") or []
    if num_refs not in (0, len(refs)) or num_boxes not in (0, len(boxes)):
        what = f"{num_refs} x {REF} and {num_boxes} x {BBOX} in the text, but {len(refs)} ref and {len(boxes)} bbox"
        raise Defect(POINTS, what, "one entry for each mark, in order")
    if not all(isinstance(ref, str) for ref in refs):
        raise Defect(OBJECTS, f"ref is a list of words, this is {refs!r:.60}")
    names = iter(refs)
    turns = [replace(turn, text=re.sub(REF, lambda _: f"<ref>{next(names)}</ref>", turn.text)) for turn in turns]
    if not num_boxes:
        return turns, None
    unit = table.get("bbox_type") or "real"
    full = {"real": 0.0, "norm1": 1.0, "norm1000": 1000.0}.get(unit if isinstance(unit, str) else "")
    if full is None:
        raise Defect(OBJECTS, f"bbox_type is real, norm1 or norm1000, this is {unit!r:.40}")
    numbers = [_four(box) for box in boxes]
    images = table.get("image_id") or [0] * len(boxes)
    is_sound = isinstance(images, list) and len(images) == len(boxes)
    if not is_sound or not all(type(one) is int and 0 <= one < max(num_images, 1) for one in images):
        raise Defect(OBJECTS, f"image_id has the number of each box's image, from 0; this is {images!r:.40}")
    if full:
        return _written(turns, [[value / full for value in box] for box in numbers]), None
    if not num_images:
        raise Defect(OBJECTS, "boxes in pixels, and no image", "say bbox_type, or name the image")
    return turns, Filling(boxes_xyxy=tuple(map(tuple, numbers)), images=tuple(images))


def fill_boxes(turns: Sequence[Turn], filling: Filling, sizes_hw: Sequence[tuple[int, int]]) -> tuple[Turn, ...]:
    """The turns with every `<bbox>` written out.

    Raises:
        Defect: a box that does not lie in its image.
    """
    shares = []
    for box, image in zip(filling.boxes_xyxy, filling.images, strict=True):
        height, width = sizes_hw[image]
        if max(box[0::2]) > width + ROUNDING_PX or max(box[1::2]) > height + ROUNDING_PX:
            what = f"bbox {list(box)} does not lie in its image of {width} x {height} pixels"
            raise Defect(OBJECTS, what, 'pixels of the image, or "bbox_type": "norm1000"')
        shares.append([value / side for value, side in zip(box, (width, height) * 2, strict=True)])
    return tuple(_written(turns, shares))


def _as_table(value: Any) -> Mapping[str, Any]:
    """Lists under a name; a list of objects is turned into that."""
    if isinstance(value, dict):
        return value
    table: dict[str, Any] = {"ref": [one.get("caption", one.get("ref")) for one in value]}
    units = {one.get("bbox_type") for one in value}
    if len(units) > 1:
        raise Defect(OBJECTS, "objects of one line in several bbox_type")
    return table | {"bbox": [one["bbox"] for one in value], "bbox_type": next(iter(units))}


def _four(box: object) -> list[float]:
    """
    Raises:
        Defect: no box.
    """
    if isinstance(box, list) and len(box) == 1 and isinstance(box[0], list):
        box = box[0]
    if isinstance(box, list) and len(box) == 4:
        try:
            numbers = [float(value) for value in box if type(value) in (int, float)]
        except OverflowError:
            numbers = []
        is_sound = len(numbers) == 4 and np.isfinite(numbers).all() and min(numbers) >= -ROUNDING_PX
        if is_sound and numbers[0] < numbers[2] and numbers[1] < numbers[3]:
            return numbers
    raise Defect(OBJECTS, f"bbox: an entry is x0, y0, x1, y1, and no point or polygon; this is {box!r:.60}")


def _written(turns: Sequence[Turn], shares: Sequence[Sequence[float]]) -> list[Turn]:
    if any(value > 1.001 for box in shares for value in box):
        raise Defect(OBJECTS, "bbox beyond the image", "see bbox_type")
    whole = iter([[min(max(round(1000 * value), 0), 1000) for value in box] for box in shares])
    return [replace(turn, text=re.sub(BBOX, lambda _: f"<box>[{next(whole)}]</box>", turn.text)) for turn in turns]


def from_json(value: object) -> object:
    """`objects` that are json in a text, as older files have them."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value

"""Of which form an answer is: words, yes or no, a number, a box, several boxes, a map of cells, a description.

The families that `vistruct instruct` writes are known; of others the truths tell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vistruct.contracts import Form
from vistruct.data.formats.chat.text_boxes import is_boxes, read_boxes
from vistruct.data.instructions.exchange import NOTHING
from vistruct.data.instructions.families import MAP_CELLS
from vistruct.metrics.captions import words

FAMILY_FORMS: dict[str, Form] = {
    "presence": "yes_no",
    "cell": "words",
    "describe_box": "words",
    "compare_boxes": "words",
    "compare_halves": "words",
    "count": "number",
    "where": "words",
    "ground_one": "box",
    "caption": "caption",
    "grid_map": "map",
    "ground_all": "boxes",
}
MANY_WORDS = 8  # an answer of so many is a description
FIGURES = re.compile(r"(?<![\w.])[-+]?\d(?:[\d,]*\d)?(?:\.\d+)?(?!\w)")
# To nine digits: one of a hundred, which an untrained model may well write, would be all that is seen of a mean error.
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3}){1,2}|\d{1,9})(?:\.\d+)?")
NUMBER_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6,
    "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12,
}  # fmt: skip


def plain(text: str) -> str:
    """As answers are compared: lower case, single spaces, no full stop at the end."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def polarity(text: str) -> str:
    """The first word of an answer if it is "yes" or "no", else ""."""
    first = next(iter(words(text)), "")
    return first if first in ("yes", "no") else ""


def number_in(text: str) -> float | None:
    """The only number in a text: of up to nine digits ("1,200", "-3.5"), or else a word to twelve.

    Returns:
        None where there is no number, or several, or none that can be read without doubt.
    """
    found = FIGURES.findall(text)
    if not found:
        said = [float(NUMBER_WORDS[word]) for word in words(text) if word in NUMBER_WORDS]
        return said[0] if len(said) == 1 else None
    return float(found[0].replace(",", "")) if len(found) == 1 and NUMBER.fullmatch(found[0]) else None


def cells_in(text: str, name: str = "") -> list[str]:
    """A map's cells in reading order: each "none", the class name (which may be of several words), or another word."""
    said, parts = plain(text).split(), name.split()
    cells = []
    at = 0
    while at < len(said):
        is_name = bool(parts) and said[at : at + len(parts)] == parts
        cells.append(name if is_name else said[at])
        at += len(parts) if is_name else 1
    return cells


def mapped_name(truth: str) -> str | None:
    """The class name that a true map is about; "": it has no cell of it; None: this is no map."""
    said = plain(truth).split()
    num_hits = MAP_CELLS**2 - said.count(NOTHING)
    rest = len(said) - said.count(NOTHING)  # words of names
    if num_hits == rest == 0:
        return ""
    if num_hits <= 0 or rest == 0 or rest % num_hits:
        return None
    start = next(at for at, word in enumerate(said) if word != NOTHING)
    name = " ".join(said[start : start + rest // num_hits])
    return name if set(cells_in(truth, name)) <= {name, NOTHING} else None


def form_of(truth: str) -> Form:
    """Of one answer, from what it looks like."""
    if plain(truth) in ("yes", "no"):
        return "yes_no"
    if NUMBER.fullmatch(plain(truth)):
        return "number"
    if is_boxes(truth):
        boxes = read_boxes(truth)
        return "box" if boxes is not None and len(boxes) == 1 else "boxes"
    return "caption" if len(words(truth)) >= MANY_WORDS else "words"


def form_of_family(family: str, truths: Sequence[str]) -> Form:
    """Of a family: the known one if all its truths are of it; else what they have in common, else words."""
    known = FAMILY_FORMS.get(family)
    if known is not None and all(_fits(known, truth) for truth in truths):
        return known
    seen = {form_of(truth) for truth in truths}
    if len(seen) == 1:
        return seen.pop()
    if seen & {"box", "boxes"} and all(_fits("boxes", truth) for truth in truths):
        return "boxes"
    if seen <= {"caption", "words"}:
        long = sum(form_of(truth) == "caption" for truth in truths)
        return "caption" if 2 * long > len(truths) else "words"
    return "words"


def _fits(form: Form, truth: str) -> bool:
    if form == "yes_no":
        return plain(truth) in ("yes", "no")
    if form == "number":
        return number_in(truth) is not None
    if form in ("box", "boxes"):
        boxes = read_boxes(truth)
        return boxes is not None and (form == "boxes" or len(boxes) == 1)
    return form != "map" or mapped_name(truth) is not None

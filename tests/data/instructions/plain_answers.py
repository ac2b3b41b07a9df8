"""The answer to a written question, worked out a second time: plain Python over pixels as fractions, no numpy."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

PLURALS = {"tree": "trees", "person": "people", "aircraft": "aircraft"}
WITH_ARTICLE = {"tree": "a tree", "person": "a person", "aircraft": "an aircraft"}
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "middle", "right")
Thing = tuple[str, float, float, float, float]  # class, x1, y1, x2, y2


def answer(question: str, things: list[Thing], size: tuple[int, int]) -> str | None:
    """What the question's answer must be given width and height; None where it has no one answer."""
    name = named(question)
    mine = [t for t in things if t[0] == name]
    if "grid" in question.lower() or "rows of" in question:
        return on_grid(question, things, size)
    if re.search(r"How many|Count the|number of", question):
        return str(len(placed(question, mine, size)))
    if re.search(r"^(Is there|Does the .* show|Can you see)", question):
        return "yes" if placed(question, mine, size) else "no"
    if re.search(r"^(Detect|Box every|List the boxes)", question):
        listed = sorted(placed(question, mine, size), key=lambda t: (t[2], t[1]))
        return f"<box>[{', '.join(numbers(t, size) for t in listed)}]</box>" if listed else "none"
    if re.search(r"which half|there more|Compare the", question, re.IGNORECASE):
        first, second = [half for half in ("left half", "right half", "upper half", "lower half") if half in question]
        a, b = (sum(in_half(t, half, size) for t in mine) for half in (first, second))
        return first if a > b else second if b > a else "equal"
    if "<ref>" in question or "largest" in question or question.startswith(("Where is the", "Locate", "In which part")):
        found = pointed_at(question, mine, size)
        if found is None:
            return None
        return f"<box>[{numbers(found, size)}]</box>" if "<ref>" in question else region(found, size)
    if re.search(r"most|densest", question):
        tally = Counter(region(t, size) for t in mine).most_common(2)
        return tally[0][0] if len(tally) == 1 or tally[0][1] > tally[1][1] else None
    if re.search(r"^(Describe the image|What does the image|Write a short)", question):
        return caption(things, size)
    raise AssertionError(f"what is this question? {question}")


def named(question: str) -> str:
    """The class that a question is about, "" if none."""
    return next((n for n, many in PLURALS.items() if re.search(rf"\b({n}|{many})\b", question)), "")


def centre(thing: Thing) -> tuple[Fraction, Fraction]:
    _, x1, y1, x2, y2 = thing
    return (Fraction(x1) + Fraction(x2)) / 2, (Fraction(y1) + Fraction(y2)) / 2


def region(thing: Thing, size: tuple[int, int]) -> str:
    (x, y), (width, height) = centre(thing), size
    words = (ROWS[min(2, int(3 * y / height))], COLUMNS[min(2, int(3 * x / width))])
    return "centre" if words == ("middle", "middle") else " ".join(words)


def in_half(thing: Thing, half: str, size: tuple[int, int]) -> bool:
    (x, y), (width, height) = centre(thing), size
    return {
        "left half": 2 * x < width, "right half": 2 * x >= width,
        "upper half": 2 * y < height, "lower half": 2 * y >= height,
    }[half]  # fmt: skip


def placed(question: str, things: list[Thing], size: tuple[int, int]) -> list[Thing]:
    """Those whose centre is in the place that the question names, all if it names none."""
    found = re.search(r"the ([a-z ]+) of the image", question)
    place = found.group(1).rpartition("the ")[2] if found else ""
    if not place:
        return things
    return [t for t in things if (in_half(t, place, size) if "half" in place else region(t, size) == place)]


def pointed_at(question: str, things: list[Thing], size: tuple[int, int]) -> Thing | None:
    (width, height) = size
    order = {
        "largest": lambda t: -(t[3] - t[1]) * (t[4] - t[2]),
        "nearest": lambda t: (centre(t)[0] - Fraction(width, 2)) ** 2 + (centre(t)[1] - Fraction(height, 2)) ** 2,
        "leftmost": lambda t: centre(t)[0],
        "rightmost": lambda t: -centre(t)[0],
        "uppermost": lambda t: centre(t)[1],
        "lowest": lambda t: -centre(t)[1],
    }
    for word, rank in order.items():
        if word in question:
            return min(things, key=rank)
    return things[0] if len(things) == 1 else None


def numbers(thing: Thing, size: tuple[int, int]) -> str:
    """Thousandths, halves to the even neighbour as Python's own rounding does."""
    return str([round(1000 * v / side) for v, side in zip(thing[1:], size * 2, strict=True)])


def on_grid(question: str, things: list[Thing], size: tuple[int, int]) -> str | None:
    width, height = size
    cells = int(re.search(r"(\d) x \d|as (\d) rows", question)[0].strip("as ")[0])  # ty: ignore

    def at(row: int, column: int) -> set[str]:
        x, y = Fraction((2 * column + 1) * width, 2 * cells), Fraction((2 * row + 1) * height, 2 * cells)
        return {name for name, x1, y1, x2, y2 in things if x1 < x < x2 and y1 < y < y2}

    one = re.search(r"row (\d), column (\d)", question)
    if one:
        found = at(int(one[1]) - 1, int(one[2]) - 1)
        return None if len(found) > 1 else next(iter(found), "none")
    name = named(question)
    places = [(row, column) for row in range(cells) for column in range(cells)]
    return " ".join(name if name in at(*place) else "none" for place in places)


def caption(things: list[Thing], size: tuple[int, int], at_least: frozenset[str] = frozenset()) -> str:
    parts = []
    for name, many in PLURALS.items():
        mine = [t for t in things if t[0] == name]
        if not mine:
            continue
        text = f"{'at least ' if name in at_least else ''}{len(mine)} {name if len(mine) == 1 else many}"
        tally = Counter(region(t, size) for t in mine).most_common(2)
        if len(mine) == 1:
            text += f" in the {tally[0][0]}"
        elif len(tally) == 1 or tally[0][1] > tally[1][1]:
            text += f", most in the {tally[0][0]}"
        parts.append(text)
    return f"The image shows {' and '.join(parts)}." if parts else "The image shows none of the known objects."


def shares(box: Thing, other: Thing) -> float:
    """Overlap of two boxes as a part of the smaller."""
    wide, high = (min(box[3 + i], other[3 + i]) - max(box[1 + i], other[1 + i]) for i in (0, 1))
    smaller = min((t[3] - t[1]) * (t[4] - t[2]) for t in (box, other))
    return max(wide, 0) * max(high, 0) / max(smaller, 1e-9)

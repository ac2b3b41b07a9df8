"""Answers in the grammar, written and then damaged, token soups, and texts that grow without end."""

from __future__ import annotations

import random
from collections.abc import Iterator

from vistruct.contracts import Turn
from vistruct.vlm.answers import DEFECTS, UNITS, Read
from vistruct.vlm.grammar import Grammar, added_tokens, read_answer, write_answer

NAMES = [
    "tree",
    "red roof",
    "crane (yellow), left",
    "B\u00e4ume \u6728",
    "Unit: x Num: 3",
    "a\tb",
    "[0]",
    "- Name:",
    "target",
]
WORDS = [" and ", ", ", " (old) ", ".", " stands by ", "\n", "  ", ")", "[1]", "\u2028", "\x00", "\U0001f332", "\u0301"]
PIECES = [
    *added_tokens(Grammar()), *added_tokens(Grammar(spelling="published")), *WORDS, "(", ")", "[0]", "[1]", "[00]",
    "[999999999999]", "[\u0661]", "[", "]", "tree", "box", "mask", "Unit decode (True).", "Unit decode (False).",
    "- Name: tree Unit: box Num: 1\n", "- Name:", "Num: 7", "Unit:", "\n", " ", "<", ">", "</", "<Task", "Task>",
    "<Phrase>" * 9,
]  # fmt: skip


def written(draw: random.Random, grammar: Grammar) -> str:
    """A sound answer."""
    text, points, units = draw.choice(["", "Here: "]), [], []
    for _ in range(draw.randrange(5)):
        text += f"<Phrase>{draw.choice(NAMES)}</Phrase>"
        for _ in range(draw.choice([1, 1, 1, 2])):
            text += "<object>"
            points.append(tuple(range(draw.choice([1, 2, 3, 12]))))
            units.append(draw.choice(UNITS))
        text += draw.choice(WORDS)
    return write_answer(Turn(role="assistant", text=text, points=tuple(points), units=tuple(units)), grammar).text


def damaged(draw: random.Random, text: str) -> str:
    """With up to eight pieces taken out, put in, doubled, moved or cut off."""
    for _ in range(draw.randrange(1, 9)):
        a, b = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        b = min(b, a + draw.choice([1, 1, 5, 30]))
        text = draw.choice(
            [
                text[:a] + text[b:],
                text[:a] + draw.choice(PIECES) + text[a:],
                text[:a] + draw.choice(PIECES) + text[b:],
                text[:b] + text[a:],
                text[b:] + text[:b],
                text[:a],
                text.replace(draw.choice(PIECES), "", 1),
                text[:a] + chr(draw.randrange(0xD800)) + text[a:],
            ]
        )
    return text


def answers(seed: int) -> Iterator[tuple[str, Grammar]]:
    """One after the other without end: half damaged, the other half soups of tokens."""
    draw = random.Random(seed)
    while True:
        spelling = draw.choice(("ours", "published"))
        grammar = Grammar(cot=draw.random() < 0.7, spelling=spelling)
        sound = written(draw, grammar)
        yield damaged(draw, sound), grammar
        yield "".join(draw.choices(PIECES, k=draw.choice([1, 3, 10, 40]))), grammar


def check(text: str, grammar: Grammar) -> Read:
    """Read it; what holds of every answer, however broken, holds."""
    read = read_answer(text, grammar)
    rows = [row for phrase in read.phrases for row in phrase.rows]
    assert rows == sorted(set(rows))
    assert not rows or rows[-1] < text.count(grammar.object_token)
    assert all(read.words[phrase.start : phrase.end] == phrase.text for phrase in read.phrases)
    assert all(0 <= phrase.start <= phrase.end <= len(read.words) for phrase in read.phrases)
    assert set(read.defects) <= set(DEFECTS)
    assert len(set(read.defects)) == len(read.defects)
    stray = len(rows) < text.count(grammar.object_token)
    assert stray == ("stray object token" in read.defects)
    return read


def growing(length: int) -> Iterator[tuple[str, str]]:
    """(name, text of so many characters): what is slow to read where something is looked at again and again."""
    tree = "<Phrase>tree</Phrase>(<Unit>box</Unit>[0]<object>[1]<object>), "
    row = "- Name: tree Unit: box Num: 1\n"
    half = "a" * (length // 2)
    repeated = {token: token for token in (*added_tokens(Grammar()), "(", "[", "[0]", " ", "\n", "a", "\u6728")} | {
        "phrases": tree,
        "plan rows": row,
        "opened and closed": "<Task></Task>",
        "opened, and an object": "<Task><object>",
        "nested": "<Phrase>a ",
        "closed": "a</Phrase>",
        "units of nothing": "(<Unit>box</Unit>)",
        "indices": "[0]<object>",
        "brackets": "( [ ",
        "units without end": "<Unit>box",
        "row names": "- Name: Unit: Num: ",
    }
    for name, piece in repeated.items():
        yield f"many {name!r}", (piece * (length // len(piece) + 1))[:length]
        yield f"in a plan, many {name!r}", "<Task>\n" + (piece * (length // len(piece) + 1))[:length] + "</Task>"
        yield f"in an open plan, many {name!r}", "<Task>\n- Name: " + (piece * (length // len(piece) + 1))[:length]
    yield "a long phrase with many units", f"<Phrase>{half}</Phrase>" + "(<Unit>box</Unit>[0]<object>)" * (length // 58)
    yield "a long beginning and many plans", half + "<Task></Task>" * (length // 26)
    yield "a plan without end", "<Task>\n" + row * (length // len(row))
    yield "one phrase of many objects", "<Phrase>a</Phrase>(<Unit>box</Unit>" + "[0]<object>" * (length // 11)
    deep = length // 34
    yield "nested and closed", "<Phrase>a " * deep + "</Phrase>(<Unit>box</Unit>[0]<object>)" * deep
    yield "blanks before the end", "<Phrase>a</Phrase>" + " " * length
    yield "blanks between", "<Phrase>a</Phrase>" + (" " * 1000 + "(") * (length // 1000)

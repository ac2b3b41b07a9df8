"""Class names in English sentences: plural, article, number. Good enough for class names, which are short."""

from __future__ import annotations

import re

_IRREGULAR = {
    "person": "people", "child": "children", "foot": "feet", "tooth": "teeth", "goose": "geese", "mouse": "mice",
    "leaf": "leaves", "calf": "calves", "wolf": "wolves", "shelf": "shelves", "loaf": "loaves", "knife": "knives",
    "half": "halves", "nucleus": "nuclei", "bacterium": "bacteria", "potato": "potatoes", "tomato": "tomatoes",
}  # fmt: skip
_UNCHANGED = ("craft", "fish", "sheep", "deer", "cattle", "livestock", "species", "series", "chassis")
_MEN = re.compile(r"(?<!hu)(?<!ger)(?<!ro)man$", re.IGNORECASE)
_NAME = re.compile(r"(?P<head>.*?)(?P<last>[^\s_-]*)(?P<note>\s*\(.*\))?$", re.DOTALL)
# Spelled with a vowel and said with a consonant: unit, European, one-way sign; but uninhabited, undergrowth.
_CONSONANT_SOUND = re.compile(r"uni(?![nm]|de)|us(?:e|ual)|ut[ei]|eu|ewe|one(?![a-z])|once|ufo", re.IGNORECASE)
_VOWEL_SOUND = re.compile(r"[aeiou]|hour|honest|heir|x[- ]?ray", re.IGNORECASE)
_ACRONYM = re.compile(r"[A-Z]{2,3}(?![A-Za-z])")


def plural(name: str) -> str:
    """`trees`, `people`, `aircraft`, `small leaves`; a name that looks plural already stays as it is."""
    found = _NAME.match(name)
    assert found is not None  # the pattern matches any text
    head, last, note = found["head"], found["last"], found["note"] or ""
    return f"{head}{_plural_word(last)}{note}"


def _plural_word(word: str) -> str:
    low = word.lower()
    if not low or low.endswith(_UNCHANGED):
        return word
    if low in _IRREGULAR:
        return word[0] + _IRREGULAR[low][1:]
    if _MEN.search(word):
        return f"{word[:-2]}en"
    if low.endswith("sis"):
        return f"{word[:-2]}es"
    if low.endswith(("ss", "us", "as", "is", "os", "lens", "x", "z", "ch", "sh")):
        return f"{word}es"
    if low.endswith("s"):
        return word  # `trees`
    if low.endswith("y") and low[-2:-1] not in ("a", "e", "i", "o", "u", ""):
        return f"{word[:-1]}ies"
    return f"{word}s"


def article(name: str) -> str:
    """`a tree`, `an aircraft`, `a unit`, `an hour`; a name that is plural already takes none."""
    last = name.lower().rpartition(" ")[2]
    if last.endswith("s") and plural(name) == name and not last.endswith(_UNCHANGED):
        return name
    if _ACRONYM.match(name):
        return f"{'an' if name[0] in 'AEFHILMNORSX' else 'a'} {name}"  # an MRI, a UAV
    vowel = _VOWEL_SOUND.match(name) and not _CONSONANT_SOUND.match(name)
    return f"{'an' if vowel else 'a'} {name}"


def several(count: int, name: str) -> str:
    """`no trees`, `1 tree`, `7 trees`."""
    return f"{count or 'no'} {name if count == 1 else plural(name)}"

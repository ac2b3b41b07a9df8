"""Accuracy of short answers to questions that several people answered, as VQA counts it.

Source: VQA, Antol et al., ICCV 2015, section 3.2, and the conventions of its public evaluation: which marks, articles,
numbers and contractions are one and the same, and that each person's answer is left out once (ten choose nine).
Differs: answers that all agree are compared as the others are. The public evaluation compares those letter by letter
(some copies of it one side alone), so that "Yes" to ten times "yes" is wrong there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

ARTICLES = {"a", "an", "the"}
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(_COUNTED)} | {"none": "0"}
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_STOP = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"\d,\d")
# Words in which one apostrophe may be missing; "let's" and "she's" are words without it.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd've he's
    how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
    not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've he'd
"""
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTED.split() for at, sign in enumerate(word) if sign == "'"
} | {"somebody'd": "somebodyd"}


@functools.lru_cache(maxsize=1 << 16)
def normalised(text: str) -> str:
    """As answers are compared: small letters, no articles and marks, numbers as digits, contractions with apostrophes.

    A mark beside a space is nothing, one between letters is a space; all are nothing where a number has a comma.
    """
    plain = " ".join(text.split())
    is_number = _THOUSANDS.search(plain) is not None
    told = plain
    for mark in _MARKS:
        is_nothing = is_number or f"{mark} " in plain or f" {mark}" in plain
        told = told.replace(mark, "" if is_nothing else " ")
    words = [NUMBERS.get(word, word) for word in _STOP.sub("", told).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def agreement(answer: str, references: Sequence[str]) -> float:
    """How far people agree with an answer: 1 where three of the others do, whoever is left out; the mean over whom.

    Args:
        references: everybody's answer, each as often as it was given; a single one must be met.

    Returns:
        in [0, 1]: of ten equal to none, one, two, three and four 0, 0.3, 0.6, 0.9 and 1.
    """
    said = normalised(answer)
    total = len(references)
    alike = sum(normalised(text) == said for text in references)
    if total == 1:
        return float(alike)
    return (alike * min(1.0, (alike - 1) / 3) + (total - alike) * min(1.0, alike / 3)) / total

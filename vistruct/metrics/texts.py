"""How well a model reads the text in images: words that are right, and how many characters are wrong.

Source: the two accuracies that benchmarks of scene text recognition report (Baek et al., arXiv:1904.01906): of whole
    words as they are, and of their letters and digits alone, in small letters; the character error rate of speech and
    handwriting: Levenshtein's distance, divided by the characters of the truth.
Differs: letters and digits are those of any script, not only 36 of ASCII, where texts in another would all be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from vistruct.config import Part
from vistruct.contracts import CaptionPrediction
from vistruct.data.dataset import RecordDataset
from vistruct.metrics.caption_scores import Captions, truths_of
from vistruct.metrics.means import known_mean
from vistruct.metrics.yardstick import commonest

TEXT_FORMATS = ("text-list", "text-pairs")  # of data whose captions are the text in the image
_UNKNOWN = "<unk>"  # what a model says for a character that it does not know: one wrong character

Sums = dict[str, tuple[float, float]]  # by number: what an image adds to it, and to what that is divided by


class TextConfig(Part):
    """Has no settings."""

    kind: Literal["text"] = "text"

    def build(self, dataset: RecordDataset) -> Texts:
        """The data set tells the text of every image.

        Raises:
            UserError: an image has none.
        """
        return Texts(truths_of(dataset))

    def usual(self, data: Any) -> str:
        """That of letters and digits, by which benchmarks compare."""
        return "accuracy"

    def higher_is_better(self, number: str) -> bool | None:
        """Of accuracies; of errors less is better, and the constant answer is no merit."""
        return {"accuracy": True, "exact": True, "CER": False}.get(number)


class Texts:
    """Collects what was read in images whose text is known; of several texts of an image the nearest counts."""

    def __init__(self, truths: dict[str, tuple[str, ...]]) -> None:
        self.said = Captions(truths)

    @staticmethod
    def condense(prediction: CaptionPrediction) -> CaptionPrediction:
        """As it is."""
        return prediction

    def update(self, predictions: Sequence[CaptionPrediction]) -> None:
        """As `Captions.update`."""
        self.said.update(predictions)

    def compute(self) -> dict[str, float]:
        """NaN where there is nothing to divide by.

        `accuracy`: part of the images whose letters and digits are right, capital or not, over those that have any;
        `exact`: part whose text is right as it is; `CER`: wrong, missing and needless characters by the characters of
        the truths, which may be above 1. `accuracy_constant`: of the commonest text for every image; `unfinished`: part
        of the answers that the limit cut.
        """
        ids, answers, references = self.said.pairs()
        usual = commonest([first for first, *_ in references], 1)
        alike = usual * len(ids)
        return {
            **_ratios(answers, references),
            "accuracy_constant": _ratios(alike, references)["accuracy"],
            "unfinished": known_mean([float(not self.said.found[id].is_finished) for id in ids]),
        }

    def details(self) -> dict[str, Any]:
        """Plain json: `captions`, what was read in each image; `per_image`, what it adds to each number."""
        ids, answers, references = self.said.pairs()
        rows = {id: sums(answer, told) for id, answer, told in zip(ids, answers, references, strict=True)}
        each = {name: {id: list(own[name]) for id, own in rows.items()} for name in ("accuracy", "exact", "CER")}
        return {"per_image": each, "captions": dict(zip(ids, answers, strict=True))}


def sums(answer: str, truths: Sequence[str]) -> Sums:
    """What one image adds to `accuracy`, `exact` and `CER`."""
    said = " ".join(answer.replace(_UNKNOWN, "\ufffd").split())
    errors, length = min((edit_distance(said, truth), len(truth)) for truth in truths)
    known = {plain for truth in truths if (plain := letters_and_digits(truth))}
    return {
        "accuracy": (float(letters_and_digits(said) in known), float(bool(known))),
        "exact": (float(said in truths), 1.0),
        "CER": (float(errors), float(length)),
    }


def letters_and_digits(text: str) -> str:
    """Those of a text, in small letters."""
    return "".join(character for character in text.lower() if character.isalnum())


def edit_distance(a: str, b: str) -> int:
    """How many characters must be put in, taken out or exchanged to make one text of the other (Levenshtein)."""
    row = list(range(len(b) + 1))
    for number, character in enumerate(a, start=1):
        before, row = row, [number]
        for at, other in enumerate(b):
            row.append(min(before[at] + (character != other), before[at + 1] + 1, row[at] + 1))
    return row[-1]


def _ratios(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    rows = [sums(answer, told) for answer, told in zip(answers, references, strict=True)]
    found: dict[str, float] = {}
    for name in ("accuracy", "exact", "CER"):
        total, count = (sum(row[name][at] for row in rows) for at in (0, 1))
        found[name] = total / count if count else float("nan")
    return found

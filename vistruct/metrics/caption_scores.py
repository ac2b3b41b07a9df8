"""How well a model describes images: CIDEr-D, BLEU and ROUGE-L of its captions beside those of people.

METEOR is not here: it needs WordNet or Java, which no maintained library brings along. SPICE likewise.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from vistruct.config import Part
from vistruct.contracts import CaptionPrediction
from vistruct.data.dataset import RecordDataset
from vistruct.errors import UserError
from vistruct.metrics.captions import bleu, cider_d_each, rouge_l_each
from vistruct.metrics.means import known_mean


class CaptionsConfig(Part):
    """Has no settings."""

    kind: Literal["captions"] = "captions"

    def build(self, dataset: RecordDataset) -> Captions:
        """The data set tells what people say.

        Raises:
            UserError: it has no captions.
        """
        return Captions(truths_of(dataset))

    def usual(self, data: Any) -> str:
        """CIDEr-D, which is a mean over images."""
        return "CIDEr-D"

    def higher_is_better(self, number: str) -> bool | None:
        """All but lengths and counts."""
        return None if number in ("words", "unfinished", "CIDEr-D_constant") else True


def truths_of(dataset: RecordDataset) -> dict[str, tuple[str, ...]]:
    """What people say of each image.

    Raises:
        UserError: an image has no captions.
    """
    truths = {record.id: record.captions for record in dataset.records}
    without = next((id for id, captions in truths.items() if not captions), None)
    if without is not None:
        raise UserError("no captions to compare with", where=without, fix="data with captions (kind: captions)")
    return truths


class Captions:
    """Collects captions of images of which people have said something."""

    def __init__(self, truths: dict[str, tuple[str, ...]]) -> None:
        self.truths = truths
        self.found: dict[str, CaptionPrediction] = {}

    @staticmethod
    def condense(prediction: CaptionPrediction) -> CaptionPrediction:
        """As it is."""
        return prediction

    def update(self, predictions: Sequence[CaptionPrediction]) -> None:
        """Add predictions, in any number and order.

        Raises:
            UserError: an image that the data set does not have.
            ValueError: an image a second time.
        """
        for one in predictions:
            if one.id not in self.truths:
                what = f"a caption of {one.id!r}, of which the data set has none"
                raise UserError(what, where=one.id, fix="predict on the images of the data set that is evaluated")
            if one.id in self.found:
                raise ValueError(f"{one.id} was predicted twice")
            self.found[one.id] = one

    def compute(self) -> dict[str, float]:
        """CIDEr-D in [0, 10], BLEU-1 to BLEU-4 of all captions together and ROUGE-L in [0, 1]; NaN of no captions.

        `CIDEr-D_constant` is that of one caption for all images, the one that people gave most often: what can be had
        without looking. `words` is the mean length, `unfinished` the part of captions that the limit cut.
        """
        ids, answers, references = self.pairs()
        usual = Counter(caption for captions in references for caption in captions).most_common(1)
        alike = [usual[0][0] if usual else ""] * len(ids)
        blue = bleu(answers, references) if ids else [math.nan] * 4
        return {
            "CIDEr-D": known_mean(cider_d_each(answers, references)),
            **{f"BLEU-{n}": value for n, value in enumerate(blue, start=1)},
            "ROUGE-L": known_mean(rouge_l_each(answers, references)),
            "CIDEr-D_constant": known_mean(cider_d_each(alike, references)),
            "words": known_mean([len(answer.split()) for answer in answers]),
            "unfinished": known_mean([float(not self.found[id].is_finished) for id in ids]),
        }

    def details(self) -> dict[str, Any]:
        """Plain json: `captions`, what was said of each image; `per_image`, its CIDEr-D and ROUGE-L with a count of 1,
        whose means `compute` gives."""
        ids, answers, references = self.pairs()
        each = {"CIDEr-D": cider_d_each(answers, references), "ROUGE-L": rouge_l_each(answers, references)}
        rows = {name: {id: [value, 1.0] for id, value in zip(ids, own, strict=True)} for name, own in each.items()}
        return {"per_image": rows, "captions": dict(zip(ids, answers, strict=True))}

    def pairs(self) -> tuple[list[str], list[str], list[tuple[str, ...]]]:
        """Names of the images, what was said of each and what people say, in the order of the data set."""
        ids = [id for id in self.truths if id in self.found]
        return ids, [self.found[id].caption for id in ids], [self.truths[id] for id in ids]

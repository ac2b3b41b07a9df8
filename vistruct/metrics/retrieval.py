"""Image-text retrieval: how often an image finds one of its captions among all, and a caption its image.

Source: recall@K as CLIP_benchmark has it: a question is answered if any of its right answers is among the K nearest.
Differs: of answers that are equally near, the one that comes first in the data stands first; there it is left open.
Shapes: M images, N captions of all of them; ranks count from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import Embedded
from vistruct.errors import UserError

PORTION = 1024  # questions compared with all answers at a time
WAYS = ("image_to_text", "text_to_image")


class RetrievalConfig(Part):
    """Among how many nearest an answer is looked for."""

    kind: Literal["retrieval"] = "retrieval"
    at: tuple[int, ...] = (1, 5, 10)

    def build(self, dataset: Any) -> Retrieval:
        """
        Raises:
            UserError: data without captions.
        """
        if not any(record.captions for record in dataset.records):
            raise UserError("no captions to find", where="data", fix="use data with captions (kind: captions)")
        return Retrieval(self.at)

    def usual(self, data: Any) -> str:
        """Of captions that look for their image."""
        return f"text_to_image_R@{self.at[0]}"

    def higher_is_better(self, number: str) -> bool | None:
        """Recalls; a lower rank is the better one."""
        return True if "_R@" in number else False if "_rank" in number else None


class Retrieval:
    """Collects the vectors of images and captions; nothing is compared before all are there."""

    def __init__(self, at: Sequence[int] = (1, 5, 10)) -> None:
        self.at = tuple(at)
        self.found: dict[str, Embedded] = {}
        self._ranks: tuple[np.ndarray, np.ndarray] | None = None

    @staticmethod
    def condense(prediction: Embedded) -> Embedded:
        """The same with vectors of its own: a row of a batch would travel with the whole batch."""
        return replace(prediction, image=prediction.image.clone(), texts=prediction.texts.clone())

    def update(self, predictions: Sequence[Embedded]) -> None:
        """Add predictions, in any number.

        Raises:
            UserError: a vector that has a NaN.
            ValueError: an image a second time.
        """
        for one in predictions:
            if one.id in self.found:
                raise ValueError(f"{one.id} was predicted twice")
            if not (one.image.isfinite().all() and one.texts.isfinite().all()):
                raise UserError("a vector with a NaN", where=one.id, fix="the training has diverged")
            self.found[one.id] = one

    def compute(self) -> dict[str, float]:
        """Both ways recall@K and the mean rank of the (best) right answer; how many images, captions, and of these cut.

        An image without a caption asks nothing, and is there to be found by mistake.
        """
        images, texts = self.ranks()
        numbers: dict[str, float] = {}
        for way, ranks in zip(WAYS, (images, texts), strict=True):
            known = ranks[ranks > 0]
            numbers |= {f"{way}_R@{k}": float((known <= k).mean()) if len(known) else float("nan") for k in self.at}
            numbers[f"{way}_rank"] = float(known.mean()) if len(known) else float("nan")
        cut = sum(one.cut for one in self.found.values())
        return numbers | {"images": float(len(images)), "captions": float(len(texts)), "captions_cut": float(cut)}

    def details(self) -> dict[str, Any]:
        """Of each image the rank of its best caption (0: it has none), and that of the image for each of its captions;
        and what each adds to the numbers, as [total, count].
        """
        images, texts = self.ranks()
        own = np.split(texts, np.cumsum([len(one.texts) for one in self.found.values()])[:-1])
        each = dict(zip(self.found, zip(images, own, strict=True), strict=True)) if self.found else {}
        per_image: dict[str, dict[str, list[float]]] = {}
        for name, asked in each.items():
            for way, ranks in zip(WAYS, (asked[0][asked[0] > 0], asked[1]), strict=True):
                sums = {f"{way}_R@{k}": float((ranks <= k).sum()) for k in self.at} | {
                    f"{way}_rank": float(ranks.sum())
                }
                for number, total in sums.items():
                    per_image.setdefault(number, {})[name] = [total, float(ranks.size)]
        ranks = {name: {WAYS[0]: int(image), WAYS[1]: texts.tolist()} for name, (image, texts) in each.items()}
        return {"ranks": ranks, "per_image": per_image}

    def ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """int64[M] of the best caption of each image, int64[N] of the image of each caption."""
        if self._ranks is None or len(self._ranks[0]) != len(self.found):
            self._ranks = self._compared()
        return self._ranks

    def _compared(self) -> tuple[np.ndarray, np.ndarray]:
        every = list(self.found.values())
        if not every:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        images, texts = torch.stack([one.image for one in every]), torch.cat([one.texts for one in every])
        counts = torch.tensor([len(one.texts) for one in every])
        owners, rows = torch.arange(len(every)).repeat_interleave(counts), torch.arange(len(every))
        return _ranks(images, texts, rows, owners), _ranks(texts, images, owners, rows)


def _ranks(questions: Tensor, answers: Tensor, asks: Tensor, owners: Tensor) -> np.ndarray:
    """int64[Q], from 1, of the best right answer to each question; 0: it has none. Of equals the first stands first.

    Args:
        questions, answers: float[Q, E] and float[A, E].
        asks, owners: int64[Q] and int64[A]; where they are equal the answer is right.
    """
    if not len(answers):
        return np.zeros(len(questions), np.int64)
    found, places = [], torch.arange(len(answers))
    for part, own in zip(questions.split(PORTION), asks.split(PORTION), strict=True):
        near = part @ answers.T  # [q, A]
        is_right = own[:, None] == owners
        best = near.masked_fill(~is_right, -torch.inf).max(dim=1, keepdim=True).values
        at = (is_right & (near == best)).int().argmax(dim=1, keepdim=True)
        before = (near > best) | ((near == best) & (places < at))
        found.append((before.sum(dim=1) + 1) * is_right.any(dim=1))
    return torch.cat([torch.zeros(0, dtype=torch.int64), *found]).numpy()

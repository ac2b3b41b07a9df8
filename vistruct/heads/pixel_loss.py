"""What a map of class scores learns from: cross-entropy over the pixels that count, and dice beside it.

Source: cross-entropy with weights, smoothing and ignored pixels is torch's own. Hard pixels alone (OHEM): Shrivastava
    et al., arXiv:1604.03540, with the two knobs of the segmentation toolkits, a probability and a least share. Focal:
    Lin et al., arXiv:1708.02002. Dice: Milletari et al., arXiv:1606.04797.
Differs: hard pixels are chosen, and overlaps are taken, in every image by itself and never over a batch, so that
    splitting a batch over micro-batches and devices changes no gradient; MONAI's dice would be the same formula, but
    is an extra's and does not know ignored pixels.
Shapes: B images, K classes, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import IGNORED, HeadLoss
from vistruct.errors import UserError
from vistruct.heads.imbalance import ClassWeights, focal_cross_entropy, numbers_of


class Dice(Part):
    """One minus the overlap of probabilities and truth, a mean over classes in every image."""

    weight: float = Field(1.0, gt=0)  # beside the cross-entropy's 1
    classes: tuple[int, ...] | None = Field(None, min_length=1)  # that it looks at, without background say; None: all
    smooth: float = Field(1.0, gt=0)  # pixels added to both sides of the fraction: absent classes have a slope too


class HardPixels(Part):
    """Only pixels that are not yet right are learned from (online hard example mining)."""

    threshold: float = Field(0.7, gt=0, le=1)  # pixels whose true class has at least this probability are easy
    least_share: float = Field(1 / 16, gt=0, le=1)  # of an image's pixels, its hardest, are kept all the same


class PixelLoss(Part):
    """Cross-entropy, and what it is changed by."""

    class_weights: ClassWeights | None = None  # None: 1
    smoothing: float = Field(0.0, ge=0, lt=1)  # part of the truth that is spread over all classes
    focal_gamma: float = Field(0.0, ge=0)  # a pixel's loss times (1 - probability of its class) ** gamma
    hard: HardPixels | None = None  # None: all pixels that count
    dice: Dice | None = None  # None: none

    def __call__(self, logits: Tensor, label_map: Tensor) -> HeadLoss:
        """The loss of a batch.

        Args:
            logits: float[B, K, H, W].
            label_map: int[B, H, W], from 0 to K - 1, or IGNORED.

        Returns:
            Sums over the `units` of the label map. An image's dice counts as much as its pixels together, and so does
            the mean over its hard pixels: how many are hard depends on what is said of them, and is not known before.
            Where all is ignored every term is 0 (with a graph).

        Raises:
            UserError: weights or dice classes that are not those of the logits.
            ValueError: shapes that do not fit.
        """
        num_images, num_classes = logits.shape[:2]
        if label_map.shape != (num_images, *logits.shape[2:]):
            raise ValueError(f"logits {list(logits.shape)} and label map {list(label_map.shape)} do not fit")
        self._check(num_classes)
        logits, labels = logits.float(), label_map.long()
        weights = None if self._weights is None else logits.new_tensor(self._weights)
        pixels = focal_cross_entropy(logits, labels, weights, smoothing=self.smoothing, gamma=self.focal_gamma)
        # [B, H, W], 0 where ignored
        counts = self._counts(labels, weights)  # [B]
        entropy = pixels.sum()
        if self.hard is not None:
            hard = hard_pixels(logits, labels, self.hard)
            chosen = self._counts(labels.masked_fill(~hard, IGNORED), weights)
            means = torch.where(hard, pixels, 0.0).flatten(1).sum(dim=1) / torch.where(chosen > 0, chosen, 1).float()
            entropy = (means * counts.float()).sum()
        terms = {"pixels": entropy}
        if self.dice is not None:
            overlaps = dice_losses(logits, labels, self.dice) * counts.float()
            terms["dice"] = self.dice.weight * overlaps.sum()
        return HeadLoss(terms=terms)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of its terms."""
        return ("pixels",) if self.dice is None else ("pixels", "dice")

    def units(self, label_map: Tensor) -> dict[str, Tensor]:
        """float64[] of each term: the pixels that count in int[B, H, W], or the sum of their classes' weights."""
        weights = None
        if self._weights is not None:
            weights = torch.tensor(self._weights, device=label_map.device)
        return dict.fromkeys(self.terms, self._counts(label_map.long(), weights).sum())

    @property
    def _weights(self) -> tuple[float, ...] | None:
        if self.class_weights is not None and not isinstance(self.class_weights, tuple):
            raise ValueError("class weights by name, or balanced, are numbers of some data: see `of_classes`")
        return self.class_weights

    def of_classes(self, names: Sequence[str], counts: Sequence[int] | None) -> PixelLoss:
        """The same loss with its class weights as numbers.

        Args:
            counts: pixels of each class in the training data; None: they were not counted.

        Raises:
            UserError: as `imbalance.numbers_of`.
        """
        weights = numbers_of(self.class_weights, names, counts, "loss.class_weights")
        return self if weights == self.class_weights else self.model_copy(update={"class_weights": weights})

    def _counts(self, labels: Tensor, weights: Tensor | None) -> Tensor:
        """float64[B]."""
        counted = labels != IGNORED
        units = counted if weights is None else weights[labels.clamp(min=0)] * counted
        return units.flatten(1).sum(dim=1, dtype=torch.float64)

    def _check(self, num_classes: int) -> None:
        if self._weights is not None and len(self._weights) != num_classes:
            raise UserError(
                f"{len(self._weights)} class weights for {num_classes} classes",
                where="loss.class_weights",
                fix="give one weight for each class, in the order of the data's class names",
            )
        if self._weights is not None and any(not 0 <= w < math.inf for w in self._weights):
            raise UserError(
                f"class weights {list(self._weights)}", where="loss.class_weights", fix="weights are at least 0"
            )
        beyond = [c for c in (self.dice.classes or () if self.dice else ()) if not 0 <= c < num_classes]
        if beyond:
            raise UserError(
                f"class {beyond[0]} of {num_classes}",
                where="loss.dice.classes",
                fix=f"classes count from 0 to {num_classes - 1}",
            )


def hard_pixels(logits: Tensor, labels: Tensor, hard: HardPixels) -> Tensor:
    """Which pixels to learn from; equally hard ones at the end of the least share are all kept.

    Args:
        logits: float[B, K, H, W].
        labels: int64[B, H, W], or IGNORED.

    Returns:
        bool[B, H, W], false where ignored.
    """
    with torch.no_grad():
        valid = labels != IGNORED
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
        losses = losses.masked_fill(~valid, -1.0).flatten(1)  # [B, H * W]; ignored ones are the easiest of all
        kept = losses > -math.log(hard.threshold)
        numbers = valid.flatten(1).sum(dim=1).tolist()
        for i, number in enumerate(numbers):
            least = math.ceil(hard.least_share * number)
            if number:  # the least-th largest
                kept[i] |= losses[i] >= losses[i].kthvalue(losses.shape[1] + 1 - least).values
        return kept.view_as(valid) & valid


def dice_losses(logits: Tensor, labels: Tensor, dice: Dice) -> Tensor:
    """Of each image, without the weight.

    Args:
        logits: float[B, K, H, W].
        labels: int64[B, H, W], or IGNORED.

    Returns:
        float[B] in [0, 1); 0 where everything is ignored.
    """
    valid = (labels != IGNORED)[:, None]  # [B, 1, H, W]
    probabilities = logits.softmax(dim=1) * valid
    truth = torch.zeros_like(probabilities).scatter_(1, labels.clamp(min=0)[:, None], valid.to(logits.dtype))
    shared = (probabilities * truth).flatten(2).sum(dim=2)  # [B, K], pixels
    both = probabilities.flatten(2).sum(dim=2) + truth.flatten(2).sum(dim=2)
    losses = 1 - (2 * shared + dice.smooth) / (both + dice.smooth)
    return losses.mean(dim=1) if dice.classes is None else losses[:, list(dice.classes)].mean(dim=1)

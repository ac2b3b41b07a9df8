"""Mask2Former for objects: a hundred queries, each with the class and the mask of one object or of none.

Source: Cheng et al., "Masked-attention Mask Transformer", arXiv:2112.01527; the best pairs of query and class, with the
    quality of the mask in the score, are the published `instance_inference`. With `one_label` a query says its best
    class, without that quality, as ViSFT's evaluation does.
Differs: boxes are the hulls of the masks, and a mask of nothing is no detection; a mask's quality is measured on the
    cells that show the image, at the stride of the masks.
Shapes: B images, Q queries, K classes, N detections, h x w cells of the masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import BoxTarget, Detections, FeatureSpec, HeadLoss, HeadTraits, Shown
from vistruct.heads.conv_norm import resized
from vistruct.heads.mask2former_names import own_names, published_names
from vistruct.heads.mask_loss import TERMS, MaskLoss, MaskTruth, truth_of_objects
from vistruct.heads.mask_queries import CLASS_LAYERS, ONE_LEVEL, MaskOutput, MaskQueriesConfig

MASKS_AT_ONCE = 16  # enlarged to the size of the batch


class Mask2FormerConfig(Part):
    """Layers, loss, and what is taken for a detection."""

    kind: Literal["mask2former"] = "mask2former"
    layers: MaskQueriesConfig = MaskQueriesConfig()
    loss: MaskLoss = MaskLoss()
    max_detections: int = Field(100, gt=0)  # of an image, of all queries and classes
    one_label: bool = False  # of a query its best class alone, without the quality of its mask
    nms_iou: float = Field(0.5, gt=0, le=1)  # by which the boxes of several views of an image are joined

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> Mask2Former:
        """Build on maps of any number, finest first.

        Raises:
            UserError: a map that is finer than the one before it.
        """
        return Mask2Former(self, specs, num_classes)


VISFT_MASK2FORMER = Mask2FormerConfig(layers=ONE_LEVEL, one_label=True)


class Mask2Former(nn.Module):
    """Maps list[float[B, C_i, h_i, w_i]] -> MaskOutput."""

    terms = TERMS

    def __init__(self, config: Mask2FormerConfig, specs: tuple[FeatureSpec, ...], num_classes: int) -> None:
        super().__init__()
        self.config, self.queries = config, config.layers.build(specs, num_classes)

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(
            masks="image",
            nms_iou=self.config.nms_iou,
            max_detections=self.config.max_detections,
            convert_keys=self.convert_keys,
            to_published=published_names,
            class_layers=CLASS_LAYERS,
        )

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The names of published models, ViSFT's and transformers' as this head's."""
        return own_names(self, state)

    def forward(self, features: list[Tensor], shown: Shown | None = None) -> MaskOutput:
        return self.queries(features, shown)

    def loss(self, output: MaskOutput, targets: Sequence[BoxTarget]) -> HeadLoss:
        """Sums over queries and objects, and all layers.

        Raises:
            ValueError: a target without masks.
        """
        return self.config.loss(output.said, _truths(targets, output.shown))

    def units(self, targets: Sequence[BoxTarget], size_hw: tuple[int, int]) -> dict[str, float]:
        """Weights of the queries; objects that have a mask, as many as there are queries for."""
        return self.config.loss.units(_truths(targets, None), self.config.layers.queries)

    def decode(self, output: MaskOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """Masks are probabilities over the padded batch at the stride of the head; boxes are in its pixels."""
        padded_hw = _padded_hw(output, sizes_hw)
        found = []
        for i, size_hw in enumerate(sizes_hw):
            logits, masks = output.said.logits[-1][i], output.said.masks[-1][i].float()
            rows, labels, scores = self._best(logits, _in_image(masks, size_hw, padded_hw))
            kept = masks[rows]
            boxes = torch.cat([_hulls(some, padded_hw, size_hw) for some in kept.split(MASKS_AT_ONCE)])
            every = Detections(boxes_xyxy=boxes, labels=labels, scores=scores, masks=kept.sigmoid())
            found.append(every.keep(boxes[:, 2] > boxes[:, 0]))
        return found

    def _best(self, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.config.one_label:
            return best_instances(logits, masks, self.config.max_detections)
        scores, labels = logits.float().softmax(-1)[:, :-1].max(dim=1)
        order = scores.argsort(descending=True, stable=True)[: self.config.max_detections]
        return order, labels[order], scores[order]


def best_instances(logits: Tensor, masks: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest pairs of query and class, scored by class times quality of the mask.

    Args:
        logits: float[Q, K + 1].
        masks: float[Q, h, w], logits.
        num: at most so many.

    Returns:
        int64[N] queries, int64[N] classes, float32[N] scores; best first.
    """
    likely = logits.float().softmax(-1)[:, :-1]
    scores, pairs = likely.flatten().topk(min(num, likely.numel()))
    rows, labels = pairs // likely.shape[1], pairs % likely.shape[1]
    inside = masks > 0
    quality = (masks.sigmoid() * inside).flatten(1).sum(dim=1) / (inside.flatten(1).sum(dim=1) + 1e-6)
    scores, order = (scores * quality[rows]).sort(descending=True, stable=True)
    return rows[order], labels[order], scores


def _truths(targets: Sequence[BoxTarget], shown: Shown | None) -> list[MaskTruth]:
    if shown is None:
        return [truth_of_objects(target) for target in targets]
    height, width = shown.padded_hw
    shares = [(w / width, h / height) for h, w in shown.sizes_hw]
    return [truth_of_objects(target, share) for target, share in zip(targets, shares, strict=True)]


def _padded_hw(output: MaskOutput, sizes_hw: Sequence[tuple[int, int]]) -> tuple[int, int]:
    if output.shown is not None:
        return output.shown.padded_hw
    return max(h for h, _ in sizes_hw), max(w for _, w in sizes_hw)


def _in_image(masks: Tensor, size_hw: tuple[int, int], padded_hw: tuple[int, int]) -> Tensor:
    """The cells of float[Q, h, w] that begin in the image."""
    h, w = (-(-side * cells // whole) for side, cells, whole in zip(size_hw, masks.shape[1:], padded_hw, strict=True))
    return masks[:, :h, :w]


def _hulls(masks: Tensor, padded_hw: tuple[int, int], size_hw: tuple[int, int]) -> Tensor:
    """float[N, 4]: what encloses the pixels where float[N, h, w] is above 0; a mask of nothing has an empty box."""
    inside = resized(masks[None], padded_hw)[0, :, : size_hw[0], : size_hw[1]] > 0
    edges = []
    for axis in (1, 2):  # columns, then rows
        there = inside.any(dim=axis).float()  # [N, W or H]
        first, last = there.argmax(dim=1), there.shape[1] - there.flip(1).argmax(dim=1)
        edges.append((first, torch.where(there.any(dim=1), last, first)))
    (x0, x1), (y0, y1) = edges
    return torch.stack([x0, y0, x1, y1], dim=1).float()

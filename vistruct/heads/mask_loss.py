"""What queries that say masks learn from: each object is given to one query, and its mask is compared there.

Source: Cheng et al., "Masked-attention Mask Transformer", arXiv:2112.01527, section 3.2.3; weights, costs and points
    are the published ones. The matching is `set_matching`.
Differs: the truth of every image of a batch is used (ViSFT's criterion looks at the first alone); terms are sums over
    units that the truth says; pixels that do not count (crowds, ignored ones) weigh nothing in cost and loss, and a
    query that stands for nothing and lies mostly there learns no class; objects beyond the number of queries are found
    by none, counted (`unmatched`), and are no part of the units either.
Shapes: B images, L layers, Q queries, M objects of an image, P points, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import IGNORED, BoxTarget, HeadLoss, Ratio
from vistruct.heads.boxes import add_images
from vistruct.heads.mask_points import Draw, at_points, drawn_for, least_certain, truth_at_points
from vistruct.heads.masked_decoder import Said
from vistruct.heads.matching import CROWD_SHARE
from vistruct.heads.set_matching import assign, class_cost, class_goals, class_loss, class_units

TERMS = ("class", "mask", "dice")


@dataclass(frozen=True, kw_only=True)
class MaskTruth:
    """The objects of one image that have a mask, and which pixels count."""

    labels: Tensor  # int64[M]
    masks: Tensor  # bool or float[M, H, W] in [0, 1]
    counts: Tensor | None  # bool[H, W]; None: every pixel of the image does
    share_xy: tuple[float, float]  # of the padded width and height that the image takes
    name: Tensor  # tells this image's objects from those of others: what is drawn for them follows from it


def truth_of_objects(target: BoxTarget, share_xy: tuple[float, float] = (1.0, 1.0)) -> MaskTruth:
    """Objects annotated as such; where crowds, ignored ones and those without a mask are, nothing counts."""
    if target.masks is None:
        raise ValueError("the target of a head with masks has no masks")
    is_drawn = target.masks.flatten(1).any(dim=1) if target.masks.numel() else target.is_single & False
    used = target.is_single & is_drawn
    counts = None
    if not used.all():
        counts = ~(target.masks[~used] > 0).any(dim=0)
        for x0, y0, x1, y1 in target.boxes_xyxy[~is_drawn].round().int().tolist():
            counts[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = False
        counts |= (target.masks[used] > 0).any(dim=0)
    boxes = target.boxes_xyxy[used]
    return MaskTruth(labels=target.labels[used], masks=target.masks[used], counts=counts, share_xy=share_xy, name=boxes)


def truth_of_map(label_map: Tensor) -> MaskTruth:
    """Every class of int16[H, W] that is there is one object; where it is IGNORED nothing counts."""
    counts = label_map != IGNORED
    pixels = label_map[counts].long().bincount()  # by class
    labels = pixels.nonzero().squeeze(1)
    height, width = counts.shape
    down, right = (1 + int(counts.any(dim=axis).nonzero().max()) if len(labels) else 0 for axis in (1, 0))
    return MaskTruth(
        labels=labels,
        masks=label_map == labels[:, None, None],
        counts=None if counts[:down, :right].all() and len(labels) else counts,
        share_xy=(right / width, down / height),
        name=pixels,
    )


class MaskLoss(Part):
    """Terms `class`, `mask` and `dice`, of all layers alike, weighted."""

    class_weight: float = Field(2.0, ge=0)  # of the loss and of the cost alike
    mask_weight: float = Field(5.0, ge=0)
    dice_weight: float = Field(5.0, ge=0)
    no_object: float = Field(0.1, gt=0)  # weight of queries that stand for nothing, in `class`
    points: int = Field(12544, gt=0)  # of each mask, in cost and loss
    oversample: float = Field(3.0, ge=1)  # times as many are drawn
    importance: float = Field(0.75, ge=0, le=1)  # part of the points that are the least certain of these

    def __call__(self, said: Said, truths: Sequence[MaskTruth], draw: Draw | None = None) -> HeadLoss:
        """Sums over images, layers and queries or objects.

        Args:
            truths: of each image.
            draw: where points come from; None: from the step and the objects.
        """
        draw = drawn_for([truth.name for truth in truths]) if draw is None else draw
        with torch.autocast(said.logits[0].device.type, enabled=False):
            pairs = assign([self.costs(said, i, truth, draw) for i, truth in enumerate(truths)])
            parts = [
                [self._class_loss(said, i, truth, *pair), *self._mask_losses(said, i, truth, *pair, draw)]
                for i, (truth, pair) in enumerate(zip(truths, pairs, strict=True))
            ]
        queries, objects = said.logits[0].shape[1], [len(truth.labels) for truth in truths]
        unmatched = Ratio(total=sum(max(0, number - queries) for number in objects), count=sum(objects))
        return HeadLoss(terms=add_images(parts, TERMS), metrics={"unmatched": unmatched})

    def units(self, truths: Sequence[MaskTruth], queries: int) -> dict[str, float]:
        """Weights of the queries, and objects that a query can stand for."""
        objects = [min(queries, len(truth.labels)) for truth in truths]
        matched = float(sum(objects))
        return {"class": class_units(objects, queries, self.no_object), "mask": matched, "dice": matched}

    @torch.no_grad()
    def costs(self, said: Said, i: int, truth: MaskTruth, draw: Draw) -> Tensor:
        """float[L, Q, M] of image `i`."""
        logits = torch.stack([one[i] for one in said.logits]).float()
        found = self.class_weight * class_cost(logits, truth.labels)
        if not len(truth.labels):
            return found
        places = [draw(i, layer, "match", 1, self.points) for layer in range(len(logits))]
        points = torch.cat(places) * logits.new_tensor(truth.share_xy)  # [L, P, 2]
        each = [at_points(one[i][None].float(), at[None])[0] for one, at in zip(said.masks, points, strict=True)]
        seen = torch.stack(each)  # [L, Q, P]
        true, counts = _truth_at(truth, torch.arange(len(truth.labels), device=logits.device), points)
        seen_sum = F.softplus(seen) @ counts[..., None]  # [L, Q, 1]
        number = counts.sum(dim=1).clamp(min=1)[:, None, None]
        entropy = (seen_sum - seen @ true.transpose(1, 2)) / number  # of each point: softplus(x) - x t
        shown = seen.sigmoid() * counts[:, None]
        overlap = 2 * shown @ true.transpose(1, 2) + 1
        dice = 1 - overlap / (shown.sum(dim=2)[:, :, None] + true.sum(dim=2)[:, None] + 1)
        return found + self.mask_weight * entropy + self.dice_weight * dice

    def _class_loss(self, said: Said, i: int, truth: MaskTruth, rows: Tensor, columns: Tensor) -> Tensor:
        """float[] of queries int64[L, N] and their objects, and of all the others, which stand for none."""
        logits = torch.stack([one[i] for one in said.logits]).float()  # [L, Q, K + 1]
        goals = class_goals(logits, rows, truth.labels[columns])
        losses = self.class_weight * class_loss(logits, goals, self.no_object)
        if truth.counts is None:
            return losses.sum()
        return losses[(goals < logits.shape[-1] - 1) | ~_excused(said, i, truth.counts)].sum()

    def _mask_losses(
        self, said: Said, i: int, truth: MaskTruth, rows: Tensor, columns: Tensor, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """Of queries int64[L, N] and their objects: cross-entropies and dice losses float[], weighted, added up."""
        if not rows.numel():
            nothing = torch.stack([one[i].float().mean() for one in said.masks]).sum() * 0
            return nothing, nothing  # the layers stay part of the graph
        chosen = torch.cat([one[i][row] for one, row in zip(said.masks, rows, strict=True)]).float()[:, None]
        with torch.no_grad():
            points = self.loss_points(chosen, truth, i, len(rows), draw)
            counts = torch.ones_like(points[..., 0])
            true = truth_at_points(truth.masks, columns.flatten(), points)  # [L * N, P]
            if truth.counts is not None:
                counts = truth_at_points(truth.counts[None], torch.zeros_like(columns.flatten()), points).round()
                true = true * counts
        seen = at_points(chosen, points)[:, 0]
        entropy = F.binary_cross_entropy_with_logits(seen, true, counts, reduction="none").sum(dim=1)
        shown = seen.sigmoid() * counts
        dice = 1 - (2 * (shown * true).sum(dim=1) + 1) / (shown.sum(dim=1) + true.sum(dim=1) + 1)
        entropy = entropy / counts.sum(dim=1).clamp(min=1)
        return self.mask_weight * entropy.sum(), self.dice_weight * dice.sum()

    def loss_points(self, masks: Tensor, truth: MaskTruth, i: int, layers: int, draw: Draw) -> Tensor:
        """float[L * N, P, 2]: where masks float[L * N, 1, h, w] are least certain, and some anywhere."""
        each, certain = len(masks) // layers, int(self.importance * self.points)
        share = masks.new_tensor(truth.share_xy)
        many = [draw(i, layer, "oversampled", each, int(self.points * self.oversample)) for layer in range(layers)]
        rest = [draw(i, layer, "rest", each, self.points - certain) for layer in range(layers)]
        places = torch.cat(many) * share
        kept = least_certain(at_points(masks, places)[:, 0], places, certain)
        return torch.cat([kept, torch.cat(rest) * share], dim=1)


def _truth_at(truth: MaskTruth, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Masks float32[L, M, P] at points float[L, P, 2], and float32[L, P], 0 where they do not count."""
    layers, number, _ = points.shape
    flat = points.flatten(0, 1)[None]  # [1, L * P, 2]
    true = truth_at_points(truth.masks, rows, flat)
    true = true.unflatten(1, (layers, number)).transpose(0, 1)
    if truth.counts is None:
        return true, torch.ones_like(points[..., 0])
    counts = truth_at_points(truth.counts[None], rows[:1] * 0, flat).view(layers, number).round()
    return true * counts[:, None], counts


@torch.no_grad()
def _excused(said: Said, i: int, counts: Tensor) -> Tensor:
    """bool[L, Q]: whose mask lies mostly where bool[H, W] does not count, so that nobody knows whether it is right."""
    masks = torch.stack([one[i] for one in said.masks]) > 0  # [L, Q, h, w]
    outside = ~F.adaptive_max_pool2d(counts[None].float(), masks.shape[2:])[0].bool()
    size, beyond = masks.flatten(2).sum(dim=2), (masks & outside).flatten(2).sum(dim=2)
    return beyond > CROWD_SHARE * size

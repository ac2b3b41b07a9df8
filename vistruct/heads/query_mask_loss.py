"""What masks of queries learn from: focal and dice loss over the pixels that show the image, assigned within phrases.

Source: as VT-PLUG (REF-VLM) has them: those of MaskFormer, arXiv:2107.06278, section 3.3, with its weights.
Differs: the assignment looks at masks shrunk by averaging (published: the nearest pixel, which loses small objects)
    and leaves padding out as the loss does; how well a mask fits is learned as well (`quality`).
Shapes: N queries, H x W pixels of the truth, h x w cells of what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes, sigmoid_focal_loss

from vistruct.config import Part
from vistruct.contracts import BoxTarget, Detections, HeadLoss, Ratio
from vistruct.heads.conv_norm import resized
from vistruct.heads.query_layers import Asked


@dataclass(frozen=True, kw_only=True)
class MasksDrawn:
    """A mask for each query."""

    asked: Asked
    logits: Tensor  # float32[N, h, w], over the padded picture
    quality: Tensor  # float32[N], logits of how well each is thought to fit


class MaskDrawing(Part):
    """Weights, of costs and losses alike."""

    mask_weight: float = Field(20.0, ge=0)
    dice_weight: float = Field(1.0, ge=0)
    quality_weight: float = Field(0.5, ge=0)  # of the IoU that each mask is thought to have
    alpha: float = Field(
        0.25, ge=0, le=1
    )  # of the focal loss: weight of pixels of the object, the others have the rest
    gamma: float = Field(2.0, ge=0)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms."""
        return ("mask", "dice", "quality")

    def loss(self, output: MasksDrawn, targets: Sequence[BoxTarget], use_groups: bool) -> HeadLoss:
        """Sums over objects of losses that are means over an object's pixels.

        Returns:
            Its metrics: `iou`, that of the masks; `cut`, the part of the objects beyond the slots.
        """
        true, shows = true_masks(output, targets)
        order = output.asked.order(lambda span: self.cost(output, true[span], span), use_groups, true.device)
        true, logits = true[order], resized(output.logits[:, None], (true.shape[1], true.shape[2]))[:, 0]
        pixels = shows.flatten(1).sum(dim=1).clamp(min=1)
        focal = sigmoid_focal_loss(logits, true, self.alpha, self.gamma) * shows
        shown = logits.sigmoid() * shows
        both, either = (shown * true).flatten(1).sum(dim=1), (shown + true).flatten(1).sum(dim=1)
        with torch.no_grad():
            found, is_there = (logits > 0) & shows, true > 0.5
            overlap, union = ((one & shows).flatten(1).sum(1) for one in (found & is_there, found | is_there))
            iou = torch.where(union > 0, overlap / union.clamp(min=1), 1.0)
        quality = F.binary_cross_entropy_with_logits(output.quality, iou, reduction="sum")
        terms = {
            "mask": self.mask_weight * (focal.flatten(1).sum(dim=1) / pixels).sum(),
            "dice": self.dice_weight * (1 - (2 * both + 1) / (either + 1)).sum(),
            "quality": self.quality_weight * quality,
        }
        return HeadLoss(terms=terms, metrics={"iou": Ratio(total=iou.sum(), count=len(iou)), "cut": output.asked.share})

    @torch.no_grad()
    def cost(self, output: MasksDrawn, true: Tensor, span: slice) -> Tensor:
        """float[n, n]: what it costs that the queries of a group stand for its masks float[n, H, W]."""
        logits, goals, shows = at_drawn(output, true, span)
        shown, number = logits.sigmoid() * shows, shows.sum(dim=1, keepdim=True).clamp(min=1)
        yes = self.alpha * (1 - shown) ** self.gamma * F.softplus(-logits) * shows
        no = (1 - self.alpha) * shown**self.gamma * F.softplus(logits) * shows
        focal = (yes @ goals.T + no @ (1 - goals).T) / number
        dice = 1 - (2 * shown @ goals.T + 1) / (shown.sum(dim=1)[:, None] + goals.sum(dim=1) + 1)
        return self.mask_weight * focal + self.dice_weight * dice

    def decode(self, output: MasksDrawn, padded_hw: tuple[int, int]) -> list[Detections]:
        """Masks as probabilities at the drawing's resolution, and the boxes around what is more likely than not."""
        masks = probabilities(output)
        height, width = masks.shape[1:]
        boxes = masks.new_zeros(len(masks), 4)
        is_drawn = (masks > 0.5).flatten(1).any(dim=1)
        scale = boxes.new_tensor([padded_hw[1] / width, padded_hw[0] / height] * 2)
        boxes[is_drawn] = (masks_to_boxes(masks[is_drawn] > 0.5) + boxes.new_tensor([0, 0, 1, 1])) * scale
        return detections(output, output.asked.clipped(boxes, padded_hw), masks)


def true_masks(output: MasksDrawn, targets: Sequence[BoxTarget]) -> tuple[Tensor, Tensor]:
    """float32[N, H, W] of the queries' objects, row by row, zero at padding, and bool[N, H, W] where image is shown.

    Raises:
        ValueError: objects without masks.
    """
    asked = output.asked
    kept = [target for target in asked.truths(targets) if len(target)]
    if any(target.masks is None for target in kept):
        raise ValueError("the target of a decoder of masks has no masks")
    size_hw = kept[0].masks.shape[1:] if kept else output.logits.shape[1:]
    masks = [target.masks.float() for target in kept] or [output.logits.new_zeros(0, *size_hw)]
    shows = shown_at(output, (size_hw[0], size_hw[1]))
    return torch.cat(masks) * shows, shows


def shown_at(output: MasksDrawn, size_hw: tuple[int, int]) -> Tensor:
    """bool[N, h, w], true where the picture of each query shows its image."""
    device = output.logits.device
    return ~output.asked.shown.padding(size_hw, device)[output.asked.rows.to(device)]


def at_drawn(output: MasksDrawn, true: Tensor, span: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Of a group: logits float[n, h * w], its masks float[n, H, W] shrunk to that, and where there is image."""
    logits = output.logits[span]
    size_hw = (logits.shape[1], logits.shape[2])
    shows = shown_at(output, size_hw)[span].flatten(1).float()
    return logits.flatten(1), F.interpolate(true[:, None], size_hw, mode="area").flatten(1), shows


def probabilities(output: MasksDrawn) -> Tensor:
    """float32[N, h, w], zero at padding."""
    size_hw = (output.logits.shape[1], output.logits.shape[2])
    return output.logits.sigmoid() * shown_at(output, size_hw)


def detections(output: MasksDrawn, boxes: Tensor, masks: Tensor) -> list[Detections]:
    """Of each row, from float[N, 4] in pixels and float[N, h, w]."""
    asked, scores = output.asked, output.quality.sigmoid()
    parts = zip(*(asked.split(one) for one in (boxes, scores, masks)), strict=True)
    return [
        Detections(boxes_xyxy=box, scores=score, masks=mask, labels=torch.zeros_like(score, dtype=torch.int64))
        for box, score, mask in parts
    ]

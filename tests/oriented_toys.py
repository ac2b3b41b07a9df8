"""Oriented truths and one small picture of them, for the tests of the oriented heads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from whole_loss import head_loss

from vistruct.contracts import BoxTarget, FeatureSpec
from vistruct.ops.oriented import cxcywha_to_xyxy, normalize_le90
from vistruct.ops.oriented_iou import oriented_iou

SIZE = 128


def oriented_target(boxes: Tensor, labels: Tensor | None = None, is_crowd: Tensor | None = None) -> BoxTarget:
    """The truth of an image with these boxes float[N, 5]."""
    none = torch.zeros(len(boxes), dtype=torch.int64)
    return BoxTarget(
        boxes_xyxy=cxcywha_to_xyxy(boxes),
        labels=none if labels is None else labels,
        is_crowd=none.bool() if is_crowd is None else is_crowd,
        boxes_cxcywha=boxes,
    )


def random_target(num: int, seed: int, num_classes: int = 2, num_crowd: int = 0, size: int = SIZE) -> BoxTarget:
    """`num` objects of 10 to 60 px, at any angle, some of them over the border."""
    draw = torch.rand(num, 5, generator=torch.Generator().manual_seed(seed))
    scale = torch.tensor([size, size, 50, 30, math.pi])
    boxes = normalize_le90(draw * scale + torch.tensor([0, 0, 10, 8, -math.pi / 2]))
    labels = torch.randint(num_classes, (num,), generator=torch.Generator().manual_seed(seed))
    return oriented_target(boxes, labels, torch.arange(num) < num_crowd)


def painted(boxes: Tensor, labels: Tensor, size: int) -> Tensor:
    """float[1, 3, size, size]: each box filled in the channel of its label, on noise."""
    image = 0.1 * torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    for (cx, cy, w, h, angle), label in zip(boxes, labels, strict=True):
        along = angle.cos() * (x - cx) + angle.sin() * (y - cy)
        across = angle.cos() * (y - cy) - angle.sin() * (x - cx)
        image[0, label] += 1.5 * ((along.abs() < w / 2) & (across.abs() < h / 2))
    return image


class TwoLevels(nn.Module):
    """float[B, 3, H, W] -> two levels of 24 channels, strides 8 and 16."""

    specs = (FeatureSpec(channels=24, stride=8), FeatureSpec(channels=24, stride=16))

    def __init__(self) -> None:
        super().__init__()

        def layer(inputs: int, kernel: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, 24, kernel, stride, kernel // 2), nn.GroupNorm(4, 24), nn.ReLU()]

        self.fine = nn.Sequential(*layer(3, 7, 4), *layer(24, 3, 2), *layer(24, 3, 1))
        self.coarse = nn.Sequential(*layer(24, 3, 2))

    def forward(self, image: Tensor) -> list[Tensor]:
        fine = self.fine(image)
        return [fine, self.coarse(fine)]


def learn_and_find(build: Any, steps: int, lr: float) -> tuple[list[float], float]:
    """Train a head for two classes on one picture of four objects, and look at the picture again.

    Returns:
        Of each object the IoU of the best-scored detection of its class that overlaps it at all, and by how much the
        worst of these four scores is better than the best of all others: where the IoUs are above 0.5 and this is
        above 0, AP50 is 1.
    """
    boxes = torch.tensor(
        [[30.0, 28, 40, 14, 0.6], [68, 64, 36, 12, -0.9], [24, 72, 26, 18, -1.55], [72, 22, 24, 12, 1.3]]
    )
    labels = torch.tensor([0, 1, 1, 0])
    image = painted(boxes, labels, 96)
    torch.manual_seed(0)
    backbone = TwoLevels()
    head = build(backbone.specs)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=lr)
    for step in range(steps):
        torch.manual_seed(step)  # as the engine does
        optimizer.zero_grad()
        loss = head_loss(head, head(backbone(image)), [oriented_target(boxes, labels)])
        (loss.total / max(1.0, loss.count)).backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - (step + 1) / steps))
    with torch.no_grad():
        (found,) = head.decode(head(backbone(image)), [(96, 96)])
    iou = oriented_iou(boxes, found.boxes_cxcywha) * (labels[:, None] == found.labels)
    first = (iou > 0.1).int().argmax(dim=1)  # detections come best first
    is_other = torch.ones(len(found.scores), dtype=torch.bool)
    is_other[first] = False
    best_other = max([0.0, *found.scores[is_other].tolist()])
    return iou[torch.arange(4), first].tolist(), float(found.scores[first].min()) - best_other

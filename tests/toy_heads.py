"""What the tests of horizontal heads share: small maps, truths about them, and a few dozen steps of training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.ops import box_iou
from whole_loss import head_loss

from vistruct.contracts import BoxTarget, Detections, FeatureSpec

SIZE = 128
STRIDES = (8, 16, 32)
CHANNELS = 16


def specs(strides: Iterable[int] = STRIDES) -> tuple[FeatureSpec, ...]:
    return tuple(FeatureSpec(channels=CHANNELS, stride=stride) for stride in strides)


def maps(batch: int, strides: Iterable[int] = STRIDES, size: int = SIZE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(batch, CHANNELS, size // s, size // s, generator=generator) for s in strides]


def shaken(head: Any, by: float) -> Any:
    """The head with weights that say something else at every place."""
    generator = torch.Generator().manual_seed(4)
    for parameter in head.parameters():
        parameter.data += by * torch.randn(parameter.shape, generator=generator)
    return head


def rectangles(boxes: Tensor, size: int = SIZE) -> Tensor:
    """bool[N, size, size]: the pixels whose centres lie in each box."""
    at = torch.arange(size) + 0.5
    across = (at > boxes[:, :1]) & (at < boxes[:, 2:3])  # [N, W]
    down = (at > boxes[:, 1:2]) & (at < boxes[:, 3:])
    return down[:, :, None] & across[:, None, :]


def truth(boxes: Tensor, labels: Tensor | None = None, is_crowd: Tensor | None = None) -> BoxTarget:
    """A target whose masks fill the boxes."""
    return BoxTarget(
        boxes_xyxy=boxes,
        labels=torch.zeros(len(boxes), dtype=torch.int64) if labels is None else labels,
        is_crowd=torch.zeros(len(boxes), dtype=torch.bool) if is_crowd is None else is_crowd,
        masks=rectangles(boxes),
    )


def target(num: int, seed: int, num_crowd: int = 0, num_classes: int = 2) -> BoxTarget:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(num, 2, generator=generator) * (SIZE - 40)
    boxes = torch.cat([low, low + 15 + torch.rand(num, 2, generator=generator) * 50], dim=1).clamp(max=SIZE)
    return truth(boxes, torch.randint(num_classes, (num,), generator=generator), torch.arange(num) < num_crowd)


class Given(nn.Module):
    """A backbone that has its maps already."""

    out_channels = CHANNELS

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, image: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(i), m) for i, m in enumerate(self.maps))


def learn(head: Any, features: list[Tensor], targets: list[BoxTarget], steps: int, lr: float) -> list[float]:
    """Train the head alone; the loss of every step."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = head_loss(head, head(features), targets)
        (loss.total / max(1.0, loss.count)).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.total.item() / max(1.0, loss.count))
    return losses


def average_precision(found: Detections, truth: BoxTarget, iou: float) -> float:
    """Area under the precision-recall curve of one image, over all its classes together."""
    free = torch.ones(len(truth.labels), dtype=torch.bool)
    area, hits = 0.0, 0
    for rank, (box, label) in enumerate(zip(found.boxes_xyxy, found.labels, strict=True), start=1):
        overlap = torch.where(free & (truth.labels == label), box_iou(box[None], truth.boxes_xyxy)[0], 0.0)
        if overlap.max() >= iou:
            free[overlap.argmax()] = False
            hits += 1
            area += hits / rank / len(free)
    return area


class LargestTensor(TorchDispatchMode):
    """Watches how many numbers the largest tensor holds that any operation makes."""

    num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_contiguous()]
        self.num = max([self.num, *sizes])
        return result

"""A window of an annotated image as a picture of its own: what is in it, and both under the eight symmetries."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vistruct.contracts import Record, Window
from vistruct.data.instructions.scene import CROWD, Scene

WHOLE, GONE = (
    0.5,
    0.1,
)  # shares of an object in the window: there from the first on, not there up to the second


def view(record: Record, window: Window, names: tuple[str, ...], turn: int = 0) -> Scene:
    """The scene of one window of a record, turned like its picture (see `turn_image`)."""
    x1, y1, x2, y2 = window
    boxes = record.objects.boxes_xyxy.astype(np.float64) - [x1, y1, x1, y1]
    clipped = np.clip(boxes, 0, [x2 - x1, y2 - y1] * 2)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    share = np.prod(np.clip(clipped[:, 2:] - clipped[:, :2], 0, None), axis=1) / np.maximum(area, 1e-9)
    whole = (share >= WHOLE) & ~record.objects.is_crowd
    doubtful = np.where(record.objects.is_crowd, share > 0, (share > GONE) & (share < WHOLE))
    hw = (y2 - y1, x2 - x1)
    return Scene(
        size_hw=(hw[1], hw[0]) if turn % 2 else hw,
        boxes_xyxy=turn_boxes(clipped[whole], hw, turn),
        labels=record.objects.labels[whole],
        names=names,
        doubtful_xyxy=turn_boxes(clipped[doubtful], hw, turn),
        doubtful_labels=record.objects.labels[doubtful],
        doubtful_most=np.where(record.objects.is_crowd[doubtful], CROWD, 1),
    )


def turn_image(image: Tensor, turn: int) -> Tensor:
    """uint8[3, H, W] under one of the eight symmetries of the square: quarter turns clockwise, from 4 on mirrored."""
    if turn >= 4:
        image = F.horizontal_flip(image)
    return image.rot90(-(turn % 4), (1, 2))


def turn_boxes(boxes: np.ndarray, hw: tuple[int, int], turn: int) -> np.ndarray:
    """float[N, 4] xyxy under the same symmetry as `turn_image`."""
    height, width = hw
    x1, y1, x2, y2 = boxes.T
    if turn >= 4:
        x1, x2 = width - x2, width - x1
    for _ in range(turn % 4):  # clockwise: (x, y) -> (height - y, x)
        x1, y1, x2, y2 = height - y2, x1, height - y1, x2
        height, width = width, height
    return np.stack([x1, y1, x2, y2], axis=1)

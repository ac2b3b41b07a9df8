"""Other conventions: round trips, ranges, and the corners that OpenCV and torchvision make of what is written."""

from __future__ import annotations

import math

import cv2
import pytest
import torch
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from vistruct.ops import conventions
from vistruct.ops.conventions import DETECTRON2, OPENCV, OPENCV_OLD, TORCHVISION, cxcywha_from, cxcywha_to
from vistruct.ops.oriented import cxcywha_to_quads, normalize_le90

NAMES = ["LE90", "LE135", "OC", "OPENCV", "OPENCV_OLD", "DETECTRON2", "TORCHVISION"]


def boxes_with_edges(dtype):
    draw = torch.rand(500, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = draw * torch.tensor([100.0, 100, 60, 60, 20]) + torch.tensor([0.0, 0, 1, 1, -10])
    edges = torch.tensor([[9.0, 8, 7, 6, k * math.pi / 8] for k in range(-12, 13)], dtype=torch.float64)
    hairs = torch.cat([edges + sign * torch.tensor([0, 0, 0, 0, 1e-9]) for sign in (-1, 1)])
    square = torch.tensor([[9.0, 8, 7, 7, k * math.pi / 8] for k in range(-12, 13)], dtype=torch.float64)
    return torch.cat([boxes, edges, hairs, square]).to(dtype)


def corner_distance(a, b):
    apart = (a[:, :, None] - b[:, None]).norm(dim=-1)
    return torch.maximum(apart.amin(1).amax(1), apart.amin(2).amax(1)).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_box_survives_every_convention_and_back(name, dtype):
    convention, boxes = getattr(conventions, name), normalize_le90(boxes_with_edges(dtype))
    back = cxcywha_from(cxcywha_to(boxes, convention), convention)
    px = 1e-3 if dtype == torch.float32 else 1e-9
    assert corner_distance(cxcywha_to_quads(back), cxcywha_to_quads(boxes)) < px
    clear = boxes[:, 2] > boxes[:, 3]
    torch.testing.assert_close(back[clear, :4], boxes[clear, :4], atol=px, rtol=0)
    assert torch.sin(back[clear, 4] - boxes[clear, 4]).abs().max() < (1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "low", "high", "has_low"),
    [
        ("LE90", -math.pi / 2, math.pi / 2, True), ("LE135", -math.pi / 4, 3 * math.pi / 4, True),
        ("OC", 0, math.pi / 2, False), ("OPENCV", 0, 90, False), ("OPENCV_OLD", -90, 0, True),
        ("DETECTRON2", -90, 90, False),
    ],
)  # fmt: skip
def test_written_angles_are_within_the_range(name, low, high, has_low, dtype):
    written = cxcywha_to(boxes_with_edges(dtype), getattr(conventions, name))
    low, high = torch.tensor(low, dtype=dtype), torch.tensor(high, dtype=dtype)
    angle = written[:, 4]
    assert ((angle >= low) & (angle < high) if has_low else (angle > low) & (angle <= high)).all()
    if name in ("LE90", "LE135", "DETECTRON2"):
        assert (written[:, 2] >= written[:, 3]).all()


def test_horizontal_boxes_are_written_without_a_remainder():
    flat, tall = torch.tensor([[5.0, 5, 4, 2, 0]]), torch.tensor([[5.0, 5, 4, 2, -math.pi / 2]])
    assert cxcywha_to(flat, OPENCV).tolist() == [[5, 5, 2, 4, 90]]
    assert cxcywha_to(tall, OPENCV).tolist() == [[5, 5, 4, 2, 90]]
    assert cxcywha_to(flat, OPENCV_OLD).tolist() == [[5, 5, 2, 4, -90]]
    assert cxcywha_to(tall, OPENCV_OLD).tolist() == [[5, 5, 4, 2, -90]]
    assert cxcywha_to(flat, DETECTRON2).tolist() == [[5, 5, 4, 2, 0]]
    assert cxcywha_to(tall, DETECTRON2).tolist() == [[5, 5, 4, 2, 90]]


@pytest.mark.parametrize("convention", [OPENCV, OPENCV_OLD])
def test_opencv_draws_the_same_corners(convention):
    boxes = boxes_with_edges(torch.float64)
    for box, quad in zip(cxcywha_to(boxes, convention).tolist(), cxcywha_to_quads(boxes), strict=True):
        drawn = torch.from_numpy(cv2.boxPoints(((box[0], box[1]), (box[2], box[3]), box[4]))).double()
        assert corner_distance(drawn[None], quad[None]) < 1e-3


def test_opencv_s_own_rectangles_are_written_as_it_writes_them():
    convention = OPENCV_OLD if int(cv2.__version__.split(".")[0]) >= 5 else OPENCV
    boxes = boxes_with_edges(torch.float32)[:500]
    for written, quad in zip(cxcywha_to(boxes, convention), cxcywha_to_quads(boxes), strict=True):
        (cx, cy), (w, h), angle = cv2.minAreaRect(quad.numpy())
        if abs(w - h) > 0.1 and -89.9 < angle < 89.9 and abs(angle) > 0.1:
            assert written.tolist() == pytest.approx([cx, cy, w, h, angle], abs=0.02)
        assert (
            corner_distance(
                cxcywha_to_quads(cxcywha_from(torch.tensor([[cx, cy, w, h, angle]]), convention)), quad[None]
            )
            < 0.01
        )


def test_torchvision_makes_the_same_corners_of_its_boxes():
    boxes = boxes_with_edges(torch.float64)
    written = cxcywha_to(boxes, TORCHVISION)
    quads = cxcywha_to_quads(boxes)
    by_ops = box_convert(written, "cxcywhr", "xyxyxyxy").view(-1, 4, 2)
    assert corner_distance(by_ops, quads) < 1e-9
    theirs = BoundingBoxes(written, format=BoundingBoxFormat.CXCYWHR, canvas_size=(300, 300))  # ty: ignore
    by_v2 = functional.convert_bounding_box_format(theirs, new_format=BoundingBoxFormat.XYXYXYXY)
    assert corner_distance(by_v2.as_subclass(torch.Tensor).view(-1, 4, 2), quads) < 1e-9


def test_a_positive_angle_turns_clockwise_here_and_the_other_way_in_detectron2():
    ours = torch.tensor([[0.0, 0, 10, 2, math.radians(30)]])
    right_end = cxcywha_to_quads(ours)[0, 1:3].mean(dim=0)
    assert right_end[1] > 0  # y grows downwards, so the right end has sunk
    torch.testing.assert_close(cxcywha_to(ours, DETECTRON2), torch.tensor([[0.0, 0, 10, 2, -30]]))


def test_nothing_to_convert_stays_nothing():
    assert cxcywha_to(torch.zeros(0, 5), OPENCV).shape == cxcywha_from(torch.zeros(0, 5), OPENCV).shape == (0, 5)

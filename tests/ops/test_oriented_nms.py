"""Oriented NMS: against the golden keep-sets and a plain greedy loop over shapely's IoU."""

from __future__ import annotations

import math

import pytest
import shapely
import torch

from vistruct.ops.oriented import cxcywha_to_quads
from vistruct.ops.oriented_nms import oriented_batched_nms, oriented_nms


def random_boxes(count, extent, seed=0):
    draw = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed))
    return draw * torch.tensor([extent, extent, 50, 30, 6]) + torch.tensor([0.0, 0, 4, 4, -3])


def greedy(boxes, scores, iou, labels=None):
    """The definition, one box at a time."""
    polygons = shapely.polygons(cxcywha_to_quads(boxes.double()).numpy())
    area = shapely.area(polygons)
    alive = [int(i) for i in torch.argsort(scores, descending=True, stable=True)]
    kept = []
    while alive:
        best, *rest = alive
        kept.append(best)
        shared = shapely.area(shapely.intersection(polygons[best], polygons[rest]))
        overlap = shared / (area[best] + area[rest] - shared)
        alive = [
            i
            for i, value in zip(rest, overlap, strict=True)
            if value <= iou or (labels is not None and labels[i] != labels[best])
        ]
    return kept


def test_golden_boxes_are_kept_as_in_the_original(golden):
    cases = golden("obb/iou_nms.safetensors")
    boxes, scores, labels = cases["nms_boxes"], cases["nms_scores"], cases["nms_labels"]
    assert oriented_nms(boxes, scores, 0.1).tolist() == cases["nms_keep_iou0_1"].tolist()
    assert oriented_nms(boxes, scores, 0.5).tolist() == cases["nms_keep_iou0_5"].tolist()
    assert oriented_batched_nms(boxes, scores, labels, 0.1).tolist() == cases["nms_keep_classaware_iou0_1"].tolist()


@pytest.mark.parametrize("extent", [60, 300, 1_500])  # everything overlaps ... hardly anything does
@pytest.mark.parametrize("iou", [0.1, 0.5])
def test_kept_boxes_are_those_of_the_plain_greedy_loop(extent, iou):
    boxes = random_boxes(200, extent, seed=extent)
    scores = torch.rand(200, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, 5, (200,), generator=torch.Generator().manual_seed(2))
    kept = oriented_nms(boxes, scores, iou)
    assert kept.dtype == torch.int64
    assert kept.tolist() == greedy(boxes, scores, iou)
    assert oriented_batched_nms(boxes, scores, labels, iou).tolist() == greedy(boxes, scores, iou, labels)


def test_a_chain_of_boxes_longer_than_any_block_is_settled_one_after_the_other():
    boxes = torch.tensor([[4.0 * i, 0, 10, 5, 0] for i in range(900)])  # each overlaps the next two
    scores = torch.linspace(1, 0, 900)
    assert oriented_nms(boxes, scores, 0.1).tolist() == list(range(0, 900, 3))


def test_classes_do_not_suppress_each_other_also_far_from_the_origin():
    boxes = random_boxes(50, 30) + torch.tensor([10_000.0, 10_000, 0, 0, 0])
    scores = torch.rand(50, generator=torch.Generator().manual_seed(3))
    apart = oriented_batched_nms(boxes, scores, torch.arange(50) * 1_000_000_007, 0.1)
    assert apart.tolist() == scores.argsort(descending=True).tolist()
    together = oriented_batched_nms(boxes, scores, torch.full((50,), 7), 0.1)
    assert torch.equal(together, oriented_nms(boxes, scores, 0.1))


def test_of_equal_scores_the_first_box_wins():
    boxes = torch.tensor([[10.0, 10, 8, 4, 0.2]] * 4 + [[50.0, 50, 8, 4, 0.2]] * 3)
    assert oriented_nms(boxes, torch.ones(7), 0.5).tolist() == [0, 4]
    assert oriented_batched_nms(boxes, torch.ones(7), torch.tensor([1, 0, 1, 0, 1, 1, 1]), 0.5).tolist() == [0, 1, 4]


def test_the_same_box_in_another_parameterisation_is_suppressed():
    boxes = torch.tensor([[10.0, 10, 8, 4, 0.2], [10, 10, 4, 8, 0.2 + math.pi / 2], [10, 10, 8, 4, 0.2 + math.pi]])
    assert oriented_nms(boxes, torch.tensor([0.1, 0.3, 0.2]), 0.9).tolist() == [1]


def test_an_overlap_of_exactly_the_threshold_is_kept():
    boxes = torch.tensor([[0.0, 0, 4, 2, 0], [0, 0, 4, 1, 0]])  # IoU 1/2
    assert oriented_nms(boxes, torch.tensor([1.0, 0.5]), 0.51).tolist() == [0, 1]
    assert oriented_nms(boxes, torch.tensor([1.0, 0.5]), 0.49).tolist() == [0]
    assert oriented_nms(boxes, torch.tensor([1.0, 0.5]), 1.0).tolist() == [0, 1]


def test_none_one_and_broken_boxes_go_through():
    assert oriented_nms(torch.zeros(0, 5), torch.zeros(0), 0.5).tolist() == []
    assert oriented_nms(torch.zeros(0, 5), torch.zeros(0), 0.5).dtype == torch.int64
    assert oriented_nms(torch.tensor([[1.0, 1, 4, 2, 0]]), torch.ones(1), 0.5).tolist() == [0]
    boxes = torch.tensor([[1.0, 1, 0, 2, 0], [1, 1, 4, 2, 0], [math.nan, 1, 4, 2, 0], [1, 1, 4, 2, 0]])
    assert oriented_nms(boxes, torch.tensor([0.2, math.nan, 0.9, 0.1]), 0.5).tolist() == [2, 0, 3]


def test_wrong_shapes_and_thresholds_are_refused():
    boxes, scores = torch.ones(3, 5), torch.ones(3)
    for arguments in (
        (boxes[:, :4], scores, 0.5),
        (boxes, scores[:2], 0.5),
        (boxes, scores, 1.5),
        (boxes, scores, -0.1),
    ):
        with pytest.raises(ValueError, match=r"expected|not in"):
            oriented_nms(*arguments)
    with pytest.raises(ValueError, match="labels"):
        oriented_batched_nms(boxes, scores, torch.zeros(2), 0.5)


def test_gradients_of_the_inputs_are_left_alone():
    boxes, scores = random_boxes(20, 30).requires_grad_(), torch.rand(20).requires_grad_()
    assert not oriented_nms(boxes, scores, 0.3).requires_grad

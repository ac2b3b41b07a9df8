"""Pooling against torchvision's, the choice of level against the paper's formula, and the losses by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from toy_heads import maps, specs, target

from vistruct.heads.anchors import Anchors
from vistruct.heads.roi_stage import RoiConfig, RoiSample, RoiStage, levels_of, pool_rois


def rois(num: int, seed: int, size: float = 128.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(num, 2, generator=generator) * size / 2
    return torch.cat([low, low + 1 + torch.rand(num, 2, generator=generator) ** 3 * size], dim=1)


@pytest.mark.parametrize("sampling", [0, 2])
def test_pooling_that_is_not_aligned_equals_torchvisions(sampling: int) -> None:
    strides, boxes = (4, 8, 16, 32), rois(80, 0, size=900)
    features = maps(2, strides, size=512)
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 5, sampling)
    expected = theirs({str(i): f[1:] for i, f in enumerate(features)}, [boxes], [(512, 512)])
    ours = pool_rois(features, 1, boxes, strides, 5, RoiConfig(sampling=sampling, aligned=False))
    assert len(levels_of(boxes, strides).unique()) == 4
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("strides", [(4, 8, 16), (7, 14, 28), (6, 24)])
def test_pooling_reads_where_the_object_is_whatever_the_strides(strides: tuple[int, ...]) -> None:
    size = 28 * 24
    # Each cell holds the x of its own centre in pixels.
    ramps = [((torch.arange(size // s) + 0.5) * s).expand(1, 16, size // s, -1).contiguous() for s in strides]
    boxes = torch.tensor([[100.0, 120.0, 130.0, 150.0], [50.0, 60.0, 450.0, 460.0]])
    assert levels_of(boxes, strides).tolist()[0] < levels_of(boxes, strides).tolist()[1]
    pooled = pool_rois(ramps, 0, boxes, strides, 3, RoiConfig())
    centres = torch.tensor([[105.0, 115.0, 125.0], [50 + 400 / 6, 250.0, 450 - 400 / 6]])
    torch.testing.assert_close(pooled[:, 0, 0], centres)


def test_levels_follow_the_papers_equation_at_the_papers_strides() -> None:
    boxes = rois(300, 1, size=2000)
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).double().sqrt().tolist()
    expected = [min(max(math.floor(4 + math.log2(side / 224)), 2), 5) - 2 for side in sides]
    assert set(expected) == {0, 1, 2, 3}
    assert levels_of(boxes, (4, 8, 16, 32)).tolist() == expected


def test_levels_on_a_bound_of_a_point_and_of_one_level_alone() -> None:
    sides = torch.tensor([0.0, 111.99, 112.0, 224.0, 1e6])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)
    assert levels_of(boxes, (4, 8, 16, 32)).tolist() == [0, 0, 1, 2, 3]
    assert levels_of(boxes, (4,)).tolist() == [0] * 5


def test_only_the_finest_levels_are_read() -> None:
    features, boxes = maps(1), torch.tensor([[0.0, 0.0, 5000.0, 5000.0]])
    two = pool_rois(features, 0, boxes, (8, 16, 32), 3, RoiConfig(levels=2))
    torch.testing.assert_close(two, pool_rois(features[1:2], 0, boxes, (16,), 3, RoiConfig()))


def test_no_proposals_pool_to_nothing() -> None:
    assert pool_rois(maps(1), 0, torch.zeros(0, 4), (8, 16, 32), 3, RoiConfig()).shape == (0, 16, 3, 3)


@pytest.mark.parametrize(("beta", "expected"), [(0.0, 1.5 + 0.1), (1.0, 1.0 + 0.005), (0.5, 1.25 + 0.01)])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_losses_by_hand(beta: float, expected: float, class_agnostic: bool) -> None:
    stage = RoiStage(RoiConfig(beta=beta), specs(), 2, stds=(0.1, 0.1, 0.2, 0.2), class_agnostic=class_agnostic)
    sample = RoiSample(
        rois=torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 20.0, 20.0]]),
        labels=torch.tensor([1, 2]),  # the second is background
        matched=torch.tensor([0]),
        goals=torch.tensor([[1.5, 0.1, 11.5, 10.1]]),  # 0.15 and 0.01 sides away: 1.5 and 0.1 deltas
        is_truth=torch.tensor([False, False]),
    )
    deltas = torch.zeros(2, 4 if class_agnostic else 8)
    if not class_agnostic:
        deltas[:, :4] = 7.0  # of a class that is not asked
    loss_class, loss_box = stage.loss(torch.zeros(2, 3), deltas, sample)
    assert loss_class.item() == pytest.approx(math.log(3))
    assert loss_box.item() == pytest.approx(expected / 2, rel=1e-4)  # of two samples


def test_moving_by_the_encoded_goal_reaches_the_goal() -> None:
    stage = RoiStage(RoiConfig(), specs(), 2, stds=(0.033, 0.033, 0.067, 0.067), class_agnostic=True)
    start = rois(50, 0)
    goal = start + torch.rand(50, 4, generator=torch.Generator().manual_seed(1))
    moved = stage.move(start, stage.coder.encode_single(goal, start), (500, 500))
    torch.testing.assert_close(moved[:, 0], goal, rtol=1e-4, atol=1e-3)


def test_the_objects_own_boxes_are_sampled_and_told_apart() -> None:
    stage, truth = RoiStage(RoiConfig(samples=1000, positive=1.0), specs(), 2), target(6, 0)
    sample = stage.sample(rois(30, 3), truth.boxes_xyxy, truth.labels, torch.zeros(0, 4))
    own = sample.is_truth.nonzero().squeeze(1)
    assert sorted(sample.matched[own].tolist()) == list(range(6))
    assert torch.equal(sample.rois[own], truth.boxes_xyxy[sample.matched[own]])
    assert torch.equal(sample.labels[: len(sample.matched)], truth.labels[sample.matched])
    assert (sample.labels[len(sample.matched) :] == 2).all()


def test_an_object_no_proposal_fits_takes_the_best_one_only_where_asked() -> None:
    proposals = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 4.0], [60.0, 60.0, 70.0, 70.0]])
    box, label, no_crowd = torch.tensor([[0.0, 0.0, 10.0, 30.0]]), torch.tensor([0]), torch.zeros(0, 4)  # IoU 1/3
    for fields, positives in (
        ({}, [3]),
        ({"low_quality": True}, [3]),
        ({"low_quality": True, "least_iou": 0.3}, [0, 3]),
    ):
        sample = RoiStage(RoiConfig(positive=1.0, **fields), specs(), 2).sample(proposals, box, label, no_crowd)
        own = torch.cat([proposals, box])[positives]
        assert sorted(sample.rois[: len(sample.matched)].tolist()) == sorted(own.tolist())


def test_two_objects_in_one_place_are_both_sampled_as_themselves() -> None:
    box = torch.tensor([[10.0, 10.0, 30.0, 30.0]])
    stage = RoiStage(RoiConfig(), specs(), 2)
    sample = stage.sample(torch.zeros(0, 4), box.repeat(2, 1), torch.tensor([0, 1]), torch.zeros(0, 4))
    assert sorted(sample.labels.tolist()) == [0, 1]


def test_anchors_lie_at_their_strides_where_a_level_was_rounded_up() -> None:
    features = [torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 3, 3)]  # 40 pixels at stride 8 and 16
    fine, coarse = Anchors([(8.0,), (16.0,)], (1.0,), (8, 16)).lay(features)
    centres = (coarse[:, :2] + coarse[:, 2:]) / 2
    assert centres[:, 0].reshape(3, 3)[0].tolist() == [0.0, 16.0, 32.0]
    assert centres[:, 1].reshape(3, 3)[:, 0].tolist() == [0.0, 16.0, 32.0]
    assert len(fine) == 25
    assert fine[-1].tolist() == [28.0, 28.0, 36.0, 36.0]

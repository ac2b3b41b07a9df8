"""Matching against torchvision's matcher, and sampling against its rules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from vistruct.heads.matching import BACKGROUND, UNUSED, draw_samples, ignore_crowds, match_boxes
from vistruct.ops.window_area import covered_share


def boxes(num: int, seed: int) -> Tensor:
    """On whole pixels, so that many overlaps are equal."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(20, (num, 2), generator=generator)
    return torch.cat([low, low + torch.randint(1, 12, (num, 2), generator=generator)], dim=1).float()


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("pairs", [500, 4_000_000])
@pytest.mark.parametrize(("positive", "negative"), [(0.7, 0.3), (0.5, 0.5)])
def test_matches_equal_torchvisions_matcher(
    low_quality: bool, pairs: int, positive: float, negative: float, monkeypatch
) -> None:
    monkeypatch.setattr("vistruct.heads.matching.PAIRS_AT_ONCE", pairs)
    anchors, objects = boxes(400, 0), boxes(30, 1)
    expected = Matcher(positive, negative, allow_low_quality_matches=low_quality)(box_iou(objects, anchors))
    ours = match_boxes(anchors, objects, positive_iou=positive, negative_iou=negative, low_quality=low_quality)
    assert (expected >= 0).sum() > 5
    assert torch.equal(ours, expected)


def test_an_object_whose_best_overlap_is_below_the_least_takes_no_box() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    objects = torch.tensor([[0.0, 0, 5, 5], [50, 50, 60, 56]])  # IoU 0.25 and 0.6 with their anchors
    rules = {"positive_iou": 0.7, "negative_iou": 0.3, "low_quality": True}
    assert match_boxes(anchors, objects, **rules).tolist() == [0, 1]
    assert match_boxes(anchors, objects, **rules, least_iou=0.3).tolist() == [BACKGROUND, 1]
    assert match_boxes(anchors, objects, **rules, least_iou=0.61).tolist() == [BACKGROUND, UNUSED]


def test_an_object_that_overlaps_nothing_takes_nothing() -> None:
    anchors, far = boxes(30, 0), torch.tensor([[500.0, 500, 510, 510]])
    matched = match_boxes(anchors, far, positive_iou=0.7, negative_iou=0.3, low_quality=True)
    assert (matched == BACKGROUND).all()


@pytest.mark.parametrize(("num_boxes", "num_objects"), [(0, 0), (0, 3), (5, 0)])
def test_nothing_to_match_is_background(num_boxes: int, num_objects: int) -> None:
    matched = match_boxes(
        boxes(num_boxes, 0), boxes(num_objects, 1), positive_iou=0.5, negative_iou=0.5, low_quality=True
    )
    assert matched.tolist() == [BACKGROUND] * num_boxes


def test_a_crowd_takes_only_background_out_of_use(monkeypatch) -> None:
    monkeypatch.setattr("vistruct.heads.matching.PAIRS_AT_ONCE", 70)
    anchors, crowds = boxes(200, 0), boxes(6, 1)
    matched = torch.arange(200) % 3 - 2  # unused, background, object
    inside = covered_share(anchors, crowds) > 0.5
    ignored = ignore_crowds(matched, anchors, crowds)
    assert (ignored != matched).sum() == (inside & (matched == BACKGROUND)).sum() > 2
    assert (ignored[inside & (matched == BACKGROUND)] == UNUSED).all()
    assert torch.equal(ignore_crowds(matched, anchors, crowds[:0]), matched)


@pytest.mark.parametrize(
    ("num_positive", "num_negative", "expected"),
    [(50, 50, (8, 24)), (3, 50, (3, 29)), (50, 4, (8, 4)), (0, 50, (0, 32)), (50, 0, (8, 0)), (0, 0, (0, 0))],
)
def test_samples_are_a_quarter_objects_at_most_and_filled_with_background(
    num_positive: int, num_negative: int, expected: tuple[int, int]
) -> None:
    parts = [torch.arange(num_positive), torch.full((num_negative,), BACKGROUND), torch.full((9,), UNUSED)]
    matched = torch.cat(parts)[torch.randperm(num_positive + num_negative + 9)]
    sample = draw_samples(matched, 32, 0.25)
    found = matched[sample]
    assert (int((found >= 0).sum()), int((found == BACKGROUND).sum())) == expected
    assert len(sample.unique()) == len(sample)
    assert (found[: expected[0]] >= 0).all()  # objects first


def test_samples_follow_the_seed_and_differ_without_it() -> None:
    matched = torch.arange(400) % 40 - 1
    torch.manual_seed(3)
    first, other = draw_samples(matched, 64, 0.5), draw_samples(matched, 64, 0.5)
    torch.manual_seed(3)
    assert torch.equal(draw_samples(matched, 64, 0.5), first)
    assert not torch.equal(first, other)

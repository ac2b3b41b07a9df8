"""Oriented R-CNN against a slow reference of its rules, its invariances, and the edges of what a data set holds."""

from __future__ import annotations

import math

import pytest
import torch
from oriented_toys import SIZE, learn_and_find, oriented_target, random_target
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou
from whole_loss import head_loss

from vistruct.contracts import BoxTarget, FeatureSpec
from vistruct.heads.faster_rcnn import FasterRcnn
from vistruct.heads.oriented_coders import MidpointOffsets, OrientedDeltas
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.heads.oriented_regions import covered_share_oriented
from vistruct.heads.oriented_roi import OrientedRoiConfig
from vistruct.heads.oriented_rpn import OrientedRpnConfig, sampler_of
from vistruct.heads.roi_stage import levels_of
from vistruct.ops.oriented import cxcywha_to_xyxy
from vistruct.ops.oriented_iou import oriented_iou

STRIDES = (8, 16, 32)
ALL = 1_000_000  # samples: nothing is left to chance


def build(rpn: dict | None = None, roi: dict | None = None, num_classes: int = 2, **fields: object) -> FasterRcnn:
    torch.manual_seed(1)
    config = OrientedRcnnConfig(
        rpn=OrientedRpnConfig(**{"anchor_scale": 3.0, "proposals": 60, **(rpn or {})}),
        roi=OrientedRoiConfig(**{"width": 32, "size": 3, **(roi or {})}),
        **fields,
    )
    head = config.build(tuple(FeatureSpec(channels=16, stride=s) for s in STRIDES), num_classes)
    for parameter in (*head.rpn.head.bbox_pred.parameters(), *head.roi.deltas.parameters()):
        parameter.data += 0.1 * torch.randn_like(parameter)  # boxes that differ from their anchors
    return head


def everything(**fields: object) -> FasterRcnn:
    return build({"samples": ALL}, {"samples": ALL, "positive": 1.0}, **fields)


def maps(batch: int, size: int = SIZE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(batch, 16, size // s, size // s, generator=generator) for s in STRIDES]


def reference_losses(head: FasterRcnn, features: list[Tensor], truth: BoxTarget) -> dict[str, float]:
    """The four losses of one image when every anchor and proposal is a sample, rule by rule over full tables."""
    output = head(features)
    boxes, labels, hulls = truth.boxes_cxcywha, truth.labels, truth.boxes_xyxy
    assert boxes is not None
    table = box_iou(hulls, output.anchors)
    matched = Matcher(0.7, 0.3, allow_low_quality_matches=True)(table)
    for row in range(len(boxes)):  # objects that no anchor fits by 0.3 have none
        best = table[row].max()
        if best < 0.3:
            matched[(table[row] == best) & (table.max(dim=0).values < 0.7)] = -1
    own = matched >= 0
    use = matched != -2
    objectness = F.binary_cross_entropy_with_logits(output.objectness[0, use], own[use].float(), reduction="none")
    goal = MidpointOffsets().encode(output.anchors[own], boxes[matched[own]])
    first = F.smooth_l1_loss(output.deltas[0, own], goal, beta=1 / 9, reduction="none")

    rois = torch.cat([head.rpn.proposals(output, 0, output.size_hw, train=False), boxes])
    iou, nearest = oriented_iou(rois, boxes).max(dim=1)
    hit = iou >= 0.5
    logits, deltas = head.roi(output.features, 0, rois)
    classes = torch.where(hit, labels[nearest], 2)
    goal = OrientedDeltas().encode(rois[hit], boxes[nearest[hit]])
    second = F.smooth_l1_loss(deltas[hit], goal, reduction="none")
    return {
        "loss_objectness": objectness.mean().item(),
        "loss_proposal": (first.sum() / use.sum()).item(),
        "loss_class": -logits.log_softmax(dim=1)[torch.arange(len(rois)), classes].mean().item(),
        "loss_box": (second.sum() / len(rois)).item(),
    }


def test_losses_equal_the_rules_applied_to_full_tables() -> None:
    head, truth = everything(), random_target(7, 0)
    expected = reference_losses(head, maps(1), truth)
    ours = head_loss(head, head(maps(1)), [truth])
    assert ours.metrics == pytest.approx(expected, rel=1e-5)
    assert min(expected.values()) > 0
    assert ours.total.item() == pytest.approx(sum(expected.values()), rel=1e-5)
    assert ours.count == 1


def test_detections_equal_a_greedy_choice_one_by_one() -> None:
    head = build(score_threshold=0.3, max_detections=12)
    with torch.no_grad():
        output = head(maps(1))
        (found,) = head.decode(output, [(SIZE, SIZE)])
        rois = head.rpn.proposals(output, 0, output.size_hw, train=False)
        logits, deltas = head.roi(output.features, 0, rois)
        scores, boxes = logits.softmax(dim=1)[:, :2], OrientedDeltas().decode(rois, deltas)
    table = oriented_iou(boxes, boxes)
    rows = sorted(((float(scores[p, c]), p, c) for p in range(len(rois)) for c in range(2)), reverse=True)
    kept: list[tuple[float, int, int]] = []
    for score, p, c in rows:
        x1, y1, x2, y2 = cxcywha_to_xyxy(boxes[p]).tolist()
        outside = x2 <= 0 or y2 <= 0 or x1 >= SIZE or y1 >= SIZE
        rivals = [float(table[p, q]) for _, q, k in kept if k == c]
        if score > 0.3 and not outside and all(iou <= 0.1 for iou in rivals):
            kept.append((score, p, c))
    kept = kept[:12]
    assert len(kept) > 5
    torch.testing.assert_close(found.scores, torch.tensor([k[0] for k in kept]))
    assert found.labels.tolist() == [k[2] for k in kept]
    torch.testing.assert_close(found.boxes_cxcywha, boxes[[k[1] for k in kept]])
    torch.testing.assert_close(found.boxes_xyxy, cxcywha_to_xyxy(boxes[[k[1] for k in kept]]))


def test_anchors_have_the_sides_that_size_and_ratio_give_around_the_corners_of_the_cells() -> None:
    head = build({"anchor_scale": 8.0, "ratios": (0.5, 1.0, 2.0)})
    anchors = head(maps(1)).anchors
    per_level = [3 * (SIZE // s) ** 2 for s in STRIDES]
    for stride, level in zip(STRIDES, anchors.split(per_level), strict=True):
        sides = level[:3, 2:] - level[:3, :2]
        root = math.sqrt(0.5)
        expected = 8.0 * stride * torch.tensor([[1 / root, root], [1, 1], [root, 1 / root]])
        torch.testing.assert_close(sides, expected)
        centre = (level[:, :2] + level[:, 2:]) / 2
        torch.testing.assert_close(centre[3:6], torch.tensor([[float(stride), 0.0]]).expand(3, 2))  # row by row


def test_what_a_cell_says_of_a_shape_belongs_to_the_anchor_of_that_shape_there() -> None:
    head = build()
    said = [torch.randn(1, 18, SIZE // s, SIZE // s) for s in STRIDES]
    scores = [torch.randn(1, 3, SIZE // s, SIZE // s) for s in STRIDES]
    head.rpn.head.forward = lambda features: (scores, said)  # type: ignore[method-assign]
    output = head(maps(1))
    for level, (deltas, objectness, stride) in enumerate(zip(said, scores, STRIDES, strict=True)):
        start = sum(output.level_sizes[:level])
        for x, y, shape in ((0, 0, 0), (1, 0, 2), (0, 1, 1), (3, 2, 1)):
            row = start + (y * (SIZE // stride) + x) * 3 + shape
            x1, y1, x2, y2 = output.anchors[row].tolist()
            assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((x * stride, y * stride), abs=1e-4)
            assert (y2 - y1) / (x2 - x1) == pytest.approx((0.5, 1.0, 2.0)[shape])
            assert torch.equal(output.deltas[0, row], deltas[0, 6 * shape : 6 * shape + 6, y, x])
            assert output.objectness[0, row] == objectness[0, shape, y, x]


def test_proposals_are_pooled_from_the_published_levels(golden) -> None:
    given = golden("obb/roi_align_rotated.safetensors")
    sides = F.pad(given["level_rois"][:, 3:5], (2, 0))
    assert torch.equal(levels_of(sides, (4, 8, 16, 32)), given["level_of_4"])
    assert len(given["level_of_4"].unique()) == 4


def test_turning_the_map_and_the_proposals_by_a_quarter_does_not_change_what_is_seen() -> None:
    head, features = build(), maps(1)
    rois = random_target(20, 4).boxes_cxcywha
    assert rois is not None
    x, y, w, h, angle = rois.unbind(dim=1)
    turned = torch.stack([SIZE - y, x, w, h, angle + math.pi / 2], dim=1)  # clockwise on the screen
    with torch.no_grad():
        seen = head.roi(features, 0, rois)
        seen_turned = head.roi([f.rot90(-1, (2, 3)) for f in features], 0, turned)
    for ours, theirs in zip(seen, seen_turned, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert seen[1].std(dim=0).min() > 1e-3


def test_loss_does_not_depend_on_how_the_batch_was_split() -> None:
    head, features = build({"samples": 20}, {"samples": 24}), maps(4)
    targets = [random_target(5, 0), random_target(0, 1), random_target(9, 2, num_crowd=3), random_target(1, 3)]
    whole = head_loss(head, head(features), targets)
    parts = [
        head_loss(head, head([f[rows] for f in features]), targets[rows])
        for rows in (slice(0, 1), slice(1, 3), slice(3, 4))
    ]
    assert whole.count == sum(part.count for part in parts) == 4
    torch.testing.assert_close(whole.total, sum(part.total for part in parts), rtol=1e-6, atol=1e-6)


def test_another_seed_draws_other_samples() -> None:
    head, truth = build({"samples": 20}, {"samples": 24}), random_target(5, 0)
    output = head(maps(1))
    totals = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        torch.rand(3)  # what else was drawn in the step does not matter
        totals.append(head_loss(head, output, [truth]).total.item())
    assert totals[0] == totals[1] != totals[2]
    assert sampler_of(truth.boxes_xyxy).initial_seed() != sampler_of(truth.boxes_xyxy[1:]).initial_seed()


@pytest.mark.parametrize("num", [0, 1])
def test_no_object_or_one_gives_a_finite_loss_and_gradient(num: int) -> None:
    head = build()
    loss = head_loss(head, head(maps(2)), [random_target(num, 0), random_target(0, 1)])
    loss.total.backward()
    assert loss.count == 2
    assert loss.total > 0
    assert (loss.metrics["loss_box"] > 0) == (num > 0)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


HARD = {
    "seam": [40.0, 40, 30, 12, -math.pi / 2],
    "almost at the seam": [40.0, 40, 30, 12, math.pi / 2 - 1e-6],
    "square": [40.0, 40, 20, 20, 0.7],
    "parallel": [40.0, 40, 30, 12, 1e-4],
    "needle": [60.0, 60, 90, 0.5, 0.4],
    "speck": [60.0, 60, 0.1, 0.1, 0.4],
    "over the border": [2.0, 60, 50, 20, 0.4],
    "centre outside": [-5.0, -5, 50, 20, 0.4],
    "larger than the image": [64.0, 64, 900, 400, 0.4],
}


@pytest.mark.parametrize("case", HARD)
def test_loss_and_gradient_are_finite_for(case: str) -> None:
    head = everything()
    loss = head_loss(head, head(maps(1)), [oriented_target(torch.tensor([HARD[case]]))])
    loss.total.backward()
    assert loss.total.isfinite()
    assert loss.metrics["loss_class"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_a_rectangle_written_otherwise_gives_the_same_loss() -> None:
    head, truth = everything(), random_target(6, 0)
    boxes = truth.boxes_cxcywha
    assert boxes is not None
    other = torch.cat([boxes[:, :2], boxes[:, 2:4].flip(1), boxes[:, 4:] + math.pi / 2], dim=1)
    output = head(maps(1))
    ours, theirs = head_loss(head, output, [truth]), head_loss(head, output, [oriented_target(other, truth.labels)])
    # The object's own box is a proposal, too, and pooled along its first side: that one may differ.
    assert ours.metrics["loss_proposal"] == pytest.approx(theirs.metrics["loss_proposal"], rel=1e-4)
    assert ours.metrics["loss_objectness"] == pytest.approx(theirs.metrics["loss_objectness"], rel=1e-6)


def test_two_thousand_objects_in_one_image_are_learnt_from() -> None:
    head = build({"proposals": 300})
    draw = torch.rand(2000, 5, generator=torch.Generator().manual_seed(0))
    boxes = draw * torch.tensor([SIZE, SIZE, 8, 3, 3]) + torch.tensor([0, 0, 4, 2, -1.5])
    loss = head_loss(head, head(maps(1)), [oriented_target(boxes)])
    loss.total.backward()
    assert loss.total.isfinite()
    assert loss.metrics["loss_box"] > 0


def test_a_region_over_the_whole_image_teaches_nothing() -> None:
    head = build()
    everywhere = torch.tensor([[SIZE / 2, SIZE / 2, 5 * SIZE, 5 * SIZE, 0.5]])
    loss = head_loss(head, head(maps(1)), [oriented_target(everywhere, is_crowd=torch.tensor([True]))])
    loss.total.backward()
    assert loss.total == 0
    assert loss.count == 1
    assert all(p.grad is None or not p.grad.any() for p in head.parameters())


def test_anchors_turned_away_from_a_region_stay_background_though_its_hull_covers_them() -> None:
    head = everything()
    output = head(maps(1))
    strip = torch.tensor([[SIZE / 2, SIZE / 2, 400.0, 30, math.pi / 4]])  # a diagonal, whose hull is the whole image
    x1, y1, x2, y2 = output.anchors.unbind(dim=1)
    anchors = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, torch.zeros_like(x1)], dim=1)
    outside = covered_share_oriented(anchors, strip) < 0.3
    assert 0.3 < outside.float().mean() < 0.9
    loss = head_loss(head, output, [oriented_target(strip, is_crowd=torch.tensor([True]))])
    expected = F.softplus(output.objectness[0, outside]).mean()  # -log(1 - sigmoid)
    assert loss.metrics["loss_objectness"] == pytest.approx(expected.item(), rel=1e-5)


def test_an_object_in_a_region_is_still_learnt() -> None:
    head = everything()
    output = head(maps(1))
    box, region = torch.tensor([[40.0, 40, 30, 12, 0.3]]), torch.tensor([[64.0, 64, 400, 400, 0.0]])
    both = oriented_target(torch.cat([box, region]), is_crowd=torch.tensor([False, True]))
    loss = head_loss(head, output, [both])
    assert loss.metrics["loss_proposal"] > 0
    assert loss.metrics["loss_class"] == pytest.approx(
        -head.roi(output.features, 0, box)[0].log_softmax(dim=1)[0, 0].item(), rel=0.5
    )


def test_covered_share_of_boxes_half_in_fully_in_turned_and_outside() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2, 0], [5, 5, 2, 2, 0.4], [50, 5, 1, 1, 0], [1, 1, 0, 1, 0], [0, 0, 4, 1, 0]])
    regions = torch.tensor([[1.0, 0, 2, 20, 0], [5, 5, 9, 9, 0.1], [0, 0, 2, 40, math.pi / 4]])
    share = covered_share_oriented(boxes, regions[:2])
    torch.testing.assert_close(share, torch.tensor([0.5, 1, 0, 0, 0.5]), rtol=1e-5, atol=1e-5)
    crossed = covered_share_oriented(boxes[4:], regions[2:])  # 1 high: a parallelogram of sqrt(8) x 1
    torch.testing.assert_close(crossed, torch.tensor([math.sqrt(8) / 4]), rtol=1e-5, atol=1e-5)
    assert covered_share_oriented(boxes, regions[:0]).tolist() == [0] * 5


def test_detections_outside_the_real_image_are_left_out_and_those_over_its_border_stay_whole() -> None:
    head = build(score_threshold=0.0, nms_iou=1.0)
    with torch.no_grad():
        output = head(maps(1))
        (full,) = head.decode(output, [(SIZE, SIZE)])
        (small,) = head.decode(output, [(50, 70)])
    assert 0 < len(small.scores) < len(full.scores)
    x1, y1, x2, y2 = small.boxes_xyxy.unbind(dim=1)
    assert ((x1 < 70) & (y1 < 50) & (x2 > 0) & (y2 > 0)).all()
    assert (x2 > 70).any()
    seen = (full.boxes_xyxy[:, 0] < 70) & (full.boxes_xyxy[:, 1] < 50)
    torch.testing.assert_close(small.boxes_cxcywha, full.boxes_cxcywha[seen])
    assert (small.scores.diff() <= 0).all()


def test_nothing_above_the_threshold_gives_no_detections() -> None:
    head = build(score_threshold=0.99)
    for found in head.decode(head(maps(2)), [(SIZE, SIZE)] * 2):
        assert found.boxes_cxcywha is not None
        assert (found.boxes_cxcywha.shape, found.boxes_xyxy.shape, found.scores.shape) == ((0, 5), (0, 4), (0,))


def test_geometry_stays_float32_in_bfloat16() -> None:
    head, truth = everything(), random_target(5, 0)
    exact = head_loss(head, head(maps(1)), [truth])
    with torch.autocast("cpu", torch.bfloat16):
        output = head([f.bfloat16() for f in maps(1)])
        loss = head_loss(head, output, [truth])
        (found,) = head.decode(output, [(SIZE, SIZE)])
    loss.total.backward()
    assert output.deltas.dtype == output.anchors.dtype == found.boxes_xyxy.dtype == torch.float32
    assert torch.equal(output.anchors, head(maps(1)).anchors)
    assert loss.metrics["loss_objectness"] == pytest.approx(exact.metrics["loss_objectness"], rel=0.02)
    assert loss.metrics["loss_proposal"] == pytest.approx(exact.metrics["loss_proposal"], rel=0.05)
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_targets_without_oriented_boxes_are_refused() -> None:
    head = build()
    flat = BoxTarget(
        boxes_xyxy=torch.zeros(0, 4), labels=torch.zeros(0).long(), is_crowd=torch.zeros(0, dtype=torch.bool)
    )
    assert head.traits.is_oriented
    with pytest.raises(ValueError, match="no oriented boxes"):
        head_loss(head, head(maps(1)), [flat])


def test_it_learns_to_find_four_turned_rectangles() -> None:
    def build_small(specs: tuple[FeatureSpec, ...]) -> FasterRcnn:
        rpn = OrientedRpnConfig(anchor_scale=3.0, proposals=100, samples=64)
        return OrientedRcnnConfig(rpn=rpn, roi=OrientedRoiConfig(width=64, samples=48)).build(specs, 2)

    ious, margin = learn_and_find(build_small, steps=90, lr=6e-3)
    assert min(ious) > 0.5
    assert margin > 0  # AP50 is 1


def test_a_proposal_is_on_an_object_from_half_overlap_on_and_on_the_one_it_overlaps_most() -> None:
    boxes = torch.tensor([[40.0, 40, 20, 10, 0.0], [80, 80, 20, 10, math.pi / 3]])
    along = torch.tensor([math.cos(math.pi / 3), math.sin(math.pi / 3)])
    near, far, other = boxes[0].clone(), boxes[0].clone(), boxes[1].clone()
    near[0] += 6  # IoU 14 / 26
    far[0] += 7  # 13 / 27
    other[:2] += 6 * along
    head = everything()
    generator = torch.Generator().manual_seed(0)
    proposals = torch.stack([far, near, other])
    sample = head.roi.sample(proposals, boxes, torch.tensor([1, 0]), boxes[:0], generator)
    found = {tuple(roi): label for roi, label in zip(sample.rois.tolist(), sample.labels.tolist(), strict=True)}
    expected = zip([*proposals.tolist(), *boxes.tolist()], [2, 1, 0, 1, 0], strict=True)  # 2: background
    assert found == {tuple(roi): label for roi, label in expected}
    assert torch.equal(sample.goals, boxes[[0 if label == 1 else 1 for label in sample.labels.tolist() if label < 2]])

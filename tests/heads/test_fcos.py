"""FCOS against torchvision's own FCOS, a brute-force matcher, and the promise about splitting a batch."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS
from torchvision.ops import box_iou, remove_small_boxes
from whole_loss import head_loss

from vistruct.contracts import BoxTarget, FeatureSpec
from vistruct.heads.fcos import Fcos, FcosConfig, FcosOutput, cells_of, match_locations, size_ranges

SIZE = 128
STRIDES = (8, 16, 32)


def build(strides: tuple[int, ...] = STRIDES, num_classes: int = 3, channels: int = 32, **fields: object) -> Fcos:
    torch.manual_seed(1)
    specs = tuple(FeatureSpec(channels=channels, stride=stride) for stride in strides)
    head = FcosConfig(num_convs=1, **fields).build(specs, num_classes)
    for parameter in head.parameters():  # scores and distances that differ from place to place
        parameter.data += 0.05 * torch.randn_like(parameter)
    return head


def maps(batch: int, strides: tuple[int, ...] = STRIDES, channels: int = 32, size: int = SIZE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(batch, channels, size // s, size // s, generator=generator) for s in strides]


def target(num: int, seed: int, num_classes: int = 3, num_crowd: int = 0) -> BoxTarget:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(num, 2, generator=generator) * (SIZE - 40)
    boxes = torch.cat([low, low + 6 + torch.rand(num, 2, generator=generator) * 60], dim=1).clamp(max=SIZE)
    labels = torch.randint(num_classes, (num,), generator=generator)
    return BoxTarget(boxes_xyxy=boxes, labels=labels, is_crowd=torch.arange(num) < num_crowd)


class Given(nn.Module):
    """A backbone that has its maps already."""

    out_channels = 32

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, image: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(i), m) for i, m in enumerate(self.maps))


class CellCentres(AnchorGenerator):
    """torchvision's anchors moved from the cell's corner to its centre."""

    def grid_anchors(self, grid_sizes, strides):
        anchors = super().grid_anchors(grid_sizes, strides)
        return [a + float(stride[0]) / 2 for a, stride in zip(anchors, strides, strict=True)]


def reference(head: Fcos, features: list[Tensor]) -> FCOS:
    anchors = CellCentres(tuple((s,) for s in STRIDES), ((1.0,),) * len(STRIDES))
    return FCOS(
        Given(features),
        num_classes=3,
        anchor_generator=anchors,
        head=head.layers,
        min_size=SIZE,
        max_size=SIZE,
        score_thresh=head.config.score_threshold,
        nms_thresh=head.config.nms_iou,
        detections_per_img=head.config.max_detections,
        topk_candidates=head.config.max_candidates,
    )


def test_loss_and_gradient_equal_torchvisions_fcos_with_the_same_weights() -> None:
    head, features = build(), maps(3)
    targets = [target(5, 0), target(0, 1), target(9, 2)]
    theirs = reference(head, features).train()(
        [torch.zeros(3, SIZE, SIZE)] * 3, [{"boxes": t.boxes_xyxy, "labels": t.labels} for t in targets]
    )
    weight = head.layers.regression_head.bbox_reg.weight
    (their_gradient,) = torch.autograd.grad(sum(theirs.values()), weight)
    theirs = {name: loss.detach() for name, loss in theirs.items()}
    ours = head_loss(head, head(features), targets)
    (our_gradient,) = torch.autograd.grad(ours.total / ours.count, weight)
    assert ours.count > 10
    assert ours.metrics["loss_class"] == pytest.approx(float(theirs["classification"]), rel=1e-5)
    assert ours.metrics["loss_box"] == pytest.approx(float(theirs["bbox_regression"]), rel=1e-5)
    assert ours.metrics["loss_centerness"] == pytest.approx(float(theirs["bbox_ctrness"]), rel=1e-5)
    torch.testing.assert_close(ours.total / ours.count, sum(theirs.values()))
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("max_candidates", "max_detections"), [(1000, 300), (20, 7)])
def test_detections_equal_torchvisions_fcos_with_the_same_weights(max_candidates: int, max_detections: int) -> None:
    head = build(score_threshold=0.1, max_candidates=max_candidates, max_detections=max_detections)
    features = maps(2)
    with torch.no_grad():
        theirs = reference(head, features).eval()([torch.zeros(3, SIZE, SIZE)] * 2)
        ours = head.decode(head(features), [(SIZE, SIZE)] * 2)
    for a, b in zip(ours, theirs, strict=True):
        solid = remove_small_boxes(b["boxes"], 1e-2)  # torchvision keeps boxes that clipping left without area
        b = {name: values[solid] for name, values in b.items()}
        assert len(a.scores) == min(max_detections, len(b["scores"])) > 5
        torch.testing.assert_close(a.boxes_xyxy, b["boxes"])
        torch.testing.assert_close(a.scores, b["scores"])
        assert torch.equal(a.labels, b["labels"])


def slow_match(cells: Tensor, level_strides: list[int], strides: tuple[int, ...], boxes: Tensor) -> list[int]:
    """The paper's rules, one location and one box at a time."""
    found = []
    for cell, stride in zip(cells.tolist(), level_strides, strict=True):
        x, y = (cell[0] + cell[2]) / 2, (cell[1] + cell[3]) / 2
        level = strides.index(stride)
        low = 8 * strides[level - 1] if level else 0
        high = 8 * stride if level < len(strides) - 1 else math.inf
        best, smallest = -1, math.inf
        for m, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < 1.5 * stride
            area = (x2 - x1) * (y2 - y1)
            if min(sides) > 0 and near and low < max(sides) <= high and area < smallest:
                best, smallest = m, area
        found.append(best)
    return found


@pytest.mark.parametrize("strides", [(4, 8, 16), (7, 14, 28), (4, 16), (8,)])
def test_matching_equals_the_papers_rules_applied_one_by_one(strides: tuple[int, ...], monkeypatch) -> None:
    monkeypatch.setattr("vistruct.heads.fcos.PAIRS_AT_ONCE", 500)  # several chunks
    cells = [cells_of(112 // s, 112 // s, s, torch.device("cpu")) for s in strides]
    sizes = [len(c) for c in cells]
    per_location = [s for s, n in zip(strides, sizes, strict=True) for _ in range(n)]
    generator = torch.Generator().manual_seed(3)
    low = torch.randint(80, (40, 2), generator=generator).float()
    boxes = torch.cat([low, low + torch.randint(1, 100, (40, 2), generator=generator)], dim=1)  # on the bounds too
    ranges = size_ranges(strides, sizes, torch.device("cpu"))
    matched = match_locations(torch.cat(cells), ranges, boxes)
    assert (matched >= 0).sum() > 20
    assert matched.tolist() == slow_match(torch.cat(cells), per_location, strides, boxes)


@pytest.mark.parametrize("strides", [(4, 8, 16), (4, 16), (8,), (7, 14, 28, 56)])
@pytest.mark.parametrize("side", [10.0, 32.0, 64.0, 100.0, 500.0])
def test_no_object_falls_between_the_levels(strides: tuple[int, ...], side: float) -> None:
    cells = [cells_of(560 // s, 560 // s, s, torch.device("cpu")) for s in strides]
    ranges = size_ranges(strides, [len(c) for c in cells], torch.device("cpu"))
    box = torch.tensor([[30.0, 30.0, 30 + side, 30 + side]])
    assert (match_locations(torch.cat(cells), ranges, box) == 0).any()


def test_total_of_a_batch_is_the_sum_over_its_images() -> None:
    head, features = build(), maps(4)
    targets = [target(5, 0), target(0, 1), target(9, 2, num_crowd=2), target(1, 3)]
    whole = head_loss(head, head(features), targets)
    single = [head_loss(head, head([f[i : i + 1] for f in features]), targets[i : i + 1]) for i in range(4)]
    assert whole.count == sum(loss.count for loss in single) > 0
    torch.testing.assert_close(whole.total, sum(loss.total for loss in single), rtol=1e-5, atol=1e-5)


def test_a_batch_without_objects_still_teaches_background() -> None:
    head, features = build(), maps(2)
    loss = head_loss(head, head(features), [target(0, 0), target(0, 1)])
    loss.total.backward()
    assert loss.count == 0
    assert loss.total > 0
    assert loss.metrics["loss_box"] == 0
    assert head.layers.classification_head.cls_logits.bias.grad.abs().sum() > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_what_lies_in_a_crowd_region_is_neither_object_nor_background() -> None:
    head, features = build(), maps(1)
    output = head(features)
    everywhere = torch.tensor([[0.0, 0.0, SIZE, SIZE]])
    crowd = BoxTarget(boxes_xyxy=everywhere, labels=torch.tensor([0]), is_crowd=torch.tensor([True]))
    loss = head_loss(head, output, [crowd])
    assert (loss.count, loss.total.item()) == (0.0, 0.0)

    half = torch.tensor([[0.0, 0.0, SIZE / 2, SIZE], [10.0, 10.0, 30.0, 30.0]])
    both = BoxTarget(boxes_xyxy=half, labels=torch.tensor([0, 1]), is_crowd=torch.tensor([True, False]))
    alone = BoxTarget(boxes_xyxy=half[1:], labels=torch.tensor([1]), is_crowd=torch.tensor([False]))
    ours, full = head_loss(head, output, [both]), head_loss(head, output, [alone])
    assert ours.count == full.count > 0  # the object in the crowd region is still learnt
    assert ours.metrics["loss_box"] == pytest.approx(full.metrics["loss_box"])
    assert ours.metrics["loss_class"] < full.metrics["loss_class"]


def test_objects_that_no_location_stands_for_are_counted() -> None:
    head = build()
    tiny = torch.tensor([[1.0, 1.0, 2.0, 2.0], [40.0, 40.0, 60.0, 60.0]])  # no centre of an 8 px cell in the first
    truth = BoxTarget(boxes_xyxy=tiny, labels=torch.tensor([0, 1]), is_crowd=torch.zeros(2, dtype=torch.bool))
    loss = head_loss(head, head(maps(1)), [truth])
    assert loss.metrics["unmatched"] * loss.count == pytest.approx(1)


def perfect(boxes: Tensor, labels: Tensor, num_classes: int = 3) -> FcosOutput:
    """What a head would say that knows the truth."""
    cells = [cells_of(SIZE // s, SIZE // s, s, torch.device("cpu")) for s in STRIDES]
    sizes = tuple(map(len, cells))
    where = torch.cat(cells)
    match = match_locations(where, size_ranges(STRIDES, sizes, where.device), boxes)
    point, stride = (where[:, :2] + where[:, 2:]) / 2, (where[:, 2] - where[:, 0])[:, None]
    mine = boxes[match.clamp(min=0)]
    offsets = torch.cat([point - mine[:, :2], mine[:, 2:] - point], dim=1) / stride
    hot = torch.nn.functional.one_hot(labels[match.clamp(min=0)], num_classes).float() * 20 - 10
    logits = torch.where((match >= 0)[:, None], hot, -10.0)
    return FcosOutput(
        logits=logits[None],
        offsets=offsets[None],
        centerness=torch.full((1, len(where), 1), 10.0),
        cells_xyxy=where,
        level_sizes=sizes,
    )


def test_decoding_the_truth_gives_the_truth_back() -> None:
    boxes = torch.tensor([[10.0, 12.0, 30.0, 40.0], [50.0, 3.0, 120.0, 90.0], [70.0, 100.0, 90.0, 115.0]])
    labels = torch.tensor([0, 2, 1])
    (found,) = build(score_threshold=0.3).decode(perfect(boxes, labels), [(SIZE, SIZE)])
    assert len(found.scores) == 3
    iou, match = box_iou(boxes, found.boxes_xyxy).max(dim=1)
    torch.testing.assert_close(iou, torch.ones(3))
    assert torch.equal(found.labels[match], labels)
    assert (found.scores[:-1] >= found.scores[1:]).all()


def test_boxes_are_clipped_to_the_real_image_and_those_in_the_padding_are_left_out() -> None:
    boxes = torch.tensor([[10.0, 12.0, 60.0, 60.0], [90.0, 90.0, 120.0, 120.0]])
    output = perfect(boxes, torch.tensor([0, 1]))
    (found,) = build(score_threshold=0.3).decode(output, [(40, 50)])
    torch.testing.assert_close(found.boxes_xyxy, torch.tensor([[10.0, 12.0, 50.0, 40.0]]))


def test_nothing_above_the_threshold_gives_no_detections() -> None:
    head = build(score_threshold=0.999)
    found = head.decode(head(maps(2)), [(SIZE, SIZE)] * 2)
    assert [(d.boxes_xyxy.shape, d.scores.shape, d.labels.shape) for d in found] == [((0, 4), (0,), (0,))] * 2


def test_the_bias_gives_every_class_the_prior_before_training() -> None:
    head = FcosConfig(prior=0.2).build((FeatureSpec(channels=48, stride=8),), 4)
    scores = head([torch.zeros(1, 48, 4, 4)]).logits.sigmoid()
    torch.testing.assert_close(scores, torch.full_like(scores, 0.2))

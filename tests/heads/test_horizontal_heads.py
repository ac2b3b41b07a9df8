"""What every head of horizontal boxes promises, at the edges of what an image can hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toy_heads import SIZE, LargestTensor, average_precision, learn, maps, specs, target, truth
from whole_loss import head_loss

from vistruct.config import Part
from vistruct.contracts import BoxTarget
from vistruct.heads.cascade_rcnn import CascadeRcnnConfig
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.mask_rcnn import MaskRcnnConfig
from vistruct.heads.retina import RetinaConfig
from vistruct.heads.roi_stage import RoiConfig
from vistruct.heads.rpn import RpnConfig

RPN = RpnConfig(anchor_scale=3.0, samples=64, proposals_train=40, proposals_test=20)
ROI = RoiConfig(size=3, width=32, samples=16)
BOX = FasterRcnnConfig(rpn=RPN, roi=ROI)
HEADS: dict[str, Part] = {
    "retina": RetinaConfig(anchor_scale=3.0, prior=0.1),
    "faster_rcnn": BOX,
    "cascade_rcnn": CascadeRcnnConfig(rpn=RPN, roi=ROI.model_copy(update={"sampling": 0, "beta": 1.0})),
    "mask_rcnn": MaskRcnnConfig(box=BOX, mask_size=8, mask_width=8, mask_convs=1),
}
every_head = pytest.mark.parametrize("name", HEADS)


def build(name: str) -> Any:
    torch.manual_seed(1)
    config: Any = HEADS[name]
    return config.build(specs(), 2)


def everywhere(is_crowd: bool) -> BoxTarget:
    return truth(torch.tensor([[0.0, 0.0, SIZE, SIZE]]), torch.tensor([1]), torch.tensor([is_crowd]))


EDGES = {
    "no object": target(0, 0),
    "one object": target(1, 0),
    "one pixel": truth(torch.tensor([[50.0, 50.0, 51.0, 51.0]])),
    "a hundredth of a pixel": truth(torch.tensor([[50.0, 50.0, 50.01, 50.01]])),
    "one pixel in the corner": truth(torch.tensor([[SIZE - 1.0, SIZE - 1.0, SIZE, SIZE]])),
    "on the border": truth(torch.tensor([[0.0, 30.0, 40.0, 70.0], [90.0, 0.0, SIZE, 20.0]])),
    "the whole image": everywhere(is_crowd=False),
    "a needle": truth(torch.tensor([[0.0, 60.0, SIZE, 60.5]])),
    "one box twice": truth(torch.tensor([[20.0, 20.0, 60.0, 60.0]] * 2), torch.tensor([0, 1])),
    "crowds only": target(3, 0, num_crowd=3),
}


@every_head
@pytest.mark.parametrize("edge", EDGES)
def test_loss_and_gradient_are_finite_and_reach_every_weight(name: str, edge: str) -> None:
    head = build(name)
    loss = head_loss(head, head(maps(2)), [EDGES[edge], EDGES["no object"]])
    loss.total.backward()
    assert loss.total > 0
    assert loss.total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@every_head
def test_a_crowd_over_the_whole_image_teaches_nothing(name: str) -> None:
    head = build(name)
    beyond = torch.tensor([[-SIZE, -SIZE, 2.0 * SIZE, 2.0 * SIZE]])  # anchors reach over the border
    crowd = BoxTarget(boxes_xyxy=beyond, labels=torch.tensor([0]), is_crowd=torch.tensor([True]))
    loss = head_loss(head, head(maps(1)), [crowd])
    loss.total.backward()
    assert loss.total == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


@every_head
def test_splitting_a_batch_changes_neither_sum(name: str) -> None:
    head, features = build(name), maps(4)
    targets = [target(5, 0), target(0, 1), target(9, 2, num_crowd=2), target(1, 3)]
    sums = []
    for parts in ([4], [1, 1, 1, 1], [3, 1]):
        torch.manual_seed(7)  # the same samples, drawn in the order of the images
        losses, start = [], 0
        for num in parts:
            output = head([f[start : start + num] for f in features])
            losses.append(head_loss(head, output, targets[start : start + num]))
            start += num
        sums.append((sum(loss.total.item() for loss in losses), sum(loss.count for loss in losses)))
    for total, count in sums[1:]:
        assert total == pytest.approx(sums[0][0], rel=1e-6)
        assert count == sums[0][1] > 0


@every_head
@torch.no_grad()
def test_a_real_image_of_one_pixel_and_one_without_proposals_are_decoded(name: str) -> None:
    head = low_threshold(name)
    for found in head.decode(head(maps(2)), [(1, 1), (SIZE, 1)]):
        assert (found.boxes_xyxy[:, 2] <= 1).all()
        assert found.boxes_xyxy.isfinite().all()
    nothing = [f.fill_(float("nan")) for f in maps(1)]  # as from a backbone that has burst
    (found,) = head.decode(head(nothing), [(SIZE, SIZE)])
    assert len(found.scores) == 0


@every_head
def test_metrics_are_means_over_the_units_that_count(name: str) -> None:
    head = build(name)
    loss = head_loss(head, head(maps(2)), [target(5, 0), target(2, 1)])
    assert sum(loss.metrics.values()) == pytest.approx(loss.total.item() / loss.count, rel=1e-5)


@every_head
def test_training_without_any_object_stays_finite_and_finds_nothing(name: str) -> None:
    head, features = build(name), maps(2)
    losses = learn(head, features, [target(0, 0), target(0, 1)], steps=15, lr=2e-2)
    assert losses[-1] < losses[0]
    for found in head.eval().decode(head(features), [(SIZE, SIZE)] * 2):
        assert (found.boxes_xyxy.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))
        assert found.masks is None or found.masks.shape == (0, 8, 8)


def low_threshold(name: str) -> Any:
    config = HEADS[name]
    if isinstance(config, MaskRcnnConfig):
        config = config.model_copy(update={"box": config.box.model_copy(update={"score_threshold": 0.0})})
    else:
        config = config.model_copy(update={"score_threshold": 0.0})
    torch.manual_seed(1)
    made: Any = config
    return made.build(specs(), 2).eval()


@every_head
@torch.no_grad()
def test_detections_are_sorted_and_inside_the_real_image_and_stay_with_their_image(name: str) -> None:
    head, features, sizes = low_threshold(name), maps(2), [(50, 70), (SIZE, 90)]
    both = head.decode(head(features), sizes)
    for found, (height, width) in zip(both, sizes, strict=True):
        assert len(found.scores) > 5
        assert (found.scores[:-1] >= found.scores[1:]).all()
        assert found.boxes_xyxy.min() >= 0
        assert (found.boxes_xyxy[:, 2:].amax(dim=0) <= torch.tensor([width, height])).all()
        assert ((found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]) > 0).all()
        assert found.masks is None or ((found.masks >= 0) & (found.masks <= 1)).all()
    turned = head.decode(head([f.flip(0) for f in features]), sizes[::-1])[::-1]
    for a, b in zip(both, turned, strict=True):
        torch.testing.assert_close(a.boxes_xyxy, b.boxes_xyxy, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-6)


@every_head
def test_two_thousand_objects_never_make_a_table_of_all_overlaps(name: str, monkeypatch) -> None:
    monkeypatch.setattr("vistruct.heads.matching.PAIRS_AT_ONCE", 100_000)
    monkeypatch.setattr("vistruct.heads.mask_rcnn.PIXELS_AT_ONCE", 100_000)
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(2000, 2, generator=generator) * (SIZE - 8)
    boxes = torch.cat([low, low + 2 + 6 * torch.rand(2000, 2, generator=generator)], dim=1)
    labels, is_crowd = torch.randint(2, (2000,), generator=generator), torch.arange(2000) % 2 == 0
    many = truth(boxes, labels, is_crowd)
    head = build(name)
    output = head(maps(1))
    with LargestTensor() as largest:
        loss = head_loss(head, output, [many])
    assert len(boxes) // 2 * len(output.anchors) > 1_000_000  # of objects and anchors: the table that is not made
    assert largest.num <= 200_000
    assert loss.total.isfinite()


@every_head
def test_bf16_layers_keep_geometry_and_loss_in_float32(name: str) -> None:
    head, features = build(name), maps(1)
    sums: list[Tensor] = []
    for enabled in (False, True):
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            sums.append(head_loss(head, head([f.bfloat16() if enabled else f for f in features]), [target(5, 0)]).total)
            found = head.decode(head(features), [(SIZE, SIZE)])[0]
        assert (sums[-1].dtype, found.boxes_xyxy.dtype, found.scores.dtype) == (torch.float32,) * 3
    assert sums[1].item() == pytest.approx(sums[0].item(), rel=0.05)


@every_head
def test_it_learns_to_find_the_objects_of_one_image(name: str) -> None:
    boxes = torch.tensor([[20.0, 30.0, 60.0, 80.0], [70.0, 10.0, 110.0, 40.0], [64.0, 64.0, 124.0, 124.0]])
    wanted, head, features = truth(boxes, torch.tensor([0, 1, 1])), build(name), maps(1)
    losses = learn(head, features, [wanted], steps=70, lr=5e-3)
    assert losses[-1] < losses[0] / 2
    (found,) = head.eval().decode(head(features), [(SIZE, SIZE)])
    assert average_precision(found, wanted, iou=0.5) > 0.9

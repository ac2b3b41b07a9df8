"""Faster R-CNN against torchvision's own, and the edges that torchvision leaves to its caller."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FasterRCNN as TorchvisionFasterRcnn
from torchvision.ops import box_iou

from vistruct.contracts import FeatureSpec
from vistruct.errors import UserError
from vistruct.heads.boxes import BoxTarget, covered_share
from vistruct.heads.faster_rcnn import FasterRcnn, FasterRcnnConfig

SIZE = 128
STRIDES = (8, 16, 32)
EVERYTHING = {
    "anchor_samples": 100_000,
    "roi_samples": 100_000,
    "roi_positive": 1.0,
}  # nothing left to chance


def build(strides: tuple[int, ...] = STRIDES, num_classes: int = 2, **fields: object) -> FasterRcnn:
    torch.manual_seed(1)
    specs = tuple(FeatureSpec(channels=16, stride=stride) for stride in strides)
    config = FasterRcnnConfig(
        anchor_scale=3.0, width=32, roi_size=3, **{"proposals_train": 60, "proposals_test": 40, **fields}
    )
    return config.build(specs, num_classes)


def maps(batch: int, strides: tuple[int, ...] = STRIDES, size: int = SIZE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(batch, 16, size // s, size // s, generator=generator) for s in strides]


def target(num: int, seed: int, num_crowd: int = 0) -> BoxTarget:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(num, 2, generator=generator) * (SIZE - 40)
    boxes = torch.cat([low, low + 15 + torch.rand(num, 2, generator=generator) * 50], dim=1).clamp(max=SIZE)
    labels = torch.randint(2, (num,), generator=generator)
    return BoxTarget(boxes_xyxy=boxes, labels=labels, is_crowd=torch.arange(num) < num_crowd)


class Given(nn.Module):
    """A backbone that has its maps already."""

    out_channels = 16

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, image: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(i), m) for i, m in enumerate(self.maps))


def reference(head: FasterRcnn, features: list[Tensor]) -> TorchvisionFasterRcnn:
    model = TorchvisionFasterRcnn(Given(features), num_classes=3, min_size=SIZE, max_size=SIZE)
    model.rpn, model.roi_heads = head.rpn, head.roi
    model.roi_heads.box_roi_pool.scales = model.roi_heads.box_roi_pool.map_levels = None  # let it guess
    return model


def test_losses_equal_torchvisions_faster_rcnn_with_the_same_weights() -> None:
    head, features, truth = build(**EVERYTHING), maps(1), target(6, 0)
    ours = head.loss(head(features), [truth])
    theirs = reference(head, features).train()(
        [torch.zeros(3, SIZE, SIZE)], [{"boxes": truth.boxes_xyxy, "labels": truth.labels + 1}]
    )
    expected = {
        "loss_objectness": theirs["loss_objectness"].item(),
        "loss_proposal": theirs["loss_rpn_box_reg"].item(),
        "loss_class": theirs["loss_classifier"].item(),
        "loss_box": theirs["loss_box_reg"].item(),
    }
    assert ours.metrics == pytest.approx(expected, rel=1e-5)
    assert min(expected.values()) > 0
    assert ours.total.item() == pytest.approx(sum(expected.values()), rel=1e-5)


def test_detections_equal_torchvisions_faster_rcnn_with_the_same_weights() -> None:
    head, features = build(score_threshold=0.3).eval(), maps(2)
    with torch.no_grad():
        ours = head.decode(head(features), [(SIZE, SIZE)] * 2)
        theirs = reference(head, features).eval()([torch.zeros(3, SIZE, SIZE)] * 2)
    for a, b in zip(ours, theirs, strict=True):
        assert len(a.scores) > 5
        torch.testing.assert_close(a.boxes_xyxy, b["boxes"])
        torch.testing.assert_close(a.scores, b["scores"])
        assert torch.equal(a.labels, b["labels"] - 1)


def test_total_of_a_batch_is_the_sum_over_its_images_when_every_sample_is_used() -> None:
    head, features = build(**EVERYTHING), maps(3)
    targets = [target(5, 0), target(0, 1), target(7, 2, num_crowd=2)]
    whole = head.loss(head(features), targets)
    single = [head.loss(head([f[i : i + 1] for f in features]), targets[i : i + 1]) for i in range(3)]
    assert whole.count == 3
    torch.testing.assert_close(whole.total, sum(loss.total for loss in single), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num", [0, 1])
def test_no_object_or_one_gives_a_finite_loss_and_gradient(num: int) -> None:
    head = build()
    loss = head.loss(head(maps(2)), [target(num, 0), target(0, 1)])
    loss.total.backward()
    assert loss.count == 2
    assert loss.total > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_a_crowd_over_the_whole_image_teaches_nothing() -> None:
    head = build()
    everywhere = torch.tensor([[0.0, 0.0, SIZE, SIZE]])
    crowd = BoxTarget(boxes_xyxy=everywhere * 3 - SIZE, labels=torch.tensor([0]), is_crowd=torch.tensor([True]))
    loss = head.loss(head(maps(1)), [crowd])
    loss.total.backward()
    assert loss.total == 0
    assert all(p.grad is None or not p.grad.any() for p in head.parameters())


def test_half_an_image_of_crowd_leaves_the_other_half_as_background() -> None:
    head, features = build(**EVERYTHING), maps(1)
    output = head(features)
    left = torch.tensor([[-SIZE, -SIZE, SIZE / 2, 2 * SIZE]])
    crowd = BoxTarget(boxes_xyxy=left, labels=torch.tensor([1]), is_crowd=torch.tensor([True]))
    outside = covered_share(output.anchors, left) <= 0.5
    assert 0 < outside.sum() < len(outside)
    expected = nn.functional.softplus(output.objectness[0, outside]).mean()  # -log(1 - sigmoid)
    loss = head.loss(output, [crowd])
    assert loss.metrics["loss_objectness"] == pytest.approx(expected.item(), rel=1e-5)
    assert loss.metrics["loss_box"] == 0


def test_roi_align_reads_where_the_object_is_at_strides_that_are_no_power_of_two() -> None:
    head, strides = build(strides=(7, 14, 28)), (7, 14, 28)
    # Each cell holds its own x in pixels; in torchvision's RoIAlign index 0 is pixel 0.
    ramps = [(torch.arange(112 // s) * float(s)).expand(1, 16, 112 // s, -1).contiguous() for s in strides]
    box = torch.tensor([[20.0, 30.0, 50.0, 60.0]])
    pooled = head.roi.box_roi_pool({str(i): ramp for i, ramp in enumerate(ramps)}, [box], [(112, 112)])
    torch.testing.assert_close(pooled[0, 0, 0], torch.tensor([25.0, 35.0, 45.0]))


def test_detections_are_clipped_to_the_real_image() -> None:
    head = build(score_threshold=0.0).eval()
    (found,) = head.decode(head(maps(1)), [(50, 70)])
    assert len(found.scores) > 0
    assert found.boxes_xyxy.min() >= 0
    assert (found.boxes_xyxy.amax(dim=0)[2:] <= torch.tensor([70.0, 50.0])).all()
    assert ((found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]) > 0).all()


def test_it_learns_to_find_one_object() -> None:
    torch.manual_seed(0)
    head, features = build(roi_samples=16), maps(1)
    box = torch.tensor([[30.0, 40.0, 75.0, 90.0]])
    truth = BoxTarget(boxes_xyxy=box, labels=torch.tensor([1]), is_crowd=torch.tensor([False]))
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        head.loss(head(features), [truth]).total.backward()
        optimizer.step()
    (found,) = head.eval().decode(head(features), [(SIZE, SIZE)])
    assert (found.labels[0].item(), len(found.scores[found.scores > 0.5])) == (1, 1)
    assert box_iou(found.boxes_xyxy[:1], box).item() > 0.7


def test_strides_that_do_not_double_are_refused() -> None:
    with pytest.raises(UserError, match="strides double"):
        build(strides=(4, 16))


def test_covered_share_of_boxes_half_in_fully_in_and_outside() -> None:
    boxes = torch.tensor([[0, 0, 2, 2], [4, 4, 6, 6], [9, 9, 10, 10], [1, 1, 1, 1]]).float()
    regions = torch.tensor([[1, 0, 2, 2], [3, 3, 7, 7]]).float()
    assert covered_share(boxes, regions).tolist() == [0.5, 1, 0, 0]
    assert covered_share(boxes, regions[:0]).tolist() == [0, 0, 0, 0]

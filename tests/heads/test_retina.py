"""RetinaNet against torchvision's own with the same weights, and the anchors that it stands on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetina
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import remove_small_boxes, sigmoid_focal_loss
from toy_heads import CHANNELS, SIZE, STRIDES, Given, maps, shaken, specs, target
from whole_loss import head_loss

from vistruct.contracts import BoxTarget, FeatureSpec
from vistruct.heads.retina import Retina, RetinaConfig

SIZES = tuple(tuple(3.0 * stride * 2 ** (k / 3) for k in range(3)) for stride in STRIDES)


def build(**fields: object) -> Retina:
    torch.manual_seed(1)
    return shaken(RetinaConfig(anchor_scale=3.0, prior=0.1, **fields).build(specs(), 2), 0.12)


def reference(head: Retina, features: list[Tensor]) -> TorchvisionRetina:
    layers = RetinaNetHead(CHANNELS, 9, 2)
    layers.classification_head, layers.regression_head = head.classify, head.locate
    return TorchvisionRetina(
        Given(features),
        num_classes=2,
        min_size=SIZE,
        max_size=SIZE,
        anchor_generator=AnchorGenerator(SIZES, (head.config.ratios,) * len(STRIDES)),
        head=layers,
        score_thresh=head.config.score_threshold,
        nms_thresh=head.config.nms_iou,
        detections_per_img=head.config.max_detections,
        topk_candidates=head.config.max_candidates,
    )


@pytest.mark.parametrize("num", [7, 0])
def test_loss_and_gradient_equal_torchvisions_with_the_same_weights(num: int) -> None:
    head, features, truth = build(), maps(1), target(num, 0)
    weights = [head.classify.cls_logits.weight, head.locate.bbox_reg.weight]
    theirs = reference(head, features).train()(
        [torch.zeros(3, SIZE, SIZE)], [{"boxes": truth.boxes_xyxy, "labels": truth.labels}]
    )
    ours = head_loss(head, head(features), [truth])
    assert ours.count > 10 if num else ours.count == 0
    expected = {"loss_class": theirs["classification"].item(), "loss_box": theirs["bbox_regression"].item()}
    assert ours.metrics == pytest.approx(expected, rel=1e-5)
    expected_gradients = torch.autograd.grad(sum(theirs.values()), weights)
    for a, b in zip(torch.autograd.grad(ours.total / max(1, ours.count), weights), expected_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("max_candidates", "max_detections"), [(1000, 5000), (20, 7)])
def test_detections_equal_torchvisions_with_the_same_weights(max_candidates: int, max_detections: int) -> None:
    head = build(score_threshold=0.15, max_candidates=max_candidates, max_detections=max_detections)
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


def test_anchors_in_a_crowd_that_match_no_object_take_no_part() -> None:
    head, features = build(), maps(1)
    output, left = head(features), torch.tensor([[-SIZE, -SIZE, SIZE / 2, 2 * SIZE]])
    crowd = BoxTarget(boxes_xyxy=left, labels=torch.tensor([1]), is_crowd=torch.tensor([True]))
    low, high = output.anchors[:, 0], output.anchors[:, 2].clamp(max=SIZE / 2)  # as far as the crowd goes
    inside = (high - low).clamp(min=0) / (output.anchors[:, 2] - low) > 0.5
    assert 0 < inside.sum() < len(inside)
    expected = sigmoid_focal_loss(output.logits[0, ~inside], torch.zeros(int((~inside).sum()), 2), reduction="sum")
    assert head_loss(head, output, [crowd]).total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_anchors_of_an_octave_end_before_the_next_level_begins() -> None:
    head = RetinaConfig(ratios=(1.0,)).build(specs((14, 28)), 1)
    fine, coarse = head.anchors.lay([torch.zeros(1, 16, 4, 4), torch.zeros(1, 16, 2, 2)])
    sides = [(level[:3, 2] - level[:3, 0]).tolist() for level in (fine, coarse)]
    assert sides == [[56, 70, 88], [112, 142, 178]]  # 4 strides times 1, 2^(1/3), 2^(2/3), on whole pixels


def test_the_bias_gives_every_class_the_prior_before_training() -> None:
    head = RetinaConfig(prior=0.2).build((FeatureSpec(channels=16, stride=8),), 4)
    scores = head([torch.zeros(1, 16, 4, 4)]).logits.sigmoid()
    torch.testing.assert_close(scores, torch.full_like(scores, 0.2))

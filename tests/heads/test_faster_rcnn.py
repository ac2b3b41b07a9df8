"""Faster R-CNN against torchvision's own with the same weights, and the crowds that are left to its caller."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN as TorchvisionFasterRcnn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from toy_heads import SIZE, STRIDES, Given, maps, shaken, specs, target
from whole_loss import head_loss

from vistruct.contracts import BoxTarget
from vistruct.heads.faster_rcnn import FasterRcnn, FasterRcnnConfig
from vistruct.heads.roi_stage import RoiConfig, RoiStage
from vistruct.heads.rpn import RpnConfig
from vistruct.ops.window_area import covered_share

ALL_SAMPLES = 100_000  # nothing left to chance
RPN = RpnConfig(anchor_scale=3.0, samples=ALL_SAMPLES, candidates_train=50, proposals_train=60, proposals_test=40)
ROI = RoiConfig(size=3, width=32, aligned=False, samples=ALL_SAMPLES, positive=1.0)


def build(**fields: object) -> FasterRcnn:
    torch.manual_seed(1)
    return shaken(FasterRcnnConfig(**{"rpn": RPN, "roi": ROI, **fields}).build(specs(), 2), 0.1)


def predictor(roi: RoiStage) -> FastRCNNPredictor:
    """Their last layers: the background comes first, and has a box."""
    layers = FastRCNNPredictor(roi.config.width, roi.num_classes + 1)
    with torch.no_grad():
        for ours, theirs in zip(roi.logits.parameters(), layers.cls_score.parameters(), strict=True):
            theirs.copy_(ours.roll(1, dims=0))
        for ours, theirs in zip(roi.deltas.parameters(), layers.bbox_pred.parameters(), strict=True):
            theirs[4:] = ours
    return layers


def reference(head: FasterRcnn, features: list[Tensor]) -> TorchvisionFasterRcnn:
    rpn, roi, config = head.config.rpn, head.config.roi, head.config
    return TorchvisionFasterRcnn(
        Given(features),
        min_size=SIZE,
        max_size=SIZE,
        rpn_anchor_generator=AnchorGenerator(
            tuple((rpn.anchor_scale * stride,) for stride in STRIDES), (rpn.ratios,) * len(STRIDES)
        ),
        rpn_head=head.rpn.head,
        rpn_pre_nms_top_n_train=rpn.candidates_train,
        rpn_pre_nms_top_n_test=rpn.candidates_test,
        rpn_post_nms_top_n_train=rpn.proposals_train,
        rpn_post_nms_top_n_test=rpn.proposals_test,
        rpn_batch_size_per_image=rpn.samples,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], roi.size, roi.sampling),
        box_head=head.roi.layers,
        box_predictor=predictor(head.roi),
        box_score_thresh=config.score_threshold,
        box_nms_thresh=config.nms_iou,
        box_detections_per_img=config.max_detections,
        box_batch_size_per_image=roi.samples,
        box_positive_fraction=roi.positive,
    )


def test_losses_and_gradients_equal_torchvisions_with_the_same_weights() -> None:
    head, features, truth = build(), maps(1), target(6, 0)
    shared = [head.rpn.head.conv[0][0].weight, head.rpn.head.bbox_pred.weight, head.roi.layers.fc6.weight]
    losses = reference(head, features).train()(
        [torch.zeros(3, SIZE, SIZE)], [{"boxes": truth.boxes_xyxy, "labels": truth.labels + 1}]
    )
    expected = {
        "loss_objectness": losses["loss_objectness"].item(),
        "loss_proposal": losses["loss_rpn_box_reg"].item(),
        "loss_class": losses["loss_classifier"].item(),
        "loss_box": losses["loss_box_reg"].item(),
    }
    ours = head_loss(head, head(features), [truth])
    assert ours.metrics == pytest.approx(expected, rel=1e-5)
    assert min(expected.values()) > 0
    assert ours.total.item() == pytest.approx(sum(expected.values()), rel=1e-5)
    theirs = torch.autograd.grad(sum(losses.values()), shared)
    for a, b in zip(torch.autograd.grad(ours.total, shared), theirs, strict=True):
        assert b.abs().max() > 1e-4
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("max_detections", [300, 5])
def test_detections_equal_torchvisions_with_the_same_weights(max_detections: int) -> None:
    head, features = build(score_threshold=0.3, max_detections=max_detections).eval(), maps(2)
    with torch.no_grad():
        ours = head.decode(head(features), [(SIZE, SIZE)] * 2)
        theirs = reference(head, features).eval()([torch.zeros(3, SIZE, SIZE)] * 2)
    for a, b in zip(ours, theirs, strict=True):
        assert 5 <= len(a.scores) <= max_detections
        torch.testing.assert_close(a.boxes_xyxy, b["boxes"])
        torch.testing.assert_close(a.scores, b["scores"])
        assert torch.equal(a.labels, b["labels"] - 1)


def test_half_an_image_of_crowd_leaves_the_other_half_as_background() -> None:
    head, features = build(), maps(1)
    output = head(features)
    left = torch.tensor([[-SIZE, -SIZE, SIZE / 2, 2 * SIZE]])
    crowd = BoxTarget(boxes_xyxy=left, labels=torch.tensor([1]), is_crowd=torch.tensor([True]))
    outside = covered_share(output.anchors, left) <= 0.5
    assert 0 < outside.sum() < len(outside)
    expected = nn.functional.softplus(output.objectness[0, outside]).mean()  # -log(1 - sigmoid)
    loss = head_loss(head, output, [crowd])
    assert loss.metrics["loss_objectness"] == pytest.approx(expected.item(), rel=1e-5)
    assert loss.metrics["loss_box"] == 0


def test_proposals_for_training_and_for_detecting_have_their_own_numbers_in_either_mode() -> None:
    head = build(rpn=RPN.model_copy(update={"nms_iou": 1.0, "candidates_test": 20})).train()
    output = head(maps(1))
    for _ in ("train", "eval"):
        train, test = (head.rpn.proposals(output, 0, (SIZE, SIZE), train=train) for train in (True, False))
        assert (len(train), len(test)) == (60, 40)
        head.eval()


def test_an_object_below_the_least_overlap_has_no_anchor() -> None:
    tiny = BoxTarget(
        boxes_xyxy=torch.tensor([[40.0, 40.0, 42.0, 42.0]]),
        labels=torch.tensor([0]),
        is_crowd=torch.tensor([False]),
    )
    losses = {
        least: head_loss(build(rpn=RPN.model_copy(update={"least_iou": least})), build()(maps(1)), [tiny])
        for least in (0.0, 0.3)
    }
    assert losses[0.0].metrics["loss_proposal"] > 0
    assert losses[0.3].metrics["loss_proposal"] == 0


def test_covered_share_of_boxes_half_in_fully_in_and_outside() -> None:
    boxes = torch.tensor([[0, 0, 2, 2], [4, 4, 6, 6], [9, 9, 10, 10], [1, 1, 1, 1]]).float()
    regions = torch.tensor([[1, 0, 2, 2], [3, 3, 7, 7]]).float()
    assert covered_share(boxes, regions).tolist() == [0.5, 1, 0, 0]
    assert covered_share(boxes, regions[:0]).tolist() == [0, 0, 0, 0]

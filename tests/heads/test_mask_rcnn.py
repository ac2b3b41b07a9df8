"""Mask R-CNN against torchvision's own with the same weights, and masks cut by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_faster_rcnn import ROI, RPN
from test_faster_rcnn import reference as reference_of_boxes
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.models.detection.mask_rcnn import MaskRCNN as TorchvisionMaskRcnn
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from toy_heads import SIZE, learn, maps, rectangles, shaken, specs, target, truth
from whole_loss import head_loss

from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.mask_rcnn import MaskRcnn, MaskRcnnConfig, cut_masks
from vistruct.heads.roi_stage import RoiConfig
from vistruct.heads.rpn import RpnConfig


def build(**fields: object) -> MaskRcnn:
    torch.manual_seed(1)
    box = FasterRcnnConfig(rpn=RPN, roi=ROI, **fields)
    head = MaskRcnnConfig(box=box, mask_size=8, mask_width=8, mask_convs=2).build(specs(), 2)
    return shaken(head, 0.1)


def reference(head: MaskRcnn, features: list[Tensor]) -> TorchvisionMaskRcnn:
    """Their Faster R-CNN with their mask branch: the background comes first, and has a mask."""
    logits = MaskRCNNPredictor(8, 8, 3)
    logits.conv5_mask = head.logits.conv5_mask
    with torch.no_grad():
        logits.mask_fcn_logits.weight[1:] = head.logits.mask_fcn_logits.weight
        logits.mask_fcn_logits.bias[1:] = head.logits.mask_fcn_logits.bias
    model = reference_of_boxes(head.box, features)
    model.roi_heads.mask_roi_pool = MultiScaleRoIAlign(["0", "1", "2"], 4, 2)
    model.roi_heads.mask_head, model.roi_heads.mask_predictor = head.layers, logits
    return model


def test_losses_and_gradients_equal_torchvisions_with_the_same_weights() -> None:
    head, features, wanted = build(), maps(1), target(6, 0)
    masks = wanted.masks & (torch.rand(6, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) > 0.3)
    losses = reference(head, features).train()(
        [torch.zeros(3, SIZE, SIZE)],
        [{"boxes": wanted.boxes_xyxy, "labels": wanted.labels + 1, "masks": masks.to(torch.uint8)}],
    )
    ours = head_loss(head, head(features), [replace(wanted, masks=masks)])
    assert ours.metrics["loss_mask"] == pytest.approx(losses["loss_mask"].item(), rel=1e-5)
    assert ours.total.item() == pytest.approx(sum(losses.values()).item(), rel=1e-5)
    shared = [head.layers[0][0].weight, head.logits.conv5_mask.weight]
    theirs = torch.autograd.grad(losses["loss_mask"], shared)
    for a, b in zip(torch.autograd.grad(ours.total, shared), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_detections_and_masks_equal_torchvisions_with_the_same_weights() -> None:
    head, features = build(score_threshold=0.3, max_detections=20).eval(), maps(2)
    model = reference(head, features).eval()
    model.transform.postprocess = lambda result, *sizes: result  # masks as they leave the head, not yet in the image
    with torch.no_grad():
        ours, theirs = head.decode(head(features), [(SIZE, SIZE)] * 2), model([torch.zeros(3, SIZE, SIZE)] * 2)
    for a, b in zip(ours, theirs, strict=True):
        assert len(a.scores) > 5
        torch.testing.assert_close(a.boxes_xyxy, b["boxes"])
        assert a.masks.shape == (len(a.scores), 8, 8)
        torch.testing.assert_close(a.masks, b["masks"][:, 0])


def test_masks_go_with_their_objects_where_crowds_lie_between() -> None:
    head, features = build(), maps(1)
    four = target(4, 3)
    with_crowd = replace(four, is_crowd=torch.tensor([True, False, True, False]))
    alone = four.keep(torch.tensor([1, 3]))
    losses = [head_loss(head, head(features), [wanted]).metrics["loss_mask"] for wanted in (with_crowd, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # crowds have no positive proposals


@pytest.mark.parametrize("pixels", [1, 32_000_000])
def test_a_grid_over_a_rectangle_holds_its_share_of_each_cell(pixels: int, monkeypatch) -> None:
    monkeypatch.setattr("vistruct.heads.mask_rcnn.PIXELS_AT_ONCE", pixels)
    masks = rectangles(torch.tensor([[0.0, 0.0, 16.0, 64.0], [20.0, 20.0, 60.0, 60.0]]), size=64)
    boxes = torch.tensor([[20.0, 20.0, 60.0, 60.0], [8.0, 0.0, 24.0, 64.0], [30.0, 30.0, 50.0, 50.0]])
    cut = cut_masks(masks, torch.tensor([1, 0, 1]), boxes, 4, aligned=True)
    torch.testing.assert_close(cut[0], torch.ones(4, 4))
    torch.testing.assert_close(cut[1], torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(4, 4))
    torch.testing.assert_close(cut[2], torch.ones(4, 4))


def test_objects_without_masks_are_refused() -> None:
    head = build()
    with pytest.raises(ValueError, match="no masks"):
        head_loss(head, head(maps(1)), [replace(target(2, 0), masks=None)])


def test_an_image_without_objects_needs_no_masks() -> None:
    head = build()
    loss = head_loss(head, head(maps(1)), [replace(target(0, 0), masks=None)])
    loss.total.backward()
    assert loss.metrics["loss_mask"] == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.logits.parameters())


def test_it_learns_the_shape_of_an_object() -> None:
    box = torch.tensor([[24.0, 16.0, 104.0, 96.0]])
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    disc = (x - 64) ** 2 + (y - 56) ** 2 < 40**2
    head = MaskRcnnConfig(
        box=FasterRcnnConfig(
            rpn=RpnConfig(anchor_scale=3.0, samples=64, proposals_train=40, proposals_test=20),
            roi=RoiConfig(size=3, width=32, samples=12),
        ),
        mask_size=16,
        mask_width=16,
        mask_convs=2,
    ).build(specs(), 1)
    features = maps(1)
    for level in features:  # what is seen where: noise, by which places can be told apart, and the disc
        level[0, 0] = 4 * adaptive_avg_pool2d(disc.float()[None], level.shape[-2:])[0]
    learn(head, features, [replace(truth(box), masks=disc[None])], steps=50, lr=6e-3)
    (found,) = head.eval().decode(head(features), [(SIZE, SIZE)])
    expected = cut_masks(disc[None], torch.tensor([0]), found.boxes_xyxy[:1], 16, aligned=True)[0] > 0.5
    mask = found.masks[0] > 0.5
    assert ((mask & expected).sum() / (mask | expected).sum()).item() > 0.85
    assert not mask[0, 0]
    assert mask[8, 8]


def test_objects_that_were_annotated_as_boxes_alone_teach_no_mask() -> None:
    head, features = build(), maps(1)
    four = target(4, 3)
    without = replace(four, masks=torch.zeros_like(four.masks) if four.masks is not None else None)
    loss = head_loss(head, head(features), [without])
    loss.total.backward()
    assert loss.metrics["loss_mask"] == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.logits.parameters())
    assert head_loss(head, head(features), [four]).metrics["loss_mask"] > 0

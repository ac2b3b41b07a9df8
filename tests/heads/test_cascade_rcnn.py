"""Cascade R-CNN against the rules of the paper applied one proposal at a time, and against Faster R-CNN."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, roi_align
from toy_heads import CHANNELS, SIZE, STRIDES, maps, shaken, specs, target
from whole_loss import head_loss

from vistruct.heads.cascade_rcnn import STAGES, CascadeRcnn, CascadeRcnnConfig
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.roi_stage import RoiConfig, RoiStage
from vistruct.heads.rpn import RpnConfig

ALL_SAMPLES = 100_000  # nothing left to chance
RPN = RpnConfig(anchor_scale=3.0, samples=ALL_SAMPLES, proposals_train=40, proposals_test=25)
ROI = RoiConfig(size=3, width=32, sampling=0, beta=1.0, samples=ALL_SAMPLES, positive=1.0)


def build(**fields: object) -> CascadeRcnn:
    torch.manual_seed(1)
    return shaken(CascadeRcnnConfig(**{"rpn": RPN, "roi": ROI, **fields}).build(specs(), 2), 0.1)


def look(stage: RoiStage, features: list[Tensor], box: list[float]) -> tuple[Tensor, list[float]]:
    """The logits of one proposal in image 0, and its four deltas."""
    side = math.sqrt(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]))
    level = max(k for k, stride in enumerate(STRIDES) if k == 0 or side >= 14 * stride)
    roi = torch.tensor([[0.0, *box]])
    pooled = roi_align(features[level], roi, 3, 1 / STRIDES[level], sampling_ratio=-1, aligned=True)
    weights = stage.state_dict()
    seen = pooled.reshape(1, CHANNELS * 9)
    for layer in ("layers.fc6", "layers.fc7"):
        seen = (seen @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]).relu()
    said = [(seen @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])[0] for layer in ("logits", "deltas")]
    return said[0], said[1].tolist()


def moved(box: list[float], deltas: list[float], stds: tuple[float, ...], width: int, height: int) -> list[float]:
    """The box at which deltas of unit variance point, clipped to the image."""
    w, h = box[2] - box[0], box[3] - box[1]
    dx, dy, dw, dh = (delta * std for delta, std in zip(deltas, stds, strict=True))
    x, y = (box[0] + box[2]) / 2 + dx * w, (box[1] + box[3]) / 2 + dy * h
    w, h = w * math.exp(dw), h * math.exp(dh)
    bounds = (width, height, width, height)
    corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return [min(max(corner, 0.0), bound) for corner, bound in zip(corners, bounds, strict=True)]


def iou(a: list[float], b: list[float]) -> float:
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@torch.no_grad()
def test_detections_equal_the_papers_rules_applied_to_one_proposal_at_a_time(average: str) -> None:
    head, features = build(average=average, score_threshold=0.2, nms_iou=0.2), maps(1)
    output, (height, width) = head(features), (100, 120)
    candidates = []
    for proposal in head.rpn.proposals(output, 0, (height, width), train=False):
        box, said = proposal.tolist(), []
        for stage, config in zip(head.looks, STAGES, strict=True):
            logits, deltas = look(stage, features, box)
            box = moved(box, deltas, config.stds, width, height)
            said.append(logits if average == "logits" else logits.softmax(0))
        mean = sum(said) / 3
        scores = (mean.softmax(0) if average == "logits" else mean).tolist()[:2]
        candidates += [(score, label, box) for label, score in enumerate(scores) if score > 0.2]
    expected: list[tuple[float, int, list[float]]] = []
    for score, label, box in sorted(candidates, reverse=True):
        if all(label != other or iou(box, kept) <= 0.2 for _, other, kept in expected):
            expected.append((score, label, box))
    (found,) = head.decode(output, [(height, width)])
    assert len(expected) >= 4
    assert len(expected) < len(candidates)
    torch.testing.assert_close(found.scores, torch.tensor([e[0] for e in expected]), rtol=1e-4, atol=1e-5)
    assert found.labels.tolist() == [e[1] for e in expected]
    torch.testing.assert_close(found.boxes_xyxy, torch.tensor([e[2] for e in expected]), rtol=1e-4, atol=1e-2)


def test_the_two_averages_differ() -> None:
    output = build()(maps(1))
    scores = [build(average=a).decode(output, [(SIZE, SIZE)])[0].scores[:3] for a in ("logits", "probabilities")]
    assert not torch.allclose(*scores)


def test_losses_equal_the_papers_rules_with_every_proposal_used() -> None:
    head, features, truth = build(), maps(1), target(6, 0)
    output, boxes = head(features), truth.boxes_xyxy
    rois = head.rpn.proposals(output, 0, (SIZE, SIZE), train=True)
    expected = {}
    for number, (stage, config) in enumerate(zip(head.looks, STAGES, strict=True), start=1):
        rois = torch.cat([rois, boxes])
        overlap, which = box_iou(rois, boxes).max(dim=1)
        positive = overlap >= config.iou
        logits, deltas = stage(features, 0, rois)
        label = torch.where(positive, truth.labels[which], 2)
        goal = boxes[which]
        side, goal_side = rois[:, 2:] - rois[:, :2], goal[:, 2:] - goal[:, :2]
        shift = ((goal[:, 2:] + goal[:, :2]) - (rois[:, 2:] + rois[:, :2])) / 2 / side
        coded = torch.cat([shift, (goal_side / side).log()], dim=1) / torch.tensor(config.stds)
        loss_box = F.smooth_l1_loss(deltas[positive], coded[positive], reduction="sum") / len(rois)
        expected[f"loss_class_{number}"] = config.weight * F.cross_entropy(logits, label).item()
        expected[f"loss_box_{number}"] = config.weight * loss_box.item()
        rois = stage.move(rois, deltas, (SIZE, SIZE))[:-6, 0].detach()  # the six true boxes stay behind
    loss = head_loss(head, output, [truth])
    assert loss.metrics == pytest.approx({**loss.metrics, **expected}, rel=1e-4)
    assert set(loss.metrics) == {*expected, "loss_objectness", "loss_proposal"}
    assert min(expected.values()) > 0
    assert loss.total.item() == pytest.approx(sum(loss.metrics.values()), rel=1e-5)


def test_a_stage_does_not_teach_the_stages_before_it() -> None:
    head, features = build(), maps(1)
    only_last = CascadeRcnnConfig(
        rpn=RPN, roi=ROI, stages=(*(s.model_copy(update={"weight": 1e-12}) for s in STAGES[:2]), STAGES[2])
    ).build(specs(), 2)
    only_last.load_state_dict(head.state_dict())
    head_loss(only_last, only_last(features), [target(6, 0)]).total.backward()
    first, _, last = only_last.looks
    assert first.deltas.weight.grad.abs().max() < 1e-9
    assert last.deltas.weight.grad.abs().max() > 1e-5


def test_one_stage_is_a_class_agnostic_faster_rcnn() -> None:
    cascade = build(stages=STAGES[:1], score_threshold=0.3)
    faster = FasterRcnnConfig(rpn=RPN, roi=ROI, class_agnostic=True, score_threshold=0.3, max_detections=100).build(
        specs(), 2
    )
    faster.load_state_dict({name.replace("stages.0.", "roi."): value for name, value in cascade.state_dict().items()})
    features, targets = maps(2), [target(5, 0), target(3, 1)]
    losses = [head_loss(head, head(features), targets) for head in (cascade, faster)]
    assert losses[0].total == losses[1].total
    for a, b in zip(*(head.decode(head(features), [(SIZE, SIZE)] * 2) for head in (cascade, faster)), strict=True):
        assert len(a.scores) > 3
        assert torch.equal(a.boxes_xyxy, b.boxes_xyxy)
        assert torch.equal(a.scores, b.scores)


def test_the_published_numbers_are_the_defaults() -> None:
    config = CascadeRcnnConfig()
    assert [stage.iou for stage in config.stages] == [0.5, 0.6, 0.7]
    assert [stage.weight for stage in config.stages] == [1, 0.5, 0.25]
    assert (config.rpn.candidates_train, config.rpn.proposals_train) == (2000, 2000)
    assert (config.rpn.candidates_test, config.rpn.proposals_test) == (1000, 1000)
    assert config.rpn.least_iou == 0.3
    assert (config.rpn.beta, config.roi.beta) == (pytest.approx(1 / 9), 1.0)
    assert (config.score_threshold, config.nms_iou, config.max_detections) == (0.05, 0.5, 100)

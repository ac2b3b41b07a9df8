"""The detector as a task: whole images in, boxes in whole-image pixels out, and a head that learns."""

from __future__ import annotations

import copy
import itertools
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tables import with_objects
from torch import Tensor, nn
from whole_loss import task_loss

from vistruct import config as parts
from vistruct.contracts import (
    BackboneTraits,
    DataInfo,
    FeatureSpec,
    HeadTraits,
    JointBatch,
    Objects,
    Record,
    Sample,
    StreamBatch,
    Task,
)
from vistruct.errors import UserError
from vistruct.heads.cascade_rcnn import CascadeRcnnConfig
from vistruct.heads.detr import DetrConfig
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.fcos import FcosConfig
from vistruct.heads.oriented_fcos import OrientedFcosConfig
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.heads.oriented_roi import OrientedRoiConfig
from vistruct.heads.oriented_rpn import OrientedRpnConfig
from vistruct.heads.retina import RetinaConfig
from vistruct.heads.roi_stage import RoiConfig
from vistruct.heads.rpn import RpnConfig
from vistruct.metrics.coco import CocoBoxes
from vistruct.necks.simple_pyramid import SimplePyramidConfig
from vistruct.ops.oriented import cxcywha_to_quads
from vistruct.tasks.dense import Detect, DetectBatch, DetectCollator, DetectConfig, patches
from vistruct.tasks.joint import Joint, share_trunk
from vistruct.windows.views import Views

NAMES = ("red", "blue")


class TinyConvConfig(parts.Part):
    kind: Literal["test_detect:TinyConvConfig"] = "test_detect:TinyConvConfig"
    width: int = 32
    halvings: int = 3

    def build(self) -> TinyConv:
        return TinyConv(self)


class TinyConv(nn.Module):
    traits = BackboneTraits()

    def __init__(self, config: TinyConvConfig) -> None:
        super().__init__()
        self.specs = (FeatureSpec(channels=config.width, stride=2**config.halvings),)
        widths = [3, *[config.width] * config.halvings]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(4, b), nn.GELU())
                for a, b in itertools.pairwise(widths)
            )
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.layers(image)]


def detect_config(head: parts.Part | None = None, **fields: object) -> DetectConfig:
    return DetectConfig(
        **{
            "backbone": TinyConvConfig(),
            "neck": SimplePyramidConfig(channels=32, strides=(4, 8, 16)),
            "head": head or FcosConfig(num_convs=1),
            **fields,
        }
    )


def build(head: parts.Part | None = None, **fields: object) -> Detect:
    torch.manual_seed(0)
    return detect_config(head, **fields).build(DataInfo(class_names=NAMES), Path())


HEADS = (
    FcosConfig(num_convs=1, score_threshold=0.0),
    FasterRcnnConfig(
        rpn=RpnConfig(proposals_train=50, proposals_test=50), roi=RoiConfig(width=32, size=3), score_threshold=0.0
    ),
    RetinaConfig(score_threshold=0.0),
    CascadeRcnnConfig(
        rpn=RpnConfig(proposals_train=50, proposals_test=50), roi=RoiConfig(width=32, size=3), score_threshold=0.0
    ),
    DetrConfig(
        encoder_width=32,
        decoder_width=32,
        encoder_layers=1,
        decoder_layers=2,
        hidden=32,
        queries=20,
        dropout=0.0,
        score_threshold=0.0,
    ),
    OrientedFcosConfig(num_convs=1, score_threshold=0.0),
    OrientedRcnnConfig(
        rpn=OrientedRpnConfig(candidates=50, proposals=50), roi=OrientedRoiConfig(width=32, size=3), score_threshold=0.0
    ),
)


def said(traits: HeadTraits) -> HeadTraits:
    """Without its functions and layers, which are those of one head."""
    return replace(traits, convert_keys=None, to_published=None, repeated_blocks=())


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
def test_a_copy_and_one_that_was_sent_elsewhere_find_the_same(head: parts.Part) -> None:
    task = build(head).eval()
    batch = task.collator([sample(48, 64)])
    expected = task.predict(batch)
    for other in (copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert said(other.head.traits) == said(task.head.traits)
        for one, found in zip(expected, other.predict(batch), strict=True):
            assert torch.equal(one.objects.scores, found.objects.scores)
            assert torch.equal(one.objects.boxes_xyxy, found.objects.boxes_xyxy)


def sample(height: int, width: int, boxes: list[list[float]] | None = None, **fields: object) -> Sample:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    boxes = boxes or []
    return Sample(
        **with_objects(
            {
                "id": f"{height}x{width}",
                "image_id": f"{height}x{width}",
                "seed": 0,
                "images": [torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)],
                "boxes_xyxy": torch.tensor(boxes).reshape(-1, 4),
                "labels": torch.zeros(len(boxes), dtype=torch.int64),
                **fields,
            }
        )
    )


def squares(seed: int, side: int = 96) -> Sample:
    """Red and blue squares on grey."""
    rng = np.random.default_rng(seed)
    image = torch.full((3, side, side), 128, dtype=torch.uint8)
    boxes, labels = [], []
    for x, y in [(4, 6), (50, 10), (10, 52), (56, 58)]:
        size, label = int(rng.integers(14, 34)), int(rng.integers(2))
        image[:, y : y + size, x : x + size] = 0
        image[0 if label == 0 else 2, y : y + size, x : x + size] = 220
        boxes.append([x, y, x + size, y + size])
        labels.append(label)
    return Sample(
        id=f"squares {seed}",
        image_id=f"squares {seed}",
        seed=0,
        images=[image],
        objects=Objects(
            boxes_xyxy=torch.tensor(boxes).float(),
            labels=torch.tensor(labels),
            is_crowd=torch.zeros(len(labels), dtype=torch.bool),
        ),
    )


def record(sample: Sample) -> Record:
    return Record(
        id=sample.id,
        images=(Path(sample.id),),
        objects=Objects(
            boxes_xyxy=sample.objects.boxes_xyxy.numpy(),
            labels=sample.objects.labels.numpy(),
            is_crowd=sample.objects.is_crowd.numpy(),
        ),
    )


def test_it_learns_two_images_by_heart() -> None:
    torch.set_num_threads(1)
    task, samples = build(), [squares(0), squares(1)]
    batch = task.collator(samples)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        out = task_loss(task, batch)
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    metric = CocoBoxes([record(s) for s in samples], NAMES)
    with torch.inference_mode():
        metric.update(task.eval().predict(batch))
    assert metric.compute()["AP50"] > 0.8
    assert losses[-1] < losses[0] / 3


def test_images_are_padded_to_the_right_and_below_up_to_whole_cells_of_the_coarsest_level() -> None:
    samples = [sample(48, 64), sample(100, 77)]
    batch = build().collator(samples)
    assert batch.images.shape == (2, 3, 112, 80)
    assert batch.sizes_hw == [(48, 64), (100, 77)]
    for image, given, (height, width) in zip(batch.images, samples, batch.sizes_hw, strict=True):
        assert torch.equal(image[:, :height, :width], given.images[0])
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
def test_loss_and_predictions_come_for_images_of_any_size_and_number_of_objects(head: parts.Part) -> None:
    task = build(head)
    samples = [
        sample(1, 1),
        sample(30, 50, [[5, 5, 25, 20]]),
        sample(64, 17),
        sample(33, 33, [[0, 0, 33, 33]] * 3),
    ]
    batch = task.collator(samples)
    out = task_loss(task, batch)
    out.total.backward()
    assert out.total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())
    with torch.inference_mode():
        found = task.eval().predict(batch)
    assert [p.id for p in found] == [s.id for s in samples]
    for prediction, (height, width) in zip(found, batch.sizes_hw, strict=True):
        assert prediction.class_names == NAMES
        assert prediction.window_xyxy == (0, 0, width, height)
        edges = torch.tensor([width, height])
        if prediction.objects.boxes_cxcywha is None:
            assert (prediction.objects.boxes_xyxy >= 0).all()
            assert (prediction.objects.boxes_xyxy[:, 2:] <= edges).all()
        else:  # kept as they are where they reach over the border, left out where they are beyond it
            assert (prediction.objects.boxes_xyxy[:, 2:] > 0).all()
            assert (prediction.objects.boxes_xyxy[:, :2] < edges).all()
        assert (prediction.objects.scores[:-1] >= prediction.objects.scores[1:]).all()


def test_the_sum_over_micro_batches_is_the_batch() -> None:
    task = build()
    samples = [squares(0), squares(1), sample(96, 96), squares(2)]
    whole = task_loss(task, task.collator(samples))
    pieces = [task_loss(task, task.collator(samples[:1])), task_loss(task, task.collator(samples[1:]))]
    assert whole.count == sum(p.count for p in pieces) > 0
    torch.testing.assert_close(whole.total, sum(p.total for p in pieces), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
def test_bf16_autocast_changes_the_loss_by_rounding_only(head: parts.Part) -> None:
    task, found = build(head), []
    batch = task.collator([squares(0), squares(1)])
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = task_loss(task, batch)
            assert len(task.predict(batch)) == 2
        assert out.total.dtype == torch.float32
        found.append(out.loss.item())
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert found[1] != found[0]


@pytest.mark.parametrize("head", HEADS[-2:], ids=lambda head: head.kind)
def test_oriented_predictions_of_a_stretched_window_are_the_smallest_rectangles_around_them(head: parts.Part) -> None:
    task = build(head).eval()
    with torch.inference_mode():
        (here,) = task.predict(task.collator([sample(40, 60)]))
        (there,) = task.predict(task.collator([sample(40, 60, origin_xy=(10.0, 20.0), scale_xy=(2.0, 0.5))]))
    assert here.objects.boxes_cxcywha is not None
    assert there.objects.boxes_cxcywha is not None
    for before, after in zip(cxcywha_to_quads(here.objects.boxes_cxcywha), there.objects.boxes_cxcywha, strict=True):
        stretched = (before / torch.tensor([2.0, 0.5]) + torch.tensor([10.0, 20.0])).numpy()
        (cx, cy), sides, _ = cv2.minAreaRect(stretched)
        assert after[:2].tolist() == pytest.approx((cx, cy), abs=1e-2)
        assert sorted(after[2:4].tolist()) == pytest.approx(sorted(sides), abs=1e-2)


@pytest.mark.parametrize("head", HEADS[:-2], ids=lambda head: head.kind)
def test_predictions_of_a_scaled_window_come_back_in_pixels_of_the_whole_image(head: parts.Part) -> None:
    task = build(head).eval()
    plain = sample(40, 60)
    moved = sample(40, 60, origin_xy=(100.0, 200.0), scale_xy=(2.0, 0.5))
    with torch.inference_mode():
        (here,) = task.predict(task.collator([plain]))
        (there,) = task.predict(task.collator([moved]))
    assert len(here.objects) > 0
    x1, y1, x2, y2 = here.objects.boxes_xyxy.unbind(dim=1)
    expected = torch.stack([x1 / 2 + 100, y1 / 0.5 + 200, x2 / 2 + 100, y2 / 0.5 + 200], dim=1)
    torch.testing.assert_close(there.objects.boxes_xyxy, expected)
    assert there.window_xyxy == (100.0, 200.0, 130.0, 280.0)


def test_normalisation_is_the_mean_and_std_of_the_config_and_padding_is_zero(monkeypatch) -> None:
    task = build(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    seen: list[Tensor] = []
    monkeypatch.setattr(task.backbone, "forward", lambda image: seen.append(image) or [torch.zeros(1, 32, 2, 2)])
    white = sample(10, 12, images=[torch.full((3, 10, 12), 255, dtype=torch.uint8)])
    task_loss(task, task.collator([white]))
    expected = torch.tensor([(1 - 0.5) / 0.1, (1 - 0.4) / 0.2, (1 - 0.3) / 0.3])
    torch.testing.assert_close(seen[0][0, :, :10, :12], expected.view(3, 1, 1).expand(3, 10, 12))
    assert seen[0].shape == (1, 3, 16, 16)
    assert not seen[0][:, :, 10:].any()
    assert not seen[0][:, :, :, 12:].any()


def test_a_detector_is_a_task_whose_config_travels_through_json_and_collator_through_pickle() -> None:
    task = build()
    assert isinstance(task.collator, DetectCollator)
    assert pickle.loads(pickle.dumps(task.collator)) == task.collator
    assert {name for name in Task.__dict__ if not name.startswith("_")} <= set(dir(task)) | {"backbone"}
    again = DetectConfig.model_validate(task.config.model_dump(mode="json"))
    assert again == task.config
    assert not {"mean", "std"} & set(task.state_dict())


def test_a_batch_moves_as_a_whole() -> None:
    batch = build().collator([squares(0)])
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved, DetectBatch)
    assert moved.images.is_meta
    assert moved.targets[0].boxes_xyxy.is_meta
    assert (moved.ids, moved.sizes_hw) == (batch.ids, batch.sizes_hw)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"boxes_xyxy": torch.tensor([[1.0, 2.0, float("nan"), 5.0]])}, "not finite"),
        ({"boxes_xyxy": torch.tensor([[1.0, 2.0, 1.0, 5.0]])}, "no area"),
        ({"labels": torch.tensor([2])}, "2 classes"),
        ({"labels": torch.tensor([-1])}, "2 classes"),
        ({"images": []}, "takes one image"),
    ],
)
def test_a_sample_that_would_poison_training_is_refused_by_name(fields: dict, message: str) -> None:
    bad = sample(20, 20, [[1, 2, 9, 9]], id="the bad one", **fields)
    with pytest.raises(UserError, match=message) as error:
        build().collator([sample(20, 20), bad])
    assert error.value.where == "the bad one"


def test_predicting_on_flipped_images_is_refused() -> None:
    task = build()
    flipped = sample(20, 20, origin_xy=(float("nan"), float("nan")))
    with pytest.raises(UserError, match="augment"):
        task.predict(task.collator([flipped]))


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="multiple of the strides"):
        build(size_divisor=24)
    assert build(size_divisor=48).size_divisor == 48
    with pytest.raises(UserError, match="class names"):
        detect_config().build(DataInfo(), Path())
    with pytest.raises(UserError, match="fcoss"):
        DetectConfig.model_validate({**detect_config().model_dump(), "head": {"kind": "fcoss"}})
    with pytest.raises(ValidationError):
        FcosConfig(prior=1.0)


def test_gradients_reach_the_backbone_and_the_neck() -> None:
    task = build()
    task_loss(task, task.collator([squares(0)])).total.backward()
    for part in (task.backbone, task.neck):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_a_horizontal_head_learns_the_hull_of_an_oriented_box_as_far_as_it_shows() -> None:
    quads = torch.tensor([[[-6.0, 4.0], [4.0, -6.0], [12.0, 2.0], [2.0, 12.0]]])
    hull = torch.tensor([[-6.0, -6.0, 12.0, 12.0]])
    one = sample(20, 24, boxes_xyxy=hull, labels=torch.zeros(1, dtype=torch.int64), quads=quads)
    flat, turned = (
        DetectCollator(size_divisor=16, num_classes=1, is_oriented=oriented)([one]).targets[0]
        for oriented in (False, True)
    )
    assert flat.boxes_xyxy.tolist() == [[0, 0, 12, 12]]
    assert flat.boxes_cxcywha is None
    assert turned.boxes_cxcywha is not None
    cx, cy, w, h, _ = turned.boxes_cxcywha[0].tolist()
    assert (cx, cy) == pytest.approx((3, 3))
    assert (w, h) == pytest.approx((200**0.5, 128**0.5))


def test_masks_are_wanted_by_heads_that_learn_them() -> None:
    boxes, labels = torch.tensor([[2.0, 2.0, 6.0, 6.0]]), torch.zeros(1, dtype=torch.int64)
    collator = DetectCollator(size_divisor=16, num_classes=1, has_masks=True)
    with pytest.raises(UserError, match="learns from masks"):
        collator([sample(10, 12, boxes_xyxy=boxes, labels=labels)])
    masks = torch.ones(1, 10, 12, dtype=torch.bool)
    target = collator([sample(10, 12, boxes_xyxy=boxes, labels=labels, masks=masks)]).targets[0]
    assert target.masks is not None
    assert target.masks.shape == (1, 16, 16)
    assert target.masks.sum() == 120


def test_a_patch_is_what_the_grid_says_at_the_centres_of_the_pixels_inside_the_window() -> None:
    grid = torch.zeros(1, 4, 4)
    grid[:, :, 2:] = 1.0  # the right half of the box
    (patch,) = patches(grid, torch.tensor([[10.0, 20.0, 18.0, 28.0]]), (0.0, 0.0, 16.0, 100.0))
    assert (patch.x, patch.y, patch.pixels.shape) == (10, 20, (8, 6))
    assert patch.pixels[:, 4:].all()
    assert not patch.pixels[:, :4].any()


@pytest.mark.parametrize("head", [HEADS[0], HEADS[4]], ids=lambda head: head.kind)
def test_one_plain_view_is_no_view_and_a_second_one_is_joined_with_the_first(head: parts.Part) -> None:
    plain, one = build(head), build(head, views=Views(flips=("none",)))
    one.load_state_dict(plain.state_dict())
    both = build(head, views=Views(flips=("none", "horizontal"), scales=(1.0, 1.5)))
    both.load_state_dict(plain.state_dict())
    for task in (plain, one, both):
        task.eval()
    batch = plain.collator([sample(20, 24), sample(30, 40)])
    for a, b, c in zip(plain.predict(batch), one.predict(batch), both.predict(batch), strict=True):
        assert len(a.objects) > 0
        torch.testing.assert_close(a.objects.boxes_xyxy, b.objects.boxes_xyxy)
        torch.testing.assert_close(a.objects.scores, b.objects.scores)
        assert (c.objects.scores.diff() <= 0).all()
        height, width = c.window_xyxy[3], c.window_xyxy[2]
        assert (c.objects.boxes_xyxy[:, 2] <= width + 1).all()
        assert (c.objects.boxes_xyxy[:, 3] <= height + 1).all()
        assert c.objects.scores[0] >= a.objects.scores.max() - 1e-6  # the best of all views stays


def test_two_sets_share_all_of_detr_but_the_layer_of_their_classes() -> None:
    config = detect_config(HEADS[4], neck=None)
    one = config.build(DataInfo(class_names=NAMES), Path())
    other = config.build(DataInfo(class_names=("green",)), Path(), one.backbone)
    share_trunk(other, one, "trunk")
    ours, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    own = {name for name in ours if ours[name] is not theirs[name]}
    assert own == {"head.classes.weight", "head.classes.bias"}
    joint = Joint({"one": one, "other": other})
    tasks = (("one", one, squares(0)), ("other", other, sample(96, 64, [[8, 8, 40, 40]])))
    parts_of = tuple(StreamBatch(stream=name, batch=task.collator([case])) for name, task, case in tasks)
    together = joint(JointBatch(parts=parts_of)).terms
    for part in parts_of:
        for name, term in joint(part).terms.items():
            torch.testing.assert_close(together[name], term, rtol=1e-4, atol=1e-4)

"""What heads are told of padding, heads that give masks over whole images, and heads of pixels with their own loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_pixels import CellsConfig

from vistruct.config import Part
from vistruct.contracts import DataInfo, Detections, FeatureSpec, HeadLoss, HeadTraits, LearningHead, Sample, Shown
from vistruct.errors import UserError
from vistruct.heads.pixel_loss import Dice, PixelLoss
from vistruct.tasks.dense import DetectCollator, DetectConfig, of_image
from vistruct.tasks.segment import SegmentConfig
from vistruct.windows.views import Views

NAMES = ("bright",)
INFO = DataInfo(class_names=NAMES)


class BrightConfig(Part):
    """One object: whatever is bright, as a mask over the whole padded image."""

    kind: Literal["test_masks_of_images:BrightConfig"] = "test_masks_of_images:BrightConfig"

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> Bright:
        return Bright()


class Bright(nn.Module):
    traits, terms = HeadTraits(masks="image"), ("nothing",)

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Shown] = []

    def forward(self, features: list[Tensor], shown: Shown | None = None) -> Tensor:
        assert shown is not None
        self.told.append(shown)
        return features[0].mean(dim=1)

    def decode(self, output: Tensor, sizes_hw: Any) -> list[Detections]:
        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
        return [
            Detections(
                labels=torch.zeros(1, dtype=torch.int64), boxes_xyxy=boxes, scores=torch.ones(1), masks=one[None]
            )
            for one in 0.1 + 0.8 * (output > 0)
        ]


def sample(height: int, width: int, number: int = 0) -> Sample:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, height // 2 :, : width // 3] = 255
    return Sample(id=f"{number}", image_id=f"{number}", seed=0, images=[image])


def detector(views: Views | None = None) -> Any:
    config = DetectConfig(backbone=CellsConfig(), head=BrightConfig(), size_divisor=8, views=views)
    task = config.build(INFO, Path())
    with torch.no_grad():
        task.backbone.look.weight.fill_(1.0)
        task.backbone.look.bias.zero_()
    return task


@pytest.mark.parametrize(
    "views", [None, Views(flips=("none", "horizontal", "vertical", "diagonal"), scales=(1.0, 2.0))]
)
def test_masks_over_padded_batches_come_back_as_pixels_of_their_images(views: Views | None) -> None:
    task = detector(views)
    batch = task.collator([sample(20, 30), replace(sample(13, 41, 1), scale_xy=(0.5, 0.5))])
    for found, (height, width) in zip(task.predict(batch), ((20, 30), (26, 82)), strict=True):
        (patch,) = found.objects.masks if views is None else found.objects.masks[:1]
        whole = np.zeros((height, width), dtype=bool)
        whole[patch.y : patch.y + patch.pixels.shape[0], patch.x : patch.x + patch.pixels.shape[1]] = patch.pixels
        image = batch.images[int(found.id), 0, : batch.sizes_hw[int(found.id)][0], : batch.sizes_hw[int(found.id)][1]]
        expected = F.interpolate((image > 0).float()[None, None], (height, width), mode="bilinear")[0, 0] > 0.5
        assert np.array_equal(whole, expected.numpy())
    if views is None:
        assert task.head.told == [Shown(sizes_hw=((20, 30), (13, 41)), padded_hw=(24, 48))]


def test_an_image_without_a_bright_pixel_has_an_empty_mask() -> None:
    task = detector()
    dark = replace(sample(8, 8), images=[torch.zeros(3, 8, 8, dtype=torch.uint8)])
    (found,) = task.predict(task.collator([dark]))
    assert not found.objects.masks[0].pixels.any()


def test_each_step_to_the_image_is_bilinear_in_logits() -> None:
    logits = torch.randn(2, 5, 7)
    masks = logits.sigmoid()
    padded = F.interpolate(logits[:, None], (40, 56), mode="bilinear")[:, 0, :33, :50]
    expected = F.interpolate(padded[:, None], (66, 25), mode="bilinear")[:, 0].sigmoid()
    assert torch.allclose(of_image(masks, (40, 56), (33, 50), (66, 25)), expected, atol=1e-6)
    assert of_image(masks[:0], (40, 56), (33, 50), (66, 25)).shape == (0, 66, 25)


def test_soft_masks_stay_soft_in_a_target() -> None:
    soft = torch.full((1, 8, 8), 0.25)
    one = replace(sample(8, 8)).with_columns(
        labels=torch.zeros(1, dtype=torch.int64),
        boxes_xyxy=torch.tensor([[0.0, 0, 8, 8]]),
        is_crowd=torch.zeros(1, dtype=torch.bool),
        is_difficult=torch.zeros(1, dtype=torch.bool),
        is_ignored=torch.zeros(1, dtype=torch.bool),
        scores=torch.ones(1),
        masks=soft,
    )
    (target,) = DetectCollator(size_divisor=16, num_classes=1, has_masks=True)([one]).targets
    assert torch.equal(target.masks, F.pad(soft, (0, 8, 0, 8)))


@pytest.mark.parametrize("grid_hw", [(3, 4), (10, 7), (31, 53), (1, 1)])
def test_padding_is_what_its_nearest_pixel_is(grid_hw: tuple[int, int]) -> None:
    shown = Shown(sizes_hw=((17, 53), (31, 20), (1, 1)), padded_hw=(31, 53))
    mask = torch.ones(3, 1, 31, 53)
    for i, (h, w) in enumerate(shown.sizes_hw):
        mask[i, :, :h, :w] = 0
    assert torch.equal(shown.padding(grid_hw), F.interpolate(mask, grid_hw, mode="nearest")[:, 0].bool())


class OwnLossConfig(Part):
    """Learns the label that a cell has, by itself."""

    kind: Literal["test_masks_of_images:OwnLossConfig"] = "test_masks_of_images:OwnLossConfig"

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> OwnLoss:
        return OwnLoss(specs, num_classes)


class OwnLoss(nn.Module):
    traits, terms = HeadTraits(), ("own",)

    def __init__(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(specs[0].channels, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.layer(features[0])

    def learn(self, features: list[Tensor], label_maps: Tensor) -> HeadLoss:
        assert features[0].shape[-2:] == label_maps.shape[-2:]  # of cells of one pixel
        every = F.cross_entropy(self(features), label_maps.long(), ignore_index=-1, reduction="sum")
        return HeadLoss(terms={"own": every})

    def units(self, label_maps: Tensor) -> dict[str, float]:
        return {"own": float((label_maps >= 0).sum())}


def test_a_head_of_pixels_may_bring_its_loss() -> None:
    info = DataInfo(class_names=("ground", "bright"))
    task = SegmentConfig(backbone=CellsConfig(), head=OwnLossConfig(), size_divisor=8).build(info, Path())
    assert isinstance(task.head, LearningHead)
    assert task.traits.terms == ("own",)
    images = [replace(sample(h, 10), label_map=(sample(h, 10).images[0][0] > 0).short()) for h in (9, 12)]
    batch = task.collator(images)
    out, units = task(batch), task.units(batch)
    assert units == {"own": 9 * 10 + 12 * 10}
    logits = task.logits(task.normalise(batch.images, batch.sizes_hw))
    expected = F.cross_entropy(logits, batch.label_maps.long(), ignore_index=-1, reduction="sum")
    assert torch.allclose(out.terms["own"], expected, rtol=1e-5)
    assert task.predict(batch)[1].label_map.shape == (12, 10)


def test_a_loss_beside_one_of_the_heads_own_is_refused() -> None:
    info = DataInfo(class_names=("ground", "bright"))
    config = SegmentConfig(backbone=CellsConfig(), head=OwnLossConfig(), loss=PixelLoss(dice=Dice()))
    with pytest.raises(UserError, match="a loss of its own"):
        config.build(info, Path())

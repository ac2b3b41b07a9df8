"""The loss of maps of classes: torch, torchvision and MONAI as references, a slow one for hard pixels, and splits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss
from whole_loss import pixel_loss

from vistruct.contracts import IGNORED
from vistruct.errors import UserError
from vistruct.heads.pixel_loss import Dice, HardPixels, PixelLoss, hard_pixels

LOSSES = [
    PixelLoss(),
    PixelLoss(class_weights=(0.5, 0.0, 2.0, 1.0), smoothing=0.1),
    PixelLoss(focal_gamma=2.0),
    PixelLoss(hard=HardPixels(threshold=0.4, least_share=0.2)),
    PixelLoss(dice=Dice(weight=3.0, classes=(1, 3))),
    PixelLoss(class_weights=(1.0, 2.0, 3.0, 4.0), hard=HardPixels(), dice=Dice(), focal_gamma=0.5),
]


def made(
    num: int = 3, classes: int = 4, size_hw: tuple[int, int] = (5, 7), share_ignored: float = 0.2, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """float[B, K, H, W] logits and an int16[B, H, W] label map."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num, classes, *size_hw, generator=generator)
    labels = torch.randint(0, classes, (num, *size_hw), generator=generator, dtype=torch.int16)
    labels[torch.rand(labels.shape, generator=generator) < share_ignored] = IGNORED
    return logits, labels


def gradient(loss: PixelLoss, logits: Tensor, labels: Tensor) -> tuple[Tensor, float, Tensor]:
    """Total, count and the gradient of the total."""
    logits = logits.clone().requires_grad_()
    out = pixel_loss(loss, logits, labels)
    out.total.backward()
    assert logits.grad is not None
    return out.total.detach(), out.count, logits.grad


@pytest.mark.parametrize("weights", [None, (0.5, 0.0, 2.0, 1.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mean_and_gradient_are_torchs_cross_entropy(weights, smoothing):
    logits, labels = made()
    total, count, slope = gradient(PixelLoss(class_weights=weights, smoothing=smoothing), logits, labels)
    logits.requires_grad_()
    expected = F.cross_entropy(
        logits,
        labels.long(),
        None if weights is None else torch.tensor(weights),
        ignore_index=IGNORED,
        label_smoothing=smoothing,
    )
    expected.backward()
    torch.testing.assert_close(total / count, expected.detach())
    torch.testing.assert_close(slope / count, logits.grad)


def test_the_count_is_the_number_of_pixels_that_count():
    logits, labels = made()
    assert pixel_loss(PixelLoss(), logits, labels).count == int((labels != IGNORED).sum())


def test_the_count_with_weights_is_their_sum():
    labels = torch.tensor([[[0, 1, 1, IGNORED]]], dtype=torch.int16)
    assert pixel_loss(PixelLoss(class_weights=(0.5, 2.0)), torch.zeros(1, 2, 1, 4), labels).count == 4.5


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_of_two_classes_is_torchvisions_sigmoid_focal_loss(gamma):
    logits, labels = made(classes=2, share_ignored=0.0)
    logits[:, 0] = 0  # softmax of (0, x) is the sigmoid of x
    expected = sigmoid_focal_loss(logits[:, 1], labels.float(), alpha=-1, gamma=gamma, reduction="sum")
    torch.testing.assert_close(pixel_loss(PixelLoss(focal_gamma=gamma), logits, labels).total, expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_focal_gradients_are_finite_where_a_pixel_is_right_for_sure(gamma):
    labels = torch.tensor([[[1, 0, IGNORED]]], dtype=torch.int16)
    logits = torch.tensor([0.0, 200.0]).view(1, 2, 1, 1).repeat(1, 1, 1, 3)
    total, _, slope = gradient(PixelLoss(focal_gamma=gamma), logits, labels)
    assert total.isclose(torch.tensor(200.0))
    assert bool(slope.isfinite().all())
    assert not slope[..., 2].any()


@pytest.mark.parametrize("smooth", [1e-5, 1.0])
@pytest.mark.parametrize("classes", [None, (1, 2)])
def test_dice_is_monais(smooth, classes):
    logits, labels = made(share_ignored=0.0)
    labels[0] = 1  # three classes absent
    loss = PixelLoss(dice=Dice(weight=2.0, classes=classes, smooth=smooth))
    reference = DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=smooth, smooth_dr=smooth, reduction="none")
    every = reference(logits, labels[:, None].long()).reshape(3, 4)  # [B, K]
    expected = every.mean() if classes is None else every[:, list(classes)].mean()
    out = pixel_loss(loss, logits, labels)
    torch.testing.assert_close(out.metrics["loss_dice"], 2 * expected.item())
    entropy = F.cross_entropy(logits, labels.long())
    torch.testing.assert_close(out.metrics["loss_pixels"], entropy.item())
    torch.testing.assert_close(out.total / out.count, entropy + 2 * expected)


def test_dice_does_not_see_ignored_pixels():
    logits, labels = made(num=1)
    cut = labels[0] != IGNORED
    inside = logits[:, :, cut][..., None]  # the same pixels, in a row
    whole, part = (
        pixel_loss(PixelLoss(dice=Dice()), *pair).metrics["loss_dice"]
        for pair in ((logits, labels), (inside, labels[:, cut][..., None]))
    )
    torch.testing.assert_close(whole, part)


def test_dice_of_a_perfect_map_is_zero_absent_classes_included():
    labels = torch.zeros(1, 3, 3, dtype=torch.int16)
    logits = torch.full((1, 4, 3, 3), -60.0)
    logits[:, 0] = 60.0
    assert pixel_loss(PixelLoss(dice=Dice()), logits, labels).metrics["loss_dice"] == pytest.approx(0, abs=1e-6)


def slow_hard_pixels(
    logits: Tensor, labels: Tensor, threshold: float, least_share: float
) -> list[tuple[int, int, int]]:
    kept = []
    for b in range(len(labels)):
        rows = []
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                if labels[b, y, x] != IGNORED:
                    scores = [math.exp(float(s)) for s in logits[b, :, y, x]]
                    rows.append((scores[int(labels[b, y, x])] / sum(scores), y, x))
        rows.sort()
        least = math.ceil(least_share * len(rows))
        kept += [(b, y, x) for rank, (p, y, x) in enumerate(rows) if p < threshold or rank < least]
    return sorted(kept)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    threshold=st.sampled_from([0.05, 0.3, 0.7, 1.0]),
    share=st.sampled_from([0.01, 0.3, 1.0]),
    ignored=st.sampled_from([0.0, 0.5, 0.97]),
)
def test_hard_pixels_are_those_of_a_slow_search(seed, threshold, share, ignored):
    logits, labels = made(size_hw=(3, 4), share_ignored=ignored, seed=seed)
    kept = hard_pixels(logits, labels.long(), HardPixels(threshold=threshold, least_share=share))
    assert sorted(map(tuple, kept.nonzero().tolist())) == slow_hard_pixels(logits, labels, threshold, share)


def test_equally_hard_pixels_are_all_kept_wherever_they_are():
    labels = torch.tensor([[[0, 0, IGNORED, 0]]])
    kept = hard_pixels(torch.zeros(1, 4, 1, 4), labels, HardPixels(threshold=0.1, least_share=0.5))
    assert kept.tolist() == [[[True, True, False, True]]]


def test_the_loss_of_hard_pixels_is_their_mean_cross_entropy_in_each_image():
    logits, labels = made()
    hard = HardPixels(threshold=0.3, least_share=0.1)
    kept = hard_pixels(logits, labels.long(), hard)
    assert 0 < kept.sum() < (labels != IGNORED).sum()
    out = pixel_loss(PixelLoss(hard=hard), logits, labels)
    chosen = labels.long().masked_fill(~kept, IGNORED)
    means = [F.cross_entropy(a[None], b[None], ignore_index=IGNORED) for a, b in zip(logits, chosen, strict=True)]
    numbers = [int((one != IGNORED).sum()) for one in labels]  # an image's mean stands for all of its pixels
    expected = sum(number * mean for number, mean in zip(numbers, means, strict=True)) / sum(numbers)
    torch.testing.assert_close(out.total / out.count, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_split_of_the_batch_changes_no_total_count_or_gradient(loss):
    logits, labels = made(num=4)
    labels[2] = IGNORED
    whole = gradient(loss, logits, labels)
    parts = [gradient(loss, logits[a:b], labels[a:b]) for a, b in ((0, 1), (1, 3), (3, 4))]
    torch.testing.assert_close(sum(p[0] for p in parts), whole[0])
    assert sum(p[1] for p in parts) == pytest.approx(whole[1])
    torch.testing.assert_close(torch.cat([p[2] for p in parts]), whole[2])


@pytest.mark.parametrize("loss", LOSSES)
def test_an_image_with_everything_ignored_gives_zero_with_a_graph(loss):
    logits, labels = made()
    total, count, slope = gradient(loss, logits, torch.full_like(labels, IGNORED))
    assert (total, count, int(slope.count_nonzero())) == (0, 0, 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_pixel_is_enough(loss):
    labels = torch.full((1, 1, 1), 3, dtype=torch.int16)
    total, count, slope = gradient(loss, torch.tensor([0.5, 0.1, 0.2, -0.3]).view(1, 4, 1, 1), labels)
    assert count > 0
    assert bool(total.isfinite())
    assert slope[0, 3] < 0


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_logits_are_worth_what_they_say(loss):
    logits, labels = made()
    logits = logits.bfloat16()
    torch.testing.assert_close(pixel_loss(loss, logits, labels).total, pixel_loss(loss, logits.float(), labels).total)


@pytest.mark.parametrize(
    ("loss", "named"),
    [
        (PixelLoss(class_weights=(1.0, 2.0)), "class_weights"),
        (PixelLoss(class_weights=(1.0, 2.0, -1.0, 1.0)), "class_weights"),
        (PixelLoss(class_weights=(1.0, 2.0, math.nan, 1.0)), "class_weights"),
        (PixelLoss(dice=Dice(classes=(4,))), "dice.classes"),
    ],
)
def test_settings_that_are_not_of_these_classes_are_refused(loss, named):
    with pytest.raises(UserError) as caught:
        loss(*made())
    assert named in caught.value.where


def test_a_label_map_of_another_size_is_refused():
    logits, labels = made()
    with pytest.raises(ValueError, match="do not fit"):
        pixel_loss(PixelLoss(), logits, labels[:, 1:])

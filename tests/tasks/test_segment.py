"""Segmentation as a task: one image or a pair in, the class of every pixel of the file out."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import jaccard_score
from torch import Tensor
from toy_pixels import CellsConfig, DotsConfig, scene
from whole_loss import task_loss

from vistruct.contracts import IGNORED, DataInfo, Sample, Task
from vistruct.errors import UserError
from vistruct.tasks.segment import MapBatch, Segment, SegmentConfig
from vistruct.transforms.geometry import flip_horizontal, resize
from vistruct.windows.slide import Slide
from vistruct.windows.views import Views

NAMES = ("red", "green", "blue")


def build(channels: int = 3, cell: int = 1, **fields: object) -> Segment:
    torch.manual_seed(0)
    config = SegmentConfig(**{"backbone": CellsConfig(channels=channels, cell=cell), "head": DotsConfig(), **fields})
    return config.build(DataInfo(class_names=NAMES, channels=channels), Path())


def batch_of(task: Segment, *samples: Sample) -> MapBatch:
    return task.collator(list(samples))  # ty: ignore[invalid-return-type]


def by_hand(task: Segment, image: Tensor) -> Tensor:
    """float[3, H, W] logits of uint8[3, H, W], written out."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    features = F.relu(F.conv2d(((image / 255 - mean) / std)[None], task.backbone.look.weight, task.backbone.look.bias))
    return F.conv2d(features, task.head.linear.weight, task.head.linear.bias)[0]


def test_it_is_a_task():
    assert isinstance(build(), torch.nn.Module)
    task: Task = build()  # ty: ignore[invalid-assignment]
    assert callable(task.predict)


def test_the_loss_is_torchs_cross_entropy_of_all_counted_pixels_of_images_of_any_size():
    task, samples = build(), [scene(0), scene(1, (17, 40))]
    out = task_loss(task, batch_of(task, *samples))
    expected = sum(
        F.cross_entropy(by_hand(task, s.images[0])[None], s.label_map[None].long(), ignore_index=-1, reduction="sum")
        for s in samples
    )
    torch.testing.assert_close(out.total, expected)
    assert out.count == sum(int((s.label_map != IGNORED).sum()) for s in samples)


def test_a_split_of_the_batch_changes_neither_sum_nor_gradient():
    task, samples = build(cell=4), [scene(i) for i in range(4)]
    whole = task_loss(task, batch_of(task, *samples))
    whole.loss.backward()
    gradient = task.backbone.look.weight.grad.clone()
    task.zero_grad()
    parts = [task_loss(task, batch_of(task, *samples[:1])), task_loss(task, batch_of(task, *samples[1:]))]
    count = sum(part.count for part in parts)
    for part in parts:
        (part.total / count).backward()
    assert count == whole.count
    torch.testing.assert_close(task.backbone.look.weight.grad, gradient)


def test_it_learns_colours_and_its_predictions_agree_with_scikit_learn():
    task = build()
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.03)
    for step in range(60):
        optimizer.zero_grad()
        task_loss(task, batch_of(task, scene(2 * step), scene(2 * step + 1))).loss.backward()
        optimizer.step()
    unseen = scene(1000)
    with torch.no_grad():
        found = task.eval().predict(batch_of(task, unseen))[0].label_map
    counted = unseen.label_map != IGNORED
    assert jaccard_score(unseen.label_map[counted], found[counted], average="macro") > 0.95


@torch.no_grad()
def test_predictions_are_the_argmax_of_the_logits_with_their_probability():
    task, sample = build().eval(), scene(3)
    prediction = task.predict(batch_of(task, sample))[0]
    probabilities = by_hand(task, sample.images[0]).softmax(0)
    assert torch.equal(prediction.label_map.long(), probabilities.argmax(0))
    torch.testing.assert_close(prediction.confidence / 255, probabilities.amax(0), atol=0.5 / 255 + 1e-6, rtol=0)
    assert prediction.label_map.dtype == torch.int16
    assert prediction.window_xyxy is None


@torch.no_grad()
def test_images_of_several_sizes_in_a_batch_are_predicted_as_alone():
    task, samples = build().eval(), [scene(4), scene(5, (9, 50))]
    together = task.predict(batch_of(task, *samples))
    for sample, found in zip(samples, together, strict=True):
        assert torch.equal(found.label_map, task.predict(batch_of(task, sample))[0].label_map)
        assert found.label_map.shape == sample.label_map.shape


@torch.no_grad()
@pytest.mark.parametrize("views", [None, Views(flips=("none", "horizontal", "diagonal"))])
def test_windows_and_flips_change_nothing_for_a_model_that_sees_single_pixels(views):
    task, sample = build().eval(), scene(6, (40, 56))
    slid = build(slide=Slide(size=16, overlap=6, batch=3), views=views).eval()
    slid.load_state_dict(task.state_dict())
    whole, pieces = (t.predict(batch_of(t, sample))[0] for t in (task, slid))
    same = whole.label_map == pieces.label_map
    assert same.float().mean() > 0.999  # a tie may fall the other way
    torch.testing.assert_close(whole.confidence.int(), pieces.confidence.int(), atol=1, rtol=0)


@torch.no_grad()
def test_a_resized_sample_is_predicted_on_the_grid_of_its_file():
    task, sample = build().eval(), scene(7, (24, 32))
    for size in ((36, 48), (11, 30), (24, 32)):
        found = task.predict(batch_of(task, resize(sample, size)))[0]
        assert tuple(found.label_map.shape) == (24, 32)


@torch.no_grad()
def test_a_window_says_which_part_of_its_image_it_is():
    task = build().eval()
    window = replace(scene(8), id="scene@5_6_37_30", image_id="scene", origin_xy=(5.0, 6.0))
    assert task.predict(batch_of(task, window))[0].window_xyxy == (5, 6, 37, 30)


def test_predictions_about_a_flipped_image_are_refused():
    task = build().eval()
    with pytest.raises(UserError, match="flipped or turned"):
        task.predict(batch_of(task, flip_horizontal(scene(9))))


def test_an_image_that_is_all_ignored_teaches_nothing():
    task, sample = build(), scene(10)
    out = task_loss(task, batch_of(task, replace(sample, label_map=torch.full_like(sample.label_map, IGNORED))))
    assert out.count == 0
    out.loss.backward()
    assert float(out.total.detach()) == 0
    assert not task.backbone.look.weight.grad.any()


@torch.no_grad()
def test_the_difference_of_a_pair_does_not_know_which_came_first():
    task = build(kind="change", fusion="difference").eval()
    first, second = scene(11), scene(12)
    there, back = (
        task.predict(batch_of(task, replace(first, images=[a.images[0], b.images[0]])))[0]
        for a, b in ((first, second), (second, first))
    )
    assert torch.equal(there.label_map, back.label_map)
    assert torch.equal(there.confidence, back.confidence)


def test_the_maps_of_a_pair_are_put_beside_each_other_before_first():
    task = build(kind="change", fusion="concat")
    assert task.head.linear.in_channels == 2 * 16
    first, second = scene(13), scene(14)
    images = torch.stack([first.images[0], second.images[0]])[None]
    logits = task.logits(task.normalise(images))
    maps = [task.backbone(task.normalise(image[None]))[0] for image in images[0]]
    torch.testing.assert_close(logits, task.head.linear(torch.cat(maps, dim=1)))


def test_four_channels_go_through_with_one_mean_for_all():
    task = build(channels=4, mean=(0.5,), std=(0.25,))
    out = task_loss(task, batch_of(task, scene(15, channels=4)))
    assert torch.isfinite(out.loss)


def test_padding_gets_the_mean_colour_and_no_loss():
    task = build()
    small, large = scene(16, (8, 8)), scene(17, (24, 24))
    batch = batch_of(task, small, large)
    shown = task.normalise(batch.images, batch.sizes_hw)
    assert not shown[0, ..., 8:, :].any()
    assert not shown[0, ..., :, 8:].any()
    together, alone = task_loss(task, batch), [task_loss(task, batch_of(task, s)) for s in (small, large)]
    torch.testing.assert_close(together.total, alone[0].total + alone[1].total, rtol=1e-5, atol=1e-4)


def test_the_collator_travels_to_a_worker():
    task = build()
    assert pickle.loads(pickle.dumps(task.collator)) == task.collator


@pytest.mark.parametrize(
    ("sample", "what"),
    [
        (scene(0, num_images=2), "takes one"),
        (scene(0, channels=4), "4 channels"),
        (replace(scene(0), label_map=torch.full((24, 32), 3, dtype=torch.int16)), "for 3 classes"),
    ],
)
def test_samples_that_do_not_fit_are_refused_by_name(sample, what):
    with pytest.raises(UserError, match=what) as caught:
        build().collator([sample])
    assert caught.value.where == "scene 0"


def test_a_pair_of_two_sizes_is_refused():
    pair = replace(scene(0), images=[scene(0).images[0], scene(0, (24, 40)).images[0]])
    with pytest.raises(UserError, match="32 x 24 and 40 x 24"):
        build(kind="change", fusion="concat").collator([pair])


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="the backbone takes 3"):
        SegmentConfig(backbone=CellsConfig(), head=DotsConfig()).build(DataInfo(class_names=NAMES, channels=4), Path())
    with pytest.raises(UserError, match="tells classes apart"):
        SegmentConfig(backbone=CellsConfig(), head=DotsConfig()).build(DataInfo(class_names=("one",)), Path())
    with pytest.raises(UserError, match="not a multiple"):
        build(cell=8, size_divisor=12)
    with pytest.raises(UserError, match="fusion"):
        build(kind="change")
    with pytest.raises(UserError, match="mean"):
        build(mean=(0.5, 0.5))

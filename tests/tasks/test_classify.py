"""Classification as a task: an image in, scores out, one class or several."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from toy_pixels import COLOURS, CellsConfig, DotsConfig
from whole_loss import task_loss

from vistruct.contracts import DataInfo, Sample
from vistruct.errors import UserError
from vistruct.tasks.classify import ClassBatch, Classify, ClassifyConfig

NAMES = ("red", "green", "blue")


def build(**fields: object) -> Classify:
    torch.manual_seed(0)
    config = ClassifyConfig(**{"backbone": CellsConfig(cell=4), "head": DotsConfig(pooled=True), **fields})
    return config.build(DataInfo(class_names=NAMES), Path())


def picture(seed: int, labels: tuple[int, ...] | None, size_hw: tuple[int, int] = (16, 16)) -> Sample:
    """Columns in the colours of its classes."""
    generator = torch.Generator().manual_seed(seed)
    shown = torch.tensor(labels or (0,))[torch.arange(size_hw[1]) * len(labels or (0,)) // size_hw[1]]
    image = torch.tensor(COLOURS)[shown].T[:, None, :].expand(3, *size_hw)  # [3, H, W]
    image = (image + torch.randint(-30, 31, image.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    return Sample(id=f"picture {seed}", image_id=f"picture {seed}", seed=seed, images=[image], image_labels=labels)


def batch_of(task: Classify, *samples: Sample) -> ClassBatch:
    return task.collator(list(samples))  # ty: ignore[invalid-return-type]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5)])
def test_the_loss_is_torchs_cross_entropy(smoothing, weights):
    task = build(label_smoothing=smoothing, class_weights=weights)
    batch = batch_of(task, *(picture(i, (i % 3,)) for i in range(5)))
    out, logits = task_loss(task, batch), task.logits(batch.images)
    labels = torch.tensor([0, 1, 2, 0, 1])
    by = None if weights is None else torch.tensor(weights)
    torch.testing.assert_close(out.loss, F.cross_entropy(logits, labels, by, label_smoothing=smoothing))


def test_several_labels_learn_by_torchs_binary_cross_entropy():
    task = build(multi_label=True)
    batch = batch_of(task, picture(0, (0, 2)), picture(1, ()), picture(2, (1,)))
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert torch.equal(batch.targets, targets)
    out = task_loss(task, batch)
    torch.testing.assert_close(out.loss, F.binary_cross_entropy_with_logits(task.logits(batch.images), targets))


@pytest.mark.parametrize("multi_label", [False, True])
def test_it_learns_colours(multi_label):
    task = build(multi_label=multi_label)
    labels = [(0,), (1,), (2,), (0, 2), (1, 2)] if multi_label else [(0,), (1,), (2,)]
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.03)
    for step in range(80):
        optimizer.zero_grad()
        task_loss(task, batch_of(task, *(picture(100 * step + i, own) for i, own in enumerate(labels)))).loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = task.eval().predict(batch_of(task, *(picture(9000 + i, own) for i, own in enumerate(labels))))
    for own, prediction in zip(labels, found, strict=True):
        wanted = torch.zeros(3)
        wanted[list(own)] = 1
        assert torch.equal((prediction.scores > 0.5).float(), wanted)


@torch.no_grad()
def test_scores_of_one_class_sum_to_one_and_are_averaged_over_flips():
    task = build(flips=("none", "horizontal")).eval()
    sample = picture(3, (0, 1)[:1])
    sample.images[0][:, :, :8] = 90
    found = task.predict(batch_of(task, sample))[0]
    once = build().eval()
    seen = [once.scores(image[None])[0] for image in (sample.images[0], sample.images[0].flip(2))]
    torch.testing.assert_close(found.scores, (seen[0] + seen[1]) / 2)
    torch.testing.assert_close(found.scores.sum(), torch.tensor(1.0))
    assert not found.is_multi_label


def test_images_without_known_classes_are_predicted_and_not_learned_from():
    task = build().eval()
    batch = batch_of(task, picture(4, None))
    assert len(task.predict(batch)) == 1
    with pytest.raises(UserError, match="no classes to learn from"):
        task_loss(task, batch)


def test_the_collator_travels_to_a_worker():
    task = build()
    assert pickle.loads(pickle.dumps(task.collator)) == task.collator


@pytest.mark.parametrize(
    ("samples", "what"),
    [
        ([picture(0, (0,)), picture(1, (0,), (16, 20))], "in one batch"),
        ([picture(0, (0, 1))], "2 classes for one image"),
        ([replace(picture(0, (0,)), image_labels=(3,))], "where there are 3"),
        ([replace(picture(0, (0,)), images=[])], "takes one image"),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples, what):
    with pytest.raises(UserError, match=what):
        build().collator(samples)


def test_weights_must_be_one_for_each_class():
    with pytest.raises(UserError, match="2 weights for 3 classes"):
        build(class_weights=(1.0, 1.0))

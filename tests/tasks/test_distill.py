"""Distillation: losses by formula, and what a teacher's scale and a batch's parts may not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.checkpoint.tensors import write_tensors
from vistruct.contracts import DataInfo, Sample
from vistruct.engine.teachers import fetch
from vistruct.errors import UserError
from vistruct.tasks.distill import (
    Distill,
    DistillBatch,
    DistillConfig,
    LessonConfig,
    Standard,
    feature_error,
    relation_error,
)
from vistruct.tasks.teacher import TeacherConfig


def vit(width: int = 24, channels: int = 3, patch: int = 8, side: int = 32) -> InternVitConfig:
    return InternVitConfig(
        width=width, depth=1, heads=2, mlp_width=2 * width, patch=patch, image_size=side, channels=channels
    )


def teacher_file(folder: Path, config: InternVitConfig, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    write_tensors(folder / f"{seed}.safetensors", config.build().state_dict())
    return folder / f"{seed}.safetensors"


def task(folder: Path, channels: int = 3, **lesson: Any) -> Distill:
    teacher = TeacherConfig(backbone=vit(16), weights=teacher_file(folder, vit(16)))
    asked = LessonConfig(**{"teacher": teacher, "relations": "kl"} | lesson)
    torch.manual_seed(0)
    model = DistillConfig(backbone=vit(channels=channels), lessons={"one": asked}).build(
        DataInfo(channels=channels), Path()
    )
    fetch(model, torch.device("cpu"))
    return model


def batch_of(model: Distill, count: int = 4, side: int = 32, channels: int = 3, first: int = 0) -> DistillBatch:
    draw = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (channels, side, side), generator=draw, dtype=torch.uint8) for _ in range(count)]
    samples = [Sample(id=f"{i}", image_id=f"{i}", seed=i, images=[one]) for i, one in enumerate(images)]
    return model.collator(samples[first:])


def part(batch: DistillBatch, at: slice) -> DistillBatch:
    return DistillBatch(ids=batch.ids[at], image_ids=batch.image_ids[at], images=batch.images[at], plain=None)


def taught(model: Distill, batch: DistillBatch) -> dict[str, Tensor]:
    """Terms of a second step, after the statistics of a first one."""
    model.train()(batch)
    model.after_step()
    return dict(model(batch).terms)


@pytest.mark.parametrize("kind", ["mse", "cosine", "smooth_l1"])
def test_features_by_their_formulas(kind: Any) -> None:
    told, target = (np.random.default_rng(seed).normal(0, 2, (3, 5, 7)).astype(np.float32) for seed in (0, 1))
    off = told - target
    norms = np.linalg.norm(told, axis=2) * np.linalg.norm(target, axis=2)
    expected = {
        "mse": (off**2).mean(axis=(1, 2)),
        "cosine": 1 - ((told * target).sum(axis=2) / norms).mean(axis=1),
        "smooth_l1": np.where(np.abs(off) < 1, off**2 / 2, np.abs(off) - 0.5).mean(axis=(1, 2)),
    }[kind]
    found = feature_error(torch.from_numpy(told), torch.from_numpy(target), kind)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_relations_by_their_formulas() -> None:
    own, other = (np.random.default_rng(k).normal(0, 1, (2, 6, d)).astype(np.float32) for k, d in ((0, 4), (1, 9)))
    ours, theirs = (
        one @ one.transpose(0, 2, 1) for one in (x / np.linalg.norm(x, axis=2, keepdims=True) for x in (own, other))
    )
    gram = ((ours - theirs) ** 2).reshape(2, -1).mean(axis=1)
    logs, true = log_softmax(ours / 0.07, axis=2), log_softmax(theirs / 0.07, axis=2)
    divergence = (np.exp(true) * (true - logs)).sum(axis=2).mean(axis=1)
    for kind, expected in (("gram", gram), ("kl", divergence)):
        found = relation_error(torch.from_numpy(own), torch.from_numpy(other), kind, 0.07)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        same = relation_error(torch.from_numpy(own), torch.from_numpy(own), kind, 0.07)
        np.testing.assert_allclose(same, 0, atol=1e-6)


def test_channels_are_standardised_by_what_earlier_steps_saw() -> None:
    standard = Standard(3).train()
    steps = [torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(k)) * 4 + 7 for k in range(3)]
    for cells in steps:
        cells[..., 2] = 1.5  # a channel that says nothing
    assert standard(steps[0]).count_nonzero() == 0  # nothing is known yet
    assert standard.is_known == 0
    standard.after_step()
    standard(steps[1])
    standard.after_step()
    seen = torch.cat(steps[:2]).flatten(0, 1).double()
    expected = (steps[2] - seen.mean(0)) / seen.std(0, correction=0)
    expected[..., 2] = 0
    torch.testing.assert_close(standard(steps[2]), expected.float(), rtol=1e-5, atol=1e-5)


def test_statistics_stay_once_enough_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vistruct.tasks.distill.MEASURED", 4)
    standard, again = Standard(2).train(), Standard(2).train()
    for seed in range(4):
        standard(torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(seed)))
        standard.after_step()
        if seed == 1:
            kept = standard.sums.clone()
            again.load_state_dict(standard.state_dict())  # as a run that goes on
    again(torch.ones(2, 3, 2))
    again.after_step()
    assert torch.equal(standard.sums, kept)
    assert torch.equal(again.sums, kept)


@pytest.mark.parametrize("factor", [2.0**10, 2.0**-20])
def test_scaling_a_teacher_changes_nothing(factor: float, tmp_path: Path) -> None:
    def scaled(own: Any) -> dict[str, Tensor]:
        model = task(tmp_path)
        teacher: Any = model.lessons[0].teacher  # ty: ignore[unresolved-attribute]
        teacher.keep(lambda images: [own * one for one in teacher.look(images)])
        return taught(model, batch_of(model))

    plain, larger = scaled(1.0), scaled(factor)
    assert plain["features_one"] > 0.1
    for name, value in plain.items():
        torch.testing.assert_close(larger[name], value, rtol=1e-5, atol=1e-6)


def test_a_batch_is_the_sum_of_its_parts_and_order_changes_nothing(tmp_path: Path) -> None:
    model, other = task(tmp_path), task(tmp_path)
    batch = batch_of(model)
    parts = [part(batch, slice(0, 1)), part(batch, slice(1, 4))]
    for _ in range(2):  # the statistics of the second step are those of the first
        whole = model.train()(batch).terms
        halves = [other.train()(one).terms for one in reversed(parts)]
        for name, value in whole.items():
            torch.testing.assert_close(sum(one[name] for one in halves), value, rtol=1e-5, atol=1e-6)
        model.after_step()
        other.after_step()
    assert whole["features_one"] > 0
    assert model.units(batch) == {"features_one": 4.0, "relations_one": 4.0}


def test_a_teacher_is_no_part_of_its_task(tmp_path: Path) -> None:
    model = task(tmp_path)
    teacher: Any = model.lessons[0].teacher  # ty: ignore[unresolved-attribute]
    held = teacher.held[0]
    assert not any("teacher" in name for name in model.state_dict())
    assert not any(parameter is other for parameter in model.parameters() for other in held.parameters())
    before = {name: value.clone() for name, value in held.state_dict().items()}
    batch = batch_of(model)
    taught(model, batch)
    sum(model(batch).terms.values()).backward()  # ty: ignore[unresolved-attribute]
    assert not held.training
    assert all(parameter.grad is None for parameter in held.parameters())
    assert all(torch.equal(before[name], value) for name, value in held.state_dict().items())
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {"backbone.embeddings.patch_embedding.weight", "lessons.0.head.1.weight"} <= reached
    model.to(torch.device("meta"))
    assert all(parameter.is_meta for parameter in held.parameters())


def test_a_teacher_of_another_grid_covers_the_same_image(tmp_path: Path) -> None:
    config = vit(16, patch=12, side=36)
    model = task(tmp_path, teacher=TeacherConfig(backbone=config, weights=teacher_file(tmp_path, config, 2)))
    teacher: Any = model.lessons[0].teacher  # ty: ignore[unresolved-attribute]
    assert teacher(batch_of(model).images).shape == (4, 16, 3, 3)  # 32 pixels are enlarged to 36
    assert taught(model, batch_of(model))["relations_one"].isfinite()


def test_a_teacher_of_colours_sees_the_bands_that_it_is_given(tmp_path: Path) -> None:
    config = TeacherConfig(backbone=vit(16), weights=teacher_file(tmp_path, vit(16)), bands=(3, 2, 1))
    model = task(tmp_path, channels=5, teacher=config)
    images = torch.randint(0, 256, (2, 5, 32, 32), dtype=torch.uint8)
    teacher: Any = model.lessons[0].teacher  # ty: ignore[unresolved-attribute]
    other: Any = task(tmp_path).lessons[0].teacher  # ty: ignore[unresolved-attribute]
    torch.testing.assert_close(teacher(images), other(images[:, [3, 2, 1]]))
    with pytest.raises(UserError, match="takes 3 channels, and images have 5") as caught:
        task(tmp_path, channels=5)
    assert "--set task.lessons.one.teacher.bands=[0, 1, 2]" in str(caught.value)
    with pytest.raises(UserError, match=r"bands \[3, 2, 5\]"):
        task(tmp_path, channels=5, teacher=config.model_copy(update={"bands": (3, 2, 5)}))


def test_colours_change_for_the_student_alone(tmp_path: Path) -> None:
    model = task(tmp_path)
    samples = [Sample(id="a", image_id="a", seed=3, images=[torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)])]
    jittered = model.config.model_copy(update={"colours": 0.4}).build(DataInfo(), Path())
    batch = jittered.collator(samples)
    assert batch.plain is not None
    assert torch.equal(batch.plain[0], samples[0].images[0])
    assert not torch.equal(batch.images, batch.plain)
    assert torch.equal(jittered.collator(samples).images, batch.images)
    predicted: Any = jittered.traits.predict_collator
    assert torch.equal(predicted(samples).images[0], samples[0].images[0])


def test_what_does_not_fit_says_what_to_do(tmp_path: Path) -> None:
    model = task(tmp_path)
    with pytest.raises(UserError, match="no whole number of cells") as caught:
        batch_of(model, side=36)
    assert "multiple of 8" in str(caught.value)
    lesson = model.config.lessons["one"]
    for changes, what in (
        ({"features": "none", "relations": "none"}, "neither features nor relations"),
        ({"teacher": lesson.teacher.model_copy(update={"level": 3})}, "no map 3"),
    ):
        with pytest.raises(UserError, match=what):
            task(tmp_path, **changes)
    with pytest.raises(UserError, match="is no name"):
        DistillConfig(backbone=vit(), lessons={"a-b": lesson}).build(DataInfo(), Path())
    config = DistillConfig(backbone=vit(), lessons={"one": lesson}, mean=(1.0,), std=(1.0,))
    with pytest.raises(UserError, match="a teacher of colours from 0 to 1"):
        config.build(DataInfo(pixels="raw"), Path())
    with pytest.raises(UserError, match="no such file"):
        task(tmp_path, teacher=lesson.teacher.model_copy(update={"weights": tmp_path / "gone.safetensors"}))
    with pytest.raises(UserError, match="another shape"):
        task(tmp_path, teacher=lesson.teacher.model_copy(update={"backbone": vit(32)}))

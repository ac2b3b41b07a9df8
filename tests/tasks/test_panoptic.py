"""Things and stuff as segments: what is learned, what of the queries remains, and the way to files and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from panoptic_sets import NAMES, make_panoptic
from PIL import Image

from vistruct.contracts import DataInfo, Objects, PanopticPrediction, Sample, Segment
from vistruct.data.boxes import BoxDataConfig
from vistruct.errors import UserError
from vistruct.heads.mask2former import Mask2FormerConfig
from vistruct.heads.mask_loss import MaskLoss, truth_of_objects
from vistruct.heads.mask_queries import MaskQueriesConfig
from vistruct.inference.files import predict_files
from vistruct.inference.kind import kind_named
from vistruct.inference.model import load
from vistruct.inference.sources import cases_at
from vistruct.metrics.panoptic_quality import PanopticQuality, PanopticQualityConfig
from vistruct.recipes import panoptic
from vistruct.recipes.small import small_vit
from vistruct.runs import train_and_report
from vistruct.tasks.panoptic import Panoptic, PanopticConfig, segments_of


def by_hand(scores: Any, labels: Any, masks: np.ndarray, things: int) -> tuple[np.ndarray, list[tuple[int, bool]]]:
    """One pixel after the other, as the published inference says."""
    found, told = np.zeros(masks.shape[1:], int), []
    owner = np.full(masks.shape[1:], -1)
    for y, x in np.ndindex(*masks.shape[1:]):
        values = [scores[q] * masks[q, y, x] for q in range(len(masks))]
        owner[y, x] = int(np.argmax(values)) if values else -1
    merged: dict[int, int] = {}
    for q in range(len(masks)):
        own = owner == q
        whole, area = masks[q] >= 0.5, own & (masks[q] >= 0.5)
        if not own.any() or not whole.any() or not area.any() or own.sum() / whole.sum() < 0.8:
            continue
        if labels[q] >= things and labels[q] in merged:
            found[area] = merged[labels[q]]
            continue
        told.append((labels[q], labels[q] < things))
        found[area] = len(told)
        if labels[q] >= things:
            merged[labels[q]] = len(told)
    return found, told


def test_segments_are_those_of_the_published_inference() -> None:
    seen: set[tuple[int, int]] = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
        centres = torch.rand(9, 2, generator=generator) * 12
        far = (y - centres[:, :1, None]) ** 2 + (x - centres[:, 1:, None]) ** 2
        masks = (2 - far / (1 + 8 * torch.rand(9, 1, 1, generator=generator))).sigmoid()
        logits = torch.nn.functional.one_hot(torch.randint(5, (9,), generator=generator), 5) * 8.0
        logits += torch.rand(9, 5, generator=generator) * 5
        scores, labels = logits.softmax(-1).max(dim=1)
        kept = (labels < 4) & (scores > 0.8)
        found, segments = segments_of(logits, masks, lambda some: some, num_things=2, min_score=0.8, min_share=0.8)
        expected, told = by_hand(scores[kept].tolist(), labels[kept].tolist(), masks[kept].numpy(), 2)
        assert (found.numpy() == expected).all()
        assert [(one.label, one.is_thing) for one in segments] == told
        seen.add((len(told), int(kept.sum())))
    assert len(seen) > 6
    nothing, none = segments_of(logits, masks, lambda some: some, num_things=2, min_score=1.0, min_share=0.8)
    assert not nothing.any()
    assert none == ()


def small_head(queries: int = 8) -> Mask2FormerConfig:
    layers = MaskQueriesConfig(queries=queries, width=16, heads=2, levels=1, encoder_layers=1, decoder_layers=2)
    return Mask2FormerConfig(layers=layers, loss=MaskLoss(points=64))


def model(info: DataInfo, tmp_path: Path) -> Panoptic:
    torch.manual_seed(0)
    return PanopticConfig(backbone=small_vit(), head=small_head()).build(info, tmp_path)


def test_things_stuff_and_void_are_learned_as_what_they_are(tmp_path: Path) -> None:
    make_panoptic(tmp_path)
    dataset = BoxDataConfig(annotation=tmp_path, format="coco-panoptic", masks=True, label_maps="files").build()
    task = model(dataset.info, tmp_path)
    assert task.class_names == NAMES
    batch = task.collator([dataset.sample(i, 0) for i in range(3)])
    metric = PanopticQuality(dataset)
    for i, target in enumerate(batch.targets):
        true, truth = metric.truth(i), truth_of_objects(target)
        expected = {
            (label, (true.map == number).tobytes())
            for number, (label, is_crowd) in enumerate(zip(true.labels, true.crowds, strict=True), start=1)
            if not is_crowd
        }
        found = zip(truth.labels.tolist(), truth.masks.numpy(), strict=True)
        assert {(label, mask.tobytes()) for label, mask in found} == expected
        unknown = np.isin(true.map, [0, *(n for n, crowd in enumerate(true.crowds, start=1) if crowd)])
        assert truth.counts is not None
        assert (truth.counts.numpy() == ~unknown).all()
    output = task(batch)
    units = task.units(batch)
    assert units["mask"] == 2 + 3 + 3
    sum(output.terms.values()).backward()
    assert all(one.grad is not None for one in task.head.parameters())


def test_what_cannot_be_learned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lack one of them"):
        model(DataInfo(class_names=("a",), channels=3), tmp_path)
    task = model(DataInfo(class_names=("a",), map_class_names=("background", "a"), channels=3), tmp_path)
    image, objects = torch.zeros(3, 32, 32, dtype=torch.uint8), Objects(labels=torch.zeros(1, dtype=torch.int64))
    label_map = torch.zeros(32, 32, dtype=torch.int16)
    for sample, what in (
        (Sample(id="x", image_id="x", seed=0, images=[image], objects=objects, label_map=label_map), "without masks"),
        (Sample(id="x", image_id="x", seed=0, images=[image], label_map=label_map + 2), "2 classes of label maps"),
    ):
        with pytest.raises(UserError, match=what):
            task.collator([sample])


def test_a_prediction_has_the_size_of_the_file_and_a_perfect_one_is_read_back_as_the_truth(tmp_path: Path) -> None:
    run = panoptic.tiny().model_copy(update={"steps": 2})
    home = tmp_path / "run"
    train_and_report(run, home)
    loaded = load(home)
    scores = json.loads(next((home / "evaluations").glob("*.json")).read_text())
    assert "PQ" in json.dumps(scores)
    source = tmp_path / "images"
    source.mkdir()
    rng = np.random.default_rng(0)
    for number, (h, w) in enumerate(((50, 70), (64, 40))):
        Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)).save(source / f"s_{number}.png")
    loaded.task.config = loaded.task.config.model_copy(update={"min_score": 0.0, "min_share": 0.0})
    out = tmp_path / "out"
    results = predict_files(loaded, cases_at([source], 1), out)
    found = [one.read() for one in results.done]
    assert [tuple(one.segment_map.shape) for one in found] == [(50, 70), (64, 40)]
    assert any(one.segments for one in found)
    assert len(list((out / "pictures").glob("*.jpg"))) == 2
    truth = BoxDataConfig(
        annotation=out / "panoptic.json", images=source, format="coco-panoptic", masks=True, label_maps="files"
    )
    content = json.loads((out / "panoptic.json").read_text())
    assert [one["id"] for one in content["images"]] == [0, 1]
    metric = PanopticQualityConfig().build(truth.build())
    metric.update(found)
    assert metric.compute()["PQ"] == 1


def test_a_packed_prediction_is_drawn_with_and_without_segments() -> None:
    draw = kind_named("panoptic").draw
    assert draw is not None
    sample = Sample(id="a", image_id="a", seed=0, images=[torch.zeros(3, 40, 60, dtype=torch.uint8)])
    for number in (0, 2):
        found = PanopticPrediction(
            id="a",
            image_id="a",
            segment_map=torch.arange(20 * 30, dtype=torch.int32).view(20, 30) % (number + 1),
            segments=(Segment(label=0, is_thing=True, score=0.9), Segment(label=1, is_thing=False, score=0.9))[:number],
            class_names=("a", "b"),
        )
        assert draw([found], sample, None).size[0] >= 60

"""Classes of given boxes as a task: what is read of each box, what counts, and the whole way through a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_pixels import COLOURS, CellsConfig, DotsConfig
from whole_loss import task_loss

from vistruct.cli.main import main
from vistruct.config import Part
from vistruct.contracts import BackboneTraits, DataInfo, FeatureSpec, MapTask, Objects, Sample
from vistruct.data.boxes import BoxDataConfig
from vistruct.errors import UserError
from vistruct.heads.pooled import PooledConfig
from vistruct.metrics.identified import IdentifiedConfig
from vistruct.recipes import identify
from vistruct.samples.made_scenes import coco_folder
from vistruct.tasks.identify import Identify, IdentifyConfig
from vistruct.transforms.sizing import Size
from vistruct.windows.tiles import Tiles

NAMES = ("red", "green", "blue")


class SeenConfig(Part):
    """The image itself as a map at several strides, each cell the mean of its pixels."""

    kind: Literal["test_identify:SeenConfig"] = "test_identify:SeenConfig"
    strides: tuple[int, ...] = (4, 8)
    copies: tuple[int, ...] = (1, 1)  # of the three channels, on each level

    def build(self) -> Seen:
        return Seen(self)


class Seen(nn.Module):
    traits = BackboneTraits()

    def __init__(self, config: SeenConfig) -> None:
        super().__init__()
        self.config = config
        pairs = zip(config.strides, config.copies, strict=True)
        self.specs = tuple(FeatureSpec(channels=3 * copies, stride=stride) for stride, copies in pairs)

    def forward(self, image: Tensor) -> list[Tensor]:
        pairs = zip(self.config.strides, self.config.copies, strict=True)
        return [nn.functional.avg_pool2d(image, stride).repeat(1, copies, 1, 1) for stride, copies in pairs]


def build(names: tuple[str, ...] = NAMES, **fields: Any) -> Identify:
    torch.manual_seed(0)
    config = IdentifyConfig(**{"backbone": CellsConfig(cell=2), "cells": 3, **fields})
    return config.build(DataInfo(class_names=names), Path())


def scene(seed: int, num: int = 3, side: int = 32) -> Sample:
    """Squares of the colour of their class on grey."""
    rng = np.random.default_rng(seed)
    image, boxes, labels = torch.full((3, side, side), 90, dtype=torch.uint8), [], []
    for place in range(num):
        x, y, label = 10 * place + int(rng.integers(0, 3)), int(rng.integers(0, side - 8)), int(rng.integers(3))
        image[:, y : y + 8, x : x + 8] = torch.tensor(COLOURS[label], dtype=torch.uint8)[:, None, None]
        boxes.append([x, y, x + 8, y + 8])
        labels.append(label)
    table = Objects(labels=torch.tensor(labels).long(), boxes_xyxy=torch.tensor(boxes).float().reshape(-1, 4))
    return Sample(id=f"s{seed}", image_id=f"s{seed}", seed=seed, images=[image], objects=table)


def marked(sample: Sample, row: int, name: str) -> Sample:
    flags = torch.zeros(len(sample.objects), dtype=torch.bool)
    flags[row] = True
    return sample.with_columns(**{name: flags})


def test_a_box_is_read_where_it_lies_whatever_the_stride_and_the_window():
    task = build(backbone=SeenConfig(strides=(2,), copies=(1,)), head=PooledConfig(norm="none"))
    sample = scene(1)
    batch: Any = task.collator([sample])
    (cells,) = task.read(task.backbone(batch.images.float()), [sample.objects.boxes_xyxy])
    inner = cells[:, :, 1, 1]
    colours = torch.tensor(COLOURS)[sample.objects.labels].float()
    torch.testing.assert_close(inner, colours, atol=0.5, rtol=0)
    shown = replace(sample, origin_xy=(100.0, 50.0), scale_xy=(2.0, 0.5))
    (found,) = task.eval().predict(task.collator([shown]))  # ty: ignore[invalid-argument-type]
    expected = sample.objects.boxes_xyxy / torch.tensor([2.0, 0.5] * 2) + torch.tensor([100.0, 50.0] * 2)
    torch.testing.assert_close(found.objects.boxes_xyxy, expected)
    assert torch.equal(found.objects.extra["truth"], sample.objects.labels)  # ty: ignore[invalid-argument-type]


def test_of_several_levels_a_box_is_read_from_the_one_of_its_size_or_from_all():
    maps = [torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 16, 16)]
    boxes = [torch.tensor([[0.0, 0, 111, 111], [4, 4, 124, 124], [0, 0, 10, 10]])]  # 14 cells of stride 8: 112 pixels
    (by_size,) = build(backbone=SeenConfig(), head=PooledConfig(norm="none")).read(maps, boxes)
    assert by_size.mean(dim=(1, 2, 3)).tolist() == [0.0, 1.0, 0.0]
    each = build(backbone=SeenConfig(copies=(1, 2)), head=PooledConfig(maps="all"), levels="each")
    assert [tuple(one.shape) for one in each.read([maps[0], torch.ones(1, 6, 16, 16)], boxes)] == [
        (3, 3, 3, 3),
        (3, 6, 3, 3),
    ]
    with pytest.raises(UserError, match="no levels to choose from") as caught:
        build(backbone=SeenConfig(copies=(1, 2)))
    assert "task.levels=each" in caught.value.fix


def test_crowds_and_ignored_objects_are_neither_learned_nor_asked():
    task = build()
    plain = scene(2)
    for name in ("is_crowd", "is_ignored"):
        some, less = task.collator([marked(plain, 1, name)]), task.collator([plain.keep(torch.tensor([0, 2]))])
        assert task_loss(task, some).count == 2
        torch.testing.assert_close(task_loss(task, some).total, task_loss(task, less).total)
        (found,) = task.predict(some)  # ty: ignore[invalid-argument-type]
        assert torch.equal(found.objects.boxes_xyxy, plain.objects.boxes_xyxy[[0, 2]])


def test_a_batch_is_the_sum_of_its_boxes_and_no_box_is_no_loss():
    task = build(head=PooledConfig(pooling="attention", heads=4))
    samples = [scene(0), scene(1, 1), scene(2, 0)]
    whole = task_loss(task, task.collator(samples))
    apart = [task_loss(task, task.collator([one])) for one in samples]
    torch.testing.assert_close(whole.total, sum(one.total for one in apart))
    assert [one.count for one in apart] == [3, 1, 0]
    apart[2].total.backward()
    assert all(parameter.grad is not None for parameter in task.head.parameters())  # ty: ignore[unresolved-attribute]
    assert [len(one.objects) for one in task.predict(task.collator(samples))] == [3, 1, 0]  # ty: ignore
    assert isinstance(task, MapTask)


def test_colours_are_learned_on_a_frozen_backbone():
    task = build(head=DotsConfig(pooled=True))
    batch: Any = task.collator([scene(seed) for seed in range(16)])
    optimiser = torch.optim.Adam(task.head.parameters(), lr=0.1)  # ty: ignore[unresolved-attribute]
    for _ in range(60):
        optimiser.zero_grad()
        loss = task_loss(task, batch).loss
        loss.backward()
        optimiser.step()
    found = task.eval().predict(task.collator([scene(seed) for seed in range(100, 110)]))  # ty: ignore
    right = [(one.objects.labels == one.objects.extra["truth"]).float().mean() for one in found]  # ty: ignore
    assert sum(map(float, right)) / len(right) > 0.95


def test_windows_and_sizes_keep_the_boxes_of_the_data_set_in_their_order():
    file = coco_folder(NAMES[:2], "annotations", "{split}", masks=True) / "annotations" / "train.json"
    data = BoxDataConfig(annotation=file, tiles=Tiles(size=96, overlap=16), resize=Size(height=50, width=70))
    dataset = data.build()
    task, metric = build(names=dataset.info.class_names).eval(), IdentifiedConfig().build(dataset)
    for index in range(len(dataset)):
        found = task.predict(task.collator([dataset.sample(index, 0)]))  # ty: ignore[invalid-argument-type]
        metric.update([metric.condense(one) for one in found])
        x, y = (dataset.records[index].window_xyxy or (0, 0))[:2]
        expected = dataset.records[index].objects.boxes_xyxy + np.array([x, y, x, y])
        np.testing.assert_allclose(found[0].objects.boxes_xyxy.numpy(), expected, atol=1e-3)
    assert metric.compute()["boxes"] == sum(len(record.objects) for record in dataset.records) > 12
    assert len(metric.details()["images"]) == 2


def test_one_class_is_no_question():
    with pytest.raises(UserError, match="needs 2 classes"):
        build(names=("tree",))


def ran(*words: str) -> object:
    try:
        main(list(words))
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_the_tiny_twin_trains_its_head_alone_and_is_asked_about_boxes_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    run = tmp_path / "run"
    assert ran("train", "identify", "--tiny", "--out", str(run)) == 0
    kept = json.loads((run / "evaluations" / "val.json").read_text())
    assert kept["numbers"]["boxes"] == 6
    assert sum(map(sum, kept["details"]["confusion"])) == 6
    tiny: Any = identify.tiny()
    assert (tiny.only.task.levels, tiny.trainable[0].mode) == ("by_size", "frozen")
    folder = tiny.only.data.annotation.parent.parent
    capsys.readouterr()
    assert ran("eval", str(run), "--data", str(folder / "annotations" / "test.json"), "--json") == 0
    (again,) = json.loads(capsys.readouterr().out)["evaluations"].values()
    assert again["OA"] == pytest.approx(kept["numbers"]["OA"])
    assert ran("predict", str(run), str(folder / "test"), "--out", str(tmp_path / "found")) != 0
    assert "boxes that are given" in capsys.readouterr().err

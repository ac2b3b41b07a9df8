"""What evaluations leave in a run directory, made by the metrics themselves from made-up predictions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from vistruct.contracts import (
    IGNORED,
    ClassPrediction,
    DataInfo,
    Grounded,
    GroundedPrediction,
    MapPrediction,
    Objects,
    Phrase,
    Record,
)
from vistruct.engine.evaluate import Measured, keep_measured
from vistruct.issues import IssueCounter
from vistruct.metrics.classes import Classes
from vistruct.metrics.grounded import Grounding
from vistruct.metrics.pixels import Pixels
from vistruct.metrics.volumes import Volumes

LAND = ("background", "building", "road", "water")
BRAIN = ("background", "grey", "white")


def keep(run_dir: Path, name: str, kind: str, metric: Any) -> Measured:
    """Write `evaluations/NAME.json` of a metric that has its predictions."""
    numbers = metric.compute()
    measured = Measured(numbers=numbers, details=metric.details())
    keep_measured(run_dir / "evaluations" / f"{name}.json", kind, 40, measured)
    return measured


def pixels(names: tuple[str, ...] = LAND, images: int = 12, seed: int = 0) -> Pixels:
    """Images that get worse from the first, which is right, to the last; no pixel of the last class."""
    truths = [_map(seed + i, len(names) - 1) for i in range(images)]
    metric = Pixels(_dataset(names, truths, [Record(id=f"scene {i}", images=()) for i in range(images)]))  # ty: ignore
    metric.update([_said(f"scene {i}", f"scene {i}", one, i / images, names) for i, one in enumerate(truths)])
    return metric


def volumes(cases: int = 3, slices: int = 4) -> Volumes:
    """Cases that get worse from the first, which is right, to the last."""
    records = [
        Record(id=f"case {c}@z{z}", image_id=f"case {c}", images=(), slice=z)
        for c in range(cases)
        for z in range(slices)
    ]
    truths = [_map(i, len(BRAIN)) for i in range(len(records))]
    metric = Volumes(_dataset(BRAIN, truths, records))  # ty: ignore
    for i, (record, one) in enumerate(zip(records, truths, strict=True)):
        metric.update([_said(record.id, record.image_id, one, i // slices / cases, BRAIN)])
    return metric


def grounded(questions: int = 12) -> Grounding:
    """Questions for one thing of which the later ones are answered worse, and the last in a broken form."""
    metric = Grounding()
    for i in range(questions):
        sides = []
        for left in (float(i), 0.0):
            box = torch.tensor([[left, 0.0, left + 20.0, 20.0]])
            objects = Objects(labels=torch.zeros(1, dtype=torch.int64), boxes_xyxy=box)
            phrases = (Phrase(text="oak", unit="box", rows=(0,)),)
            defects = ("phrase not closed",) if left == questions - 1 else ()
            sides.append(Grounded(words=f"an oak at {left:.0f}", phrases=phrases, objects=objects, defects=defects))
        question = f"Where is <oak> {i}?"
        found, truth = sides
        metric.update(
            [
                GroundedPrediction(
                    id=f"q{i}", image_id=f"{i // 2}.png", question=question, answer="", found=found, truth=truth,
                    family="refer",
                )
            ]
        )  # fmt: skip
    return metric


def classes(*, multi_label: bool, images: int = 12) -> Classes:
    """Of image i the class i % 3 is true (and, multi-label, the next one too where i is odd)."""
    generator = np.random.default_rng(0)
    names = ("forest", "river", "town")
    truths = {f"{i}.png": (i % 3,) if not multi_label or i % 2 == 0 else (i % 3, (i + 1) % 3) for i in range(images)}
    metric = Classes(dict(truths), names)
    for image_id in truths:
        scores = generator.random(3) if multi_label else generator.dirichlet(np.ones(3))
        metric.update([
            ClassPrediction(id=image_id, image_id=image_id, scores=torch.from_numpy(scores), class_names=names,
                            is_multi_label=multi_label)
        ])  # fmt: skip
    return metric


def _dataset(names: tuple[str, ...], truths: list[torch.Tensor], records: list[Record]) -> SimpleNamespace:
    return SimpleNamespace(
        records=records,
        info=DataInfo(class_names=names),
        truth=truths.__getitem__,
        read_label_map=True,
        report=IssueCounter(),
    )


def _map(seed: int, num_classes: int) -> torch.Tensor:
    """int16[16, 20] in blocks, some not counted."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(num_classes, (4, 5), generator=generator).to(torch.int16)
    label_map = blocks.repeat_interleave(4, 0).repeat_interleave(4, 1)
    label_map[0, :3] = IGNORED
    return label_map


def _said(id: str, image_id: str, truth: torch.Tensor, wrong: float, names: tuple[str, ...]) -> MapPrediction:
    """The truth, but for a part `wrong` of the rows, where it is the next class."""
    found = truth.clamp(min=0)
    rows = round(wrong * len(found))
    found = torch.cat([(found[:rows] + 1) % len(names), found[rows:]]).to(torch.int16)
    return MapPrediction(id=id, image_id=image_id, label_map=found, class_names=names)

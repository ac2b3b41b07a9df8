"""Models whose answer is known, for the page: squares by their colour, and a teller of tales that tries to be html."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pixel_models import classifier, segmenter

from vistruct.checkpoint.load import ModelCard
from vistruct.contracts import (
    AnswerPrediction,
    BoxPrediction,
    DataInfo,
    Grounded,
    GroundedPrediction,
    MaskPatch,
    Objects,
    Phrase,
    Sample,
    TaskTraits,
)
from vistruct.data.input import Input, Windows
from vistruct.inference.model import Model
from vistruct.vlm.grammar import Grammar
from vistruct.web.desk import Runs

EVIL = '<img src=x onerror="window.hacked=1"><b>bold</b> **words**'


@dataclass(frozen=True, kw_only=True)
class _Batch:
    samples: list[Sample]
    on_text: Callable[[str], None] | None = None

    def to(self, _: torch.device) -> _Batch:
        return self


class _Task:
    config: Any = None
    on_text: Callable[[str], None] | None = None

    def collator(self, samples: list[Sample]) -> Any:
        return _Batch(samples=samples)

    def predict(self, batch: Any) -> list[Any]:
        self.on_text = batch.on_text
        return [self.look(sample) for sample in batch.samples]

    def look(self, sample: Sample) -> Any:
        raise NotImplementedError


class Squares(_Task):
    """The hull of what is red, with a score of a half; of what is blue, with nine tenths."""

    traits = TaskTraits(prediction="boxes", terms=(), class_names=("red <i>one</i>", "blue"))

    def look(self, sample: Sample) -> BoxPrediction:
        boxes, labels = [], []
        for label, channel in enumerate((0, 2)):
            y, x = np.nonzero(sample.images[0][channel].numpy() > 200)
            if len(x):
                boxes.append([float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)])
                labels.append(label)
        left, top = sample.origin_xy
        found = torch.tensor(boxes).reshape(-1, 4) + torch.tensor([left, top, left, top])
        numbers = torch.tensor(labels, dtype=torch.int64)
        objects = Objects(boxes_xyxy=found, labels=numbers, scores=0.5 + 0.4 * numbers.float())
        return BoxPrediction(
            id=sample.id, image_id=sample.image_id, objects=objects, class_names=self.traits.class_names
        )


class Teller(_Task):
    """Says what a page must not believe."""

    traits = TaskTraits(prediction="answers", terms=())

    def look(self, sample: Sample) -> AnswerPrediction:
        return AnswerPrediction(
            id=sample.id, image_id=sample.image_id, question=sample.turns[-1].text, answer=f"{EVIL} 𝔸"
        )


class Namer(_Task):
    """What is in boxes that are given: blue where a pixel is."""

    traits = TaskTraits(prediction="identified", terms=(), class_names=("nothing", "blue"))

    def look(self, sample: Sample) -> BoxPrediction:
        boxes = sample.objects.boxes_xyxy
        cut = [sample.images[0][2, y0:y1, x0:x1] for x0, y0, x1, y1 in boxes.int().tolist()]
        labels = torch.tensor([int((one > 200).any()) for one in cut])
        objects = Objects(boxes_xyxy=boxes, labels=labels, scores=torch.full((len(labels),), 0.75))
        return BoxPrediction(
            id=sample.id, image_id=sample.image_id, objects=objects, class_names=self.traits.class_names
        )


class Pointer(_Task):
    """Points at what is red, or blue, in the region that it is shown, by its mask; writes as a model does."""

    traits = TaskTraits(prediction="grounded", terms=())
    config = SimpleNamespace(pointing=SimpleNamespace(grammar=Grammar()))

    def look(self, sample: Sample) -> GroundedPrediction:
        turns = [turn for turn in sample.turns if turn.role == "user"]
        row = turns[-1].points[0][0] if turns[-1].points else None
        x0, y0, x1, y1 = (0, 0, 10**6, 10**6) if row is None else sample.objects.boxes_xyxy[row].int().tolist()
        channel = 0 if (sample.images[0][0, y0:y1, x0:x1] > 200).any() else 2
        name = "red" if channel == 0 else "blue"
        pixels = sample.images[0][channel].numpy() > 200
        y, x = np.nonzero(pixels)
        box = [float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)]
        mask = MaskPatch(pixels=pixels[y.min() : y.max() + 1, x.min() : x.max() + 1], x=int(x.min()), y=int(y.min()))
        objects = Objects(
            labels=torch.zeros(1, dtype=torch.int64), boxes_xyxy=torch.tensor([box]), scores=torch.tensor([0.8]),
            masks=(mask,),
        )  # fmt: skip
        words = f"Turn {len(turns)}: the {name} square."
        start = words.index(name)
        phrase = Phrase(text=f"{name} square", unit="mask", rows=(0,), start=start, end=start + len(name) + 7)
        if self.on_text is not None:
            self.on_text(f"Turn {len(turns)}: the <Phrase>{name}")
        found = Grounded(words=words, phrases=(phrase,), objects=objects)
        return GroundedPrediction(
            id=sample.id, image_id=sample.image_id, question=turns[-1].text, answer=words, found=found
        )


def model_of(task: Any, **shown: Any) -> Model:
    info = DataInfo(class_names=task.traits.class_names)
    card = ModelCard(path=Path("model"), task=None, info=info, input=Input(**shown), values={"sha256": "0"})
    return Model(task=task, card=card, device=torch.device("cpu"))


def runs() -> Runs:
    """By name."""
    patch = pytest.MonkeyPatch()
    change = {"kind": "change", "fusion": "difference"}
    return {
        "squares": lambda: model_of(Squares(), windows=Windows(size=64, overlap=16, unit="file")),
        "pixels": lambda: segmenter(patch),
        "changes": lambda: segmenter(patch, names=("unchanged", "changed", "other"), **change),
        "whole": lambda: classifier(patch),
        "tales": lambda: model_of(Teller()),
        "points": lambda: model_of(Pointer()),
    }


def squares(file: Path, size: int = 60) -> Path:
    """Black, with a red square from (10, 20) to (30, 40) and a blue one from (40, 5) to (50, 15)."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[20:40, 10:30, 0] = 255
    pixels[5:15, 40:50, 2] = 255
    Image.fromarray(pixels).save(file)
    return file

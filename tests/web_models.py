"""Models whose answer is known, for the page: squares by their colour, and a teller of tales that tries to be html."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pixel_models import classifier, segmenter

from vistruct.checkpoint.load import ModelCard
from vistruct.contracts import AnswerPrediction, BoxPrediction, DataInfo, Objects, Sample, TaskTraits
from vistruct.data.input import Input, Windows
from vistruct.inference.model import Model
from vistruct.web.desk import Runs

EVIL = '<img src=x onerror="window.hacked=1"><b>bold</b> **words**'


class _Task:
    config = None

    def collator(self, samples: list[Sample]) -> Any:
        return SimpleNamespace(samples=samples, to=lambda device: SimpleNamespace(samples=samples))

    def predict(self, batch: Any) -> list[Any]:
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
    }


def squares(file: Path, size: int = 60) -> Path:
    """Black, with a red square from (10, 20) to (30, 40) and a blue one from (40, 5) to (50, 15)."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[20:40, 10:30, 0] = 255
    pixels[5:15, 40:50, 2] = 255
    Image.fromarray(pixels).save(file)
    return file

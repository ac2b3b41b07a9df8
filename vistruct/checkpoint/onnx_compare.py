"""What an ONNX file says beside what its model says: numbers, and what is decided by them.

Two runtimes add in another order, so that numbers differ in their last digits: within SAME of the largest. Where two
classes are as likely, two boxes as good or a score is as high as the threshold, the last digits decide; what differs
for another reason is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistruct.checkpoint.onnx_images import pixels_of
from vistruct.checkpoint.onnx_run import OnnxFile, found_in
from vistruct.checkpoint.texts import differs
from vistruct.contracts import Sample
from vistruct.tasks.classify import Classify
from vistruct.tasks.dense import Detect
from vistruct.tasks.segment import Segment

SAME = 1e-4  # of the largest score, or of an image's longer side
UNDECIDED = 0.01  # part of the detections that the last digits may decide otherwise


@dataclass(frozen=True, kw_only=True)
class Apart:
    """The largest difference."""

    what: str
    largest: float  # as part of the largest score
    pixels: float = 0.0  # of boxes
    decided: int = 0  # detections, or pixels, that both have
    undecided: int = 0  # and those that one has alone, or that have another class

    def line(self) -> str:
        boxes = f", boxes within {self.pixels:.1e} px" if self.pixels else ""
        return (
            f"{self.what} within {self.largest:.1e}{boxes}, {self.decided} of {self.decided + self.undecided} the same"
        )


@torch.inference_mode()
def compare(task: Any, file: OnnxFile, every: Sequence[Sequence[Sample]]) -> Apart:
    """
    Raises:
        UserError: onnxruntime cannot run the file, or it does not say the same.
    """
    parts = [_apart(task, list(samples), file(pixels_of(samples)), file.path) for samples in every]
    return Apart(
        what=parts[0].what,
        largest=max(part.largest for part in parts),
        pixels=max(part.pixels for part in parts),
        decided=sum(part.decided for part in parts),
        undecided=sum(part.undecided for part in parts),
    )


def _apart(task: Any, samples: list[Sample], said: list[dict[str, Tensor]], file: Path) -> Apart:
    if isinstance(task, Detect):
        return _boxes(task, samples, said, file)
    batch = task.collator(samples)
    stacked = {name: torch.stack([one[name] for one in said]) for name in said[0]}
    if isinstance(task, Segment):
        own = task.probabilities(batch.images)
        found = _numbers("probabilities", stacked["probabilities"], own, file)
        return _choices(found, stacked["label_map"], own, file)
    assert isinstance(task, Classify)
    own = task.scores(batch.images)
    return _choices(_numbers("scores", stacked["scores"], own, file), stacked["scores"].argmax(dim=1), own, file)


def _numbers(what: str, said: Tensor, own: Tensor, file: Path) -> Apart:
    if said.shape != own.shape:
        raise differs(file, f"its {what} are of shape {list(said.shape)} in place of {list(own.shape)}")
    apart = float((said - own).abs().max() / own.abs().max().clamp_min(1e-12))
    if not apart <= SAME:  # NaN too
        raise differs(file, f"its {what} are {apart:.1e} of the largest away from ours")
    return Apart(what=what, largest=apart)


def _choices(apart: Apart, said: Tensor, own: Tensor, file: Path) -> Apart:
    """Classes, of which only those may differ that are as likely as another."""
    chosen = own.argmax(dim=1)
    other = said != chosen
    if own.shape[1] > 1:
        best = own.topk(2, dim=1).values
        clear = best[:, 0] - best[:, 1] > 2 * SAME * float(own.abs().max())
        if bool((other & clear).any()):
            raise differs(file, f"{int((other & clear).sum())} of its classes are others than ours")
    num = int(other.sum())
    return Apart(what=apart.what, largest=apart.largest, decided=other.numel() - num, undecided=num)


def _boxes(task: Detect, samples: list[Sample], said: list[dict[str, Tensor]], file: Path) -> Apart:
    """Each of our detections with the nearest one of its class there."""
    parts = []
    for own, there, sample in zip(task.predict(task.collator(samples)), said, samples, strict=True):
        height, width = sample.images[0].shape[-2:]
        rows = []
        for found in (own.objects, found_in(there, task.head, (height, width))):
            boxes = found.boxes_xyxy if found.boxes_cxcywha is None else found.boxes_cxcywha
            rows.append((boxes, found.scores, found.labels))
        parts.append(_matched(rows[0], rows[1], max(height, width), file))
    return Apart(
        what="scores",
        largest=max(part.largest for part in parts),
        pixels=max(part.pixels for part in parts),
        decided=sum(part.decided for part in parts),
        undecided=sum(part.undecided for part in parts),
    )


Rows = tuple[Any, Tensor, Tensor]  # boxes, scores, labels


def _matched(own: Rows, said: Rows, longer: int, file: Path) -> Apart:
    if not len(own[1]) or not len(said[1]):
        alone = max(len(own[1]), len(said[1]))
        if alone:
            raise differs(file, f"it finds {len(said[1])} objects where we find {len(own[1])}")
        return Apart(what="scores", largest=0.0)
    sides = own[0].shape[1] if own[0].shape[1] == 4 else 4  # of an oriented box its angle may go round
    away = (own[0][:, None, :sides] - said[0][None, :, :sides]).abs().amax(dim=2)  # [M, N], pixels
    away = torch.where(own[2][:, None] == said[2][None], away, torch.inf)
    scores = (own[1][:, None] - said[1][None]).abs() / own[1].max()
    near = (away <= SAME * longer) & (scores <= SAME)
    rows, columns = near.any(dim=1), near.any(dim=0)
    both, alone = int(rows.sum()), max(int((~rows).sum()), int((~columns).sum()))
    if alone > max(1, UNDECIDED * len(rows)) or (both == 0 and alone):
        raise differs(file, f"{alone} of {len(rows)} detections have no like")
    pixels = torch.where(near, away, torch.inf).amin(dim=1)[rows]
    values = torch.where(near, scores, torch.inf).amin(dim=1)[rows]
    largest = float(np.float32(values.max())) if both else 0.0
    return Apart(what="scores", largest=largest, pixels=float(pixels.max()), decided=both, undecided=alone)

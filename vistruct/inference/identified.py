"""Classes of boxes that are given (`identified`): drawn and measured as boxes, but images alone are no question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from vistruct.contracts import BoxPrediction, Objects, Sample
from vistruct.errors import UserError
from vistruct.inference.boxes import BOXES
from vistruct.inference.kind import Asked
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case
from vistruct.transforms.sizing import sized


@torch.inference_mode()
def _look(model: Model, cases: Sequence[Case], asked: Asked) -> list[BoxPrediction]:
    """The class of what is in each of the regions, which are boxes."""
    boxes = torch.tensor([[side for place in region.xy for side in place] for region in asked.regions])
    labels = torch.zeros(len(boxes), dtype=torch.int64)  # which nobody knows
    found: list[BoxPrediction] = []
    for case in cases:
        scene = model.scene(case)
        objects = Objects(labels=labels, boxes_xyxy=boxes.float().reshape(-1, 4)).tensors()
        images = list(scene.read(scene.whole))
        sample = Sample(id=case.name, image_id=case.name, seed=0, images=images, objects=objects)
        batch = model.task.collator([sized(sample, model.input.resize)]).to(model.device)
        found += model.task.predict(batch)
    return found


def _check(model: Model, cases: Sequence[Case], asked: Asked) -> None:
    """
    Raises:
        UserError: no boxes, or regions that are no boxes.
    """
    if not asked.regions:
        what = "this model says what is in boxes that are given, and images alone have none"
        run = model.card.path
        fix = f"vistruct eval {run} --data ANNOTATIONS; or draw boxes on the page of: vistruct web {run}"
        raise UserError(what, where=model.card.path, fix=fix)
    if any(region.kind != "box" for region in asked.regions):
        raise UserError("this model takes boxes", where="regions", fix="show what is meant by boxes alone")


def _metrics(task: Any) -> tuple[str, ...]:
    return ("identified",)


IDENTIFIED = replace(
    BOXES, name="identified", look=_look, check=_check, prompts=("box",), seen_in=None, metrics=_metrics, windows="file"
)

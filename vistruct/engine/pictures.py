"""Pictures that a run leaves in `samples/`: what it was fed first, and what it says at the end.

A label one pixel off, or a colour channel swapped, is seen at a glance and in no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistruct.contracts import AnswerPrediction, BoxPrediction, Dataset, MaskPatch, Sample, Turn
from vistruct.data.fetch import Fetch, batches_of
from vistruct.data.loader import Order
from vistruct.engine.draw import contact_sheet, draw_prediction, draw_sample
from vistruct.engine.draw_chat import draw_conversation
from vistruct.engine.environment import autocast
from vistruct.engine.evaluate import eval_mode
from vistruct.engine.run import State
from vistruct.ops.oriented import cxcywha_to_quads, quads_to_cxcywha
from vistruct.ops.seeds import derive

MOST = 6  # training samples on a sheet
FEW = 4  # predictions on a sheet: an answer takes its time


def draw_first_batch(state: State) -> Path:
    """`samples/first_batch.png`: the first samples of the first step exactly as the loader gives them."""
    run = state.run
    keys = Order(len(state.dataset), run.batch, run.seed).keys(0)[:MOST]
    samples = next(batches_of(Fetch(state.dataset, list, run.seed), iter([keys]), workers=0, say=_quietly))
    return draw_samples(samples, state.dataset, state.out_dir / "samples" / "first_batch.png")


@torch.no_grad()
def draw_predictions(state: State) -> list[Path]:
    """`samples/predictions_NAME.png` of each evaluation: a few samples, what the task says, and the truth.

    Several evaluations on the same data have one picture.
    """
    collator = getattr(state.task, "predict_collator", state.task.collator)
    written = []
    seen: list[Any] = []
    for name, dataset in state.eval_datasets.items():
        if state.run.evals[name].data in seen:
            continue
        seen.append(state.run.evals[name].data)
        step = max(1, len(dataset) // FEW)
        samples = [dataset.sample(i, derive(0, "eval", i)) for i in range(0, len(dataset), step)][:FEW]
        batch = collator(samples).to(state.device)
        with eval_mode(state.task), autocast(state.amp, state.device):
            predictions = state.task.predict(batch)
        owners = getattr(batch, "owners", range(len(samples)))
        pictures = [
            draw_predicted(sample, [p for p, owner in zip(predictions, owners, strict=True) if owner == number])
            for number, sample in enumerate(samples)
        ]
        shown = [picture for picture in pictures if picture is not None]
        if shown:
            path = state.out_dir / "samples" / f"predictions_{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            contact_sheet(shown, 1 if samples[0].turns else 2, [sample.id for sample in samples]).save(path)
            written.append(path)
    return written


def draw_predicted(sample: Sample, predictions: Sequence[Any]) -> Image.Image | None:
    """One sample with what was said of it; None for a kind of prediction that has no picture, or for none at all."""
    first = next(iter(predictions), None)
    if isinstance(first, BoxPrediction):
        return draw_prediction(sample.images[0], in_sample(first, sample), truth=sample)
    if isinstance(first, AnswerPrediction):
        turns = [turn for one in predictions for turn in _said(one)]
        return draw_conversation(replace(sample, turns=tuple(turns)))
    return None


def in_sample(prediction: BoxPrediction, sample: Sample) -> BoxPrediction:
    """A prediction in pixels of the whole image, in those of a sample that shows a part of it, on the CPU."""

    def moved(points: Tensor) -> Tensor:
        return (points - points.new_tensor(sample.origin_xy)) * points.new_tensor(sample.scale_xy)

    corners = prediction.boxes_xyxy.float().cpu().reshape(-1, 2, 2)
    oriented = prediction.boxes_cxcywha
    if oriented is not None and sample.scale_xy[0] == sample.scale_xy[1]:
        boxes = oriented.float().cpu()
        sides = boxes[:, 2:4] * sample.scale_xy[0]
        oriented = torch.cat([moved(boxes[:, :2]), sides, boxes[:, 4:]], dim=1)
    elif oriented is not None:  # a rectangle becomes a parallelogram: the smallest rectangle around it
        oriented = quads_to_cxcywha(moved(cxcywha_to_quads(oriented.float().cpu())))
    masks = prediction.masks
    return replace(
        prediction,
        boxes_xyxy=moved(corners).reshape(-1, 4),
        scores=prediction.scores.cpu(),
        labels=prediction.labels.cpu(),
        boxes_cxcywha=oriented,
        masks=None if masks is None else tuple(_mask_in_sample(mask, sample) for mask in masks),
    )


def _mask_in_sample(mask: MaskPatch, sample: Sample) -> MaskPatch:
    """Resized to whole pixels, and its corner rounded to one: half a pixel off at most."""
    (x0, y0), (sx, sy) = sample.origin_xy, sample.scale_xy
    height, width = mask.pixels.shape
    size = max(1, round(width * sx)), max(1, round(height * sy))
    pixels = np.asarray(Image.fromarray(mask.pixels).resize(size)) if size != (width, height) else mask.pixels
    return MaskPatch(pixels=pixels, x=round((mask.x - x0) * sx), y=round((mask.y - y0) * sy))


def _said(one: AnswerPrediction) -> tuple[Turn, Turn]:
    """A question with what the model answers, and with the truth where that is something else."""
    answer = one.answer or "(nothing)"
    if one.truth and one.answer != one.truth:
        answer += f"\n(truth: {one.truth})"
    return Turn(role="user", text=one.question), Turn(role="assistant", text=answer)


def draw_samples(samples: list[Sample], dataset: Dataset, path: Path) -> Path:
    """A sheet of samples with their boxes, or with their conversations where they have one."""
    pictures = [draw_one(sample, dataset) for sample in samples]
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = 1 if any(sample.turns for sample in samples) else 3
    contact_sheet(pictures, columns, [sample.id for sample in samples]).save(path)
    return path


def draw_one(sample: Sample, dataset: Any) -> Image.Image:
    """One sample with its truth."""
    return draw_conversation(sample) if sample.turns else draw_sample(sample, dataset.info.class_names)


def _quietly(_: str) -> None:
    """The loader says what was replaced; once is enough."""

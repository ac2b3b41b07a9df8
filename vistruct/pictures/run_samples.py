"""Pictures that a run leaves in `samples/`: what it was fed first, and what it says at the end.

A label one pixel off, or a colour channel swapped, is seen at a glance and in no number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vistruct.contracts import (
    AnswerPrediction,
    BoxPrediction,
    ClassPrediction,
    Dataset,
    MapPrediction,
    Sample,
    Turn,
)
from vistruct.data.loading.fetch import Fetch, batches_of
from vistruct.data.loading.loader import Order
from vistruct.engine.environment import autocast
from vistruct.engine.evaluate import eval_mode
from vistruct.engine.run import State
from vistruct.ops.seeds import derive
from vistruct.pictures.chat import draw_conversation
from vistruct.pictures.classes import draw_classes
from vistruct.pictures.in_sample import boxes_in_sample, map_in_sample
from vistruct.pictures.maps import draw_map, draw_map_prediction, draw_pair
from vistruct.pictures.objects import contact_sheet, draw_prediction, draw_sample
from vistruct.pictures.primitives import Colour
from vistruct.pictures.volume import draw_volume, evenly
from vistruct.reports.measured import Evaluation, image_scores, read_evaluations

MOST = 6  # training samples on a sheet
FEW = 4  # predictions on a sheet: an answer takes its time
CASE_SLICES = 6  # of a volume, with predictions


def draw_first_batch(state: State) -> Path:
    """`samples/first_batch.png`: the first samples of the first step exactly as the loader gives them."""
    run = state.run
    keys = Order(len(state.dataset), run.batch, run.seed).keys(0)[:MOST]
    samples = next(batches_of(Fetch(state.dataset, list, run.seed), iter([keys]), workers=0, say=_quietly))
    return draw_samples(samples, state.dataset, state.out_dir / "samples" / "first_batch.png")


@torch.no_grad()
def draw_predictions(state: State) -> list[Path]:
    """`samples/predictions_NAME.png` of each evaluation: a few samples, what the task says, and the truth; of volumes
    one case. `samples/worst_NAME.png`: those that it does worst on, where the evaluation has kept that.

    Several evaluations on the same data have one picture.
    """
    written = []
    seen: list[Any] = []
    kept = {one.name: one for one in read_evaluations(state.out_dir)}
    for name, dataset in state.eval_datasets.items():
        if state.run.evals[name].data in seen:
            continue
        seen.append(state.run.evals[name].data)
        if is_volume(dataset):
            cases = list(dict.fromkeys(record.image_id for record in dataset.records))
            chosen = {"predictions": cases[len(cases) // 2 : len(cases) // 2 + 1]}
        else:
            chosen = {"predictions": list(range(0, len(dataset), max(1, len(dataset) // FEW)))[:FEW]}
        if name in kept:
            chosen["worst"] = _worst(kept[name], dataset)
        for what, which in chosen.items():
            shown = _sheet(state, dataset, which)
            if shown is not None:
                path = state.out_dir / "samples" / f"{what}_{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                shown.save(path)
                written.append(path)
    return written


def _worst(evaluation: Evaluation, dataset: Any) -> list[Any]:
    """Case names of volumes, else indices of images that are one sample; the worst first, a third of all at most."""
    owners: dict[str, list[int]] = {}
    for index, record in enumerate(dataset.records):
        owners.setdefault(record.image_id, []).append(index)
    scores = [image_id for image_id, _ in image_scores(evaluation) if image_id in owners]
    worst = scores[: min(FEW, len(scores) // 3)]
    if is_volume(dataset):
        return worst[:1]
    return [owners[image_id][0] for image_id in worst if len(owners[image_id]) == 1]


def _sheet(state: State, dataset: Any, which: Sequence[Any]) -> Image.Image | None:
    """Those samples (or cases of volumes) with what the task says of them; None where it has no picture."""
    palette = dataset.info.palette
    if is_volume(dataset):
        cases = [draw_case(dataset, case, CASE_SLICES, functools.partial(_said_of, state)) for case in which]
        return contact_sheet(cases, 1, list(which)) if cases else None
    samples = [dataset.sample(i, derive(0, "eval", i)) for i in which]
    pictures = [(sample, draw_predicted(sample, _said_of(state, sample), palette)) for sample in samples]
    shown = [picture for _, picture in pictures if picture is not None]
    captions = [sample.id for sample, picture in pictures if picture is not None]
    if not shown:
        return None
    is_wide = bool(samples[0].turns) or samples[0].label_map is not None or len(samples[0].images) > 1
    return contact_sheet(shown, 1 if is_wide else 2, captions)


def _said_of(state: State, sample: Sample) -> list[Any]:
    """The task's predictions about one sample."""
    collator = getattr(state.task, "predict_collator", state.task.collator)
    batch = collator([sample]).to(state.device)
    with eval_mode(state.task), autocast(state.amp, state.device):
        return list(state.task.predict(batch))


def draw_predicted(
    sample: Sample, predictions: Sequence[Any], palette: Sequence[Colour] | None = None
) -> Image.Image | None:
    """One sample with what was said of it; None for a kind of prediction that has no picture, or for none at all.

    Args:
        palette: of label maps, where the data set has its own.
    """
    first = next(iter(predictions), None)
    if isinstance(first, BoxPrediction):
        return draw_prediction(sample.images[0], boxes_in_sample(first, sample), truth=sample)
    if isinstance(first, MapPrediction):
        said = map_in_sample(first, sample)
        if len(sample.images) == 2:
            return draw_pair(*sample.images, sample.label_map, said, first.class_names, palette)
        return draw_map_prediction(sample.images[0], said, sample.label_map, first.class_names, palette)
    if isinstance(first, ClassPrediction):
        return draw_classes(sample, first)
    if isinstance(first, AnswerPrediction):
        turns = [turn for one in predictions for turn in _said(one)]
        return draw_conversation(replace(sample, turns=tuple(turns)))
    return None


def _said(one: AnswerPrediction) -> tuple[Turn, Turn]:
    """A question with what the model answers, and with the truth where that is something else."""
    answer = one.answer or "(nothing)"
    if one.truth and one.answer != one.truth:
        answer += f"\n(truth: {one.truth})"
    return Turn(role="user", text=one.question), Turn(role="assistant", text=answer)


def draw_samples(samples: list[Sample], dataset: Dataset, path: Path) -> Path:
    """A sheet of samples with their truth; pairs and conversations each have a row."""
    pictures = [draw_one(sample, dataset) for sample in samples]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures, columns_for(samples), [sample.id for sample in samples]).save(path)
    return path


def columns_for(samples: Sequence[Sample]) -> int:
    """How many samples stand side by side."""
    return 1 if any(sample.turns or len(sample.images) > 1 for sample in samples) else 3


def draw_one(sample: Sample, dataset: Any) -> Image.Image:
    """One sample with its truth: a conversation, a pair, a label map, classes of the whole image, or objects."""
    info = dataset.info
    if sample.turns:
        return draw_conversation(sample)
    if len(sample.images) == 2:
        return draw_pair(*sample.images, sample.label_map, None, info.class_names, info.palette)
    if sample.label_map is not None:
        image = _slice(sample.images[0]) if is_volume(dataset) else sample.images[0]
        return draw_map(image, sample.label_map, info.class_names, info.palette)
    if sample.image_labels is not None:
        return draw_classes(sample, None, info.class_names)
    return draw_sample(sample, info.class_names)


def is_volume(dataset: Any) -> bool:
    """Whether its records are slices."""
    return len(dataset.records) > 0 and dataset.records[0].slice is not None


def draw_case(
    dataset: Any, case: str, most: int, ask: Callable[[Sample], Sequence[Any]] | None = None, seed: int = 0
) -> Image.Image:
    """A volume as a grid of at most `most` of its slices, with the truth, and with what `ask` says of each.

    Four times as many slices are read, and those drawn lie evenly among the ones that have labels.
    """
    indices = [index for index, record in enumerate(dataset.records) if record.image_id == case]
    read = [(i, dataset.sample(i, derive(seed, "eval", i))) for i in evenly(indices, 4 * most)]
    with_labels = [pair for pair in read if pair[1].label_map is not None and (pair[1].label_map > 0).any()]
    chosen = evenly(with_labels or read, most)
    maps = [found[0] for _, sample in chosen for found in [ask(sample)]] if ask is not None else []
    predictions = [map_in_sample(one, sample) for one, (_, sample) in zip(maps, chosen, strict=False)]
    return draw_volume(
        [sample.images[0] for _, sample in chosen],
        [sample.label_map for _, sample in chosen],
        dataset.info.class_names,
        dataset.info.palette,
        numbers=[dataset.records[i].slice for i, _ in chosen],
        predictions=predictions or None,
        most=most,
    )


def _slice(image: Tensor) -> Tensor:
    """uint8[1, H, W], the middle channel: the slice itself, where its neighbours are channels too."""
    return image[image.shape[0] // 2][None]


def _quietly(_: str) -> None:
    """The loader says what was replaced; once is enough."""

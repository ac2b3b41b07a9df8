"""A run from its start to its report: trained, its samples drawn, its report written.

Pictures go to `samples/`: what it was fed first, and what it says at the end, of what was hidden too. A label one pixel
off, or a colour channel swapped, is seen at a glance and in no number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.progress import Progress

from vistruct.config import Run
from vistruct.contracts import Sample
from vistruct.data.loading.fetch import Fetch, batches_of
from vistruct.data.loading.loader import Order
from vistruct.data.loading.streams import seed_of
from vistruct.distributed.precision import autocast
from vistruct.distributed.shard import gathered
from vistruct.engine.evaluate import asks_as_trained, eval_mode
from vistruct.engine.run import State
from vistruct.engine.train import started, train_steps
from vistruct.inference.kind import kind_of
from vistruct.ops.seeds import derive
from vistruct.pictures.objects import contact_sheet
from vistruct.pictures.restored import draw_restored
from vistruct.pictures.samples import draw_case, draw_samples, is_volume
from vistruct.reports.measured import Evaluation, image_scores, read_evaluations
from vistruct.reports.run_report import write_run_report

MOST = 6  # training samples on a sheet
FEW = 4  # predictions on a sheet: an answer takes its time
CASE_SLICES = 6  # of a volume, with predictions


def train_and_report(
    run: Run,
    out_dir: Path,
    *,
    progress: Progress | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    index: Path | None = None,
    is_shown: bool = True,
) -> Path:
    """`engine.train.train`, with pictures of the first batch and of predictions, and `report.html`.

    Args:
        is_shown: False: none of those, for one of many runs that nobody looks at.
        progress, on_step: as there.
        index: as `engine.run.build`.

    Raises:
        UserError, SystemExit: as `engine.train.train`.
    """
    with started(run, out_dir, progress=progress, index=index) as training:
        state = training.state
        if is_shown and state.ranks.is_main and state.step == 0:
            draw_first_batch(state)
        train_steps(training, on_step)
        if not is_shown:
            return out_dir
        with gathered(state.model):
            if state.ranks.is_main:
                draw_predictions(state)
                draw_reconstructions(state)
        if state.ranks.is_main:
            write_run_report(out_dir)
    return out_dir


def draw_first_batch(state: State) -> list[Path]:
    """`samples/first_batch.png`: the first samples as the loader gives them; each of several streams has one, but those
    that learn from the samples of another."""
    drawn = []
    for name, source in state.sources.items():
        if source.stream.samples:
            continue
        file = "first_batch.png" if len(state.sources) == 1 else f"first_batch_{name}.png"
        drawn.append(draw_samples(_first(state, name, MOST), source.dataset, state.out_dir / "samples" / file))
    return drawn


def _first(state: State, name: str, most: int) -> list[Sample]:
    """The first samples of a stream as the loader gives them."""
    source, seed = state.sources[name], seed_of(state.run, name)
    keys = Order(len(source.dataset), source.stream.batch, seed).keys(0)[:most]
    return next(batches_of(Fetch(source.dataset, list, seed), iter([keys]), workers=0, say=_quietly))


@torch.no_grad()
def draw_predictions(state: State) -> list[Path]:
    """`samples/predictions_NAME.png` of each evaluation: a few samples, what the task says, and the truth; of volumes
    one case. `samples/worst_NAME.png`: those that it does worst on, where the evaluation has kept that.

    Several evaluations of one task on the same data have one picture.
    """
    written = []
    seen: list[Any] = []
    kept = {one.name: one for one in read_evaluations(state.out_dir)}
    for name, dataset in state.eval_datasets.items():
        asked = state.asked(name).task, state.run.evals[name].data
        if asked in seen:
            continue
        seen.append(asked)
        if is_volume(dataset):
            cases = list(dict.fromkeys(record.image_id for record in dataset.records))
            chosen = {"predictions": cases[len(cases) // 2 : len(cases) // 2 + 1]}
        else:
            chosen = {"predictions": list(range(0, len(dataset), max(1, len(dataset) // FEW)))[:FEW]}
        if name in kept:
            chosen["worst"] = _worst(kept[name], dataset)
        for what, which in chosen.items():
            shown = _sheet(state, state.asked(name).task, dataset, which)
            if shown is not None:
                path = state.out_dir / "samples" / f"{what}_{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                shown.save(path)
                written.append(path)
    return written


@torch.no_grad()
def draw_reconstructions(state: State) -> list[Path]:
    """`samples/reconstructions_NAME.png`, of tasks that tell what was hidden: of each evaluation of their loss, and
    where there is none of the first training samples."""
    drawn: dict[str, tuple[Any, list[Sample]]] = {}
    held_out = set()
    for name, dataset in state.eval_datasets.items():
        source = state.asked(name)
        if source.task.traits.restore is not None and asks_as_trained(state.run.evals[name], dataset):
            which = range(0, len(dataset), max(1, len(dataset) // FEW))[:FEW]
            drawn[name] = source.task, [dataset.sample(i, derive(0, "eval", i)) for i in which]
            held_out.add(source.name)
    for name, source in state.sources.items():
        if source.task.traits.restore is not None and name not in held_out:
            drawn["train" if len(state.sources) == 1 else f"train_{name}"] = source.task, _first(state, name, FEW)
    written = []
    for name, (task, samples) in drawn.items():
        with eval_mode(task), autocast(state.amp, state.device):
            found = [one for sample in samples for one in task.traits.restore(task.collator([sample]).to(state.device))]
        if found:
            written.append(state.out_dir / "samples" / f"reconstructions_{name}.png")
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            contact_sheet([draw_restored(one) for one in found], 1, [one.id for one in found]).save(written[-1])
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


def _sheet(state: State, task: Any, dataset: Any, which: Sequence[Any]) -> Image.Image | None:
    """Those samples (or cases of volumes) with what the task says of them; None where it has no picture."""
    palette = dataset.info.palette
    draw = kind_of(task).draw if task.traits.prediction else None
    if draw is None:
        return None
    if is_volume(dataset):
        cases = [draw_case(dataset, case, CASE_SLICES, functools.partial(_said_of, state, task)) for case in which]
        return contact_sheet(cases, 1, list(which)) if cases else None
    samples = [dataset.sample(i, derive(0, "eval", i)) for i in which]
    if not samples:
        return None
    said = [(sample, _said_of(state, task, sample)) for sample in samples]
    shown = [draw(predictions, sample, palette) for sample, predictions in said if predictions]
    captions = [sample.id for sample, predictions in said if predictions]
    if not shown:
        return None
    is_wide = bool(samples[0].turns) or samples[0].label_map is not None or len(samples[0].images) > 1
    return contact_sheet(shown, 1 if is_wide else 2, captions)


def _said_of(state: State, task: Any, sample: Sample) -> list[Any]:
    """The task's predictions about one sample."""
    collator = task.traits.predict_collator or task.collator
    batch = collator([sample]).to(state.device)
    with eval_mode(task), autocast(state.amp, state.device):
        return list(task.predict(batch))


def _quietly(_: str) -> None:
    """The loader says what was replaced; once is enough."""

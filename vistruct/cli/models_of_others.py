"""Models of others that are measured as they lie, without a run: `vistruct eval CLIP --data PATH`, or a BLIP-2."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistruct.cli.output import note
from vistruct.data.reading import AS_USUAL, PixelValues, Reading, Worded
from vistruct.errors import UserError
from vistruct.verbs.train import RUNS

if TYPE_CHECKING:
    from vistruct.checkpoint.load import ModelCard
    from vistruct.config import Run
    from vistruct.contracts import DataInfo
    from vistruct.data.input import Input

# Path, data, reading, values, split -> the task with all weights, and its card: of a run that learns nothing.
Opener = Callable[[Path, Path, Reading, PixelValues, str | None], tuple[Any, "ModelCard"]]


def opener_of(path: Path, worded: Worded, question: str) -> Opener | None:
    """How a model of others at a path is opened; None: there is none.

    Args:
        worded: what was said of a CLIP.
        question: what a model that has language is asked of images with captions.

    Raises:
        UserError: something was said of a CLIP, and this is none, nor a model that was made of one.
    """
    if not path.exists():
        return None
    from vistruct.checkpoint.clip import TASKS
    from vistruct.checkpoint.clip_layouts import is_public_clip
    from vistruct.checkpoint.load import is_ours, read_card

    said = [name for name, value in vars(worded).items() if value != vars(AS_USUAL)[name]]
    if is_public_clip(path) or (said and is_ours(path) and read_card(path).task.kind in TASKS):
        return partial(_clip, worded=worded)
    if said:
        what = f"--{said[0]} is said of a CLIP's file or folder"
        raise UserError(what, where=path, fix=f"leave it out; of a model: vistruct train clip.zero_shot --clip {path}")
    if not (path / "config.json").is_file() or (path / "model.json").is_file():
        return None
    from vistruct.vlm.blip2_folder import is_blip2  # seconds to import

    return partial(_blip2, question=question) if is_blip2(path) else None


def opened(
    path: Path, data: Path | None, reading: Reading, values: PixelValues, split: str | None, opener: Opener
) -> tuple[Any, ModelCard]:
    """
    Raises:
        UserError: no data, or data of another kind; a model that cannot be read, or is not whole.
    """
    if data is None:
        what = "a model of others is measured on data: classes of images or captions, questions about images"
        raise UserError(what, where=path, fix=f"vistruct eval {path} --data PATH")
    return opener(path, data, reading, values, split)


def _clip(
    path: Path, data: Path, reading: Reading, values: PixelValues, split: str | None, *, worded: Worded
) -> tuple[Any, ModelCard]:
    import torch

    from vistruct.checkpoint.clip import check_size
    from vistruct.checkpoint.whole import load_start
    from vistruct.data.at_path import part_at
    from vistruct.data.input import Input
    from vistruct.recipes.clip.parts import clip_at, run_of

    found, part = clip_at(path, worded), part_at(data, reading, values, split=split)
    run = run_of("", path, found, worded, part, part, steps=1, batch=1, lr=1e-5, seed=0)
    info = run.only.data.build().info
    card = _card(path, run, info, Input(resize=found.size, mean=found.mean, std=found.std))
    with torch.device("meta"):
        task = card.task.build(info, card.path)
    check_size(sum(one.numel() for one in task.parameters()), path)
    task = card.task.build(info, card.path)
    for line in load_start(task, path).lines():
        note(line)
    return task, card


def _blip2(
    path: Path, data: Path, reading: Reading, values: PixelValues, split: str | None, *, question: str
) -> tuple[Any, ModelCard]:
    from vistruct.config import MAIN, Eval, Run, Stream
    from vistruct.contracts import DataInfo
    from vistruct.data.at_path import WORDS, part_at
    from vistruct.data.input import Input
    from vistruct.data.questions import as_questions
    from vistruct.metrics.answers import AnswersConfig
    from vistruct.tasks.blip2 import VisionLanguageConfig
    from vistruct.vlm.blip2_folder import shown_to

    part: Any = part_at(data, reading, values, split=split)
    if part.kind == "captions":
        part = as_questions(part, question)
    if part.kind not in ("questions", "chat", "mix"):
        what = f"these are {WORDS[part.kind]}, and a BLIP-2 answers questions or writes captions"
        raise UserError(what, where=data, fix=f"vistruct eval {path} --data PATH, with such data")
    config = VisionLanguageConfig(weights=path, **shown_to(path))
    run = Run(
        streams={MAIN: Stream(task=config, data=part, batch=1)},
        evals={"answers": Eval(data=part, metric=AnswersConfig())},
        steps=1,
        amp="off",  # the folder's types of numbers are chosen where it is read
    )
    card = _card(path, run, DataInfo(), Input(mean=config.mean, std=config.std))
    return config.build(DataInfo(), card.path), card


def _card(path: Path, run: Run, info: DataInfo, shown: Input) -> ModelCard:
    """Results lie beside the runs; what is known to be in the weights is said."""
    from vistruct.checkpoint.load import ModelCard
    from vistruct.checkpoint.low_rank import records_beside
    from vistruct.config import MAIN

    place = RUNS / f"eval-{path.resolve().stem}"
    place.mkdir(parents=True, exist_ok=True)
    told = {"run": run.model_dump(mode="json"), "stream": MAIN, "adapters": list(records_beside(path))}
    return ModelCard(path=place, task=run.only.task, info=info, input=shown, values=told)

"""A BLIP-2 of others as a model that can be measured: `vistruct eval FOLDER --data PATH`, without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vistruct.cli.train import RUNS
from vistruct.data.reading import PixelValues, Reading
from vistruct.errors import UserError


def is_blip2(path: Path) -> bool:
    """Whether a path is the folder of a BLIP-2 in `transformers`' layout."""
    if not (path / "config.json").is_file() or (path / "model.json").is_file():
        return False
    from vistruct.vlm.blip2_folder import is_blip2  # seconds to import

    return is_blip2(path)


def opened(
    folder: Path,
    data: Path | None,
    split: str | None,
    question: str,
    reading: Reading,
    values: PixelValues,
    device: Any,
) -> tuple[Any, Any]:
    """The model with all its weights, and its card: of a run that is measured on these data and learns nothing.

    Raises:
        UserError: no data, or data without questions and captions; a folder that cannot be read, or is not whole.
    """
    from vistruct.checkpoint.load import ModelCard
    from vistruct.checkpoint.low_rank import records_beside
    from vistruct.config import MAIN, Eval, Run, Stream
    from vistruct.contracts import DataInfo
    from vistruct.data.at_path import WORDS, part_at
    from vistruct.data.input import Input
    from vistruct.data.questions import as_questions
    from vistruct.metrics.answers import AnswersConfig
    from vistruct.tasks.blip2 import VisionLanguageConfig
    from vistruct.vlm.blip2_folder import shown_to

    if data is None:
        what = "a BLIP-2 is measured on data: questions about images, conversations, or captions"
        raise UserError(what, where=folder, fix=f"vistruct eval {folder} --data PATH")
    part: Any = part_at(data, reading, values, split=split)
    if part.kind == "captions":
        part = as_questions(part, question)
    if part.kind not in ("questions", "chat", "mix"):
        what = f"these are {WORDS[part.kind]}, and a BLIP-2 answers questions or writes captions"
        raise UserError(what, where=data, fix=f"vistruct eval {folder} --data PATH, with such data")
    config = VisionLanguageConfig(weights=folder, **shown_to(folder))
    run = Run(
        streams={MAIN: Stream(task=config, data=part, batch=1)},
        evals={"answers": Eval(data=part, metric=AnswersConfig())},
        steps=1,
        amp="off",  # the folder's types of numbers are chosen where it is read
    )
    place = RUNS / f"eval-{folder.resolve().stem}"
    place.mkdir(parents=True, exist_ok=True)
    told = {"run": run.model_dump(mode="json"), "stream": MAIN, "adapters": list(records_beside(folder))}
    card = ModelCard(
        path=place, task=config, info=DataInfo(), input=Input(mean=config.mean, std=config.std), values=told
    )
    return config.build(DataInfo(), place).to(device).eval(), card

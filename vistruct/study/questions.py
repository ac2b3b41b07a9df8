"""What the models behind a study's inits answer themselves: those that are whole, language and all, are asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vistruct.checkpoint.load import load_model
from vistruct.config import Eval, read_run
from vistruct.data.dataset import ChatDataConfig
from vistruct.engine.evaluate import evaluate
from vistruct.errors import UserError
from vistruct.metrics.answers import AnswersConfig
from vistruct.ops.seeds import derive
from vistruct.study.jobs import Job
from vistruct.study.plan import init_digest
from vistruct.study.study import Study
from vistruct.study.workers import Report

ASK = f"{__name__}:ask"
UNTRAINED = "untrained"  # the baseline's model with fresh random weights; no init may be called so where it is asked


def question_jobs(study: Study, weights: Mapping[str, tuple[str, ...]]) -> list[Job]:
    """One for each init that answers, and one for the baseline's model without its training. Of several pretrainings of
    an init the first is asked.

    Args:
        study: its inits are paths.
        weights: digests of each init's weights.
    """
    if not study.questions:
        return []
    data = {about: str(path) for about, path in study.questions.items()}
    digests = {about: init_digest(path) for about, path in study.questions.items()}
    asked = {"questions": data, "data": digests}
    answering = {init: init for init in study.inits if _answers(Path(study.source(init, 0)))}
    if not answering:
        fix = "a teacher of the recipe vitp.pretrain, or leave questions out"
        raise UserError("no init is a model that answers", where="questions", fix=fix)
    sources = {UNTRAINED: next(iter(answering)), **answering}
    return [
        Job(
            name=f"answers-{name}",
            call=ASK,
            arguments={
                **asked,
                "model": study.source(init, 0),
                "lora": study.adapters.get(init),
                "weights": weights[init][0],
                "trained": name != UNTRAINED,
            },
            cost=100,
        )
        for name, init in sources.items()
    ]


def _answers(source: Path) -> bool:
    """Whether an init is a model with language, and not one of other tasks, which has nothing to say."""
    tasks = read_run(source / "run.yaml").streams.values() if (source / "run.yaml").is_file() else ()
    return all(vars(stream.task)["kind"] == "instruct" for stream in tasks)


def ask(
    *,
    model: str,
    questions: dict[str, str],
    lora: str | None,
    trained: bool,
    weights: str,
    data: Mapping[str, str],
    results: Mapping[str, Any],
    report: Report,
) -> dict[str, Any]:
    """Answer everything.

    Args:
        model: a run with a whole model that answers.
        questions: jsonl of conversations, by what they are about.
        lora: adapters that are added into it.
        trained: False asks the same model with fresh random weights.
        weights, data: digests, so that with others the job is another one.

    Returns:
        the figures of `metrics.answers` by what the questions are about; None where a number is not finite.

    Raises:
        UserError: no model there, or one that does not answer.
    """
    task, card = load_model(Path(model), lora=None if lora is None else Path(lora))
    if not trained:
        torch.manual_seed(derive(0, "init"))
        task = card.task.build(card.info, card.path)
    figures: dict[str, Any] = {}
    for number, (about, path) in enumerate(questions.items()):
        report(number, len(questions), about)
        asked = Eval(data=ChatDataConfig(jsonl=Path(path)), metric=AnswersConfig())
        found = evaluate(task, asked, torch.device("cpu"), batch=32)
        figures[about] = {name: value if math.isfinite(value) else None for name, value in found.items()}
    return figures


def found_by_questions(study: Study, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """What study.json says of them: about -> init (and `untrained`) -> figures; None: nothing was asked."""
    if not study.questions:
        return None
    names = [name for name in (UNTRAINED, *study.inits) if f"answers-{name}" in results]
    return {about: {name: results[f"answers-{name}"][about] for name in names} for about in study.questions}

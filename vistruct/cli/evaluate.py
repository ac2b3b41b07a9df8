"""`vistruct eval`: measure a finished run again, on its own evaluation data or on other data."""

from __future__ import annotations

import dataclasses
import json as json_
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistruct.cli.output import as_json, made, note, table
from vistruct.cli.predict import FlipOption, ScaleOption, views_of
from vistruct.errors import UserError

if TYPE_CHECKING:
    from vistruct.config import Eval, Run
    from vistruct.data.formats.detect import Family

TALK = {"chat": "jsonl", "mix": "mix"}  # kinds of conversations, and what they call their file


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory or its model directory.")],
    data: Annotated[Path | None, typer.Option(help="Other annotations, read as the run reads its own.")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Samples to ask about, a fixed random choice.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples in a forward pass.")] = 4,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes.")] = 0,
    flip: FlipOption = None,
    scale: ScaleOption = None,
    json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Measure a trained model, on its own evaluation data or on other data."""
    from vistruct.checkpoint.load import load_model
    from vistruct.distributed.ranks import setup
    from vistruct.engine.environment import amp_dtype
    from vistruct.engine.evaluate import asked_of, keep_measured, measure
    from vistruct.engine.run import for_classes
    from vistruct.inference.kind import config_seen_in, kind_of

    device = setup().device
    task, card = load_model(run, device)
    views = views_of(flip, scale)
    kind = kind_of(task, card.input)
    if views is not None:
        task.config = config_seen_in(kind, task.config, views)
    evals = on_other_data(card.run, data, kind.metrics(task)) if data is not None else list(card.run.evals.items())
    if not evals:
        raise UserError("this run has no evaluation data", where=run, fix="--data ANNOTATIONS")
    place = card.path.parent if card.path.name == "model" else card.path
    results: dict[str, dict[str, float]] = {}
    for name, one in evals:
        one = one if most is None else _at_most(one, most)
        dataset = for_classes(one.data, card.info.class_names).build()
        note(f"{name}: {asked_of(one, dataset)}")
        amp = amp_dtype(card.run.amp, device)
        measured = measure(task, one, device, batch, workers, dataset=dataset, amp=amp)
        results[name] = results.get(name, {}) | measured.numbers
        if measured.details:
            metric: Any = one.metric
            keep_measured(place / "evaluations" / f"{name}.json", metric.kind, None, measured)
    file = place / (f"eval-{data.stem}.json" if data is not None else "eval.json")
    text = {name: {k: v if abs(v) < float("inf") else None for k, v in r.items()} for name, r in results.items()}
    file.write_text(json_.dumps(text, indent=2) + "\n")
    if json:
        as_json({"evaluations": results, "written": file})
        return
    show(results)
    made(file)


def show(results: Mapping[str, Mapping[str, float]]) -> None:
    """Print what was measured: answers by family, everything else number by number."""
    from vistruct.metrics.answers import by_family

    rest = []
    for name, figures in results.items():
        lines = by_family(figures)
        if lines:
            rows = [[s.family, s.questions, s.measure, s.score, _error(s.error), s.constant] for s in lines]
            headers = ["family", "questions", "measure", "score", "± standard error", "best constant answer"]
            table(headers, rows, title=name)
        shown = {part for s in lines for part in (f"questions/{s.family}", f"{s.measure}/{s.family}")}
        shown |= {f"{part}/{s.family}" for s in lines for part in ("constant", "error")}
        rest += [[name, key, float(value)] for key, value in figures.items() if key not in shown]
        if figures.get("unnamed"):
            note(
                f"{figures['unnamed']:.0f} questions of {name} name no family: (brackets) say the form of their answer"
            )
    table(["data", "metric", "value"], rest)


def _error(value: float) -> float | str:
    return "" if value != value else value  # NaN: the score is no mean over questions


def on_other_data(run: Run, path: Path, usual: Sequence[str]) -> list[tuple[str, Eval]]:
    """Evaluations on other annotations, cut and measured like the run's own; without random variation.

    Args:
        usual: kinds of metrics, beside what the run itself measures.

    Returns:
        one for each metric, all of one name.

    Raises:
        UserError: nothing at the path, or data of another kind than the run's.
    """
    from vistruct.config import run_from_dict
    from vistruct.data.formats.detect import family_of

    family = family_of(path)
    values = run.model_dump(mode="json")
    own = list(values["evals"].values())
    source = own[0]["data"] if own else values["data"]
    wanted = "talk" if source["kind"] in TALK else source["kind"]
    if wanted == "maps" and family.kind == "boxes":
        family = dataclasses.replace(family, kind="maps", format="objects")  # masks of objects can be painted
    if family.kind != wanted:
        what = f"these are {family.format}, the run was trained on {source['kind']}"
        raise UserError(what, where=family.path, fix="other data")
    metrics: dict[str, dict[str, Any]] = {name: {"kind": name} for name in usual}
    metrics |= {one["metric"]["kind"]: {**one["metric"], **_ALL.get(one["metric"]["kind"], {})} for one in own}
    data = _put_elsewhere(source, family)
    values["evals"] = {name: {"data": data, "metric": metric} for name, metric in metrics.items()}
    return [(path.stem, one) for one in run_from_dict(values, family.path).evals.values()]


def _put_elsewhere(source: dict[str, Any], family: Family) -> dict[str, Any]:
    """The part of a run that reads other data the way it read its own: whole, and without random variation."""
    from vistruct.data.formats.detect import splits_of

    root = str(family.path)
    if family.kind == "talk":
        extra = {"obey_data_augment": False} if family.format == "mix" else {}
        return {"kind": family.format, TALK[family.format]: root, **extra}
    split = source["split"] if source["split"] in splits_of(family.path, family.format) else None
    place: dict[str, Any] = {"format": family.format, "split": split, "share": 1.0, "augment": None}
    if family.kind == "boxes":
        return {**source, **place, "annotation": root, "images": None}
    for name in ("images", "labels"):  # folders below the root, where they are called the same
        if source.get(name) is not None and not (family.path / source[name]).is_dir():
            place[name] = None
    place |= {name: None for name in ("tiles", "shares", "lists") if name in source}
    if family.kind == "volumes":
        place["empty"] = 1.0
    return {**source, **place, "root": root}


_ALL: dict[str, dict[str, object]] = {"answers": {"most": None}}  # a run asks a few at its end; here all are wanted


def _at_most(one: Eval, most: int) -> Eval:
    """With fewer samples where the metric takes a part of them."""
    if "most" not in vars(one.metric):
        return one
    return one.model_copy(update={"metric": one.metric.model_copy(update={"most": most})})

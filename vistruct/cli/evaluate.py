"""`vistruct eval`: measure a finished run again, on its own evaluation data or on other data."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vistruct.cli.output import as_json, made, note, table
from vistruct.errors import UserError

if TYPE_CHECKING:
    from vistruct.config import Eval, Run

METRICS = {
    "boxes": "coco_boxes",
    "chat": "mean_loss",
}  # for a data kind, where the run names no metric for it


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory or its model directory.")],
    data: Annotated[Path | None, typer.Option(help="Other annotations, read as the run reads its own.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples in a forward pass.")] = 4,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Measure a trained model, on its own evaluation data or on other data."""
    from vistruct.checkpoint.load import load_model
    from vistruct.distributed.ranks import setup
    from vistruct.engine.environment import amp_dtype
    from vistruct.engine.evaluate import evaluate

    device = setup().device
    task, card = load_model(run, device)
    evals = {data.stem: on_other_data(card.run, data)} if data is not None else card.run.evals
    if not evals:
        raise UserError("this run has no evaluation data", where=run, fix="--data ANNOTATIONS")
    results = {}
    for name, one in evals.items():
        note(f"measuring on {name}")
        results[name] = evaluate(task, one, device, batch, workers, amp=amp_dtype(card.run.amp, device))
    place = card.path.parent if card.path.name == "model" else card.path
    file = place / (f"eval-{data.stem}.json" if data is not None else "eval.json")
    text = {name: {k: v if abs(v) < float("inf") else None for k, v in r.items()} for name, r in results.items()}
    file.write_text(json_.dumps(text, indent=2) + "\n")
    if json:
        as_json({"evaluations": results, "written": file})
        return
    table(["data", "metric", "value"], [[n, m, float(v)] for n, r in results.items() for m, v in r.items()])
    made(file)


def on_other_data(run: Run, path: Path) -> Eval:
    """An evaluation on other annotations, cut and measured like the run's own; without random variation.

    Raises:
        UserError: nothing at the path, or data of another kind than the run's.
    """
    from vistruct.config import Eval, run_from_dict
    from vistruct.data.check import detect_format, find_annotation

    file = find_annotation(path)
    kind = {"coco": "boxes", "chat": "chat"}[detect_format(file)]
    like = next(iter(run.evals.values()), None)
    values = run.model_dump(mode="json")
    source = values["data"] if like is None else next(iter(values["evals"].values()))["data"]
    if source["kind"] != kind:
        raise UserError(f"these are {kind}, the run was trained on {source['kind']}", where=file, fix="other data")
    own = {"annotation": str(file), "images": None} if kind == "boxes" else {"jsonl": str(file), "root": None}
    whole = {"share": 1.0} if kind == "boxes" else {}
    metric = {"kind": METRICS[kind]} if like is None else next(iter(values["evals"].values()))["metric"]
    values["evals"] = {"data": {"data": {**source, **own, **whole, "augment": None}, "metric": metric}}
    one = run_from_dict(values, file).evals["data"]
    assert isinstance(one, Eval)
    return one

"""What a finished run leaves for use: `model/` whole, `backbone/` alone; each with a json that explains it.

Adapters (LoRA) are added into the weights they adapt, so that what is shipped needs no peft; alone, as peft reads them,
they lie in `adapters/`. Each model is asked about a sample and must answer as the trained one does (`engine.proof`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from vistruct.checkpoint.load import BACKBONE_FORMAT, MODEL_FORMAT, copy_assets
from vistruct.checkpoint.low_rank import Adapters, Record
from vistruct.checkpoint.save import write_json, write_text
from vistruct.checkpoint.tensors import write_tensors
from vistruct.contracts import DataInfo
from vistruct.data.checks.groups import LEARNED
from vistruct.data.input import Input, as_measured, read_input
from vistruct.data.statistics import in_words
from vistruct.distributed.shard import on_main
from vistruct.engine.average import ema_in_words
from vistruct.engine.lora import merged_state, plain_name
from vistruct.engine.proof import asked, prove
from vistruct.engine.run import Source, State, model_place, started_from
from vistruct.engine.run_dir import info_to_dict
from vistruct.engine.snapshots import keep_adapters, trained_adapters
from vistruct.files.whole import whole_file


def ship(state: State, place: Path | None = None, *, note: str = "") -> None:
    """Write `model/` (of several tasks, a folder in it for each) and `backbone/`; the json last, so that with it all is
    there.

    All ranks call it together; rank 0 writes.

    Args:
        place: the directory to write into; None: the run's.
        note: which of the run's weights these are, for the card.

    Raises:
        UserError: no room; a model that is not what was trained.
    """
    place = state.out_dir if place is None else place
    run, trained = state.run, trained_adapters(state, place)
    records = records_of(state, trained)
    for name, source in state.sources.items():
        expected = asked(state, source)
        held = on_main(source.task.state_dict(keep_vars=True))
        if state.ranks.is_main:
            folder = model_place(run, place, name)
            if place != state.out_dir:
                folder.mkdir(parents=True, exist_ok=True)
                copy_assets(model_place(run, state.out_dir, name), folder)
            written = card(state, source, place, note)
            _ship_task(state, source, merged_state(source.task, held), folder, records, written)
            prove(state, source, folder, expected)
    held = on_main(state.model.state_dict(keep_vars=True))
    if not state.ranks.is_main:
        return
    weights = merged_state(state.model, held)
    first = next(iter(state.sources.values()))
    folder = place / "backbone"
    folder.mkdir(exist_ok=True)
    whole = f"{shipped_module(state)}."
    own = {k.removeprefix(whole): v for k, v in weights.items() if k.startswith(whole)}
    digest = _write_weights(folder / "backbone.safetensors", own)
    fingerprints = [source.dataset.info.fingerprint for source in state.sources.values()]
    write_json(
        folder / "backbone.json",
        {
            "format": BACKBONE_FORMAT,
            "config": first.stream.task.model_dump(mode="json").get("backbone"),
            "input": input_of(state, first).model_dump(mode="json"),
            "source": {
                "recipe": run.recipe,
                "steps": state.step,
                "data_fingerprint": fingerprints[0] if len(fingerprints) == 1 else fingerprints,
                "started_from": started_from(state, first),
                "taught_by": [one.line() for one in state.teachers],
            },
            "licence": licence_of(state),
            "adapters": records,
            "sha256": digest,
        },
    )
    if trained is not None:
        keep_adapters(state, trained, trained.source)


def shipped_module(state: State) -> str:
    """The module of the model whose weights are the run's backbone: the backbone, unless a task says another's."""
    alone = len(state.sources) == 1
    said = {name: source.task.traits.ships for name, source in state.sources.items()}
    others = [one if alone else f"tasks.{name}.{one}" for name, one in said.items() if one != "backbone"]
    return others[0] if others else "backbone"


def records_of(state: State, own: Adapters | None) -> list[Record]:
    """The adapters that are in the weights which the run leaves: those it began with, and its own."""
    known = [one for coverage in state.coverages() for one in coverage.adapters]
    if state.coverage is not None and state.coverage.before is not None:
        known += state.coverage.before.adapters
    known += [] if own is None else [own.record]
    return list({record["digest"]: record for record in known}.values())


def _ship_task(
    state: State, source: Source, weights: dict[str, Tensor], folder: Path, records: Sequence[Record], card: str
) -> None:
    """One task with the backbone, so that it can be loaded alone."""
    digest = _write_weights(folder / "model.safetensors", weights)
    write_text(folder / "README.md", card)
    write_json(
        folder / "model.json",
        {
            "format": MODEL_FORMAT,
            "task": source.stream.task.model_dump(mode="json"),
            "info": info_to_dict(source.dataset.info),
            "input": input_of(state, source).model_dump(mode="json"),
            "parameters": sum(p.numel() for n, p in source.task.named_parameters() if plain_name(n) == n),
            "licence": licence_of(state),
            "adapters": list(records),
            "sha256": digest,
            "stream": source.name,
            "step": state.step,
            "run": state.run.model_dump(mode="json"),
        },
    )


def licence_of(state: State) -> str:
    """Of the weights that the run leaves: those of what it began with and was taught by, as far as known."""
    known = [coverage.licence for coverage in (*state.coverages(), *(one.coverage for one in state.teachers))]
    return "; ".join(dict.fromkeys(known)) or "as its training data and this run's owner allow"


def input_of(state: State, source: Source) -> Input:
    """How images are put before the shipped model of a task."""
    evals = [
        state.eval_datasets[name].info
        for name, one in state.run.evals.items()
        if state.asked(name) is source and _kind(one.data) == _kind(source.stream.data)
    ]
    trained = read_input(_noted(source.dataset.info), "data")
    own = as_measured(trained, [read_input(_noted(one), "data") for one in evals])
    task = source.stream.task.model_dump(mode="json")
    told: dict[str, Any] = {name: task[name] for name in ("mean", "std") if task.get(name)}
    if told.get("mean") == "data":
        told |= {"mean": source.dataset.info.mean, "std": source.dataset.info.std}
    if task.get("slide"):  # the task's own windows come before those of its training data
        size, *rest = (task["slide"][name] for name in ("size", "overlap", "blend"))
        told["windows"] = size and {"size": size, "overlap": rest[0], "blend": rest[1], "unit": "shown"}
    elif own.windows is not None and source.task.traits.prediction == "maps":  # beside objects
        told["windows"] = own.windows.shown(own.resize).model_dump()
    return read_input({**own.model_dump(), **told}, "task")


def _noted(info: DataInfo) -> dict[str, Any]:
    return {"channels": info.channels, **info.input}


def card(state: State, source: Source, place: Path, note: str = "") -> str:
    """The model card of a task that is left at `place`, in Markdown."""
    run, info = state.run, source.dataset.info
    dropped = "; ".join(f"{number} x {reason}" for reason, number in info.dropped.items()) or "nothing"
    names = source.task.traits.class_names
    classes = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    several = len(state.sources) > 1
    called = Path(state.out_dir.resolve().name)
    at = called / place.relative_to(state.out_dir)
    name = f"{at}, {source.name}" if several else str(at)
    path = model_place(run, at, source.name) if several else at
    lines = [
        f"# {name}",
        "",
        f"A `{_kind(source.stream.task)}` model trained with vistruct"
        + (f" by the recipe `{run.recipe}`" if run.recipe else "")
        + f" for {state.step:,} steps of {source.stream.batch} samples.",
        "",
        f'- Use: `vistruct predict {path} IMAGE`, or `vistruct.load("{path}")` in Python',
        *([f"- Weights: {note}"] if note else []),
        *([f"- Averaged: {ema_in_words(run.ema)}"] if run.ema is not None else []),
        f"- Started from: {started_from(state, source)}",
        *[f"- Taught by: {one.line()}" for one in state.teachers],
        f"- Data: {info.num_records:,} records, fingerprint `{info.fingerprint[:16]}`",
        f"- Left out or repaired: {dropped}",
        *_measured_on_learned(state),
        f"- {in_words(info).capitalize()}",
        *([f"- Classes: {classes}"] if classes else []),
        f"- Trained: {state.plan.lines()[-1]}",
        f"- Licence of the weights: {licence_of(state)}",
        "",
        "Results are in `metrics.jsonl` and `report.html` of the run directory. The whole run:",
        "",
        "```yaml",
        yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _measured_on_learned(state: State) -> list[str]:
    """What is not to be overlooked in the figures."""
    found = {name: dataset.info.dropped.get(LEARNED) for name, dataset in state.eval_datasets.items()}
    return [f"- Evaluation {name}: {number} x {LEARNED}" for name, number in found.items() if number]


def _kind(part: Any) -> str:
    """The `kind` of a part."""
    return str(vars(part).get("kind", type(part).__name__))


def _write_weights(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write beside and rename into place; the sha256."""
    with whole_file(path, "partial") as partial:
        return write_tensors(partial, tensors)

"""What a finished run leaves for use: `model/` whole, `backbone/` alone; each with a json that explains it.

Adapters (LoRA) are added into the weights they adapt, so that what is shipped needs no peft.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from vistruct.checkpoint.load import BACKBONE_FORMAT, MODEL_FORMAT
from vistruct.checkpoint.save import write_json, write_text
from vistruct.checkpoint.tensors import write_tensors
from vistruct.config import Run
from vistruct.contracts import DataInfo
from vistruct.data.input import Input, as_measured, read_input
from vistruct.data.statistics import in_words
from vistruct.distributed.shard import on_main
from vistruct.engine.run import State
from vistruct.engine.run_dir import info_to_dict
from vistruct.engine.trainable import merged_state


def ship(state: State) -> None:
    """Write `model/` and `backbone/` of the run directory; the json last, so that with it all is there.

    All ranks call it together; rank 0 writes.

    Raises:
        UserError: no room.
    """
    run, weights = state.run, on_main(merged_state(state.task))
    if not state.ranks.is_main:
        return
    values, shown = run.model_dump(mode="json"), input_of(state).model_dump(mode="json")
    source = {
        "recipe": run.recipe,
        "steps": state.step,
        "data_fingerprint": state.dataset.info.fingerprint,
        "started_from": started_from(run),
    }
    licence = "as its training data and this run's owner allow" if state.coverage is None else state.coverage.licence
    model = state.out_dir / "model"
    digest = _write_weights(model / "model.safetensors", weights)
    write_text(model / "README.md", card(state, licence))
    write_json(
        model / "model.json",
        {
            "format": MODEL_FORMAT,
            "task": values["task"],
            "info": info_to_dict(state.dataset.info),
            "input": shown,
            "parameters": sum(p.numel() for n, p in state.task.named_parameters() if ".lora_" not in n),
            "licence": licence,
            "sha256": digest,
            "run": values,
        },
    )
    backbone = state.out_dir / "backbone"
    backbone.mkdir(exist_ok=True)
    own = {k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")}
    digest = _write_weights(backbone / "backbone.safetensors", own)
    write_json(
        backbone / "backbone.json",
        {
            "format": BACKBONE_FORMAT,
            "config": values["task"].get("backbone"),
            "input": shown,
            "source": source,
            "licence": licence,
            "sha256": digest,
        },
    )


def started_from(run: Run) -> str:
    """Where the weights came from that the run began with."""
    return ", then the backbone of ".join(str(path) for path in (run.start, run.init) if path) or "random weights"


def input_of(state: State) -> Input:
    """How images are put before the shipped model."""
    run, evals = state.run, state.run.evals.items()
    alike = [state.eval_datasets[name].info for name, one in evals if _kind(one.data) == _kind(run.data)]
    own = as_measured(
        read_input(_noted(state.dataset.info), "data"), [read_input(_noted(one), "data") for one in alike]
    )
    task = run.task.model_dump(mode="json")
    told: dict[str, Any] = {name: task[name] for name in ("mean", "std") if task.get(name)}
    if told.get("mean") == "data":
        told |= {"mean": state.dataset.info.mean, "std": state.dataset.info.std}
    if task.get("slide"):  # the task's own windows come before those of its training data
        size, *rest = (task["slide"][name] for name in ("size", "overlap", "blend"))
        told["windows"] = size and {"size": size, "overlap": rest[0], "blend": rest[1], "unit": "shown"}
    return read_input({**own.model_dump(), **told}, "task")


def _noted(info: DataInfo) -> dict[str, Any]:
    return {"channels": info.channels, **info.input}


def card(state: State, licence: str) -> str:
    """The model card, in Markdown."""
    run, info = state.run, state.dataset.info
    dropped = "; ".join(f"{number} x {reason}" for reason, number in info.dropped.items()) or "nothing"
    classes = ", ".join(info.class_names[:30]) + (", ..." if len(info.class_names) > 30 else "")
    lines = [
        f"# {state.out_dir.resolve().name}",
        "",
        f"A `{_kind(run.task)}` model trained with vistruct"
        + (f" by the recipe `{run.recipe}`" if run.recipe else "")
        + f" for {state.step:,} steps of {run.batch} samples.",
        "",
        "- Use: `vistruct predict "
        + state.out_dir.name
        + ' IMAGE`, or `vistruct.load("'
        + state.out_dir.name
        + '")` in Python',
        f"- Started from: {started_from(run)}",
        f"- Data: {info.num_records:,} records, fingerprint `{info.fingerprint[:16]}`",
        f"- Left out or repaired: {dropped}",
        f"- {in_words(info).capitalize()}",
        *([f"- Classes: {classes}"] if classes else []),
        f"- Moved in training: {state.plan.lines()[-1]}",
        f"- Licence of the weights: {licence}",
        "",
        "Results are in `metrics.jsonl` and `report.html` of the run directory. The whole run:",
        "",
        "```yaml",
        yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _kind(part: Any) -> str:
    """The `kind` of a part."""
    return str(getattr(part, "kind", type(part).__name__))


def _write_weights(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write beside and rename into place; the sha256."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        digest = write_tensors(partial, tensors)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return digest

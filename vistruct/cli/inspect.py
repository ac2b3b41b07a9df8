"""`vistruct inspect`: what is in a run, a model, a backbone or a safetensors file; no weights are loaded."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from vistruct.cli.output import as_json, made, out, table
from vistruct.errors import UserError

SHOWN = 40  # tensors in the table; --tensors shows all


def command(
    path: Annotated[
        Path, typer.Argument(help="A run, model, backbone or adapters directory, or weights of others: folder or file.")
    ],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with all tensors.")] = False,
    take: Annotated[str, typer.Option(help="With --out: what stands before the names of the tensors to take.")] = "",
    out_file: Annotated[
        Path | None, typer.Option("--out", help="A .safetensors file to make of weights of others, a .pth for example.")
    ] = None,
) -> None:
    """Show tensors, parameters, configuration, classes, the input that a model expects, metrics and licence."""
    if out_file is not None:
        take_out(path, take, out_file)
        made(out_file)
        return
    facts = gather(path)
    if json:
        as_json(facts)
        return
    simple = [[name, value] for name, value in facts.items() if not isinstance(value, dict | list)]
    table(["", ""], simple, title=str(path))
    for name, value in facts.items():
        if isinstance(value, dict) and value and name != "config":
            table([name, ""], value.items())
    if facts.get("classes"):
        out().print(f"classes: {', '.join(facts['classes'])}")
    rows = [[t["name"], "x".join(map(str, t["shape"])) or "scalar", t["dtype"]] for t in facts.get("tensors", [])]
    if rows:
        table(["tensor", "shape", "type"], rows if tensors else rows[:SHOWN])
        if len(rows) > SHOWN and not tensors:
            typer.echo(f"and {len(rows) - SHOWN} more: --tensors shows all")


def gather(path: Path) -> dict[str, Any]:
    """Everything that is known of what lies at `path`.

    Raises:
        UserError: nothing there, or nothing that this command knows.
    """
    if not path.exists():
        raise UserError("no such file or directory", where=path, fix="give a run directory or a safetensors file")
    if path.is_file():
        if path.suffix != ".safetensors":
            return _public(path)
        return {"what": "weights", **_tensors(path)}
    for name, what in (("model.json", "model"), ("backbone.json", "backbone")):
        if (path / name).is_file():
            weights = path / f"{what}.safetensors"
            card = _card(path / name)
            return {
                "what": what,
                **card,
                **(_tensors(weights) if weights.is_file() else {"weights": "missing"}),
            }
    if (path / "adapter_config.json").is_file():
        return _adapters(path)
    if (path / "config.json").is_file() or any(list(path.glob(f"*.{kind}")) for kind in ("safetensors", "pth")):
        return _public(path)
    if not (path / "run.yaml").is_file():
        raise UserError("not a run, model or backbone", where=path, fix="give a directory with run.yaml or model.json")
    facts: dict[str, Any] = {"what": "run", **_run(path)}
    model = path / "model"
    if (model / "model.json").is_file():
        facts |= {k: v for k, v in gather(model).items() if k != "what"} | {"state": "finished"}
    elif several := sorted(file.parent.name for file in model.glob("*/model.json")):
        facts |= {"state": "finished", "models": ", ".join(several)}
    else:
        steps = sorted(p.name for p in (path / "checkpoints").glob("step_*"))
        facts["state"] = f"unfinished, {steps[-1] if steps else 'no checkpoint yet'}"
    if (path / "adapters" / "adapter_config.json").is_file():
        facts["adapters"] = f"LoRA, in {path / 'adapters'}"
    return facts


def take_out(path: Path, take: str, file: Path) -> None:
    """Write the tensors of others' weights whose names begin with `take`, without it, as one safetensors file.

    Raises:
        UserError: nothing that can be read, or nothing of that name; the file is there already.
    """
    from vistruct.checkpoint.tensors import write_tensors  # seconds to import
    from vistruct.checkpoint.weights import read_public
    from vistruct.files.whole import whole_file

    if file.exists():
        raise UserError("this exists already", where=file, fix="choose another --out")
    state, _ = read_public(path)
    front = f"{take.rstrip('.')}." if take else ""
    found = {name.removeprefix(front): value for name, value in state.items() if name.startswith(front)}
    if not found:
        raise UserError(f"no tensor's name begins with {front!r}", where=path, fix=f"vistruct inspect {path} --tensors")
    with whole_file(file, "partial") as partial:
        write_tensors(partial, found)


def _public(path: Path) -> dict[str, Any]:
    """Weights of others, as they call them: a file or folder of safetensors, or a pickle, of which nothing is run."""
    from vistruct.files.json_files import read_record

    facts: dict[str, Any] = {"what": "weights of others"}
    if path.is_dir():
        config = read_record(path / "config.json", dict[str, Any]) if (path / "config.json").is_file() else {}
        facts |= {key: config[key] for key in ("model_type", "quantization_config") if key in config}
        files = sorted(path.glob("*.safetensors"))
        if files:
            held = [_tensors(file) for file in files]
            tensors = [tensor for one in held for tensor in one["tensors"]]
            parameters = sum(one["parameters"] for one in held)
            return facts | {"files": len(files), "parameters": parameters, "config": config, "tensors": tensors}
    from vistruct.checkpoint.weights import read_public  # seconds to import

    state, notes = read_public(path)
    tensors: list[dict[str, Any]] = [
        {"name": name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in state.items()
    ]
    parameters = sum(math.prod(one["shape"]) for one in tensors)
    return facts | {"note": "; ".join(notes), "parameters": parameters, "tensors": tensors}


def _adapters(path: Path) -> dict[str, Any]:
    from vistruct.files.json_files import read_record

    config = read_record(path / "adapter_config.json", dict[str, Any])
    weights = path / "adapter_model.safetensors"
    held = _tensors(weights) if weights.is_file() else {"weights": "missing"}
    layers = sorted({name.rpartition(".lora_")[0] for name in (t["name"] for t in held.get("tensors", ()))})
    return {
        "what": f"adapters ({config.get('peft_type')}, peft's format)",
        "base": config.get("base_model_name_or_path"),
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "layers": len(layers),
        "config": config,
        **held,
    }


def _run(path: Path) -> dict[str, Any]:
    from vistruct.read_yaml import read_yaml
    from vistruct.reports.run_report import read_metrics

    values = read_yaml(path / "run.yaml")
    facts = {key: values.get(key) for key in ("recipe", "steps", "batch", "seed") if key in values}
    facts["config"] = values
    series = read_metrics(path / "metrics.jsonl")
    last = {"step": max(points[-1][0] for points in series.values())} if series else {}
    facts["metrics"] = last | {name: points[-1][1] for name, points in series.items()}
    return facts


def _card(file: Path) -> dict[str, Any]:
    from vistruct.files.json_files import read_record

    values = read_record(file, dict[str, Any])
    info = values.get("info")
    facts: dict[str, Any] = {"config": values}
    if isinstance(info, dict) and isinstance(info.get("class_names"), list):
        facts["classes"] = [str(name) for name in info["class_names"]]
    for key in ("licence", "license", "source"):
        if values.get(key):
            facts[key] = values[key]
    if isinstance(values.get("input"), dict):
        facts["input"] = {name: value for name, value in values["input"].items() if value is not None}
    return facts


def _tensors(file: Path) -> dict[str, Any]:
    from vistruct.files.tensor_header import read_header

    metadata, header = read_header(file)
    tensors: list[dict[str, Any]] = [
        {"name": name, "shape": t["shape"], "dtype": t["dtype"]} for name, t in sorted(header.items())
    ]
    types = Counter(t["dtype"] for t in tensors)
    facts: dict[str, Any] = {
        "file": str(file),
        "size_mib": round(file.stat().st_size / 2**20, 2),
        "parameters": sum(math.prod(t["shape"]) for t in tensors),
        "num_tensors": len(tensors),
        "types": ", ".join(f"{name} x {count}" for name, count in types.most_common()),
    }
    return facts | ({"metadata": metadata} if metadata else {}) | {"tensors": tensors}

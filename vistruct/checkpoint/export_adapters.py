"""Adapters (LoRA) out of a run, alone, or in the weights of a model in whatever layout that has.

lora        a folder of peft's, and what tells the weights that they belong to
lora-visft  lora.pt as ViSFT's are released: q and v of every fused qkv, rank 64, scale 1/64
merged      the same model with adapters added: one of ours (a model directory with its backbone), or a file or folder
            of others (EVA-CLIP, timm, LAVIS, transformers), of which every other tensor and name stays as it is
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vistruct.checkpoint.adapters import check_weights, placed_among, read_adapters, refuse_twice
from vistruct.checkpoint.load import BACKBONE_FORMAT, copy_assets, load_model
from vistruct.checkpoint.low_rank import BESIDE, Adapters, records_beside, records_in, write_beside
from vistruct.checkpoint.peft_folder import FILES, adapters_dir, write_adapters
from vistruct.checkpoint.pickled import is_pickled
from vistruct.checkpoint.public import write_published
from vistruct.checkpoint.save import fsync_dir, write_json, write_text
from vistruct.checkpoint.shards import write_shards
from vistruct.checkpoint.tensors import no_room, write_tensors
from vistruct.checkpoint.verify import DTYPES, rounded
from vistruct.checkpoint.visft_lora import FILE, write_visft
from vistruct.checkpoint.weights import read_public
from vistruct.errors import UserError, closest
from vistruct.files.owned import new_folder, refuse

ADAPTER_FORMATS = ("lora", "lora-visft", "merged")


def export_adapters(
    source: Path,
    out: Path,
    *,
    format: str,
    dtype: str = "float32",
    max_bytes: int = 5 * 10**9,
    lora: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write adapters, or a model with them, read back what was written, and put it in place.

    Args:
        source: of `lora` and `lora-visft` whatever has adapters, as of `checkpoint.adapters.read_adapters`; of `merged`
            a finished run, a model directory, or weights of others.
        out: a folder that is not there yet.
        format: one of `ADAPTER_FORMATS`.
        dtype: of the weights of `merged`: float32, bf16 or fp16.
        max_bytes: of one safetensors file.
        lora: of `merged` alone: the adapters.

    Raises:
        UserError: no adapters there; of another model, or in it already; what a layout cannot hold; `out` exists.
    """
    refuse(out, "--out")
    if dtype not in DTYPES:
        raise UserError(f"no type {dtype!r}", fix=closest(dtype, DTYPES))
    if format != "merged" and lora is not None:
        fix = f"vistruct export {lora} --format {format} --out {out}"
        raise UserError(
            f"--format {format} writes the adapters of what is named first", where=f"--lora {lora}", fix=fix
        )
    if format == "merged" and lora is None:
        fix = "--lora FILE; what a run has trained itself is in its model/ already"
        raise UserError("merged with which adapters?", where="--format merged", fix=fix)
    try:
        with new_folder(out, "--out") as partial:
            if lora is not None:
                is_ours = any((source / name).exists() for name in ("run.yaml", "model.json", "model"))
                notes = _merged_ours(source, lora, partial, dtype) if is_ours else ()
                notes = notes or _merged_public(source, lora, partial, dtype, max_bytes)
            else:
                notes = _alone(source, partial, format)
            title = f"# {source.resolve().name}, as {format}"
            write_text(partial / "README.md", "\n".join([title, "", *(f"- {note}" for note in notes), ""]))
            fsync_dir(partial)
        fsync_dir(out.parent)
    except OSError as error:
        raise no_room(error, out) from error
    for note in notes:
        say(note)
    return out


def _alone(source: Path, folder: Path, format: str) -> tuple[str, ...]:
    """Adapters without a model."""
    adapters, base = read_adapters(source), f"what {source} was trained beside"
    own = adapters_dir(source) if source.is_dir() else None
    if format == "lora-visft":
        write_visft(folder / FILE, adapters.layers, source)
    elif own is not None:
        for name in FILES:
            if (own / name).is_file():
                shutil.copy2(own / name, folder / name)
    else:
        write_adapters(folder, adapters.layers, modules=None, base=base, prints=adapters.base)
    again = read_adapters(folder)
    apart = max(_apart(one, two) for one, two in zip(adapters.layers.values(), again.layers.values(), strict=True))
    if apart > 1e-6:
        raise UserError(f"read back, they are others, by {apart:.1e} of the largest", where=folder, fix="report this")
    use = f"torch.load(FOLDER/{FILE})" if format == "lora-visft" else "peft.PeftModel.from_pretrained(model, FOLDER)"
    same = f"{len(again.layers)} adapters; read back, what they add is the same to {apart:.0e} of its largest number"
    return (*adapters.notes, f"Use: `vistruct ... --lora FOLDER`, or `{use}`", same)


def _apart(one: Any, other: Any) -> float:
    a, b = one.delta(), other.delta()
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))


def _merged_ours(source: Path, lora: Path, folder: Path, dtype: str) -> tuple[str, ...]:
    """A model directory, and the backbone in it as a part of its own."""
    task, card = load_model(source, lora=lora)
    state = rounded(task.state_dict(), dtype)
    values: dict[str, Any] = card.values | {"sha256": write_tensors(folder / "model.safetensors", state)}
    copy_assets(card.path, folder)
    backbone = {key.removeprefix("backbone."): one for key, one in state.items() if key.startswith("backbone.")}
    if backbone:
        (folder / "backbone").mkdir()
        about = {
            "format": BACKBONE_FORMAT,
            "config": values["task"].get("backbone"),
            "input": values["input"],
            "source": {"merged": str(source), "adapters": str(lora)},
            "licence": values.get("licence", "unknown"),
            "adapters": list(records_in(values)),
            "sha256": write_tensors(folder / "backbone" / "backbone.safetensors", backbone),
        }
        write_json(folder / "backbone" / "backbone.json", about)
    write_json(folder / "model.json", values)
    load_model(folder)  # read back: names, shapes and the sum of its bytes
    added = f"{records_in(values)[-1]['layers']} adapters of {lora} added into the weights of {source}, {dtype}"
    return (*card.notes, added, "Use: as any model directory of vistruct; --backbone and --init take its backbone")


def _merged_public(source: Path, lora: Path, folder: Path, dtype: str, max_bytes: int) -> tuple[str, ...]:
    """Weights of others with the same names, in the same kind of file."""
    state, notes = read_public(source)
    shapes = {key.removesuffix(".weight"): tuple(value.shape) for key, value in state.items() if _is_linear(key, value)}
    adapters, before = placed_among(shapes, read_adapters(lora)), records_beside(source)
    refuse_twice(adapters, before)
    check_weights({name: state[f"{name}.weight"] for name in adapters.layers}, adapters)
    merged, costs = _added(state, adapters, dtype)
    written = rounded(merged, dtype)
    if source.is_dir():
        write_shards(folder, written, max_bytes)
        for item in source.iterdir():
            is_beside = item.suffix in (".json", ".txt", ".model", ".jinja") and not item.name.endswith(".index.json")
            if item.is_file() and is_beside and item.name != BESIDE:
                shutil.copy2(item, folder / item.name)
        again = read_public(folder)[0]
    else:
        file = folder / source.name
        write_published(file, written, "") if is_pickled(source) else write_tensors(file, written)
        again = read_public(file)[0]
    if again.keys() != written.keys() or any(not torch.equal(again[key], value) for key, value in written.items()):
        raise UserError("read back, these are other weights", where=folder, fix="report this")
    write_beside(folder, "" if source.is_dir() else source.name, (*before, adapters.record))
    cost = f"; rounding to {dtype} moves them by {costs:.1%} of what the adapters add" if dtype != "float32" else ""
    added = f"{len(adapters.layers)} adapters of {lora} added into the weights of {source}, {dtype}{cost}"
    return (*notes, *adapters.notes, added, "Use: as the weights that these were made of")


def _is_linear(key: str, value: Tensor) -> bool:
    return key.endswith(".weight") and value.ndim == 2


def _added(state: dict[str, Tensor], adapters: Adapters, dtype: str) -> tuple[dict[str, Tensor], float]:
    """The weights with adapters in float32, and how far rounding them moves them, as a part of what was added."""
    merged, moved, added = dict(state), 0.0, 0.0
    for name, adapter in adapters.layers.items():
        delta = adapter.delta()
        exact = state[f"{name}.weight"].float() + delta
        merged[f"{name}.weight"] = exact
        moved += float((exact.to(DTYPES[dtype]).float() - exact).square().sum())
        added += float(delta.square().sum())
    return merged, (moved / added) ** 0.5 if added else 0.0

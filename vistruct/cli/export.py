"""`vistruct export`: a run's model, or its backbone alone, in a layout that others read."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from vistruct.cli.lora import LoraOption, one_lora
from vistruct.cli.output import made, note
from vistruct.errors import UserError

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def command(
    run: Annotated[
        Path,
        typer.Argument(
            help="A finished run, or the model directory inside one; of merged and lora also a file of others."
        ),
    ],
    format: Annotated[
        str,
        typer.Option(
            help="transformers, original: the whole model. backbone-transformers, backbone-original, backbone-plain: "
            "the backbone alone; backbone-timm, backbone-lavis: an EVA ViT. mtp-original: all tasks of an mtp.pretrain "
            "run. lora, lora-visft: its adapters alone. merged: RUN, or weights of others, with those of --lora added. "
            "onnx: a detector, segmenter or classifier for onnxruntime and the like, compared with it on real images."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to make; it must not exist.")],
    dtype: Annotated[str, typer.Option(help="float32, bf16 or fp16.")] = "float32",
    max_shard: Annotated[str, typer.Option(help="Largest size of one file, such as 5GB.")] = "5GB",
    lora: LoraOption = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Of onnx: a folder of images to compare on. Default: those that the run was measured on."),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(min=0, help="Of onnx: samples of the run's evaluation that both are measured on; 0: none."),
    ] = 32,
) -> None:
    """Write a model for others; it is read back and compared before it is there.

    vistruct export runs/x --format transformers --out x-hf --dtype bf16
    """
    max_bytes = size(max_shard)
    from transformers.utils import logging

    from vistruct.checkpoint.export import export
    from vistruct.checkpoint.export_adapters import ADAPTER_FORMATS, export_adapters
    from vistruct.checkpoint.onnx_export import ONNX_FORMATS, export_onnx

    logging.disable_progress_bar()
    if format in ONNX_FORMATS:
        if dtype != "float32":
            raise UserError(f"onnx is written in float32, not {dtype}", where="--dtype", fix="leave it out")
        from vistruct.engine.onnx_metric import numbers_beside

        beside = partial(numbers_beside, most=limit) if limit else None
        made(export_onnx(run, out, images=images, lora=one_lora(lora), beside=beside, say=note).path)
        return
    if images is not None:
        raise UserError(f"{format} is compared on random inputs", where="--images", fix="leave it out")
    settings: dict[str, Any] = {"dtype": dtype, "max_bytes": max_bytes, "lora": one_lora(lora), "say": note}
    if format in ADAPTER_FORMATS:
        made(export_adapters(run, out, format=format, **settings))
        return
    made(export(run, out, format=format, **settings).path)


def size(text: str) -> int:
    """Bytes of `5GB`, `500 MB` or `2GiB`.

    Raises:
        UserError: not such a size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B)", text.strip().upper())
    if found is None or float(found[1]) <= 0:
        raise UserError(f"{text!r} is not a size", where="--max-shard", fix="write it as 5GB or 500MB")
    return int(float(found[1]) * UNITS[found[2]])

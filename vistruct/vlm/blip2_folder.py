"""A BLIP-2 in `transformers`' layout, read from a folder: never by running code that lies beside it, and all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, Blip2ForConditionalGeneration, PreTrainedTokenizerBase

from vistruct.errors import UserError
from vistruct.files.json_files import read_record
from vistruct.vlm.quantised import refuse_quantised_folder

MODEL_TYPE = "blip-2"
LANGUAGES = ("opt", "t5")
_AGAIN = "copy or download the folder again, whole"


def is_blip2(folder: Path) -> bool:
    """Whether a folder says that it holds a BLIP-2."""
    config = folder / "config.json"
    return config.is_file() and read_record(config, dict[str, Any], _AGAIN).get("model_type") == MODEL_TYPE


def shown_to(folder: Path) -> dict[str, Any]:
    """`size`, `mean` and `std` of the images that it was made for, as far as its image processor says them.

    Raises:
        UserError: a processor that shows images otherwise than resized to a square.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            values = read_record(folder / name, dict[str, Any], _AGAIN)
            values = values.get("image_processor") or values
            size = values.get("size") or {}
            if (
                values.get("do_center_crop")
                or (size and set(size) != {"height", "width"})
                or len(set(size.values())) > 1
            ):
                what = f"images are not resized to a square: size {size}, do_center_crop {values.get('do_center_crop')}"
                raise UserError(what, where=folder / name, fix="use the processor of a BLIP-2: height and width 224")
            told = {"size": size.get("height"), "mean": values.get("image_mean"), "std": values.get("image_std")}
            return {key: value for key, value in told.items() if value is not None}
    return {}


def read_blip2(folder: Path, dtype: torch.dtype | None) -> tuple[Any, PreTrainedTokenizerBase]:
    """Model and tokenizer; the vision tower and the Q-Former in float32, so that an adapter is not rounded away.

    Args:
        dtype: of the language model; None: on a GPU as LAVIS has them, bfloat16 of a T5 and float16 else; or float32.

    Raises:
        UserError: no such folder, another model, damaged files, tensors that are missing or of another shape.
    """
    fix = "give a folder with config.json, safetensors files and tokenizer of a BLIP-2 in `transformers`' layout"
    if not (folder / "config.json").is_file():
        raise UserError("no config.json here", where=folder, fix=fix)
    if not is_blip2(folder):
        raise UserError(f"config.json is not of model_type {MODEL_TYPE!r}", where=folder, fix=fix)
    refuse_quantised_folder(folder)
    try:
        loaded: Any = Blip2ForConditionalGeneration.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, SafetensorError) as error:
        raise UserError(f"not read: {str(error).strip().splitlines()[0][:300]}", where=folder, fix=fix) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        what = f"{len(missing)} of its tensors are not there: {', '.join(missing[:3])}"
        raise UserError(what, where=folder, fix=_AGAIN)
    kind = model.language_model.config.model_type
    if kind not in LANGUAGES:
        what = f"its language model is a {kind}; read are {' and '.join(LANGUAGES)}"
        raise UserError(what, where=folder, fix=fix)
    if dtype is None and torch.cuda.is_available():
        dtype = torch.bfloat16 if kind == "t5" else torch.float16
    if dtype is not None:
        model.language_model.to(dtype)
        model.language_projection.to(dtype)
    return model.eval(), tokenizer

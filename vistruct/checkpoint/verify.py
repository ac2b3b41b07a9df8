"""Reading an export back, and comparing what it computes with what was exported.

Three questions, asked apart: do the files hold the exported weights, bit for bit in the type that was asked for; does
the model that others build from them compute the same; and does its tokenizer write questions as ours does. The second
is asked in float32 of equal weights, so that its tolerance is that of two ways to write one sum, whatever the type of
the file.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration
from transformers.models.internvl.modeling_internvl import InternVLVisionModel

from vistruct.backbones.eva_vit import EvaVit
from vistruct.backbones.intern_vit import InternVit
from vistruct.checkpoint.layouts import Architecture, instruct_config
from vistruct.checkpoint.shards import read_folder
from vistruct.checkpoint.texts import QUESTION, differs, same_texts
from vistruct.checkpoint.weights import load_backbone, read_public
from vistruct.checkpoint.whole import load_whole
from vistruct.contracts import DataInfo, Sample, Turn
from vistruct.errors import UserError
from vistruct.vlm.names import LanguageNames, Layout, to_ours

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROBE = 64  # pixels at least, of an image that a backbone other than an InternViT is asked about
SAME = 1e-4  # of the largest output: between two implementations with the same weights
ROUNDED = {"float32": 0.0, "bf16": 0.1, "fp16": 0.02}  # of the largest output: what rounding the weights may cost


@dataclass(frozen=True, kw_only=True)
class Verified:
    """How near the re-read export is, as a part of the largest output."""

    what: str  # that was compared
    apart: float  # between the two implementations
    rounding: float  # that the type of the file costs

    def line(self) -> str:
        """For the card and the command."""
        cost = f"; rounding the weights moved the {self.what} by {self.rounding:.1e}" if self.rounding else ""
        same = "the same bits" if self.apart == 0 else f"within {self.apart:.1e} of the largest"
        return f"re-loaded: every tensor is what was exported, and the {self.what} of a random input are {same}{cost}"


def rounded(state: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """The weights in the type of the file.

    Raises:
        UserError: one of them is too large for it.
    """
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        out[name] = value.to(DTYPES[dtype]) if value.is_floating_point() else value
        if not bool(torch.isfinite(out[name]).all()):
            broken = "NaN or infinity" if not bool(torch.isfinite(value).all()) else f"too large for {dtype}"
            raise UserError(f"{name}: {broken}", fix="--dtype bf16, or an earlier checkpoint where the model is broken")
    return out


@torch.inference_mode()
def verify_whole(folder: Path, task: Any, layout: Layout, dtype: str) -> Verified:
    """Read a whole model back; afterwards `task` has the rounded weights.

    Raises:
        UserError: it is not the same model.
    """
    batch = _probe(task)
    before = _logits(task, batch)
    state = rounded(task.state_dict(), dtype)
    names = LanguageNames.of(task.language)
    found, strange = to_ours(read_folder(folder), layout, names, folder)
    if task.language.config.tie_word_embeddings:
        state = {key: value for key, value in state.items() if not key.startswith(f"language.{names.head}")}
    same_tensors(state, found, strange, folder)
    task.load_state_dict(state, strict=False)
    exact = _logits(task, batch)
    _same_config(instruct_config(folder), task.config, folder)
    if layout == "transformers":
        theirs = _theirs(InternVLForConditionalGeneration, folder)
        pixels = (batch.tiles.float() / 255 - task.pixel_mean) / task.pixel_std
        ids = batch.input_ids[None]
        out = theirs(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[0]
    else:
        out = _logits(_again(folder, task), batch)
    same_texts(folder, task, layout)
    return _judge("logits", before, exact, out, dtype, folder)


@torch.inference_mode()
def verify_backbone(folder: Path, backbone: Any, layout: Layout | None, dtype: str) -> Verified:
    """Read a backbone back; afterwards `backbone` has the rounded weights.

    Args:
        layout: None: our own.

    Raises:
        UserError: it is not the same backbone.
    """
    state = rounded(backbone.state_dict(), dtype)
    own, _ = read_public(folder)
    same_tensors(state, own if layout is None else backbone.traits.convert_keys(own), [], folder)
    if layout != "transformers":
        return verify_features(folder, backbone, dtype)
    theirs = lambda image: _theirs(InternVLVisionModel, folder)(image).last_hidden_state  # noqa: E731
    return verify_features(folder, backbone, dtype, theirs)


@torch.inference_mode()
def verify_features(
    folder: Path, backbone: Any, dtype: str, theirs: Callable[[Tensor], Tensor] | None = None
) -> Verified:
    """Compare what a backbone and the one that is built from a folder make of a random image; else as above.

    Args:
        theirs: what another library's makes of it, as `_features` has it; None: ours is built from the folder again.
    """
    traits = backbone.traits
    divisor = traits.least_divisor or math.lcm(*(spec.stride for spec in backbone.specs))
    is_plain = isinstance(backbone, InternVit | EvaVit)
    size = backbone.config.image_size if is_plain else -(-PROBE // divisor) * divisor
    image = torch.randn(1, traits.channels, size, size, generator=torch.Generator().manual_seed(0))
    before = _features(backbone, image)
    backbone.load_state_dict(rounded(backbone.state_dict(), dtype))
    exact = _features(backbone, image)
    if theirs is not None:
        out = theirs(image)
    else:
        again = backbone.config.build().eval()
        load_backbone(again, folder)
        out = _features(again, image)
    return _judge("features", before, exact, out, dtype, folder)


def _features(backbone: Any, image: Tensor) -> Tensor:
    """All that it gives: of an InternViT or an EVA ViT the class token too, which the map does not have."""
    if isinstance(backbone, InternVit):
        return backbone.hidden(image)
    if isinstance(backbone, EvaVit):
        x, _ = backbone.embed(image)
        for block in backbone.blocks:
            x = block(x)
        return backbone.norm(x)
    return torch.cat([one.flatten() for one in backbone(image)])


def _probe(task: Any) -> Any:
    """One row about one random tile."""
    size = task.config.tiling.size
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    turns = (Turn(role="user", text=QUESTION), Turn(role="assistant", text="Three ships, [[1, 2, 3, 4]]."))
    return task.collator([Sample(id="probe", image_id="probe", seed=0, images=[image], turns=turns)])


def _logits(task: Any, batch: Any) -> Tensor:
    """float[N, V], of every token."""
    reading = task.read(batch)
    return task.language.get_output_embeddings()(task.hidden(task.embed(batch, reading), reading)).float()


def _theirs(kind: Any, folder: Path) -> Any:
    """A model of `transformers`, in float32, all of it from the folder."""
    model, report = kind.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    if wrong:
        raise differs(folder, f"transformers does not find, or does not know, {wrong[0]} ({len(wrong)} such tensors)")
    return model.eval()


def _again(folder: Path, task: Any) -> Any:
    """The folder as a task of ours, built from what it says of itself."""
    config = task.config.model_copy(update=dict(instruct_config(folder)))
    with tempfile.TemporaryDirectory() as assets:
        again = config.build(DataInfo(), Path(assets))
    load_whole(again, folder)
    return again.eval()


def same_tensors(state: Mapping[str, Tensor], found: Mapping[str, Tensor], strange: list[str], folder: Path) -> None:
    wrong = sorted(state.keys() ^ found.keys()) + strange
    wrong += [k for k in state.keys() & found.keys() if found[k].dtype != state[k].dtype]
    wrong = wrong or [k for k in state if not torch.equal(found[k], state[k])]
    if wrong:
        raise differs(folder, f"{wrong[0]} did not come back as it was written ({len(wrong)} such tensors)")


def _same_config(found: Architecture, config: Any, folder: Path) -> None:
    """What the folder says of itself, apart from the language model, which the logits judge."""
    free = {"drop_path", "positions", "layer_scale", "recompute"}  # of training and of the first weights
    said = found.backbone.model_dump(exclude=free), found.tiling, found.shuffle, found.mean, found.std
    tiling = config.tiling.model_copy(update={"thumbnail": found.tiling.thumbnail})  # a note where it differs
    asked = config.backbone.model_dump(exclude=free), tiling, config.shuffle, config.mean, config.std
    wrong = [f"{a} for {b}" for a, b in zip(said, asked, strict=True) if a != b]
    if wrong:
        raise differs(folder, f"its configuration says {wrong[0]}")


def _judge(what: str, before: Tensor, exact: Tensor, out: Tensor, dtype: str, folder: Path) -> Verified:
    scale = max(before.abs().max().item(), 1e-12)
    apart, rounding = (out - exact).abs().max().item() / scale, (exact - before).abs().max().item() / scale
    if not apart <= SAME:  # NaN too
        raise differs(folder, f"its {what} are {apart:.1e} of the largest away from ours")
    if not rounding <= ROUNDED[dtype]:
        raise UserError(
            f"rounding the weights to {dtype} moves the {what} by {rounding:.1e} of the largest",
            fix="--dtype float32",
        )
    return Verified(what=what, apart=apart, rounding=rounding)

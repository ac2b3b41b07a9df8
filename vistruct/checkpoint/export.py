"""From a run to a folder that others read: written beside, read back and compared, and only then there.

transformers            the whole model, for `InternVLForConditionalGeneration.from_pretrained`
original                the whole model, as InternVL's own code keeps it
backbone-transformers   the ViT, for `InternVLVisionModel.from_pretrained`
backbone-original       the backbone as its published code reads it: an InternViT under the names of InternVL and ViTP;
                        of MTP and of EVA one .pth with a state dict
backbone-timm           an EVA ViT, for `timm.create_model`
backbone-lavis          an EVA ViT in a checkpoint of LAVIS's BLIP-2
backbone-plain          any backbone of ours: one safetensors file and a json
mtp-original            all tasks of a pretraining run as one `*_model.pth` of MTP: a .pth with a state dict
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from vistruct.backbones.intern_vit import InternVit
from vistruct.checkpoint.eva_layouts import EVA_LAYOUTS, check_eva, write_eva
from vistruct.checkpoint.export_adapters import ADAPTER_FORMATS
from vistruct.checkpoint.layouts import IMAGENET_MEAN, IMAGENET_STD
from vistruct.checkpoint.load import BACKBONE_FORMAT, load_model
from vistruct.checkpoint.low_rank import records_in, write_beside
from vistruct.checkpoint.mtp_joint import Member, notes_of, published_state, read_joint, verify_joint
from vistruct.checkpoint.public import write_backbone, write_published, write_whole
from vistruct.checkpoint.save import fsync_dir, write_json, write_text
from vistruct.checkpoint.tensors import no_room, write_tensors
from vistruct.checkpoint.verify import DTYPES, Verified, rounded, verify_backbone, verify_whole
from vistruct.errors import UserError, closest
from vistruct.files.owned import new_folder, refuse
from vistruct.tasks.instruct import Instruct
from vistruct.vlm.names import Layout

Format = Literal[
    "transformers",
    "original",
    "backbone-transformers",
    "backbone-original",
    "backbone-plain",
    "backbone-timm",
    "backbone-lavis",
    "mtp-original",
]
PUBLISHED_GRID = 32  # patches a side that the published downstream code expects of a position table


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and how it was proved."""

    path: Path
    verified: Verified
    notes: tuple[str, ...] = field(default=())  # what the layout cannot say, and its reader must know


def export(
    source: Path,
    out: Path,
    *,
    format: str,
    dtype: str = "float32",
    max_bytes: int = 5 * 10**9,
    lora: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Write a model in a public layout, read it back, compare, and put it in place.

    Args:
        source: a finished run, or the model/ directory inside one; of several tasks one, but for their backbone and for
            a format of all tasks.
        out: a folder that is not there yet.
        format: one of `Format`.
        dtype: of the file: float32, bf16 or fp16.
        max_bytes: of one safetensors file.
        lora: adapters that are added into the weights first, as of `checkpoint.adapters.read_adapters`.

    Raises:
        UserError: no model there; adapters of another model; `out` exists; a model that the layout cannot hold;
            weights that the type cannot hold; an export that is not the same model when it is read back.
    """
    if format not in get_args(Format):
        raise UserError(f"no format {format!r}", fix=closest(format, (*get_args(Format), *ADAPTER_FORMATS, "onnx")))
    if dtype not in DTYPES:
        raise UserError(f"no type {dtype!r}", fix=closest(dtype, DTYPES))
    refuse(out, "--out")
    members: list[Member] = []
    only_backbone = format.startswith("backbone-")
    if format == "mtp-original":
        if lora is not None:
            what = f"{format} is of all tasks of a run, and adapters are of one"
            raise UserError(what, where=lora, fix="leave --lora out: a run's own adapters are in its models already")
        members = read_joint(source)
        task, card, notes = members[0].task, members[0].card, notes_of(members)
    else:
        several = sorted((source / "model").glob("*/model.json")) if only_backbone else []
        one = several[0].parent if several else source  # all tasks of a run have one backbone
        task, card = load_model(one, lora=lora)
        notes = _check_backbone(task, format) if only_backbone else _check_whole(task, format)
    if lora is not None:
        say(f"{records_in(card.values)[-1]['layers']} adapters of {lora} added into the weights")
        notes = (*card.notes, *notes)
    try:
        with new_folder(out, "--out") as partial:
            say(f"writing {format}, {dtype}")
            if members:
                write_published(partial / "model.pth", published_state(members, dtype), "state_dict")
                verified = verify_joint(partial, members, dtype)
            elif only_backbone:
                verified = _write_backbone(partial, task, card.values, format, dtype, max_bytes)
            else:
                layout: Layout = "original" if format == "original" else "transformers"
                write_whole(partial, task, rounded(task.state_dict(), dtype), layout, dtype, max_bytes)
                verified = verify_whole(partial, task, layout, dtype)
            if records_in(card.values):
                write_beside(partial, "", records_in(card.values))
            write_text(partial / "README.md", _card(source, card.values, format, dtype, verified, notes))
            fsync_dir(partial)
        fsync_dir(out.parent)
    except OSError as error:
        raise no_room(error, out) from error
    say(verified.line())
    for note in notes:
        say(f"note: {note}")
    return Exported(path=out, verified=verified, notes=notes)


def _write_backbone(
    folder: Path, task: Any, values: dict[str, Any], format: str, dtype: str, max_bytes: int
) -> Verified:
    backbone, config = task.backbone, task.config.backbone
    if format in EVA_LAYOUTS:
        return write_eva(folder, backbone, format, dtype)
    state = rounded(backbone.state_dict(), dtype)
    if format == "backbone-plain":
        digest = write_tensors(folder / "backbone.safetensors", state)
        run = values["run"]
        about = {
            "format": BACKBONE_FORMAT,
            "config": config.model_dump(mode="json"),
            "input": values["input"],
            "source": {
                "recipe": run["recipe"],
                "steps": run["steps"],
                "data_fingerprint": values["info"]["fingerprint"],
            },
            "licence": values["licence"],
            "adapters": list(records_in(values)),
            "sha256": digest,
        }
        write_json(folder / "backbone.json", about)
        return verify_backbone(folder, backbone, None, dtype)
    publish = backbone.traits.to_published
    if format == "backbone-original" and publish is not None:
        write_published(folder / "model.pth", publish(state), backbone.traits.published_key)
        return verify_backbone(folder, backbone, "original", dtype)
    layout: Layout = "original" if format == "backbone-original" else "transformers"
    write_backbone(folder, config, state, layout, dtype, max_bytes)
    return verify_backbone(folder, backbone, layout, dtype)


def _check_whole(task: Any, format: str) -> tuple[str, ...]:
    """What a reader of this layout must know of the model.

    Raises:
        UserError: the layout cannot hold it.
    """
    config = task.config
    if not isinstance(task, Instruct):
        fix = "export its backbone: --format backbone-transformers"
        raise UserError(f"{format} holds a vision-language model, and this is a {config.kind!r}", fix=fix)
    _need_plain_vit(task, format)
    if config.tiling.fit != "stretch" or not config.projector_norm:
        what = f"{format} holds an InternVL, which stretches images and has a norm before its projector"
        raise UserError(what, fix="export its backbone: --format backbone-transformers")
    if task.is_blind_to_answers:
        raise UserError(
            f"this model writes every token of an answer without reading those before it, which {format} cannot say",
            fix="export its backbone, or train with --set task.answer_dropout=0.5",
        )
    if config.shuffle & (config.shuffle - 1):
        raise UserError(f"{format} cannot merge {config.shuffle} x {config.shuffle} patches", fix="use a power of two")
    notes = []
    if not config.tiling.thumbnail and config.tiling.max_tiles > 1 and format == "transformers":
        notes.append("it was trained without a thumbnail behind the tiles; transformers' processor always adds one")
    if config.independent:
        place = "behind the question" if config.image_last else "before the question"
        notes.append(f"every question was asked alone, the image {place}: ask it so")
    if config.system:
        said = "the chat template says it" if format == "transformers" else "say it yourself"
        notes.append(f"conversations without a system turn began with a fixed one; {said}")
    if format == "original":
        notes.append("the published code brings its own Chinese system text: replace it by this model's, or by nothing")
        if (config.mean, config.std) != (IMAGENET_MEAN, IMAGENET_STD):
            notes.append(
                "its mean and standard deviation are not ImageNet's, which the published code takes for granted"
            )
    return tuple(notes)


def _check_backbone(task: Any, format: str) -> tuple[str, ...]:
    if format == "backbone-plain" or (format == "backbone-original" and task.backbone.traits.to_published is not None):
        return ()
    if format in EVA_LAYOUTS:
        return check_eva(task.backbone, format)
    _need_plain_vit(task, format)
    grid = task.backbone.embeddings.grid
    if format == "backbone-original" and grid != PUBLISHED_GRID:
        return (f"its position table is {grid} x {grid}; ViTP's downstream code only reads 32 x 32 (448 px, patch 14)",)
    return ()


def _need_plain_vit(task: Any, format: str) -> None:
    if not isinstance(task.backbone, InternVit):
        raise UserError(f"{format} holds an InternViT, and this backbone is another", fix="--format backbone-plain")
    if task.backbone.config.stem != "patch":
        raise UserError(f"{format} has no convolutional stem (task.backbone.stem=conv)", fix="--format backbone-plain")


def _card(
    source: Path, values: dict[str, Any], format: str, dtype: str, verified: Verified, notes: tuple[str, ...]
) -> str:
    """What lies beside the weights, in Markdown."""
    wanted = values["input"]
    use = {
        "transformers": "transformers.InternVLForConditionalGeneration.from_pretrained(FOLDER)",
        "original": "vistruct train ... --set start=FOLDER, or InternVL's own code",
        "backbone-transformers": "transformers.InternVLVisionModel.from_pretrained(FOLDER)",
        "backbone-original": "vistruct train detect --backbone FOLDER, or the code it was published with",
        "backbone-plain": "vistruct train detect --backbone FOLDER",
        "backbone-timm": "timm.create_model(NAME, num_classes=0, checkpoint_path='FOLDER/model.safetensors')",
        "backbone-lavis": "load_checkpoint('FOLDER/model.pth') of a BLIP-2 of LAVIS",
        "mtp-original": "vistruct train mtp.dior_r --start FOLDER/model.pth, or the code it was published with",
    }[format]
    lines = [
        f"# {source.resolve().name}, as {format}",
        "",
        f"- Use: `{use}`",
        f"- Weights: {dtype}; {verified.line()}",
        f"- Input: RGB in [0, 1], mean {wanted.get('mean')}, standard deviation {wanted.get('std')}",
        f"- Licence of the weights: {values.get('licence', 'unknown')}",
        *[f"- Note: {note}" for note in notes],
        "",
    ]
    return "\n".join(lines)

"""The heads in ViSFT's files (`eva_e_detection_heads.ckpt` and the like): which are in one, and what their rows mean.

Each file has the head that its run trained, under `visft_heads.`, beside others that its run only carried along: a
detection head that was never trained in those of segmentation and captions, a caption decoder of another width in that
of detection. There is no backbone in them.

Source: the key layout of ViSFT's public code (arXiv:2401.10222). A training checkpoint there has its weights under
    `model`, one of several devices `module.` before all names; both are taken off where the file is read. The published
    loader knows neither and goes on with random heads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vistruct.checkpoint.trunks import BACKBONE, carry
from vistruct.checkpoint.visft_caption_head import caption_settings, check_trained
from vistruct.checkpoint.visft_segment_head import CLASSES, NOTE, each_once, segment_settings, without_output_0
from vistruct.checkpoint.visft_segment_head import ROWS as SEGMENT_ROWS
from vistruct.checkpoint.weights import Coverage
from vistruct.data.formats.boxes.coco_names import COCO
from vistruct.errors import UserError

FRONT = "visft_heads."
HEADS = {  # beginnings of the names of each head's tensors, behind `FRONT`
    "detection": ("transformer.", "query_embeds.", "input_proj.", "class_embeds.", "bbox_embeds."),
    "segment": ("segment_",),
    "caption": ("caption_decoder.",),
}
NUMBERS = tuple(number for number, name in COCO.items() if name)  # 80
NAMES = tuple(COCO[number] for number in NUMBERS)
ROWS = 92  # of the published detection head: 0 to 90 by COCO's numbers, then that of no object


@dataclass(frozen=True, kw_only=True)
class Taken:
    """One head, under its names in the file."""

    state: dict[str, Tensor]
    class_names: tuple[str, ...] | None  # of its rows; None: not known
    notes: tuple[str, ...] = ()


def has_visft_heads(names: Iterable[str]) -> bool:
    """Whether these are names of such a file."""
    return any(name.startswith(FRONT) for name in names)


def begin_with_heads(task: Any, state: Mapping[str, Tensor], report: Coverage) -> Coverage:
    """Start a task's head from such a file, and its backbone where one is in it.

    Raises:
        UserError: a head of another kind, or with other settings; it is not in the file, or was never trained; a tensor
            of the head is not there.
    """
    kind = task.config.head.kind if "head" in dict(task.named_children()) else task.config.kind
    if kind not in READERS:
        fix = f"--head {' or '.join(READERS)}; or leave --start out"
        raise UserError(f"{kind} begins with none of ViSFT's heads", where=report.source, fix=fix)
    if kind == "mask2former" and task.config.neck is not None:
        what = "ViSFT's segmentation head reads the map of the backbone itself, and here a neck is between them"
        raise UserError(what, where=report.source, fix="--set task.neck=null")
    taken = READERS[kind](task.config.head, state, report.source)
    backbone = {name: value for name, value in state.items() if name.startswith(BACKBONE)}
    own = {f"head.{name}": value for name, value in task.head.traits.convert_keys(taken.state).items()}
    alone = () if backbone else ("it holds heads alone: the backbone is that of --backbone, and random without it",)
    report = replace(
        report,
        unexpected=tuple(sorted(state.keys() - taken.state.keys() - backbone.keys())),
        notes=(*report.notes, *taken.notes, *alone),
    )
    return carry(task, backbone | own, taken.class_names, report, is_head_whole=True)


def take_detection(head: Any, state: Mapping[str, Tensor], source: Path) -> Taken:
    """The DETR head.

    Raises:
        UserError: as `begin_with_heads`.
    """
    part = part_of(state, "detection", source)
    check_settings(head, _settings_of(part), source)
    own = {f"{FRONT}{name}": value for name, value in part.items()}
    notes = []
    if any(name.startswith(f"{FRONT}caption_decoder.") for name in state):
        notes.append("the caption decoder in it is of another run, and not used")
    names: tuple[str, ...] | None = None
    if len(part["class_embeds.weight"]) == ROWS:
        names = NAMES
        for name in (f"{FRONT}class_embeds.weight", f"{FRONT}class_embeds.bias"):
            own[name] = own[name][[*NUMBERS, ROWS - 1]]
        notes.append("its classes are COCO's 80, by their numbers; the rows of numbers without a class are not used")
    return Taken(state=own, class_names=names, notes=tuple(notes))


def part_of(state: Mapping[str, Tensor], what: str, source: Path) -> dict[str, Tensor]:
    """The tensors of one of `HEADS`, without `FRONT`.

    Raises:
        UserError: it is not there, or its norms are as they were made: it was only carried along.
    """
    below = {name.removeprefix(FRONT): value for name, value in state.items() if name.startswith(FRONT)}
    part = {name: value for name, value in below.items() if name.startswith(HEADS[what])}
    there = [other for other, fronts in HEADS.items() if any(name.startswith(fronts) for name in below)]
    fix = f"the file of the {what} head, as eva_e_{what}_heads.ckpt"
    if not part:
        raise UserError(f"no {what} head in it, but {' and '.join(there) or 'none at all'}", where=source, fix=fix)
    norms = [value for name, value in part.items() if re.search(r"norm\d?\.weight$", name)]
    if norms and all(bool((value == value.flatten()[0]).all()) for value in norms):
        raise UserError(f"the {what} head in it was never trained: another one was", where=source, fix=fix)
    return part


def check_settings(head: Any, there: Mapping[str, Any], source: Path, at: str = "task.head") -> None:
    """
    Args:
        at: where `head` is in the run.

    Raises:
        UserError: the head is set otherwise than the file's; the fix sets it so.
    """
    own = head.model_dump(mode="json")
    others = {name: value for name, value in there.items() if own[name] != value}
    if others:
        told = ", ".join(f"{name}={_said(value)} (here {_said(own[name])})" for name, value in others.items())
        fix = " ".join(f"--set {at}.{name}={_said(value)}" for name, value in others.items())
        raise UserError(f"its head is set otherwise: {told}", where=source, fix=fix)


def _settings_of(part: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes of a detection head say of its settings, and what ViSFT's code builds in."""
    decoder = "transformer.decoders.detection.detection_coco.layers."
    hidden = part.get(f"{decoder}0.linear1.weight")
    return {
        "queries": len(part["query_embeds.detection.detection_coco.weight"]),
        "encoder_width": len(part["input_proj.weight"]),
        "decoder_width": part["class_embeds.weight"].shape[1],
        "encoder_layers": _layers(part, "transformer.encoder.layers."),
        "decoder_layers": _layers(part, decoder),
        **({} if hidden is None else {"hidden": len(hidden)}),
        "task_token": "transformer.task_embeddings_enc.weight" in part,
        "residual": True,
        "anchors": False,
    }


def _layers(part: Mapping[str, Tensor], front: str) -> int:
    return len({name.removeprefix(front).partition(".")[0] for name in part if name.startswith(front)})


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def take_caption(head: Any, state: Mapping[str, Tensor], source: Path) -> Taken:
    """The LSTM that describes images; its rows are the words of a word map that is not in the file.

    Raises:
        UserError: as `begin_with_heads`.
    """
    part = part_of(state, "caption", source)
    check_trained(part, state, source)
    check_settings(head, caption_settings(part), source)
    note = f"its {len(part['caption_decoder.fc.bias']):,} words are those of the word map that was given"
    return Taken(state={f"{FRONT}{name}": value for name, value in part.items()}, class_names=(), notes=(note,))


def take_segment(head: Any, state: Mapping[str, Tensor], source: Path) -> Taken:
    """The Mask2Former head.

    Raises:
        UserError: as `begin_with_heads`; it is there in two versions.
    """
    part = part_of(state, "segment", source)
    single = each_once(part, source)
    check_settings(head.layers, segment_settings(single), source, "task.head.layers")
    is_coco = len(single[CLASSES[0]]) == SEGMENT_ROWS
    if is_coco:
        single = without_output_0(single)
    return Taken(
        state={f"{FRONT}{name}": value for name, value in (part | single).items()},
        class_names=NAMES[:-1] if is_coco else None,
        notes=(NOTE,) if is_coco else (),
    )


# By the kind of the task's head.
READERS: dict[str, Callable[[Any, Mapping[str, Tensor], Path], Taken]] = {
    "detr": take_detection,
    "show_attend_tell": take_caption,
    "mask2former": take_segment,
}

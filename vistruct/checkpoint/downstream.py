"""A published model of backbone and head in one file, as the mm toolboxes and MTP write it, into a task of ours.

Source: the names of mmseg's, open-cd's, mmdet's and mmrotate's checkpoints: `backbone.*`, `neck.*`, and of the head
    `decode_head.*`, `bbox_head.*`, `rpn_head.*`, `roi_head.*`; what else is there (`auxiliary_head.*`) has no place
    here. A head that can read them has `convert_keys` among its traits. MTP's: `mtp_decoders`; ViSFT's: `visft_heads`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vistruct.checkpoint.fronts import take_front
from vistruct.checkpoint.mtp_decoders import FRONTS, decoder_of, has_decoders, take_decoder
from vistruct.checkpoint.pickled import is_pickled, read_with_classes
from vistruct.checkpoint.tensors import read_tensors
from vistruct.checkpoint.trunks import BACKBONE, backbone_option, carry
from vistruct.checkpoint.visft_heads import FRONT as VISFT
from vistruct.checkpoint.visft_heads import begin_with_heads, has_visft_heads
from vistruct.checkpoint.weights import Coverage
from vistruct.contracts import Described, HeadTraits, NeckTraits
from vistruct.errors import UserError
from vistruct.vlm.quantised import refuse_quantised

HEADS = ("decode_head.", "neck.", "bbox_head.", "rpn_head.", "roi_head.")


def load_downstream(task: Any, source: Path, start_set: str = "") -> Coverage:
    """Start a whole task, backbone, neck and head, from one file.

    Its classes are found by their names where these are known: those of MTP's data sets are, and mmcv and mmengine
    leave them beside the weights. Else there must be as many, in the same order.

    Args:
        task: nn.Module with `backbone` and `head`.
        source: a .safetensors file, or a foreign .pth.
        start_set: of MTP's pretraining: the data set whose last layers are taken, sota, sior or fast; "": the one that
            knows most of the task's classes.

    Raises:
        UserError: a task whose head reads no published weights; several of MTP's data sets fit; else as
            `weights.load_backbone` and `trunks.carry`.
    """
    names: tuple[str, ...] | None = None
    if is_pickled(source):
        state, notes, names = read_with_classes(source)
    else:
        state, notes = read_tensors(source), []
    refuse_quantised([(name, str(value.dtype)) for name, value in state.items()], source)
    every = tuple(state)
    state, more = take_front(state, lambda part: (sum(map(_is_own, part)),), source, of_all=True)
    unused: tuple[str, ...] = ()
    notes = [*notes, *more]
    licence = f"unknown: that of {source.name} holds"
    report = Coverage(source=source, what="model", names=every, licence=licence, notes=tuple(notes))
    if has_visft_heads(state) and not start_set:
        return begin_with_heads(task, state, report)
    _check_head(task, source)
    if has_decoders(tuple(state)):
        taken = take_decoder(state, decoder_of(task), task.traits.class_names, source, start_set)
        state, names, unused = taken.state, taken.class_names, taken.unused
        notes += taken.notes
    elif start_set:
        what = f"start_set={start_set} chooses among the data sets of MTP's pretraining, and this file is none of it"
        raise UserError(what, where=source, fix="leave start_set out")
    own = own_names(task, state)
    values = {id(value) for value in own.values()}
    left = sorted(key for key, value in state.items() if id(value) not in values)
    return carry(task, own, names, replace(report, unexpected=(*left, *unused), notes=tuple(notes)))


def _check_head(task: Any, source: Path) -> None:
    """
    Raises:
        UserError: a head that reads no published names, or none.
    """
    head = dict(task.named_children()).get("head")
    traits = head.traits if isinstance(head, Described) else None
    if not isinstance(traits, HeadTraits) or traits.convert_keys is None:
        whose = type(head).__name__ if head is not None else "this task"
        raise UserError(f"{whose} reads no published weights", where=source, fix=backbone_option(source))


def own_names(task: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model of the mm toolboxes under the names that the task's layers have; of the backbone as they are."""
    traits = task.head.traits
    assert traits.convert_keys is not None
    own = {key: value for key, value in state.items() if key.startswith(BACKBONE)}
    rest = {key: value for key, value in state.items() if not key.startswith((BACKBONE, "neck."))}
    own |= {f"head.{name}": value for name, value in traits.convert_keys(rest).items()}
    bottom = {key.removeprefix("neck."): value for key, value in state.items() if key.startswith("neck.")}
    neck = dict(task.named_children()).get("neck")
    neck_traits = neck.traits if isinstance(neck, Described) else None
    if isinstance(neck_traits, NeckTraits):
        bottom = neck_traits.convert_keys(bottom)
    return own | {f"neck.{name}": value for name, value in bottom.items()}


def _is_own(key: str) -> bool:
    """Whether a name begins as those of a downstream model do."""
    return key.startswith((BACKBONE, *HEADS, *FRONTS, VISFT))

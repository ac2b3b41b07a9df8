"""The decoders in a `*_model.pth` of MTP's pretraining: one of each kind for all data sets, and last layers for each.

Source: the key layout of MTP's public code (arXiv:2403.13430): `encoder.*`, `semsegdecoder.*`, `inssegdecoder.*` and
    `rotdetdecoder.*` with the names that these have in mmseg, mmdet and mmrotate, and beside them the last layers, each
    with the number of its data set behind its name. Its own script takes `rotdetdecoder` alone, and no last layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vistruct.checkpoint.class_rows import match_classes
from vistruct.config import Part
from vistruct.data.formats.boxes.published import FAST, SIOR, SOTA
from vistruct.errors import UserError, closest
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.mask_rcnn import MaskRcnnConfig
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.heads.roi_stage import RoiConfig
from vistruct.heads.rpn import RpnConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.necks.fpn import FpnConfig

SETS = {"sota": SOTA, "sior": SIOR, "fast": FAST}  # by the numbers 1, 2, 3
BACKGROUND = "background"  # the first class of pixels


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Where the tensors of one kind of decoder are, and what they are called there."""

    task: str  # what the published code calls it
    front: str  # of the trunk
    last: dict[str, str]  # layers of a data set, its number left out, and their names in the mm toolboxes

    def layer(self, name: str, number: int) -> str:
        """What stands before the names of a last layer of a data set."""
        return f"{name}{number}.1." if name.endswith("_") else f"{name}{number}."


PIXELS = Decoder(task="ss", front="semsegdecoder.", last={"semseghead_": "decode_head.conv_seg."})
MASKS = Decoder(
    task="is",
    front="inssegdecoder.",
    last={
        "inssegroiboxhead_fc_cls": "roi_head.bbox_head.fc_cls.",
        "inssegroiboxhead_fc_reg": "roi_head.bbox_head.fc_reg.",
        "inssegroimaskhead_conv": "roi_head.mask_head.conv_logits.",
    },
)
ORIENTED = Decoder(
    task="rd",
    front="rotdetdecoder.",
    last={
        "rotdetroiboxhead_fc_cls": "roi_head.bbox_head.fc_cls.",
        "rotdetroiboxhead_fc_reg": "roi_head.bbox_head.fc_reg.",
    },
)
DECODERS = (PIXELS, MASKS, ORIENTED)
_MASK_BOXES = FasterRcnnConfig(
    rpn=RpnConfig(beta=0.0, least_iou=0.3),
    roi=RoiConfig(low_quality=True, beta=0.0, sampling=0),
    max_detections=100,
)
PARTS: dict[str, tuple[Part | None, Part]] = {  # neck and head of each task, as the published code builds them
    "ss": (None, UperNetConfig(channels=256)),
    "is": (FpnConfig(), MaskRcnnConfig(box=_MASK_BOXES)),
    "rd": (FpnConfig(), OrientedRcnnConfig()),
}
FRONTS = ("encoder.", *(one.front for one in DECODERS), *(name for one in DECODERS for name in one.last))


@dataclass(frozen=True, kw_only=True)
class Taken:
    """One decoder with the backbone, as one file of the mm toolboxes has them."""

    state: dict[str, Tensor]
    class_names: tuple[str, ...]  # of the last layers; none: they are left out
    unused: tuple[str, ...]
    notes: tuple[str, ...]


def has_decoders(names: Sequence[str]) -> bool:
    """Whether these are names of a `*_model.pth`."""
    return any(name.startswith(one.front) for one in DECODERS for name in names)


def decoder_of(task: Any) -> Decoder:
    """Which of them has the layers of a task of pixels or of boxes."""
    if task.traits.prediction == "maps":
        return PIXELS
    return ORIENTED if task.head.traits.is_oriented else MASKS


def take_decoder(
    state: Mapping[str, Tensor], decoder: Decoder, names: Sequence[str], source: Path, wanted: str = ""
) -> Taken:
    """The backbone, one decoder, and the last layers of the data set whose classes `names` are the most.

    Args:
        wanted: the data set, a key of `SETS`; else it is found by the names.

    Raises:
        UserError: several data sets have as many of the classes, or there is no such data set.
    """
    sets = _sets(state, decoder)
    chosen = _chosen(sets, names, source, wanted)
    found, unused = layers_of(state, decoder, list(SETS).index(chosen) + 1 if chosen else None)
    note = f"its {decoder.front.rstrip('.')}, with the last layers of {chosen.upper()}"
    if not chosen:
        note = f"its {decoder.front.rstrip('.')}; none of its data sets has one of these classes"
    return Taken(state=found, class_names=sets.get(chosen, ()), unused=tuple(unused), notes=(note,))


def layers_of(state: Mapping[str, Tensor], decoder: Decoder, number: int | None) -> tuple[dict[str, Tensor], list[str]]:
    """The backbone and one decoder under the names of the mm toolboxes, and what is neither.

    Args:
        number: of the data set whose last layers are taken; None: none are.
    """
    places = {} if number is None else {decoder.layer(name, number): own for name, own in decoder.last.items()}
    found: dict[str, Tensor] = {}
    unused = []
    for key, value in state.items():
        front = next((front for front in places if key.startswith(front)), None)
        trunk = key.removeprefix(decoder.front)
        if key.startswith("encoder."):
            found[f"backbone.{key.removeprefix('encoder.')}"] = value
        elif front is not None:
            found[places[front] + key.removeprefix(front)] = value
        elif key.startswith(decoder.front) and not trunk.startswith(tuple(decoder.last.values())):
            found[trunk] = value
        else:
            unused.append(key)
    return found, unused


def placed(state: Mapping[str, Tensor], decoder: Decoder, number: int) -> dict[str, Tensor]:
    """The way back of `layers_of`: from the names of the mm toolboxes to those of a `*_model.pth`."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name, own = next(((name, own) for name, own in decoder.last.items() if key.startswith(own)), ("", ""))
        if key.startswith("backbone."):
            found[f"encoder.{key.removeprefix('backbone.')}"] = value
        elif name:
            found[decoder.layer(name, number) + key.removeprefix(own)] = value
        else:
            found[decoder.front + key] = value
    return found


def _sets(state: Mapping[str, Tensor], decoder: Decoder) -> dict[str, tuple[str, ...]]:
    """The classes of each data set with last layers here, in the order of their rows. What others have trained with the
    published code may have other data sets under these numbers: those of other sizes are none of the three."""
    name = next(iter(decoder.last))
    found = {}
    for number, (key, classes) in enumerate(SETS.items(), 1):
        weight = state.get(f"{decoder.layer(name, number)}weight")
        if weight is not None and len(weight) == len(classes) + 1:
            found[key] = (BACKGROUND, *classes) if decoder is PIXELS else classes
    return found


def _chosen(sets: Mapping[str, tuple[str, ...]], names: Sequence[str], source: Path, wanted: str) -> str:
    """The key of a data set; "": none has a class of these names."""
    if wanted and wanted not in sets:
        what = f"it has no last layers of a data set {wanted!r}"
        raise UserError(what, where=source, fix=closest(wanted, sets) if sets else "leave start_set out")
    if wanted:
        return wanted
    told = [name for name in names if name != BACKGROUND]
    known = {key: len(match_classes(told, classes).pairs) for key, classes in sets.items()}
    best = max(known.values(), default=0)
    tied = [key for key, num in known.items() if num == best and num]
    if len(tied) > 1:
        raise UserError(
            f"it has last layers of several data sets, and {' and '.join(tied)} each have {best} of these classes",
            where=source,
            fix=" or ".join(f"--set start_set={key}" for key in tied),
        )
    return tied[0] if tied else ""

"""A whole pretraining run as a `*_model.pth` of MTP: one backbone, one decoder of each kind, last layers of each set.

Everything is the way back of how `downstream` and `mtp_decoders` read such a file, by the same tables, and it is read
by these again before it counts.

Numbers: 1, 2 and 3 are SOTA, SIOR and FAST for whoever reads the file; a set of these classes gets that number and the
    rows the published order, whatever theirs is in the run. Other sets get the free numbers in the order of the run,
    but none whose published classes are as many: their rows would be taken for those.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vistruct.backbones.intern_image import SIZES, InternImageConfig
from vistruct.backbones.vit_rvsa import MTP_B, MTP_L, VitRvsa, VitRvsaConfig
from vistruct.checkpoint.class_rows import carry_rows, match_classes
from vistruct.checkpoint.downstream import load_downstream, own_names
from vistruct.checkpoint.load import ModelCard, load_model, model_dir
from vistruct.checkpoint.mtp_decoders import BACKGROUND, PARTS, PIXELS, SETS, Decoder, decoder_of, layers_of, placed
from vistruct.checkpoint.pickled import read_pickled
from vistruct.checkpoint.verify import Verified, rounded, same_tensors, verify_features
from vistruct.checkpoint.whole import differences
from vistruct.errors import UserError
from vistruct.tasks.dense import Detect
from vistruct.tasks.segment import Segment

ENCODERS: dict[str, Any] = {"vit_b_rvsa": MTP_B, "vit_l_rvsa": MTP_L, "internimage_xl": SIZES["XL"]}


@dataclass(frozen=True, kw_only=True)
class Member:
    """A task of the run, and where its last layers go."""

    stream: str
    set_name: str
    number: int
    known: str  # a key of `SETS`; "": other classes
    decoder: Decoder
    task: Any
    card: ModelCard

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes of its layers' rows, in the file."""
        if not self.known:
            return self.task.traits.class_names
        return (BACKGROUND, *SETS[self.known]) if self.decoder is PIXELS else SETS[self.known]


def read_joint(source: Path) -> list[Member]:
    """The tasks of a finished run, all with one and the same backbone.

    Raises:
        UserError: no finished run; a task, size or layer that the layout has no place for.
    """
    models: list[tuple[Any, ModelCard]] = []
    for place in _places(source):
        task, card = load_model(place)
        _check(task, card)
        if models:  # one in memory
            first = models[0][0]
            _same_backbone(first, task, place)
            task.backbone = first.backbone
        else:
            _check_backbone(task.backbone, card)
        models.append((task, card))
    order = list(models[0][1].values["run"]["streams"])
    missing = [name for name in order if name not in [_stream(card) for _, card in models]]
    if missing and not (source / "model.json").is_file():  # one was asked for
        what = f"the model of {missing[0]} is not among those of this run"
        raise UserError(what, where=source, fix="copy the run again, whole")
    models.sort(key=lambda one: order.index(_stream(one[1])))
    numbers = _numbers(_classes(models))
    return [
        Member(
            stream=_stream(card),
            set_name=_stream(card).removesuffix(f"_{decoder_of(task).task}"),
            number=numbers[_root(card)][0],
            known=numbers[_root(card)][1],
            decoder=decoder_of(task),
            task=task,
            card=card,
        )
        for task, card in models
    ]


def published_state(members: Sequence[Member], dtype: str) -> dict[str, Tensor]:
    """All of the run under the names of a `*_model.pth`.

    Raises:
        UserError: a layer without a published name; decoders that are not the same for all data sets.
    """
    found: dict[str, Tensor] = {}
    owner: dict[str, str] = {}
    for one in members:
        state = _in_rows_of_file(one, rounded(one.task.state_dict(), dtype))
        for key, value in placed(_mm_names(one.task, state), one.decoder, one.number).items():
            if not torch.equal(found.setdefault(key, value), value):
                what = f"{key} is one tensor for all data sets there, and another in {owner[key]} and in {one.stream}"
                what += ", which were trained without a trunk in common"
                raise UserError(what, where=one.card.path, fix=_alone(one.card))
            owner.setdefault(key, one.stream)
    return found


def notes_of(members: Sequence[Member]) -> tuple[str, ...]:
    """What the file cannot say: which data set has which number, and what the published code has otherwise."""
    notes: dict[str, None] = {}
    for one in members:
        classes = tuple(name for name in one.task.traits.class_names if name != BACKGROUND)
        of_number = dict(enumerate(SETS, 1)).get(one.number)
        line = f"data set {one.number} is {one.set_name!r}, "
        if one.known:
            line += f"with the classes of {one.known.upper()}"
            line += "" if classes == SETS[one.known] else ", whose rows were brought into its order"
        else:
            line += f"with {len(classes)} classes of its own ({', '.join(classes)})"
            there = f"{of_number.upper()}'s {len(SETS[of_number])}" if of_number else "no data set of this number"
            line += f"; the published code has {there}, and needs these in its lists to read it"
        notes[line] = None
        others = [
            text for text in differences(_published(one.task), one.task.config) if not text.startswith("backbone")
        ]
        if others:
            notes[f"{one.stream}: set otherwise in the published code, by {'; '.join(others)}"] = None
    unused = ["semsegdecoder.decode_head.conv_seg"] if any(one.decoder is PIXELS for one in members) else []
    unused += ["encoder.norm"] if isinstance(members[0].task.backbone, VitRvsa) else []
    if unused:
        said = " and ".join(unused)
        notes[f"not in the file: {said}, which the published code makes and never uses; load it with strict=False"] = (
            None
        )
    return tuple(notes)


@torch.inference_mode()
def verify_joint(folder: Path, members: Sequence[Member], dtype: str) -> Verified:
    """Read the file back as a start of each task does; afterwards the backbone has the rounded weights.

    Raises:
        UserError: a tensor that did not come back.
    """
    file = folder / "model.pth"
    state, _ = read_pickled(file)
    for one in members:
        exact = rounded(one.task.state_dict(), dtype)
        read, _ = layers_of(state, one.decoder, one.number)
        same_tensors(_in_rows_of_file(one, exact), own_names(one.task, read), [], folder)
        if one.known:  # by the names of its classes, into a task that knows nothing
            fresh = one.card.task.build(one.card.info, one.card.path)
            load_downstream(fresh, file, one.known)
            own = one.task.state_dict()
            same_tensors(
                {key: value.to(own[key].dtype) for key, value in exact.items()}, fresh.state_dict(), [], folder
            )
    return verify_features(folder, members[0].task.backbone, dtype)


def _mm_names(task: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One model under the names of the mm toolboxes; the way back of `downstream.own_names`."""
    found: dict[str, Tensor] = {}
    for part, front in (("backbone", "backbone."), ("neck", "neck."), ("head", "")):
        own = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        if own:
            found |= {front + key: value for key, value in task.get_submodule(part).traits.to_published(own).items()}
    return found


def _in_rows_of_file(one: Member, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, those of layers of classes with their rows in the order of the file."""
    match, moved = match_classes(one.names, one.task.traits.class_names), dict(state)
    for layer in one.task.head.traits.class_layers:
        for key in (key for key in state if key.startswith(f"head.{layer.name}.")):
            rows = carry_rows(layer, state[key], state[key], match)
            assert rows is not None
            moved[key] = rows
    return moved


def _numbers(sets: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[int, str]]:
    """The number of each data set, and the key in `SETS` where it has these classes, in whatever order."""
    found: dict[str, tuple[int, str]] = {}
    for name, classes in sets.items():
        for number, (key, published) in enumerate(SETS.items(), 1):
            match = match_classes(published, classes)
            if len(match.pairs) == len(published) == len(classes) and (number, key) not in found.values():
                found[name] = (number, key)
    sizes = {number: len(classes) for number, classes in enumerate(SETS.values(), 1)}
    for name, classes in sets.items():
        taken = {number for number, _ in found.values()}
        free = (number for number in itertools.count(1) if number not in taken and sizes.get(number) != len(classes))
        found.setdefault(name, (next(free), ""))
    return found


def _classes(models: Iterable[tuple[Any, ModelCard]]) -> dict[str, tuple[str, ...]]:
    """Of each data set, without the background.

    Raises:
        UserError: pixels whose first class is no background; tasks of one data set with different classes.
    """
    found: dict[str, tuple[str, ...]] = {}
    for task, card in models:
        names, fix = task.traits.class_names, _alone(card)
        if decoder_of(task) is PIXELS:
            if names[0] != BACKGROUND:
                what = f"the first class of pixels is the background there, and {names[0]!r} in {_stream(card)}"
                raise UserError(what, where=card.path, fix=fix)
            names = names[1:]
        if found.setdefault(_root(card), names) != names:
            what = f"the tasks of {_root(card)} have different classes, and a data set has one list of them there"
            raise UserError(what, where=card.path, fix=fix)
    return found


def _places(source: Path) -> list[Path]:
    """The model directories of a run, or the one that is given.

    Raises:
        UserError: none.
    """
    base = source / "model" if (source / "model").is_dir() else source
    if (base / "model.json").is_file():
        return [base]
    return [file.parent for file in sorted(base.glob("*/model.json"))] or [model_dir(source)]


def _check(task: Any, card: ModelCard) -> None:
    """
    Raises:
        UserError: what the layout has no place for.
    """
    stream, fix = _stream(card), _alone(card)
    if not isinstance(task, Segment | Detect) or task.config.kind == "change":
        what = f"{stream} is a {task.config.kind!r}; a file of MTP's pretraining has pixels, masks and oriented boxes"
        raise UserError(what, where=card.path, fix=fix)
    own = _shapes(task.state_dict(), above=True)
    with torch.device("meta"):  # no memory: for names and shapes
        whole = _published(task).build(card.info, card.path, task.backbone)
    wrong = _first_other(own, _shapes(whole.state_dict(), above=True))
    if wrong:
        what = f"{stream} has another decoder than {decoder_of(task).front.rstrip('.')} is there: {wrong}"
        raise UserError(what, where=card.path, fix=fix)


def _check_backbone(backbone: Any, card: ModelCard) -> None:
    """
    Raises:
        UserError: the published code has no such encoder.
    """
    encoders = _encoders(backbone.config)
    if not encoders:
        what = f"its backbone is a {backbone.config.kind!r}; the published code has {', '.join(ENCODERS)}"
        raise UserError(what, where=card.path, fix=_alone(card))
    own = _shapes(backbone.state_dict())
    with torch.device("meta"):
        others = [_first_other(own, _shapes(config.build().state_dict())) for config in encoders.values()]
    if all(others):
        what = f"its backbone is not of the size of {' or '.join(encoders)}: {others[0]}"
        raise UserError(what, where=card.path, fix=_alone(card))


def _shapes(state: Mapping[str, Tensor], *, above: bool = False) -> dict[str, tuple[int, ...]]:
    """Of tensors by name; `above`: of a task, without its backbone."""
    return {key: tuple(value.shape) for key, value in state.items() if not (above and key.startswith("backbone."))}


def _encoders(backbone: Any) -> dict[str, Any]:
    """The published ones of a backbone's kind, for its size of images."""
    if isinstance(backbone, VitRvsaConfig):
        size = {"image_size": backbone.image_size}
        return {key: one.model_copy(update=size) for key, one in ENCODERS.items() if isinstance(one, VitRvsaConfig)}
    return {key: one for key, one in ENCODERS.items() if type(one) is type(backbone) is InternImageConfig}


def _published(task: Any) -> Any:
    """The task as the published code builds it, over the same backbone."""
    neck, head = PARTS[decoder_of(task).task]
    return task.config.model_copy(update={"neck": neck, "head": head})


def _first_other(own: Mapping[str, tuple[int, ...]], there: Mapping[str, tuple[int, ...]]) -> str:
    for key in (*own, *there):
        if own.get(key) != there.get(key):
            here, other = (f"{list(one[key])}" if key in one else "not" for one in (own, there))
            return f"{key} is {other} there and {here} here"
    return ""


def _same_backbone(first: Any, task: Any, place: Path) -> None:
    theirs = task.backbone.state_dict()
    for key, value in first.backbone.state_dict().items():
        if key not in theirs or not torch.equal(value, theirs[key]):
            what = f"backbone.{key} is not the same in all tasks of this run"
            raise UserError(what, where=place, fix="copy the run again, whole")


def _stream(card: ModelCard) -> str:
    return str(card.values["stream"])


def _root(card: ModelCard) -> str:
    """The stream whose samples a task learns from: one for each data set."""
    return card.values["run"]["streams"][_stream(card)].get("samples") or _stream(card)


def _alone(card: ModelCard) -> str:
    return f"its backbone goes out alone: vistruct export {card.path} --format backbone-plain --out DIR"

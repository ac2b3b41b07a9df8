"""A finished run as something to ask: `vistruct.load("runs/x").predict("port.tif")`.

Images are put before the model as its card's input contract says: cut into windows, resized, with its bands and ranges
of values. What comes back is in pixels of the image that was given, and of the task's kind (see `kind.py`); with the
image it is a `Result` (see `result.py`). Of a large image only the windows of one pass are put before the model at a
time, and what was found is joined as soon as it can be.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Unpack

from vistruct.checkpoint.load import ModelCard, load_model
from vistruct.contracts import RGB, Region
from vistruct.data.input import Input, Windows
from vistruct.distributed.precision import amp_dtype, autocast
from vistruct.errors import UserError, closest
from vistruct.files.intake import Intake
from vistruct.files.text import printable
from vistruct.inference.kind import Asked, Exchange, Kind, check_asked, config_seen_in, kind_of, with_longest
from vistruct.inference.result import Predictions, Result, result_of
from vistruct.inference.scenes import PICTURES, Case, Pair, Picture, Scene, scene_of
from vistruct.windows.views import Views, views_of


class Words(TypedDict, total=False):
    """How `Model.predict` is asked."""

    ask: str | None
    regions: Sequence[Region]
    history: Sequence[Exchange]
    command: str | None
    batch: int
    min_score: float | None
    classes: Sequence[str] | None
    drop: Sequence[str]
    queue: str | None
    probabilities: bool
    tile: int | None
    overlap: int | None
    flip: Sequence[str]
    scale: Sequence[float]


def load(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    task: str = "",
    lora: str | Path | None = None,
) -> Model:
    """Load a finished run.

    Args:
        path: a run directory, or the model directory inside one.
        device: where to compute; None: a GPU if there is one.
        task: of a run with several tasks: the name of one.
        lora: adapters that are added into its weights: a run, a folder of peft's, or a file of ViSFT.

    Raises:
        UserError: not a run, a run that has not finished, or damaged weights; several tasks, and none is named.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not Path(path).exists():
        raise UserError("no such directory", where=path, fix="give a run directory, or the model directory inside one")
    asked, card = load_model(Path(path), where, task, lora=None if lora is None else Path(lora), or_onnx=True)
    return Model(task=asked, card=card, device=where)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained task and what is known of it."""

    task: Any  # nn.Module, Task, in eval mode
    card: ModelCard
    device: torch.device
    views: Views | None = None  # beside those of its configuration
    longest: int | None = None  # tokens after which an answer ends; None: as its configuration has it

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels of its predictions stand for; empty for a model that answers."""
        return self.task.traits.class_names

    @property
    def palette(self) -> tuple[RGB, ...]:
        """A colour for each class: the data set's, or our own."""
        from vistruct.pictures.areas import Key

        own = self.card.info.palette
        return tuple(own) if own is not None and len(own) == len(self.class_names) else Key.of(self.class_names).colours

    @property
    def kind(self) -> Kind:
        """What it gives, and what can be done with that."""
        return kind_of(self.task, self.input)

    @property
    def input(self) -> Input:
        """How images are put before it: as in its evaluations, and cut as its training data was."""
        return self.card.input

    def in_windows(self, size: int | None = None, overlap: int | None = None) -> Model:
        """The same model, which looks at images in windows of so many pixels.

        Args:
            size: None: as in training.
            overlap: None: as much as in training, or a fifth.

        Raises:
            UserError: a model that looks at whole images; no size is known; no stride is left.
        """
        unit, known = self.kind.windows, self.input.windows
        size = size or (known.size if known is not None else None)
        if size is None:
            raise UserError("an overlap of no windows", where="--overlap", fix="give --tile PX too")
        if overlap is None:
            overlap = min(known.overlap, size // 2) if known is not None else size // 5
        if unit is None:
            what = f"a model of {self.kind.name} takes whole images"
            raise UserError(what, where="--tile, --overlap", fix="leave them out")
        windows = Windows(size=size, overlap=overlap, blend=known.blend if known else "smooth", unit=unit)
        return replace(self, card=replace(self.card, input=self.input.model_copy(update={"windows": windows})))

    def reading(self, intake: Intake) -> Model:
        """The same model, which takes these bands and ranges of values in files in place of those of its training.

        Raises:
            UserError: another number of bands than the model has channels.
        """
        if intake.bands is not None and intake.channels_of(len(intake.bands)) != self.input.channels:
            bands = ",".join(map(str, range(1, self.input.channels + 1)))
            what = f"{len(intake.bands)} bands for a model of {self.input.channels} channels"
            raise UserError(what, where="--bands", fix=f"as many, in the order of its training: --bands {bands}")
        return replace(self, card=replace(self.card, input=self.input.model_copy(update={"intake": intake})))

    def finding(self, class_names: tuple[str, ...]) -> Model:
        """The same model, which looks for these in place of the classes of its training, by their names.

        Raises:
            UserError: a model that knows its classes by their numbers; a name twice.
        """
        if self.task.traits.take_classes is None:
            what = "this model knows the classes of its training alone"
            raise UserError(what, where=self.card.path, fix="train it with classes by name: detect --names CLIP")
        if len(set(class_names)) < len(class_names):
            raise UserError("a class is named twice", where="--classes", fix="--classes a,b")
        task = copy.copy(self.task)  # of the same weights
        task.traits.take_classes(class_names)
        return replace(self, task=task)

    def seen_in(self, views: Views) -> Model:
        """The same model, which looks at every window in several ways (test-time augmentation) and joins (or averages)
        what it finds there.

        Raises:
            UserError: a kind of prediction that has no way to, or not for these views.
        """
        task = copy.copy(self.task)  # of the same weights
        task.config = config_seen_in(self.kind, self.task.config, views)
        return replace(self, task=task, views=views)

    def answering(self, max_new_tokens: int) -> Model:
        """The same model, whose answers end after so many tokens at the latest.

        Raises:
            UserError: it gives no answers.
        """
        task = copy.copy(self.task)  # of the same weights
        task.config = with_longest(self.task.config, max_new_tokens)
        return replace(self, task=task, longest=max_new_tokens)

    @overload
    def predict(self, images: str | Path, **words: Unpack[Words]) -> Result | Any: ...

    @overload
    def predict(self, images: Image.Image | np.ndarray | Tensor, **words: Unpack[Words]) -> Result: ...

    @overload
    def predict(self, images: Sequence[Picture] | Sequence[Pair], **words: Unpack[Words]) -> Predictions: ...

    def predict(self, images: Any, **words: Unpack[Words]) -> Any:
        """Boxes in an image, the class of every pixel, what changed in a pair, the class of an image, or an answer.

        The words are those of `vistruct predict`.

        Args:
            images: a path, a PIL image, uint8[H, W, C] array or uint8[C, H, W] tensor (3 channels are RGB); for a
                model of change a tuple of two of those (before, after); a list of any of these; or a folder (for a
                model of change two), with all images in it and below it. With a question a tuple in a list is images
                that it is about together. Arrays and tensors of another number type hold values as files have them,
                of a model whose training data had such.
            ask: the question, for a model with language; of a list of images, about each of them. `<image>` in it
                marks where an image goes; without a mark they go in front.
            regions: what the question shows, of a model that points: one for each `<region>` in it, or named behind it.
            history: what was asked and answered about the image before.
            command: what to answer with, of a model that is told (`grammar.command`): a unit (box, mask, ...), "text",
                or the name of a task.
            batch: windows that are looked at in one pass, or images that are asked about.
            min_score: of detections; None: all.
            classes: only these in the results; of a model that knows classes by their names, whatever is to be found.
            drop: not these.
            queue: "confidence", "margin" or "entropy": `.save` of several puts the most uncertain first.
            probabilities: of the class of every pixel or voxel, those of all classes are kept.
            tile: pixels of the windows that images are cut into; None: as in training.
            overlap: pixels that windows share.
            flip: test-time augmentation: also flipped "horizontal", "vertical", "diagonal".
            scale: also at so many times the size; name 1 among them.

        Returns:
            A `Result` for one image or pair; for a list or a folder `Predictions`, an iterator of results.

        Raises:
            UserError: an image that cannot be read or has another type or shape (of several, when it is its turn); a
                question to a model without language, or none to one with it; a pair for a model of single images, or
                the other way round; words that this kind of model has no use for.
        """
        for name in words:
            if name not in Words.__annotations__:
                raise UserError(f"no word {name!r}", where="predict", fix=closest(name, Words.__annotations__))
        model, classes = self._told(words), words.get("classes")
        is_one, cases = cases_of(model, images)
        asked = Asked(
            question=words.get("ask"),
            regions=tuple(words.get("regions", ())),
            history=tuple(words.get("history", ())),
            command=words.get("command"),
            batch=words.get("batch", 8),
            min_score=words.get("min_score"),
            classes=None if classes is None else tuple(classes),
            drop=tuple(words.get("drop", ())),
            queue=words.get("queue"),
            probabilities=words.get("probabilities", False),
        )
        check_asked(model.kind, model, cases, asked)
        if not is_one:
            return Predictions(model, cases, asked)
        (found,) = model.look(cases, asked)
        return result_of(model, cases[0], found, asked)

    def _told(self, words: Words) -> Model:
        """The same model, which finds other classes, in other windows and more views."""
        model, classes = self, words.get("classes")
        tile, overlap = words.get("tile"), words.get("overlap")
        views = views_of(words.get("flip", ()), words.get("scale", ()))
        if classes is not None and self.task.traits.take_classes is not None:
            model = model.finding(tuple(classes))
        model = model if tile is None and overlap is None else model.in_windows(tile, overlap)
        return model if views is None else model.seen_in(views)

    def look(self, cases: Sequence[Case], asked: Asked) -> list[Any]:
        """One prediction for each case, in the arithmetic that the run was measured in (its `amp`).

        Raises:
            UserError: as `predict`.
        """
        run = self.card.values.get("run")
        amp = None if run is None else amp_dtype(run.get("amp", "auto"), self.device)
        with autocast(amp, self.device):
            return self.kind.look(self, cases, asked)

    def scene(self, case: Case) -> Scene:
        """An image or a pair as the task takes it, its files read as the training data was.

        Raises:
            UserError: as `predict`.
        """
        if self.input.images == 2 and len(case.pictures) != 2:
            raise UserError("this model compares two images", where=case.name, fix="give pairs: (before, after)")
        if len(case.pictures) > self.input.images:
            what = "a pair, and the model takes single images"
            raise UserError(what, where=case.name, fix="give the images one by one")
        return scene_of(case.pictures, case.name, self.input.channels, self.input.intake)


def cases_of(model: Model, images: Any) -> tuple[bool, list[Case]]:
    """What `Model.predict` is given: whether it is one image (or pair, or volume), and the cases."""
    if isinstance(images, (*PICTURES, tuple) if model.input.images > 1 else PICTURES):
        parts = images if isinstance(images, tuple) else (images,)
        folders = [Path(one) for one in parts if isinstance(one, str | Path) and Path(one).is_dir()]
        if len(folders) == len(parts):
            cases = model.kind.cases(model, folders)
            return len(cases) == 1 and cases[0].files == tuple(folders), cases  # a series of DICOM is one volume
        return True, _cases([images])
    return False, _cases(list(images))


def _cases(images: Sequence[Any]) -> list[Case]:
    """Named by their files, by the whole paths where two would be called alike; what is no file by its number."""
    every = [one if isinstance(one, tuple) else (one,) for one in images]
    last = [parts[-1] if parts and isinstance(parts[-1], str | Path) else None for parts in every]
    alike = Counter(Path(one).name for one in last if one is not None)
    cases = []
    for number, (parts, file) in enumerate(zip(every, last, strict=True)):
        name = f"image {number}" if file is None else Path(file).name
        name = name if file is None or alike[name] == 1 else Path(file).as_posix()
        cases.append(Case(pictures=parts, name=printable(name)))
    return cases

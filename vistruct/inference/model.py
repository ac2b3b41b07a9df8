"""A finished run as something to ask: `vistruct.load("runs/x").predict("port.tif")`.

Images are put before the model as its card's input contract says: cut into windows, resized, with its bands and ranges
of values. What comes back is in pixels of the image that was given, and of the task's kind (see `kind.py`). Of a large
image only the windows of one pass are put before the model at a time, and what was found is joined as soon as it can
be.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch

from vistruct.checkpoint.load import ModelCard, load_model
from vistruct.contracts import RGB, Prediction, Region
from vistruct.data.input import Input, Windows
from vistruct.distributed.precision import amp_dtype, autocast
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.inference.kind import Asked, Exchange, Kind, check_asked, config_seen_in, kind_of, with_longest
from vistruct.inference.scenes import PICTURES, Case, Pair, Picture, Scene, scene_of
from vistruct.windows.views import Views


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

    def in_windows(self, size: int, overlap: int) -> Model:
        """The same model, which looks at images in windows of so many pixels.

        Raises:
            UserError: a model that looks at whole images; no stride is left.
        """
        unit, known = self.kind.windows, self.input.windows
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
    def predict(
        self,
        images: Picture | Pair,
        *,
        ask: str | None = None,
        regions: Sequence[Region] = (),
        history: Sequence[Exchange] = (),
        command: str | None = None,
        batch: int = 8,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        images: Sequence[Picture] | Sequence[Pair],
        *,
        ask: str | None = None,
        regions: Sequence[Region] = (),
        history: Sequence[Exchange] = (),
        command: str | None = None,
        batch: int = 8,
    ) -> list[Prediction]: ...

    def predict(
        self,
        images: Any,
        *,
        ask: str | None = None,
        regions: Sequence[Region] = (),
        history: Sequence[Exchange] = (),
        command: str | None = None,
        batch: int = 8,
    ) -> Prediction | list[Prediction]:
        """Boxes in an image, the class of every pixel, what changed in a pair, the class of an image, or an answer.

        Args:
            images: a path, a PIL image, uint8[H, W, C] array or uint8[C, H, W] tensor (3 channels are RGB); for a
                model of change a tuple of two of those (before, after); or a list of any of these. With a question a
                tuple in a list is images that it is about together. Arrays and tensors of another number type hold
                values as files have them, of a model whose training data had such.
            ask: the question, for a model with language; of a list of images, about each of them. `<image>` in it
                marks where an image goes; without a mark they go in front.
            regions: what the question shows, of a model that points: one for each `<region>` in it, or named behind it.
            history: what was asked and answered about the image before.
            command: what to answer with, of a model that is told (`grammar.command`): a unit (box, mask, ...), "text",
                or the name of a task.
            batch: windows that are looked at in one pass, or images that are asked about.

        Returns:
            One prediction for an image or pair, a list of them for a list.

        Raises:
            UserError: an image that cannot be read or has another type or shape; a question to a model
                without language, or none to one with it; a pair for a model of single images, or the other way round.
        """
        is_one = isinstance(images, (*PICTURES, tuple) if self.input.images > 1 else PICTURES)
        cases = [_case(one, number) for number, one in enumerate([images] if is_one else images)]
        kind, shown, said = self.kind, tuple(regions), tuple(history)
        asked = Asked(question=ask, regions=shown, history=said, command=command, batch=batch)
        check_asked(kind, self, cases, asked)
        step = batch if kind.at_once else 1
        found = [one for at in range(0, len(cases), step) for one in self.look(cases[at : at + step], asked)]
        return found[0] if is_one else found

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


def _case(image: Picture | tuple[Picture, ...], number: int) -> Case:
    pictures = image if isinstance(image, tuple) else (image,)
    last = pictures[-1]
    return Case(pictures=pictures, name=str(last) if isinstance(last, str | Path) else f"image {number}")

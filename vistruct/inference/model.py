"""A finished run as something to ask: `vistruct.load("runs/x").predict("port.tif")`.

Images are put before the model as its training data was: cut into the same windows, resized alike, with the same
bands and ranges of values. What comes back is in pixels of the image that was given: joined detections, the class of
every pixel, or the class of the image. Of a large image only the windows of one pass are put before the model at a
time, and what was found is joined (and given out, row by row) as soon as it can be.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistruct.checkpoint.load import ModelCard, load_model
from vistruct.contracts import (
    AnswerPrediction,
    BoxPrediction,
    ClassPrediction,
    MapPrediction,
    Prediction,
    Sample,
    Turn,
)
from vistruct.data.input import Input, Windows
from vistruct.errors import UserError
from vistruct.files.volume_files import VolumeFile
from vistruct.inference.pixels import open_case, rows_of, slices_of
from vistruct.inference.scenes import Pair, Picture, Scene, as_pixels, scene_of
from vistruct.transforms.sizing import sized
from vistruct.windows.merge import WindowMerger, join
from vistruct.windows.tiles import Tiles, Window, windows
from vistruct.windows.views import Views

PLACE = "<image>"  # in a question, where an image goes
MAPS = ("segment", "change")  # kinds of tasks that give the class of every pixel


def load(path: str | Path, *, device: str | torch.device | None = None) -> Model:
    """Load a finished run.

    Args:
        path: a run directory, or the model directory inside one.
        device: where to compute; None: a GPU if there is one.

    Raises:
        UserError: not a run, a run that has not finished, or damaged weights.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not Path(path).exists():
        raise UserError("no such directory", where=path, fix="give a run directory, or the model directory inside one")
    task, card = load_model(Path(path), where)
    return Model(task=task, card=card, device=where)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained task and what is known of it."""

    task: Any  # nn.Module, Task, in eval mode
    card: ModelCard
    device: torch.device

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels of a detector's predictions stand for; empty for a model that answers."""
        return self.card.info.class_names

    @property
    def kind(self) -> str:
        """What its task gives: `detect`, `segment`, `change`, `classify` or `instruct`."""
        return "instruct" if self.answers else getattr(getattr(self.task, "config", None), "kind", "detect")

    @property
    def input(self) -> Input:
        """How images are put before it: as in its evaluations, and cut as its training data was."""
        return self.card.input

    def in_windows(self, size: int, overlap: int) -> Model:
        """The same model, which looks at images in windows of so many pixels.

        Raises:
            UserError: no stride is left.
        """
        known = self.input.windows
        unit: Literal["file", "shown"] = "shown" if self.kind in MAPS else "file"
        windows = Windows(size=size, overlap=overlap, blend=known.blend if known else "smooth", unit=unit)
        return replace(self, card=replace(self.card, input=self.input.model_copy(update={"windows": windows})))

    def seen_in(self, views: Views) -> Model:
        """The same model, which looks at every window in several ways and joins (or averages) what it finds there.

        Raises:
            UserError: a model that answers, or scales for one that gives a class of a whole image.
        """
        if self.answers:
            raise UserError("a model that answers looks once", where=self.card.path, fix="leave the views out")
        changed: dict[str, Any] = {"views": views}
        if self.kind == "classify":
            if views.scales != (1.0,):
                raise UserError("a classifier has one size", where=f"scales={views.scales}", fix="leave the scales out")
            changed = {"flips": views.flips}
        task = copy.copy(self.task)  # of the same weights
        task.config = self.task.config.model_copy(update=changed)
        return replace(self, task=task)

    @property
    def answers(self) -> bool:
        """Whether it is asked questions, rather than for boxes."""
        return hasattr(self.task, "language")

    @overload
    def predict(self, images: Picture | Pair, *, ask: str | None = None, batch: int = 8) -> Prediction: ...

    @overload
    def predict(
        self, images: Sequence[Picture] | Sequence[Pair], *, ask: str | None = None, batch: int = 8
    ) -> list[Prediction]: ...

    def predict(
        self, images: Any, *, ask: str | None = None, batch: int = 8
    ) -> Prediction | list[Prediction]:  # fmt: skip
        """Boxes in an image, the class of every pixel, what changed in a pair, the class of an image, or an answer.

        Args:
            images: a path, a PIL image, uint8[H, W, C] array or uint8[C, H, W] tensor (3 channels are RGB); for a
                model of change a tuple of two of those (before, after); or a list of any of these.
            ask: the question, for a model with language; of a list of images, about each of them.
            batch: windows that are looked at in one pass, or images that are asked about.

        Returns:
            One prediction for an image or pair, a list of them for a list.

        Raises:
            UserError: an image that cannot be read or has another type or shape; a question to a model
                without language, or none to one with it; a pair for a model of single images, or the other way round.
        """
        is_one = isinstance(images, (*_PICTURES, tuple) if self.kind == "change" else _PICTURES)
        several = [images] if is_one else list(images)
        found: list[Prediction] = []
        if ask is not None:
            for start in range(0, len(several), batch):
                found += self.ask([[image] for image in several[start : start + batch]], ask, first=start)
        elif self.kind == "classify":
            found += self.classify(several, [_name(image, i) for i, image in enumerate(several)], batch=batch)
        else:
            found += [self.look(image, _name(image, i), batch=batch) for i, image in enumerate(several)]
        return found[0] if is_one else found

    def predict_volume(self, volume: str | Path | VolumeFile, *, batch: int = 8) -> Tensor:
        """int16[S, H, W]: the class of every voxel of a NIfTI file or DICOM series, in the order of its slices.

        Args:
            volume: a file or folder, read as the training data was; or one that is open (several modalities).
            batch: slices that are looked at in one pass.

        Raises:
            UserError: a file that cannot be read, or a model that was not trained on volumes.
        """
        opened = volume if isinstance(volume, VolumeFile) else open_case(self, [Path(volume)])
        return torch.stack([rows.label_map for rows in slices_of(self, opened, batch=batch)])

    @torch.inference_mode()
    def ask(self, groups: Sequence[Sequence[Picture]], question: str, *, first: int = 0) -> list[AnswerPrediction]:
        """The answer to the same question about each group of images, all in one pass.

        Args:
            groups: images that one question is about: one, or several that it compares.
            question: `<image>` in it marks where an image goes; without a mark they go in front.
            first: what unnamed images are counted from, in names.

        Raises:
            UserError: as `predict`; or another number of marks than of images.
        """
        if not self.answers:
            raise UserError(
                "this model has no language to answer with",
                where=self.card.path,
                fix="ask a model trained with vitp.pretrain, or leave the question out for boxes",
            )
        if not question.replace(PLACE, "").strip():
            raise UserError("the question is empty", where=f"ask={question!r}", fix='ask="How many trees are there?"')
        samples = []
        for group in groups:
            names = [_name(image, first + number) for number, image in enumerate(group)]
            first += len(group)
            name = ", ".join(names)
            turns = (Turn(role="user", text=with_places(question, len(group), name)),)
            pixels = [as_pixels(image, own) for image, own in zip(group, names, strict=True)]
            samples.append(Sample(id=name, image_id=name, seed=0, images=pixels, turns=turns))
        collate = self.task.traits.predict_collator or self.task.collator
        return self.task.predict(collate(samples).to(self.device)) if samples else []

    def places(self, size_hw: tuple[int, int]) -> list[Window]:
        """The windows in which an image of this size is looked at, row by row.

        Raises:
            UserError: the model looks at nothing, it answers questions.
        """
        if self.answers:
            raise UserError(
                "this model answers questions, and there is none",
                where=self.card.path,
                fix='give one: ask="How many trees are there?", on the command line --ask "..."',
            )
        how = self.input.windows
        if how is None:
            return [(0, 0, size_hw[1], size_hw[0])]
        return windows(size_hw, Tiles(size=how.size, overlap=how.overlap))

    def look(
        self, image: Picture | Pair, name: str, *, batch: int = 8, show: Callable[[int], None] | None = None
    ) -> BoxPrediction | MapPrediction | ClassPrediction:
        """What is in an image (or a pair), all windows joined.

        Args:
            image: as of `predict`.
            name: the prediction's `id`, and said in errors.
            batch: windows that are looked at in one pass.
            show: told how many windows are done, after each pass.

        Raises:
            UserError: as `predict`.
        """
        if self.kind in MAPS:
            parts = list(rows_of(self, self.scene(image, name), batch=batch, show=show))
            return MapPrediction(
                id=name,
                image_id=name,
                label_map=torch.cat([part.label_map for part in parts]),
                class_names=self.task.class_names,
                confidence=torch.cat([part.confidence for part in parts]),
            )
        if self.kind == "classify":
            return self.classify([_single(image, name)], [name])[0]
        return self.boxes(image, name, batch=batch, show=show)

    @torch.inference_mode()
    def boxes(
        self, image: Picture | Pair, name: str, *, batch: int = 8, show: Callable[[int], None] | None = None
    ) -> BoxPrediction:
        """As `look`, for a detector: every window's detections joined."""
        scene = scene_of([_single(image, name)], name)
        places = self.places(scene.size_hw)
        merger = WindowMerger(name, (0.0, 0.0, float(scene.size_hw[1]), float(scene.size_hw[0])))
        finished: list[BoxPrediction] = []
        for start in range(0, len(places), batch):
            samples = []
            for x0, y0, x1, y1 in places[start : start + batch]:
                sample = Sample(
                    id=f"{name}@{x0}_{y0}_{x1}_{y1}",
                    image_id=name,
                    seed=0,
                    images=list(scene.read((x0, y0, x1, y1))),
                    origin_xy=(float(x0), float(y0)),
                )
                samples.append(sized(sample, self.input.resize))
            for found in self.task.predict(self.task.collator(samples).to(self.device)):
                merger.add(found)
            done = start + len(samples)
            if done < len(places) and places[done][1] > places[start][1]:  # a row has come to its end
                finished.append(merger.take_finished(places[done][1]))
            if show is not None:
                show(done)
        finished.append(merger.finish())
        return best_first(join(finished))

    def scene(self, image: Picture | Pair | tuple[Picture, ...], name: str) -> Scene:
        """An image or a pair as the task takes it, its files read as the training data was.

        Raises:
            UserError: as `predict`.
        """
        if self.kind == "change":
            if not isinstance(image, tuple) or len(image) != 2:
                raise UserError("this model compares two images", where=name, fix="give pairs: (before, after)")
            pictures: Sequence[Picture] = image
        else:
            pictures = [_single(image, name)]
        return scene_of(pictures, name, self.input.channels, self.input.intake)

    @torch.inference_mode()
    def classify(self, images: Sequence[Picture], names: Sequence[str], *, batch: int = 8) -> list[ClassPrediction]:
        """The class of each image, or all that apply; images of one size go through the model together."""
        found: list[ClassPrediction] = []
        waiting: list[Sample] = []
        for image, name in zip(images, names, strict=True):
            scene = scene_of([_single(image, name)], name, self.input.channels, self.input.intake)
            sample = Sample(id=name, image_id=name, seed=0, images=list(scene.read(scene.whole)))
            sample = sized(sample, self.input.resize)
            if waiting and (len(waiting) == batch or waiting[0].images[0].shape != sample.images[0].shape):
                found += self.task.predict(self.task.collator(waiting).to(self.device))
                waiting = []
            waiting.append(sample)
        return found + (self.task.predict(self.task.collator(waiting).to(self.device)) if waiting else [])


_PICTURES = (str, Path, Image.Image, np.ndarray, Tensor)


def _single(image: Picture | tuple[Picture, ...], name: str) -> Picture:
    if isinstance(image, tuple):
        raise UserError("a pair, and the model looks at single images", where=name, fix="give the images one by one")
    return image


def best_first(prediction: BoxPrediction) -> BoxPrediction:
    """The same detections in order of their scores; equal ones as they were."""
    return prediction.keep(prediction.scores.argsort(descending=True, stable=True))


def with_places(ask: str, num_images: int, where: str) -> str:
    """The question with one `<image>` for each image; without any, several are put in front as InternVL names them.

    Raises:
        UserError: the question has marks, and not as many as there are images.
    """
    marks = ask.count(PLACE)
    if marks == 0:
        names = [PLACE] if num_images == 1 else [f"Image-{i}: {PLACE}" for i in range(1, num_images + 1)]
        return "\n".join([*names, ask])
    if marks != num_images:
        what = f"{marks} {PLACE} marks in the question for {num_images} images"
        raise UserError(what, where=where, fix=f"write one {PLACE} for every image, or none at all")
    return ask


def _name(image: Picture | Pair, index: int) -> str:
    if isinstance(image, tuple):
        image = image[-1]
    return str(image) if isinstance(image, str | Path) else f"image {index}"

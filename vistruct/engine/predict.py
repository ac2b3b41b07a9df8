"""A finished run as something to ask: `vistruct.load("runs/x").predict("port.tif")`.

Images are put before the model as its training data was: cut into the same windows, resized alike. Detections come
back joined, in pixels of the image that was given. Of a large image only the windows of one pass are put before the
model at a time, and what was found is joined as soon as it can be.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vistruct.checkpoint.load import ModelCard, load_model
from vistruct.contracts import AnswerPrediction, BoxPrediction, Prediction, Sample, Turn
from vistruct.data.images import image_size, read_image
from vistruct.data.merge import WindowMerger, join
from vistruct.data.tiles import Tiles, Window, windows
from vistruct.errors import UserError
from vistruct.tasks.views import Views
from vistruct.transforms.sizing import sized

Picture = str | Path | Image.Image | np.ndarray | Tensor  # arrays: uint8[H, W, 3] RGB; tensors: uint8[3, H, W] RGB

PLACE = "<image>"  # in a question, where an image goes
EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}


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
    tiles: Tiles | None = None  # windows to cut images into; None: those of the training data

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels of a detector's predictions stand for; empty for a model that answers."""
        return self.card.info.class_names

    def seen_in(self, views: Views) -> Model:
        """The same model, which looks at every window in several ways and joins what it finds there.

        Raises:
            UserError: a model that gives no boxes.
        """
        if self.answers:
            raise UserError("a model that answers looks once", where=self.card.path, fix="leave the views out")
        task = copy.copy(self.task)  # of the same weights
        task.config = self.task.config.model_copy(update={"views": views})
        return replace(self, task=task)

    @property
    def answers(self) -> bool:
        """Whether it is asked questions, rather than for boxes."""
        return hasattr(self.task, "language")

    @overload
    def predict(self, images: Picture, *, ask: str | None = None, batch: int = 8) -> Prediction: ...

    @overload
    def predict(self, images: Sequence[Picture], *, ask: str | None = None, batch: int = 8) -> list[Prediction]: ...

    def predict(
        self, images: Picture | Sequence[Picture], *, ask: str | None = None, batch: int = 8
    ) -> Prediction | list[Prediction]:
        """Boxes in an image, or the answer to a question about it.

        Args:
            images: a path, a PIL image, uint8[H, W, 3] array or uint8[3, H, W] tensor in RGB; or a list
                of those.
            ask: the question, for a model with language; of a list of images, about each of them.
            batch: windows that are looked at in one pass, or images that are asked about.

        Returns:
            One prediction for an image, a list of them for a list.

        Raises:
            UserError: an image that cannot be read or has another type or shape; a question to a model
                without language, or none to one with it.
        """
        several = [images] if isinstance(images, Picture) else list(images)
        found: list[Prediction] = []
        if ask is None:
            found += [self.look(image, _name(image, i), batch=batch) for i, image in enumerate(several)]
        else:
            for start in range(0, len(several), batch):
                found += self.ask([[image] for image in several[start : start + batch]], ask, first=start)
        return found[0] if isinstance(images, Picture) else found

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
        return self.task.predict(self.task.predict_collator(samples).to(self.device)) if samples else []

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
        data: Any = self.card.run.data
        tiles = self.tiles or data.tiles
        return windows(size_hw, tiles) if tiles is not None else [(0, 0, size_hw[1], size_hw[0])]

    @torch.inference_mode()
    def look(
        self, image: Picture, name: str, *, batch: int = 8, show: Callable[[int], None] | None = None
    ) -> BoxPrediction:
        """What is in an image, every window's detections joined.

        Args:
            image: as of `predict`.
            name: the prediction's `id`, and said in errors.
            batch: windows that are looked at in one pass.
            show: told how many windows are done, after each pass.

        Raises:
            UserError: as `predict`.
        """
        data: Any = self.card.run.data
        (height, width), read = _windows_of(image, name)
        places = self.places((height, width))
        merger = WindowMerger(name, (0.0, 0.0, float(width), float(height)))
        finished: list[BoxPrediction] = []
        for start in range(0, len(places), batch):
            samples = []
            for x0, y0, x1, y1 in places[start : start + batch]:
                sample = Sample(
                    id=f"{name}@{x0}_{y0}_{x1}_{y1}",
                    image_id=name,
                    seed=0,
                    images=[read((x0, y0, x1, y1))],
                    origin_xy=(float(x0), float(y0)),
                )
                samples.append(sized(sample, data.resize))
            for found in self.task.predict(self.task.collator(samples).to(self.device)):
                merger.add(found)
            done = start + len(samples)
            if done < len(places) and places[done][1] > places[start][1]:  # a row has come to its end
                finished.append(merger.take_finished(places[done][1]))
            if show is not None:
                show(done)
        finished.append(merger.finish())
        return best_first(join(finished))


def best_first(prediction: BoxPrediction) -> BoxPrediction:
    """The same detections in order of their scores; equal ones as they were."""
    return prediction.keep(prediction.scores.argsort(descending=True, stable=True))


def _windows_of(image: Picture, name: str) -> tuple[tuple[int, int], Callable[[Window], Tensor]]:
    """The (height, width) of any picture, and a way to its windows; of a file nothing more is held than is read."""
    if isinstance(image, str | Path):
        path = Path(image)
        return image_size(path), lambda window: read_image(path, window)
    pixels = as_pixels(image, name)
    return (pixels.shape[1], pixels.shape[2]), lambda window: pixels[:, window[1] : window[3], window[0] : window[2]]


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


def as_pixels(image: Picture, name: str) -> Tensor:
    """uint8[3, H, W] RGB of any picture; `name` is said in errors.

    Raises:
        UserError: an unreadable file, more than 8 bits a channel, another dtype or shape, or no pixels.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        if image.mode not in EIGHT_BIT:
            raise UserError(
                f"an image of mode {image.mode}, not 8 bits a channel", where=name, fix="scale it to 8 bits"
            )
        image = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    layout = "[height, width, 3]" if isinstance(image, np.ndarray) else "[3, height, width]"
    pixels = torch.from_numpy(np.ascontiguousarray(image)) if isinstance(image, np.ndarray) else image
    channels = -1 if isinstance(image, np.ndarray) else 0
    if pixels.dtype != torch.uint8:
        raise UserError(
            f"pixels of type {image.dtype}",
            where=name,
            fix="give uint8 from 0 to 255: (255 * image).astype('uint8')",
        )
    if pixels.ndim != 3 or pixels.shape[channels] != 3 or 0 in pixels.shape:
        raise UserError(
            f"pixels of shape {list(pixels.shape)}",
            where=name,
            fix=f"give {layout} in RGB, at least one pixel",
        )
    return pixels.permute(2, 0, 1) if channels else pixels


def _name(image: Picture, index: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"image {index}"

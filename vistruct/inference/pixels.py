"""The class of every pixel of an image, a pair or a volume, given out row by row as it is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vistruct.contracts import Window
from vistruct.errors import UserError
from vistruct.files.volume_files import VolumeFile
from vistruct.inference.scenes import Scene
from vistruct.transforms.sizing import sized_hw
from vistruct.windows.slide import Slide, num_windows, slide

if TYPE_CHECKING:
    from vistruct.inference.model import Model


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows y0 to y1 (exclusive) of what was predicted of an image."""

    y0: int
    y1: int
    label_map: Tensor  # int16[y1 - y0, W], on the CPU
    confidence: Tensor  # uint8[y1 - y0, W], 255 times the probability of that class
    probabilities: Tensor  # float[K, y1 - y0, W], where the model is


def windows_for(model: Model, size_hw: tuple[int, int], batch: int = 8) -> tuple[Slide | None, tuple[int, int]]:
    """How an image of this size is cut into windows for the class of every pixel, and the size it is shown at."""
    how = model.input.windows
    found = None if how is None else Slide(size=how.size, overlap=how.overlap, blend=how.blend, batch=batch)
    return found, sized_hw(size_hw, model.input.resize)


def num_windows_of(model: Model, size_hw: tuple[int, int]) -> int:
    """How many windows `rows_of` looks at, over all scales."""
    how, shown_hw = windows_for(model, size_hw)
    return num_windows(size_hw, how, model.task.config.views, shown_hw)


def rows_of(model: Model, scene: Scene, *, batch: int = 8, show: Callable[[int], None] | None = None) -> Iterator[Rows]:
    """The class of every pixel from top to bottom, a few rows at a time: nothing holds the whole image.

    Args:
        batch: windows that are looked at in one pass.
        show: told how many windows are done, after each pass.
    """
    how, shown_hw = windows_for(model, scene.size_hw, batch)
    look, views = partial(_probabilities, model), model.task.config.views
    for strip in slide(scene.read, scene.size_hw, how, look, views, shown_hw=shown_hw, show=show):
        yield _rows(strip.y0, strip.probabilities)


def slices_of(
    model: Model, volume: VolumeFile, *, batch: int = 8, show: Callable[[int], None] | None = None
) -> Iterator[Rows]:
    """The class of every voxel, slice by slice; `batch` slices (or windows of them) go into one pass."""
    how, shown_hw = windows_for(model, volume.size_hw, batch)
    channels, views = model.input.channels, model.task.config.views

    def look(images: Tensor) -> Tensor:
        """uint8[B, S, C, h, w], where S slices take the place of a pair -> float[B, S * K, h, w]."""
        found = _probabilities(model, images.flatten(0, 1)[:, None])
        return found.unflatten(0, images.shape[:2]).flatten(1, 2)

    for start in range(0, volume.num_slices, batch):
        numbers = range(start, min(start + batch, volume.num_slices))
        slices = torch.stack([volume.slice(number) for number in numbers])  # uint8[S, C, H, W]
        if slices.shape[1] != channels:
            what = f"slices of {slices.shape[1]} channels, the model takes {channels}"
            raise UserError(what, where=volume.parts[0].path, fix="give as many modalities as in training")
        together = None if how is None else how.model_copy(update={"batch": max(1, batch // len(numbers))})
        read = partial(_inside, slices)
        strips = list(slide(read, volume.size_hw, together, look, views, shown_hw=shown_hw))
        whole = torch.cat([strip.probabilities for strip in strips], dim=1)  # [S * K, H, W]
        for found in whole.unflatten(0, (len(numbers), -1)):
            yield _rows(0, found)
        if show is not None:
            show(numbers.stop)


def open_case(model: Model, files: Sequence[Path]) -> VolumeFile:
    """A case as the training data was read: its axis, neighbours and ranges of values.

    Args:
        files: one, or one for each modality in the order of training.

    Raises:
        UserError: files that cannot be read, or a model that was not trained on volumes.
    """
    slices = model.input.slices
    if slices is None:
        fix = "give images, or a model trained on kind: volumes"
        raise UserError("this model was not trained on volumes", where=model.card.path, fix=fix)
    return VolumeFile.open(files, axis=slices.axis, neighbours=slices.neighbours, intake=model.input.intake)


def _inside(images: Tensor, window: Window) -> Tensor:
    x0, y0, x1, y1 = window
    return images[..., y0:y1, x0:x1]


def _probabilities(model: Model, images: Tensor) -> Tensor:
    return model.task.probabilities(images.to(model.device, non_blocking=True))


def _rows(y0: int, probabilities: Tensor) -> Rows:
    """Of float[K, rows, W]."""
    confidence, label_map = probabilities.max(dim=0)
    return Rows(
        y0=y0,
        y1=y0 + len(label_map),
        label_map=label_map.to(torch.int16).cpu(),
        confidence=(255 * confidence).round().to(torch.uint8).cpu(),
        probabilities=probabilities,
    )

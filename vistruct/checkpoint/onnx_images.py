"""Real images on which an export is proved: those that the run was measured on, or of a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vistruct.checkpoint.load import ModelCard
from vistruct.contracts import Sample
from vistruct.data.images_below import SUFFIXES
from vistruct.errors import UserError
from vistruct.files.images import read_image
from vistruct.ops.values import flipped
from vistruct.transforms.sizing import sized

NUM = 3  # images
LARGEST = 768  # pixels of a side; of larger ones the middle


def variants_of(task: Any, card: ModelCard, folder: Path | None) -> list[list[Sample]]:
    """What a model and its export are both asked about: images alone, one with its mirror image, and one cut smaller.

    Each is as the model is shown it, resized as in its training, without truth.

    Raises:
        UserError: none is there.
    """
    largest = LARGEST if card.input.windows is None else min(LARGEST, card.input.windows.size)
    found = _of_folder(card, folder) if folder is not None else _of_run(card)
    samples = [_middle(sample, largest) for sample, _ in zip(found, range(NUM), strict=False)]
    if not samples:
        what = "no image to prove the export on"
        raise UserError(what, where=folder or card.path, fix="--images FOLDER of any images that the model is made for")
    return [*mirrored_and_cut(samples[0], task.size_divisor), *([one] for one in samples[1:])]


def mirrored_and_cut(sample: Sample, divisor: int) -> list[list[Sample]]:
    """A sample alone, with its mirror image, and another size of it.

    Args:
        divisor: pixels; sides of what a network is shown are multiples of it.
    """
    mirrored = replace(sample, images=[flipped(image, (-1,)) for image in sample.images])
    height, width = sample.images[0].shape[-2:]
    less = divisor // 2 + 1  # another number of strides, and sides that have to be padded
    rows, columns = max(1, height - less), max(1, width - 2 * less)
    smaller = replace(sample, images=[image[..., :rows, :columns] for image in sample.images])
    return [[sample], [sample, mirrored], [smaller]]


def _of_run(card: ModelCard) -> Iterator[Sample]:
    run = card.run
    data = next((one.data for one in run.evals.values()), next(iter(run.streams.values())).data)
    try:
        dataset = data.build()
        for index in range(0, len(dataset), max(1, len(dataset) // NUM)):
            yield dataset.sample(index, 0)
    except UserError as error:
        what = f"the data that this run was measured on cannot be read: {error.what}"
        raise UserError(
            what, where=error.where, fix="--images FOLDER of any images that the model is made for"
        ) from error


def _of_folder(card: ModelCard, folder: Path) -> Iterator[Sample]:
    if card.input.images != 1 or card.input.slices is not None:
        what = "a model of pairs or volumes is proved on the data of its run"
        raise UserError(what, where="--images", fix="leave it out, and have the data of the run in their place")
    for file in sorted(one for one in folder.glob("*") if one.suffix.lower() in SUFFIXES):
        image = read_image(file, intake=card.input.intake)
        yield sized(Sample(id=file.name, image_id=file.name, seed=0, images=[image]), card.input.resize)


def _middle(sample: Sample, largest: int) -> Sample:
    """Its images alone, of larger ones the middle."""
    height, width = sample.images[0].shape[-2:]
    rows, columns = min(height, largest), min(width, largest)
    y, x = (height - rows) // 2, (width - columns) // 2
    images = [image[..., y : y + rows, x : x + columns].contiguous() for image in sample.images]
    return Sample(id=sample.id, image_id=sample.image_id, seed=0, images=images)


def pixels_of(samples: Sequence[Sample]) -> torch.Tensor:
    """number[B, C, H, W], or number[B, T, C, H, W] of several that are looked at together."""
    stacked = torch.stack([torch.stack(list(sample.images)) for sample in samples])
    return stacked[:, 0] if stacked.shape[1] == 1 else stacked

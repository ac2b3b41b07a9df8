"""RandAugment: a few operations drawn from a list of fifteen, all at about one strength.

Source: Cubuk et al., arXiv:1909.13719, with the operations that grow stronger with the magnitude: timm's `inc1`, which
MTP's scene classification takes by its mmpretrain name `timm_increasing`. By timm itself, which `seeded_python` keeps
to the sample's seed; torchvision's RandAugment has neither the increasing operations nor a spread of the magnitude.
Differs: a magnitude that spreads beyond 10 is 10 there, which turns a picture black or, with newer Pillow, is an error.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.transforms.fill import MEAN_COLOUR
from vistruct.transforms.seeded import seeded_python

ALMOST = 9.999  # largest magnitude: at 10 posterizing keeps none of a colour's bits, which Pillow (and an eye) refuses


class RandAugment(Part):
    """Operations on the picture alone: for images with classes, and not with anything that has a place in them."""

    ops: int = Field(2, ge=1)  # drawn for each image; each is then applied half of the time
    magnitude: int = Field(9, ge=0, le=10)
    spread: float = Field(0.5, ge=0)  # standard deviation of the magnitude

    def __call__(self, sample: Sample) -> Sample:
        """All images of a sample alike.

        Raises:
            UserError: a sample with boxes or a label map, which would no longer be true; images that are not 8-bit RGB.
        """
        if len(sample.objects) or sample.label_map is not None:
            what = "RandAugment shears and turns the picture and would leave its boxes or classes of pixels behind"
            raise UserError(what, where=sample.id, fix="leave `randaug` out, or use distort, rotate and scale")
        if any(len(image) != 3 for image in sample.images):
            what = f"RandAugment changes colours, and here are images with {len(sample.images[0])} channels"
            raise UserError(what, where=sample.id, fix="leave `randaug` out of its augment")
        if any(image.dtype != torch.uint8 for image in sample.images):
            what = f"RandAugment changes 8-bit colours, and here are images of {sample.images[0].dtype}"
            raise UserError(what, where=sample.id, fix="leave `randaug` out of its augment, or --dtype uint8")
        vary = _by_timm(self.ops, self.magnitude, self.spread)
        images = []
        for image in sample.images:
            with seeded_python(derive(sample.seed, "augment", "randaug")):
                images.append(_tensor(vary(_picture(image))))
        return dataclasses.replace(sample, images=images)


@functools.cache
def _by_timm(ops: int, magnitude: int, spread: float) -> Callable[[Image.Image], Image.Image]:
    from timm.data.auto_augment import rand_augment_transform

    hparams = {"img_mean": MEAN_COLOUR, "magnitude_std": spread, "magnitude_max": ALMOST}
    return rand_augment_transform(f"rand-m{magnitude}-n{ops}-inc1", hparams)


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

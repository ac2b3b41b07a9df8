"""Saved once more as a JPEG: the traces of compression that photos pick up on their way through the web.

Source: InternVL's training transform (quality 75 to 100, equally often), ViTP's only augmentation.
Differs: there each tile is saved anew after resizing, with a quality of its own; here each image, before it is cut,
so that a tile and the thumbnail show the same picture.
"""

from __future__ import annotations

import dataclasses
import io

import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.files.decode import decode
from vistruct.ops.seeds import derive

MOST_PIXELS = 65_500  # a side; libjpeg's limit


class JpegReencode(Part):
    """JPEG compression of each image with a quality drawn at random, a pure function of the sample and its seed."""

    low: int = Field(75, ge=1, le=100)  # lowest quality, libjpeg's scale
    high: int = Field(100, ge=1, le=100)  # highest

    @model_validator(mode="after")
    def _is_a_range(self) -> JpegReencode:
        if self.low > self.high:
            raise UserError(f"qualities from {self.low} to {self.high} are no range", fix="for example 75 to 100")
        return self

    def __call__(self, sample: Sample) -> Sample:
        """
        Raises:
            UserError: an image longer than the format can hold, or one that is not in 8-bit colour.
        """
        images = []
        for number, image in enumerate(sample.images):
            if len(image) != 3:
                what = f"JPEG keeps colours, and this image has {len(image)} channels"
                raise UserError(what, where=sample.id, fix="leave `jpeg` out of its augment")
            if image.dtype != torch.uint8:
                what = f"JPEG keeps 8 bits, and this image has {image.dtype}"
                raise UserError(what, where=sample.id, fix="leave `jpeg` out of its augment, or --dtype uint8")
            if max(image.shape[1:]) > MOST_PIXELS:
                what = f"an image of {image.shape[2]} x {image.shape[1]} pixels is too large for JPEG"
                raise UserError(what, where=sample.id, fix="cut it into windows, or leave `jpeg` out")
            generator = torch.Generator().manual_seed(derive(sample.seed, "augment", "jpeg", number))
            quality = int(torch.randint(self.low, self.high + 1, (), generator=generator))
            images.append(reencode(image, quality))
        return dataclasses.replace(sample, images=images)


def reencode(image: Tensor, quality: int) -> Tensor:
    """Encode as JPEG as Pillow does (4:2:0) and decode again.

    Args:
        image: uint8[3, H, W], RGB.
        quality: 1 to 100.

    Returns:
        uint8[3, H, W], channels last in memory.
    """
    buffer = io.BytesIO()
    # By Pillow: simplejpeg's encoder takes a coarser transform below quality 96.
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
    return decode(buffer.getvalue(), "an image saved as JPEG in memory")

"""Several views of one image, each knowing where it lies, so that places of one can be found in another.

Source: the crops and changes of colour of DINO (arXiv:2104.14294) and DINOv2 (arXiv:2304.07193): a random crop, flip,
    brightness, contrast, saturation and hue at once or not at all, grey, blur of 0.1 to 2 pixels, solarising.
Differs: quarter turns, for images from above; saturation changes as much as brightness; hue, grey and solarising are
    for 8-bit images of three channels, and all others go without.
"""

from __future__ import annotations

import dataclasses

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from vistruct.config import Part
from vistruct.contracts import Pixels, Sample
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.ops.values import flipped, moved, stored
from vistruct.transforms.geometry import resized
from vistruct.transforms.photometric import jitter
from vistruct.transforms.points import affine, move_points
from vistruct.transforms.seeded import seeded_torch

BLUR_SIDE = 9  # pixels of the kernel


class ViewsConfig(Part):
    """One group of views of an image, alike in size and in what is done to them."""

    number: int = Field(2, gt=0)
    size: int = Field(224, gt=BLUR_SIDE // 2)  # pixels of each side
    area: tuple[float, float] = (0.32, 1.0)  # smallest and largest share of the image's area
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # narrowest and widest, width to height
    hflip: float = Field(0.5, ge=0, le=1)  # chance
    rot90: bool = False  # any of four quarter turns; with hflip all eight orientations
    colours: float = Field(0.8, ge=0, le=1)  # chance of `jitter` and `hue`
    jitter: float = Field(0.4, ge=0, le=1)  # change of brightness and contrast, and of three channels' saturation
    hue: float = Field(0.1, ge=0, le=0.5)  # largest change, in turns of the circle; of 8-bit RGB alone
    grey: float = Field(0.2, ge=0, le=1)  # chance; of 8-bit RGB alone
    blur: float = Field(0.5, ge=0, le=1)  # chance
    solarise: float = Field(0.0, ge=0, le=1)  # chance; of 8-bit RGB alone

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> ViewsConfig:
        if not 0 < self.area[0] <= self.area[1] <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            what = f"area={self.area} or aspect={self.aspect} is no range"
            raise UserError(what, where="views", fix="for example area 0.32 to 1, aspect 0.75 to 1.33")
        return self

    def check(self, pixels: Pixels) -> None:
        """Refuse, before anything is read, what images of this type cannot have.

        Raises:
            UserError: changes of colour where there is no black and white.
        """
        if pixels == "raw" and self.colours > 0 and self.jitter > 0:
            what = "views change colours between black and white, and values in the unit of the files have neither"
            raise UserError(what, where="views.jitter", fix="set it to 0, or say a range: --low and --high")


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """A square of pixels: those of `xyxy`, mirrored if `flip`, then turned by quarters of a circle, anticlockwise."""

    pixels: Tensor  # [C, S, S], of the image's type
    xyxy: tuple[int, int, int, int]  # pixels of the image
    flip: bool
    quarters: int

    def to_image(self) -> Tensor:
        """float64[2, 3], from pixels of the view to pixels of the image."""
        size = self.pixels.shape[-1]
        x0, y0, x1, y1 = self.xyxy
        undo = [
            [[1, 0, 0], [0, 1, 0]],
            [[0, -1, size], [1, 0, 0]],
            [[-1, 0, size], [0, -1, size]],
            [[0, 1, 0], [-1, 0, size]],
        ][self.quarters]
        mirror = [[-1, 0, size], [0, 1, 0]] if self.flip else [[1, 0, 0], [0, 1, 0]]
        place = [[(x1 - x0) / size, 0, x0], [0, (y1 - y0) / size, y0]]
        return (_square(affine(place)) @ _square(affine(mirror)) @ _square(affine(undo)))[:2]

    def cells(self, grid: int) -> Tensor:
        """float64[grid, grid, 2], (x, y) in the image of the centre of each cell, row by row."""
        centres = (torch.arange(grid, dtype=torch.float64) + 0.5) * self.pixels.shape[-1] / grid
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return move_points(torch.stack([x, y], dim=-1), self.to_image())

    def cells_in(self, other: View, grid: int) -> Tensor:
        """float64[grid, grid, 2], (x, y) of the same centres in pixels of `other`; beyond its sides where it ends."""
        return move_points(self.cells(grid), torch.linalg.inv(_square(other.to_image()))[:2])


def _square(matrix: Tensor) -> Tensor:
    return torch.cat([matrix, torch.tensor([[0, 0, 1]], dtype=torch.float64)])


def views(sample: Sample, config: ViewsConfig, group: int = 0) -> list[View]:
    """Views of the first image, a pure function of it, of `sample.seed` and of the number of the group.

    Raises:
        UserError: floats that are not from 0 to 1, where colours change.
    """
    return [_view(sample, config, derive(sample.seed, "views", group, number)) for number in range(config.number)]


def _view(sample: Sample, config: ViewsConfig, seed: int) -> View:
    image, size_hw = sample.images[0], (config.size, config.size)
    with seeded_torch(seed):
        window = RandomResizedCrop(size_hw, scale=config.area, ratio=config.aspect).make_params([image])
    draw = torch.Generator().manual_seed(derive(seed, "moves"))
    flip, turn = torch.rand(2, generator=draw, dtype=torch.float64).tolist()
    x, y, width, height = window["left"], window["top"], window["width"], window["height"]
    mirrored, quarters = flip < config.hflip, int(4 * turn) if config.rot90 else 0
    pixels = resized(image[:, y : y + height, x : x + width], size_hw)
    pixels = flipped(pixels, (-1,)) if mirrored else pixels
    pixels = moved(pixels, lambda bits: torch.rot90(bits, quarters, dims=(-2, -1)).contiguous())
    coloured = _coloured(dataclasses.replace(sample, images=[pixels]), config, derive(seed, "colours"))
    return View(pixels=coloured, xyxy=(x, y, x + width, y + height), flip=mirrored, quarters=quarters)


def _coloured(sample: Sample, config: ViewsConfig, seed: int) -> Tensor:
    """The pixels of the only image, its colours changed."""
    generator = torch.Generator().manual_seed(seed)
    # All draws first and always, so that one change switched on or off leaves the others as they were.
    change, hue, grey, blur, sigma, solarise = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    is_changed = change < config.colours
    pixels = jitter(sample, config.jitter if is_changed else 0.0, generator).images[0]
    is_rgb = len(pixels) == 3 and pixels.dtype == torch.uint8
    if is_rgb and is_changed and config.hue > 0:
        pixels = F.adjust_hue(pixels, config.hue * (2 * hue - 1))
    if is_rgb and grey < config.grey:
        pixels = F.rgb_to_grayscale(pixels, num_output_channels=3)
    if blur < config.blur:
        width = 0.1 + 1.9 * sigma
        blurred = F.gaussian_blur(pixels.float(), [BLUR_SIDE, BLUR_SIDE], [width, width])
        pixels = stored(blurred, pixels.dtype)
    return F.solarize(pixels, 128) if is_rgb and solarise < config.solarise else pixels

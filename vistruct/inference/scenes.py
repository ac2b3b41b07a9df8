"""What a model is shown of files: pictures, and pairs of them, window by window.

Of a file nothing more is held than its format makes necessary: a GeoTIFF is decoded block by block, so that it may be
larger than memory; PNG and JPEG are written from one end to the other and are decoded once, as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vistruct.contracts import Window
from vistruct.errors import UserError
from vistruct.files.images import image_size, read_image
from vistruct.files.intake import Intake
from vistruct.files.raster_files import valid_in_all
from vistruct.files.volume_names import file_of
from vistruct.transforms.geometry import resized

# Arrays: uint8[H, W, C]; tensors: uint8[C, H, W]; 3 are RGB. Of other number types: the values that files would have.
Picture = str | Path | Image.Image | np.ndarray | Tensor
Pair = tuple[Picture, Picture]  # before and after, on one grid
PICTURES = (str, Path, Image.Image, np.ndarray, Tensor)

EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image, or several on one grid that are looked at together."""

    name: str
    size_hw: tuple[int, int]  # pixels
    read: Callable[[Window], Tensor]  # xyxy, pixels -> number[T, C, h, w]
    valid: Callable[[Window], np.ndarray | None]  # bool[h, w], where all of its files have data; None: everywhere

    @property
    def whole(self) -> Window:
        return 0, 0, self.size_hw[1], self.size_hw[0]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What there is to look at once: an image, a pair, or a volume (of one file, or of one for each modality)."""

    pictures: tuple[Picture, ...]
    name: str  # in the results: its path inside the folder that was given, or its own name
    fault: UserError | None = None  # why it cannot be looked at, where that is known before

    @property
    def files(self) -> tuple[Path, ...]:
        """Where they all are files, each once."""
        return tuple(dict.fromkeys(file_of(Path(one)) for one in self.pictures if isinstance(one, str | Path)))


def scene_of(pictures: Sequence[Picture], name: str, channels: int = 3, intake: Intake | None = None) -> Scene:
    """One picture, or a pair.

    Args:
        pictures: files, PIL images, arrays or tensors.
        name: of the whole; said in errors.
        channels: that the model takes.
        intake: how files and arrays of other than 8-bit colours are read, as the training data was.

    Raises:
        UserError: a file that cannot be read, another type or number of channels, or sizes that differ.
    """
    sources = [_source(picture, name, channels, intake) for picture in pictures]
    sizes = [size_hw for size_hw, _ in sources]
    if len(set(sizes)) > 1:
        what = "a pair of " + " and ".join(f"{width} x {height}" for height, width in sizes) + " pixels"
        raise UserError(what, where=name, fix="bring both images to the same grid")

    def read(window: Window) -> Tensor:
        parts = [source(window) for _, source in sources]
        for part in parts:
            if len(part) != channels:
                what = f"an image of {len(part)} channels, the model takes {channels}"
                bands = ",".join(map(str, range(1, channels + 1)))
                fix = f"say which bands it was trained on, in their order: --bands {bands}"
                raise UserError(what, where=name, fix=fix)
        return parts[0][None] if len(parts) == 1 else torch.stack(parts)

    files = [(Path(picture),) for picture in pictures if isinstance(picture, str | Path)]

    def valid(window: Window) -> np.ndarray | None:
        return valid_in_all(files, window, intake)

    return Scene(name=name, size_hw=sizes[0], read=read, valid=valid)


def overview(scene: Scene, label_map: np.ndarray, longest: int = 2048) -> tuple[list[Tensor], Tensor]:
    """A scene and its classes, small enough to be drawn: every so many-th pixel of one side in large ones.

    Args:
        label_map: integer[H, W], in memory or on disk.
        longest: pixels of the longer side, at most.

    Returns:
        T images number[C, h, w], and int16[h, w].
    """
    return small(scene, longest), torch.from_numpy(thinned(label_map, longest).astype(np.int16))


def thinned(label_map: np.ndarray, longest: int) -> np.ndarray:
    """Every so many-th pixel of a large integer[H, W], which may be on disk, on the grid of `small`."""
    step = -(-max(label_map.shape) // longest)
    if step == 1:
        return np.asarray(label_map)
    rows, columns = (np.minimum(np.arange(0, side, step) + step // 2, side - 1) for side in label_map.shape)
    return np.stack([np.asarray(label_map[y])[columns] for y in rows])


def small(scene: Scene, longest: int) -> list[Tensor]:
    """Its images, T of number[C, h, w], small enough to be drawn; a few rows of a large file are read at a time."""
    height, width = scene.size_hw
    step = -(-max(height, width) // longest)
    if step == 1:
        return list(scene.read(scene.whole))
    rows = 64 * step  # read and shrunk at a time
    strips = [
        resized(
            scene.read((0, y, width, min(y + rows, height))), (-(-min(rows, height - y) // step), -(-width // step))
        )
        for y in range(0, height, rows)
    ]
    return list(torch.cat(strips, dim=-2))


def size_hw_of(picture: Picture) -> tuple[int, int]:
    """(height, width) in pixels, as it is looked at.

    Raises:
        UserError: a file that cannot be read.
    """
    if isinstance(picture, str | Path):
        return image_size(Path(picture))
    if isinstance(picture, Image.Image):
        width, height = ImageOps.exif_transpose(picture).size
        return height, width
    shape = picture.shape if isinstance(picture, np.ndarray) else picture.shape[1:]
    return int(shape[0]), int(shape[1])


def as_pixels(image: Picture, name: str, channels: int = 3, intake: Intake | None = None) -> Tensor:
    """number[C, H, W] of any picture, RGB where C is 3; `name` is said in errors.

    Args:
        intake: what becomes of values of more than 8 bits, as of those in files; bytes are colours already, unless the
            model is shown values in their own unit.

    Raises:
        UserError: an unreadable file, more than 8 bits a channel, another dtype or shape, or no pixels.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image), intake=intake)
    if isinstance(image, Image.Image):
        if image.mode not in EIGHT_BIT and intake is not None:
            return as_pixels(np.array(image)[..., None], name, channels, intake)
        if image.mode not in EIGHT_BIT:
            raise UserError(
                f"an image of mode {image.mode}, not 8 bits a channel", where=name, fix="scale it to 8 bits"
            )
        upright = ImageOps.exif_transpose(image)
        image = np.array(upright.convert("L"))[..., None] if channels == 1 else np.array(upright.convert("RGB"))
    layout = f"[height, width, {channels}]" if isinstance(image, np.ndarray) else f"[{channels}, height, width]"
    pixels = torch.from_numpy(np.ascontiguousarray(image)) if isinstance(image, np.ndarray) else image
    axis = -1 if isinstance(image, np.ndarray) else 0
    if intake is not None and (pixels.dtype != torch.uint8 or intake.pixels == "raw") and pixels.ndim == 3:
        values = (pixels.permute(2, 0, 1) if axis else pixels).cpu().numpy()
        taken = intake.taken(values, intake.ranges(values) if intake.has_range else None)
        if len(taken) != channels:
            what = f"an array of {len(values)} channels, the model takes {channels}"
            raise UserError(what, where=name, fix="give the bands it was trained on in their order: --bands 1,2,3")
        return taken
    if pixels.dtype != torch.uint8:
        raise UserError(
            f"pixels of type {image.dtype}",
            where=name,
            fix="give uint8 from 0 to 255: (255 * image).astype('uint8'); or train with --low and --high",
        )
    if pixels.ndim != 3 or pixels.shape[axis] != channels or 0 in pixels.shape:
        raise UserError(
            f"pixels of shape {list(pixels.shape)}",
            where=name,
            fix=f"give {layout}{' in RGB' if channels == 3 else ''}, at least one pixel",
        )
    return pixels.permute(2, 0, 1) if axis else pixels


def _source(
    picture: Picture, name: str, channels: int, intake: Intake | None
) -> tuple[tuple[int, int], Callable[[Window], Tensor]]:
    """The (height, width) of any picture, and a way to its windows."""
    if isinstance(picture, str | Path):
        path = Path(picture)
        return image_size(path), lambda window: read_image(path, window, intake=intake)
    pixels = as_pixels(picture, name, channels, intake)
    return (pixels.shape[1], pixels.shape[2]), lambda window: pixels[:, window[1] : window[3], window[0] : window[2]]

"""Image files to uint8 RGB, whole or in windows, through a small cache; `decode` says what is read and how.

An image that cannot be read, or is no longer what it was when the data set was listed, is an `UnreadableImage` error.
What a training run does about one is decided in one place, `data.loader`: it stops, or takes another sample and
says so.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from vistruct.files.decode import UnreadableImage, decode, image_size, unreadable
from vistruct.files.embedded import image_bytes, image_status

__all__ = ["DecodedCache", "UnreadableImage", "clear_cache", "decode", "image_size", "read_image"]

CACHE_BYTES = 256 * 2**20  # of decoded images, in each process


def read_image(path: Path, window_xyxy: tuple[int, int, int, int] | None = None, crc32: int | None = None) -> Tensor:
    """Decode an image, or the part of it inside a window.

    A whole image stays in a small per-process cache, so that the windows of a large scene decode it once. Windows alone
    cannot be decoded: Pillow and simplejpeg give whole images, and PNG and JPEG are written from one end to the other.
    One image larger than the cache is held at a time, and given up before the next is decoded.

    Args:
        path: any 8-bit image that `decode` reads.
        window_xyxy: pixels of the whole image; right and bottom are exclusive.
        crc32: what `zlib.crc32` said of the file's bytes when the data set was listed; looked at whenever they are
            read. None: not known.

    Returns:
        uint8[3, H, W], RGB, channels last in memory; the caller's own copy.

    Raises:
        UnreadableImage: no such file, no image, cut short, damaged, changed, too many pixels, more than 8 bits, or a
            window that does not lie inside the image.
    """
    image = _cache.get(path, crc32)
    if window_xyxy is None:
        return image.clone()
    x0, y0, x1, y1 = window_xyxy
    height, width = image.shape[1:]
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UnreadableImage(
            f"window {window_xyxy} is not inside the image of {width} x {height} pixels",
            where=path,
            fix="the image changed after its annotations were read: check it and start again",
        )
    return image[:, y0:y1, x0:x1].clone()


def clear_cache() -> None:
    """Forget every decoded image of this process."""
    _cache.clear()


class _HasBytes(Protocol):
    @property
    def nbytes(self) -> int: ...


Pixels = TypeVar("Pixels", bound=_HasBytes)


class DecodedCache(Generic[Pixels]):
    """The most recently used images, as many as fit; the newest stays, whatever its size, until another is wanted."""

    def __init__(self, max_bytes: int, decode: Callable[[bytes, Path], Pixels]) -> None:
        self.max_bytes, self.decode = max_bytes, decode
        self.images: OrderedDict[tuple[str, int, int], Pixels] = OrderedDict()
        self.bytes = 0  # of all images
        self.lock = threading.Lock()

    def get(self, path: Path, crc32: int | None = None) -> Pixels:
        """The decoded file, which must not be changed; errors as in `read_image`."""
        try:
            status = image_status(path)
            key = (os.fspath(path), status.st_mtime_ns, status.st_size)  # a file that changed is another image
            with self.lock:
                if key in self.images:
                    self.images.move_to_end(key)
                    return self.images[key]
            data = image_bytes(path)
        except OSError as error:
            raise unreadable(path, error) from error
        if crc32 is not None and zlib.crc32(data) != crc32:
            raise UnreadableImage(
                "the image has changed since it was indexed: its checksum is another one",
                where=path,
                fix="put the old file back, or start the same command again: it reads the file as it is now; "
                "or let another sample take its place: --set data.on_broken=replace",
            )
        self._shrink(least=0)  # one that alone is too large goes before the next takes its memory
        image = self.decode(data, path)
        with self.lock:
            if key not in self.images:
                self.bytes += image.nbytes
            self.images[key] = image
        self._shrink(least=1)
        return image

    def _shrink(self, least: int) -> None:
        """Forget the oldest until all fit, or `least` are left."""
        with self.lock:
            while len(self.images) > least and self.bytes > self.max_bytes:
                self.bytes -= self.images.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget all."""
        with self.lock:
            self.images.clear()
            self.bytes = 0


_cache = DecodedCache(CACHE_BYTES, decode)

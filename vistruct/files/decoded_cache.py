"""What was decoded of files a moment ago, in a small cache for each process: windows of one image decode it once."""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from vistruct.files.decode import UnreadableImage, unreadable
from vistruct.files.embedded import image_bytes, image_status

CACHE_BYTES = 256 * 2**20  # of decoded images, in each process


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
            raise changed(path)
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


def changed(path: object) -> UnreadableImage:
    """What to say of a file whose bytes are no longer those that were listed."""
    return UnreadableImage(
        "the image has changed since it was indexed: its checksum is another one",
        where=path,
        fix="put the old file back, or start the same command again: it reads the file as it is now; "
        "or let another sample take its place: --set data.on_broken=replace",
    )

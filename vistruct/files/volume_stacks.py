"""Packed volumes unpacked once: in memory while there is room, and as plain arrays in a folder where one is given.

Training asks for slices in random order, and hundreds of volumes do not fit into memory: without the folder, nearly
every slice would unpack a volume. A slice of 512 x 512 x 100 voxels costs a quarter of a second or more then, and a
quarter of a millisecond from the copy, which takes as many bytes a voxel as its images have.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vistruct.errors import UserError
from vistruct.files.class_files import ClassFiles
from vistruct.files.dicom_series import Series
from vistruct.files.embedded import image_status
from vistruct.files.images import UnreadableImage
from vistruct.files.nifti import Nifti
from vistruct.files.nrrd import Nrrd
from vistruct.files.volume_grid import Axis
from vistruct.files.volume_names import file_of

MEMORY_BYTES = 256 * 2**20  # of unpacked volumes, in each process
MOST_OPEN = 64  # unpacked copies on disk that are open at a time, in each process
COPIES = "volumes"  # folder of the unpacked copies, below the one that is given


def stamp_of(path: Path) -> tuple[int, int]:
    """Time of change and size in bytes, of a series of all its files: what changed is another volume.

    Raises:
        UnreadableImage: it is not there.
    """
    place = file_of(path)
    try:
        found = [image_status(file) for file in ([place, *place.iterdir()] if place.is_dir() else [place])]
    except FileNotFoundError:
        raise UnreadableImage("no such volume", where=path, fix="check the path") from None
    except OSError as error:
        raise UnreadableImage(
            f"cannot read the volume: {error.strerror}", where=path, fix="check its rights"
        ) from error
    return max(one.st_mtime_ns for one in found), sum(one.st_size for one in found)


def stack_of(
    volume: Nifti | Nrrd | Series | ClassFiles,
    axis: Axis,
    purpose: str,
    cache: Path | None,
    unpack: Callable[[], np.ndarray],
) -> np.ndarray:
    """[S, H, W] of a packed volume: from memory, from its copy, or unpacked now (and copied)."""
    key = (os.fspath(volume.path.absolute()), *map(str, stamp_of(volume.path)), axis, purpose)
    return recent.get(key, lambda: unpack() if cache is None else copied(key, cache, unpack))


def copied(key: tuple[str, ...], cache: Path, unpack: Callable[[], np.ndarray]) -> np.ndarray:
    """The unpacked copy, mapped and not read; written first where there is none."""
    file = cache / COPIES / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.npy"
    if not file.exists():
        stack = unpack()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(file, stack)
        except OSError as error:
            fix = "free some space, or --set data.unpack=false"
            raise UserError(f"cannot keep an unpacked copy: {error.strerror}", where=file, fix=fix) from error
    return np.load(file, mmap_mode="r")


def _write_whole(file: Path, stack: np.ndarray) -> None:
    """All of it or nothing: two workers may write the same copy, and any may be stopped."""
    handle, fresh = tempfile.mkstemp(dir=file.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.save(stream, stack)
        os.replace(fresh, file)
    finally:
        Path(fresh).unlink(missing_ok=True)


class _Recent:
    """The stacks used last, as many as there is room for; the newest stays, whatever its size."""

    def __init__(self) -> None:
        self.stacks: OrderedDict[tuple[str, ...], np.ndarray] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: tuple[str, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
        with self.lock:
            if key in self.stacks:
                self.stacks.move_to_end(key)
                return self.stacks[key]
        stack = make()
        with self.lock:
            self.stacks[key] = stack
            while len(self.stacks) > 1 and (self._bytes() > MEMORY_BYTES or len(self.stacks) > MOST_OPEN):
                self.stacks.popitem(last=False)
        return stack

    def _bytes(self) -> int:
        return sum(stack.nbytes for stack in self.stacks.values() if not isinstance(stack, np.memmap))

    def clear(self) -> None:
        with self.lock:
            self.stacks.clear()


recent = _Recent()

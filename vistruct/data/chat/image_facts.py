"""What is known of every image before it is decoded: its size in pixels and bytes, and the checksum of its file.

Decoders accept almost every JPEG with a zeroed block or flipped bits, so that damage is found by the checksum or not
at all. Only the images that are used are looked at, once; what was found is kept beside the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vistruct.data.chat.index import Index
from vistruct.data.loading.columns import cache_file, keep_columns, kept_columns
from vistruct.data.loading.parallel import in_parallel
from vistruct.errors import UserError
from vistruct.files.embedded import image_bytes, image_status, place_of
from vistruct.files.images import check_pixels, colour_size
from vistruct.progress import notice

_SETTLED = "settled"  # a file in the cache
UNKNOWN, FOUND, MISSING, UNREADABLE = 0, 1, 2, 3  # status
_JOB_IMAGES = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFacts:
    """One row for each image that an annotation file names."""

    status: np.ndarray  # uint8[M]
    sizes_hw: np.ndarray  # int32[M, 2], pixels
    num_bytes: np.ndarray  # int64[M]
    crc32: np.ndarray  # int64[M]; -1: not computed
    digests: np.ndarray  # uint64[M, 2], of name and size in bytes
    mtime_ns: np.ndarray  # int64[M], of the file when it was looked at

    def __len__(self) -> int:
        return len(self.status)

    def size_hw(self, image: int) -> tuple[int, int]:
        """Pixels."""
        height, width = self.sizes_hw[image].tolist()
        return height, width

    def checksum(self, image: int) -> int | None:
        """crc32 of the file, where it is known."""
        value = int(self.crc32[image])
        return None if value < 0 else value


def no_facts(num_images: int) -> ImageFacts:
    """Nothing is known yet."""
    return ImageFacts(
        status=np.zeros(num_images, np.uint8),
        sizes_hw=np.zeros((num_images, 2), np.int32),
        num_bytes=np.zeros(num_images, np.int64),
        crc32=np.full(num_images, -1, np.int64),
        digests=np.zeros((num_images, 2), np.uint64),
        mtime_ns=np.zeros(num_images, np.int64),
    )


def open_facts(
    index: Index,
    root: Path,
    images: np.ndarray,
    *,
    checksums: bool = True,
    cache: Path | None = None,
    as_they_are: bool = False,
) -> ImageFacts:
    """The facts of some images, from the cache where they are in it.

    What was missing or unreadable is looked at again, for it may have been put right; but not once a run has begun
    on it (`settle`), whose samples must stay the same.

    Args:
        root: the folder that the names of the index start from.
        images: int[K], of the index; the facts of others may be unknown.
        checksums: read the files whole.
        cache: a folder that facts are kept in; None: nothing is kept.
        as_they_are: an image that has another content than when it was looked at is read as it is now, if it still
            has the same size in pixels, and that is said; else reading it is an error.
    """
    facts = no_facts(len(index.name_starts) - 1)
    file = None if cache is None else cache_file(cache, "images", index.offsets.path, root)
    header = {"annotation": index.digest, "root": str(root.absolute())}
    if file is not None and (columns := kept_columns(file, header)) is not None:
        facts = ImageFacts(**columns)
    lacking = facts.status == UNKNOWN if cache is not None and (cache / _SETTLED).exists() else facts.status != FOUND
    lacking |= (facts.status == FOUND) & (facts.crc32 < 0) & checksums
    asked = np.unique(images)
    due = asked[lacking[asked]]
    changed = _changed(facts, index, root, asked[~lacking[asked]]) if as_they_are else due[:0]
    if len(due) or len(changed):
        facts = _mended(
            facts, _looked_at(facts, index, root, np.concatenate([due, changed]), checksums), changed, index
        )
        if file is not None:
            keep_columns(file, header, vars(facts))
    return facts


def settle(cache: Path) -> None:
    """From now on a run learns from these data: what was left out stays out."""
    if cache.is_dir():
        (cache / _SETTLED).touch()


def _changed(facts: ImageFacts, index: Index, root: Path, known: np.ndarray) -> np.ndarray:
    """Those of the images that were found whose files have been written since."""
    changed = []
    for image in known[facts.status[known] == FOUND].tolist():
        with contextlib.suppress(OSError, ValueError):
            if image_status(root / index.name(image)).st_mtime_ns != facts.mtime_ns[image]:
                changed.append(image)
    return np.array(changed, np.int64)


def _mended(before: ImageFacts, after: ImageFacts, changed: np.ndarray, index: Index) -> ImageFacts:
    """The new facts, but of changed images only their contents: they stay what a run was told, or are damaged now."""
    is_same = (after.status == FOUND) & (after.sizes_hw == before.sizes_hw).all(axis=1)
    for name, column in vars(before).items():
        kept = changed if name not in ("crc32", "mtime_ns") else changed[~is_same[changed]]
        vars(after)[name][kept] = column[kept]
    mended = changed[is_same[changed] & (after.crc32[changed] != before.crc32[changed])]
    if len(mended):
        names = ", ".join(index.name(image)[-60:] for image in mended[:3]) + (", ..." if len(mended) > 3 else "")
        notice(f"{len(mended)} images have changed since they were indexed, and are read as they are now: {names}")
    return after


def _looked_at(facts: ImageFacts, index: Index, root: Path, due: np.ndarray, checksums: bool) -> ImageFacts:
    """Facts with those of the images `due` renewed."""
    jobs = [[index.name(image) for image in due[at : at + _JOB_IMAGES]] for at in range(0, len(due), _JOB_IMAGES)]
    label = f"images of {index.offsets.path.name}, x {_JOB_IMAGES}"
    found = [one for part in in_parallel(_look_at, (root, checksums), jobs, label=label) for one in part]
    new = ImageFacts(**{name: column.copy() for name, column in vars(facts).items()})
    for image, one in zip(due, found, strict=True):
        new.status[image], new.sizes_hw[image], new.num_bytes[image], new.crc32[image], new.digests[image] = one[:5]
        new.mtime_ns[image] = one[5]
    return new


_Facts = tuple[int, tuple[int, int], int, int, tuple[int, int], int]


def _look_at(how: tuple[Path, bool], names: Sequence[str]) -> list[_Facts]:
    root, checksums = how
    return [_facts(root / name, name, root, checksums) for name in names]


def _facts(path: Path, name: str, root: Path, checksums: bool) -> _Facts:
    nothing: tuple[int, int] = (0, 0)
    try:
        if not os.path.isfile(path) and place_of(path) is None:
            return MISSING, nothing, 0, -1, nothing, 0
        size_hw = colour_size(path)
        status, crc32 = image_status(path), -1
        if checksums:  # every byte is read: what cannot be decoded is found now, and not hours later
            crc32 = zlib.crc32(image_bytes(path))
            check_pixels(path)
    except (FileNotFoundError, ValueError):  # it went away meanwhile, or no file can have such a name
        return MISSING, nothing, 0, -1, nothing, 0
    except (OSError, UserError):
        return UNREADABLE, nothing, 0, -1, nothing, 0
    # As in a fingerprint: relative to the root, so that a data set may be moved as a whole.
    text = f"{Path(os.path.relpath(path, root)).as_posix()}\n{status.st_size}"
    digest = hashlib.sha256(text.encode()).digest()
    return (
        FOUND,
        size_hw,
        status.st_size,
        crc32,
        (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")),
        status.st_mtime_ns,
    )

"""Images of one set that are in another by content, whatever they are called: what is measured on must not be learned.

Found are files of the same bytes, and images of the same decoded pixels (a PNG written anew, a GeoTIFF of another
compression). Not found: an image that was cropped, resized, turned, or packed anew with loss; a volume
that was written anew.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from vistruct.data.images_below import files_of, is_volume_path
from vistruct.errors import UserError
from vistruct.files.images import image_size, read_image
from vistruct.files.intake import Intake
from vistruct.issues import IssueCounter

NOT_COMPARED = "image of not_in that cannot be read: only its bytes were compared"
_ROWS = 512  # decoded at a time


def twins_of(
    images: Sequence[Path], others: Sequence[Path], intake: Intake | None, report: IssueCounter
) -> dict[Path, Path]:
    """Which of the images are among the others, and as which of them. Decoded are those of the same size in pixels.

    Args:
        intake: how pixels are taken in on both sides.
    """
    found = _same(images, others, _bytes, _digest_of_files)
    rest, pictures = ([path for path in paths if not is_volume_path(path)] for paths in (images, others))
    size = functools.partial(_size, report=report)
    pixels = functools.partial(_digest_of_pixels, intake=intake, report=report)
    return found | _same([path for path in rest if path not in found], pictures, size, pixels)


def same_files(images: Sequence[Path]) -> dict[Path, Path]:
    """Those whose bytes are those of an earlier one, and of which. Only files of one size are read."""
    by_size: dict[Hashable, list[Path]] = defaultdict(list)
    for image in images:
        by_size[_bytes(image)].append(image)
    found: dict[Path, Path] = {}
    for alike in by_size.values():
        first: dict[bytes, Path] = {}
        for image in alike if len(alike) > 1 else ():
            seen = first.setdefault(_digest_of_files(image), image)
            if seen is not image:
                found[image] = seen
    return found


def _same(
    images: Sequence[Path],
    others: Sequence[Path],
    cheap: Callable[[Path], Hashable | None],
    digest: Callable[[Path], bytes | None],
) -> dict[Path, Path]:
    """Those alike in a digest, which is taken only of those alike in what is cheap to know."""
    by_cheap: dict[Hashable, list[Path]] = defaultdict(list)
    for other in others:
        by_cheap[cheap(other)].append(other)
    known: dict[Path, bytes | None] = {}
    found: dict[Path, Path] = {}
    for image in images:
        key = cheap(image)
        if key is None or key not in by_cheap:
            continue
        own = digest(image)
        for other in by_cheap[key]:
            if other not in known:
                known[other] = digest(other)
            if own is not None and known[other] == own:
                found[image] = other
                break
    return found


def _bytes(path: Path) -> tuple[int, ...]:
    return tuple(file.stat().st_size for file in files_of(path))


def _digest_of_files(path: Path) -> bytes:
    digest = hashlib.sha256()
    for file in files_of(path):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.digest()


def _size(path: Path, report: IssueCounter) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except UserError:
        report.note(NOT_COMPARED, str(path), "kept")
        return None


def _digest_of_pixels(path: Path, intake: Intake | None, report: IssueCounter) -> bytes | None:
    digest = hashlib.sha256()
    try:
        height, width = image_size(path)
        for top in range(0, height, _ROWS):
            pixels = read_image(path, (0, top, width, min(height, top + _ROWS)), intake=intake)
            digest.update(str((pixels.shape, pixels.dtype)).encode())
            digest.update(pixels.contiguous().numpy().tobytes())
    except UserError:
        report.note(NOT_COMPARED, str(path), "kept")
        return None
    return digest.digest()

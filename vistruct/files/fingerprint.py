"""One number that says whether two runs saw the same data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def fingerprint(annotations: Sequence[Path], images: Iterable[Path], root: Path, more: Iterable[bytes] = ()) -> str:
    """sha256 over the annotation files' bytes and the sorted names and sizes in bytes of the images.

    Names are relative to `root`, so that a data set may be moved as a whole. Pixels are not read: an image
    that is exchanged for one of the same name and size in bytes goes unnoticed.

    Args:
        root: the data set's folder, or a file in it.
        more: what else says what the data are, where no annotation file does.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: a file is not there.
    """
    root = root.parent if root.is_file() else root
    digest = hashlib.sha256()
    for annotation in annotations:
        content = Path(annotation).read_bytes()
        digest.update(f"annotation {len(content)}\n".encode())
        digest.update(content)
    names = sorted({(Path(os.path.relpath(image, root)).as_posix(), os.path.getsize(image)) for image in images})
    for name, size in names:
        digest.update(f"image {size} {name}\n".encode())
    for part in more:
        digest.update(part)
    return digest.hexdigest()

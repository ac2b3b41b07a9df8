"""Files in a zip, as servers take them; `archive.py` unpacks."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

from vistruct.files.whole import whole_file

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the date of every file in a zip, so that equal results are equal bytes


def zip_files(path: Path, files: Iterable[Path], root: Path) -> Path:
    """A zip of files, in their order and named from `root` on; equal files give equal bytes.

    Raises:
        OSError: the disk is full; a zip that was there before is untouched.
        ValueError: a file that is not below `root`.
    """
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.relative_to(root).as_posix(), date_time=_EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes())
    return path

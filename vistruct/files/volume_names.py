"""What a path of a volume names: a file, by its ending; or one channel of a file of four axes.

A channel has a path of its own below its file, counted from 0, as a member of an archive has: `case.nii.gz/1`. So a
modality is a path wherever it lies, in a file of its own or beside others. One of several DICOM series whose files lie
in one folder is a path too: that of the folder, and its SeriesInstanceUID.
"""

from __future__ import annotations

import re
from pathlib import Path

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")

NIFTI = (".nii.gz", ".nii")
METAIMAGE = (".mha", ".mhd")
ENDINGS = (*NIFTI, ".seg.nrrd", ".nrrd", ".nhdr", *METAIMAGE)


def is_volume_file(path: Path) -> bool:
    """By its name; files that a system hides beside the real ones are none."""
    return path.name.endswith(ENDINGS) and not path.name.startswith(".")


def is_nifti(path: Path) -> bool:
    """By its name."""
    return path.name.endswith(NIFTI) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """The name without the ending of a volume, or of a folder as it is."""
    return next((path.name.removesuffix(end) for end in ENDINGS if path.name.endswith(end)), path.name)


def channel_path(file: Path, number: int) -> Path:
    """Of one channel, from 0."""
    return file / str(number)


def file_and_channel(path: Path) -> tuple[Path, int | None]:
    """The file that is on disk, and the channel that is meant of it; None: the whole file."""
    is_channel = path.name.isdecimal() and is_volume_file(path.parent) and not path.parent.is_dir()
    return (path.parent, int(path.name)) if is_channel else (path, None)


def series_path(folder: Path, uid: str) -> Path:
    """Of one of several series in a folder."""
    return folder / uid


def folder_and_series(path: Path) -> tuple[Path, str]:
    """The folder that is on disk, and the SeriesInstanceUID that is meant in it; "": all that is there."""
    is_one = _UID.fullmatch(path.name) is not None and path.parent.is_dir() and not path.exists()
    return (path.parent, path.name) if is_one else (path, "")


def file_of(path: Path) -> Path:
    """What is on disk, a file or a folder."""
    return folder_and_series(file_and_channel(path)[0])[0]

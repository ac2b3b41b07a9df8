"""What a path of a volume names: a file, by its ending; or one channel of a file of four axes.

A channel has a path of its own below its file, counted from 0, as a member of an archive has: `case.nii.gz/1`. So a
modality is a path wherever it lies, in a file of its own or beside others.
"""

from __future__ import annotations

from pathlib import Path

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


def file_of(path: Path) -> Path:
    """What is on disk."""
    return file_and_channel(path)[0]

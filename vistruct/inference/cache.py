"""What was found in each image, kept on disk image by image, so that work that was cut short goes on.

    OUT/.vistruct/parts/settings.json       what decides the results: the model and how it was asked
    OUT/.vistruct/parts/@a%2Fport.png.json  one image (or pair, or volume): when its files were changed, what was found

A part is there complete or not at all, and holds a sum of its settings: with others it is none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from typing_extensions import TypedDict

from vistruct.files.json_files import read_cached
from vistruct.files.text import write_text

FORMAT = 4
_LONGEST_NAME = 180  # most file systems hold names of 255 bytes


class _Part(TypedDict):
    image: str
    settings: str
    state: list[list[int]]
    values: dict[str, Any]


class Parts:
    """The folder of parts for one model and one way to ask it."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps({"format": FORMAT, **settings}))
        self.sum = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def is_noted(self, name: str, values: dict[str, Any]) -> bool:
        """Whether `note` wrote this last."""
        return read_cached(self.folder / f"{name}.json", dict[str, Any]) == values

    def note(self, name: str, values: dict[str, Any]) -> None:
        """Keep plain json about all images."""
        write_text(self.folder / f"{name}.json", [json.dumps(values, indent=2), "\n"])

    def file(self, name: str) -> Path:
        """Where the part of an image of this name is; no two names share one."""
        flat = quote(name, safe=" ")
        if len(flat) > _LONGEST_NAME:
            flat = f"{flat[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return self.folder / f"@{flat}.json"  # the sign keeps them apart from the notes

    def has(self, name: str, images: Sequence[Path]) -> bool:
        """Whether there is a part about this image (or pair, or volume of several files) as it is now."""
        part = read_cached(self.file(name), _Part)
        return part is not None and (part["image"], part["settings"], part["state"]) == (name, self.sum, _state(images))

    def read(self, name: str) -> dict[str, Any]:
        """What `write` was given."""
        return json.loads(self.file(name).read_text(encoding="utf-8"))["values"]

    def write(self, name: str, images: Sequence[Path], values: dict[str, Any]) -> None:
        """Keep plain json about an image, a pair or a volume."""
        part = {"image": name, "settings": self.sum, "state": _state(images), "values": values}
        write_text(self.file(name), [json.dumps(part), "\n"])

    def remove(self, name: str) -> None:
        """Forget an image that is looked at again: its files are not what they were."""
        self.file(name).unlink(missing_ok=True)


def _state(images: Sequence[Path]) -> list[list[int]]:
    """Size in bytes and time of change of every file, a folder's (a DICOM series') taken together."""
    return [_size_and_time(image) for image in images]


def _size_and_time(image: Path) -> list[int]:
    files = [image, *image.iterdir()] if image.is_dir() else [image]
    found = [file.stat() for file in files]
    return [sum(one.st_size for one in found), max(one.st_mtime_ns for one in found)]

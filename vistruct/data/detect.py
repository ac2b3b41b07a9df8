"""What a data set is, told by its content and not by its name."""

from __future__ import annotations

from pathlib import Path

from vistruct.data.formats.boxes.registry import FORMATS, detect_boxes, matching
from vistruct.errors import UserError
from vistruct.files.json_files import json_kind

TALK = ("chat", "mix")  # what is not a format of boxes


def find_annotation(path: Path) -> Path:
    """What a path means: itself, the only json or jsonl file of a folder, or the folder of a box format.

    Raises:
        UserError: no such path, nothing that is known, or several files of which one must be named.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError("no such file or folder", where=path, fix="check the path")
    files = next((found for folder in (path, path / "annotations") if (found := _json_files(folder))), [])
    if len(files) == 1:
        return files[0]
    if files and not all(json_kind(file) == "coco" for file in files):
        names = ", ".join(file.name for file in files[:5]) + (", ..." if len(files) > 5 else "")
        raise UserError(f"{len(files)} annotation files: {names}", where=files[0].parent, fix=f"name one: {files[0]}")
    if not matching(path):
        what = f"no .json or .jsonl file and no box annotations here; known formats: {', '.join(FORMATS)}"
        raise UserError(what, where=path, fix="name the annotation file, or the folder of images and annotations")
    return path


def detect_format(annotation: Path) -> str:
    """A name of `registry.FORMATS`, "chat" or "mix"; by a file's ending where its content says nothing.

    Raises:
        UserError: it cannot be read, or nothing or several formats fit.
    """
    if annotation.suffix not in (".json", ".jsonl") or annotation.is_dir():
        return detect_boxes(annotation)
    kind = json_kind(annotation)
    if kind == "geojson":
        return detect_boxes(annotation)
    return kind or ("chat" if annotation.suffix == ".jsonl" else "coco")


def _json_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.json*") if file.suffix in (".json", ".jsonl"))

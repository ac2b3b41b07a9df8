"""Which family of data sets a path belongs to: boxes, talk, maps, volumes or image classes; told by the content.

A family is asked for the formats that a path looks like. Folders of images in folders look like image classes
whatever they are, so that family is asked last; the others must not contradict each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vistruct.data.detect import TALK, detect_format, find_annotation
from vistruct.data.formats.boxes.registry import FORMATS, matching, splits_of
from vistruct.data.formats.classes import registry as class_registry
from vistruct.data.formats.maps.registry import MAP_FORMATS, map_splits, matching_maps
from vistruct.data.formats.volumes.registry import VOLUME_FORMATS, find_cases, matching_volumes
from vistruct.errors import UserError, closest
from vistruct.files.json_files import json_kind
from vistruct.issues import IssueCounter

Kind = Literal["boxes", "talk", "maps", "volumes", "image_classes"]

_FORMATS_OF: dict[Kind, tuple[str, ...]] = {
    "boxes": tuple(FORMATS),
    "talk": TALK,
    "maps": tuple(MAP_FORMATS),
    "volumes": tuple(VOLUME_FORMATS),
    "image_classes": tuple(class_registry.FORMATS),
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """What lies at a path."""

    kind: Kind
    format: str
    path: Path  # what was named, or the one annotation file in it


def family_of(path: Path, format: str = "auto") -> Family:
    """What lies at a path.

    Args:
        format: of any family; "auto": told by the content.

    Raises:
        UserError: nothing there, nothing known, or several families.
    """
    path = Path(path)
    if format != "auto":
        kind = next((kind for kind, names in _FORMATS_OF.items() if format in names), None)
        if kind is None:
            known = [name for names in _FORMATS_OF.values() for name in names]
            raise UserError(f"no format {format!r}", fix=closest(format, known))
        return Family(kind=kind, format=format, path=find_annotation(path) if kind == "talk" else path)
    if not path.exists():
        raise UserError("no such file or folder", where=path, fix="check the path")
    found = _found(path)
    if len(found) > 1:
        names = ", ".join(f"{one.kind} ({one.format})" for one in found)
        fix = f"say which is meant: format={found[0].format}; or name its file or folder"
        raise UserError(f"several kinds of data are here: {names}", where=path, fix=fix)
    if found:
        return found[0]
    if path.is_dir():
        what = "no .json or .jsonl file, no boxes, label maps, volumes or folders of classes here"
        raise UserError(what, where=path, fix="name the annotation file, or the folder that holds images and labels")
    return _boxes_or_talk(path)  # its reader says what is wrong


def family_splits(family: Family) -> tuple[str, ...]:
    """The names of the splits that one must be chosen of; nothing where there is nothing to choose, or not known."""
    if family.kind == "boxes":
        return splits_of(family.path, family.format)
    if family.kind == "maps":
        return map_splits(family.path, family.format)
    if family.kind == "image_classes":
        return tuple(class_registry.module_of(family.format).splits(family.path, None))
    if family.kind == "volumes":
        cases = find_cases(family.path, family.format, IssueCounter())
        return tuple(sorted({case.split for case in cases if case.split}))
    return ()


def _found(path: Path) -> list[Family]:
    """Every family that a path looks like, in the order of the messages."""
    found: list[Family] = []
    if matching(path) or _has_known_json(path):
        found.append(_boxes_or_talk(path))
    found += [Family(kind="maps", format=name, path=path) for name in (matching_maps(path) if path.is_dir() else [])]
    found += [Family(kind="volumes", format=name, path=path) for name in matching_volumes(path)]
    if not found:
        names = (name for name in class_registry.FORMATS if class_registry.module_of(name).looks_like(path))
        found += [Family(kind="image_classes", format=name, path=path) for name in names][:1]
    return found or ([_boxes_or_talk(path)] if _json_files(path) else [])  # its reader says what is wrong


def _boxes_or_talk(path: Path) -> Family:
    annotation = find_annotation(path)
    name = detect_format(annotation)
    return Family(kind="talk" if name in TALK else "boxes", format=name, path=annotation)


def _has_known_json(path: Path) -> bool:
    return any(json_kind(file) for file in _json_files(path))


def _json_files(path: Path) -> list[Path]:
    """Those that may be annotations: of a folder, of the folder of annotations in it, or the file itself."""
    files = (
        [path] if path.is_file() else [one for place in (path, path / "annotations") for one in place.glob("*.json*")]
    )
    return sorted(file for file in files if file.suffix in (".json", ".jsonl"))

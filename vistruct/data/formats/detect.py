"""What lies at a path, told by its content and not by its name: its family, its format, its splits.

A family is asked for the formats that a path looks like. Folders of images in folders look like image classes
whatever they are, so that family is asked last; the others must not contradict each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vistruct.data.formats import FORMATS, find_format, names_of
from vistruct.data.formats.json_kind import json_kind
from vistruct.errors import UserError, typed

if TYPE_CHECKING:
    from vistruct.data.formats.format import Kind

_JSON = (".json", ".jsonl")
_CAPTIONED = ("captions", "karpathy", "questions")  # kinds of json that are neither boxes nor conversations
_NOTHING: dict[Kind, tuple[str, str]] = {  # what is wrong, and what to try, where nothing of a family is found
    "boxes": (
        "no box annotations are found here; known formats: {known}",
        "name the annotation file, or the folder that holds images and annotations",
    ),
    "maps": (
        "no images with label maps are found here",
        "say where both are: --images FOLDER --labels FOLDER; or name the folder that holds both",
    ),
    "volumes": (
        "no volumes are found here; known formats: {known}",
        "images/case.nii.gz with labels/case.nii.gz, or a folder of DICOM files for each series",
    ),
    "image_classes": (
        "no images with classes here: neither a folder of images for each class, nor a list or csv",
        "name the folder that holds a folder for each class, or the csv; of captions the words: --format caption-words",
    ),
    "questions": ("no questions about images are found here; known formats: {known}", "name the json of the answers"),
    "captions": (
        "no images with captions are found here; known formats: {known}",
        "name the json, jsonl or csv of images and captions",
    ),
    "talk": ("no conversations here", "name the jsonl or json file"),
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
        format: of any family, or `module:NAME`; "auto": told by the content.

    Raises:
        UserError: nothing there, nothing known, or several families.
    """
    from vistruct.data.formats.classes.folders import masks_beside

    path = Path(path)
    if format != "auto":
        kind = find_format(format).kind
        return Family(kind=kind, format=format, path=find_annotation(path) if kind == "talk" else path)
    if not path.exists():
        raise UserError("no such file or folder", where=path, fix="check the path")
    found = _found(path)
    if len(found) > 1:
        names = ", ".join(f"{one.kind} ({one.format})" for one in found)
        fix = f"say which is meant: --format {found[0].format}; or name its file or folder"
        raise UserError(f"several kinds of data are here: {names}", where=path, fix=fix)
    if found:
        return found[0]
    if path.is_dir():
        if (beside := masks_beside(path)) is not None:
            images, labels = (one.name for one in beside)
            what = f"{labels} looks like label maps of {images}"
            raise UserError(what, where=path, fix=f"{typed('--images', [images])} {typed('--labels', [labels])}")
        what = "no .json or .jsonl file, no boxes, label maps, volumes or folders of classes here"
        raise UserError(what, where=path, fix="name the annotation file, or the folder that holds images and labels")
    return _boxes_or_talk(path)  # its reader says what is wrong


def has_annotations(path: Path) -> bool:
    """Whether anything at a path looks like annotations, or is called as label maps are; images alone do not."""
    from vistruct.data.formats.classes.folders import masks_beside

    return bool(_found(path)) or (path.is_dir() and masks_beside(path) is not None)


def splits_of(path: Path, format: str) -> tuple[str, ...]:
    """The splits of which one (or several, with a plus) must be named; nothing where there is no choice."""
    found = tuple(find_format(format).splits(Path(path)))
    return found if len(found) > 1 else ()


def matching(path: Path, kind: Kind) -> list[str]:
    """The formats of a family that a path looks like: of boxes every one, of the others the most particular one (and
    what may lie beside it, as volumes beside DICOM series)."""
    path = Path(path)
    is_file, is_folder = path.is_file(), path.is_dir()
    found: list[str] = []
    for name in names_of(kind):
        listed = FORMATS[name]
        may_be = listed.is_guessed and (is_folder or (is_file and path.suffix.lower() in listed.files))
        if may_be and find_format(name).looks_like(path):
            found.append(name)
            if listed.is_whole or (kind != "boxes" and not listed.may_be_beside):
                break
    return found


def detect(path: Path, kind: Kind) -> str:
    """The one format of a family that lies at a path; of label maps "objects", where it is boxes, of
    captions "instructions", where it is conversations, and "text-pairs", where it is names of images and words.

    Raises:
        UserError: nothing there, nothing of the family, or several formats of boxes.
    """
    path = Path(path)
    if not path.exists():
        raise UserError("no such file or folder", where=path, fix="check the path")
    found = matching(path, kind)
    if not found and kind == "maps" and (path.suffix in (".json", ".yaml") or matching(path, "boxes")):
        return "objects"
    if not found and kind == "captions" and _is_talk(path):
        return "instructions"
    if not found and kind == "captions" and _is_text(path):
        return "text-pairs"
    if not found and kind == "boxes" and path.is_file() and path.suffix.lower() != ".txt":
        found = [name for name in names_of(kind) if path.suffix.lower() in FORMATS[name].files]
        found = found[:1]  # its reader says what is wrong
    if len(found) == 1:
        return found[0]
    if found:
        what = f"several annotation formats are here: {', '.join(found)}"
        raise UserError(what, where=path, fix=f"say which is meant: --format {found[0]}; or name its file or folder")
    what, fix = _NOTHING[kind]
    raise UserError(what.format(known=", ".join(names_of(kind))), where=path, fix=fix)


def _is_talk(path: Path) -> bool:
    file = path / "instructions.jsonl" if path.is_dir() else path
    return file.is_file() and bool(matching(file, "talk"))


def _is_text(path: Path) -> bool:
    from vistruct.data.formats.captions.text_lists import looks_like_pairs

    return looks_like_pairs(path)


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
    kinds = {file: kind for file in files if (kind := json_kind(file)) not in _CAPTIONED}
    files = list(kinds)
    if len(files) == 1:  # it may lie beside what is meant, as notes.json does
        return path if kinds[files[0]] is None and matching(path, "boxes") else files[0]
    is_talk, are_coco = bool({"chat", "mix"} & {*kinds.values()}), all(kind == "coco" for kind in kinds.values())
    if files and not are_coco and (is_talk or not {*kinds.values()} - {None, "coco"}):
        names = ", ".join(file.name for file in files[:5]) + (", ..." if len(files) > 5 else "")
        raise UserError(f"{len(files)} annotation files: {names}", where=files[0].parent, fix=f"name one: {files[0]}")
    if not matching(path, "boxes"):
        what = f"no .json or .jsonl file and no box annotations here; known formats: {', '.join(names_of('boxes'))}"
        raise UserError(what, where=path, fix="name the annotation file, or the folder of images and annotations")
    return path


def detect_annotation(annotation: Path) -> str:
    """A format of boxes or of conversations; by a file's ending where its content says nothing.

    Raises:
        UserError: it cannot be read, or nothing or several formats fit.
    """
    if annotation.suffix in _JSON and annotation.is_file():
        if talk := matching(annotation, "talk"):
            return talk[0]
        if annotation.suffix == ".jsonl" and not matching(annotation, "boxes"):
            return "chat"
    return detect(annotation, "boxes")


def _found(path: Path) -> list[Family]:
    """Every family that a path looks like, in the order of the messages."""
    whole = [name for name in matching(path, "boxes") if FORMATS[name].is_whole]
    if whole:
        return [Family(kind="boxes", format=whole[0], path=path)]
    found: list[Family] = []
    places = [path, path / "annotations"] if path.is_dir() else []
    files = [file for place in places for file in _json_files(place)] or ([path] if path.suffix in _JSON else [])
    if any(json_kind(file) not in (None, *_CAPTIONED) for file in files) or matching(path, "boxes"):
        found.append(_boxes_or_talk(path))
    kinds: tuple[Kind, ...] = ("captions", "questions", "maps", "volumes")
    found += [Family(kind=kind, format=name, path=path) for kind in kinds for name in matching(path, kind)]
    if not found:
        found = [Family(kind="image_classes", format=name, path=path) for name in matching(path, "image_classes")]
    return found or ([_boxes_or_talk(path)] if files else [])  # its reader says what is wrong


def _boxes_or_talk(path: Path) -> Family:
    annotation = find_annotation(path)
    name = detect_annotation(annotation)
    return Family(kind=FORMATS[name].kind, format=name, path=annotation)


def _json_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.json*") if file.suffix in _JSON)

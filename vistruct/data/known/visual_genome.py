"""Visual Genome: descriptions of regions, and objects with their names.

    region_descriptions.json    [{"id": 1, "regions": [{"x": 421, "y": 57, "width": 82, "height": 139, "phrase": ...}]}]
    objects.json                [{"image_id": 1, "objects": [{"x": 0, "y": 0, "w": 799, "h": 557, "names": ["trees"]}]}]
    image_data.json             sizes, if it is there: an image of another size is left out
    VG_100K/2.jpg, VG_100K_2/1.jpg

Name one of the two files, or their folder: then all regions come first, and all objects behind them. A region may fit
others than its own, so its words are a description and no expression. Objects and regions are what people happened to
draw: never all of a kind. Merged lines (`GC_genome196`) are those of `refcoco`, with images of Visual Genome.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known, Said
from vistruct.data.known.expression_rows import are_rows, images_of_rows, read_rows
from vistruct.data.known.source import NO_ENTRY, Board, Images, Source, keys_at, told_size, words
from vistruct.files.json_stream import json_list
from vistruct.issues import IssueCounter

_FILES = ("region_descriptions.json", "objects.json")
_FOLDERS = ("VG_100K", "VG_100K_2", "images", "images2", "")


def looks_like(path: Path) -> bool:
    """Whether it is a folder with one of the files, such a file, or merged lines that may be of its images."""
    if path.is_dir():
        return any((path / name).is_file() for name in _FILES)
    keys = keys_at(path)
    if "regions" in keys or {"image_id", "objects"} <= keys:
        return path.suffix == ".json" and not keys & {"images", "annotations"}
    return are_rows(path) and images_of_rows(path) != "coco"


def image_names(number: object) -> tuple[str, ...]:
    """Where the image of a number may lie."""
    return tuple(str(PurePosixPath(folder, f"{number}.jpg")) for folder in _FOLDERS)


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """What is known of an image, file by file."""
    if path.is_file() and are_rows(path):
        yield from read_rows(path, ask, report, is_unique=False)
        return
    files = [path / name for name in _FILES if (path / name).is_file()] if path.is_dir() else [path]
    for file in files:
        folder = file.parent
        sizes = _sizes(folder / "image_data.json")
        images = Images.of((image_names(id)[0] for id in sizes), (folder, folder.parent), ask, report)
        for where, entry in json_list(file):
            id = entry.get("image_id", entry.get("id")) if isinstance(entry, dict) else None
            told = entry.get("regions", entry.get("objects")) if isinstance(entry, dict) else None
            if not isinstance(id, int) or not isinstance(told, list):
                report.note(NO_ENTRY, where)
                continue
            image = images.find(image_names(id), where, sizes.get(id))
            if image is not None:
                board = Board(image, report)
                what = _regions(told, board, where) if "regions" in entry else _objects(told, board, where)
                yield board.known(f"{id}.jpg#{file.stem}", regions=what)


def _sizes(path: Path) -> dict[int, tuple[int, int] | None]:
    if not path.is_file():
        return {}
    entries = (one for _, one in json_list(path) if isinstance(one, dict))
    return {one["image_id"]: told_size(one) for one in entries if isinstance(one.get("image_id"), int)}


def _regions(told: list[Any], board: Board, where: str) -> tuple[Said, ...]:
    found = []
    for at, one in enumerate(told, start=1):
        here = f"{where}, region {at}"
        if not isinstance(one, dict):
            board.report.note(NO_ENTRY, here)
            continue
        text, box = (
            words(one.get("phrase"), here, board.report),
            [one.get(key) for key in ("x", "y", "width", "height")],
        )
        if text is not None and (row := board.add(box, here, form="xywh")) is not None:
            found.append(Said(text=text, rows=(row,)))
    return tuple(dict.fromkeys(found))


def _objects(told: list[Any], board: Board, where: str) -> tuple[Said, ...]:
    """Objects have a name; words about them are no description, so there are no regions."""
    for at, one in enumerate(told, start=1):
        here = f"{where}, object {at}"
        if not isinstance(one, dict):
            board.report.note(NO_ENTRY, here)
            continue
        names = one.get("names")
        name = words(names[0] if isinstance(names, list) and names else one.get("name"), here, board.report)
        if name is not None:
            board.add([one.get(key) for key in ("x", "y", "w", "h")], here, form="xywh", name=name)
    return ()


SOURCE = Source(read=read, looks_like=looks_like)

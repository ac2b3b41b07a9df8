"""RefCOCO, RefCOCO+ and RefCOCOg: expressions for objects of COCO's images, with boxes and masks.

    refcoco/refs(unc).p       who says what of which object: a pickle, of which nothing is run
    refcoco/instances.json    the objects, as COCO has them: boxes x, y, w, h, polygons or run lengths
    train2014/COCO_train2014_000000000001.jpg

Name the pickle, or its folder where it holds one. A merged set of one line an expression is read as well (`REC_ref3`):

    {"img_path": "a.jpg", "expression": "the cat on the left", "bbox": [x0, y0, x1, y1],
     "mask": [[x, y, ...], ...], "height": 48, "width": 60}

Lines of one image that follow each other become one. All polygons of a mask are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from vistruct.data.formats.boxes.objects import Told
from vistruct.data.formats.classes.lines import chosen_splits
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known, Said
from vistruct.data.known.shapes import hull_of, mask_of
from vistruct.data.known.source import NO_ENTRY, Board, Images, Source, keys_at, told_size, words
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.files.json_stream import json_entries
from vistruct.files.plain_pickle import read_plain_pickle
from vistruct.issues import IssueCounter

AMBIGUOUS = "expression left out: in its image it means two different things"
_ROW = {"img_path", "expression"}


def looks_like(path: Path) -> bool:
    """Whether it is a pickle of references beside its instances, their folder, or a file of merged lines."""
    return bool(_pickles(path)) or (keys_at(path) >= _ROW and bool(keys_at(path) & {"bbox", "mask"}))


def splits(path: Path) -> tuple[str, ...]:
    """Those of the references; of merged lines none."""
    return tuple(sorted({str(ref.get("split")) for ref in _references(path)})) if _pickles(path) else ()


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An image after the other, with all that is said of its objects."""
    if not _pickles(path):
        yield from read_rows(path, ask, report, is_unique=True)
        return
    references = _references(path)
    chosen = chosen_splits(ask.split, sorted({str(ref.get("split")) for ref in references}), path)
    content = read_json(_pickles(path)[0].parent / "instances.json")
    names = {one["id"]: one["name"] for one in content["categories"]}
    objects: dict[int, list[dict[str, Any]]] = {}
    for one in content["annotations"]:
        objects.setdefault(one["image_id"], []).append(one)
    said: dict[int, list[dict[str, Any]]] = {}
    for ref in references:
        if str(ref.get("split")) in chosen:
            said.setdefault(ref["image_id"], []).append(ref)
    wanted = [one for one in content["images"] if one["id"] in said]
    root = _pickles(path)[0].parent
    images = Images.of((one["file_name"] for one in wanted), (root, root.parent), ask, report)
    for one in wanted:
        where = f"{path}: image {one['id']}"
        image = images.find((one["file_name"],), where, told_size(one))
        if image is None:
            continue
        board = Board(image, report)
        rows = {
            entry["id"]: board.add(
                entry.get("bbox"),
                f"{where}, annotation {entry['id']}",
                form="xywh",
                name=names.get(entry.get("category_id"), ""),
                told=Told(is_crowd=bool(entry.get("iscrowd")), mask=mask_of(entry.get("segmentation"), where, report)),
            )
            for entry in objects.get(one["id"], ())
        }
        told = [
            (
                sentence.get("sent") or sentence.get("raw"),
                rows.get(ref["ann_id"]),
                f"{where}, reference {ref['ref_id']}",
            )
            for ref in said[one["id"]]
            for sentence in ref["sentences"]
        ]
        yield board.known(one["file_name"], expressions=unique(_said(told, board), report))


def read_rows(path: Path, ask: Ask, report: IssueCounter, *, is_unique: bool) -> Iterator[Known]:
    """Merged lines, those of one image that follow each other together.

    Args:
        is_unique: whether an expression fits its object alone; else it describes a region.
    """

    def entries() -> Iterator[tuple[str, dict[str, Any]]]:
        for where, entry in json_entries(path, report):
            if isinstance(entry, dict) and isinstance(entry.get("img_path"), str):
                yield where, entry
            else:
                report.note(NO_ENTRY, where)

    images = Images.of((entry["img_path"] for _, entry in _quietly(path)), (path.parent,), ask, report)
    for name, group in groupby(entries(), key=lambda pair: pair[1]["img_path"]):
        rows = list(group)
        first, entry = rows[0]
        image = images.find((name,), first, told_size(entry))
        if image is None:
            continue
        board, told = Board(image, report), []
        for where, one in rows:
            mask = mask_of(one.get("mask"), where, report)
            box = one["bbox"] if "bbox" in one or not mask else hull_of(mask)
            told.append((one.get("expression"), board.add(box, where, told=Told(mask=mask)), where))
        said = _said(told, board)
        id = f"{name}#{first.rpartition(':')[2]}"
        what: dict[str, Any] = {"expressions": unique(said, report)} if is_unique else {"regions": first_of(said)}
        yield board.known(id, **what)


def first_of(said: Iterable[tuple[Said, str]]) -> tuple[Said, ...]:
    """What is said, each once."""
    return tuple(dict.fromkeys(one for one, _ in said))


def unique(said: Iterable[tuple[Said, str]], report: IssueCounter) -> tuple[Said, ...]:
    """Without the expressions that mean different objects of one image."""
    found = list(said)
    means: dict[str, set[tuple[int, ...]]] = {}
    for one, _ in found:
        means.setdefault(one.text, set()).add(one.rows)
    for one, where in found:
        if len(means[one.text]) > 1:
            report.note(AMBIGUOUS, where)
    return first_of(pair for pair in found if len(means[pair[0].text]) == 1)


def _said(told: Iterable[tuple[Any, int | None, str]], board: Board) -> list[tuple[Said, str]]:
    found = []
    for text, row, where in told:
        plain, rows = words(text, where, board.report), board.rows_of((row,), where)
        if plain is not None and rows is not None:
            found.append((Said(text=plain, rows=rows), where))
    return found


def _quietly(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries that are whole, to look at the first of them."""
    return (
        (where, one)
        for where, one in json_entries(path, IssueCounter())
        if isinstance(one, dict) and isinstance(one.get("img_path"), str)
    )


def _pickles(path: Path) -> list[Path]:
    """The one pickle that is named, or those of the folder that is, beside their instances."""
    found = sorted(path.glob("refs(*).p")) if path.is_dir() else [path] if path.suffix == ".p" else []
    return [one for one in found if (one.parent / "instances.json").is_file()]


def _references(path: Path) -> list[dict[str, Any]]:
    """
    Raises:
        UserError: several pickles, of which one must be named; or it holds something else.
    """
    found = _pickles(path)
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise UserError(f"several divisions of the references: {names}", where=path, fix=f"name one: '{found[0]}'")
    content = read_plain_pickle(found[0])
    needed = ("image_id", "ann_id", "ref_id", "sentences")
    if not isinstance(content, list) or not all(
        isinstance(one, dict) and all(key in one for key in needed) for one in content
    ):
        raise UserError("these are no references", where=found[0], fix="copy or download it again")
    return content


SOURCE = Source(read=read, looks_like=looks_like, splits=splits)

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

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vistruct.data.formats.boxes.coco_walk import document
from vistruct.data.formats.boxes.objects import Told
from vistruct.data.formats.classes.lines import chosen_splits
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known
from vistruct.data.known.expression_rows import are_rows, images_of_rows, read_rows, said_of, unique
from vistruct.data.known.shapes import mask_of
from vistruct.data.known.source import NO_ENTRY, Board, Images, Source, told_size
from vistruct.errors import UserError
from vistruct.files.plain_pickle import read_plain_pickle
from vistruct.issues import IssueCounter

_FOLDERS = ("images/train2014", "images/mscoco/images/train2014", "coco/train2014")
UNLISTED = "references left out: their image is not listed"


def looks_like(path: Path) -> bool:
    """Whether it is a pickle of references beside its instances, their folder, or a file of merged lines."""
    return bool(_pickles(path)) or (are_rows(path) and images_of_rows(path) != "visual genome")


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
    annotation = _pickles(path)[0].parent / "instances.json"
    content = document(annotation)
    names = {one.get("id"): str(one.get("name", "")) for one in content["categories"]}
    objects = _by_image(content["annotations"], ("id", "image_id"), annotation, report)
    said = _by_image((one for one in references if str(one.get("split")) in chosen), (), path, report)
    listed = _by_image(content["images"], ("id", "file_name"), annotation, report, key="id")
    wanted = [listed[id][0] for id in said if id in listed]
    for id in said.keys() - listed.keys():
        report.note(UNLISTED, f"{annotation}: image {id}")
    root = _pickles(path)[0].parent
    places = (root, *(root.parent / name for name in _FOLDERS), root.parent)
    images = Images.of((one["file_name"] for one in wanted), places, ask, report)
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
            if isinstance(sentence, dict)
        ]
        yield board.known(one["file_name"], expressions=unique(said_of(told, board), report))


def _by_image(
    entries: Iterable[Any], needed: Sequence[str], path: Path, report: IssueCounter, key: str = "image_id"
) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {}
    for number, one in enumerate(entries, start=1):
        if isinstance(one, dict) and all(name in one for name in needed):
            found.setdefault(one[key], []).append(one)
        else:
            report.note(NO_ENTRY, f"{path}: entry {number}")
    return found


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
        isinstance(one, dict) and all(key in one for key in needed) and isinstance(one["sentences"], list)
        for one in content
    ):
        raise UserError("these are no references", where=found[0], fix="copy or download it again")
    return content


SOURCE = Source(read=read, looks_like=looks_like, splits=splits)

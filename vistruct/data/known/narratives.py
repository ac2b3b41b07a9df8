"""Panoptic Narrative Grounding: long captions of COCO's images whose phrases mean panoptic segments.

    annotations/png_coco_train2017.json             [{"image_id", "caption", "segments": [
                                                      {"utterance", "noun", "plural", "segment_ids": [...]}]}]
    annotations/panoptic_train2017.json             COCO's panoptic annotations
    annotations/panoptic_segmentation/train2017/    a png of segments for each image (or COCO's panoptic_train2017/)
    images/train2017/

Name the narratives. An utterance that is a noun and has segments is a phrase of the caption, looked for behind the one
before it. Objects are the segments that phrases mean, things and stuff, by the names of their categories.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.data.formats.boxes.coco_panoptic import ids_of
from vistruct.data.formats.boxes.objects import Told as Object
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known
from vistruct.data.known.shapes import told
from vistruct.data.known.source import NO_ENTRY, Board, Images, Source, keys_at
from vistruct.errors import UserError
from vistruct.files.json_stream import json_entries, json_list
from vistruct.files.rasters import read_raster
from vistruct.issues import IssueCounter
from vistruct.ops.mask_runs import encode_patch

NO_SEGMENT = "phrase left out: a segment that it means is not in its image"
NO_PNG = "narrative left out: no png of segments belongs to its image"
_PREFIX = "png_coco_"


def looks_like(path: Path) -> bool:
    """Whether its first entry is a narrative."""
    return {"caption", "segments", "image_id"} <= keys_at(path)


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """A narrative after the other. Of the panoptic annotations what phrases need is held: ids, sizes and categories."""
    split = path.stem.removeprefix(_PREFIX)
    panoptic = path.with_name(f"panoptic_{split}.json")
    names = {one["id"]: one["name"] for _, one in json_list(panoptic, "categories")}
    files = {int(one["id"]): one for _, one in json_list(panoptic, "images")}
    segments = {
        int(one["image_id"]): (
            one["file_name"],
            {segment["id"]: segment["category_id"] for segment in one["segments_info"]},
        )
        for _, one in json_list(panoptic, "annotations")
    }
    folder = _folder(path, split)
    places = (path.parent.parent / "images", path.parent.parent, path.parent)
    images = Images.of((str(one["file_name"]) for one in files.values()), places, ask, report)
    for where, entry in json_entries(path, report):
        number = _number(entry.get("image_id")) if isinstance(entry, dict) else None
        if number not in files or not isinstance(entry.get("segments"), list):
            report.note(NO_ENTRY, where)
            continue
        one = files[number]
        png, categories = segments.get(number, ("", {}))
        if not png or not (folder / png).is_file():
            report.note(NO_PNG, where)
            continue
        image = images.find((one["file_name"],), where, (one["height"], one["width"]))
        if image is None:
            continue
        board = Board(image, report)
        names_of = {id: names.get(category, "") for id, category in categories.items()}
        found = list(_phrases(entry, board, ids_of(read_raster(folder / png)), names_of, where))
        sentence = told(entry.get("caption"), found, where, report)
        if sentence is not None:
            yield board.known(f"{one['file_name']}#{where.rpartition(' ')[2]}", sentences=(sentence,))


def _phrases(
    entry: dict[str, Any], board: Board, ids: np.ndarray, names: dict[int, str], where: str
) -> Iterator[tuple[Any, tuple[int, ...] | None, str]]:
    """Of each noun its place in the caption, and what it means."""
    caption, at = str(entry.get("caption")), 0
    for one in entry["segments"]:
        words = one.get("utterance") if isinstance(one, dict) else None
        if not isinstance(words, str) or not words.strip():
            continue
        hit = re.compile(re.escape(words.strip()), re.IGNORECASE).search(caption, at)
        at = at if hit is None else hit.end()
        wanted = one.get("segment_ids") or ()
        if not one.get("noun") or not wanted:
            continue
        rows = [_row(_number(segment), board, ids, names, where) for segment in wanted]
        if None in rows:
            board.report.note(NO_SEGMENT, where)
        else:
            yield None if hit is None else list(hit.span()), board.rows_of(rows, where), where


def _row(segment: int | None, board: Board, ids: np.ndarray, names: dict[int, str], where: str) -> int | None:
    if segment is None or segment not in names or ids.shape != board.image.size_hw:
        return None
    rows, columns = np.nonzero(ids == segment)
    if not len(rows):
        return None
    x0, x1, y0, y1 = int(columns.min()), int(columns.max()) + 1, int(rows.min()), int(rows.max()) + 1
    runs = encode_patch(ids[y0:y1, x0:x1] == segment, x0, y0, board.image.size_hw)
    mask = {**runs, "counts": runs["counts"].decode("ascii")}
    return board.add([x0, y0, x1, y1], where, name=names[segment], told=Object(mask=mask))


def _number(value: Any) -> int | None:
    """A whole number, which may be written as a text."""
    return int(value) if type(value) is int or (isinstance(value, str) and value.isdecimal()) else None


def _folder(path: Path, split: str) -> Path:
    """Of the pngs.

    Raises:
        UserError: there is none.
    """
    places = (path.parent / "panoptic_segmentation" / split, path.parent / f"panoptic_{split}")
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        what = f"no folder panoptic_segmentation/{split} of the segments' pngs"
        raise UserError(what, where=path, fix=f"unpack COCO's panoptic_{split}.zip beside {path.name}")
    return found


SOURCE = Source(read=read, looks_like=looks_like)

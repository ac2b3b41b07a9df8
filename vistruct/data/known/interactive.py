"""COCO-Interactive of PSALM: objects of COCO's images, each with four prompts that somebody drew for it.

    coco_interactive_train_psalm.json    [{"image": "000000000009.jpg", "image_info": {"width", "height"},
                                           "anns": [{"category_id", "bbox": [x, y, w, h], "segmentation",
                                                     "box_visual_prompt_mask", "point_visual_prompt_mask",
                                                     "scribble_visual_prompt_mask", "mask_visual_prompt_mask"}]}]

Every prompt is a mask in run lengths, and a row of its own (`Known.drawn`); a point is a key point at its middle, too.
One object a line, with the prompts in the order box, point, scribble, mask, is read as well:

    {"image": {"path", "width", "height"}, "category_name": "dog", "prompt": [4 masks], "target": mask}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np

from vistruct.contracts import Prompt
from vistruct.data.formats.boxes.coco_names import COCO
from vistruct.data.formats.boxes.objects import Told
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Drawn, Known
from vistruct.data.known.shapes import add_mask, hull_of, mask_of
from vistruct.data.known.source import NO_ENTRY, Board, Images, Source, keys_at, told_size
from vistruct.files.json_stream import json_entries
from vistruct.files.masks import decode_rle, rasterise
from vistruct.issues import IssueCounter

NO_NAME = "object without a word: its category is none of COCO's"
EMPTY_PROMPT = "prompt left out: nothing was drawn"
KINDS: tuple[Prompt, ...] = get_args(Prompt)  # in the order of a line's prompts
_KEY = "{}_visual_prompt_mask"


def looks_like(path: Path) -> bool:
    """Whether its first entry has prompts."""
    keys = keys_at(path)
    return {"image", "anns"} <= keys or {"prompt", "target", "category_name"} <= keys


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An entry after the other."""
    images = Images.of((name for _, name, _ in _entries(path, IssueCounter())), (path.parent,), ask, report)
    for where, name, entry in _entries(path, report):
        info = entry["image"] if isinstance(entry["image"], dict) else entry.get("image_info")
        image = images.find((name,), where, told_size(info) if isinstance(info, dict) else None)
        if image is None:
            continue
        board, drawn = Board(image, report), []
        for number, one in enumerate(_objects(entry), start=1):
            here = f"{where}, object {number}"
            row = add_mask(board, one.get("segmentation"), here, name=one["name"], box=one.get("bbox"), form="xywh")
            if one["name"] == "":
                report.note(NO_NAME, here, "kept")
            drawn += [] if row is None else _drawn(one, row, board, here)
        yield board.known(f"{name}#{where.rpartition(' ')[2]}", drawn=tuple(drawn))


def _drawn(one: dict[str, Any], of: int, board: Board, where: str) -> list[Drawn]:
    """The prompts of an object, each as a row."""
    found = []
    for kind in KINDS:
        mask = mask_of(one.get(_KEY.format(kind)), where, board.report, board.image.size_hw)
        if not mask:
            continue
        box = hull_of(mask)
        if box[2] <= box[0] or box[3] <= box[1]:
            board.report.note(EMPTY_PROMPT, where)
            continue
        click = (*_middle(mask, board.image.size_hw), 2.0) if kind == "point" else ()
        row = board.add(box, where, told=Told(mask=mask, keypoints=click))
        found += [] if row is None else [Drawn(kind=kind, row=row, of=of)]
    return found


def _middle(mask: Any, size_hw: tuple[int, int]) -> tuple[float, float]:
    """x, y of the middle of a mask's pixels."""
    pixels = decode_rle(mask) if isinstance(mask, dict) else rasterise(mask, (0, 0, size_hw[1], size_hw[0]))
    rows, columns = np.nonzero(pixels)
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5


def _objects(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What an entry has, each with its name."""
    if "anns" not in entry:
        masks = dict(zip(map(_KEY.format, KINDS), entry["prompt"], strict=False))
        yield {"name": str(entry.get("category_name", "")), "segmentation": entry["target"], **masks}
        return
    for one in entry["anns"]:
        if isinstance(one, dict):
            category = one.get("category_id")
            yield {**one, "name": COCO.get(category, "") if isinstance(category, int) else ""}


def _entries(path: Path, report: IssueCounter) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Place, name of the image, entry."""
    for where, entry in json_entries(path, report):
        image = entry.get("image") if isinstance(entry, dict) else None
        name = image.get("path") if isinstance(image, dict) else image
        is_whole = isinstance(entry, dict) and (
            isinstance(entry.get("anns"), list) or (isinstance(entry.get("prompt"), list) and "target" in entry)
        )
        if is_whole and isinstance(name, str):
            yield where, name, entry
        else:
            report.note(NO_ENTRY, where)


SOURCE = Source(read=read, looks_like=looks_like)

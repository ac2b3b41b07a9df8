"""Large images of a data set cut into tiles that are images of their own, for tools that cannot cut them themselves.

A tile is called as DOTA's splitting tool calls it, `scene__1__512___448.png`: what is found in it can be put back where
it belongs (`windows/patches.py`). Objects are kept by the rules of `windows/tiles.py`. Nothing here is needed to train
with vistruct, which cuts windows while it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from vistruct.contracts import Record
from vistruct.files.images import read_image
from vistruct.files.masks import rasterise
from vistruct.issues import IssueCounter
from vistruct.ops.mask_runs import encode_patch
from vistruct.windows.tiles import Tiles, Window, tile_records

IGNORED = "box left out: less of it than counts is in its tile"


def cut(records: Sequence[Record], tiles: Tiles) -> tuple[list[Record], dict[str, Window], IssueCounter]:
    """One record a tile, with objects and masks in its pixels; an image that is one tile keeps its name.

    Returns:
        The records, as images of their own; of each that is a part, by its id, which part; what was left out.

    Raises:
        UserError: an image that cannot be read.
    """
    found, report = tile_records(records, tiles)
    cut_records: list[Record] = []
    places: dict[str, Window] = {}
    for record in found:
        window = record.window_xyxy
        for number in record.objects.is_ignored.nonzero()[0]:
            report.note(IGNORED, f"{record.id}: object {number}")
        record = record.keep(~record.objects.is_ignored)
        record = replace(record, window_xyxy=None)
        if window is None or record.id == record.image_id:
            cut_records.append(record)
            continue
        masks = record.objects.masks
        if masks is not None:
            inside: list[Any] = [_inside(mask, window) for mask in masks]
            record = record.with_columns(masks=tuple(inside))
        name = _name(record.image_id, window)
        places[name] = window
        cut_records.append(replace(record, id=name, image_id=name))
    return cut_records, places, report


def write_tile(record: Record, window: Window, target: Path) -> None:
    """The picture of a tile, as PNG.

    Raises:
        UserError: an image that cannot be read, or one of other than 8-bit colours.
    """
    pixels = read_image(record.images[0], window)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(target)


def _name(image_id: str, window: Window) -> str:
    path = PurePosixPath(image_id)
    return str(path.with_name(f"{path.stem}__1__{window[0]}___{window[1]}.png"))


def _inside(mask: Any, window: Window) -> Any:
    if not mask:
        return mask
    pixels = rasterise(mask, window)
    runs = encode_patch(pixels, 0, 0, pixels.shape)
    return {"size": runs["size"], "counts": runs["counts"].decode()}

"""The control of every claim about instructions: each conversation moved to another image, all else the same."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.data.formats.chat import schemas as chat
from vistruct.errors import UserError
from vistruct.files.depth import is_depth
from vistruct.files.images import image_size
from vistruct.files.masks import decode_rle
from vistruct.files.owned import Owned
from vistruct.ops.mask_runs import encode_patch
from vistruct.ops.seeds import derive

Row = dict[str, Any]
SizeHW = tuple[int, int]
_OF_IMAGE = ("image", "width", "height")


def write_control(jsonl: Path, out: Path, seed: int = 0) -> Path:
    """Write the control of what instructions teach into `out`: see `shuffle_answers`.

    The pictures stay where they are. A folder of its own, as a data set's folder holds one annotation file.
    """
    with jsonl.open(encoding="utf-8") as lines:
        rows = shuffle_answers([json.loads(line) for line in lines], seed, root=jsonl.parent)
    for row in rows:
        row["image"] = Path(os.path.relpath((jsonl.parent / row["image"]).resolve(), out.resolve())).as_posix()
        for mask in filter(is_depth, row.get("objects", {}).get("masks", ())):
            mask["depth"] = os.path.relpath((jsonl.parent / mask["depth"]).resolve(), out.resolve())
    owned = Owned(out, "instruct")
    owned.check([out / jsonl.name], [jsonl])
    with owned.held(), owned.making(out / jsonl.name) as place:
        chat.write(place, rows)
    return out / jsonl.name


def shuffle_answers(rows: Sequence[Mapping[str, Any]], seed: int, root: Path = Path()) -> list[Row]:
    """All conversations of an image are moved to another image.

    What they point at moves too: to an image of the same size as far as there are two of a size, else its places are
    scaled with the image, so that relative to it they stay the same.

    Args:
        rows: objects of a jsonl; of those that point, `width` and `height` are those of the image, or it is looked at.
        root: where the paths of images start.

    Raises:
        UserError: fewer than two images, so that there is no other; depth that would have to be scaled.
    """
    of: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        of.setdefault(row["image"], []).append(row)
    images = list(of)
    if len(images) < 2:
        raise UserError("one conversation alone cannot be moved to another image", fix="write more pictures")
    order = [images[i] for i in np.random.default_rng(derive(seed, "shuffle")).permutation(len(images))]
    sizes: dict[str, SizeHW] = {}
    if any("objects" in row for row in rows):
        sizes = {image: _size(of[image][0], root) for image in images}
        order.sort(key=lambda image: sizes[image])  # those of one size stay in their random order
    moved = dict(zip(order, [*order[-1:], *order[:-1]], strict=True))  # along one cycle: nothing stays where it was
    return [row for image in images for row in _onto(image, of[image], of[moved[image]], moved[image], sizes)]


def _onto(
    image: str,
    own: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    other: str,
    sizes: Mapping[str, SizeHW],
) -> list[Row]:
    """The conversations of another image, as those of this one."""
    made = []
    for number, row in enumerate(others):
        place = {key: own[0][key] for key in _OF_IMAGE if key in own[0]}
        if "id" in own[0]:
            place["id"] = own[number]["id"] if number < len(own) else f"{own[0]['id']}-{number}"
        objects = {"objects": scaled(row["objects"], sizes[other], sizes[image])} if "objects" in row else {}
        made.append({**row, **place, **objects})
    return made


def _size(row: Mapping[str, Any], root: Path) -> SizeHW:
    return (row["height"], row["width"]) if "width" in row and "height" in row else image_size(root / row["image"])


def scaled(objects: Mapping[str, Any], from_hw: SizeHW, to_hw: SizeHW) -> Row:
    """The `objects` of a line, on an image of another size: at the same place relative to it.

    Raises:
        UserError: a depth map.
    """
    if from_hw == to_hw:
        return {key: [dict(row) if is_depth(row) else row for row in rows] for key, rows in objects.items()}
    factors = (to_hw[1] / from_hw[1], to_hw[0] / from_hw[0])
    made: Row = dict(objects)
    for key, width in (("boxes", 2), ("quads", 2), ("keypoints", 3)):
        if key in objects:
            made[key] = [_places(row, factors, width) for row in objects[key]]
    if "masks" in objects:
        made["masks"] = [_mask(mask, factors, to_hw) for mask in objects["masks"]]
    return made


def _places(numbers: Sequence[Any], factors: tuple[float, float], width: int) -> list[float]:
    """x, y (and what follows) of each place, flat."""
    places = np.asarray(numbers, np.float64).reshape(-1, width)
    places[:, :2] *= factors
    return places.round(2).ravel().tolist()


def _mask(mask: Any, factors: tuple[float, float], to_hw: SizeHW) -> Any:
    if is_depth(mask):
        what = "a depth map cannot be moved to an image of another size"
        raise UserError(what, where=mask["depth"], fix="make the control of images of one size")
    if not isinstance(mask, dict):
        return [_places(polygon, factors, 2) for polygon in mask]
    pixels = decode_rle(mask)
    rows, columns = (np.arange(to) * own // to for to, own in zip(to_hw, pixels.shape, strict=True))
    runs = encode_patch(pixels[np.ix_(rows, columns)].astype(bool), 0, 0, to_hw)
    return {**runs, "counts": runs["counts"].decode()}

"""What is the same for all formats of label maps once their files are found: sizes, and ids that are told apart."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.format import Stop, Walked
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.files.positions import Apart, apart, position
from vistruct.progress import tracking

_READERS = 8  # threads that look at headers; on a network drive most of the time is waiting
_MANY = 2000  # files from which on the looking is shown


ELSEWHERE = "a raster that lies elsewhere on the map than its image"


def with_sizes(walked: Walked, stop: Stop, *, are_checked: bool = True) -> Walked:
    """With the sizes of all images; `stop` is told of those that cannot be used.

    Args:
        are_checked: whether the labels, and the second image of a pair, must lie where the image does.
    """
    records = _sized(_named(walked.records, stop), stop, with_labels=walked.raster is None, are_checked=are_checked)
    return replace(walked, records=records)


def _sized(records: list[Record], stop: Stop, *, with_labels: bool, are_checked: bool) -> list[Record]:
    """With the sizes of the images; stops at those that cannot be opened, or whose files are of different sizes.

    A record whose size the format has said (bands of several resolutions) keeps it.
    """
    unknown = [record for record in records if record.size_hw is None]
    files = [
        [*record.images, *([record.label_map] if with_labels and record.label_map is not None else [])]
        for record in unknown
    ]
    found: dict[str, tuple[int, int]] = {}
    looked = functools.partial(_looked_at, are_checked=are_checked)
    with (
        ThreadPoolExecutor(_READERS) as pool,
        tracking("image sizes", 0, len(unknown), quiet=len(unknown) < _MANY) as show,
    ):
        for done, (record, paths, (sizes, away)) in enumerate(
            zip(unknown, files, pool.map(looked, files), strict=True), 1
        ):
            show(done, "")
            if isinstance(sizes, UserError):
                stop(sizes)
            elif len(set(sizes)) > 1:
                number = next(number for number, size in enumerate(sizes) if size != sizes[0])
                (h, w), (height, width) = sizes[number], sizes[0]
                what = f"{w} x {h} pixels, and its image {paths[0].name} has {width} x {height}"
                stop(UserError(what, where=paths[number], fix=_to_one_size(paths[number], (width, height))))
            elif away is not None:
                fix = "--coordinates ignored, if they are wrong; else bring both to one grid (gdalwarp -t_srs -te -tr)"
                stop(UserError(ELSEWHERE, where=f"{away[0]}: {away[1]}", fix=fix))
            else:
                found[record.id] = sizes[0]
    return [
        record if record.size_hw is not None else replace(record, size_hw=found[record.id])
        for record in records
        if record.size_hw is not None or record.id in found
    ]


def _to_one_size(file: Path, size: tuple[int, int]) -> str:
    """What can be typed so that labels are sampled, and never averaged, to (width, height)."""
    name, (width, height) = shlex.quote(str(file)), size
    if file.suffix.lower() in (".tif", ".tiff"):
        new = shlex.quote(str(file.with_suffix(".new.tif")))
        return (
            f"if both show the same: gdal_translate -outsize {width} {height} -r nearest {name} {new}, and put it there"
        )
    return f"if both show the same: magick {name} -sample '{width}x{height}!' {name}"


def _looked_at(
    files: Sequence[Path], *, are_checked: bool
) -> tuple[list[tuple[int, int]] | UserError, tuple[Path, Apart] | None]:
    """The sizes of an image and what belongs to it, and which of these lies elsewhere."""
    try:
        sizes = [image_size(file) for file in files]
        if len(set(sizes)) == 1 and are_checked and (here := position(files[0])) is not None:
            for file in files[1:]:
                if (away := apart(here, position(file), sizes[0])) is not None:
                    return sizes, (file, away)
        return sizes, None
    except UserError as error:
        return error, None


def _named(records: list[Record], stop: Stop) -> list[Record]:
    """Without those whose id another has: no message could tell them apart."""
    seen: dict[str, Record] = {}
    for record in records:
        if record.id in seen:
            both = f"{seen[record.id].images[0]}, {record.images[0]}"
            stop(UserError(f"two images are called {record.id}", where=both, fix="keep or rename one of them"))
        seen.setdefault(record.id, record)
    return list(seen.values())

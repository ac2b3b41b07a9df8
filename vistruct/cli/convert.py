"""`vistruct convert`: annotated images in another format."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vistruct.cli.groups import grouped
from vistruct.cli.output import made, note
from vistruct.data.reading import Reading
from vistruct.errors import UserError

if TYPE_CHECKING:
    from vistruct.windows.tiles import Tiles


class Pictures(StrEnum):
    """What happens to the pictures."""

    copy = "copy"
    link = "link"
    none = "none"


@grouped
def command(
    source: Annotated[Path, typer.Argument(help="The data set: its annotation file or its folder.")],
    out: Annotated[Path, typer.Argument(help="The folder to make; never one that is there already.")],
    to: Annotated[str, typer.Option(help="The format to write, see the table.")],
    reading: Reading,
    split: Annotated[
        str | None, typer.Option(help="Which part: train, val, ...; several as train+val. All by default.")
    ] = None,
    tile: Annotated[int | None, typer.Option(min=1, metavar="PX", help="Cut large images into tiles.")] = None,
    overlap: Annotated[int, typer.Option(min=0, metavar="PX", help="That neighbouring tiles share.")] = 0,
    skip_empty: Annotated[bool, typer.Option("--skip-empty", help="No tiles without objects.")] = False,
    random_split: Annotated[
        str | None,
        typer.Option(metavar="NAME=FRACTION,...", help="Splits to draw, of whole images: train=0.8,val=0.2."),
    ] = None,
    split_seed: Annotated[int, typer.Option(help="Which images fall to which split.")] = 0,
    pictures: Annotated[Pictures, typer.Option(help="Copy the pictures, link to them, or leave them.")] = Pictures.copy,
) -> None:
    """Write a data set of boxes in another format, or one of captions in their hdf5 layout.

    Splits stay splits, each in a folder of its name. Says what the new format has no room for.
    Formats that are written:

    \b
      coco      boxes, oriented boxes, masks, key points, crowd, difficult
      dota      oriented boxes, difficult, notes
      voc       boxes, difficult
      fair1m    oriented boxes
      xview     boxes in whole pixels, of its 60 classes
      yolo      boxes, masks of one outline
      yolo-obb  oriented boxes
      captions-hdf5  captions of any format, as ViSFT and the captioning tutorials read them

    Read are these, and DIOR, DIOR-R, HRSC2016, xView, RSAR, SARDet-100K and SSDD as they are published.
    """
    from vistruct.data.convert import convert
    from vistruct.data.convert_captions import FORMAT, convert_captions

    if to == FORMAT:
        if tile is not None or overlap or skip_empty or pictures != Pictures.copy:
            what = "--tile, --overlap, --skip-empty and --pictures are said of boxes"
            raise UserError(what, where=f"--to {to}", fix="leave them out")
        drawn = None if random_split is None else _split_fractions(random_split)
        written = convert_captions(source, out, reading, split=split, random_split=drawn, split_seed=split_seed)
        note(", ".join(f"{number:,} images of {name}" for name, number in written.images.items()))
        for line in (*written.read.lines(), *written.lost.lines()):
            note(line)
        made(written.path)
        return
    done = convert(
        source,
        out,
        to,
        reading,
        split=split,
        pictures=pictures.value,
        tiles=_tiles(tile, overlap, skip_empty),
        random_split=None if random_split is None else _split_fractions(random_split),
        split_seed=split_seed,
    )
    note(f"{done.images:,} images, {done.objects:,} objects")
    for line in (*done.read.lines(), *done.lost.lines()):
        note(line)
    made(done.path)


def _tiles(tile: int | None, overlap: int, skip_empty: bool) -> Tiles | None:
    from vistruct.windows.tiles import Tiles

    if tile is None and (overlap or skip_empty):
        where = "--overlap" if overlap else "--skip-empty"
        raise UserError("tiles are not asked for", where=where, fix="give --tile PX too")
    return None if tile is None else Tiles(size=tile, overlap=overlap, skip_empty=skip_empty)


def _split_fractions(text: str) -> dict[str, float]:
    """
    Raises:
        UserError: not NAME=PART,NAME=PART, a name twice, or parts that are more than one together.
    """
    pairs = [pair.split("=") for pair in text.split(",")]
    try:
        found = {name.strip(): float(part) for name, part in pairs}
    except ValueError:
        found = {}
    are_folders = all(name and not set(name) & {"/", "\\", "."} for name in found)
    are_parts = all(part > 0 for part in found.values()) and sum(found.values()) <= 1 + 1e-9
    if len(found) < len(pairs) or not are_folders or not are_parts:
        what = "no names of splits with their parts of one"
        raise UserError(what, where=f"--random-split {text}", fix="--random-split train=0.8,val=0.2")
    return found

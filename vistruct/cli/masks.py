"""`vistruct masks`: instance masks of annotated boxes, by a promptable segmenter or by filling."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vistruct.cli.convert import Pictures
from vistruct.cli.groups import grouped
from vistruct.cli.output import made, note
from vistruct.data.reading import PixelValues, Reading
from vistruct.errors import LeftOut, UserError


class Filled(StrEnum):
    """What is filled without a model."""

    ellipse = "ellipse"
    box = "box"


class Otherwise(StrEnum):
    """What takes the place of a rejected mask."""

    none = "none"
    ellipse = "ellipse"
    box = "box"


class Existing(StrEnum):
    """What becomes of masks that the annotations have."""

    keep = "keep"
    replace = "replace"


@grouped
def command(
    source: Annotated[Path, typer.Argument(metavar="DATA", help="Annotated boxes in any known format.")],
    out: Annotated[Path, typer.Option(help="Folder of the results; the same command resumes where it was stopped.")],
    reading: Reading,
    values: PixelValues,
    sam: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Local folder of a SAM or SAM 2 of transformers.")
    ] = None,
    fill: Annotated[
        Filled | None, typer.Option(help="Instead, without a model: fill each box, or its ellipse.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which part: train, val, ...; several as train+val.")] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[+NAME]",
            help="box (default), hull, quad (as a mask prompt), point; with + in one prompt; repeat: masks are united.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Objects in one pass.")] = 20,
    tile: Annotated[int, typer.Option(min=64, metavar="PX", help="Larger images are cut into tiles.")] = 1024,
    margin: Annotated[int, typer.Option(min=0, metavar="PX", help="Around an object that its tile shows.")] = 64,
    min_iou: Annotated[float | None, typer.Option(help="Reject masks of a lower predicted IoU.")] = None,
    min_inside: Annotated[
        float, typer.Option(min=0, max=1, help="Reject masks with a smaller fraction inside their box.")
    ] = 0.5,
    min_covered: Annotated[
        float, typer.Option(min=0, max=1, help="Reject masks that cover a smaller fraction of their box.")
    ] = 0.0,
    otherwise: Annotated[
        Otherwise, typer.Option("--else", help="In place of a rejected mask: none, the ellipse or the box.")
    ] = Otherwise.none,
    existing: Annotated[Existing | None, typer.Option(help="Masks that the annotations have already.")] = None,
    pictures: Annotated[Pictures, typer.Option(help="Copy the pictures, link to them, or leave them.")] = Pictures.copy,
    maps: Annotated[
        bool, typer.Option("--maps", help="Label maps too: painted/*.png, small objects over large ones.")
    ] = False,
) -> None:
    """Turn annotated boxes, horizontal or oriented, into instance masks.

    Writes COCO json with run lengths, the images beside it, and report.html with everything that was rejected. All
    images stay, also those without a box; crowds are filled, oriented boxes kept beside the masks.
    """
    from vistruct.inference.mask_files import make_masks
    from vistruct.inference.masks_from_boxes import Asked, prompts_of

    if (sam is None) == (fill is None):
        what = "masks come from a segmenter or from filling" + ("" if sam is None else ", not from both")
        raise UserError(what, where="--sam, --fill", fix="--sam FOLDER, or without weights --fill ellipse")
    if fill is not None and (prompt or min_iou is not None):
        told = "--prompt" if prompt else "--min-iou"
        raise UserError(f"{told} is for a segmenter, and nothing is asked here", where=told, fix=f"leave {told} out")
    if 2 * margin >= tile:
        what = f"a margin of {margin} pixels on both sides leaves nothing of a tile of {tile}"
        raise UserError(what, where="--margin, --tile", fix=f"--margin {tile // 16}")
    asked = Asked(
        fill=None if fill is None else fill.value,
        prompts=prompts_of(prompt or ["box"]),
        batch=batch,
        tile=tile,
        margin=margin,
        min_iou=min_iou,
        min_inside=min_inside,
        min_covered=min_covered,
        otherwise=otherwise.value,
        existing=None if existing is None else existing.value,
    )
    if sam is not None:
        from transformers.utils import logging

        logging.disable_progress_bar()
    done = make_masks(
        source, out, reading, values, asked=asked, sam=sam, split=split, pictures=pictures.value, maps=maps
    )
    note(f"{done.images:,} images, {done.objects:,} objects, {done.masks:,} with a mask")
    for line in (*done.read.lines(), *done.issues.lines()):
        note(line)
    if done.masks < done.objects and otherwise is Otherwise.none:
        without = f"{done.objects - done.masks:,} objects have a box and no mask"
        note(f"{without}: detection learns their boxes, segmentation refuses them; --else ellipse (or box) fills them")
    typer.echo(f"report: {done.report}")
    made(done.path)
    if done.broken:
        what = f"{len(done.broken)} images are left out; first: {done.broken[0][1].what}"
        fix = "mend or remove them; the same command runs on what is left"
        raise LeftOut(what, where=", ".join(name for name, _ in done.broken[:3]), fix=fix)

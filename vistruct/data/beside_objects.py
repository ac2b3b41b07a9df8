"""Label maps beside objects: what segmentation learns from the samples that detection learns from.

Class 0 is "background", class k + 1 is class k of the objects; of panoptic annotations the classes are things, then
stuff. `files` are rasters of the data set itself, where its
format has some; `painted` are the masks of the objects, or for want of them their boxes (quads), small ones over large
ones. Pixels of crowds, of difficult and ignored objects, and where the image has no data do not count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vistruct.data.formats.format import Walked
from vistruct.data.formats.maps.painted_objects import BACKGROUND, Painter, painted_coding
from vistruct.data.maps import LabelReader
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.issues import IssueCounter

NO_FILE = "image without objects and without a label map: all of it is background"

LabelMaps = Literal["none", "files", "painted"]


def label_reader(
    how: Literal["files", "painted"], walked: Walked, intake: Intake | None, where: Path, report: IssueCounter
) -> LabelReader:
    """Reads the label map of a record of these images, or of a window of one.

    Args:
        walked: whole images with all their objects.
        intake: of the images, whose pixels without data do not count.

    Raises:
        UserError: files are wanted, and there are none, or not of every image with objects; objects of the background.
    """
    if BACKGROUND in walked.class_names:
        what = f"objects of class {BACKGROUND!r}, which is what label maps call the pixels of none"
        raise UserError(what, where=where, fix=f"--drop {BACKGROUND}, or --join NAME={BACKGROUND}")
    if how == "painted":
        painter = Painter.of(walked.records, "either", report)
        return LabelReader(painted_coding(walked.class_names), painter, intake)
    fix = "--label-maps painted makes them from the objects"
    if walked.coding is None:
        raise UserError("no label maps beside these objects", where=where, fix=fix)
    without = [record for record in walked.records if record.label_map is None]
    lacking = [record.id for record in without if len(record.objects)]
    if lacking:
        names = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        raise UserError(f"{len(lacking)} images with objects have no label map: {names}", where=where, fix=fix)
    for record in without:
        report.note(NO_FILE, record.id, "kept")
    return LabelReader(walked.coding, walked.raster, intake, unlabelled=0)

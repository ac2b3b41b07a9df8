"""DIOR, horizontal boxes: VOC xml in `Annotations/Horizontal Bounding Boxes`, 20 classes.

    DIOR/Annotations/Horizontal Bounding Boxes/00001.xml
    DIOR/JPEGImages-trainval/00001.jpg, DIOR/JPEGImages-test/11726.jpg
    DIOR/ImageSets/Main/train.txt, val.txt, test.txt        (or DIOR/Main/...)

The published detectors take its edges as they stand, as continuous pixels from the border, and not as VOC's pixels
from 1; so does this. Class names come in small letters. A folder with DIOR-R's boxes too is DIOR-R as well: the format
says which is meant (see `dior_r`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from vistruct.contracts import Record
from vistruct.data.formats.boxes.objects import Stop
from vistruct.data.formats.boxes.per_image import Page, walk_pages
from vistruct.data.formats.boxes.places import Layout, first_files
from vistruct.data.formats.boxes.published import DIOR
from vistruct.data.formats.boxes.voc import LAYOUT as VOC_LAYOUT
from vistruct.data.formats.boxes.voc import read_page
from vistruct.issues import IssueCounter

LAYOUT = Layout(suffix=".xml", annotations=re.compile("horizontal bounding boxes", re.I), images=VOC_LAYOUT.images)


def looks_like(path: Path) -> bool:
    """Whether there are files in a folder of DIOR's name."""
    return has_folder(Path(path), LAYOUT)


def walk(
    path: Path,
    images: Path | None,
    report: IssueCounter,
    stop: Stop,
    *,
    split: str | None = None,
    missing: Literal["stop", "drop"] = "stop",
) -> tuple[list[Record], tuple[str, ...]]:
    """Records with horizontal boxes; see `per_image.walk_pages` and `places.find_sources`."""
    return walk_pages(
        path, images, report, stop, layout=LAYOUT, read=_read, published=(DIOR,), oriented=False, split=split,
        missing=missing,
    )  # fmt: skip


def has_folder(path: Path, layout: Layout) -> bool:
    """Whether annotation files lie in a folder that has one of the layout's names."""
    files = first_files(path, layout, most=1) if path.is_dir() or path.suffix.lower() == ".xml" else ()
    return any(layout.annotations.fullmatch(file.parent.name) for file in files)


def _read(path: Path, stop: Stop) -> Page:
    return read_page(path, stop, counts_from=0, only="bndbox", lower=True)

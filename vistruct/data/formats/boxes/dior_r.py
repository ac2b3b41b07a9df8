"""DIOR-R, oriented boxes: xml with `<robndbox>` in `Annotations/Oriented Bounding Boxes`, 20 classes.

Folders, images and lists as DIOR's (see `dior`); class names come in small letters, in DIOR-R's own order, where
"dam" has another place than in DIOR.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from vistruct.contracts import Record
from vistruct.data.formats.boxes.dior import has_folder
from vistruct.data.formats.boxes.objects import Stop
from vistruct.data.formats.boxes.per_image import Page, walk_pages
from vistruct.data.formats.boxes.places import Layout
from vistruct.data.formats.boxes.published import DIOR_R
from vistruct.data.formats.boxes.voc import LAYOUT as VOC_LAYOUT
from vistruct.data.formats.boxes.voc import read_page
from vistruct.issues import IssueCounter

LAYOUT = Layout(suffix=".xml", annotations=re.compile("oriented bounding boxes", re.I), images=VOC_LAYOUT.images)


def looks_like(path: Path) -> bool:
    """Whether there are files in a folder of DIOR-R's name."""
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
    """Records with quads; see `per_image.walk_pages` and `places.find_sources`."""
    return walk_pages(
        path, images, report, stop, layout=LAYOUT, read=_read, published=(DIOR_R,), oriented=True, split=split,
        missing=missing,
    )  # fmt: skip


def _read(path: Path, stop: Stop) -> Page:
    return read_page(path, stop, counts_from=0, only="robndbox", lower=True)

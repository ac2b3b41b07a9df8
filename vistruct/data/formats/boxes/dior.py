"""DIOR with horizontal boxes (`dior`) and with oriented ones (`dior_r`): VOC xml, 20 classes.

    DIOR/Annotations/Horizontal Bounding Boxes/00001.xml
    DIOR/Annotations/Oriented Bounding Boxes/00001.xml      (DIOR-R: `<robndbox>`)
    DIOR/JPEGImages-trainval/00001.jpg, DIOR/JPEGImages-test/11726.jpg
    DIOR/ImageSets/Main/train.txt, val.txt, test.txt        (or DIOR/Main/...)

The published detectors take the horizontal edges as they stand, as continuous pixels from the border, and not as VOC's
pixels from 1; so does this. Class names come in small letters, each format in its own order: "dam" has another place in
DIOR-R than in DIOR. A folder with both kinds of boxes is both: the format says which is meant.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from vistruct.data.formats.boxes import published
from vistruct.data.formats.boxes.per_image import Page, per_image
from vistruct.data.formats.boxes.places import Layout, first_files
from vistruct.data.formats.boxes.voc import LAYOUT as VOC_LAYOUT
from vistruct.data.formats.boxes.voc import read_page
from vistruct.data.formats.format import Format, Stop
from vistruct.issues import IssueCounter


def _format(folder: str, tag: Literal["bndbox", "robndbox"], classes: tuple[str, ...]) -> Format:
    layout = Layout(suffix=".xml", annotations=re.compile(folder, re.I), images=VOC_LAYOUT.images)

    def looks_like(path: Path) -> bool:
        return any(layout.annotations.fullmatch(file.parent.name) for file in first_files(path, layout, most=1))

    def read(path: Path, report: IssueCounter, stop: Stop) -> Page:
        return read_page(path, report, stop, counts_from=0, only=tag, lower=True)

    oriented = tag == "robndbox"
    return per_image(layout=layout, looks_like=looks_like, read=read, published=(classes,), oriented=oriented)


DIOR = _format("horizontal bounding boxes", "bndbox", published.DIOR)
DIOR_R = _format("oriented bounding boxes", "robndbox", published.DIOR_R)

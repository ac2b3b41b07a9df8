"""Label maps as the servers and toolkits of data sets take them.

    loveda    4191.png                     8-bit grey, 0 to 6: the training labels less one, nothing for "no data"
    uavid     seq21/Labels/000100.png      colours of UAVidToolKit; image names have their sequence (seq21/Images/...)
    isaid     P0006_0_896_0_896_instance_color_RGB.png      colours of the data set, beside each other

What is handed in is a zip of these files, LoveDA's without a folder: its server finds nothing in one that has some.

Source: the pages of the LoveDA semantic challenge and of UAVid, answers of LoveDA's authors about the zip, and
MMSegmentation's `format_results` of these data sets. iSAID's server scores instances alone; its label files are written
as the data set has its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np

from vistruct.data.formats.boxes.dota import refuse_twins
from vistruct.data.formats.maps import isaid, loveda, uavid
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.label_png import write_png

Submission = Literal["loveda", "uavid", "isaid"]
SUBMISSIONS: tuple[Submission, ...] = get_args(Submission)

# As files are written; `Coding.decode` reads them back.
CODINGS: dict[Submission, Coding] = {
    "loveda": Coding(classes=loveda.CLASSES, ignored=()),
    "uavid": uavid.CODING,
    "isaid": isaid.IN_COLOUR,
}
_SEQUENCE = re.compile(r"(?:^|/)(seq\d+)/(?:[^/]+/)*[^/]+$", re.IGNORECASE)


def submission_file(kind: Submission, name: str) -> PurePosixPath:
    """Where the map of an image of this name goes, inside the folder of the submission.

    Raises:
        UserError: a name without its sequence (uavid).
    """
    stem = PurePosixPath(name).stem
    if kind == "loveda":
        return PurePosixPath(f"{stem}.png")
    if kind == "isaid":
        return PurePosixPath(f"{stem}{isaid.LABEL_END}.png")
    found = _SEQUENCE.search(name)
    if found is None:
        fix = "give the folder above the sequences, so that names are seq21/Images/000100.png"
        raise UserError("no sequence in the name of an image, which UAVid goes by", where=name, fix=fix)
    return PurePosixPath(found[1]) / "Labels" / f"{stem}.png"


def check_submission(kind: Submission, names: Sequence[str], class_names: Sequence[str]) -> None:
    """
    Raises:
        UserError: classes that are not the data set's, or names that cannot be told apart; before hours of work.
    """
    _places(kind, class_names)
    files = [str(submission_file(kind, name)) for name in names]
    refuse_twins(files, names, "images", Path(f"--format {kind}"))


def write_submission(
    kind: Submission,
    folder: Path,
    name: str,
    strips: Iterable[np.ndarray],
    size_hw: tuple[int, int],
    class_names: Sequence[str],
) -> Path:
    """Write one map.

    Args:
        folder: of the submission.
        name: of the image, a path inside its data set.
        strips: int[h, W] classes of rows from top to bottom, numbered as `class_names`.
        size_hw: of the whole, pixels.

    Returns:
        The file.

    Raises:
        UserError: as `check_submission`; or pixels of no class.
    """
    places, coding = _places(kind, class_names), CODINGS[kind]

    def written() -> Iterator[np.ndarray]:
        for strip in strips:
            labels = strip.astype(np.int16)
            if (labels < 0).any():
                raise UserError(f"pixels without a class, which {kind} has no room for", where=name, fix="predict all")
            yield coding.encode(places[labels])

    path = Path(folder) / submission_file(kind, name)
    write_png(path, written(), size_hw)
    return path


def _places(kind: Submission, class_names: Sequence[str]) -> np.ndarray:
    """int16[K]: the number that each class has in the submission, by its name, small letters or large."""
    wanted = [_plain(name) for name in CODINGS[kind].classes]
    own = [_plain(name) for name in class_names]
    if sorted(own) != sorted(wanted):
        what = f"{kind} has the classes {', '.join(CODINGS[kind].classes)}; the model has {', '.join(class_names)}"
        raise UserError(what, where=f"--format {kind}", fix="train on that data set, or write another format")
    return np.array([wanted.index(name) for name in own], np.int16)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()

"""Which images of an evaluation an adapter has learned from: those of the run that it is of.

COCO's images of 2014 and of 2017 are the same under other names and in other splits (most of Karpathy's test is in
train2017), so that they are told by their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from vistruct.config import read_run
from vistruct.errors import UserError

_COCO_2014 = re.compile(r"COCO_(?:train|val)2014_\d{12}\.\w+")
_COCO = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})\.\w+")


def run_with(adapters: Path) -> Path | None:
    """The run that adapters lie in; None: they are from elsewhere."""
    places = [adapters, *list(adapters.absolute().parents)[:3]]
    return next((place for place in places if (place / "run.yaml").is_file()), None)


def learned_images(adapters: Path, dataset: Any) -> str:
    """What is to be said of a figure on these images with these adapters; "": nothing is known against it.

    Raises:
        UserError: the run that they are of has learned from every one of the images.
    """
    run = run_with(adapters)
    if run is None:
        return _learned_by_visft(dataset) if adapters.is_file() else ""
    learned: set[Hashable] = set()
    for name, stream in read_run(run / "run.yaml").streams.items():
        try:
            learned |= set(_images(stream.data.build()).values())
        except UserError as error:
            return f"which images {run} learned from ({name}) is not known here: {error.what}"
    own = _images(dataset)
    again = [file for file, key in own.items() if key in learned]
    if again and len(again) == len(own):
        what = f"all {len(own)} images are training data of these adapters, such as {again[0].name}"
        raise UserError(what, where=adapters, fix="measure on images that they did not learn from: --data PATH")
    if not again:
        return ""
    return f"{len(again):,} of {len(own):,} images are training data of these adapters, such as {again[0].name}"


def _learned_by_visft(dataset: Any) -> str:
    """Of a file of nobody's run, as ViSFT's released adapters are: they learned from the boxes and masks of train2017,
    which has all of COCO's images of 2014 but 5,000, and so nearly all of Karpathy's test.
    """
    files = [file for record in dataset.records for file in record.images]
    named = [file for file in files if _COCO_2014.fullmatch(file.name) or file.parent.name == "train2017"]
    if not named:
        return ""
    what = f"{len(named):,} of {len(files):,} images are COCO's, such as {named[0].name}: all but 5,000 are in "
    return what + "train2017, from which ViSFT's released adapters learned; what is measured here was learned in part"


def _images(dataset: Any) -> dict[Path, Hashable]:
    """The image files of a data set, each with what tells it: COCO's number, or its place."""
    files = dict.fromkeys(file for record in dataset.records for file in record.images)
    return {file: int(found[1]) if (found := _COCO.fullmatch(file.name)) else file.resolve() for file in files}

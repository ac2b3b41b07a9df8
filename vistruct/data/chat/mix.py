"""Many data sets of conversations in the proportions that a mix file gives, as the published training code reads it.

    {"dior_rsvg": {"root": "images/dior", "annotation": "dior_rsvg.jsonl", "repeat_time": 8,
                   "max_dynamic_patch": 12, "data_augment": false, "length": 27133}, ...}

Source: the data files of ViTP and InternVL (`meta_path`).
Differs: `repeat_time` below 1 draws lines where the published code takes the first ones (`fraction_of`); `length` is
counted here and never believed; what cannot be used is counted where the published code puts a random other sample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vistruct.config import Part
from vistruct.data.chat.sources import FractionOf, Wanted, open_source
from vistruct.data.dataset import ColourAugment, OnBroken, RecordDataset, conversations
from vistruct.errors import UserError, closest
from vistruct.files.text import read_text
from vistruct.issues import IssueCounter
from vistruct.transforms.jpeg import JpegReencode

KEYS = ("root", "annotation", "repeat_time", "max_dynamic_patch", "data_augment")
IGNORED = {
    "length": "the lines are counted here",
    "force_image_size": "the published loader ignores it too",
}


class MixDataConfig(Part):
    """The data sets of a mix file."""

    kind: Literal["mix"] = "mix"
    mix: Path  # json file
    root: Path | None = None  # folder that relative paths in it start from; None: that of the file
    fraction_of: FractionOf = "random"  # what repeat_time below 1 takes: drawn lines, or as published the first ones
    seed: int = 0  # of the draw; of one seed, a larger fraction contains a smaller
    missing: Literal["count", "stop"] = "count"  # what a listed image does that is not on disk
    checksums: bool = True  # read every image once before training, so that a damaged one is found
    obey_data_augment: bool = True  # random JPEG compression where the file asks for it; off for evaluation
    augment: ColourAugment | None = None
    on_broken: OnBroken = "stop"  # at an unreadable image in training; see `fetch`

    def build(self, cache: Path | None = None) -> RecordDataset:
        """Find out about every conversation and image; no image is decoded yet.

        Args:
            cache: folder that keeps what was found out for the next start; None: it is not kept.

        Raises:
            UserError: a mix file that cannot be understood; see `sources.open_source`; or no conversation is left.
        """
        wanted, report = read_mix(self.mix, self.root)
        opened = [
            open_source(
                one,
                fraction_of=self.fraction_of,
                seed=self.seed,
                missing=self.missing,
                checksums=self.checksums,
                cache=cache,
                as_they_are=self.on_broken == "stop",
            )
            for one in wanted
        ]
        reencode = JpegReencode() if self.obey_data_augment else None
        return conversations(
            opened, self.mix, augment=self.augment, reencode=reencode, report=report, on_broken=self.on_broken
        )


def read_mix(path: Path, root: Path | None = None) -> tuple[list[Wanted], IssueCounter]:
    """The data sets that a mix file asks for, in its order, and which of its keys are not looked at.

    Args:
        root: see MixDataConfig.

    Raises:
        UserError: not json, not a mix, or a value that means nothing.
    """
    try:
        mix = json.loads(read_text(path), object_pairs_hook=_without_twins)
    except json.JSONDecodeError as error:
        raise UserError(
            f"not valid json: {error.msg}", where=f"{path}:{error.lineno}", fix="correct the file"
        ) from error
    except (ValueError, RecursionError):  # a number of thousands of digits; nested too deeply
        raise UserError("not readable json", where=path, fix="correct the file") from None
    except _Twins as error:
        raise UserError(f"{error.name!r} stands here twice", where=path, fix="give each its own name") from error
    if not isinstance(mix, dict) or not mix or not all(isinstance(entry, dict) for entry in mix.values()):
        fix = 'a mix is {"NAME": {"root": ..., "annotation": ..., "repeat_time": 1}, ...}'
        raise UserError("this json is not a mix of data sets", where=path, fix=fix)
    report = IssueCounter()
    start = path.parent if root is None else root
    return [_wanted(name, entry, start, f"{path}: {name}", report) for name, entry in mix.items()], report


def _wanted(name: str, entry: Mapping[str, Any], start: Path, where: str, report: IssueCounter) -> Wanted:
    for key in entry:
        if key in IGNORED:
            report.note(f"key {key!r} of the mix ignored: {IGNORED[key]}", name, "kept")
        elif key not in KEYS:
            report.note(f"key {key!r} of the mix is not known and ignored; {closest(key, KEYS)}", name, "kept")
    annotation, root = entry.get("annotation"), entry.get("root")
    if not isinstance(annotation, str) or not annotation:
        raise UserError("this data set has no annotation", where=where, fix='"annotation": "FILE.jsonl"')
    if root is not None and not isinstance(root, str):
        raise UserError(f"root is the folder of the images, this is {root!r}", where=where, fix='"root": "FOLDER"')
    fraction, repeats = _fraction_and_repeats(entry.get("repeat_time", 1), where)
    most = entry.get("max_dynamic_patch")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise UserError(f"max_dynamic_patch is a number of tiles, this is {most!r}", where=where, fix="12, for example")
    reencode = entry.get("data_augment", False)
    if not isinstance(reencode, bool):
        raise UserError(f"data_augment is true or false, this is {reencode!r}", where=where, fix="write one of them")
    file = start / annotation
    return Wanted(
        name=name,
        annotation=file,
        root=start / root if root else file.parent,
        fraction=fraction,
        repeats=repeats,
        max_tiles=most,
        reencode=reencode,
    )


def _fraction_and_repeats(value: object, where: str) -> tuple[float, int]:
    """repeat_time as the part of the lines to use and how often to use them."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 < value < 1:
            return float(value), 1
        if value >= 1 and math.isfinite(value) and value == int(value):
            return 1.0, int(value)
    fix = "a fraction below 1, or a whole number; to leave the data set out, remove it"
    raise UserError(f"repeat_time {value!r} is neither a fraction nor a number of repeats", where=where, fix=fix)


class _Twins(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of json; of two equal keys python would silently keep the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Twins(name)
        found[name] = value
    return found

"""A data set of captions in the hdf5 layout that caption models of the show-attend-tell line are trained from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vistruct.data.at_path import captions_at
from vistruct.data.formats.captions import hdf5
from vistruct.data.formats.detect import splits_of
from vistruct.data.formats.read import format_of
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, Reading
from vistruct.errors import UserError
from vistruct.files.owned import new_folder, refuse
from vistruct.issues import IssueCounter

FORMAT = "captions-hdf5"
REST = "restval"  # Karpathy's split that belongs to the training split


@dataclass(frozen=True, kw_only=True)
class CaptionConversion:
    """What was written."""

    path: Path
    images: Mapping[str, int]  # by split
    read: IssueCounter  # what the reader left out
    lost: IssueCounter  # what could not be carried over


def convert_captions(
    path: Path,
    out: Path,
    reading: Reading = AS_FOUND,
    *,
    split: str | None = None,
    random_split: Mapping[str, float] | None = None,
    split_seed: int = 0,
    layout: hdf5.Layout | None = None,
) -> CaptionConversion:
    """Read captions of any format and write TRAIN_IMAGES_... .hdf5 and what belongs to it, with a word map.

    Args:
        split: which part, as the training split; None: all that there are, those of `restval` with `train`.
        random_split: splits to draw anew; None: as on disk.
        layout: how many captions of an image, and which words; None: as published for COCO.

    Raises:
        UserError: `out` is there already, and what reading raises; h5py is not installed.
    """
    refuse(out)
    part = captions_at(path, reading, AS_THEY_ARE)
    part = part.model_copy(update={"format": format_of(path, "captions", part.format, part.ask())})
    wanted: dict[str, str | None] = {"train": split}
    if random_split is not None:
        part = part.model_copy(update={"random_split": dict(random_split), "split_seed": split_seed})
        wanted = {name: name for name in random_split}
    elif split is None and (known := splits_of(path, part.format)):
        wanted = {name: name for name in known if name != REST}
        if REST in known and "train" in known:
            wanted["train"] = f"train+{REST}"
    order = sorted(wanted, key=lambda name: (name != "train", name != "val", name != "test"))  # as published
    sets = {name: part.model_copy(update={"split": wanted[name]}).build() for name in order}
    if any(one.info.channels != 3 for one in sets.values()):
        raise UserError("the layout has images of three colours", where=path, fix="choose other data")
    reader = next(iter(sets.values())).read_images
    with new_folder(out) as unfinished:
        unfinished.mkdir(exist_ok=True)
        lost = hdf5.write(unfinished, {name: one.records for name, one in sets.items()}, reader, layout)
    report = IssueCounter()
    for one in sets.values():
        report.merge(one.report)
    return CaptionConversion(
        path=out, images={name: len(one.records) for name, one in sets.items()}, read=report, lost=lost
    )

"""Which label raster belongs to which image: by their names, apart from ends like `_sat` and `_mask`.

An image and its labels have the same name, apart from its ending and from a suffix (`_sat`, `_mask`) that is the same
for all; their folders below those of images and labels are the same too, or else no name occurs twice.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.boxes.per_image import record_ids
from vistruct.data.formats.format import Ask, Stop
from vistruct.data.formats.maps.common_part import by_common_part
from vistruct.data.formats.maps.files import FolderGroup, listed
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

NO_LABELS = "image left out: no label map"
NO_IMAGE = "label map left out: no image"
SUPERPIXELS = "superpixels beside the images left out"
NO_SECOND = "pair left out: no second image"

# Ends of names (without the file's ending) that public data sets have; the first of those that fit best is taken.
LABEL_ENDS = (
    "", "_mask", "_label", "_gt", "_masks", "_labels", "_seg", "_segmentation", "_annotation", "-mask", "_lab",
    "_manual1", "_L", "_lbl", ".mask", "_change", "_groundtruth", "_instance_color_RGB", "_gtFine_labelTrainIds",
    "_LabelHand",
)  # fmt: skip
IMAGE_ENDS = ("", "_image", "_img", "_rgb", "_sat", "-image", "_leftImg8bit", "_0000", "_merged", "_S2Hand", "_S1Hand")

_NO_IMAGE = "_superpixels"  # end of names beside the photographs of ISIC
_EXACT = (".png", ".bmp", ".gif")  # endings of files that keep every value

Index = dict[str, list[Path]]  # files by their names: folders below the top, common part; in small letters
_FIX = "copy them; or, if names differ, --image-suffix (of pairs two: _pre,_post) and --label-suffix; or --missing drop"
_Files = Sequence[tuple[str, Path]]  # with their names below the top, in small letters


def partners(
    root: Path,
    groups: Sequence[FolderGroup],
    ask: Ask,
    report: IssueCounter,
    stop: Stop,
    *,
    names: Sequence[str] | None = None,
    image_end: str | None = None,
    label_end: str | None = None,
) -> list[Record]:
    """A record for each image with its label raster, in the order of the names (of the list, where there is one).

    Args:
        names: those to take, without endings; None: all.
        image_end: what follows the common part of the names, where the user does not say it; None: found out.
        label_end: likewise.
    """
    image_end = image_end if ask.image_suffix is None else ask.image_suffix
    label_end = label_end if ask.label_suffix is None else ask.label_suffix
    matches: list[tuple[FolderGroup, tuple[Path, ...], Path]] = []
    no_labels: list[Path] = []
    no_image: list[Path] = []
    no_second: list[Path] = []
    is_known: set[str] = set()
    for group in groups:
        indices, labels, ends = _indexed(group, image_end, label_end)
        is_known |= {key.rpartition("/")[2] for key in indices[0]}
        wanted = _wanted(indices[0], names, ends[0])
        for key in wanted:
            images = [index.get(key, []) for index in indices]
            label = labels.get(key, [])
            for files in (*images, label):
                if len(files) > 1:
                    what = f"{len(files)} files could be meant: {', '.join(str(file) for file in files[:3])}"
                    stop(UserError(what, where=group.labels, fix="keep one of them; or --image-suffix, --label-suffix"))
            if not label:
                no_labels.append(images[0][0])
            elif not all(images):
                no_second.append(images[0][0])
            else:
                matches.append((group, tuple(files[0] for files in images), label[0]))
        if names is None:
            no_image += [files[0] for key, files in labels.items() if key not in indices[0]]
    for file in [file for file in no_labels if file.stem.lower().endswith(_NO_IMAGE)]:
        report.note(SUPERPIXELS, str(file))
        no_labels.remove(file)
    _say(no_labels, NO_LABELS, "images have no label map", ask, report, stop)
    _say(no_image, NO_IMAGE, "label maps have no image", ask, report, stop)
    _say(no_second, NO_SECOND, "first images have no second", ask, report, stop)
    if names is not None:
        absent = [
            name for name in names if _bare(name, image_end or "") not in is_known and name.lower() not in is_known
        ]
        if absent:
            shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
            what = f"{len(absent)} of {len(names)} listed images are not on disk: {shown}"
            stop(UserError(what, where=groups[0].images[0], fix="copy them, or take them from the list"))
    ids = [
        f"{group.name}/{images[0].name}" if group.name else record_id
        for (group, images, _), record_id in zip(matches, record_ids([m[1][0] for m in matches], root), strict=True)
    ]
    return [
        Record(id=record_id, images=images, label_map=label, group=group.name)
        for record_id, (group, images, label) in zip(ids, matches, strict=True)
    ]


def _indexed(
    group: FolderGroup, image_end: str | None, label_end: str | None
) -> tuple[list[Index], Index, tuple[str, str]]:
    """The files of a group by the common parts of their names, and the ends that make most of them fit."""
    files = {top: listed(top) for top in {*group.images, group.labels}}
    best: tuple[int, list[Index], Index, tuple[str, str]] | None = None
    for own in IMAGE_ENDS if image_end is None else (image_end,):
        for other in LABEL_ENDS if label_end is None else (label_end,):
            indices, labels = _with_ends([files[top] for top in group.images], files[group.labels], own, other)
            if not indices[0].keys() & labels.keys():
                indices, labels = [_flat(index) for index in indices], _flat(labels)
            fitting = len(set.intersection(*(set(index) for index in (*indices, labels))))
            if best is None or fitting > best[0]:
                best = (fitting, indices, labels, (own, other))
            if fitting and fitting == max(len(indices[0]), len(labels)):
                return indices, labels, (own, other)  # all fit
    assert best is not None
    if best[0] == 0 and image_end is None and label_end is None and group.labels not in group.images:
        found = by_common_part([files[top] for top in (*group.images, group.labels)])
        if found is not None:
            return found[:-1], found[-1], ("", "")
    return best[1:]


def _with_ends(images: Sequence[_Files], labels: _Files, own: str, other: str) -> tuple[list[Index], Index]:
    """Images and labels by their names without these ends."""
    if labels is not images[0]:
        owns = own.split(",") if len(images) > 1 and own.count(",") == len(images) - 1 else [own] * len(images)
        return [_index(files, end) for files, end in zip(images, owns, strict=True)], _index(labels, other)
    if own == other:  # images and labels in one folder, told apart by their endings: the photograph is the image
        photographs = [(name, path) for name, path in labels if not name.endswith(_EXACT)]
        return [_index(photographs, own)], _index([one for one in labels if one[0].endswith(_EXACT)], other)
    if not other:
        return [_index([one for one in labels if _bare(one[0], own) is not None], own)], {}
    index = _index(labels, other)
    taken = {path for files in index.values() for path in files}
    return [_index([one for one in labels if one[1] not in taken], own)], index


def _index(files: _Files, end: str) -> Index:
    index: Index = {}
    for name, path in files:
        bare = _bare(name, end)
        if bare is not None:
            index.setdefault(bare, []).append(path)
    return index


def _bare(name: str, end: str) -> str | None:
    """The common part of a name, in small letters; None for one without this end (which may contain the ending)."""
    name, end = name.lower(), end.lower()
    stem, ending = os.path.splitext(name)
    whole = name if os.path.splitext(end)[1] in IMAGE_SUFFIXES or ending not in IMAGE_SUFFIXES else stem
    return whole.removesuffix(end) if whole.endswith(end) else None


def _flat(index: Index) -> Index:
    """By names without folders, where no name occurs twice."""
    times = Counter(key.rpartition("/")[2] for key in index)
    return {key.rpartition("/")[2]: files for key, files in index.items()} if set(times.values()) == {1} else index


def _wanted(index: Index, names: Sequence[str] | None, end: str) -> list[str]:
    if names is None:
        return list(index)
    by_name: dict[str, list[str]] = {}
    for key in index:
        by_name.setdefault(key.rpartition("/")[2], []).append(key)
    return [
        key for name in names for key in by_name.get(_bare(name, end) or name.lower(), by_name.get(name.lower(), []))
    ]


def _say(files: Sequence[Path], reason: str, words: str, ask: Ask, report: IssueCounter, stop: Stop) -> None:
    if ask.missing == "drop":
        for file in files:
            report.note(reason, str(file))
    elif files:
        shown = ", ".join(str(file) for file in files[:3]) + (", ..." if len(files) > 3 else "")
        fix = _FIX
        stop(UserError(f"{len(files)} {words}: {shown}", where=files[0].parent, fix=fix))

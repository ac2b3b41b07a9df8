"""What was read from annotations of boxes, kept beside the run: the next start reads one file instead of thousands.

Kept is what the reader gave, not pictures: windows are cut from it anew in a moment. It is only used while every
file below the data set's folder, and every image, has the size and the time of change that it had.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.contracts import Record
from vistruct.data.loading.columns import cache_file, keep_columns, kept_columns
from vistruct.issues import IssueCounter

Reading = tuple[list[Record], tuple[str, ...], IssueCounter]
_SHAPES = ("quads", "keypoints")  # arrays that a record may not have


def kept(read: Callable[[], Reading], cache: Path | None, path: Path, settings: Mapping[str, Any]) -> Reading:
    """What `read` gives, from the cache where nothing has changed since.

    Args:
        cache: a folder; None: nothing is kept.
        path: the annotation file or the data set's folder.
        settings: plain json values, of everything else that decides what is read.
    """
    if cache is None:
        return read()
    file = cache_file(cache, "boxes", path.absolute(), json.dumps(settings, sort_keys=True))
    header = {"of": str(path), "settings": dict(settings), "files": _listing(path)}
    columns = kept_columns(file, header)
    if columns is not None:
        reading = _unpacked(columns)
        if columns["images"].tobytes().decode() == _digest_of(record.images[0] for record in reading[0]):
            return reading
    reading = read()
    packed = _packed(*reading)
    if packed is not None:
        keep_columns(file, header, packed)
    return reading


def _listing(path: Path) -> str:
    """A digest of the names, sizes and times of all files below a folder, or of one file."""
    if not path.is_dir():
        return _digest_of([path])
    return _digest_of(Path(folder, name) for folder, _, names in sorted(os.walk(path)) for name in sorted(names))


def _digest_of(files: Iterator[Path] | Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        try:
            known = file.stat()
            digest.update(f"{file}\0{known.st_size}\0{known.st_mtime_ns}\n".encode(errors="surrogateescape"))
        except OSError:  # gone, or not ours to read: reading it says so
            digest.update(f"{file}\0absent\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _packed(records: list[Record], class_names: tuple[str, ...], report: IssueCounter) -> dict[str, np.ndarray] | None:
    """Columns of it; None for what has no columns: key points of different numbers, masks that are not json."""
    shapes = {name: [getattr(record, name) for record in records] for name in _SHAPES}
    if len({array.shape[1:] for array in shapes["keypoints"] if array is not None}) > 1:
        return None
    words = {
        "class_names": class_names,
        "counts": report.counts,
        "examples": report.examples,
        "effects": report.effects,
        "records": [
            [record.id, str(record.images[0]), record.size_hw, dict(record.notes), record.masks] for record in records
        ],
    }
    try:
        text = json.dumps(words, separators=(",", ":"))
    except TypeError:  # run lengths as bytes
        return None
    columns = {
        "words": np.frombuffer(text.encode(), np.uint8),
        "images": np.frombuffer(_digest_of(record.images[0] for record in records).encode(), np.uint8),
        "num": np.array([len(record.labels) for record in records], np.int64),
        "boxes": np.concatenate([record.boxes_xyxy for record in records] or [np.zeros((0, 4), np.float32)]),
    }
    for name in ("labels", "is_crowd", "is_difficult"):
        columns[name] = np.concatenate([getattr(record, name) for record in records] or [np.zeros(0, np.int64)])
    for name, arrays in shapes.items():
        columns[f"has_{name}"] = np.array([array is not None for array in arrays], bool)
        there = [array for array in arrays if array is not None]
        if there:
            columns[name] = np.concatenate(there)
    return columns


def _unpacked(columns: dict[str, np.ndarray]) -> Reading:
    words = json.loads(columns["words"].tobytes())
    report = IssueCounter()
    report.counts.update(words["counts"])
    report.effects.update(words["effects"])
    report.examples.update({reason: list(places) for reason, places in words["examples"].items()})
    starts = np.concatenate([[0], columns["num"].cumsum()])
    used = dict.fromkeys(_SHAPES, 0)
    records = []
    for number, (record_id, image, size_hw, notes, masks) in enumerate(words["records"]):
        rows = slice(starts[number], starts[number + 1])
        own: dict[str, Any] = {}
        for name in _SHAPES:
            if columns[f"has_{name}"][number]:
                own[name] = columns[name][used[name] : used[name] + columns["num"][number]]
                used[name] += int(columns["num"][number])
        records.append(
            Record(
                id=record_id,
                images=(Path(image),),
                size_hw=None if size_hw is None else (size_hw[0], size_hw[1]),
                boxes_xyxy=columns["boxes"][rows],
                labels=columns["labels"][rows],
                is_crowd=columns["is_crowd"][rows],
                is_difficult=columns["is_difficult"][rows],
                masks=None if masks is None else tuple(masks),
                notes=notes,
                **own,
            )
        )
    return records, tuple(words["class_names"]), report

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

from vistruct.contracts import Column, Objects, Record
from vistruct.data.formats.format import Walked
from vistruct.data.loading.columns import cache_file, keep_columns, kept_columns
from vistruct.files.coding import Coding
from vistruct.issues import IssueCounter

_JSON = (str, int, float, list, dict, type(None))  # what comes back as it was; a tuple would be a list

Reading = tuple[Walked, IssueCounter]


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
        if columns["images"].tobytes().decode() == _digest_of(_files(reading[0].records)):
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


def _files(records: Sequence[Record]) -> Iterator[Path]:
    """All that they name."""
    for record in records:
        yield from (*record.images, *(() if record.label_map is None else (record.label_map,)))


def _packed(walked: Walked, report: IssueCounter) -> dict[str, np.ndarray] | None:
    """Columns of it; None for what has no columns: key points of different numbers, masks that are not json, label
    maps that are no raster files of one coding."""
    if walked.raster is not None:
        return None
    records = walked.records
    tables = [record.objects.columns() for record in records]
    arrays: dict[str, np.ndarray] = {}
    tuples: dict[str, list[Any]] = {}
    for name in sorted(set().union(*tables)):
        there = [table[name] for table in tables if name in table]
        if all(isinstance(part, tuple) and all(isinstance(row, _JSON) for row in part) for part in there):
            tuples[name] = [table.get(name) for table in tables]
            continue
        own = [part for part in there if isinstance(part, np.ndarray)]
        if len(own) < len(there) or len({(part.shape[1:], part.dtype) for part in own}) > 1:
            return None
        arrays[f"column {name}"] = np.concatenate(own)
        arrays[f"has {name}"] = np.array([name in table for table in tables], bool)
    words = {
        "class_names": walked.class_names,
        "coding": walked.coding and walked.coding.model_dump(mode="json"),
        "counts": report.counts,
        "examples": report.examples,
        "effects": report.effects,
        "records": [
            [one.id, str(one.images[0]), one.size_hw, dict(one.notes), one.label_map and str(one.label_map)]
            for one in records
        ],
        "tuples": tuples,
    }
    try:
        text = json.dumps(words, separators=(",", ":"))
    except TypeError:  # run lengths as bytes
        return None
    return arrays | {
        "words": np.frombuffer(text.encode(), np.uint8),
        "images": np.frombuffer(_digest_of(_files(records)).encode(), np.uint8),
        "num": np.array([len(record.objects) for record in records], np.int64),
    }


def _unpacked(columns: dict[str, np.ndarray]) -> Reading:
    words = json.loads(columns["words"].tobytes())
    report = IssueCounter()
    report.counts.update(words["counts"])
    report.effects.update(words["effects"])
    report.examples.update({reason: list(places) for reason, places in words["examples"].items()})
    tables: list[dict[str, Column]] = [{} for _ in words["records"]]
    for key in columns:
        kind, _, name = key.partition(" ")
        if kind != "column":
            continue
        has, num = columns[f"has {name}"], columns["num"]
        ends = np.where(has, num, 0).cumsum()
        for number in np.flatnonzero(has):
            tables[number][name] = columns[key][ends[number] - num[number] : ends[number]]
    for name, parts in words["tuples"].items():
        for table, part in zip(tables, parts, strict=True):
            if part is not None:
                table[name] = tuple(part)
    records = [
        Record(
            id=record_id,
            images=(Path(image),),
            size_hw=None if size_hw is None else (size_hw[0], size_hw[1]),
            objects=Objects.of(table),
            notes=notes,
            label_map=None if label_map is None else Path(label_map),
        )
        for table, (record_id, image, size_hw, notes, label_map) in zip(tables, words["records"], strict=True)
    ]
    coding = words["coding"] and Coding.model_validate(words["coding"])
    return Walked(records=records, class_names=tuple(words["class_names"]), coding=coding), report

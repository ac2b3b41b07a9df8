"""How many pixels of the training data each class has: what balanced class weights are made of.

Label maps in files have been counted when they were found; of others (objects that are painted, volumes) the truth of
the windows and slices that are trained on is read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch
from typing_extensions import TypedDict

from vistruct.contracts import Dataset
from vistruct.data.dataset import RecordDataset
from vistruct.data.statistics import chosen_records, key_of
from vistruct.errors import UserError
from vistruct.files.images import UnreadableImage
from vistruct.files.json_files import read_cached
from vistruct.files.whole import whole_file
from vistruct.progress import tracking


def with_pixel_counts(dataset: Dataset, cache: Path | None = None) -> RecordDataset:
    """The same data, whose `info` says `pixel_counts`.

    Args:
        cache: folder that keeps what was counted for the next start.

    Raises:
        UserError: data without a class for every pixel; a label map that cannot be read, unless the data say to replace
            those.
    """
    if not isinstance(dataset, RecordDataset) or dataset.read_label_map is None:
        what = f"class weights of pixels, and the data ({type(dataset).__name__}) have no label maps"
        raise UserError(what, where="class_weights", fix="give them as numbers, or leave them out")
    names = dataset.info.pixel_class_names
    if dataset.class_pixels is not None:
        counts = [dataset.class_pixels[number] for number in range(len(names))]
    else:
        counts = _counted(dataset, len(names), cache)
    return replace(dataset, info=replace(dataset.info, pixel_counts=tuple(counts)))


class _Counts(TypedDict):
    pixels: list[int]


def _counted(dataset: RecordDataset, num_classes: int, cache: Path | None) -> list[int]:
    chosen = chosen_records(dataset)
    digest = hashlib.sha256(f"{key_of(dataset, chosen)} {dataset.info.pixel_class_names}".encode()).hexdigest()[:24]
    file = None if cache is None else cache / f"class-pixels-{digest}.json"
    found = None if file is None else read_cached(file, _Counts)
    if found is not None:
        return found["pixels"]
    counts = torch.zeros(num_classes, dtype=torch.int64)
    with tracking("counting pixels of classes", done=0, total=len(chosen)) as show:
        for done, index in enumerate(chosen, start=1):
            try:
                truth = dataset.truth(index)
            except UnreadableImage:
                if dataset.on_broken == "stop":
                    raise
                continue
            counts += torch.bincount(truth[truth >= 0].long(), minlength=num_classes)
            show(done, "label maps")
    if file is not None:
        with whole_file(file, "partial") as partial:
            partial.write_text(json.dumps({"pixels": counts.tolist()}))
    return counts.tolist()

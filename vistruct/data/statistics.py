"""Mean and standard deviation of a data set's pixels, channel by channel: what its images are normalised with.

Every pixel of a chosen image counts, as it is read and before anything is varied; what has no data is 0 and counts as
such. Images are added up one after the other (Chan et al., 1979), so that memory holds one of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import TypedDict

from vistruct.contracts import DataInfo, Dataset
from vistruct.data.dataset import RecordDataset
from vistruct.errors import UserError
from vistruct.files.images import UnreadableImage
from vistruct.files.json_files import read_cached
from vistruct.files.whole import whole_file
from vistruct.ops.seeds import derive
from vistruct.ops.values import full_scale
from vistruct.progress import tracking

MOST = 2000  # images (windows of them, slices of volumes) that are looked at; drawn evenly where there are more


def with_statistics_of_pixels(dataset: Dataset, cache: Path | None = None) -> RecordDataset:
    """The same data, whose `info` says mean and std: of values from 0 to 1, or in the unit of raw ones.

    Args:
        cache: folder that keeps what was measured for the next start.

    Raises:
        UserError: an unreadable image, unless the data say to replace those; a channel that is the same everywhere;
            data of another kind.
    """
    if not isinstance(dataset, RecordDataset):
        what = f"mean and std of a {type(dataset).__name__} are not measured"
        raise UserError(what, where="task.mean", fix="give them as numbers")
    chosen = chosen_records(dataset)
    file = None if cache is None else cache / f"statistics-{key_of(dataset, chosen)}.json"
    found = None if file is None else read_cached(file, _Statistics)
    if found is None:
        found = _measure(dataset, chosen)
        if file is not None:
            with whole_file(file, "partial") as partial:
                partial.write_text(json.dumps(found))
    for number, std in enumerate(found["std"]):
        if std == 0:
            what = f"channel {number + 1} is {found['mean'][number]:g} everywhere: it has no standard deviation"
            raise UserError(what, where="task.std", fix="choose other --bands, or --set task.std=[...] as numbers")
    info = replace(dataset.info, mean=tuple(found["mean"]), std=tuple(found["std"]))
    return replace(dataset, info=info)


class _Statistics(TypedDict):
    mean: list[float]
    std: list[float]


def in_words(info: DataInfo) -> str:
    """What a model is given: one line for logs."""
    kinds = {
        "uint8": "8 bits (uint8)",
        "uint16": "16 bits (uint16)",
        "float32": "floats from 0 to 1 (float32)",
        "raw": "values in the unit of the files (float32)",
    }
    told = f"images: {info.channels} channels of {kinds[info.pixels]}"
    if info.mean is None or info.std is None:
        return told
    mean, std = (", ".join(f"{value:.5g}" for value in values) for values in (info.mean, info.std))
    return f"{told}, normalised with mean {mean} and std {std} of the training data"


def chosen_records(dataset: RecordDataset) -> list[int]:
    """Indices of the records that are looked at: MOST of them at most, always the same."""
    drawn = sorted(range(len(dataset)), key=lambda index: derive(0, "statistics", dataset.records[index].id))
    return sorted(drawn[:MOST])


def _measure(dataset: RecordDataset, chosen: Sequence[int]) -> dict[str, list[float]]:
    count, mean, squares = 0, torch.zeros(0), torch.zeros(0)
    with tracking("measuring mean and std", done=0, total=len(chosen)) as show:
        for done, index in enumerate(chosen, start=1):
            try:
                images = dataset.images(index)
            except UnreadableImage:
                if dataset.on_broken == "stop":
                    raise
                continue
            for image in images:
                own, its_mean, its_squares = _of_one(image)
                if count == 0:
                    count, mean, squares = own, its_mean, its_squares
                    continue
                apart = its_mean - mean
                squares = squares + its_squares + apart**2 * (count * own / (count + own))
                mean = mean + apart * (own / (count + own))
                count += own
            show(done, "images")
    if count == 0:
        raise UserError("no image to measure mean and std of", where="data", fix="`vistruct check` says more")
    return {"mean": mean.tolist(), "std": (squares / count).sqrt().tolist()}


def _of_one(image: Tensor) -> tuple[int, Tensor, Tensor]:
    """Pixels, and of each channel float64[C] mean and sum of squared differences from it, as parts of full scale."""
    values = image.flatten(1).double() / full_scale(image.dtype)
    mean = values.mean(dim=1)
    return values.shape[1], mean, ((values - mean[:, None]) ** 2).sum(dim=1)


def key_of(dataset: RecordDataset, chosen: Sequence[int]) -> str:
    """Whatever decides the numbers: the files, which images and windows of them, and how they are read."""
    info = dataset.info
    said = [info.fingerprint, info.pixels, info.channels, json.dumps(dict(info.input), sort_keys=True)]
    ids = [dataset.records[index].id for index in chosen]
    return hashlib.sha256(json.dumps([*said, ids]).encode()).hexdigest()[:24]

"""Windows of images that are decoded as a whole come while the image is in memory: in a shuffle of images, then of
their windows.

A PNG of 4,000 pixels a side is decoded in a second, and cut into eighty windows: shuffled over a data set, every window
decodes it anew. So images are shuffled, taken together until a worker's cache is full, and the windows of such a group
are shuffled among themselves. A group is as many images as fit, so that a step still sees different ones; where all
fit, or images are looked at once, or windows are decoded alone (`files/raster_headers.py`), it is a plain shuffle.
Known from the records alone, whatever is installed: the order is the same wherever a run goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vistruct.contracts import Dataset
from vistruct.data.chat.records import Records
from vistruct.data.dataset import RecordDataset
from vistruct.files.decoded_cache import CACHE_BYTES

_IN_WINDOWS = (".tif", ".tiff", ".jp2", ".img", ".vrt")  # of which a window is decoded alone


@dataclass(frozen=True, kw_only=True)
class Visits:
    """Which image every sample is a part of, and what that takes in memory."""

    image: np.ndarray  # int64[N], a number for each sample
    size: np.ndarray  # int64[M], bytes of each image while its windows are looked at; 0: nothing is kept

    def shuffled(self, generator: torch.Generator, most: int = CACHE_BYTES) -> torch.Tensor:
        """int64[N], every sample once: the images in groups of no more than so many bytes, the samples within."""
        drawn = torch.randperm(len(self.size), generator=generator).numpy()
        samples = torch.randperm(len(self.image), generator=generator).numpy()
        group, number, held = np.zeros(len(self.size), np.int64), 0, 0
        for image in drawn:
            if held and held + self.size[image] > most:
                number, held = number + 1, 0
            group[image] = number
            held += int(self.size[image])
        return torch.from_numpy(samples[np.argsort(group[self.image[samples]], kind="stable")])


def visits_of(dataset: Dataset, most: int = CACHE_BYTES) -> Visits | None:
    """None: a plain shuffle will do."""
    if not isinstance(dataset, RecordDataset) or isinstance(dataset.records, Records):
        return None
    if all(record.window_xyxy is None for record in dataset.records):
        return None
    numbers: dict[tuple[Path, ...], int] = {}
    image = np.array([numbers.setdefault(record.images, len(numbers)) for record in dataset.records], np.int64)
    extent = np.zeros((len(numbers), 2), np.int64)
    for number, record in zip(image, dataset.records, strict=True):
        if record.window_xyxy is not None:
            extent[number] = np.maximum(extent[number], record.window_xyxy[2:])
    kept = [sum(file.suffix.lower() not in _IN_WINDOWS for file in files) for files in numbers]
    deep = 1 if dataset.info.pixels == "uint8" else 2
    size = extent.prod(axis=1) * np.array(kept) * 3 * deep * (np.bincount(image) > 1)
    return Visits(image=image, size=size) if size.sum() > most else None

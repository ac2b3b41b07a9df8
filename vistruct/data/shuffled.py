"""A control: every record keeps its truth and is shown the pixels of another, so that nothing can be learned of images.

What such a run brings is not of its labels but of all else: more steps, the statistics of the pixels, luck.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from vistruct.contracts import Dataset
from vistruct.data.dataset import RecordDataset
from vistruct.errors import UserError
from vistruct.ops.seeds import derive

REASON = "control: the truth of one image with the pixels of another"
LEAST = 0.9  # share of the records that must find a partner


def with_shuffled_truth(dataset: Dataset, seed: int) -> RecordDataset:
    """The same records, each with the pixels of another of its size: a drawn cycle through all of one size.

    Raises:
        UserError: conversations (`instruct` shuffles their answers), or too few images of one size.
    """
    if not isinstance(dataset, RecordDataset) or not isinstance(dataset.records, list | tuple):
        what = "the truth of these data cannot be shuffled"
        raise UserError(what, where="shuffled", fix="shuffled=false; conversations: `vistruct instruct` has a control")
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, record in enumerate(dataset.records):
        groups[record.size_hw].append(index)
    pictures = list(range(len(dataset.records)))
    generator = np.random.default_rng(derive(seed, "shuffled truth"))
    alone = 0
    for members in groups.values():
        order = generator.permutation(members).tolist()
        alone += len(order) == 1
        for own, other in zip(order, [*order[1:], order[0]], strict=True):
            pictures[own] = other
    if len(pictures) - alone < LEAST * len(pictures):
        what = f"{alone} of {len(pictures)} images have no other of their size"
        raise UserError(what, where="shuffled", fix="cut them into windows of one size (tiles), or leave shuffled out")
    dropped = {**dataset.info.dropped, REASON: len(pictures) - alone}
    info = replace(dataset.info, dropped=dropped, fingerprint=f"{dataset.info.fingerprint} shuffled {seed}")
    return replace(dataset, pictures=tuple(pictures), info=info)

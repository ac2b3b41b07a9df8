"""What the language model reads of a batch: which answer tokens are hidden from it, and the text without the image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vistruct.ops.seeds import derive
from vistruct.vlm import chat
from vistruct.vlm.batch import ChatBatch


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the language model reads of a batch, after VRL; all on the CPU, so that nothing waits for the device."""

    input_ids: Tensor  # int64[K]
    labels: Tensor  # int64[K]
    positions: Tensor  # int64[K], in the row as it was
    lengths: list[int]  # kept tokens of each row
    whole: list[int]  # tokens of each row before any were dropped
    places: Tensor  # int64[P], where visual tokens stand
    visual: Tensor  # int64[P], which one stands there: tile * C + cell, or a number among the kept cells
    cells: Tensor | None  # bool[T, C], those that enter the backbone; None: all
    objects: Tensor  # int64[Q], where object tokens stand, of a model that points
    regions: Tensor  # int64[R * n], where what regions show stands


def drawn_answers(batch: ChatBatch, chance: float) -> Tensor:
    """bool[N], true at tokens of answers with a chance each; by row, so that a row's draw does not depend on its batch.

    Source: word dropout, Bowman et al., arXiv:1511.06349, section 3.1.
    """
    draws = [
        torch.rand(length, generator=torch.Generator().manual_seed(derive(seed, "answer dropout")))
        for length, seed in zip(batch.lengths, batch.seeds, strict=True)
    ]
    return (batch.labels != chat.IGNORE) & (torch.cat(draws) < chance)


def text_alone(reading: Reading) -> Reading:
    """The same rows without what shows the image, visual tokens and those of regions; the others keep their positions.

    Both stand in what users say, so that the same tokens are supervised.
    """
    keep = torch.ones(len(reading.input_ids), dtype=torch.bool)
    keep[reading.places] = False
    keep[reading.regions] = False
    none = reading.places[:0]
    return replace(
        reading,
        input_ids=reading.input_ids[keep],
        labels=reading.labels[keep],
        positions=reading.positions[keep],
        lengths=[int(row.sum()) for row in keep.split(reading.lengths)],
        places=none,
        visual=none,
        cells=None,
        objects=(keep.cumsum(0) - 1)[reading.objects],
        regions=none,
    )

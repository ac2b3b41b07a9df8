"""Which samples make up a step, and how they are shared among devices and micro-batches.

A step is a fixed list of samples, whoever computes it. Without costs it is dealt out by number. With them it is dealt
out so that every device has the same work and no micro-batch is larger than its budget: samples differ by a factor of
ten and more in length, and the slowest device is waited for.

Source: longest processing time first (Graham, 1969): the largest sample left goes to the device with least work.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from vistruct.config import Pack
from vistruct.contracts import Costs

Share = list[list[int]]  # micro-batches of one device: places in the step's list of samples


def deal(number: int, *, world: int, accumulate: int) -> list[Share]:
    """Equal numbers for every device and micro-batch; `number` divides by both."""
    size = number // (world * accumulate)
    mine = [list(range(rank, number, world)) for rank in range(world)]
    return [[places[at : at + size] for at in range(0, len(places), size)] for places in mine]


def balance(costs: Costs, work: np.ndarray, *, world: int, pack: Pack) -> list[Share]:
    """Equal work for every device, in micro-batches that fit the budget; every device has equally many of them.

    A sample that exceeds the budget by itself is a micro-batch by itself. A device with fewer samples than
    micro-batches gets empty ones, so that all stay in step.

    Args:
        costs: of the step's samples.
        work: float[n], how long each takes, in any unit.

    Returns:
        by device, its micro-batches; every place 0..n-1 is in exactly one.
    """
    ranked = np.argsort(-work, kind="stable").tolist()
    loads = [(0.0, rank) for rank in range(world)]
    mine: list[list[int]] = [[] for _ in range(world)]
    for place in ranked:
        load, rank = heapq.heappop(loads)
        mine[rank].append(place)
        heapq.heappush(loads, (load + float(work[place]), rank))
    packed = [_fill(places, costs, pack) for places in mine]
    most = max(len(bins) for bins in packed)
    return [_spread(bins, most, costs, pack) for bins in packed]


def _fits(tokens: int, tiles: int, pack: Pack) -> bool:
    return tokens <= pack.tokens and (pack.tiles is None or tiles <= pack.tiles)


def _fill(places: Sequence[int], costs: Costs, pack: Pack) -> Share:
    """First fit, the longest first."""
    bins: Share = []
    sizes: list[tuple[int, int]] = []
    for place in sorted(places, key=lambda p: (-int(costs.tokens[p]), p)):
        tokens, tiles = int(costs.tokens[place]), int(costs.tiles[place])
        for at, (used, shown) in enumerate(sizes):
            if _fits(used + tokens, shown + tiles, pack):
                bins[at].append(place)
                sizes[at] = used + tokens, shown + tiles
                break
        else:
            bins.append([place])
            sizes.append((tokens, tiles))
    return bins


def _spread(bins: Share, number: int, costs: Costs, pack: Pack) -> Share:
    """Exactly `number` micro-batches: the fullest of those with several samples is halved until there are enough."""
    bins = [list(b) for b in bins]
    while len(bins) < number:
        fullest = max(bins, key=lambda b: (len(b) > 1, int(costs.tokens[b].sum()) if b else 0), default=[])
        if len(fullest) < 2:
            bins.append([])
            continue
        bins.remove(fullest)
        bins += [fullest[::2], fullest[1::2]]
    return [sorted(b) for b in bins]

"""How a step is shared: nothing lost, nothing too large, all devices busy; and the loader that goes by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vistruct.config import Pack
from vistruct.contracts import Costs, DataInfo, Sample
from vistruct.data.loading.loader import Loader, Order
from vistruct.data.loading.plan import Share, balance, deal
from vistruct.vlm.tiling import Tiling, num_tiles


def costs_of(tokens: list[int], tiles: list[int]) -> Costs:
    table = [np.array(values, dtype=np.int32) for values in (tokens, [0] * len(tokens), [1] * len(tokens), tiles)]
    return Costs(tokens=table[0], visual=table[1], supervised=table[2], tiles=table[3])


@st.composite
def steps(draw) -> tuple[Costs, np.ndarray, int, Pack]:
    number = draw(st.integers(1, 40))
    tokens = draw(st.lists(st.integers(1, 3000), min_size=number, max_size=number))
    tiles = draw(st.lists(st.integers(0, 13), min_size=number, max_size=number))
    costs = costs_of(tokens, tiles)
    pack = Pack(tokens=draw(st.sampled_from([1, 1000, 2500, 8192])), tiles=draw(st.sampled_from([None, 5, 24])))
    work = costs.tokens * draw(st.sampled_from([0.0, 1.0])) + costs.tiles * draw(st.sampled_from([0.0, 700.0]))
    return costs, work, draw(st.integers(1, 9)), pack


def places(share: Share) -> list[int]:
    return [place for part in share for place in part]


@given(steps())
@settings(max_examples=100, deadline=None)
def test_every_sample_is_in_one_microbatch_that_fits_and_all_devices_have_equally_many(step):
    costs, work, world, pack = step
    shares = balance(costs, work, world=world, pack=pack)
    assert sorted(place for share in shares for place in places(share)) == list(range(len(costs)))
    assert len(shares) == world
    assert len({len(share) for share in shares}) == 1
    for share in shares:
        for part in share:
            tokens, tiles = int(costs.tokens[part].sum()), int(costs.tiles[part].sum())
            assert len(part) <= 1 or (tokens <= pack.tokens and tiles <= (pack.tiles or tiles))
        if [] in share:  # only where there are fewer samples than micro-batches
            assert max(map(len, share)) <= 1
    assert balance(costs, work, world=world, pack=pack) == shares


@given(steps())
@settings(max_examples=50, deadline=None)
def test_no_device_has_more_work_than_its_part_and_one_sample(step):
    """The bound of Graham's list scheduling: the busiest device got its last sample when it had least to do."""
    costs, work, world, pack = step
    loads = [float(work[places(share)].sum()) for share in balance(costs, work, world=world, pack=pack)]
    assert max(loads) <= work.sum() / world + work.max() * (1 - 1 / world) + 1e-6


def test_longest_go_first_to_the_least_busy():
    costs = costs_of([7, 6, 5, 4, 3, 2], [0] * 6)
    shares = balance(costs, costs.tokens.astype(float), world=2, pack=Pack(tokens=100))
    assert shares == [[[0, 3, 4]], [[1, 2, 5]]]  # 7 + 4 + 3 and 6 + 5 + 2


def test_a_device_splits_its_fullest_microbatch_to_stay_in_step():
    costs = costs_of([10, 10, 10, 4, 3, 3], [0] * 6)
    work = np.array([10.0, 10.0, 10.0, 15.0, 8.0, 7.0])
    shares = balance(costs, work, world=2, pack=Pack(tokens=10))
    assert sorted(len(share) for share in shares) == [3, 3]
    assert all(part for share in shares for part in share)


def mix(number: int, seed: int = 0) -> Costs:
    """Of 105 samples 65 square scenes of 256 to 1024 pixels, 35 photographs and 5 without an image; up to 6 tiles."""
    rng = np.random.default_rng(seed)
    tiling, tiles = Tiling(size=448, max_tiles=6), []
    for kind in rng.choice(3, number, p=[65 / 105, 35 / 105, 5 / 105]):
        if kind == 0:
            side = int(rng.integers(256, 1025))
            tiles.append(num_tiles((side, side), tiling))
        else:
            size = [(480, 640), (640, 480), (600, 800), (375, 500), (768, 1024), (720, 1280)][rng.integers(6)]
            tiles.append(num_tiles(size, tiling) if kind == 1 else 0)
    text = np.clip(rng.lognormal(4.6, 0.7, number), 24, 1000).astype(np.int32)
    return costs_of((np.array(tiles, np.int32) * 256 + text).tolist(), tiles)


def test_eight_devices_are_busy_98_percent_of_a_step():
    costs, world, batch = mix(128 * 20), 8, 128
    work = costs.tiles * 2.17e12 + costs.tokens * 2.2e9  # of InternVL2.5-1B
    order = Order(len(costs), batch, seed=0)
    ours, dealt = [], []
    for step in range(20):
        indices = [index for _, index in order.keys(step)]
        own = work[indices]
        shares = balance(costs.of(indices), own, world=world, pack=Pack(tokens=8192, tiles=24))
        loads = [own[places(share)].sum() for share in shares]
        ours.append(np.mean(loads) / max(loads))
        loads = [own[places(share)].sum() for share in deal(batch, world=world, accumulate=1)]
        dealt.append(np.mean(loads) / max(loads))
    assert np.mean(ours) >= 0.98
    assert np.mean(dealt) < 0.9  # what it is without


def test_equal_numbers_are_dealt_out_in_order():
    assert deal(8, world=2, accumulate=2) == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
    assert deal(3, world=1, accumulate=1) == [[[0, 1, 2]]]


def test_costs_of_some_samples_are_theirs():
    costs = mix(50)
    some = costs.of([40, 3, 3])
    assert len(some) == 3
    for name in ("tokens", "visual", "supervised", "tiles"):
        assert getattr(some, name).tolist() == [getattr(costs, name)[at] for at in (40, 3, 3)]


@dataclass(frozen=True)
class Numbers:
    """A data set that decodes nothing."""

    size: int

    info = DataInfo()
    records = ()

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int, seed: int) -> Sample:
        return Sample(id=str(index), image_id=str(index), seed=seed, images=[])


def pairs(samples: list[Sample]) -> list[tuple[int, int]]:
    return [(int(s.id), s.seed) for s in samples]


def loader(size: int = 50, **settings: Any) -> Loader:
    costs = mix(size, seed=1)
    data: Any = Numbers(size)
    given_: dict[str, Any] = {
        "batch": 12,
        "seed": 3,
        "costs": costs,
        "work": costs.tokens * 1.0,
        "pack": Pack(tokens=3000),
    }
    return Loader(data, pairs, **given_ | settings)


def take(loader: Loader, number: int) -> list[Any]:
    batches = iter(loader)
    return [next(batches) for _ in range(number)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_packs_goes_on_from_any_step(workers):
    whole = take(loader(workers=workers), 7)
    assert [len(step) for step in whole] == [len(loader().share(step)) for step in range(7)]
    assert len({len(step) for step in whole}) > 1  # steps of several numbers of micro-batches
    for first in (1, 4, 6):
        assert take(loader(first_step=first, workers=workers), 7 - first) == whole[first:]
    assert take(loader(), 7) == whole


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])  # most do not divide 12
def test_samples_of_a_step_are_the_same_on_any_number_of_devices(world):
    dealt = take(loader(costs=None), 9)  # by number, on one device
    devices = [take(loader(rank=rank, world=world), 9) for rank in range(world)]
    for number, step in enumerate(dealt):
        ours = [device[number] for device in devices]
        assert len({len(parts) for parts in ours}) == 1  # in step
        assert sorted(key for parts in ours for part in parts for key in part) == sorted(step[0])
    epoch = [key[0] for step in dealt for key in step[0]]
    assert sorted(epoch[:50]) == sorted(epoch[50:100]) == list(range(50))


def test_a_loader_shares_by_the_work_of_the_samples_that_are_due():
    work = np.random.default_rng(0).uniform(1, 100, 50)
    one = loader(work=work, world=3)
    for step in range(5):
        keys = one.order.keys(step)
        due = [index for _, index in keys]
        shares = balance(mix(50, seed=1).of(due), work[due], world=3, pack=Pack(tokens=3000))
        for rank, share in enumerate(shares):
            own = loader(work=work, world=3, rank=rank).share(step)
            assert own == [[keys[place] for place in part] for part in share]


def test_a_device_without_samples_gets_batches_of_nothing():
    devices = [take(loader(batch=2, rank=rank, world=4, workers=rank % 2), 2) for rank in range(4)]
    for step in range(2):
        assert sorted(len(part) for device in devices for part in device[step]) == [0, 0, 1, 1]

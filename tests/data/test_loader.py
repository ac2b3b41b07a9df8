from __future__ import annotations

import pickle
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from toy_engine import ToyDataset, collate

from vistruct.contracts import DataInfo, Sample
from vistruct.data.loading.loader import Loader, Order, eval_batches
from vistruct.errors import UserError


@dataclass(frozen=True)
class Names:
    """A data set of any size that decodes nothing, and counts what it was asked for."""

    size: int
    broken: int = -1

    info = DataInfo()
    records = ()

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int, seed: int) -> Sample:
        if index == self.broken:
            raise UserError("cannot be read", where=f"{index}.jpg", fix="look at it")
        return Sample(id=str(index), image_id=str(index), seed=seed, images=[])


def pairs(samples: list[Sample]) -> list[tuple[int, int]]:
    return [(int(s.id), s.seed) for s in samples]


def take(loader: Loader, steps: int) -> list[list[list[tuple[int, int]]]]:
    batches = iter(loader)
    return [next(batches) for _ in range(steps)]


def names(size: int, broken: int = -1) -> Any:
    return Names(size, broken)


def make(size: int = 10, **settings) -> Loader:
    return Loader(names(size), pairs, **({"batch": 4, "seed": 3} | settings))


def flat(steps: list[list[list[tuple[int, int]]]]) -> list[tuple[int, int]]:
    return [key for step in steps for part in step for key in part]


def test_every_sample_comes_once_an_epoch_though_steps_span_epochs():
    keys = flat(take(make(10), 5))  # 20 samples: two epochs, of which the third step has parts of both
    assert sorted(i for i, _ in keys[:10]) == sorted(i for i, _ in keys[10:]) == list(range(10))
    assert [i for i, _ in keys[:10]] != [i for i, _ in keys[10:]]
    assert len({seed for _, seed in keys}) == 20


def test_a_data_set_smaller_than_the_batch_is_repeated_with_other_seeds():
    (step,) = take(make(3, batch=8), 1)
    assert Counter(i for i, _ in step[0]).most_common()[0][1] == 3
    assert len({seed for _, seed in step[0]}) == 8


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_samples_of_a_step_do_not_depend_on_ranks_or_microbatches(world, accumulate):
    alone = take(make(batch=8), 4)
    ranks = [take(make(batch=8, accumulate=accumulate, rank=r, world=world), 4) for r in range(world)]
    for step, one in enumerate(alone):
        together = [key for rank in ranks for part in rank[step] for key in part]
        assert sorted(together) == sorted(one[0])
        assert all(len(part) == 8 // world // accumulate for rank in ranks for part in rank[step])


def test_the_samples_do_not_depend_on_the_number_of_workers():
    assert take(make(accumulate=2, workers=2), 6) == take(make(accumulate=2), 6)


def test_a_loader_may_begin_at_any_step():
    assert take(make(first_step=3), 2) == take(make(), 5)[3:]


def test_resuming_late_in_a_million_samples_is_immediate():
    start = time.perf_counter()
    take(make(1_000_000, batch=100, first_step=9_900), 1)
    assert time.perf_counter() - start < 2


def test_the_order_depends_on_the_seed_and_the_seeds_of_samples_too():
    one, other = flat(take(make(seed=1), 2)), flat(take(make(seed=2), 2))
    assert [i for i, _ in one] != [i for i, _ in other]
    assert not {s for _, s in one} & {s for _, s in other}


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    take(make(workers=1), 2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("batch", "world", "accumulate", "fix"), [(7, 2, 2, "batch=8 or batch=4"), (3, 4, 1, "batch=4")]
)
def test_a_batch_that_does_not_divide_names_the_nearest_that_does(batch, world, accumulate, fix):
    with pytest.raises(UserError) as caught:
        make(batch=batch, world=world, accumulate=accumulate)
    assert fix in caught.value.fix


def test_an_empty_data_set_is_refused():
    with pytest.raises(UserError, match="no samples"):
        make(0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_mistake_arrives_from_a_worker_as_it_was(workers):
    with pytest.raises(UserError) as caught:
        take(Loader(names(6, broken=4), pairs, batch=3, workers=workers), 2)
    assert (caught.value.what, caught.value.where, caught.value.fix) == (
        "cannot be read",
        "4.jpg",
        "look at it",
    )


def test_a_collators_mistake_arrives_too():
    def refuse(samples: list[Sample]) -> list[Sample]:
        raise UserError("do not fit together")

    with pytest.raises(UserError, match="do not fit"):
        take(Loader(names(6), refuse, batch=3), 1)


def test_what_travels_to_a_worker_can_travel_by_pickle():
    toy: Any = ToyDataset()
    fetch: Any = Loader(toy, collate, batch=2).fetch
    copied = pickle.loads(pickle.dumps(fetch))
    assert torch.equal(copied[(0, 1)].value.images[0], fetch[(0, 1)].value.images[0])


def test_the_order_of_an_epoch_is_a_permutation():
    order = Order(100, 10, seed=0)
    assert sorted(order.keys(s)[k] for s in range(10) for k in range(10)) == [(0, i) for i in range(100)]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("world", [1, 3])
def test_an_evaluation_sees_every_sample_once_whatever_the_ranks(world, workers):
    seen = [pair for r in range(world) for pair in eval_batches(names(7), pairs, 2, r, world, workers)]
    assert sorted(i for _, batch in seen for i, _ in batch) == list(range(7))
    assert all(indices == [i for i, _ in batch] for indices, batch in seen)
    alone = dict(key for _, batch in eval_batches(names(7), pairs, 7) for key in batch)
    assert dict(key for _, batch in seen for key in batch) == alone


def test_a_rank_without_samples_evaluates_nothing():
    assert list(eval_batches(names(1), pairs, 2, rank=1, world=2)) == []

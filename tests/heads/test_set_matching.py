"""Set prediction: the assignment against all permutations, the class loss against torch's weighted mean."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from vistruct.heads.set_matching import assign, assign_within, class_cost, class_goals, class_loss, class_units


def least(cost: torch.Tensor) -> float:
    """By trying them all."""
    short, long = sorted(cost.shape)
    table = cost if cost.shape[0] == short else cost.T
    return min(
        float(sum(table[i, j] for i, j in enumerate(chosen))) for chosen in itertools.permutations(range(long), short)
    )


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (3, 3), (5, 1)])
def test_no_other_pairs_cost_less(shape: tuple[int, int]) -> None:
    cost = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    ((rows, columns),) = assign([cost])
    assert rows.shape == columns.shape == (6, min(shape))
    for one, row, column in zip(cost, rows, columns, strict=True):
        assert len(set(row.tolist())) == len(set(column.tolist())) == min(shape)
        assert row.tolist() == sorted(row.tolist())
        assert float(one[row, column].sum()) == pytest.approx(least(one), abs=1e-6)


def test_tables_of_other_sizes_together_are_as_each_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    costs = [torch.randn(2, 5, m, generator=generator) for m in (3, 0, 7)] + [torch.randn(4, 2, generator=generator)]
    for cost, (rows, columns) in zip(costs, assign(costs), strict=True):
        ((alone_rows, alone_columns),) = assign([cost])
        assert torch.equal(rows, alone_rows)
        assert torch.equal(columns, alone_columns)
        assert rows.shape == (*cost.shape[:-2], min(cost.shape[-2:]))
    assert assign([]) == []


def test_within_groups_is_each_group_alone() -> None:
    table = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    sizes = (3, 1, 0, 4)
    order = assign_within(sizes, lambda span: table[span, span], table.device)
    for start, size in ((0, 3), (3, 1), (4, 4)):
        own = order[start : start + size] - start
        block = table[start : start + size, start : start + size]
        assert sorted(own.tolist()) == list(range(size))
        assert float(block[torch.arange(size), own].sum()) == pytest.approx(least(block), abs=1e-6)
    assert assign_within((), lambda span: table, table.device).tolist() == []


def test_what_is_no_number_is_taken_last() -> None:
    cost = torch.tensor([[float("nan"), 5.0], [1.0, float("inf")]])
    ((rows, columns),) = assign([cost])
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_the_class_loss_is_torchs_weighted_mean_times_its_units() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 6, 4, generator=generator, dtype=torch.float32)  # of 3 classes, and of no object
    labels = torch.tensor([[2, 0], [1, 1]])
    goals = class_goals(logits, torch.tensor([[1, 4], [0, 5]]), labels)
    assert goals.tolist() == [[3, 2, 3, 3, 0, 3], [1, 3, 3, 3, 3, 1]]
    mean = F.cross_entropy(logits.flatten(0, 1), goals.flatten(), weight=torch.tensor([1.0, 1, 1, 0.1]))
    total = class_loss(logits, goals, 0.1).sum()
    torch.testing.assert_close(total / class_units([2, 2], 6, 0.1), mean)
    assert class_units([9, 0], 6, 0.5) == 6 + 3  # more objects than queries, and none


def test_the_cost_of_a_class_is_minus_its_probability() -> None:
    logits = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(3))
    cost = class_cost(logits, torch.tensor([2, 2, 0]))
    assert cost.shape == (3, 5, 3)
    torch.testing.assert_close(cost[1, 4, 2], -logits[1, 4].exp()[0] / logits[1, 4].exp().sum())

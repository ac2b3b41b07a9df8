from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from several_processes import in_ranks
from torch import Tensor, nn

from vistruct.distributed import gradients
from vistruct.distributed.gradients import GradientSum
from vistruct.distributed.ranks import setup

ROWS = [0, 3, 1, 2]  # of each rank: it may have nothing to learn from at all


class Uneven(nn.Module):
    """Parts that only some ranks use, one that none uses, one that is used twice; in the worst order for sending."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.both = nn.Linear(3, 3)
        self.odd = nn.Linear(3, 3)  # of ranks with odd numbers
        self.never = nn.Linear(3, 3)
        self.early = nn.Linear(3, 3)  # in all micro-batches but the last
        self.frozen = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x: Tensor, rank: int, *, is_last: bool) -> Tensor:
        x = self.both(self.both(self.frozen(x)).tanh())
        x = self.odd(x) if rank % 2 else x
        return (x if is_last else self.early(x)).square().sum()


def micro_batches(rank: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(ROWS[rank], 3, generator=generator) for _ in range(2)]


def sum_up(out: str) -> None:
    gradients.BUCKET_BYTES = 60  # bytes: a layer and a little
    ranks, model = setup(), Uneven()
    summed = GradientSum(p for p in model.parameters() if p.requires_grad)
    found = []
    for _ in range(2):  # the hooks are for more than one step
        model.zero_grad(set_to_none=True)
        for number, x in enumerate(micro_batches(ranks.rank)):
            total = model(x, ranks.rank, is_last=number == 1)
            if number == 1:
                summed.start()
            if len(x):
                total.backward()
        summed.finish()
        found.append({n: p.grad.tolist() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0] == found[1]
    assert len(summed.buckets) >= 4
    Path(out, os.environ["RANK"]).write_text(json.dumps(found[0]))


@pytest.mark.parametrize("world", [2, 4])
def test_sums_are_those_of_one_process_whatever_each_rank_leaves_out(tmp_path, world):
    assert in_ranks(world, sum_up, str(tmp_path)) == [0] * world
    first, *others = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(world))
    assert all(other == first for other in others)  # to the bit
    model = Uneven()
    for rank in range(world):
        for number, x in enumerate(micro_batches(rank)):
            model(x, rank, is_last=number == 1).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            expected = torch.zeros_like(p) if p.grad is None else p.grad
            torch.testing.assert_close(torch.tensor(first[name]), expected, rtol=1e-5, atol=1e-6)
    assert not torch.tensor(first["never.weight"]).any()
    assert "frozen.weight" not in first


def test_alone_a_gradient_stays_what_it_is():
    model = nn.Linear(2, 1)
    summed = GradientSum(model.parameters())
    summed.start()
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.grad
    summed.finish()
    assert model.weight.grad is before
    assert not summed.buckets

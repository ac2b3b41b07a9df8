"""Decoders of queries: what is drawn of one does not depend on the others, they learn, and are right at the edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toy_heads import SIZE, maps, specs, target

from vistruct.contracts import BoxTarget, Queries, QueryDecoder, Shown
from vistruct.heads.query_box import QueryBoxConfig
from vistruct.heads.query_layers import QueryLayersConfig

WIDTH = 12  # of a state
LAYERS = QueryLayersConfig(width=16, layers=1, heads=2, hidden=16, dropout=0.0)
DECODERS: dict[str, Any] = {
    "box": QueryBoxConfig(layers=LAYERS),
    "box as DETR says it": QueryBoxConfig(layers=LAYERS, style="detr"),
}
all_decoders = pytest.mark.parametrize("name", DECODERS)


def built(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return DECODERS[name].model_copy(update=changes).build(specs(), WIDTH).eval()


def queries(groups: tuple[tuple[int, ...], ...], seed: int = 0) -> Queries:
    """Rows of random states, each row's own whatever others there are."""
    states = [
        torch.randn(sum(sizes), WIDTH, generator=torch.Generator().manual_seed(seed + row))
        for row, sizes in enumerate(groups)
    ]
    return Queries(states=torch.nn.utils.rnn.pad_sequence(states, batch_first=True), groups=groups)


def truths(groups: tuple[tuple[int, ...], ...]) -> list[BoxTarget]:
    return [target(sum(sizes), seed) for seed, sizes in enumerate(groups)]


def loss(decoder: QueryDecoder, output: Any, targets: list[BoxTarget]) -> Tensor:
    units = decoder.units(targets)
    return torch.stack([term / (units[name] or 1) for name, term in decoder.loss(output, targets).terms.items()]).sum()


@all_decoders
def test_rows_together_are_as_each_alone(name: str) -> None:
    decoder, groups = built(name), ((2, 1), (), (5,), (1,))
    seen, all_targets = maps(4), truths(groups)
    shown = Shown(
        sizes_hw=((SIZE, SIZE), (SIZE, SIZE), (64, SIZE), (SIZE, 96)),
        padded_hw=(SIZE, SIZE),
        corners_yx=((0, 0), (0, 0), (32, 0), (0, 0)),
    )
    together = decoder(queries(groups), seen, shown)
    found = decoder.decode(together, (SIZE, SIZE))
    assert [len(one) for one in found] == [3, 0, 5, 1]
    terms: dict[str, list[Tensor]] = {}
    for row, sizes in enumerate(groups):
        alone = Queries(states=queries(groups).states[row : row + 1, : sum(sizes)], groups=(sizes,))
        here = Shown(
            sizes_hw=shown.sizes_hw[row : row + 1],
            padded_hw=shown.padded_hw,
            corners_yx=(shown.corners_yx or ())[row : row + 1],
        )
        output = decoder(alone, [one[row : row + 1] for one in seen], here)
        (own,) = decoder.decode(output, (SIZE, SIZE))
        for column, value in found[row].columns().items():
            torch.testing.assert_close(own.columns()[column], value)
        for term, value in decoder.loss(output, all_targets[row : row + 1]).terms.items():
            terms.setdefault(term, []).append(value)
    assert tuple(terms) == tuple(decoder.loss(together, all_targets).terms)
    assert set(terms) == set(decoder.terms)
    for term, value in decoder.loss(together, all_targets).terms.items():
        torch.testing.assert_close(value, torch.stack(terms[term]).sum(), rtol=1e-4, atol=1e-4)
    assert decoder.units(all_targets) == {
        term: sum(decoder.units([one])[term] for one in all_targets) for term in decoder.terms
    }


@all_decoders
@pytest.mark.parametrize("rows", [1, 2])
def test_nothing_asked_is_a_loss_of_nothing_that_reaches_every_parameter(name: str, rows: int) -> None:
    decoder = built(name)
    groups = ((),) * rows
    output = decoder(Queries(states=torch.zeros(rows, 0, WIDTH), groups=groups), maps(rows), None)
    total = loss(decoder, output, truths(groups))
    assert total.item() == 0
    total.backward()
    assert {name for name, one in decoder.named_parameters() if one.grad is None or one.grad.any()} == set()
    assert [len(one) for one in decoder.decode(output, (SIZE, SIZE))] == [0] * rows


@all_decoders
def test_every_parameter_learns(name: str) -> None:
    decoder, groups = built(name), ((2,), (1, 1))
    loss(decoder, decoder(queries(groups), maps(2), None), truths(groups)).backward()
    idle = {name for name, one in decoder.named_parameters() if one.grad is None or not one.grad.any()}
    assert not idle


@all_decoders
def test_the_order_of_a_phrases_objects_does_not_matter_and_that_of_phrases_does(name: str) -> None:
    decoder, groups = built(name), ((3, 2),)
    output, (whole,) = decoder(queries(groups), maps(1), None), truths(groups)
    turned, other = (whole.keep(torch.tensor(rows)) for rows in ([2, 0, 1, 4, 3], [3, 4, 0, 1, 2]))
    value = loss(decoder, output, [whole])
    torch.testing.assert_close(loss(decoder, output, [turned]), value)
    assert not torch.isclose(loss(decoder, output, [other]), value)
    in_order = built(name, use_groups=False)
    assert not torch.isclose(loss(in_order, output, [turned]), loss(in_order, output, [whole]))


@all_decoders
def test_pictures_are_learned_by_heart(name: str) -> None:
    decoder, groups = built(name), ((2, 1), (2,))
    asked, seen, goals = queries(groups), maps(2), truths(groups)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        losses.append(loss(decoder, decoder(asked, seen, None), goals))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < 0.5 * losses[0].item()

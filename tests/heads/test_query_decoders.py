"""Decoders of queries: what is drawn of one does not depend on the others, they learn, and are right at the edges."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_heads import SIZE, maps, specs, target

from vistruct.contracts import BoxTarget, Queries, QueryDecoder, Shown
from vistruct.errors import UserError
from vistruct.heads.detr import DetrConfig
from vistruct.heads.query_box import QueryBoxConfig
from vistruct.heads.query_depth import QueryDepthConfig
from vistruct.heads.query_keypoint import QueryKeypointConfig
from vistruct.heads.query_layers import QueryLayersConfig
from vistruct.heads.query_mask import QueryMaskConfig
from vistruct.heads.query_point import QueryPointConfig, lies_on, points_on
from vistruct.heads.sam_mask import SamMaskConfig
from vistruct.ops.key_points import COCO_SIGMAS, key_point_similarity

WIDTH = 12  # of a state
LAYERS = QueryLayersConfig(width=16, layers=1, heads=2, hidden=16, dropout=0.0)
DECODERS: dict[str, Any] = {
    "box": QueryBoxConfig(layers=LAYERS),
    "box as DETR says it": QueryBoxConfig(layers=LAYERS, style="detr"),
    "mask": QueryMaskConfig(layers=LAYERS),
    "key points": QueryKeypointConfig(points=4, box=QueryBoxConfig(layers=LAYERS), layers=LAYERS),
    "point": QueryPointConfig(layers=LAYERS),
    "depth": QueryDepthConfig(layers=LAYERS),
    "sam": SamMaskConfig(width=16, heads=2, hidden=16, quality_hidden=8),
    "sam on another map": SamMaskConfig(width=24, heads=2, hidden=16, quality_hidden=8),
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
    """Objects with masks, and the four corners of their boxes as key points, of which one is not annotated."""
    found = []
    for seed, sizes in enumerate(groups):
        boxes = target(sum(sizes), seed)
        corners = boxes.outlines
        seen = torch.tensor([2.0, 1.0, 0.0, 2.0])[:, None].expand(len(boxes), 4, 1)
        found.append(replace(boxes, keypoints=torch.cat([corners, seen], dim=2)))
    return found


def loss(decoder: QueryDecoder, output: Any, targets: list[BoxTarget]) -> Tensor:
    units = decoder.units(targets)
    return torch.stack([term / (units[name] or 1) for name, term in decoder.loss(output, targets).terms.items()]).sum()


def learned(decoder: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, one) for name, one in decoder.named_parameters() if one.requires_grad]


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
    assert {name for name, one in learned(decoder) if one.grad is None or one.grad.any()} == set()
    assert [len(one) for one in decoder.decode(output, (SIZE, SIZE))] == [0] * rows


@all_decoders
def test_every_parameter_learns(name: str) -> None:
    decoder, groups = built(name), ((2,), (1,))
    loss(decoder, decoder(queries(groups), maps(2), None), truths(groups)).backward()
    idle = {name for name, one in learned(decoder) if one.grad is None or not one.grad.any()}
    assert not idle


@all_decoders
def test_the_order_of_a_phrases_objects_does_not_matter_and_that_of_phrases_does(name: str) -> None:
    decoder, groups = built(name), ((3, 2),)
    output, (whole,) = decoder(queries(groups), maps(1), None), truths(groups)
    turned, other = (whole.keep(torch.tensor(rows)) for rows in ([2, 0, 1, 4, 3], [3, 4, 0, 1, 2]))
    value = loss(decoder, output, [whole])
    torch.testing.assert_close(loss(decoder, output, [turned]), value)
    assert not torch.isclose(loss(decoder, output, [other]), value)
    box = DECODERS["box"].model_copy(update={"use_groups": False})
    in_order = built(name, box=box) if name == "key points" else built(name, use_groups=False)
    assert not torch.isclose(loss(in_order, output, [turned]), loss(in_order, output, [whole]))


@all_decoders
def test_pictures_are_learned_by_heart(name: str) -> None:
    decoder, groups = built(name), ((2, 1), (2,))
    asked, seen, goals = queries(groups), maps(2), truths(groups)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        losses.append(loss(decoder, decoder(asked, seen, None), goals))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < 0.8 * losses[0].item()


@pytest.mark.parametrize("name", ["box", "point", "depth", "key points"])
def test_how_large_a_networks_maps_are_does_not_matter(name: str) -> None:
    decoder, groups = built(name), ((2,), (1,))
    asked, small = queries(groups), maps(2)
    drawn = [decoder.decode(decoder(asked, [one * by for one in small]), (SIZE, SIZE)) for by in (1.0, 9.0)]
    for one, other in zip(*drawn, strict=True):
        torch.testing.assert_close(one.boxes_xyxy, other.boxes_xyxy, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("finer", [1, 2])
def test_points_lie_on_the_mask_where_the_centre_does_not(finer: int) -> None:
    masks = torch.zeros(3, 8, 10, dtype=torch.bool)
    masks[0, 2:5, 1:6] = True  # its centre is on it
    masks[1, :, 0] = masks[1, 7, :] = True  # an L
    boxes = torch.tensor([[1.0, 2, 6, 5], [0, 0, 10, 8], [2, 2, 4, 6]]) * finer
    whole = BoxTarget(labels=torch.zeros(3, dtype=torch.int64), boxes_xyxy=boxes, masks=masks)
    size = (8 * finer, 10 * finer)
    points, rows = points_on(whole, size) / finer, torch.arange(3)
    assert points[[0, 2]].tolist() == [[3.5, 3.5], [3, 4]]
    assert points[1].tolist() in ([4.5, 7.5], [5.5, 7.5])
    assert lies_on(points * finer, whole, rows, size).tolist() == [True, True, True]
    assert lies_on(torch.tensor([[5.0, 4.0]] * 3) * finer, whole, rows, size).tolist() == [True, False, False]
    without = points_on(replace(whole, masks=None), size) / finer
    assert without.tolist() == [[3.5, 3.5], [5, 4], [3, 4]]


def test_the_similarity_of_key_points_is_cocos() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(3, 17, 2, generator=generator) * 60
    said = true + torch.randn(3, 17, 2, generator=generator) * 3
    seen = torch.rand(3, 17, generator=generator) > 0.3
    seen[2] = False
    areas = torch.tensor([900.0, 2500, 400])
    found = key_point_similarity(said, true, seen, areas, COCO_SIGMAS)
    for i in range(2):
        terms = []
        for k in range(17):
            if seen[i, k]:
                squared = float((said[i, k] - true[i, k]).square().sum())
                terms.append(math.exp(-squared / (2 * float(areas[i]) * (2 * COCO_SIGMAS[k]) ** 2)))
        assert float(found[i]) == pytest.approx(sum(terms) / len(terms), abs=1e-6)
    assert float(found[2]) == 0


def test_a_table_is_another_source_of_queries() -> None:
    """DETR's own decoder over its own map, and the same weights with its table as states that begin at nothing."""
    torch.manual_seed(3)
    detr = DetrConfig(
        encoder_width=16, decoder_width=16, encoder_layers=0, decoder_layers=2, heads=2, hidden=16, queries=5,
        dropout=0.0, anchors=False,
    ).build(specs(), 2).eval()  # fmt: skip
    layers = (
        QueryLayersConfig(width=16, layers=2, heads=2, hidden=16, dropout=0.0, slots=5).build(specs(), WIDTH).eval()
    )
    layers.decoder.load_state_dict(detr.decoder.state_dict())
    layers.slots.load_state_dict(detr.queries.state_dict())
    layers.cells.load_state_dict({k: v.flatten(1) if v.dim() > 2 else v for k, v in detr.project.state_dict().items()})
    nn.init.zeros_(layers.project.bias)
    seen = maps(2)
    shown = Shown(sizes_hw=((SIZE, SIZE),) * 2, padded_hw=(SIZE, SIZE))
    table = Queries(states=torch.zeros(2, 5, WIDTH), groups=((5,), (5,)))
    theirs = detr.look(seen[-1], shown.padding((SIZE // 32, SIZE // 32)))[-1]
    torch.testing.assert_close(layers(table, seen, shown), theirs)


@pytest.mark.parametrize("slots", [2, 8])
def test_what_is_beyond_the_slots_is_cut_and_counted(slots: int) -> None:
    layers = LAYERS.model_copy(update={"slots": slots})
    decoder, groups = built("box", layers=layers), ((1, 3), (2,))
    output, goals = decoder(queries(groups), maps(2), None), truths(groups)
    found = decoder.decode(output, (SIZE, SIZE))
    assert [len(one) for one in found] == [4, 2]
    cut = decoder.loss(output, goals).metrics["cut"]
    assert (cut.total, cut.count) == (2 if slots == 2 else 0, 6)
    assert set(decoder.units(goals).values()) == {4 if slots == 2 else 6}
    if slots == 2:
        assert not found[0].scores[2:].any()
        assert not found[0].boxes_xyxy[2:].any()


def test_objects_and_queries_are_as_many() -> None:
    decoder = built("box")
    output = decoder(queries(((2,),)), maps(1), None)
    with pytest.raises(ValueError, match="3 objects for 2 queries"):
        decoder.loss(output, truths(((3,),)))


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (QueryBoxConfig(layers=LAYERS.model_copy(update={"levels": (3,)})), "no feature map 3 among 3"),
        (QueryBoxConfig(layers=LAYERS, pixel_level=-4), "no feature map -4 among 3"),
        (QueryMaskConfig(layers=LAYERS, pyramid=(0, 5)), "no feature map 5 among 3"),
        (QueryBoxConfig(layers=LAYERS.model_copy(update={"heads": 3})), "3 heads do not divide width 16"),
        (QueryKeypointConfig(points=2, sigmas=(0.1,)), "1 sigmas for 2 key points"),
        (
            QueryKeypointConfig(layers=LAYERS.model_copy(update={"slots": 3})),
            "3 slots of key points for None of boxes",
        ),
    ],
)
def test_what_cannot_be_built_says_so(config: Any, what: str) -> None:
    with pytest.raises(UserError, match=re.escape(what)):
        config.build(specs(), WIDTH)

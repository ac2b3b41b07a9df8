"""Oriented FCOS against the rules applied one by one, a quarter turn of everything, and the edges of a data set."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from oriented_toys import SIZE, learn_and_find, oriented_target, random_target
from shapely import affinity, geometry
from torch import Tensor
from whole_loss import head_loss

from vistruct.contracts import BoxTarget, FeatureSpec
from vistruct.heads.fcos import Fcos, FcosConfig, FcosOutput, cells_of, match_locations, size_ranges
from vistruct.heads.oriented_fcos import OrientedFcosConfig, OrientedFcosOutput, centerness_of
from vistruct.heads.oriented_points import match_oriented, within_any
from vistruct.ops.oriented import cxcywha_to_xyxy, xyxy_to_cxcywha
from vistruct.ops.oriented_iou import oriented_iou, oriented_iou_aligned

STRIDES = (8, 16, 32)
LOSSES = ("iou", "probiou", "kld", "gwd")


def build(num_classes: int = 2, **fields: object) -> Fcos:
    torch.manual_seed(1)
    specs = tuple(FeatureSpec(channels=16, stride=stride) for stride in STRIDES)
    head = OrientedFcosConfig(num_convs=1, **fields).build(specs, num_classes)
    for parameter in head.parameters():  # scores, sides and angles that differ from place to place
        parameter.data += 0.05 * torch.randn_like(parameter)
    return head


def maps(batch: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(batch, 16, SIZE // s, SIZE // s, generator=generator) for s in STRIDES]


def locations(strides: tuple[int, ...] = STRIDES, size: int = SIZE) -> tuple[Tensor, Tensor, list[int]]:
    """Cells, size ranges and the stride of every location."""
    cells = [cells_of(size // s, size // s, s, torch.device("cpu")) for s in strides]
    sizes = [len(c) for c in cells]
    ranges = size_ranges(strides, sizes, torch.device("cpu"))
    return torch.cat(cells), ranges, [s for s, n in zip(strides, sizes, strict=True) for _ in range(n)]


def slow_match(cells: Tensor, level_strides: list[int], strides: tuple[int, ...], boxes: Tensor) -> list[int]:
    """The rules, one location and one box at a time, on the box turned upright by shapely."""
    found = []
    for cell, stride in zip(cells.tolist(), level_strides, strict=True):
        point = geometry.Point((cell[0] + cell[2]) / 2, (cell[1] + cell[3]) / 2)
        level = strides.index(stride)
        low = 8 * strides[level - 1] if level else 0
        high = 8 * stride if level < len(strides) - 1 else math.inf
        best, smallest = -1, math.inf
        for m, (cx, cy, w, h, angle) in enumerate(boxes.tolist()):
            upright = affinity.rotate(point, -angle, origin=(cx, cy), use_radians=True)
            x, y = upright.x - cx, upright.y - cy
            sides = (x + w / 2, y + h / 2, w / 2 - x, h / 2 - y)
            inside = abs(x) < max(w / 2, 0.71 * stride) and abs(y) < max(h / 2, 0.71 * stride)
            near = max(abs(x), abs(y)) < 1.5 * stride
            if inside and near and low < max(sides) <= high and w * h < smallest:
                best, smallest = m, w * h
        found.append(best)
    return found


@pytest.mark.parametrize("strides", [(4, 8, 16), (7, 14, 28), (8,)])
def test_matching_equals_the_rules_applied_one_by_one(strides: tuple[int, ...], monkeypatch) -> None:
    monkeypatch.setattr("vistruct.heads.oriented_points.PAIRS_AT_ONCE", 500)  # several chunks
    cells, ranges, level_strides = locations(strides, 112)
    boxes = random_target(9, 3, size=112).boxes_cxcywha
    assert boxes is not None
    boxes = boxes.double()
    matched = match_oriented(cells.double(), ranges.double(), boxes)
    assert (matched >= 0).sum() > 12
    assert matched.tolist() == slow_match(cells, level_strides, strides, boxes)


def thick_hulls(num: int) -> Tensor:
    """float[num, 4] with sides of which none is thinner than the locations of any level are apart."""
    draw = torch.rand(num, 4, generator=torch.Generator().manual_seed(0))
    low = draw[:, :2] * (SIZE - 60)
    return torch.cat([low, low + 46 + draw[:, 2:] * 60], dim=1)


def test_matching_of_upright_boxes_is_that_of_fcos() -> None:
    cells, ranges, _ = locations()
    hulls = thick_hulls(40)
    matched = match_locations(cells, ranges, hulls)
    assert (matched >= 0).sum() > 10
    assert torch.equal(match_oriented(cells, ranges, xyxy_to_cxcywha(hulls)), matched)


def test_losses_of_upright_boxes_are_those_of_fcos_but_for_the_box_loss() -> None:
    head = build()
    fcos = FcosConfig(num_convs=1).build(tuple(FeatureSpec(channels=16, stride=s) for s in STRIDES), 2)
    hulls = thick_hulls(9)
    labels = torch.arange(9) % 2
    plain = BoxTarget(boxes_xyxy=hulls, labels=labels, is_crowd=torch.zeros(9, dtype=torch.bool))
    output = head(maps(1))
    flat = FcosOutput(
        logits=output.logits,
        offsets=output.sizes.exp().repeat(1, 1, 2),
        centerness=output.centerness,
        cells_xyxy=output.cells_xyxy,
        level_sizes=output.level_sizes,
    )
    ours = head_loss(head, output, [oriented_target(xyxy_to_cxcywha(hulls), labels)])
    theirs = head_loss(fcos, flat, [plain])
    assert ours.count == theirs.count > 5
    for name in ("loss_class", "loss_centerness", "unmatched"):
        assert ours.metrics[name] == pytest.approx(theirs.metrics[name], rel=1e-5)


def perfect(
    boxes: Tensor, labels: Tensor, num_classes: int = 2, strides: tuple[int, ...] = STRIDES
) -> OrientedFcosOutput:
    """What a head would say that knows the truth; locations without an object say nothing."""
    cells, ranges, _ = locations(strides)
    matched = match_oriented(cells, ranges, boxes)
    own = boxes[matched.clamp(min=0)]
    stride = (cells[:, 2] - cells[:, 0])[:, None]
    point = (cells[:, :2] + cells[:, 2:]) / 2
    hot = torch.nn.functional.one_hot(labels[matched.clamp(min=0)], num_classes).float() * 20 - 10
    return OrientedFcosOutput(
        logits=torch.where((matched >= 0)[:, None], hot, -10.0)[None],
        offsets=((own[:, :2] - point) / stride)[None],
        sizes=(own[:, 2:4] / 2 / stride).log()[None],
        turns=3 * torch.stack([(2 * own[:, 4]).cos(), (2 * own[:, 4]).sin()], dim=1)[None],
        centerness=torch.full((1, len(cells), 1), 10.0),
        cells_xyxy=cells,
        level_sizes=tuple((SIZE // s) ** 2 for s in strides),
    )


def test_decoding_the_truth_gives_the_truth_back_and_no_loss() -> None:
    boxes = torch.tensor([[20.0, 26, 28, 16, 0.5], [85, 50, 90, 40, -1.3], [80, 107, 25, 15, -math.pi / 2]])
    labels = torch.tensor([0, 1, 1])
    output = perfect(boxes, labels)
    (found,) = build(score_threshold=0.3).decode(output, [(SIZE, SIZE)])
    assert found.boxes_cxcywha is not None
    assert len(found.scores) == 3
    iou, match = oriented_iou(boxes, found.boxes_cxcywha).max(dim=1)
    torch.testing.assert_close(iou, torch.ones(3), atol=1e-4, rtol=0)
    assert torch.equal(found.labels[match], labels)
    torch.testing.assert_close(found.boxes_xyxy, cxcywha_to_xyxy(found.boxes_cxcywha))
    assert ((found.boxes_cxcywha[:, 4] >= -math.pi / 2) & (found.boxes_cxcywha[:, 4] < math.pi / 2)).all()
    for name in LOSSES:
        assert head_loss(build(box_loss=name), output, [oriented_target(boxes, labels)]).metrics["loss_box"] < 2e-3


def quarter_turned(output: OrientedFcosOutput) -> OrientedFcosOutput:
    """What the same head would say of the picture turned clockwise by a quarter, were it blind to directions."""

    def turned(rows: Tensor) -> Tensor:
        levels = []
        for level, stride in zip(rows.split(output.level_sizes, dim=1), STRIDES, strict=True):
            side = SIZE // stride
            levels.append(level.unflatten(1, (side, side)).rot90(-1, (1, 2)).flatten(1, 2))
        return torch.cat(levels, dim=1)

    return replace(
        output,
        logits=turned(output.logits),
        offsets=turned(output.offsets).flip(2) * torch.tensor([-1.0, 1.0]),
        sizes=turned(output.sizes),
        turns=-turned(output.turns),  # twice a quarter turn
        centerness=turned(output.centerness),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_quarter_turn_of_everything_changes_neither_loss_nor_detections(name: str) -> None:
    head, truth = build(box_loss=name, score_threshold=0.05), random_target(8, 0)
    output = head(maps(1))
    x, y, w, h, angle = truth.boxes_cxcywha.unbind(dim=1)
    turned = torch.stack([SIZE - y, x, w, h, angle + math.pi / 2], dim=1)
    ours = head_loss(head, output, [truth])
    theirs = head_loss(head, quarter_turned(output), [oriented_target(turned, truth.labels)])
    assert ours.count == theirs.count > 5
    assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-4)
    with torch.no_grad():
        (found,) = head.decode(output, [(SIZE, SIZE)])
        (found_turned,) = head.decode(quarter_turned(output), [(SIZE, SIZE)])
    x, y, w, h, angle = found.boxes_cxcywha.unbind(dim=1)
    moved = torch.stack([SIZE - y, x, w, h, angle + math.pi / 2], dim=1)
    torch.testing.assert_close(found.scores, found_turned.scores)
    assert len(found.scores) > 3
    iou = oriented_iou_aligned(moved, found_turned.boxes_cxcywha)
    torch.testing.assert_close(iou, torch.ones_like(iou), atol=1e-3, rtol=0)


def test_a_rectangle_written_otherwise_gives_the_same_loss() -> None:
    truth = random_target(8, 0)
    boxes = truth.boxes_cxcywha
    other = torch.cat([boxes[:, :2], boxes[:, 2:4].flip(1), boxes[:, 4:] - math.pi / 2], dim=1)
    for name in LOSSES:
        head = build(box_loss=name)
        output = head(maps(1))
        ours, theirs = head_loss(head, output, [truth]), head_loss(head, output, [oriented_target(other, truth.labels)])
        assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-4)


def test_centerness_is_one_at_the_centre_zero_on_a_side_and_the_papers_in_between() -> None:
    boxes = torch.tensor([[0.5, 0.5, 20, 10, 0.0]]).expand(3, 5).clone()
    cells = torch.tensor([[0.0, 0, 1, 1], [10, 0, 11, 1], [5, 2, 6, 3]])  # of stride 1
    expected = math.sqrt((5 / 15) * (3 / 7))
    torch.testing.assert_close(centerness_of(cells, boxes), torch.tensor([1.0, 0.0, expected]))
    boxes[:, 4] = 0.9
    cos, sin = math.cos(0.9), math.sin(0.9)
    centre = torch.tensor([0.5 + 5 * cos - 2 * sin, 0.5 + 5 * sin + 2 * cos])
    turned = torch.cat([centre - 0.5, centre + 0.5])[None]
    torch.testing.assert_close(centerness_of(turned, boxes[:1]), torch.tensor([expected]))


@pytest.mark.parametrize("name", LOSSES)
def test_total_of_a_batch_is_the_sum_over_its_parts(name: str) -> None:
    head, features = build(box_loss=name), maps(4)
    targets = [random_target(5, 0), random_target(0, 1), random_target(9, 2, num_crowd=2), random_target(1, 3)]
    whole = head_loss(head, head(features), targets)
    parts = [head_loss(head, head([f[i : i + 1] for f in features]), targets[i : i + 1]) for i in range(4)]
    assert whole.count == sum(part.count for part in parts) > 0
    torch.testing.assert_close(whole.total, sum(part.total for part in parts), rtol=1e-5, atol=1e-5)


def test_a_batch_without_objects_still_teaches_background() -> None:
    head = build()
    loss = head_loss(head, head(maps(2)), [random_target(0, 0), random_target(0, 1)])
    loss.total.backward()
    assert loss.count == 0
    assert loss.total > 0
    assert loss.metrics["loss_box"] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
    assert head.layers.classes.cls_logits.bias.grad.abs().sum() > 0


HARD = {
    "seam": [40.0, 40, 30, 12, -math.pi / 2],
    "square": [40.0, 40, 20, 20, 0.7],
    "needle": [60.0, 60, 90, 0.5, 0.0],
    "needle between locations": [60.0, 64, 90, 0.05, 0.0],
    "speck": [60.0, 61, 0.1, 0.1, 0.0],
    "over the border": [4.0, 60, 50, 20, 0.4],
    "larger than the image": [64.0, 64, 900, 400, 0.4],
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", HARD)
def test_loss_and_gradient_are_finite_for(case: str, name: str) -> None:
    head = build(box_loss=name)
    loss = head_loss(head, head(maps(1)), [oriented_target(torch.tensor([HARD[case]]))])
    loss.total.backward()
    assert loss.count > 0
    assert loss.metrics["loss_box"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_no_direction_is_some_direction_with_a_finite_gradient() -> None:
    output = build()(maps(1))
    turns = torch.zeros_like(output.turns).requires_grad_()
    boxes = replace(output, turns=turns, sizes=output.sizes.detach()).boxes(0, torch.arange(4))
    boxes.sum().backward()
    assert boxes.isfinite().all()
    assert turns.grad is not None
    assert turns.grad.isfinite().all()


@pytest.mark.parametrize("sides", [(0.1, 0.1), (5.0, 2.0), (60.0, 1.0), (120.0, 3.0), (300.0, 0.5)])
def test_every_object_centred_in_the_image_has_a_location_however_thin(sides: tuple[float, float]) -> None:
    cells, ranges, _ = locations()
    draw = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    centre = draw[:, :2] * (SIZE - 8) + 4  # locations begin half a cell inside
    for box in torch.cat([centre, torch.tensor([sides]).expand(100, 2), draw[:, 2:] * math.pi], dim=1).split(1):
        assert (match_oriented(cells, ranges, box) == 0).any()


def test_objects_that_no_location_stands_for_are_counted() -> None:
    head = build()
    boxes = torch.tensor([[-30.0, 2, 80, 20, 0.0], [40, 40, 30, 12, 0.3]])  # the first is centred outside
    loss = head_loss(head, head(maps(1)), [oriented_target(boxes)])
    assert loss.metrics["unmatched"] * loss.count == pytest.approx(1)


def test_two_thousand_objects_in_one_image_are_learnt_from() -> None:
    head = build()
    draw = torch.rand(2000, 5, generator=torch.Generator().manual_seed(0))
    boxes = draw * torch.tensor([SIZE, SIZE, 8, 3, 3]) + torch.tensor([0, 0, 6, 4, -1.5])
    loss = head_loss(head, head(maps(1)), [oriented_target(boxes)])
    loss.total.backward()
    assert loss.total.isfinite()
    assert loss.count > 100


def test_what_lies_in_a_region_is_neither_object_nor_background() -> None:
    head = build()
    output = head(maps(1))
    everywhere = oriented_target(torch.tensor([[64.0, 64, 500, 500, 0.3]]), is_crowd=torch.tensor([True]))
    loss = head_loss(head, output, [everywhere])
    assert (loss.count, loss.total.item()) == (0.0, 0.0)

    strip = torch.tensor([[64.0, 64, 400, 30, math.pi / 4], [64, 64, 30, 12, 0.3]])  # its hull is the whole image
    both = head_loss(head, output, [oriented_target(strip, is_crowd=torch.tensor([True, False]))])
    alone = head_loss(head, output, [oriented_target(strip[1:])])
    assert both.count == alone.count > 0  # the object in the region is still learnt
    assert both.metrics["loss_box"] == pytest.approx(alone.metrics["loss_box"])
    assert 0.5 * alone.metrics["loss_class"] < both.metrics["loss_class"] < alone.metrics["loss_class"]


def test_a_location_is_within_a_turned_region_when_shapely_says_so() -> None:
    cells, _, _ = locations()
    regions = random_target(5, 8).boxes_cxcywha.double()
    expected = []
    quads = [
        affinity.rotate(geometry.box(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), a, use_radians=True)
        for cx, cy, w, h, a in regions.tolist()
    ]
    for x1, y1, x2, y2 in cells.tolist():
        expected.append(any(q.contains(geometry.Point((x1 + x2) / 2, (y1 + y2) / 2)) for q in quads))
    assert within_any(cells.double(), regions).tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert not within_any(cells, regions[:0]).any()


def test_boxes_over_the_border_stay_whole_and_those_in_the_padding_are_left_out() -> None:
    boxes = torch.tensor([[40.0, 30, 60, 30, 0.3], [105, 105, 30, 20, 0.3]])
    output = perfect(boxes, torch.tensor([0, 1]))
    (found,) = build(score_threshold=0.3).decode(output, [(40, 50)])
    assert found.boxes_cxcywha is not None
    torch.testing.assert_close(found.boxes_cxcywha, boxes[:1], atol=1e-3, rtol=1e-4)


def test_nothing_above_the_threshold_gives_no_detections() -> None:
    head = build(score_threshold=0.999)
    for found in head.decode(head(maps(2)), [(SIZE, SIZE)] * 2):
        assert found.boxes_cxcywha is not None
        assert (found.boxes_cxcywha.shape, found.boxes_xyxy.shape, found.scores.shape) == ((0, 5), (0, 4), (0,))


def test_geometry_stays_float32_in_bfloat16() -> None:
    head, truth = build(), random_target(5, 0)
    exact = head_loss(head, head(maps(1)), [truth])
    with torch.autocast("cpu", torch.bfloat16):
        output = head([f.bfloat16() for f in maps(1)])
        loss = head_loss(head, output, [truth])
        (found,) = head.decode(output, [(SIZE, SIZE)])
    loss.total.backward()
    assert output.sizes.dtype == output.turns.dtype == found.boxes_xyxy.dtype == torch.float32
    assert loss.count == exact.count
    assert loss.metrics["loss_box"] == pytest.approx(exact.metrics["loss_box"], rel=0.02)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_targets_without_oriented_boxes_are_refused() -> None:
    head = build()
    flat = BoxTarget(
        boxes_xyxy=torch.zeros(0, 4), labels=torch.zeros(0).long(), is_crowd=torch.zeros(0, dtype=torch.bool)
    )
    assert head.traits.is_oriented
    with pytest.raises(ValueError, match="no oriented boxes"):
        head_loss(head, head(maps(1)), [flat])


@pytest.mark.parametrize("name", LOSSES)
def test_it_learns_to_find_four_turned_rectangles(name: str) -> None:
    def build_small(specs: tuple[FeatureSpec, ...]) -> Fcos:
        return OrientedFcosConfig(num_convs=1, prior=0.05, box_loss=name).build(specs, 2)

    ious, margin = learn_and_find(build_small, steps=40, lr=3e-3)
    assert min(ious) > 0.5
    assert margin > 0  # AP50 is 1

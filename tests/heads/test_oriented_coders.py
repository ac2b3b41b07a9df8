"""The two coders against the numbers of the published ones, as inverses of each other, and at their edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vistruct.heads.oriented_coders import MidpointOffsets, OrientedDeltas
from vistruct.ops.oriented import cxcywha_to_quads, cxcywha_to_xyxy, xyxy_to_cxcywha
from vistruct.ops.oriented_iou import oriented_iou_aligned


def boxes_of(num: int, seed: int = 0, least: float = 4.0) -> Tensor:
    """float64[num, 5] in le90."""
    draw = torch.rand(num, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    w = least + 200 * draw[:, 2].square()
    h = least + (w - least) * draw[:, 3]
    return torch.stack([400 * draw[:, 0], 400 * draw[:, 1], w, h, math.pi * (draw[:, 4] - 0.5)], dim=1)


def corner_error(a: Tensor, b: Tensor) -> Tensor:
    """float[N]: the largest distance from a corner of `a` to the nearest of `b`, whatever their order, pixels."""
    return torch.cdist(cxcywha_to_quads(a), cxcywha_to_quads(b)).amin(dim=2).amax(dim=1)


def agrees(ours: Tensor, published: Tensor, stable: Tensor) -> None:
    """Boxes within 1e-3 px and 1e-4 of their size, in all rows; stable rows with the same angle too.

    A square has two angles; of it the corners alone are compared.
    """
    torch.testing.assert_close(ours[:, :2], published[:, :2], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(ours[:, 2:4], published[:, 2:4], atol=1e-3, rtol=1e-4)
    turn = torch.remainder(ours[:, 4] - published[:, 4] + math.pi / 2, math.pi) - math.pi / 2
    clear = stable.bool() & (published[:, 2] > published[:, 3] * (1 + 1e-3))
    assert clear.sum() > 0.8 * len(clear)
    assert turn[clear].abs().max() < 1e-4
    error = corner_error(ours.double(), published.double())
    assert (error <= 2e-3 + 2e-4 * published[:, 2]).all()


def test_midpoint_offsets_are_the_published_ones_also_where_those_collapse(golden) -> None:
    given = golden("obb/midpoint_offset_coder.safetensors")
    coder = MidpointOffsets(compatible=True)
    deltas = coder.encode(given["proposals"], given["gt"])
    stable = given["stable.encode"].bool()
    assert stable.sum() > 190
    torch.testing.assert_close(deltas[stable], given["encode"][stable], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(deltas[6:8], given["encode"][6:8], atol=1e-4, rtol=1e-4)  # almost parallel boxes
    agrees(coder.decode(given["proposals"], given["deltas"]), given["decode"], given["stable.decode"])
    back = coder.decode(given["proposals"], given["encode"])
    agrees(back, given["decode_of_encode"], given["stable.decode_of_encode"])
    assert back[7, 3] < 0.05 < given["gt"][7, 3]  # the published rule makes a line of it


def test_by_default_the_box_that_published_midpoint_offsets_make_a_line_of_comes_back_whole(golden) -> None:
    given = golden("obb/midpoint_offset_coder.safetensors")
    anchors, boxes = given["proposals"], given["gt"]
    coder = MidpointOffsets()
    error = corner_error(coder.decode(anchors, coder.encode(anchors, boxes)).double(), boxes.double())
    assert error.max() < 0.15  # at most a parallel box's 0.1 px, on two axes
    assert error[7] < 2e-2


def test_oriented_deltas_are_the_published_ones(golden) -> None:
    given = golden("obb/delta_xywha_coder.safetensors")
    coder = OrientedDeltas()
    stable = given["stable.encode"].bool()
    deltas = coder.encode(given["proposals"], given["gt"])
    assert stable.sum() > 190
    torch.testing.assert_close(deltas[stable], given["encode"][stable], atol=1e-4, rtol=1e-4)
    agrees(coder.decode(given["proposals"], given["deltas"]), given["decode"], given["stable.decode"])
    inside = coder.decode(given["proposals"], given["deltas"], max_size_hw=(800, 1024))
    agrees(inside, given["decode_max_shape_800_1024"], given["stable.decode"])
    back = coder.decode(given["proposals"], given["encode"])
    agrees(back, given["decode_of_encode"], given["stable.decode_of_encode"])


@pytest.mark.parametrize("least", [1.0, 8.0])
def test_midpoint_offsets_give_every_box_back_to_a_tenth_of_a_pixel(least: float) -> None:
    boxes = boxes_of(4000, least=least)
    boxes[:1000, 4] *= 1e-2  # almost parallel, to either side of the seam
    boxes[1000:2000, 4] = boxes[1000:2000, 4] * 1e-2 - math.pi / 2
    boxes[2000:2200, 4] = 0
    boxes[2200:2400, 4] = -math.pi / 2
    boxes[2400:2600, 2] = boxes[2400:2600, 3]  # squares
    boxes[2600:2800, 3] = 0.5  # needles
    anchors = cxcywha_to_xyxy(boxes_of(4000, seed=1, least=8.0))
    coder = MidpointOffsets()
    deltas = coder.encode(anchors, boxes)
    back = coder.decode(anchors, deltas)
    assert deltas.isfinite().all()
    assert deltas[:, 4:].abs().max() <= 1  # 0.5 by its deviation of 0.5
    near = (cxcywha_to_xyxy(boxes)[:, 2:] - cxcywha_to_xyxy(boxes)[:, :2]) / (anchors[:, 2:] - anchors[:, :2])
    reach = ((near < 62.5) & (near > 1 / 62.5)).all(dim=1)  # what the clamped size ratio can say
    assert reach.sum() > 3500
    error = corner_error(back, boxes)[reach]
    assert error.max() < 0.1 * math.sqrt(2)
    assert (error > 1e-6).float().mean() < 0.3  # only the parallel ones are rounded at all


def test_oriented_deltas_give_every_box_back_exactly() -> None:
    boxes, proposals = boxes_of(4000), boxes_of(4000, seed=1)
    boxes[:500, 4] = -math.pi / 2
    boxes[500:1000, 2] = boxes[500:1000, 3]
    proposals[::7, 4] = -math.pi / 2
    coder = OrientedDeltas()
    deltas = coder.encode(proposals, boxes)
    assert deltas[:, 4].abs().max() * 0.1 <= math.pi / 4 + 1e-12
    reach = (deltas[:, 2:4].abs() * 0.2 < math.log(62.5)).all(dim=1)
    assert reach.sum() > 3800
    assert corner_error(coder.decode(proposals, deltas), boxes)[reach].max() < 1e-9
    assert (coder.encode(proposals, proposals).abs() < 1e-12).all()


def test_oriented_deltas_do_not_see_a_joint_turn_and_move_of_both_boxes() -> None:
    boxes, proposals = boxes_of(300), boxes_of(300, seed=1)

    def moved(boxes: Tensor) -> Tensor:
        cos, sin = math.cos(0.7), math.sin(0.7)
        x, y = boxes[:, 0], boxes[:, 1]
        centre = torch.stack([cos * x - sin * y + 30, sin * x + cos * y - 900], dim=1)
        return torch.cat([centre, boxes[:, 2:4], boxes[:, 4:] + 0.7], dim=1)

    coder = OrientedDeltas()
    torch.testing.assert_close(coder.encode(moved(proposals), moved(boxes)), coder.encode(proposals, boxes))


def test_the_same_rectangle_written_otherwise_has_the_same_deltas() -> None:
    boxes, anchors = boxes_of(500), cxcywha_to_xyxy(boxes_of(500, seed=1))
    proposals = boxes_of(500, seed=2)
    other = torch.cat([boxes[:, :2], boxes[:, 2:4].flip(1), boxes[:, 4:] + math.pi / 2], dim=1)
    midpoint, deltas = MidpointOffsets(), OrientedDeltas()
    torch.testing.assert_close(midpoint.encode(anchors, other), midpoint.encode(anchors, boxes))
    torch.testing.assert_close(deltas.encode(proposals, other), deltas.encode(proposals, boxes))


def test_any_deltas_decode_to_finite_le90_boxes_with_ordered_sides() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = cxcywha_to_xyxy(boxes_of(2000).float())
    wild = 30 * torch.randn(2000, 6, generator=generator)
    for found in (
        MidpointOffsets().decode(anchors, wild),
        OrientedDeltas().decode(xyxy_to_cxcywha(anchors), 30 * wild[:, :5]),
    ):
        assert found.isfinite().all()
        assert (found[:, 2] >= found[:, 3]).all()
        assert (found[:, 4] >= -math.pi / 2).all()
        assert (found[:, 4] < math.pi / 2).all()


def test_no_deltas_give_the_anchor_s_inscribed_square_on_its_point_and_the_proposal_itself() -> None:
    square = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    diamond = MidpointOffsets().decode(square, torch.zeros(1, 6))
    torch.testing.assert_close(diamond[0, :4], torch.tensor([20.0, 30.0, 200**0.5, 200**0.5]))
    assert abs(diamond[0, 4]) == pytest.approx(math.pi / 4)
    proposals = boxes_of(50).float()
    assert torch.equal(OrientedDeltas().decode(proposals, torch.zeros(50, 5)), proposals)


def test_no_boxes_have_no_deltas() -> None:
    none, flat = torch.zeros(0, 5), torch.zeros(0, 4)
    assert MidpointOffsets().encode(flat, none).shape == (0, 6)
    assert MidpointOffsets().decode(flat, torch.zeros(0, 6)).shape == (0, 5)
    assert OrientedDeltas().encode(none, none).shape == (0, 5)
    assert OrientedDeltas().decode(none, none).shape == (0, 5)


def test_the_published_rule_loses_some_small_boxes_and_the_default_none() -> None:
    boxes = boxes_of(20_000, seed=5)
    boxes[:, 2] = 8 + 12 * torch.rand(20_000, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    boxes[:, 3] = boxes[:, 2] * 0.25
    anchors = cxcywha_to_xyxy(boxes)

    def lost(coder: MidpointOffsets) -> float:
        return float(
            (oriented_iou_aligned(coder.decode(anchors, coder.encode(anchors, boxes)), boxes) < 0.5).double().mean()
        )

    assert lost(MidpointOffsets()) == 0
    assert 0.001 < lost(MidpointOffsets(compatible=True)) < 0.1

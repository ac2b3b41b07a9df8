"""IoU of oriented boxes and quads: against shapely in float64, closed forms where that is wrong, and the original."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vistruct.ops.hulls import overlapping_hulls
from vistruct.ops.oriented import cxcywha_to_quads, cxcywha_to_xyxy
from vistruct.ops.oriented_iou import oriented_iou, oriented_iou_aligned, quad_iou

F64 = torch.float64


def uniform(count, low, high, seed=0):
    draw = torch.rand(count, len(low), generator=torch.Generator().manual_seed(seed), dtype=F64)
    low = torch.tensor(low, dtype=F64)
    return low + draw * (torch.tensor(high, dtype=F64) - low)


def random_boxes(count, seed=0, kind="random"):
    if kind == "tiny":
        return uniform(count, [0, 0, 0.01, 0.01, -7], [0.3, 0.3, 0.2, 0.2, 7], seed)
    boxes = uniform(count, [0, 0, 1, 1, -7], [100, 100, 60, 60, 7], seed)
    if kind == "needle":
        boxes = uniform(count, [0, 0, 200, 0.001, 0.7], [0.5, 0.5, 600, 0.05, 0.7001], seed)
    if kind == "sized":
        boxes[:, 2:4] = torch.exp(uniform(count, [-3, -3], [6, 6], seed + 1))
    if kind == "upright":
        boxes[:, 4] = (boxes[:, 4] / (math.pi / 2)).round() * (math.pi / 2)
        boxes[:, :4] = boxes[:, :4].round()
    if kind == "far":
        boxes[:, :2] += 10_000
    return boxes


def truth_of(a, b):
    """float64[N, M]: IoU by shapely."""
    a, b = shapely.polygons(a.double().numpy())[:, None], shapely.polygons(b.double().numpy())[None]
    shared = shapely.area(shapely.intersection(a, b))
    return torch.from_numpy(shared / (shapely.area(a) + shapely.area(b) - shared))


def changed(boxes, **columns):
    boxes = boxes.clone()
    for name, value in columns.items():
        boxes[:, "xywha".index(name)] = value
    return boxes


def along(boxes, u, v):
    """The boxes moved by u along their width and v along their height."""
    cos, sin = boxes[:, 4].cos(), boxes[:, 4].sin()
    return changed(boxes, x=boxes[:, 0] + u * cos - v * sin, y=boxes[:, 1] + u * sin + v * cos)


# --- shapely and the original


@pytest.mark.parametrize("kind", ["random", "tiny", "needle", "sized", "upright", "far"])
def test_iou_of_boxes_is_shapely_s(kind):
    a, b = random_boxes(100, 1, kind), random_boxes(80, 2, kind)
    truth = truth_of(cxcywha_to_quads(a), cxcywha_to_quads(b))
    assert (truth > 0.01).sum() > 50
    assert (oriented_iou(a, b) - truth).abs().max() < 1e-7
    assert (quad_iou(cxcywha_to_quads(a), cxcywha_to_quads(b)) - truth).abs().max() < 2e-6


@pytest.mark.parametrize("far", [0, 10_000])
def test_iou_in_float32_is_that_of_the_rounded_boxes(far):
    a, b = random_boxes(60, 1).float() + torch.tensor([far, far, 0, 0, 0]), random_boxes(60, 2).float()
    b = b + torch.tensor([far, far, 0, 0, 0])
    iou = oriented_iou(a, b)
    assert iou.dtype == torch.float32
    assert (iou - truth_of(cxcywha_to_quads(a.double()), cxcywha_to_quads(b.double()))).abs().max() < 1e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (F64, 1e-6)])
def test_iou_of_the_golden_pairs_is_the_truth(golden, dtype, tolerance):
    pairs = golden("obb/iou_nms.safetensors")
    a, b = pairs["iou_a"].to(dtype), pairs["iou_b"].to(dtype)
    assert (oriented_iou(a, b) - pairs["iou_truth"]).abs().max() < tolerance
    assert (oriented_iou_aligned(a, b) - pairs["iou_truth"].diagonal()).abs().max() < tolerance


@pytest.mark.parametrize("runs", ["as drawn", "the other way round"])
def test_iou_of_any_simple_quad_is_shapely_s(runs):
    quads = torch.randn(400, 4, 2, generator=torch.Generator().manual_seed(0), dtype=F64) * 20
    is_simple = torch.from_numpy(shapely.is_valid(shapely.polygons(quads.numpy())))
    quads = quads[is_simple][:80]
    polygons = shapely.polygons(quads.numpy())
    is_convex = shapely.area(shapely.convex_hull(polygons)) - shapely.area(polygons) < 1e-9
    assert 10 < is_convex.sum() < 70
    truth = truth_of(quads, quads)
    ours = quad_iou(quads if runs == "as drawn" else quads.flip(1), quads + 0)
    assert (ours - truth).abs().max() < 2e-6


def test_a_quad_that_crosses_itself_counts_by_its_winding_number():
    # Two triangles of 8 and 2 px^2, run in opposite directions: 8 - 2 = 6. The square holds both.
    bow = torch.tensor([[[0.0, 0], [0, 4], [6, 1], [6, 3]]], dtype=F64)
    x, y = bow[0].unbind(1)
    area = (x * y.roll(-1) - x.roll(-1) * y).sum().abs() / 2
    square = torch.tensor([[[-1.0, -1], [9, -1], [9, 9], [-1, 9]]], dtype=F64)
    assert quad_iou(bow, square).item() == pytest.approx(area.item() / 100, abs=1e-9)
    assert quad_iou(bow.flip(1), square).item() == pytest.approx(area.item() / 100, abs=1e-9)


# --- closed forms, where polygon clipping goes wrong


@pytest.mark.parametrize("far", [0, 10_000])
@pytest.mark.parametrize("kind", ["random", "sized", "upright"])
def test_iou_of_coinciding_boxes_is_the_closed_form(kind, far):
    a = random_boxes(2_000, 3, kind)
    a[:, :2] += far
    w, h, angle = a[:, 2], a[:, 3], a[:, 4]
    half = changed(a, w=w / 2)
    cases = {
        "itself": (a, 1.0),
        "turned by pi": (changed(a, a=angle + math.pi), 1.0),
        "sides swapped": (changed(a, w=h, h=w, a=angle + math.pi / 2), 1.0),
        "sides swapped, other way": (changed(a, w=h, h=w, a=angle - math.pi / 2), 1.0),
        "half the width": (half, 0.5),
        "half the width at one end": (along(half, w / 4, 0), 0.5),
        "nested": (changed(a, w=w * 0.3, h=h * 0.4), 0.12),
        "moved by half the width": (along(a, w / 2, 0), 1 / 3),
        "moved by half of both": (along(a, w / 2, h / 2), 1 / 7),
        "touching along the height": (along(a, w, 0), 0.0),
        "touching along the width": (along(a, 0, -h), 0.0),
        "touching at a corner": (along(a, w, h), 0.0),
    }
    for name, (b, truth) in cases.items():
        error = max((oriented_iou_aligned(a, b) - truth).abs().max(), (oriented_iou_aligned(b, a) - truth).abs().max())
        assert error < 2e-6, f"{name}: {error}"
        quads = cxcywha_to_quads(a[:50]), cxcywha_to_quads(b[:50])
        assert (quad_iou(*quads).diagonal() - truth).abs().max() < 1e-4, name


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-14])
def test_a_box_and_its_jittered_self_overlap_but_for_the_jitter(size):
    a = random_boxes(2_000, 4)
    b = a + size * torch.randn(a.shape, generator=torch.Generator().manual_seed(5), dtype=F64)
    loss = 1 - oriented_iou_aligned(a, b)
    assert loss.max() < 500 * size + 1e-6  # px of jitter x perimeter / area, at most about 500 here
    assert quad_iou(cxcywha_to_quads(a[:100]), cxcywha_to_quads(b[:100])).diagonal().min() > 1 - 500 * size - 1e-6


def test_known_hard_pairs_of_public_bug_reports_are_right():
    pairs = [  # (box, box, IoU by arithmetic)
        ([0, 0, 1000, 1e-3, 0], [0, 0, 1000, 1e-3, math.pi / 2], 1e-6 / (2 - 1e-6)),  # thin cross
        ([50, 50, 20, 20, 0], [50, 50, 20, 20, math.pi / 4], (math.sqrt(2) - 1) / (2 - math.sqrt(2))),  # octagon
        ([0, 0, 10, 10, 0.3], [100, 0, 10, 10, 0.7], 0.0),
        ([1e6, 1e6, 4, 4, 0.5], [1e6, 1e6, 4, 2, 0.5], 0.5),
        ([0, 0, 1e5, 1e5, 0.1], [3, 4, 2, 1, 0.8], 2e-10),
        ([160, 153, 230, 23, -0.65], [160, 153, 230, 23, -0.65 + 1e-7], 1.0),
    ]
    a, b = torch.tensor([p[0] for p in pairs], dtype=F64), torch.tensor([p[1] for p in pairs], dtype=F64)
    truth = torch.tensor([p[2] for p in pairs], dtype=F64)
    assert (oriented_iou_aligned(a, b) - truth).abs().max() < 2e-6
    assert (oriented_iou(a, b).diagonal() - truth).abs().max() < 2e-6


# --- what has no area, and nothing at all


def test_no_area_nan_and_infinite_boxes_overlap_nothing():
    good = torch.tensor([[0.0, 0, 4, 2, 0.3]])
    bad = torch.tensor(
        [[0.0, 0, 0, 2, 0], [0, 0, 4, 0, 0], [0, 0, 0, 0, 0], [0, 0, -4, 2, 0], [math.nan, 0, 4, 2, 0],
         [0, 0, 4, 2, math.nan], [math.inf, 0, 4, 2, 0], [0, 0, math.inf, 2, 0]]
    )  # fmt: skip
    assert oriented_iou(good, bad).tolist() == oriented_iou(bad, good).T.tolist() == [[0.0] * len(bad)]
    assert oriented_iou(bad, bad).abs().max() == 0
    aligned = oriented_iou_aligned(good.expand(len(bad), 5), bad)
    assert aligned[:4].tolist() == [0, 0, 0, 0]
    assert aligned[4:6].isnan().all()
    quads = torch.cat([cxcywha_to_quads(bad), torch.tensor([[[0.0, 0], [1, 1], [2, 2], [3, 3]], [[1.0, 1]] * 4])])
    quads = torch.cat([quads[:3], quads[4:]])  # corners do not know that a width was negative
    assert quad_iou(quads, quads).abs().max() == 0
    assert quad_iou(quads, cxcywha_to_quads(good)).abs().max() == 0


@pytest.mark.parametrize("count", [(0, 3), (3, 0), (0, 0)])
def test_nothing_beside_something_is_an_empty_matrix(count):
    a, b = torch.zeros(count[0], 5), torch.zeros(count[1], 5)
    assert oriented_iou(a, b).shape == count
    assert quad_iou(torch.zeros(count[0], 4, 2), torch.zeros(count[1], 4, 2)).shape == count
    assert oriented_iou_aligned(a[:0], b[:0]).shape == (0,)


def test_wrong_shapes_are_refused():
    for call, a, b in (
        (oriented_iou, (3, 4), (3, 5)), (oriented_iou, (3, 5), (5,)), (oriented_iou_aligned, (3, 5), (2, 5)),
        (oriented_iou_aligned, (3, 4), (3, 4)), (quad_iou, (3, 8), (3, 8)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"expected|aligned"):
            call(torch.zeros(a), torch.zeros(b))


# --- invariance, gradients, size


def test_iou_is_symmetric_between_0_and_1_and_survives_a_common_move():
    a, b = random_boxes(80, 6, "sized"), random_boxes(80, 7, "sized")
    iou = oriented_iou(a, b)
    assert iou.min() >= 0
    assert iou.max() <= 1
    torch.testing.assert_close(oriented_iou(b, a).T, iou, atol=1e-8, rtol=0)
    cos, sin = math.cos(0.4), math.sin(0.4)
    turn = torch.tensor([[cos, sin], [-sin, cos]], dtype=F64)

    def moved(boxes):
        return torch.cat([boxes[:, :2] @ turn * 3 + 500, boxes[:, 2:4] * 3, boxes[:, 4:] + 0.4], dim=1)

    torch.testing.assert_close(oriented_iou(moved(a), moved(b)), iou, atol=1e-7, rtol=0)


def test_aligned_and_pairwise_agree():
    a, b = random_boxes(300, 8), random_boxes(300, 9)
    torch.testing.assert_close(oriented_iou(a, b).diagonal(), oriented_iou_aligned(a, b), atol=1e-12, rtol=0)


def test_gradients_are_those_of_finite_differences():
    a, b = random_boxes(3, 10), random_boxes(3, 11)
    a[:, :2] = b[:, :2] + 0.3 * (a[:, :2] - 50) / 10
    assert (oriented_iou_aligned(a, b) > 0).all()
    a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(oriented_iou_aligned, (a, b), atol=1e-4, eps=1e-5)
    assert torch.autograd.gradcheck(oriented_iou, (a, b), atol=1e-4, eps=1e-5, fast_mode=True)
    quads = [cxcywha_to_quads(boxes.detach()).requires_grad_() for boxes in (a, b)]
    assert torch.autograd.gradcheck(quad_iou, quads, atol=1e-4, eps=1e-5, fast_mode=True)


@pytest.mark.parametrize("angle", [0.0, math.pi / 2, -math.pi / 2, math.pi])
def test_gradient_of_the_angle_is_right_where_the_boxes_are_parallel(angle):
    a = torch.tensor([[0.0, 0, 8, 4, 0]], dtype=F64, requires_grad=True)
    b = torch.tensor([[3.1, 1.3, 6, 5, angle]], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(oriented_iou_aligned, (a, b), atol=1e-4, eps=1e-5)
    oriented_iou_aligned(a, b).sum().backward()
    assert a.grad is not None
    assert a.grad[0, 4].abs() > 0.01


def test_gradients_stay_finite_also_of_equal_touching_and_empty_boxes():
    a = random_boxes(50, 12)
    others = [
        a.clone(),
        along(a, a[:, 2], 0),
        changed(a, w=0.0),
        changed(a, x=1e5),
        changed(a, a=a[:, 4] + math.pi / 2),
    ]
    for b in others:
        x, y = a.clone().requires_grad_(), b.requires_grad_()
        oriented_iou_aligned(x, y).sum().backward()
        for grad in (x.grad, y.grad):
            assert grad is not None
            assert grad.isfinite().all()


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor has that any operation gave."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        for tensor in given if isinstance(given, (tuple, list)) else (given,):
            self.count = max(self.count, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
        return given


def test_of_a_million_overlapping_pairs_nothing_larger_than_a_number_a_pair_is_made():
    boxes = changed(random_boxes(1_000, 13), w=200.0, h=150.0).float()
    with LargestTensor() as largest:
        iou = oriented_iou(boxes, boxes)
    assert (iou > 0).all()
    assert largest.count == 1_000_000
    assert (iou.diagonal() > 1 - 1e-6).all()


@pytest.mark.parametrize("sizes", [(3, 5), (700, 900), (900, 700)])
def test_candidates_are_all_pairs_whose_hulls_overlap(sizes):
    a, b = (cxcywha_to_xyxy(random_boxes(n, n, "sized")) for n in sizes)
    a[0], b[1] = torch.nan, torch.inf
    rows, columns = overlapping_hulls(a, b)
    found = torch.zeros(sizes, dtype=torch.int64).index_put((rows, columns), torch.tensor(1), accumulate=True)
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    assert torch.equal(found > 0, (low < high).all(dim=2))
    assert found.max() == 1
    assert np.array_equal(found[0].numpy(), np.zeros(sizes[1]))

"""Oriented boxes, their corners and hulls: against the original's tensors, OpenCV and shapely."""

from __future__ import annotations

import itertools
import math

import pytest
import shapely
import torch

from vistruct.ops.oriented import (
    cxcywha_to_quads,
    cxcywha_to_xyxy,
    normalize_le90,
    quads_to_cxcywha,
    quads_to_xyxy,
    xyxy_to_cxcywha,
)


def random_boxes(count, seed=0, dtype=torch.float64, far=0.0):
    draw = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    boxes = draw * torch.tensor([200.0, 200, 80, 80, 20]) + torch.tensor([far, far, 0.5, 0.5, -10])
    return boxes.to(dtype)


def corner_distance(a, b):
    """float[N]: how far the corner sets of quads float[N, 4, 2] are apart at most, px."""
    apart = (a[:, :, None] - b[:, None]).norm(dim=-1)
    return torch.maximum(apart.amin(1).amax(1), apart.amin(2).amax(1))


def is_le90(boxes):
    half = torch.tensor(math.pi / 2, dtype=boxes.dtype)
    return (boxes[:, 2] >= boxes[:, 3]) & (boxes[:, 4] >= -half) & (boxes[:, 4] < half)


# --- the original


@pytest.fixture(scope="module")
def original(golden):
    return golden("obb/transforms.safetensors")


def test_corners_hulls_and_horizontal_boxes_are_the_original_s(original):
    boxes = original["obb"]
    torch.testing.assert_close(cxcywha_to_quads(boxes).flatten(1), original["obb2poly"], atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(cxcywha_to_xyxy(boxes), original["obb2xyxy"], atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(xyxy_to_cxcywha(original["hbb_xyxy"]), original["hbb2obb"], atol=1e-3, rtol=1e-5)
    stable = original["stable.obb2hbb"] == 1
    hulls = cxcywha_to_quads(xyxy_to_cxcywha(cxcywha_to_xyxy(boxes)))
    assert corner_distance(hulls, cxcywha_to_quads(original["obb2hbb"]))[stable].max() < 1e-3
    assert stable.sum() > 250


def test_angles_are_brought_into_range_as_the_original_does(original):
    angle = original["angle"]
    boxes = torch.cat([torch.tensor([[0.0, 0, 2, 1]]).expand(len(angle), 4), angle[:, None]], dim=1)
    apart = (normalize_le90(boxes)[:, 4] - original["norm_angle_le90"]).double()
    assert torch.sin(apart).abs().max() < 1e-4
    stable = original["stable.norm_angle_le90"] == 1
    assert apart[stable].abs().max() < 1e-4


def test_boxes_of_corners_are_the_original_s(original):
    boxes = quads_to_cxcywha(original["obb2poly"].view(-1, 4, 2))
    expected = original["poly2obb_of_obb2poly"]
    assert corner_distance(cxcywha_to_quads(boxes), cxcywha_to_quads(expected)).max() < 1e-3
    stable = (original["stable.poly2obb_of_obb2poly"] == 1) & (expected[:, 2] > 1.001 * expected[:, 3])
    assert stable.sum() > 250
    apart = (boxes - expected)[stable].double()
    assert apart[:, :4].abs().max() < 1e-3
    assert torch.sin(apart[:, 4]).abs().max() < 1e-4


def test_smallest_rectangle_is_opencv_s_and_never_larger(original):
    boxes = quads_to_cxcywha(original["quad"].view(-1, 4, 2))
    expected = original["poly2obb_np_of_quad"]
    valid = original["poly2obb_np_valid"] == 1
    area, expected_area = boxes[:, 2] * boxes[:, 3], expected[:, 2] * expected[:, 3]
    torch.testing.assert_close(area[valid], expected_area[valid], rtol=1e-4, atol=1e-3)
    clear = valid & (original["stable.poly2obb_np_of_quad"] == 1)  # others have several rectangles of the same area
    assert clear.sum() > 150
    assert corner_distance(cxcywha_to_quads(boxes), cxcywha_to_quads(expected))[clear].max() < 1e-3


# --- shapely


@pytest.mark.parametrize("kind", ["random", "float32", "far"])
def test_smallest_rectangle_of_any_quad_is_shapely_s(kind):
    quads = torch.randn(400, 4, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 30
    quads = quads + (10_000 if kind == "far" else 0)
    quads = quads.float() if kind == "float32" else quads
    truth = shapely.minimum_rotated_rectangle(shapely.multipoints(quads.double().numpy()))
    boxes = quads_to_cxcywha(quads)
    assert boxes.dtype == quads.dtype
    assert is_le90(boxes).all()
    expected = torch.from_numpy(shapely.area(truth))
    rtol = {"random": 1e-9, "float32": 1e-5, "far": 1e-7}[kind]  # far away shapely loses digits
    torch.testing.assert_close(boxes[:, 2].double() * boxes[:, 3], expected, rtol=rtol, atol=0)
    grown = shapely.polygons(cxcywha_to_quads(boxes.double()).numpy())
    assert (shapely.distance(shapely.points(quads.double().numpy()), grown[:, None]) < 1e-4).all()


# --- round trips


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_box_survives_corners_and_back(dtype):
    boxes = normalize_le90(random_boxes(3000, dtype=dtype))
    back = quads_to_cxcywha(cxcywha_to_quads(boxes))
    px = 1e-3 if dtype == torch.float32 else 1e-9
    assert (back - boxes)[:, :4].abs().max() < px
    clear = boxes[:, 2] - boxes[:, 3] > px
    assert torch.sin((back - boxes)[clear, 4]).abs().max() < (1e-2 if dtype == torch.float32 else 1e-8)
    assert corner_distance(cxcywha_to_quads(back), cxcywha_to_quads(boxes)).max() < px


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_le90_is_in_range_the_same_rectangle_and_left_alone_the_second_time(dtype):
    half = torch.tensor(math.pi / 2, dtype=dtype)
    below = torch.nextafter(half, torch.zeros_like(half))
    boxes = random_boxes(3000, dtype=dtype)
    edges = [half, -half, below, -below, 3 * half, -3 * half, 0 * half, -1e-9 * half, torch.nextafter(-half, 2 * -half)]
    for angle, (w, h) in itertools.product(edges, ((4.0, 2.0), (2.0, 4.0), (3.0, 3.0), (-4.0, 2.0))):
        box = torch.tensor([[5.0, 5, w, h, 0]], dtype=dtype)
        box[0, 4] = angle
        boxes = torch.cat([boxes, box])
    once = normalize_le90(boxes)
    assert is_le90(once).all()
    assert torch.equal(normalize_le90(once), once)
    assert corner_distance(cxcywha_to_quads(once), cxcywha_to_quads(boxes)).max() < (
        1e-3 if dtype == torch.float32 else 1e-9
    )


def test_hull_of_a_box_is_that_of_its_corners():
    boxes = random_boxes(500)
    torch.testing.assert_close(cxcywha_to_xyxy(boxes), quads_to_xyxy(cxcywha_to_quads(boxes)))
    xyxy = cxcywha_to_xyxy(boxes)
    torch.testing.assert_close(cxcywha_to_xyxy(xyxy_to_cxcywha(xyxy)), xyxy)
    assert is_le90(xyxy_to_cxcywha(xyxy)).all()


# --- ties and degenerate quads


def test_the_order_of_the_corners_does_not_matter_also_of_squares_and_kites():
    squares = random_boxes(200)
    squares[:, 3] = squares[:, 2]
    kite = torch.tensor([[[0.0, 0], [4, 1], [8, 0], [4, -1]]], dtype=torch.float64)  # two rectangles of the same area
    quads = torch.cat([cxcywha_to_quads(random_boxes(200)), cxcywha_to_quads(squares), kite])
    first = quads_to_cxcywha(quads)
    for order in itertools.permutations(range(4)):
        torch.testing.assert_close(quads_to_cxcywha(quads[:, order]), first, rtol=0, atol=1e-6)
    assert first[200:400, 4].abs().max() <= math.pi / 4 + 1e-9


def test_lines_points_and_nan_have_a_defined_box():
    line = torch.tensor([[[0.0, 0], [3, 3], [1, 1], [3, 3]]])
    expected = torch.tensor([[1.5, 1.5, math.sqrt(18), 0, math.pi / 4]])
    torch.testing.assert_close(quads_to_cxcywha(line), expected)
    upright = torch.tensor([[[2.0, 0], [2, 6], [2, 6], [2, 0]]])
    torch.testing.assert_close(quads_to_cxcywha(upright), torch.tensor([[2.0, 3, 6, 0, -math.pi / 2]]))
    assert quads_to_cxcywha(torch.full((1, 4, 2), 7.0)).tolist() == [[7, 7, 0, 0, 0]]
    broken = torch.tensor([[[0.0, 0], [1, 0], [1, math.nan], [0, 1]]])
    assert quads_to_cxcywha(broken).isnan().any()
    triangle = torch.tensor([[[0.0, 0], [4, 0], [4, 0], [0, 2]]])
    assert quads_to_cxcywha(triangle)[0, 2:4].prod() == pytest.approx(8)


@pytest.mark.parametrize("shape", [(0,), (2, 3), ()])
def test_any_leading_shape_goes_through(shape):
    boxes = (
        random_boxes(6).expand(6, 5)[: max(1, math.prod(shape))].reshape(*shape, 5)
        if 0 not in shape
        else random_boxes(0)
    )
    quads = cxcywha_to_quads(boxes)
    assert quads.shape == (*shape, 4, 2)
    assert quads_to_cxcywha(quads).shape == normalize_le90(boxes).shape == (*shape, 5)
    assert quads_to_xyxy(quads).shape == cxcywha_to_xyxy(boxes).shape == (*shape, 4)
    assert xyxy_to_cxcywha(quads_to_xyxy(quads)).shape == (*shape, 5)


def test_a_wrong_last_dimension_is_refused():
    for call, shape in (
        (cxcywha_to_quads, (3, 4)), (cxcywha_to_xyxy, (3, 4)), (normalize_le90, (3, 4)),
        (quads_to_cxcywha, (3, 8)), (quads_to_xyxy, (3, 8)), (xyxy_to_cxcywha, (3, 5)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\["):
            call(torch.zeros(shape))


def test_gradients_reach_the_boxes_also_where_a_corner_is_doubled():
    boxes = random_boxes(5).requires_grad_()
    assert torch.autograd.gradcheck(cxcywha_to_quads, boxes)
    assert torch.autograd.gradcheck(cxcywha_to_xyxy, boxes)
    assert torch.autograd.gradcheck(normalize_le90, boxes)
    corners = torch.tensor([[[0.0, 0], [4, 0], [4, 0], [0, 2]]], requires_grad=True)
    quads_to_cxcywha(corners).sum().backward()
    assert corners.grad is not None
    assert corners.grad.isfinite().all()

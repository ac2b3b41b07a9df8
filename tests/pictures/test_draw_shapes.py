"""Turned boxes, masks, points and flags on pictures: where they are, and told apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tables import with_objects

from vistruct.contracts import BoxPrediction, MaskPatch, Objects, Sample
from vistruct.ops.oriented import cxcywha_to_quads, cxcywha_to_xyxy, quads_to_xyxy
from vistruct.pictures import objects as draw
from vistruct.pictures import primitives as ink
from vistruct.pictures.in_sample import boxes_in_sample
from vistruct.pictures.shapes import FILL

GREY = 90
BOX = torch.tensor([[300.0, 280.0, 260.0, 120.0, 0.5]])


def grey(side: int = 600) -> torch.Tensor:
    return torch.full((3, side, side), GREY, dtype=torch.uint8)


def sample(boxes: torch.Tensor, **fields: Any) -> Sample:
    quads = cxcywha_to_quads(boxes)
    values = {"quads": quads, "boxes_xyxy": quads_to_xyxy(quads), "labels": torch.zeros(len(quads), dtype=torch.int64)}
    return Sample(id="a", image_id="a", seed=0, **with_objects({"images": [grey()]} | values | fields))


def predicted(boxes: torch.Tensor, **fields: Any) -> BoxPrediction:
    labels, scores = torch.zeros(len(boxes), dtype=torch.int64), torch.full((len(boxes),), 0.9)
    values: dict[str, Any] = {"labels": labels, "scores": scores, "boxes_cxcywha": boxes} | fields
    values |= {"boxes_xyxy": cxcywha_to_xyxy(boxes), "class_names": ("ship", "car")}
    return BoxPrediction(id="a", image_id="a", **with_objects(values))


def has_colour(picture: Image.Image, colour: tuple[int, int, int], height: int = 600) -> np.ndarray:
    """bool[H, W], nearer to the colour than to the ground; the legend left out."""
    pixels = np.asarray(picture)[:height].astype(float)
    return np.linalg.norm(pixels - colour, axis=2) < np.linalg.norm(pixels - GREY, axis=2)


def edge_points(quad: torch.Tensor, edge: int, number: int = 40) -> np.ndarray:
    """int[number, 2] pixels (x, y) along an edge, without its ends."""
    a, b = quad[edge].numpy(), quad[(edge + 1) % 4].numpy()
    steps = np.linspace(0.05, 0.95, number)[:, None]
    return np.floor(a + (b - a) * steps).astype(int)


def on_line(drawn: np.ndarray, quad: torch.Tensor) -> float:
    """Which part of the points around a quad is drawn, to a pixel."""
    points = np.concatenate([edge_points(quad, edge) for edge in range(4)])
    return float(np.mean([drawn[y - 1 : y + 2, x - 1 : x + 2].any() for x, y in points]))


def legend_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the legends drawn from now on say: entries, then the note, of each picture."""
    said: list[Any] = []
    real = draw.with_legend

    def noting(picture: Image.Image, entries: Any, note: str) -> Image.Image:
        said.append(([text for _, text, _ in entries], note))
        return real(picture, entries, note)

    monkeypatch.setattr(draw, "with_legend", noting)
    return said


def test_a_turned_box_is_drawn_along_its_edges_and_nowhere_else() -> None:
    quad = cxcywha_to_quads(BOX)[0]
    drawn = has_colour(draw.draw_sample(sample(BOX), ["ship"]), ink.PALETTE[0])
    assert on_line(drawn, quad) == 1
    rows, columns = np.nonzero(drawn)
    a, b = quad, quad.roll(-1, dims=0)  # distance to the nearest edge, but for the mark at the first
    points = torch.tensor(np.stack([columns, rows], axis=1), dtype=torch.float32)[:, None] + 0.5
    along = ((points - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1)
    away = (points - (a + along.clamp(0, 1)[..., None] * (b - a))).norm(dim=-1)
    assert away[:, 0].min() < 2
    far = away.min(dim=1).values > 3
    mark = (a[0] + b[0]) / 2
    assert ((points[far, 0] - mark).norm(dim=-1) < 16).all()


@pytest.mark.parametrize("front", [0, 1, 2, 3])
def test_the_mark_is_at_the_edge_from_the_first_corner_as_annotated(front: int) -> None:
    quads = cxcywha_to_quads(BOX).roll(-front, dims=1)
    drawn = has_colour(draw.draw_sample(sample(BOX, quads=quads), ["ship"]), ink.PALETTE[0])
    inwards = quads[0].mean(dim=0)
    amounts = []
    for edge in range(4):
        middle = (quads[0, edge] + quads[0, (edge + 1) % 4]) / 2
        x, y = (middle + 7 * (inwards - middle) / (inwards - middle).norm()).int().tolist()
        amounts.append(int(drawn[y - 1 : y + 2, x - 1 : x + 2].sum()))
    assert amounts[0] == 9
    assert amounts[1:] == [0, 0, 0]


def test_the_mark_of_a_prediction_is_where_its_angle_points() -> None:
    drawn = has_colour(draw.draw_prediction(grey(), predicted(BOX)), ink.PALETTE[0])
    x, y = (BOX[0, :2] + (130 - 7) * torch.tensor([math.cos(0.5), math.sin(0.5)])).int().tolist()
    assert drawn[y, x]
    assert not drawn[int(560 - y), int(600 - x)]


def test_crowds_and_difficult_objects_are_dashed_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    said = legend_of(monkeypatch)
    quad = cxcywha_to_quads(BOX)[0]
    for fields, note in (
        ({"is_difficult": torch.tensor([True])}, "dashed: 1 difficult"),
        ({"is_crowd": torch.tensor([True])}, "dashed: 1 crowd"),
    ):
        drawn = has_colour(draw.draw_sample(sample(BOX, **fields), ["ship"]), ink.PALETTE[0])
        assert 0.4 < on_line(drawn, quad) < 0.85
        assert said.pop() == (["ship 1"], note)


def test_thin_boxes_that_cross_are_compared_as_turned_and_not_by_their_hulls(monkeypatch: pytest.MonkeyPatch) -> None:
    said = legend_of(monkeypatch)
    one = torch.tensor([[300.0, 300.0, 300.0, 12.0, math.pi / 4]])
    other = one * torch.tensor([1.0, 1, 1, 1, -1])
    draw.draw_prediction(grey(), predicted(other), sample(one).objects)
    assert said.pop() == (["found 0", "false alarm 1", "missed 1"], "")
    draw.draw_prediction(grey(), predicted(one), sample(one).objects)
    assert said.pop() == (["found 1", "false alarm 0", "missed 0"], "")


def test_crowds_and_difficult_objects_are_not_missed_and_what_is_found_there_is_no_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = legend_of(monkeypatch)
    hulls = np.array([[100, 100, 160, 160], [300, 300, 500, 500], [200, 20, 240, 60]], np.float32)
    is_difficult, is_crowd = np.array([True, False, False]), np.array([False, True, False])
    labels = np.zeros(3, np.int64)
    truth = Objects(boxes_xyxy=hulls, labels=labels, is_difficult=is_difficult, is_crowd=is_crowd)
    boxes = torch.tensor([[130.0, 130, 60, 60, 0], [400, 400, 20, 20, 0.2], [410, 460, 30, 20, 0], [50, 50, 20, 20, 0]])
    labels = torch.tensor([0, 0, 1, 0])  # the third is of another class than the crowd it lies in
    draw.draw_prediction(grey(), predicted(boxes, labels=labels), truth)
    assert said == [(["found 0", "false alarm 2", "missed 1", "crowd or difficult 2", "found there 2"], "")]


def disc(side: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_a_mask_is_filled_exactly_where_it_is_and_the_picture_shines_through() -> None:
    mask = disc(600, 300, 250, 80)
    hull = torch.tensor([[220.0, 170, 380, 330]])
    one = sample(BOX, quads=None, masks=torch.from_numpy(mask)[None], boxes_xyxy=hull)
    pixels = np.asarray(draw.draw_sample(one, ["ship"]))[:600].astype(float)
    expected = (1 - FILL) * GREY + FILL * np.array(ink.PALETTE[0])
    assert np.abs(pixels[disc(600, 300, 250, 75)] - expected).max() <= 1
    outside = ~disc(600, 300, 250, 83)
    outside[165:335, 215:225] = outside[165:335, 375:385] = outside[165:175, 215:385] = outside[325:335, 215:385] = 0
    assert (pixels[outside] == GREY).all()
    ring = disc(600, 300, 250, 79) & ~disc(600, 300, 250, 78.4)
    assert np.abs(pixels[ring] - ink.PALETTE[0]).mean() < 30  # its edge is clear


def test_a_mask_that_sticks_out_of_the_picture_is_cut_and_one_without_pixels_is_no_trouble() -> None:
    patches = (
        MaskPatch(pixels=np.ones((50, 50), bool), x=-20, y=580),
        MaskPatch(pixels=np.zeros((5, 5), bool), x=9, y=9),
        MaskPatch(pixels=np.ones((5, 5), bool), x=900, y=9),
    )
    boxes = torch.tensor([[5.0, 590, 50, 50, 0], [11, 11, 5, 5, 0], [902, 11, 5, 5, 0]])
    picture = np.asarray(draw.draw_prediction(grey(), predicted(boxes, boxes_cxcywha=None, masks=patches)))
    expected = (1 - FILL) * GREY + FILL * np.array(ink.PALETTE[0])
    assert np.abs(picture[592, 10] - expected).max() <= 1


def test_points_are_drawn_where_they_are_and_those_not_annotated_are_not() -> None:
    points = torch.tensor([[[100.0, 120, 2], [200, 220, 1], [50, 400, 0]]])
    one = sample(BOX, keypoints=points)
    drawn = has_colour(draw.draw_sample(one, ["ship"]), ink.PALETTE[0])
    assert drawn[120, 100]
    assert drawn[216:225, 196:205].any()
    assert not drawn[220, 200]  # hidden: hollow
    assert not drawn[390:410, 40:60].any()


def test_a_quad_that_is_not_finite_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    said = legend_of(monkeypatch)
    quads = cxcywha_to_quads(BOX.repeat(2, 1))
    quads[1, 2, 0] = math.nan
    draw.draw_sample(sample(BOX.repeat(2, 1), quads=quads), ["ship"])
    assert said == [(["ship 2"], "1 boxes not finite, not drawn")]


def test_two_thousand_small_objects_are_all_seen_and_carry_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr("vistruct.pictures.shapes.name_chip", lambda *a: written.append(a))
    grid = torch.stack(torch.meshgrid(torch.arange(50), torch.arange(40), indexing="xy"), dim=-1).reshape(-1, 2)
    angle = torch.linspace(-1.5, 1.5, 2000)[:, None]
    boxes = torch.cat([20 + 24.0 * grid, torch.tensor([[14.0, 7.0]]).repeat(2000, 1), angle], dim=1)
    labels = torch.arange(2000) % 2
    picture = draw.draw_sample(sample(boxes, images=[grey(1220)], labels=labels), ["ship", "car"])
    assert not written
    pixels = np.asarray(picture)[:1220].astype(float)
    ground = pixels[0, 0]
    lit = np.linalg.norm(pixels - ground, axis=2) > 60
    assert min(on_line(lit, quad) for quad in cxcywha_to_quads(boxes)[::29]) > 0.9
    assert 0.05 < lit.mean() < 0.2  # lines and not blots


def test_turned_boxes_and_masks_in_the_whole_image_are_drawn_where_they_are_in_the_window() -> None:
    window = sample(BOX, origin_xy=(100.0, 40.0), scale_xy=(2.0, 2.0))
    whole = BOX * torch.tensor([0.5, 0.5, 0.5, 0.5, 1.0]) + torch.tensor([100.0, 40.0, 0, 0, 0])
    drawn = draw.draw_prediction(window.images[0], boxes_in_sample(predicted(whole), window), window.objects)
    expected = draw.draw_prediction(window.images[0], predicted(BOX), window.objects)
    assert np.array_equal(np.asarray(drawn), np.asarray(expected))
    patch = MaskPatch(pixels=np.eye(10, dtype=bool), x=130, y=50)
    masks = boxes_in_sample(predicted(whole, masks=(patch,)), window).objects.masks
    assert masks is not None
    (mask,) = masks
    assert (mask.x, mask.y, mask.pixels.shape) == (60, 20, (20, 20))
    assert np.array_equal(mask.pixels, np.kron(np.eye(10), np.ones((2, 2))).astype(bool))


def test_a_turned_box_in_a_window_of_unequal_scales_is_the_rectangle_around_what_it_becomes() -> None:
    window = sample(BOX, origin_xy=(0.0, 0.0), scale_xy=(2.0, 1.0))
    upright = torch.tensor([[50.0, 60.0, 40.0, 20.0, 0.0]])
    turned = boxes_in_sample(predicted(upright), window).objects.boxes_cxcywha
    assert turned is not None
    assert turned[0].tolist() == pytest.approx([100, 60, 80, 20, 0], abs=1e-4)

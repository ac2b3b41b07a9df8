"""Detections of windows joined to objects that come out once, in any order and row by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vistruct.contracts import BoxPrediction, MaskPatch, Objects
from vistruct.ops.oriented import cxcywha_to_xyxy
from vistruct.ops.oriented_iou import oriented_iou
from vistruct.windows.merge import WindowMerger, merge_windows
from vistruct.windows.tiles import Tiles, windows


def seen_in(window: tuple[int, int, int, int], boxes: Sequence[Sequence[float]], scores: list[float]) -> BoxPrediction:
    """What a perfect detector says of one window: all that shows of every box, cut at the window's edges."""
    x0, y0, x1, y1 = window
    clipped = np.clip(np.asarray(boxes, np.float32).reshape(-1, 4), [x0, y0, x0, y0], [x1, y1, x1, y1])
    shown = ((clipped[:, 2:] - clipped[:, :2]) > 0).all(axis=1)
    return BoxPrediction(
        id=f"s@{window}",
        image_id="s",
        objects=Objects(
            boxes_xyxy=torch.from_numpy(clipped[shown]),
            scores=torch.tensor(scores)[torch.from_numpy(shown)],
            labels=torch.zeros(int(shown.sum()), dtype=torch.int64),
        ),
        class_names=("tree", "car"),
        window_xyxy=window,
    )


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(20, 60), st.integers(0, 40))
def test_joining_the_windows_gives_back_a_scene_of_objects_exactly(data: st.DataObject, size: int, more: int) -> None:
    """Objects apart from each other, none larger than the overlap, whole in one window and cut in others."""
    tiles = Tiles(size=size + more, overlap=size // 2)
    height, width = data.draw(st.integers(30, 200)), data.draw(st.integers(30, 200))
    cell = 2 * tiles.overlap  # one object in each cell, so that no two touch
    boxes = []
    for y in range(0, height - cell, cell):
        for x in range(0, width - cell, cell):
            w, h = data.draw(st.integers(6, tiles.overlap)), data.draw(st.integers(6, tiles.overlap))
            x0, y0 = x + data.draw(st.integers(0, cell - w - 1)), y + data.draw(st.integers(0, cell - h - 1))
            boxes.append([x0, y0, x0 + w, y0 + h])
    scores = [data.draw(st.floats(0.5, 1.0, width=32)) for _ in boxes]
    parts = [seen_in(window, boxes, scores) for window in windows((height, width), tiles)]
    (merged,) = merge_windows(data.draw(st.permutations(parts)))
    assert sorted(merged.objects.boxes_xyxy.tolist()) == sorted([float(edge) for edge in box] for box in boxes)
    assert merged.objects.scores.tolist() == sorted(merged.objects.scores.tolist(), reverse=True)
    assert (merged.id, merged.image_id, merged.window_xyxy) == ("s", "s", None)


LEFT, RIGHT = (0, 0, 100, 100), (60, 0, 160, 100)


@pytest.mark.parametrize("cut_score", [0.5, 0.9])
def test_a_half_that_scores_higher_still_gives_way_to_the_whole(cut_score: float) -> None:
    whole, half = seen_in(RIGHT, [[70, 10, 110, 50]], [0.6]), seen_in(LEFT, [[70, 10, 110, 50]], [cut_score])
    assert half.objects.boxes_xyxy.tolist() == [[70, 10, 100, 50]]
    (merged,) = merge_windows([half, whole])
    assert merged.objects.boxes_xyxy.tolist() == [[70, 10, 110, 50]]


def test_a_half_is_not_given_up_for_a_box_of_much_lower_score_or_another_class() -> None:
    half = seen_in(LEFT, [[90, 10, 110, 50]], [0.9])
    weak = seen_in(RIGHT, [[90, 10, 140, 50]], [0.1])
    other = seen_in(RIGHT, [[90, 10, 110, 50]], [0.9])
    other.objects.labels[:] = 1
    for rival in (weak, other):
        (merged,) = merge_windows([half, rival])
        assert [90, 10, 100, 50] in merged.objects.boxes_xyxy.tolist()
        assert len(merged.objects) == 2


def test_two_objects_of_one_window_that_both_reach_its_edge_stay_two() -> None:
    seen = seen_in(LEFT, [[85, 10, 100, 30], [60, 5, 100, 60]], [0.9, 0.8])
    (merged,) = merge_windows([seen, seen_in(RIGHT, [], [])])
    assert len(merged.objects) == 2


def test_a_box_at_the_border_of_the_image_is_not_taken_for_a_half() -> None:
    small, large = seen_in(LEFT, [[0, 40, 20, 60]], [0.9]), seen_in(RIGHT, [], [])
    whole_scene = seen_in((0, 0, 160, 100), [[0, 30, 60, 70]], [0.9])
    (merged,) = merge_windows([small, large, whole_scene])
    assert len(merged.objects) == 2


def test_duplicates_of_two_windows_become_the_better_one() -> None:
    one, other = seen_in(LEFT, [[65, 10, 85, 30]], [0.7]), seen_in(RIGHT, [[66, 10, 86, 30]], [0.8])
    (merged,) = merge_windows([one, other])
    assert merged.objects.boxes_xyxy.tolist() == [[66, 10, 86, 30]]


def test_one_look_at_an_image_comes_out_as_it_went_in_best_first() -> None:
    part = seen_in(LEFT, [[0, 0, 50, 50], [1, 1, 50, 50], [60, 60, 100, 100]], [0.2, 0.8, 0.5])
    (merged,) = merge_windows([part])
    assert merged.objects.scores.tolist() == pytest.approx([0.8, 0.5, 0.2])
    assert merged.objects.boxes_xyxy.tolist() == [[1, 1, 50, 50], [60, 60, 100, 100], [0, 0, 50, 50]]


def test_windows_without_detections_and_no_windows_at_all() -> None:
    (merged,) = merge_windows([seen_in(LEFT, [], []), seen_in(RIGHT, [], [])])
    assert merged.objects.boxes_xyxy.shape == (0, 4)
    assert merge_windows([]) == []


def test_images_are_joined_apart_from_each_other_in_order() -> None:
    a = seen_in(LEFT, [[65, 10, 85, 30]], [0.7])
    b = dataclasses.replace(a, image_id="t")
    assert [(m.image_id, len(m.objects)) for m in merge_windows([b, a, a])] == [("t", 1), ("s", 1)]


def test_different_class_names_cannot_be_joined() -> None:
    a = seen_in(LEFT, [], [])
    with pytest.raises(ValueError, match="class names"):
        merge_windows([a, dataclasses.replace(a, class_names=("x",))])


def looked_at(
    boxes: torch.Tensor, window: tuple[int, int, int, int], noise: np.random.Generator, masks: bool = False
) -> BoxPrediction:
    """What an oriented detector says of a window: each box whose middle is in it, a little off, with its score."""
    x0, y0, x1, y1 = window
    middle = boxes[:, :2]
    is_in = ((middle >= torch.tensor([x0, y0])) & (middle < torch.tensor([x1, y1]))).all(dim=1)
    seen = boxes[is_in] + torch.from_numpy(noise.normal(0, 0.3, (int(is_in.sum()), 5))).float() * torch.tensor(
        [1, 1, 1, 1, 0.02]
    )
    patches = tuple(MaskPatch(pixels=np.ones((2, 2), bool), x=int(box[0]), y=int(box[1])) for box in seen)
    return BoxPrediction(
        id=f"s@{window}",
        image_id="s",
        objects=Objects(
            boxes_xyxy=cxcywha_to_xyxy(seen),
            scores=torch.from_numpy(noise.uniform(0.3, 1, len(seen))).float(),
            labels=is_in.nonzero().squeeze(1) % 3,
            boxes_cxcywha=seen,
            masks=patches if masks else None,
        ),
        class_names=("a", "b", "c"),
        window_xyxy=window,
    )


def spread(number: int, size_hw: tuple[int, int], seed: int) -> torch.Tensor:
    """Thin oriented boxes on a loose grid, so that none touches another: float[N, 5]."""
    random = np.random.default_rng(seed)
    cell = 40
    cells = [(x, y) for y in range(0, size_hw[0] - cell, cell) for x in range(0, size_hw[1] - cell, cell)]
    chosen = random.permutation(len(cells))[:number]
    corner = np.array([cells[i] for i in chosen], float).reshape(-1, 2)
    shape = random.uniform([18, 18, 14, 4, -1.5], [22, 22, 30, 8, 1.5], (len(chosen), 5))
    shape[:, :2] += corner
    return torch.from_numpy(shape).float()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(60, 150), st.booleans())
def test_oriented_objects_come_out_once_each_in_its_place(seed: int, size: int, masks: bool) -> None:
    boxes = spread(40, (300, 400), seed)
    noise = np.random.default_rng(seed)
    tiles = Tiles(size=size, overlap=size // 2)
    parts = [looked_at(boxes, window, noise, masks) for window in windows((300, 400), tiles)]
    (merged,) = merge_windows(parts)
    iou = oriented_iou(merged.objects.boxes_cxcywha, boxes)
    assert len(merged.objects) == len(boxes)
    assert iou.amax(dim=0).min() > 0.5
    assert len(set(iou.argmax(dim=1).tolist())) == len(boxes)
    torch.testing.assert_close(merged.objects.boxes_xyxy, cxcywha_to_xyxy(merged.objects.boxes_cxcywha))
    if masks:  # each goes with its box
        assert [(mask.x, mask.y) for mask in merged.objects.masks] == [
            (int(box[0]), int(box[1])) for box in merged.objects.boxes_cxcywha
        ]


def in_rows(parts: Sequence[BoxPrediction], size_hw: tuple[int, int]) -> tuple[list[BoxPrediction], WindowMerger]:
    """Windows in their order, with what is finished taken after every row."""
    merger = WindowMerger("s", (0, 0, size_hw[1], size_hw[0]))
    taken = []
    for number, part in enumerate(parts):
        merger.add(part)
        if number + 1 < len(parts) and parts[number + 1].window_xyxy[1] > part.window_xyxy[1]:
            taken.append(merger.take_finished(parts[number + 1].window_xyxy[1]))
    return [*taken, merger.finish()], merger


def as_rows(predictions: Sequence[BoxPrediction]) -> list[tuple[float, ...]]:
    """Detections as plain numbers, in one order."""
    rows = []
    for one in predictions:
        boxes = one.objects.boxes_xyxy if one.objects.boxes_cxcywha is None else one.objects.boxes_cxcywha
        rows += [
            (*box, score, label)
            for box, score, label in zip(
                boxes.tolist(), one.objects.scores.tolist(), one.objects.labels.tolist(), strict=True
            )
        ]
    return sorted(rows)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_row_by_row_gives_what_all_at_once_gives_also_where_everything_overlaps(seed: int, oriented: bool) -> None:
    random = np.random.default_rng(seed)
    size_hw, tiles = (220, 150), Tiles(size=48, overlap=20)
    parts = []
    for window in windows(size_hw, tiles):
        count = int(random.integers(0, 8))
        x0, y0, x1, y1 = window
        boxes = torch.from_numpy(random.uniform([x0, y0, 2, 2, -1.5], [x1, y1, 40, 30, 1.5], (count, 5))).float()
        hulls = cxcywha_to_xyxy(boxes)
        if not oriented:
            low, high = torch.tensor([x0, y0, x0, y0]), torch.tensor([x1, y1, x1, y1])
            hulls = torch.minimum(torch.maximum(hulls, low), high)
        parts.append(
            BoxPrediction(
                id="w",
                image_id="s",
                objects=Objects(
                    boxes_xyxy=hulls,
                    scores=torch.from_numpy(random.choice([0.2, 0.5, 0.9], count)).float(),
                    labels=torch.from_numpy(random.integers(0, 2, count)),
                    boxes_cxcywha=boxes if oriented else None,
                ),
                class_names=("a", "b"),
                window_xyxy=window,
            )
        )
    (whole,) = merge_windows(parts)
    taken, _ = in_rows(parts, size_hw)
    assert as_rows(taken) == as_rows([whole])
    assert whole.objects.scores.tolist() == sorted(whole.objects.scores.tolist(), reverse=True)


def test_a_long_scene_holds_no_more_than_a_short_one() -> None:
    tiles = Tiles(size=200, overlap=60)
    most = {}
    for height in (600, 4000):
        boxes = spread(height // 10, (height, 400), 3)
        noise = np.random.default_rng(0)
        parts = [looked_at(boxes, window, noise) for window in windows((height, 400), tiles)]
        taken, merger = in_rows(parts, (height, 400))
        assert sum(len(one.objects) for one in taken) == len(boxes)
        most[height] = merger.most_held
        assert merger.num_held == 0
    assert most[4000] <= 1.5 * most[600]
    assert most[4000] < 0.25 * len(boxes)


def test_the_whole_view_of_an_object_wins_over_a_cut_one_that_scores_higher() -> None:
    left = looked_at(torch.tensor([[97.0, 50, 30, 10, 0.0]]), LEFT, np.random.default_rng(0))
    right = looked_at(torch.tensor([[98.0, 50, 28, 10, 0.0]]), RIGHT, np.random.default_rng(0))
    left = left.with_columns(scores=torch.tensor([0.9]))  # reaches over the edge of its window
    right = right.with_columns(scores=torch.tensor([0.6]))
    (merged,) = merge_windows([left, right])
    assert torch.equal(merged.objects.boxes_cxcywha, right.objects.boxes_cxcywha)


def test_crossing_oriented_boxes_whose_hulls_are_alike_stay_two() -> None:
    one = looked_at(torch.tensor([[80.0, 50, 40, 4, 0.785]]), LEFT, np.random.default_rng(0))
    other = looked_at(torch.tensor([[80.0, 50, 40, 4, -0.785]]), RIGHT, np.random.default_rng(0))
    (merged,) = merge_windows([one, other])
    assert len(merged.objects) == 2


def test_within_one_window_nothing_is_suppressed() -> None:
    twins = seen_in(LEFT, [[10, 10, 50, 50], [11, 10, 50, 50]], [0.9, 0.8])
    (merged,) = merge_windows([twins, seen_in(RIGHT, [], [])])
    assert len(merged.objects) == 2


def test_windows_of_different_kinds_cannot_be_joined() -> None:
    plain = seen_in(LEFT, [], [])
    oriented = plain.with_columns(boxes_cxcywha=torch.zeros(0, 5))
    with pytest.raises(ValueError, match="oriented boxes"):
        merge_windows([plain, oriented])
    with pytest.raises(ValueError, match="no windows"):
        WindowMerger("s", (0, 0, 1, 1)).finish()


def test_what_is_not_a_number_comes_out_and_suppresses_nothing() -> None:
    boxes = torch.tensor([[float("nan")] * 4, [65.0, 10, 85, 30]])
    odd = seen_in(LEFT, [[65, 10, 85, 30], [0, 0, 5, 5]], [0.9, 0.5]).with_columns(boxes_xyxy=boxes)
    taken, merger = in_rows([odd, seen_in(RIGHT, [[65, 10, 85, 30]], [0.8])], (100, 160))
    assert sum(len(one.objects) for one in taken) == 2
    assert merger.num_held == 0

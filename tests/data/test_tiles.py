"""Windows: cover without gaps, cut boxes as a pixel count says, and join to objects that come out once."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vistruct.contracts import BoxPrediction, Record
from vistruct.data.tiles import EMPTY_WINDOW, NOWHERE_WHOLE, Tiles, merge_windows, tile_records, windows
from vistruct.errors import UserError

sizes = st.integers(1, 90)


@st.composite
def tilings(draw: st.DrawFn) -> Tiles:
    size = draw(st.integers(1, 40))
    return Tiles(size=size, overlap=draw(st.integers(0, size - 1)))


@settings(max_examples=150, deadline=None)
@given(sizes, sizes, tilings())
def test_windows_cover_every_pixel_inside_the_image_at_full_size(height: int, width: int, tiles: Tiles) -> None:
    seen = np.zeros((height, width), int)
    for x0, y0, x1, y1 in windows((height, width), tiles):
        assert (x1 - x0, y1 - y0) == (min(width, tiles.size), min(height, tiles.size))
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= width
        assert y1 <= height
        seen[y0:y1, x0:x1] += 1
    assert seen.min() >= 1


@settings(max_examples=100, deadline=None)
@given(sizes, tilings())
def test_neighbours_share_at_least_the_overlap(width: int, tiles: Tiles) -> None:
    row = windows((1, width), tiles)
    assert all(left[2] - right[0] >= tiles.overlap for left, right in itertools.pairwise(row))
    assert len(set(row)) == len(row)


def test_an_image_no_larger_than_a_window_is_one_window() -> None:
    tiles = Tiles(size=64, overlap=16)
    assert windows((64, 64), tiles) == [(0, 0, 64, 64)]
    assert windows((1, 1), tiles) == [(0, 0, 1, 1)]
    assert windows((64, 65), tiles) == [(0, 0, 64, 64), (1, 0, 65, 64)]


def test_an_overlap_of_a_whole_window_is_an_error() -> None:
    with pytest.raises(UserError, match="overlap=64"):
        Tiles(size=64, overlap=64)


def scene(boxes: list[list[float]], size_hw: tuple[int, int] = (60, 100), crowd: list[bool] | None = None) -> Record:
    return Record(
        id="scene.jpg",
        images=(Path("scene.jpg"),),
        size_hw=size_hw,
        boxes_xyxy=np.asarray(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(len(boxes)),
        is_crowd=np.asarray(crowd or [False] * len(boxes), bool),
    )


boxes_in_scene = st.lists(
    st.tuples(st.integers(0, 95), st.integers(0, 55), st.integers(1, 40), st.integers(1, 40)).map(
        lambda b: [b[0], b[1], min(b[0] + b[2], 100), min(b[1] + b[3], 60)]
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(boxes_in_scene, tilings(), st.sampled_from([0.1, 0.4, 1.0]))
def test_a_window_keeps_the_boxes_that_counting_pixels_says(
    boxes: list[list[float]], tiles: Tiles, min_kept: float
) -> None:
    tiles = tiles.model_copy(update={"min_kept": min_kept, "size": max(tiles.size, 8)})
    cut, report = tile_records([scene(boxes)], tiles)
    kept_anywhere: set[int] = set()
    for record in cut:
        x0, y0, x1, y1 = record.window_xyxy or (0, 0, 0, 0)
        expected = []
        for label, (a, b, c, d) in enumerate(boxes):
            canvas = np.zeros((60, 100), bool)
            canvas[int(b) : int(d), int(a) : int(c)] = True
            rows, columns = np.nonzero(canvas[y0:y1, x0:x1])
            if len(rows) and 10 * len(rows) >= round(10 * min_kept) * canvas.sum():
                expected.append((label, columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        found = [(label, *box) for label, box in zip(record.labels, record.boxes_xyxy.tolist(), strict=True)]
        assert found == expected
        kept_anywhere |= {label for label, *_ in expected}
    assert report.counts[NOWHERE_WHOLE] == len(boxes) - len(kept_anywhere)


def test_records_of_windows_name_their_image_and_window() -> None:
    cut, _ = tile_records([scene([])], Tiles(size=60, overlap=10))
    assert [record.id for record in cut] == ["scene.jpg@0_0_60_60", "scene.jpg@40_0_100_60"]
    assert {record.image_id for record in cut} == {"scene.jpg"}
    assert [record.size_hw for record in cut] == [(60, 60)] * 2
    (whole,), _ = tile_records([scene([])], Tiles(size=100, overlap=10))
    assert (whole.id, whole.window_xyxy) == ("scene.jpg", (0, 0, 100, 60))


def test_empty_windows_are_left_out_only_when_asked_and_counted() -> None:
    record = scene([[70, 10, 90, 30]])
    kept, report = tile_records([record], Tiles(size=50, overlap=0))
    assert (len(kept), report.counts[EMPTY_WINDOW]) == (4, 0)
    kept, report = tile_records([record], Tiles(size=50, overlap=0, skip_empty=True))
    assert [r.window_xyxy for r in kept] == [(50, 0, 100, 50), (50, 10, 100, 60)]
    assert report.counts == {EMPTY_WINDOW: 2}


def test_a_box_no_window_shows_enough_of_is_counted_once() -> None:
    _, report = tile_records([scene([[0, 0, 100, 60]])], Tiles(size=20, overlap=5))
    assert report.counts == {NOWHERE_WHOLE: 1}
    assert report.examples[NOWHERE_WHOLE] == ["scene.jpg: box 0"]


def test_a_crowd_stays_wherever_any_of_it_shows() -> None:
    cut, report = tile_records([scene([[0, 0, 100, 60]], crowd=[True])], Tiles(size=20, overlap=5))
    assert all(record.is_crowd.tolist() == [True] for record in cut)
    assert not report.counts


def test_a_window_cannot_be_cut_again() -> None:
    cut, _ = tile_records([scene([])], Tiles(size=60, overlap=10))
    with pytest.raises(ValueError, match="window already"):
        tile_records(cut, Tiles(size=20, overlap=5))


def seen_in(window: tuple[int, int, int, int], boxes: Sequence[Sequence[float]], scores: list[float]) -> BoxPrediction:
    """What a perfect detector says of one window: all that shows of every box, cut at the window's edges."""
    x0, y0, x1, y1 = window
    clipped = np.clip(np.asarray(boxes, np.float32).reshape(-1, 4), [x0, y0, x0, y0], [x1, y1, x1, y1])
    shown = ((clipped[:, 2:] - clipped[:, :2]) > 0).all(axis=1)
    return BoxPrediction(
        id=f"s@{window}",
        image_id="s",
        boxes_xyxy=torch.from_numpy(clipped[shown]),
        scores=torch.tensor(scores)[torch.from_numpy(shown)],
        labels=torch.zeros(int(shown.sum()), dtype=torch.int64),
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
    assert sorted(merged.boxes_xyxy.tolist()) == sorted([float(edge) for edge in box] for box in boxes)
    assert merged.scores.tolist() == sorted(merged.scores.tolist(), reverse=True)
    assert (merged.id, merged.image_id, merged.window_xyxy) == ("s", "s", None)


LEFT, RIGHT = (0, 0, 100, 100), (60, 0, 160, 100)


@pytest.mark.parametrize("cut_score", [0.5, 0.9])
def test_a_half_that_scores_higher_still_gives_way_to_the_whole(cut_score: float) -> None:
    whole, half = seen_in(RIGHT, [[70, 10, 110, 50]], [0.6]), seen_in(LEFT, [[70, 10, 110, 50]], [cut_score])
    assert half.boxes_xyxy.tolist() == [[70, 10, 100, 50]]
    (merged,) = merge_windows([half, whole])
    assert merged.boxes_xyxy.tolist() == [[70, 10, 110, 50]]


def test_a_half_is_not_given_up_for_a_box_of_much_lower_score_or_another_class() -> None:
    half = seen_in(LEFT, [[90, 10, 110, 50]], [0.9])
    weak = seen_in(RIGHT, [[90, 10, 140, 50]], [0.1])
    other = seen_in(RIGHT, [[90, 10, 110, 50]], [0.9])
    other.labels[:] = 1
    for rival in (weak, other):
        (merged,) = merge_windows([half, rival])
        assert [90, 10, 100, 50] in merged.boxes_xyxy.tolist()
        assert len(merged.scores) == 2


def test_two_objects_of_one_window_that_both_reach_its_edge_stay_two() -> None:
    seen = seen_in(LEFT, [[85, 10, 100, 30], [60, 5, 100, 60]], [0.9, 0.8])
    (merged,) = merge_windows([seen, seen_in(RIGHT, [], [])])
    assert len(merged.scores) == 2


def test_a_box_at_the_border_of_the_image_is_not_taken_for_a_half() -> None:
    small, large = seen_in(LEFT, [[0, 40, 20, 60]], [0.9]), seen_in(RIGHT, [], [])
    whole_scene = seen_in((0, 0, 160, 100), [[0, 30, 60, 70]], [0.9])
    (merged,) = merge_windows([small, large, whole_scene])
    assert len(merged.scores) == 2


def test_duplicates_of_two_windows_become_the_better_one() -> None:
    one, other = seen_in(LEFT, [[65, 10, 85, 30]], [0.7]), seen_in(RIGHT, [[66, 10, 86, 30]], [0.8])
    (merged,) = merge_windows([one, other])
    assert merged.boxes_xyxy.tolist() == [[66, 10, 86, 30]]


def test_one_look_at_an_image_comes_out_as_it_went_in_best_first() -> None:
    part = seen_in(LEFT, [[0, 0, 50, 50], [1, 1, 50, 50], [60, 60, 100, 100]], [0.2, 0.8, 0.5])
    (merged,) = merge_windows([part])
    assert merged.scores.tolist() == pytest.approx([0.8, 0.5, 0.2])
    assert merged.boxes_xyxy.tolist() == [[1, 1, 50, 50], [60, 60, 100, 100], [0, 0, 50, 50]]


def test_windows_without_detections_and_no_windows_at_all() -> None:
    (merged,) = merge_windows([seen_in(LEFT, [], []), seen_in(RIGHT, [], [])])
    assert merged.boxes_xyxy.shape == (0, 4)
    assert merge_windows([]) == []


def test_images_are_joined_apart_from_each_other_in_order() -> None:
    a = seen_in(LEFT, [[65, 10, 85, 30]], [0.7])
    b = dataclasses.replace(a, image_id="t")
    assert [(m.image_id, len(m.scores)) for m in merge_windows([b, a, a])] == [("t", 1), ("s", 1)]


def test_different_class_names_cannot_be_joined() -> None:
    a = seen_in(LEFT, [], [])
    with pytest.raises(ValueError, match="class names"):
        merge_windows([a, dataclasses.replace(a, class_names=("x",))])

"""Windows: cover without gaps, and cut objects as a pixel count and shapely say."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vistruct.contracts import Objects, Record
from vistruct.errors import UserError
from vistruct.ops.oriented import cxcywha_to_quads
from vistruct.windows.tiles import EMPTY_WINDOW, NOWHERE_WHOLE, Tiles, tile_records, windows

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
        objects=Objects(
            boxes_xyxy=np.asarray(boxes, np.float32).reshape(-1, 4),
            labels=np.arange(len(boxes)),
            is_crowd=np.asarray(crowd or [False] * len(boxes), bool),
        ),
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
        found = [
            (label, *box) for label, box in zip(record.objects.labels, record.objects.boxes_xyxy.tolist(), strict=True)
        ]
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
    assert all(record.objects.is_crowd.tolist() == [True] for record in cut)
    assert not report.counts


def test_a_window_cannot_be_cut_again() -> None:
    cut, _ = tile_records([scene([])], Tiles(size=60, overlap=10))
    with pytest.raises(ValueError, match="window already"):
        tile_records(cut, Tiles(size=20, overlap=5))


@pytest.mark.parametrize(
    ("size_hw", "tiles"),
    [
        ((13_000, 20_000), Tiles(size=1024, overlap=200)),
        ((20_000, 13_000), Tiles(size=1000, overlap=999)),
        ((1, 20_000), Tiles(size=800, overlap=150)),
        ((799, 801), Tiles(size=800, overlap=0)),
        ((1, 1), Tiles(size=1, overlap=0)),
    ],
)
def test_windows_of_images_of_any_size_leave_no_gap_row_by_row(size_hw: tuple[int, int], tiles: Tiles) -> None:
    for length in size_hw:  # each side by itself: the windows are all pairs of both
        spans = [(w[0], w[2]) for w in windows((1, length), tiles)]
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert all(right[0] <= left[1] - min(tiles.overlap, length) for left, right in itertools.pairwise(spans))
    if max(size_hw) / (tiles.size - tiles.overlap) < 100:
        places = windows(size_hw, tiles)
        columns, rows = ({w[i] for w in places} for i in (0, 1))
        assert places == sorted(places, key=lambda w: (w[1], w[0]))
        assert len(places) == len(columns) * len(rows)


def oriented_scene(boxes: list[list[float]], **columns: object) -> Record:
    corners = cxcywha_to_quads(torch.tensor(boxes)).numpy()
    hulls = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    record = scene(hulls.tolist())
    return record.with_columns(quads=corners, **columns)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(16, 40), st.sampled_from([0.2, 0.7]))
def test_a_window_keeps_whole_quads_by_the_share_that_shapely_says_shows(seed: int, size: int, min_kept: float) -> None:
    random = np.random.default_rng(seed)
    low, high = [0, 0, 4, 3, -1.5], [100, 60, 50, 20, 1.5]
    record = oriented_scene(random.uniform(low, high, (5, 5)).tolist())
    cut, _ = tile_records([record], Tiles(size=size, overlap=size // 3, min_kept=min_kept))
    assert record.objects.quads is not None
    for one in cut:
        x0, y0, x1, y1 = one.window_xyxy or (0, 0, 0, 0)
        polygons = [shapely.Polygon(quad) for quad in record.objects.quads.astype(float)]
        shares = [polygon.intersection(shapely.box(x0, y0, x1, y1)).area / polygon.area for polygon in polygons]
        if any(abs(share - min_kept) < 1e-5 for share in shares):
            return
        expected = [number for number, share in enumerate(shares) if share > min_kept]
        assert one.objects.labels.tolist() == expected
        assert one.objects.quads is not None
        np.testing.assert_allclose(one.objects.quads, record.objects.quads[expected] - [x0, y0], atol=1e-4)
        hulls = np.concatenate([one.objects.quads.min(axis=1), one.objects.quads.max(axis=1)], axis=1)
        np.testing.assert_array_equal(one.objects.boxes_xyxy, hulls)


def test_everything_of_an_object_goes_into_its_windows() -> None:
    record = dataclasses.replace(
        oriented_scene(
            [[20, 20, 20, 10, 0.3], [70, 30, 20, 10, 0.0]],
            is_difficult=np.array([True, False]),
            masks=("first", "second"),
            keypoints=np.array([[[20, 20, 2], [0, 0, 0]], [[70, 30, 1], [49, 30, 2]]], np.float32),
        ),
        notes={"gsd": "0.5"},
    )
    left, right = tile_records([record], Tiles(size=60, overlap=20))[0]
    assert (left.window_xyxy, right.window_xyxy) == ((0, 0, 60, 60), (40, 0, 100, 60))
    assert (left.objects.labels.tolist(), right.objects.labels.tolist()) == ([0], [1])
    assert (left.objects.is_difficult.tolist(), right.objects.is_difficult.tolist()) == ([True], [False])
    assert (left.objects.masks, right.objects.masks) == (("first",), ("second",))
    assert left.objects.keypoints is not None
    assert right.objects.keypoints is not None
    assert left.objects.keypoints.tolist() == [[[20, 20, 2], [0, 0, 0]]]
    assert right.objects.keypoints.tolist() == [[[30, 30, 1], [9, 30, 2]]]
    assert right.notes == {"gsd": "0.5"}
    outside = record.with_columns(keypoints=np.full((2, 1, 3), 2, np.float32))
    assert tile_records([outside], Tiles(size=60, overlap=20))[0][1].objects.keypoints.tolist() == [[[0, 0, 0]]]
    assert right.objects.keypoints.dtype == np.float32


def test_objects_cut_too_short_are_background_or_ignored_as_asked() -> None:
    record = scene([[40, 10, 100, 30]])
    background = tile_records([record], Tiles(size=60, overlap=20, min_kept=0.5))[0]
    assert [one.objects.labels.tolist() for one in background] == [[], [0]]
    ignored, report = tile_records([record], Tiles(size=60, overlap=20, min_kept=0.5, else_ignore=True))
    assert [one.objects.labels.tolist() for one in ignored] == [[0], [0]]
    assert [one.objects.is_ignored.tolist() for one in ignored] == [[True], [False]]
    assert not any(one.objects.is_crowd.any() for one in ignored)
    assert not report.counts
    _, report = tile_records([scene([[0, 0, 100, 60]])], Tiles(size=20, overlap=5, else_ignore=True))
    assert report.counts == {NOWHERE_WHOLE: 1}  # ignored in every window is found in none


def test_tiling_without_objects_keeps_the_kinds_of_what_there_is_none_of() -> None:
    objects = Objects(quads=np.zeros((0, 4, 2), np.float32), masks=(), keypoints=np.zeros((0, 3, 3), np.float32))
    record = dataclasses.replace(scene([]), objects=objects)
    for one in tile_records([record], Tiles(size=60, overlap=20))[0]:
        assert one.objects.quads is not None
        assert one.objects.keypoints is not None
        assert (one.objects.quads.shape, one.objects.masks, one.objects.keypoints.shape) == ((0, 4, 2), (), (0, 3, 3))

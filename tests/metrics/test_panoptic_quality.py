from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.detection import PanopticQuality as Reference

from vistruct.contracts import DataInfo, Objects, PanopticPrediction, Record, Segment
from vistruct.data.dataset import RecordDataset
from vistruct.errors import UserError
from vistruct.issues import IssueCounter
from vistruct.metrics.panoptic_quality import PanopticQuality, PanopticQualityConfig, Segments, matched

THINGS, STUFF = ("tree", "car"), ("road", "sky")
NAMES = THINGS + STUFF


def drawn(seed: int, crowds: bool = False) -> tuple[Segments, Segments]:
    """A truth of rectangles with void between them, and a prediction that moves, changes or forgets some."""
    rng = np.random.default_rng(seed)
    true, said = np.zeros((24, 24), np.int64), np.zeros((24, 24), np.int64)
    labels, is_crowd, told = [], [], []
    for number in range(6):
        label = int(rng.integers(2)) if number < 4 else number - 2
        y, x, h, w = (
            (int(one) for one in rng.integers(0, [16, 16, 6, 6])) if number < 4 else (0, 12 * (number - 4), 6, 9)
        )
        area = np.s_[y : y + h + 4, x : x + w + 4]
        true[area] = len(labels) + 1
        labels.append(label)
        is_crowd.append(crowds and number < 4 and bool(rng.random() < 0.4))
        if rng.random() < 0.85:
            dy, dx = (int(one) for one in rng.integers(0, 3, 2))
            said[y + dy : y + dy + h + 4, x + dx : x + dx + w + 4] = len(told) + 1
            told.append(label if rng.random() < 0.8 or number >= 4 else 1 - label)
    return Segments(map=said, labels=told), Segments(map=true, labels=labels, crowds=is_crowd)


def by_hand(said: Segments, true: Segments, num: int) -> tuple[list[list[int]], list[float]]:
    """Sets of pixels, one pair after the other, as the paper and the published evaluation say."""

    def pixels(one: Segments) -> list[set[int]]:
        return [set(np.flatnonzero(one.map.ravel() == i).tolist()) for i in range(1, len(one.labels) + 1)]

    void = set(np.flatnonzero(true.map.ravel() == 0).tolist())
    counts, overlaps = [[0, 0, 0] for _ in range(num)], [0.0] * num
    found, truths, crowds = pixels(said), pixels(true), list(true.crowds) or [False] * len(true.labels)
    done_said, done_true = set(), set()
    for i, one in enumerate(found):
        for j, other in enumerate(truths):
            if said.labels[i] != true.labels[j] or crowds[j] or not one:
                continue
            iou = len(one & other) / len((one - void) | other) if (one - void) | other else 0
            if iou > 0.5:
                counts[said.labels[i]][0] += 1
                overlaps[said.labels[i]] += iou
                done_said.add(i)
                done_true.add(j)
    for j, other in enumerate(truths):
        if other and j not in done_true and not crowds[j]:
            counts[true.labels[j]][2] += 1
    for i, one in enumerate(found):
        own = [other for j, other in enumerate(truths) if crowds[j] and true.labels[j] == said.labels[i]]
        if one and i not in done_said and len(one & void.union(*own)) / len(one) <= 0.5:
            counts[said.labels[i]][1] += 1
    return counts, overlaps


@pytest.mark.parametrize("crowds", [False, True])
def test_pairs_false_alarms_and_misses_are_those_of_sets_of_pixels(crowds: bool) -> None:
    totals = np.zeros(3, int)
    for seed in range(30):
        counts, overlaps = matched(*drawn(seed, crowds), 4)
        expected, sums = by_hand(*drawn(seed, crowds), 4)
        assert counts.tolist() == expected
        assert overlaps == pytest.approx(sums, abs=1e-12)
        totals += counts.sum(axis=0)
    assert (totals > 10).all()


def test_a_crowd_need_not_be_found_and_excuses_its_own_class_alone() -> None:
    true = Segments(map=np.ones((4, 4), int), labels=[0], crowds=[True])
    for label, alarms in ((0, 0), (1, 1)):
        counts, _ = matched(Segments(map=np.ones((4, 4), int), labels=[label]), true, 2)
        assert counts.sum(axis=0).tolist() == [0, alarms, 0]


def dataset(folder: Path, truths: list[Segments]) -> RecordDataset:
    """Objects with run lengths as things, a label map of the stuff."""
    records, maps = [], {}
    for number, true in enumerate(truths):
        rows = [i for i, label in enumerate(true.labels) if label < 2 and (true.map == i + 1).any()]
        masks = tuple(run_lengths(true.map == i + 1) for i in rows)
        classes = np.full(true.map.shape, -1, np.int16)
        for i, label in enumerate(true.labels):
            if label >= 2:
                classes[true.map == i + 1] = label - 1  # in the label map: background, road, sky
        boxes = np.array([[0, 0, 24, 24]] * len(rows), np.float32).reshape(-1, 4)
        objects = Objects(labels=np.array([true.labels[i] for i in rows], np.int64), boxes_xyxy=boxes, masks=masks)
        name = f"i{number}.png"
        records.append(Record(id=name, images=(folder / name,), size_hw=(24, 24), objects=objects))
        maps[name] = torch.from_numpy(classes)
    info = DataInfo(class_names=THINGS, map_class_names=("tree", *STUFF))
    return RecordDataset(records, info, IssueCounter(), read_label_map=lambda record: maps[record.id])


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.r_[False, flat, False].astype(int)))
    counts = np.diff(np.r_[0, edges, flat.size]) if edges.size else np.array([flat.size])
    return {"size": list(mask.shape), "counts": counts[: len(counts) - (counts[-1] == 0)].tolist()}


def prediction(name: str, said: Segments) -> PanopticPrediction:
    segments = tuple(Segment(label=one, is_thing=one < 2, score=1.0) for one in said.labels)
    found = torch.from_numpy(said.map.astype(np.int32))
    return PanopticPrediction(id=name, image_id=name, segment_map=found, segments=segments, class_names=NAMES)


def filled(said: Segments) -> Segments:
    """Sky where nothing is said: torchmetrics takes what a prediction leaves out for void too."""
    labels = [*said.labels, *([] if 3 in said.labels else [3])]
    return Segments(map=np.where(said.map == 0, labels.index(3) + 1, said.map), labels=labels)


def test_the_figures_are_those_of_torchmetrics(tmp_path: Path) -> None:
    pairs = [(filled(said), true) for said, true in map(drawn, range(12))]
    metric = PanopticQualityConfig().build(dataset(tmp_path, [true for _, true in pairs]))
    assert metric.class_names == NAMES

    def as_pixels(one: Segments) -> torch.Tensor:
        classes = np.array([9, *one.labels])[one.map]
        return torch.from_numpy(np.stack([classes, np.where(classes < 2, one.map, 0)], axis=-1))[None]

    options: Any = {"allow_unknown_preds_category": True, "return_per_class": True, "return_sq_and_rq": True}
    reference = Reference({0, 1}, {2, 3}, **options)
    for number, (said, true) in enumerate(pairs):
        metric.update([metric.condense(prediction(f"i{number}.png", said))])
        reference.update(as_pixels(said), as_pixels(true))
    numbers, expected = metric.compute(), reference.compute()  # [class, (PQ, SQ, RQ)]
    for row, name in enumerate(NAMES):
        ours = [numbers[f"{one}/{name}"] for one in ("PQ", "SQ", "RQ")]
        assert ours == pytest.approx(expected[row].tolist(), abs=1e-6)
    assert 0.2 < numbers["PQ"] < 0.95
    means = [np.mean([numbers[f"PQ/{name}"] for name in some]) for some in (NAMES, THINGS, STUFF)]
    assert [numbers[name] for name in ("PQ", "PQ_things", "PQ_stuff")] == pytest.approx(means)


def test_a_perfect_prediction_a_class_that_nobody_has_and_nothing_at_all(tmp_path: Path) -> None:
    true = Segments(map=np.ones((24, 24), int), labels=[2], crowds=[False])
    data = dataset(tmp_path, [true])
    metric = PanopticQuality(data)
    assert all(math.isnan(one) for one in metric.compute().values())
    metric.update([prediction("i0.png", true)])
    numbers = metric.compute()
    assert numbers["PQ"] == numbers["PQ_stuff"] == numbers["SQ/road"] == 1
    assert math.isnan(numbers["PQ_things"])
    assert math.isnan(numbers["PQ/sky"])
    assert metric.details()["counts"][2] == [1, 0, 0, 1.0]
    with pytest.raises(ValueError, match="twice"):
        metric.update([prediction("i0.png", true)])


def test_what_does_not_count_is_void_and_small_things_lie_over_large_ones(tmp_path: Path) -> None:
    def box(x0: int, x1: int) -> dict[str, Any]:
        mask = np.zeros((4, 8), bool)
        mask[:, x0:x1] = True
        return run_lengths(mask)

    objects = Objects(
        labels=np.array([0, 0, 1, 1, 0], np.int64),
        boxes_xyxy=np.array([[0, 0, 1, 1]] * 4 + [[7, 0, 8, 4]], np.float32),
        is_difficult=np.array([False, False, False, True, False]),
        masks=(box(1, 2), box(0, 4), box(4, 5), box(5, 6), []),
    )
    record = Record(id="a", images=(tmp_path / "a",), size_hw=(4, 8), objects=objects)
    info = DataInfo(class_names=THINGS, map_class_names=("tree", *STUFF))
    label_map = torch.full((4, 8), 1, dtype=torch.int16)
    made = RecordDataset([record], info, IssueCounter(), read_label_map=lambda record: label_map)
    true = PanopticQuality(made).truth(0)
    assert true.labels == [2, 0, 0, 1]
    assert true.map[0].tolist() == [2, 3, 2, 2, 4, 0, 1, 0]


def test_windows_and_data_without_label_maps_or_masks_are_refused(tmp_path: Path) -> None:
    true = Segments(map=np.ones((24, 24), int), labels=[0])
    data = dataset(tmp_path, [true])
    bare = RecordDataset(data.records, data.info, data.report)
    with pytest.raises(UserError, match="no label maps"):
        PanopticQualityConfig().build(bare)
    objects = Objects(labels=np.zeros(1, np.int64))
    for record, what in (
        (Record(id="a", images=(tmp_path,), objects=objects), "no masks"),
        (Record(id="a", images=(tmp_path,), window_xyxy=(0, 0, 4, 4)), "windows"),
    ):
        with pytest.raises(UserError, match=what):
            PanopticQualityConfig().build(
                RecordDataset([record], data.info, data.report, read_label_map=data.read_label_map)
            )
    with pytest.raises(UserError, match="does not have"):
        PanopticQuality(data).condense(prediction("other", true))

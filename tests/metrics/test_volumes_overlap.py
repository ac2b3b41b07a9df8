"""Dice, surface distances and their means over cases, against MONAI and closed forms."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric

from vistruct.contracts import IGNORED, DataInfo, MapPrediction, Record
from vistruct.data.dataset import RecordDataset
from vistruct.data.volumes import EMPTY_SLICE, SPACING
from vistruct.errors import UserError
from vistruct.issues import IssueCounter
from vistruct.metrics.volumes import Volumes, VolumesConfig, hd95

NAMES = ("background", "a", "b")


class Truths:
    """Record -> its label map."""

    def __init__(self, cases: dict[str, np.ndarray]) -> None:
        self.cases = cases

    def __call__(self, record: Record) -> torch.Tensor:
        return torch.from_numpy(self.cases[record.image_id][record.slice])


def data_of(
    cases: dict[str, np.ndarray], spacing: str = "5 1 0.5", report: IssueCounter | None = None
) -> RecordDataset:
    """Cases int16[S, H, W] as a data set."""
    records = [
        Record(id=f"{name}@z{z:03d}", images=(Path(name),), image_id=name, slice=z, notes={SPACING: spacing})
        for name, stack in cases.items()
        for z in range(len(stack))
    ]
    info = DataInfo(class_names=NAMES, num_records=len(records))
    return RecordDataset(records, info, report or IssueCounter(), read_label_map=Truths(cases))


def said(cases: dict[str, np.ndarray]) -> list[MapPrediction]:
    return [
        MapPrediction(id=f"{name}@z{z:03d}", image_id=name, label_map=torch.from_numpy(plane), class_names=NAMES)
        for name, stack in cases.items()
        for z, plane in enumerate(stack)
    ]


def random_cases(seed: int, num: int = 3, shape: tuple[int, ...] = (4, 9, 8)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"case{i}": rng.integers(0, 3, shape).astype(np.int16) for i in range(num)}


def measured(
    truth: dict[str, np.ndarray], prediction: dict[str, np.ndarray], config: VolumesConfig | None = None
) -> dict[str, float]:
    metric = (config or VolumesConfig()).build(data_of(truth))
    metric.update(said(prediction))
    return metric.compute()


def one_hot(cases: dict[str, np.ndarray]) -> torch.Tensor:
    """bool[N, 3, S, H, W]."""
    return torch.stack([torch.stack([torch.from_numpy(stack == k) for k in range(3)]) for stack in cases.values()])


@pytest.mark.parametrize("seed", range(3))
def test_dice_is_monais(seed: int) -> None:
    truth, prediction = random_cases(seed), random_cases(seed + 100)
    truth["case1"][truth["case1"] == 2] = 0  # a class that one case does not have: a false alarm
    for absent, ignore_empty in (("skip_false_alarms", True), ("one", False)):
        metric = DiceMetric(include_background=True, reduction="none", ignore_empty=ignore_empty)
        table = metric(one_hot(prediction), one_hot(truth))  # [N, 3]
        assert isinstance(table, torch.Tensor)
        numbers = measured(truth, prediction, VolumesConfig(absent=absent))
        for k, name in enumerate(NAMES):
            assert numbers[f"Dice/{name}"] == pytest.approx(table[:, k].nanmean().item(), abs=1e-6)
        assert numbers["mDice"] == pytest.approx(table.nanmean(dim=0)[1:].mean().item(), abs=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.0, 0.5), (0.3, 2.0, 1.0)])
def test_surface_distances_are_monais(spacing: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(4):
        a, b = np.zeros((8, 12, 12), bool), np.zeros((8, 12, 12), bool)
        for mask in (a, b):  # boxes that may touch the border
            low = rng.integers(0, 5, 3)
            mask[low[0] : low[0] + 4, low[1] : low[1] + 8, low[2] : low[2] + 7] = True
        metric = HausdorffDistanceMetric(include_background=True, percentile=95, reduction="none")
        table = metric(torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None], spacing=list(spacing))
        assert isinstance(table, torch.Tensor)
        assert hd95(a, b, spacing) == pytest.approx(table.item(), abs=1e-4)


@pytest.mark.parametrize(("shift", "millimetres"), [((1, 0, 0), 5.0), ((0, 3, 0), 3.0), ((0, 0, 4), 2.0)])
def test_two_cubes_are_as_far_apart_as_one_was_moved(shift: tuple[int, int, int], millimetres: float) -> None:
    cube = np.zeros((10, 14, 14), np.int16)
    cube[2:6, 2:6, 2:6] = 1
    moved = np.roll(cube, shift, (0, 1, 2))
    numbers = measured({"c": cube}, {"c": moved}, VolumesConfig(hd95=True))
    assert numbers["HD95/a"] == pytest.approx(millimetres)  # the face opposite is a quarter of the surface or more
    assert numbers["mHD95"] == pytest.approx(millimetres)
    assert numbers["HD95_missing"] == 0
    overlap = np.prod([4 - step for step in shift]) if max(shift) < 4 else 0
    assert numbers["Dice/a"] == pytest.approx(overlap / 64)


def test_a_perfect_answer_is_one_and_at_no_distance() -> None:
    truth = random_cases(0)
    numbers = measured(truth, truth, VolumesConfig(hd95=True))
    assert (numbers["mDice"], numbers["mIoU"], numbers["mDice_pooled"]) == (1, 1, 1)
    assert (numbers["mHD95"], numbers["volumes"]) == (0, 3)


def test_the_mean_is_over_cases_and_the_pooled_one_over_voxels() -> None:
    small, large = np.zeros((1, 10, 10), np.int16), np.zeros((1, 10, 10), np.int16)
    small[0, 0, :2], large[0, :9] = 1, 1
    wrong = np.zeros_like(small)
    numbers = measured({"small": small, "large": large}, {"small": wrong, "large": large})
    assert numbers["Dice/a"] == pytest.approx(0.5)
    assert numbers["mDice_pooled"] == pytest.approx(2 * 90 / (2 * 90 + 2))


@pytest.mark.parametrize(("absent", "expected"), [("skip", math.nan), ("skip_false_alarms", math.nan), ("one", 1.0)])
def test_a_class_that_is_nowhere_counts_as_was_asked(absent: str, expected: float) -> None:
    truth = {"c": np.zeros((2, 3, 3), np.int16)}
    numbers = measured(truth, truth, VolumesConfig(absent=absent))  # ty: ignore[invalid-argument-type]
    assert numbers["Dice/a"] == pytest.approx(expected, nan_ok=True)
    assert numbers["mDice"] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("absent", "expected"), [("skip", 0.5), ("skip_false_alarms", 1.0), ("one", 0.5)])
def test_a_false_alarm_counts_as_was_asked(absent: str, expected: float) -> None:
    has, none = np.ones((1, 2, 2), np.int16), np.zeros((1, 2, 2), np.int16)
    config = VolumesConfig(absent=absent)  # ty: ignore[invalid-argument-type]
    numbers = measured({"x": has, "y": none}, {"x": has, "y": has}, config)
    assert numbers["Dice/a"] == pytest.approx(expected)


def test_a_surface_without_a_counterpart_is_counted_and_not_averaged() -> None:
    truth, prediction = np.zeros((2, 4, 4), np.int16), np.zeros((2, 4, 4), np.int16)
    truth[0, 0, 0], truth[1, 1, 1], prediction[0, 0, 0] = 1, 2, 1
    metric = VolumesConfig(hd95=True).build(data_of({"c": truth}))
    metric.update(said({"c": prediction}))
    numbers = metric.compute()
    assert (numbers["HD95/a"], numbers["HD95_missing"]) == (0, 1)
    assert math.isnan(numbers["HD95/b"])
    assert metric.details()["region_names"] == ["a", "b"]
    assert metric.details()["hd95"] == {"c": [0.0, None]}


def test_regions_are_unions_of_classes() -> None:
    truth, prediction = random_cases(0), random_cases(1)
    numbers = measured(truth, prediction, VolumesConfig(regions={"all": ("a", "b"), "b": ("b",)}))
    joined = [{name: (stack > 0).astype(np.int16) for name, stack in cases.items()} for cases in (truth, prediction)]
    assert numbers["Dice/all"] == pytest.approx(measured(joined[0], joined[1])["Dice/a"])
    assert numbers["Dice/b"] == pytest.approx(measured(truth, prediction)["Dice/b"])
    assert numbers["mDice"] == pytest.approx((numbers["Dice/all"] + numbers["Dice/b"]) / 2)
    assert "Dice/a" not in numbers


def test_ignored_voxels_do_not_count_and_have_no_surface() -> None:
    truth, prediction = random_cases(0), random_cases(1)
    marked = {name: stack.copy() for name, stack in truth.items()}
    agreed = {name: stack.copy() for name, stack in prediction.items()}
    for name, stack in marked.items():
        stack[:, :4] = IGNORED
        agreed[name][:, :4] = 0
    cut = [{name: stack[:, 4:] for name, stack in cases.items()} for cases in (truth, prediction)]
    own, other = measured(marked, prediction), measured(cut[0], cut[1])
    assert own == pytest.approx(other)
    config = VolumesConfig(hd95=True)
    assert measured(marked, prediction, config)["mHD95"] == measured(marked, agreed, config)["mHD95"]
    everything = {name: np.full_like(stack, IGNORED) for name, stack in truth.items()}
    assert math.isnan(measured(everything, prediction)["mDice"])


def test_slices_in_any_order_batch_and_rank_give_the_same_figures() -> None:
    truth, prediction = random_cases(0), random_cases(1)
    config = VolumesConfig(hd95=True)
    expected = measured(truth, prediction, config)
    metric = config.build(data_of(truth))
    shuffled = [said(prediction)[i] for i in np.random.default_rng(0).permutation(12)]
    for one in shuffled:
        metric.update([pickle.loads(pickle.dumps(metric.condense(one)))])
    assert metric.compute() == expected


def test_what_travels_between_ranks_is_small() -> None:
    truth = {"c": np.zeros((1, 256, 256), np.int16)}
    metric = VolumesConfig().build(data_of(truth))
    assert len(pickle.dumps(metric.condense(said(truth)[0]))) < 1000
    with_surfaces = VolumesConfig(hd95=True).build(data_of(truth))
    assert len(pickle.dumps(with_surfaces.condense(said(truth)[0]))) < 3000


def test_details_hold_the_counts_of_each_case() -> None:
    truth, prediction = random_cases(0), random_cases(1)
    metric = Volumes(data_of(truth))
    metric.update(said(prediction))
    metric.compute()
    details = metric.details()
    both, one, other = ((truth["case0"] == 1) & (prediction["case0"] == 1)).sum(), 0, 0
    one = (prediction["case0"] == 1).sum() - both
    other = (truth["case0"] == 1).sum() - both
    assert details["images"]["case0"][1] == [both, one, other]
    assert np.sum(details["confusion"]) == 3 * 4 * 9 * 8


def test_a_case_with_slices_missing_is_an_error() -> None:
    truth = random_cases(0)
    metric = Volumes(data_of(truth))
    metric.update(said(truth)[:-1])
    with pytest.raises(UserError, match="3 of the 4 slices of case2"):
        metric.compute()


def test_a_slice_twice_is_an_error() -> None:
    truth = random_cases(0)
    metric = Volumes(data_of(truth))
    with pytest.raises(ValueError, match="twice"):
        metric.update([said(truth)[0]] * 2)


def test_data_without_their_empty_slices_are_refused() -> None:
    report = IssueCounter()
    report.note(EMPTY_SLICE, "c@z000")
    with pytest.raises(UserError, match="empty slices"):
        VolumesConfig().build(data_of(random_cases(0), report=report))


def test_unknown_classes_are_errors() -> None:
    for config in (VolumesConfig(ignore_classes=("c",)), VolumesConfig(regions={"x": ("a", "c")})):
        with pytest.raises(UserError, match="no class 'c'"):
            config.build(data_of(random_cases(0)))
    with pytest.raises(UserError, match="no class is left"):
        VolumesConfig(ignore_classes=NAMES).build(data_of(random_cases(0)))


def test_nothing_predicted_has_no_figures() -> None:
    assert math.isnan(Volumes(data_of(random_cases(0))).compute()["mDice"])


def test_a_single_voxel_is_at_its_own_distance() -> None:
    a, b = np.zeros((1, 1, 5), bool), np.zeros((1, 1, 5), bool)
    a[0, 0, 0] = b[0, 0, 4] = True
    assert hd95(a, a, (1, 1, 1)) == 0
    assert hd95(a, b, (1, 1, 0.5)) == pytest.approx(2)

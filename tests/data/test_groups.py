"""No patient (scene, flight) in both training and evaluation; splits drawn by patient."""

from __future__ import annotations

from pathlib import Path

import pytest

from vistruct.contracts import DataInfo, Record
from vistruct.data.checks.groups import check_groups
from vistruct.data.dataset import RecordDataset
from vistruct.data.selection import drawn_split
from vistruct.errors import UserError
from vistruct.issues import IssueCounter


def data_of(*groups: str) -> RecordDataset:
    records = [
        Record(id=f"{group}@{number}", images=(Path(f"{group}.nii"),), group=group)
        for number, group in enumerate(groups)
    ]
    return RecordDataset(records, DataInfo(num_records=len(records)), IssueCounter())


def test_a_patient_in_training_and_evaluation_is_an_error_that_names_both_records() -> None:
    with pytest.raises(UserError, match="b and 1 others is in the training data and in the evaluation 'val'") as error:
        check_groups(
            {"main": data_of("a", "b", "c")},
            {"other": ("main", data_of("d")), "val": ("main", data_of("c", "b", "e"))},
        )
    assert "b@1" in error.value.where


def test_an_evaluation_on_the_same_records_is_an_error_too_unless_it_says_so() -> None:
    data = data_of("a", "b")
    with pytest.raises(UserError, match="evaluation 'val'"):
        check_groups({"main": data}, {"val": ("main", data)})
    check_groups({"main": data}, {"train": ("main", data)})


def test_other_patients_and_records_without_a_group_pass() -> None:
    check_groups({"main": data_of("a")}, {"val": ("main", data_of("b", "c"))})
    check_groups({"main": data_of("", "")}, {"val": ("main", data_of("", ""))})
    check_groups({"main": data_of("a")}, {})
    check_groups({"main": data_of()}, {"val": ("main", data_of("a"))})


def test_drawn_splits_are_disjoint_complete_and_stable() -> None:
    names = [f"p{number}" for number in range(100)]
    split = drawn_split(names, {"train": 0.7, "val": 0.1, "test": 0.2}, 3)
    assert [len(one) for one in split.values()] == [70, 10, 20]
    assert set.union(*split.values()) == set(names)
    assert drawn_split(reversed(names), {"train": 0.7, "val": 0.1, "test": 0.2}, 3) == split
    more = drawn_split([*names, "new"], {"train": 0.7, "val": 0.1, "test": 0.2}, 3)
    moved = sum(len(split[name] - more[name]) for name in split)
    assert moved <= 4  # nearly everybody stays where they were


def test_shares_below_one_leave_the_rest_out() -> None:
    split = drawn_split([f"p{number}" for number in range(10)], {"train": 0.3, "test": 0.2}, 0)
    assert [len(one) for one in split.values()] == [3, 2]


def test_every_split_gets_somebody_where_there_are_enough() -> None:
    assert [len(one) for one in drawn_split("abc", {"train": 0.98, "val": 0.01, "test": 0.01}, 0).values()] == [1, 1, 1]
    few = drawn_split("ab", {"train": 0.8, "val": 0.1, "test": 0.1}, 0)
    assert [len(one) for one in few.values()] == [2, 0, 0]

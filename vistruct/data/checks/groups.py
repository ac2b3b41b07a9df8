"""What must not straddle training and test: patients, scenes, flights. One leak makes every figure too good.

Slices of one patient are nearly copies of each other, so that a model that has seen slice 40 in training knows slice
41 of the test. A record says by its `group` what it belongs to; records without one are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vistruct.contracts import Record
from vistruct.data.chat.records import Records
from vistruct.data.dataset import RecordDataset
from vistruct.errors import UserError
from vistruct.ops.seeds import derive


def check_groups(streams: Mapping[str, Any], evals: Mapping[str, tuple[str, Any]]) -> None:
    """Refuse a run that is measured on somebody whom it was trained on.

    Args:
        streams: data sets that are learned from, by name. Names of groups are those of one stream and its evaluations;
            a file that one stream learns from is known to the backbone, whichever task is measured on it.
        evals: the stream that an evaluation belongs to, and its data set, by the name of the evaluation. One called
            "train" says itself that it is no test: it measures how well the training went, and is let through.

    Raises:
        UserError: a group of both, with the name of one record of each; a file of another stream.
    """
    for stream, train in streams.items():
        _check_groups(train, {name: dataset for name, (own, dataset) in evals.items() if own == stream})
        known = {file: record for record in _plain(train) for file in record.images}
        for name, (own, dataset) in evals.items():
            seen = next((file for record in _plain(dataset) for file in record.images if file in known), None)
            if own != stream and name != "train" and seen is not None:
                what = f"{seen.name} is in the evaluation {name!r}, and in the training data of {stream!r}"
                fix = "one backbone learns from all streams: split their images alike"
                raise UserError(what, where=seen, fix=fix)


def _check_groups(train: Any, evals: Mapping[str, Any]) -> None:
    known = _groups(train)
    if not known:
        return
    for name, dataset in evals.items():
        own = _groups(dataset)
        shared = sorted(set(known) & set(own))
        if not shared or name == "train":
            continue
        first = shared[0]
        more = f" and {len(shared) - 1} others" if len(shared) > 1 else ""
        what = f"{first}{more} is in the training data and in the evaluation {name!r}"
        where = f"{known[first].id} ({known[first].images[0]}), {own[first].id} ({own[first].images[0]})"
        fix = 'split by patient (or scene): no group may be in both; an evaluation on training data is called "train"'
        raise UserError(what, where=where, fix=fix)


def drawn_split(groups: Iterable[str], shares: Mapping[str, float], seed: int) -> dict[str, set[str]]:
    """Groups drawn into splits; a new group moves few of the others.

    Args:
        shares: part of the groups for each split, at most 1 together.

    Returns:
        the groups of every split; each has at least one.

    Raises:
        UserError: fewer groups than splits.
    """
    ranked = sorted(groups, key=lambda group: derive(seed, "split", group))
    if len(ranked) < len(shares):
        what = f"{len(ranked)} patients (or groups) for {len(shares)} splits"
        raise UserError(what, where="data.shares", fix="fewer splits, or more patients")
    found: dict[str, set[str]] = {}
    at, passed = 0, 0.0
    names = list(shares)
    for number, name in enumerate(names):
        passed += shares[name]
        later = len(names) - number - 1
        end = min(max(round(passed * len(ranked)), at + 1), len(ranked) - later)
        found[name] = set(ranked[at:end])
        at = end
    return found


def straddles(group: str, names: Sequence[str], splits: Sequence[str], root: Path) -> UserError:
    """What to say of a group that is in several splits of one data set."""
    places = ", ".join(f"{name} in {split or 'no split'}" for name, split in zip(names, splits, strict=True))
    fix = "keep each patient in one split"
    return UserError(f"patient {group} is in several splits: {places}", where=root, fix=fix)


def _groups(dataset: Any) -> dict[str, Record]:
    """A record of each group."""
    found: dict[str, Record] = {}
    for record in _plain(dataset):
        if record.group:
            found.setdefault(record.group, record)
    return found


def _plain(dataset: Any) -> Sequence[Record]:
    """Its records; none of conversations, which have no groups, and parsing them all for that takes long."""
    is_talk = isinstance(dataset, RecordDataset) and isinstance(dataset.records, Records)
    return () if is_talk else dataset.records

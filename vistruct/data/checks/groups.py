"""What must not straddle training and test: patients, scenes, flights. One leak makes every figure too good.

Slices of one patient are nearly copies of each other, so that a model that has seen slice 40 in training knows slice
41 of the test. A record says by its `group` what it belongs to; records without one are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vistruct.contracts import Record
from vistruct.data.chat.records import Records
from vistruct.data.dataset import RecordDataset
from vistruct.errors import UserError

LEARNED = "leakage: image of an evaluation that is training data too: what is measured on it was learned"


def check_groups(streams: Mapping[str, Any], evals: Mapping[str, tuple[str, Any]]) -> None:
    """Refuse a run that is measured on somebody whom it was trained on.

    Args:
        streams: data sets that are learned from, by name. Names of groups are those of one stream and its evaluations;
            a file that one stream learns from is known to the backbone, whichever task is measured on it.
        evals: the stream that an evaluation belongs to, and its data set, by the name of the evaluation. One called
            "train" says itself that it is no test: it measures how well the training went, and is let through.

    Raises:
        UserError: a group of both, with the name of one record of each; a file of another stream; nothing but images
            that are learned.
    """
    for stream, train in streams.items():
        _check_images(train, {name: dataset for name, (own, dataset) in evals.items() if own == stream})
        _check_groups(train, {name: dataset for name, (own, dataset) in evals.items() if own == stream})
        known = {file: record for record in _plain(train) for file in record.images}
        for name, (own, dataset) in evals.items():
            seen = next((file for record in _plain(dataset) for file in record.images if file in known), None)
            if own != stream and name != "train" and seen is not None:
                what = f"{seen.name} is in the evaluation {name!r}, and in the training data of {stream!r}"
                fix = "one backbone learns from all streams: split their images alike"
                raise UserError(what, where=seen, fix=fix)


def _check_images(train: Any, evals: Mapping[str, Any]) -> None:
    """Refuse an evaluation of nothing but learned images; of some that were learned, say so in its report."""
    files = {record.images for record in _plain(train)}
    for name, dataset in evals.items():
        records = [one for one in _plain(dataset) if one.images]
        again = [record for record in records if record.images in files]
        has_truth = any(one.label_map or one.image_labels is not None or len(one.objects) for one in again)
        if name == "train" or not has_truth:
            continue
        if len(again) == len(records):
            what = f"leakage: all {len(records)} images of the evaluation {name!r} are training data"
            fix = 'measure on other images: --val-split, or --val; an evaluation on training data is called "train"'
            raise UserError(what, where=again[0].images[0], fix=fix)
        for record in again:
            dataset.report.note(LEARNED, str(record.images[0]), "kept")
        dataset.info.dropped[LEARNED] = len(again)


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
        what = f"group leakage across splits: {first}{more} is in the training data and in the evaluation {name!r}"
        where = f"{known[first].id} ({known[first].images[0]}), {own[first].id} ({own[first].images[0]})"
        fix = 'split by patient (or scene): no group may be in both; an evaluation on training data is called "train"'
        raise UserError(what, where=where, fix=fix)


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

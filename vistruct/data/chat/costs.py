"""What of a data set a task can be trained on, and what each sample will cost it, found out before the first step.

A conversation that is too long is known by its text and the sizes of its images; no pixel is decoded for it. What was
measured is kept beside the index of the data.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from vistruct.contracts import Costs, Dataset, Measurer
from vistruct.data.account import Account, check_left_out
from vistruct.data.chat.records import Records, Source
from vistruct.data.chat.sources import count
from vistruct.data.dataset import RecordDataset, conversation_info
from vistruct.data.loading.columns import cache_file, keep_columns, kept_columns
from vistruct.data.loading.parallel import in_parallel
from vistruct.issues import IssueCounter

COSTS = tuple(field.name for field in dataclasses.fields(Costs))
_JOB_ROWS = 2000


def admit(
    dataset: Dataset,
    measurer: Measurer | None,
    *,
    max_left_out: float,
    cache: Path | None = None,
    processes: int | None = None,
) -> tuple[Dataset, Costs | None]:
    """The samples that can be trained on, and their costs.

    Args:
        measurer: of the task; None: every sample will do, and none has a known cost.
        max_left_out: part of the lines of any one data set that may be unusable, in [0, 1].
        cache: folder that measures are kept in; None: they are not kept.
        processes: that measure; None: one for each core.

    Returns:
        The data set without what cannot be used, with that counted in its accounts and its info; and what each sample
        of it costs, where there is a measurer and the data set is one of conversations.

    Raises:
        UserError: too much of a data set is left out, by its files and the measurer together.
    """
    if measurer is None or not isinstance(dataset, RecordDataset) or not isinstance(dataset.records, Records):
        return dataset, None
    measured = [_measured(source, measurer, cache, processes) for source in dataset.records.sources]
    kept = [~one.is_left_out for one in measured]
    records = dataset.records.keep(kept)
    sources = zip(dataset.records.sources, records.sources, strict=True)
    accounts = [
        _settled(account, before, after, one)
        for account, (before, after), one in zip(dataset.accounts, sources, measured, strict=True)
    ]
    check_left_out(accounts, max_left_out)
    repeated = [
        np.tile(one.costs[:, is_kept], source.repeats)
        for one, is_kept, source in zip(measured, kept, records.sources, strict=True)
    ]
    costs = np.concatenate(repeated, axis=1)
    info = conversation_info(records, accounts, dataset.report, dataset.info.fingerprint)
    admitted = dataclasses.replace(dataset, records=records, info=info, accounts=tuple(accounts))
    return admitted, Costs(**dict(zip(COSTS, costs, strict=True)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Measured:
    """The rows of one source."""

    costs: np.ndarray  # int32[4, n], in the order of COSTS
    reasons: np.ndarray  # int32[n], places among `words`; 0: none
    is_left_out: np.ndarray  # bool[n]
    words: tuple[str, ...]  # "" first


def _measured(source: Source, measurer: Measurer, cache: Path | None, processes: int | None) -> _Measured:
    """Measures of all rows, from the cache where they are there."""
    file = header = None
    if cache is not None:
        file = cache_file(cache, "costs", source.index.offsets.path, source.root, source.name)
        header = {"measurer": measurer.key, "data": source.identity}
        if (columns := kept_columns(file, header)) is not None:
            words = tuple(columns["words"].tolist())
            return _Measured(
                costs=columns["costs"], reasons=columns["reasons"], is_left_out=columns["is_left_out"], words=words
            )
    jobs = [source.rows[at : at + _JOB_ROWS] for at in range(0, len(source.rows), _JOB_ROWS)]
    label = f"measuring {source.name or source.index.offsets.path.name}, x {_JOB_ROWS:,} conversations"
    parts = list(in_parallel(_measure, (source, measurer), jobs, label=label, processes=processes))
    rows = [row for part in parts for row in part]
    words = {"": 0}
    measured = _Measured(
        costs=np.array([costs for costs, _, _ in rows], np.int32).reshape(-1, len(COSTS)).T,
        reasons=np.array([words.setdefault(reason, len(words)) for _, reason, _ in rows], np.int32),
        is_left_out=np.array([is_left_out for _, _, is_left_out in rows], bool),
        words=tuple(words),
    )
    if file is not None and header is not None:
        columns = {name: vars(measured)[name] for name in ("costs", "reasons", "is_left_out")}
        keep_columns(file, header, {**columns, "words": np.array(measured.words)})
    return measured


def _measure(shared: tuple[Source, Measurer], rows: np.ndarray) -> list[tuple[tuple[int, ...], str, bool]]:
    source, measurer = shared
    found = []
    for row in rows.tolist():
        one = measurer(source.record(row), source.sizes_hw(row))
        found.append((tuple(vars(one)[name] for name in COSTS), one.reason, one.is_left_out))
    return found


def _settled(account: Account, before: Source, after: Source, measured: _Measured) -> Account:
    """The account with what the measurer left out or cut."""
    left_out, repaired = IssueCounter(), IssueCounter()
    left_out.merge(account.left_out)
    repaired.merge(account.repaired)
    for place in np.flatnonzero(measured.reasons):
        report, effect = (left_out, "left out") if measured.is_left_out[place] else (repaired, "repaired")
        report.note(measured.words[measured.reasons[place]], before.index.offsets.place(before.rows[place]), effect)
    too_long = measured.costs[COSTS.index("tokens")][measured.is_left_out]
    return dataclasses.replace(
        account,
        longest_row=int(too_long.max(initial=0)),
        used=len(after.rows),
        left_out=left_out,
        repaired=repaired,
        counts=account.counts if len(after.rows) == account.used else count(after.index, after.rows),
    )

"""A study as jobs: function calls with JSON in and out, run in parallel, each kept once it is finished.

A job names a function, its arguments and the jobs whose results it needs. `run_jobs` starts each as soon
as its needs are there, in processes that stay for the next job, and writes its result to `jobs/<name>.json`
with a hash of what it was asked. Started again, a study does only what is missing or was asked differently.
The hash holds no code: after a change of a function, give its jobs another argument or remove their files.
"""

from __future__ import annotations

import graphlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistruct.errors import UserError, closest
from vistruct.study.display import Display, display
from vistruct.study.workers import Failed, Finished, Pool, Request

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_GIVEN = ("results", "report")  # what every job's function gets beside its arguments


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of a study.

    The function is called as `function(**arguments, results=..., report=...)` and gives a dict: `results` are
    those of the needed jobs by name, and `report(done, total, text="")` tells how far it is. Jobs share
    processes: what is random in one must be seeded by its arguments, never by a global state.
    """

    name: str  # also its file's name: letters, digits, '.', '_' and '-'
    call: str  # module:function
    arguments: Mapping[str, Any] = field(default_factory=dict)  # JSON
    needs: tuple[str, ...] = ()  # names of jobs
    cost: float = 1.0  # rough length in any unit; of the jobs that can start, the longest chain starts first


def run_jobs(
    jobs: Sequence[Job],
    out: Path,
    *,
    workers: int,
    threads: int = 1,
    devices: Sequence[str] = (),
    show: Display | None = None,
) -> dict[str, dict[str, Any]]:
    """Run the jobs that have no result yet.

    Args:
        out: the study's directory; results and what jobs print go to its `jobs/`.
        workers: processes at a time.
        threads: of each process, for torch and OpenMP.
        devices: accelerators by their names in CUDA_VISIBLE_DEVICES; each process sees one, dealt out evenly.
        show: how to tell what goes on; by default bars on a terminal and lines elsewhere.

    Returns:
        each job's result by name, in the order of `jobs`, as JSON gives it back: keys are text.

    Raises:
        UserError: a name twice or unfit for a file, an unknown or circular need, arguments that are not JSON;
            or a job that failed, after those running beside it have finished and are kept.
    """
    if workers < 1 or threads < 1:
        raise UserError(f"workers={workers} and threads={threads} must be at least 1", fix="workers=2, threads=1")
    order = _checked(jobs)
    hashes = _hashes(order)
    folder = out / "jobs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "check that the place exists and may be written to"
        raise UserError(f"cannot make the study's directory: {error}", where=folder, fix=fix) from error

    results = {
        job.name: result
        for job in order
        if (result := _from_before(folder / f"{job.name}.json", hashes[job.name])) is not None
    }
    waiting = [job for job in _longest_first(jobs, order) if job.name not in results]
    by_name = {job.name: job for job in jobs}
    failures: list[Failed] = []
    with display() if show is None else show as shown, Pool(workers, threads, devices) as pool:
        shown.begin(len(jobs), len(results))
        while True:
            ready = [job for job in waiting if all(need in results for need in job.needs)]
            while ready and pool.has_room and not failures:
                job = ready.pop(0)
                waiting.remove(job)
                shown.started(job.name)
                pool.start(_job(job, results, folder))
            if not pool.num_busy:
                break
            for name, message in pool.messages():
                if isinstance(message, Failed):
                    failures.append(message)
                    shown.ended(name, None)
                elif isinstance(message, Finished):
                    results[name] = message.result
                    _keep(by_name[name], hashes[name], message, folder)
                    shown.ended(name, message.seconds)
                else:
                    shown.progressed(name, message.done, message.total, message.text)
    if failures:
        first, more = failures[0], len(failures) - 1
        what = first.what + (f" (and {more} more failed beside it)" if more else "")
        raise UserError(what, where=first.where, fix=first.fix)
    return {job.name: results[job.name] for job in jobs}


def _checked(jobs: Sequence[Job]) -> list[Job]:
    """The jobs with every need before what needs it."""
    by_name: dict[str, Job] = {}
    for job in jobs:
        if not _NAME.fullmatch(job.name):
            raise UserError(f"{job.name!r} cannot name a job and its file", fix="use letters, digits, '.', '_' and '-'")
        if job.name in by_name:
            raise UserError(f"two jobs are named {job.name!r}", fix="give each its own name")
        module, _, function = job.call.partition(":")
        if not (module and function):
            raise UserError(f"job {job.name!r} calls {job.call!r}", fix="write module:function")
        for given in _GIVEN:
            if given in job.arguments:
                raise UserError(f"job {job.name!r} has an argument {given!r}, which the runner gives", fix="rename it")
        by_name[job.name] = job
    for job in jobs:
        for need in job.needs:
            if need not in by_name:
                raise UserError(f"job {job.name!r} needs unknown {need!r}", fix=closest(need, by_name))
    try:
        order = graphlib.TopologicalSorter({job.name: job.needs for job in jobs}).static_order()
        return [by_name[name] for name in order]
    except graphlib.CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))  # the library lists it from need to needing
        raise UserError(f"jobs need each other in a circle: {circle}", fix="take one need out") from None


def _hashes(order: Sequence[Job]) -> dict[str, str]:
    """sha256 of what each job is asked, and of what its needs are asked, and so on down."""
    hashes: dict[str, str] = {}
    for job in order:
        asked = {
            "call": job.call,
            "arguments": dict(job.arguments),
            "needs": {need: hashes[need] for need in job.needs},
        }
        try:
            text = json.dumps(asked, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"job {job.name!r}: its arguments are not JSON: {error}",
                fix="give numbers, texts, lists and dicts",
            ) from error
        hashes[job.name] = hashlib.sha256(text.encode()).hexdigest()
    return hashes


def _longest_first(jobs: Sequence[Job], order: Sequence[Job]) -> list[Job]:
    """By the cost of the longest chain that begins with a job; equal ones as they were given."""
    cost = {job.name: job.cost for job in jobs}
    chain = dict(cost)
    for job in reversed(order):  # those that need it have been settled
        for need in job.needs:
            chain[need] = max(chain[need], cost[need] + chain[job.name])
    return sorted(jobs, key=lambda job: -chain[job.name])


def _job(job: Job, results: Mapping[str, dict[str, Any]], folder: Path) -> Request:
    return Request(
        name=job.name,
        call=job.call,
        arguments=json.loads(json.dumps(dict(job.arguments))),  # as hashed: tuples are lists
        results={need: results[need] for need in job.needs},
        log=folder / f"{job.name}.log",
    )


def _keep(job: Job, digest: str, done: Finished, folder: Path) -> None:
    # Here and not above: a worker imports the main module again, and through it this file. Without torch it
    # then starts at once.
    from vistruct.checkpoint.save import write_json

    record = {
        "hash": digest,
        "call": job.call,
        "arguments": dict(job.arguments),
        "needs": list(job.needs),
        "seconds": round(done.seconds, 3),
        "result": done.result,
    }
    write_json(folder / f"{job.name}.json", record)


def _from_before(path: Path, digest: str) -> dict[str, Any] | None:
    """The kept result of the same question; None where there is none, or the file is not whole."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):  # no JSON or no text; it is made again
        return None
    if not isinstance(record, dict) or record.get("hash") != digest or not isinstance(record.get("result"), dict):
        return None
    return record["result"]

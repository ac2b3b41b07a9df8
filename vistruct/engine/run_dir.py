"""The directory of a run: made once, and later entered only by the same run on the same data."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vistruct.checkpoint.save import write_json, write_text
from vistruct.config import Run, flat, read_run, run_to_yaml
from vistruct.contracts import DataInfo
from vistruct.data.chat.image_facts import settle
from vistruct.distributed.ranks import Ranks, from_main
from vistruct.engine.environment import describe
from vistruct.engine.trainable import Plan
from vistruct.errors import UserError
from vistruct.files.in_use import in_use, is_empty
from vistruct.files.json_files import read_record
from vistruct.files.owned import free

# What may differ between the run that began and the run that goes on: none of it touches the weights, but for rounding
# where a batch is cut otherwise. That has to be possible: a run may go on with fewer devices. So may what is done about
# an image that broke under way (`on_broken`): where none did it changes nothing.
FREE = (
    *("recipe", "workers", "log", "log_every", "save_every", "save_async", "keep", "max_left_out"),
    *("accumulate", "parallel"),
    *("cache_maps.folder", "cache_maps.limit_gb"),
)

COUNTED = ("steps", "epochs", "eval_every", "schedule.warmup_steps")  # as numbers when the data have been read


@contextmanager
def open_run_dir(run: Run, out_dir: Path, ranks: Ranks) -> Generator[None]:
    """Make `out_dir` this run's directory, or check that it already is; meanwhile no other process trains in it.

    Rank 0 looks and makes it alone: another rank could come to a directory that is half made.

    Raises:
        UserError: on every rank; the directory is another run's (with the first differences), holds other things, or
            is in use.
    """
    refused = None
    with ExitStack() as held:
        if ranks.is_main:
            try:
                if out_dir.exists() and not out_dir.is_dir():
                    raise UserError("this is a file", where=out_dir, fix="choose another --out")
                held.enter_context(in_use(out_dir, "this run is being trained"))
                _enter(run, out_dir)
                write_json(out_dir / "env.json", describe(ranks.device, ranks.world))
            except UserError as error:
                refused = error
        refused = from_main(refused)
        if refused is not None:
            raise refused
        yield


def _enter(run: Run, out_dir: Path) -> None:
    file = out_dir / "run.yaml"
    before = read_run(file) if file.exists() else None
    if before is not None:
        is_counted = is_settled(before) and is_settled(run)  # else what is counted is compared when it has been
        differences = changed(before, run, () if is_counted else COUNTED)
        is_ours = (out_dir / "env.json").exists()
        if not is_ours and before != run:
            what = "a run.yaml of another run, which no training wrote"
            raise UserError(what, where=file, fix=f"--out {free(out_dir)}")
        if differences and (out_dir / "data.json").exists():  # else it never got beyond reading its data
            raise _another(differences, out_dir)
    elif not is_empty(out_dir):
        raise UserError("not empty, and not a run directory", where=out_dir, fix=f"--out {free(out_dir)}")
    for orphan in out_dir.rglob(".*.partial"):  # of a start that was killed
        orphan.unlink()
    is_new = before is None or differences or not (out_dir / "data.json").exists()
    if before != run and (is_new or is_settled(run)):  # else it may have remarks of its own
        write_text(file, run_to_yaml(run))  # first of all: from now on this is a run directory


def _another(differences: Sequence[str], out_dir: Path) -> UserError:
    shown = "; ".join(differences[:3]) + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
    return UserError(
        f"this directory holds a different run ({shown})",
        where=out_dir,
        fix=f"choose another --out, or resume that run: vistruct train -c {out_dir}/run.yaml --out {out_dir}",
    )


def is_settled(run: Run) -> bool:
    """Whether it says its steps as numbers; else they are counted when its data have been read."""
    return run.steps > 0 and run.eval_every != "auto" and run.schedule.warmup_steps is not None


def note_run(run: Run, out_dir: Path, ranks: Ranks) -> None:
    """Write a run into its directory with its steps as numbers, or check that they are those that it began with.

    Raises:
        UserError: on every rank; it began with others.
    """
    file, refused = out_dir / "run.yaml", None
    if ranks.is_main:
        before = read_run(file)
        differences = changed(before, run) if is_settled(before) else []
        if differences:
            refused = _another(differences, out_dir)
        elif before != run:
            write_text(file, run_to_yaml(run))
    refused = from_main(refused)
    if refused is not None:
        raise refused


def note_data(train: Mapping[str, DataInfo], evals: Mapping[str, DataInfo], out_dir: Path, ranks: Ranks) -> None:
    """Write data.json, or check that the training data is what it says.

    Args:
        train: of the training data of each stream.
        evals: of each evaluation's data, by name.

    Raises:
        UserError: the training data has changed since the run began.
    """
    file = out_dir / "data.json"
    if file.exists():
        noted = read_record(file, Noted, "remove it: the next start writes it again").train
        for name, info in train.items():
            before = noted[name].fingerprint if name in noted else "of no stream of this name"
            if before != info.fingerprint:
                whose = "" if len(train) == 1 else f" of {name}"
                raise UserError(
                    f"the training data{whose} has changed since this run began "
                    f"(fingerprint {before[:12]} -> {info.fingerprint[:12]})",
                    where=file,
                    fix="put the data back as it was, or train in a new directory",
                )
    elif ranks.is_main:
        kinds = {"train": train, "evals": evals}
        write_json(file, {kind: {name: info_to_dict(i) for name, i in infos.items()} for kind, infos in kinds.items()})
        settle(out_dir / "index")


class NotedData(BaseModel):
    """Of what data.json says of one data set, what is compared."""

    fingerprint: str


class Noted(BaseModel):
    """data.json, by stream and by evaluation."""

    train: dict[str, NotedData]
    evals: dict[str, NotedData]


def note_plan(plan: Plan, out_dir: Path, ranks: Ranks) -> None:
    """Write plan.json: how many parameters train, of all and by rule."""
    if ranks.is_main:
        rules = [
            {
                "pattern": rule.pattern,
                "mode": rule.mode,
                "lr_factor": rule.lr_factor,
                "tensors": rule.tensors,
                "trainable": rule.trainable,
                "frozen": rule.frozen,
            }
            for rule in plan.rules
        ]
        write_json(out_dir / "plan.json", {"trainable": plan.trainable, "parameters": plan.total, "rules": rules})


def info_to_dict(info: DataInfo) -> dict[str, Any]:
    """All of it that can be written down."""
    return {
        "class_names": list(info.class_names),
        "map_class_names": list(info.map_class_names),
        "palette": info.palette and [list(colour) for colour in info.palette],
        "channels": info.channels,
        "pixels": info.pixels,
        "mean": info.mean,
        "std": info.std,
        "pixel_counts": info.pixel_counts,
        "input": dict(info.input),
        "num_records": info.num_records,
        "fingerprint": info.fingerprint,
        "counts": dict(info.counts),
        "dropped": dict(info.dropped),
    }


def changed(before: Run, after: Run, apart_from: Sequence[str] = ()) -> list[str]:
    """`key: old -> new` of each setting that decides the weights and differs."""
    old, new = flat(before.model_dump(mode="json")), flat(after.model_dump(mode="json"))
    return [
        f"{key}: {old.get(key, 'unset')} -> {new.get(key, 'unset')}"
        for key in [*old, *(key for key in new if key not in old)]
        if key not in FREE and key not in apart_from and not key.endswith(".on_broken") and old.get(key) != new.get(key)
    ]

"""One backbone taught by several tasks on data of their own: boxes, pixels, classes, captions, talk, in any mix.

Run:      vistruct train joint --task boxes=detect:data/boxes.json --task fields=segment:data/masks
Needs:    as the tasks together; one micro-batch of one task is in memory at a time
Expect:   depends on the data; no published number
Source:   every task in every step: multi-task pretraining, MTP (Wang et al., arXiv:2403.13430); one task drawn for each
          step: ViSFT (Jiang et al., arXiv:2401.10222)
Differs:  each term of the loss is divided by its own units over the whole step, so that neither the size of a batch nor
          how it is split decides which task is heard
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from vistruct.config import STREAM_NAME, Eval, Run, Schedule, Stream
from vistruct.data.reading import Named
from vistruct.errors import UserError, closest
from vistruct.recipes import caption, change, classify, detect, oriented, segment
from vistruct.recipes.fit import BY_DATA, Fit, fitted
from vistruct.recipes.options import called, convert, option, options_of
from vistruct.recipes.small import small_vit
from vistruct.recipes.vitp import pretrain
from vistruct.samples import trees
from vistruct.samples.made_maps import loveda_folder

TASKS: dict[str, Callable[..., Run]] = {
    "detect": detect.recipe,
    "oriented": oriented.recipe,
    "segment": segment.recipe,
    "change": change.recipe,
    "classify": classify.recipe,
    "caption": caption.recipe,
    "instruct": pretrain.recipe,
}
# Options of a task's recipe that are the whole run's.
OF_ALL = ("data", "backbone", "timm", "steps", "lr", "seed", *(one.name for one in fields(Fit)))


def recipe(
    *,
    task: tuple[Named, ...],  # NAME=KIND:PATH, such as boxes=detect:data/boxes.json; twice or more
    option: tuple[Named, ...] = (),  # NAME.OPTION=VALUE, such as boxes.val=data/val.json; any of that recipe's own
    weight: tuple[Named, ...] = (),  # NAME=FACTOR on a task's loss, or how often it is drawn; 1 where nothing is said
    draw: Literal["every", "one"] = "every",  # tasks that a step learns from: all of them, or one drawn by weight
    trunk: tuple[Named, ...] = (),  # NAME=OTHER: neck and head of a task are another's, all but its last layers
    one_pass: bool = False,  # the images of all tasks go through the backbone as one batch
    backbone: Path | None = None,  # run, backbone directory or InternViT weights; None: ViT-S from scratch
    timm: str | None = None,  # name of a timm model in place of the ViT; `backbone` is then a file of its weights
    steps: int | None = None,  # None: those of epochs, of the task that takes longest
    lr: float = 1e-4,
    seed: int = 0,
    fit: Fit = BY_DATA,  # how long, and which weights are kept
) -> Run:
    """Several tasks over one backbone, each with the data, head and evaluations of its own recipe."""
    asked = _tasks(task)
    own = _options(option, {name: kind for name, (kind, _) in asked.items()})
    factors = {
        name: convert(value, float, f"--weight {name}=") for name, value in _split(weight, "=", asked, "--weight")
    }
    trunks = dict(_split(trunk, "=", asked, "--trunk"))
    runs = {name: _alone(kind, path, own[name], backbone, timm, seed) for name, (kind, path) in asked.items()}
    first: Any = next(iter(runs.values())).only.task
    streams, evals = {}, {}
    for name, run in runs.items():
        same: Any = run.only.task
        told = {
            "task": same.model_copy(update={"backbone": first.backbone}),
            "weight": factors.get(name, 1.0),
            "trunk": trunks.get(name, ""),
        }
        streams[name] = Stream.model_validate(dict(run.only) | told)
        for measured, one in run.evals.items():
            called = name if measured == "val" else f"{name}_{measured}"
            if called in evals:
                what, fix = f"two evaluations are called {called!r}", f"another name for the task {name!r}"
                raise UserError(what, where="--task", fix=fix)
            evals[called] = Eval(data=one.data, metric=one.metric, task=name, at_end=one.at_end)
    base = next(iter(runs.values()))
    told = {
        "recipe": "joint",
        "streams": streams,
        "draw": draw,
        "one_pass": one_pass,
        "evals": evals,
        "init": backbone,
        "accumulate": "auto" if any(run.accumulate == "auto" for run in runs.values()) else 1,
        "optim": base.optim.model_copy(update={"lr": lr, "layer_decay": 1.0 if backbone is None else 0.8}),
        "seed": seed,
        **fitted(fit, steps, evals, first),
    }
    return Run.model_validate(dict(base) | told)


def tiny() -> Run:
    """A few steps on tree crowns and on made-up land cover; it hardly learns."""
    run = recipe(
        task=(Named(f"boxes=detect:{trees().train}"), Named(f"fields=segment:{loveda_folder()}")),
        option=(
            *(Named(f"boxes.{text}") for text in (f"val={trees().test}", "size=256", "overlap=64", "fraction=0.1")),
            *(Named(f"fields.{text}") for text in ("split=train", "val_split=val", "size=64", "overlap=16")),
        ),
        steps=4,
    )
    alone = {"boxes": detect.tiny().only.task, "fields": segment.tiny().only.task}
    streams = {
        name: stream.model_copy(
            update={"task": alone[name].model_copy(update={"backbone": small_vit(stem="conv")}), "batch": 2}
        )
        for name, stream in run.streams.items()
    }
    quick = {"workers": 0, "log_every": 1, "eval_every": None, "schedule": Schedule()}
    return run.model_copy(update={"streams": streams, **quick})


def _tasks(given: Sequence[str]) -> dict[str, tuple[str, Path]]:
    """Kind and path of each task, by its name.

    Raises:
        UserError: one task alone, no such kind or path, a name twice or one that no stream can have.
    """
    found: dict[str, tuple[str, Path]] = {}
    for text in given:
        name, has_kind, rest = text.partition("=")
        kind, has_path, place = rest.partition(":")
        if not (has_kind and has_path and name and place):
            raise UserError(f"--task {text}", where="--task", fix="--task NAME=KIND:PATH, as boxes=detect:boxes.json")
        if not STREAM_NAME.fullmatch(name):
            fix = "small letters, digits and _, a letter first"
            raise UserError(f"a task called {name!r}", where=f"--task {text}", fix=fix)
        if kind not in TASKS:
            raise UserError(f"no task of kind {kind!r}", where=f"--task {text}", fix=closest(kind, TASKS))
        if name in found:
            raise UserError(f"two tasks are called {name!r}", where="--task", fix="give each a name of its own")
        found[name] = kind, convert(place, Path, "--task")
    if len(found) < 2:
        what = f"{len(found)} task{'' if len(found) == 1 else 's'}"
        raise UserError(f"{what}, where several learn together", where="--task", fix="name two, or train one alone")
    return found


def _options(given: Sequence[str], kinds: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Keyword arguments for the recipe of each task.

    Raises:
        UserError: no such task or option, a value that does not fit.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    for name, text in _split(given, ".", kinds, "--option"):
        key, _, value = text.partition("=")
        key = key.replace("-", "_")
        made = TASKS[kinds[name]]
        known = {one: told for one, told in options_of(made).items() if one not in OF_ALL}
        if key not in known:
            fix = f"{option(key)} is the whole run's" if key in OF_ALL else closest(key, known)
            raise UserError(f"{kinds[name]} has no option {key!r} of its own", where=f"--option {name}.{text}", fix=fix)
        found[name][key] = convert(value, known[key].hint, f"--option {name}.{key}=")
    return found


def _split(given: Sequence[str], mark: str, names: Any, flag: str) -> list[tuple[str, str]]:
    """(name, what is said of it).

    Raises:
        UserError: no such name.
    """
    found = [(name, rest) for name, _, rest in (text.partition(mark) for text in given)]
    for name, rest in found:
        if name not in names:
            raise UserError(f"no task {name!r}", where=f"{flag} {name}{mark}{rest}", fix=closest(name, names))
    return found


def _alone(kind: str, path: Path, own: dict[str, Any], backbone: Path | None, timm: str | None, seed: int) -> Run:
    """The run of one task, if it were alone."""
    shared: dict[str, Any] = {"data": path, "backbone": backbone, "timm": timm, "seed": seed}
    if kind == "instruct":
        shared |= {"size": "small"}
    return called(TASKS[kind], shared | own)

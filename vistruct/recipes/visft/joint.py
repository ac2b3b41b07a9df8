"""Vision fine-tuning by tasks: heads that learned on a frozen backbone are frozen, and adapt it (ViSFT, stage 2).

Run:      vistruct train visft.joint --start detect=runs/detect --start segment=runs/segment
              --start caption=runs/caption
              --snapshots 5000,10000,15000,20000,50000 --steps 100000 --devices 8
Needs:    published: 8 accelerators of 32 GB, under two days for a backbone of 4.4 billion
Expect:   no published number: its evaluation was never released
Source:   ViSFT (Jiang et al., arXiv:2401.10222): a step learns from one task, drawn (captions 0.4, boxes 0.3, masks
          0.3) alike on all devices; batches of 64, 8 and 8; adapters (LoRA) of rank 64 times 1/64 on queries and values
          of every block; AdamW at 1e-5, decay 1e-4, 2,000 steps of warm-up, a cosine to 0 over 100,000, gradients
          clipped at norm 0.1, which is what balances the tasks. The released adapters are snapshots of one such run.
Differs:  Heads are in eval mode: there their dropout is left on (`--head-dropout`). Adapters are float32 throughout:
          there they are rounded to float16 after every step, by which small steps are lost. AdamW is torch's, with
          epsilon behind the bias correction; tiny clipped gradients feel the difference. Every image of a batch is
          learned from: there the masks of the first alone. Each term is divided by its units over all devices.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vistruct.checkpoint.load import is_ours, read_card
from vistruct.config import STREAM_NAME, AdamW, Eval, Lora, Run, Schedule, Stream, Trainable
from vistruct.data.reading import Named
from vistruct.errors import UserError, closest
from vistruct.recipes.options import called, convert, option, options_of

TASKS = ("detect", "segment", "caption")  # whose heads were released
SHARES = {"caption": 0.4, "segment": 0.3, "detect": 0.3}  # of the steps
BATCHES = {"caption": 64, "segment": 8, "detect": 8}  # over all devices


def recipe(
    *,
    start: tuple[Named, ...],  # NAME=RUN of one task over the frozen backbone; its data and evaluations come along.
    # Or NAME=FILE of released heads, of detect, segment or caption: then --data NAME=PATH, --model and --backbone too
    data: tuple[Named, ...] = (),  # NAME=PATH, other data to learn from; of a run, in place of its own
    val: tuple[Named, ...] = (),  # NAME=PATH to measure on, never trained on
    option: tuple[Named, ...] = (),  # NAME.OPTION=VALUE for released heads: of the recipe visft.NAME
    weight: tuple[Named, ...] = (),  # NAME=SHARE of the steps; published where nothing is said, 1 for other names
    batch: tuple[Named, ...] = (),  # NAME=SAMPLES in a step of this task; None: those of its run, or published
    loss: tuple[Named, ...] = (),  # NAME=FACTOR on the whole loss of a task
    draw: Literal["one", "every"] = "one",  # tasks in a step: one that is drawn, or all
    model: str | None = None,  # eva_g or eva02_e, for released heads
    backbone: Path | None = None,  # weights of the backbone, for released heads
    rank: int = 64,
    scale: float | None = None,  # what an adapter gives is multiplied by; None: 1 / rank
    parts: tuple[Literal["q", "k", "v"], ...] = ("q", "v"),  # of each fused layer
    layers: str = "backbone",  # which layers are adapted: a name or a pattern; with --parts "" also others than qkv
    head_dropout: bool = False,  # frozen heads stay in training mode, as published
    steps: int = 100_000,
    lr: float = 1e-5,
    clip: float = 0.1,  # norm of a step's gradient
    snapshots: tuple[int, ...] = (),  # steps after which the adapters are kept beside: 5000,10000,15000,20000,50000
    seed: int = 0,
) -> Run:
    """Adapters in a backbone that heads of several tasks read: what is kept is the adapter."""
    starts = _named(start, "--start")
    others, measured = _named(data, "--data", starts), _named(val, "--val", starts)
    own = _options(option, starts)
    if not any(source.is_file() for source in starts.values()) and (model or backbone):
        what = "runs bring their backbone along; --model and --backbone are of released heads"
        raise UserError(what, where=f"--model {model}" if model else f"--backbone {backbone}", fix="leave it out")
    told: dict[str, _Told] = {}
    for name, source in starts.items():
        if source.is_file():
            told[name] = _of_file(name, source, others, measured, own, model, backbone)
            continue
        if own[name]:
            what, fix = "options of a recipe, and the task comes from a run", f"--set streams.{name}.KEY=VALUE"
            raise UserError(what, where=f"--option {name}", fix=fix)
        if not is_ours(source):
            what = "no run of ours: a task starts from a finished run, or from a file of released heads"
            raise UserError(what, where=f"--start {name}={source}", fix="vistruct train visft.detect ... makes one")
        told[name] = _of_run(name, read_card(source, name).run, source, others.get(name), measured.get(name))
    return _adapted(
        told, weight=weight, batch=batch, loss=loss, draw=draw, backbone=backbone, rank=rank, scale=scale, parts=parts,
        layers=layers, head_dropout=head_dropout, steps=steps, lr=lr, clip=clip, snapshots=snapshots, seed=seed,
    )  # fmt: skip


def of_runs(runs: Mapping[str, tuple[Run, Path]], **options: Any) -> Run:
    """The same over runs that are still to be trained, and where they will be; `options` are those of `recipe`."""
    told = {name: _of_run(name, run, place, None, None) for name, (run, place) in runs.items()}
    own = inspect.signature(_adapted).parameters
    usual = {name: one.default for name, one in options_of(recipe).items() if name in own}
    return _adapted(told, **usual | options)


def tiny() -> Run:
    """A few steps over the tiny runs of the stages, whose heads have learned nothing yet; it shows that all goes."""
    told = {name: _named_after(_module(name).tiny(), name) for name in TASKS}
    run = _adapted(
        told, weight=(), batch=(), loss=(), draw="one", backbone=None, rank=4, scale=None, parts=("q", "v"),
        layers="backbone", head_dropout=False, steps=6, lr=1e-3, clip=0.1, snapshots=(3,), seed=0,
    )  # fmt: skip
    return run.model_copy(update={"workers": 0, "log_every": 1})


@dataclass(frozen=True, kw_only=True)
class _Told:
    """A task of the joint run: what it learns from, and what it is measured on."""

    stream: Stream
    evals: Mapping[str, Eval]  # by name in the run


def _adapted(
    told: Mapping[str, _Told],
    *,
    weight: Sequence[str],
    batch: Sequence[str],
    loss: Sequence[str],
    draw: Literal["one", "every"],
    backbone: Path | None,
    rank: int,
    scale: float | None,
    parts: tuple[Literal["q", "k", "v"], ...],
    layers: str,
    head_dropout: bool,
    steps: int,
    lr: float,
    clip: float,
    snapshots: tuple[int, ...],
    seed: int,
) -> Run:
    """The run: tasks frozen, adapters in the backbone that they share."""
    first: Any = next(iter(told.values())).stream.task
    shares, sizes, factors = (
        {name: convert(text, hint, f"{flag} {name}=") for name, text in _split(given, flag, told)}
        for given, hint, flag in ((weight, float, "--weight"), (batch, int, "--batch"), (loss, float, "--loss"))
    )
    streams = {}
    for name, one in told.items():
        task: Any = one.stream.task
        same = first.backbone if one.stream.start is None else task.backbone  # of starts the run says what differs
        given: dict[str, Any] = {"task": task.model_copy(update={"backbone": same})}
        given |= {"weight": shares.get(name, SHARES.get(name, 1.0)), "batch": sizes.get(name, one.stream.batch)}
        given |= {"loss_weights": one.stream.loss_weights | {"*": factors[name]}} if name in factors else {}
        streams[name] = Stream.model_validate(dict(one.stream) | given)
    return Run(
        recipe="visft.joint",
        streams=streams,
        draw=draw,
        evals={called_: one for each in told.values() for called_, one in each.evals.items()},
        init=backbone,
        trainable=(
            Trainable(pattern="*", mode="frozen", train_mode=head_dropout),
            Trainable(
                pattern=layers,
                mode="lora",
                lora=Lora(rank=rank, scale=1 / max(rank, 1) if scale is None else scale, parts=parts),
            ),
        ),
        steps=steps,
        optim=AdamW(lr=lr, weight_decay=1e-4),
        schedule=Schedule(warmup_steps=min(2000, steps // 10)),
        clip_norm=clip,
        snapshots=snapshots,
        seed=seed,
        save_every=500,
    )


def _of_run(name: str, run: Run, source: Path, data: Path | None, val: Path | None) -> _Told:
    """The task of a run, with its data and evaluations."""
    given: dict[str, Any] = {"start": source, "samples": "", "trunk": ""}
    if data is not None:
        given["data"] = _elsewhere(run.only.data, data)
    found = _named_after(run, name)
    evals = dict(found.evals)
    if val is not None:
        if not evals:
            what = "this run measures nothing, and so does not say how"
            fix = f"train it with --val, or leave --val {name} out and measure later: vistruct eval"
            raise UserError(what, where=f"--val {name}={val}", fix=fix)
        evals = {called_: one.model_copy(update={"data": _elsewhere(one.data, val)}) for called_, one in evals.items()}
    return _Told(stream=Stream.model_validate(dict(found.stream) | given), evals=evals)


def _elsewhere(data: Any, path: Path) -> Any:
    """The same kind of data at another place, read in the same way."""
    places = [field for field in ("annotation", "root", "path", "jsonl") if field in type(data).model_fields]
    return data.model_copy(update={places[0]: path})


def _of_file(
    name: str,
    source: Path,
    data: Mapping[str, Path],
    val: Mapping[str, Path],
    own: Mapping[str, dict[str, Any]],
    model: str | None,
    backbone: Path | None,
) -> _Told:
    """A task with released heads, on data that are told here."""
    if name not in TASKS:
        what = f"heads were released for {', '.join(TASKS)}, and {name!r} starts from a file"
        raise UserError(what, where=f"--start {name}={source}", fix=closest(name, TASKS))
    if name not in data:
        what = "released heads come without data"
        raise UserError(what, where=f"--start {name}={source}", fix=f"--data {name}=PATH")
    made = _module(name).recipe
    given: dict[str, Any] = {"data": data[name], "start": source, "backbone": backbone} | own[name]
    given |= {"val": val[name]} if name in val else {}
    given |= {"model": model} if model is not None else {}
    told = _named_after(called(made, given), name)
    return _Told(stream=Stream.model_validate(dict(told.stream) | {"batch": BATCHES[name]}), evals=told.evals)


def _named_after(run: Run, name: str) -> _Told:
    """The stream of a run of one task, its evaluations named after it."""
    evals = {
        name if called_ == "val" else f"{name}_{called_}": one.model_copy(update={"task": name})
        for called_, one in run.evals.items()
    }
    return _Told(stream=run.only, evals=evals)


def _module(name: str) -> Any:
    return importlib.import_module(f"vistruct.recipes.visft.{name}")


def _named(given: Sequence[str], flag: str, known: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """Paths by the name of their task.

    Raises:
        UserError: not NAME=PATH, a name twice, one that no stream can have, or none of the tasks'.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, is_one, place = text.partition("=")
        if not (is_one and place) or not STREAM_NAME.fullmatch(name):
            fix = f"{flag} detect=PATH; names are small letters, digits and _, a letter first"
            raise UserError(f"{flag} {text}", where=flag, fix=fix)
        if name in found:
            raise UserError(f"two of {flag} are called {name!r}", where=flag, fix="give each a name of its own")
        if known is not None and name not in known:
            raise UserError(f"no task {name!r}", where=f"{flag} {text}", fix=closest(name, known))
        found[name] = convert(place, Path, f"{flag} {name}=")
    if known is None and not found:
        raise UserError("no task to start from", where=flag, fix="--start detect=runs/detect")
    return found


def _split(given: Sequence[str], flag: str, names: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [(name, rest) for name, _, rest in (text.partition("=") for text in given)]
    for name, rest in found:
        if name not in names:
            raise UserError(f"no task {name!r}", where=f"{flag} {name}={rest}", fix=closest(name, names))
    return found


def _options(given: Sequence[str], names: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Keyword arguments for the recipe of each task with released heads."""
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in given:
        name, _, rest = text.partition(".")
        key, _, value = rest.partition("=")
        key = key.replace("-", "_")
        if name not in names or name not in TASKS:
            raise UserError(f"no task {name!r} with a recipe", where=f"--option {text}", fix=closest(name, names))
        known = options_of(_module(name).recipe)
        if key not in known:
            raise UserError(
                f"visft.{name} has no option {option(key)}", where=f"--option {text}", fix=closest(key, known)
            )
        found[name][key] = convert(value, known[key].hint, f"--option {name}.{key}=")
    return found

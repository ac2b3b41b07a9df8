"""A run is data: frozen parts, each a pydantic model that knows how to build its object.

A part that can be exchanged (a task, a backbone, a head, a data set) is found by its `kind`, so that a saved YAML
file is itself a valid input. Unknown keys are errors that name the closest known one.
"""

from __future__ import annotations

import re
import reprlib
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from vistruct.errors import UserError, closest
from vistruct.kinds import DataPart, MetricPart, Part, TaskPart
from vistruct.kinds import all_kinds as all_kinds
from vistruct.read_yaml import read_yaml
from vistruct.run_parts import AdamW as AdamW
from vistruct.run_parts import CacheMaps as CacheMaps
from vistruct.run_parts import Judge as Judge
from vistruct.run_parts import Lora as Lora
from vistruct.run_parts import Pack as Pack
from vistruct.run_parts import Schedule as Schedule
from vistruct.run_parts import Trainable as Trainable


class Eval(Part):
    """One evaluation: what on, and measured how."""

    data: DataPart
    metric: MetricPart
    task: str = ""  # the stream whose task is asked; "": the only one
    at_end: bool = False  # only after the last step: answers take their time


class Stream(Part):
    """Samples of one data set, and the task that learns from them on the run's backbone."""

    task: TaskPart
    data: DataPart
    batch: int = Field(gt=0)  # samples in a step, over all devices and micro-batches
    pack: Pack | None = None  # None: micro-batches of equally many samples
    start: Path | None = None  # a run or public model to start the task from as a whole, heads and language model too
    start_parts: dict[str, Path] = Field({})  # files for parts of the task, by module: projector, pointing.tower, ...
    start_set: str = ""  # of a file of MTP's pretraining: whose last layers, sota, sior or fast; "": as the classes say
    # Factors on terms of the task's loss, by name, "*" for all of them; 1 where nothing is said.
    loss_weights: dict[str, float] = Field({})
    shuffled: bool = False  # a control that cannot help: every image has the truth of another
    # Beside other streams:
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)  # factor on its loss, or how often it is drawn
    samples: str = ""  # the stream whose samples this task learns from too, decoded once: its data, batch and pack
    trunk: str = ""  # the stream whose neck and head this task's are, all but the layers that know the classes


STREAM_NAME = re.compile(r"[a-z][a-z0-9_]*")
MAIN = "main"  # the stream of a run that has one, whose fields then stand in the run itself
_BESIDE = ("weight", "samples", "trunk")  # what a stream alone cannot say
_FLAT = tuple(name for name in Stream.model_fields if name not in _BESIDE)
_OF_SAMPLES = ("data", "batch", "pack", "shuffled")  # said by the stream whose samples they are


class Run(Part):
    """Everything that decides what a training run does; `run.yaml` is this and nothing else."""

    recipe: str = ""  # the recipe that made it, for the record
    streams: dict[str, Stream] = Field(min_length=1)  # by name; all over one backbone
    draw: Literal["every", "one"] = "every"  # streams in a step: all of them, or one drawn by the weights
    one_pass: bool = False  # the images of all streams of a step go through the backbone together
    evals: dict[str, Eval] = Field({})
    init: Path | None = None  # a backbone directory, run directory or safetensors file to start the backbone from
    adapters: Path | None = None  # LoRA to begin with: a run, a folder of peft's, or a file of ViSFT
    trainable: tuple[Trainable, ...] = ()  # on top of "everything trains in full"
    cache_maps: CacheMaps | None = None  # of a backbone that is frozen, of images that are not varied; None: not kept
    # One of them; neither: as the number of samples asks for. A run that trains has steps (`engine.length.settled`).
    steps: int = Field(0, ge=0)  # optimiser steps; 0: not counted yet
    epochs: float | None = Field(None, gt=0, allow_inf_nan=False)  # passes over the training data
    # Micro-batches of a stream in a step, on each device; with `pack` by themselves; auto: as many as memory asks for.
    accumulate: Annotated[int, Field(gt=0)] | Literal["auto"] = 1
    parallel: Literal["ddp", "fsdp"] = "ddp"  # among devices: every one holds the whole model, or a part of it
    optim: AdamW = AdamW()
    schedule: Schedule = Schedule()
    clip_norm: float | None = Field(1.0, gt=0)  # None: no clipping
    # Decay of an exponential moving average (EMA) of the weights, which is measured and shipped; None: none
    ema: float | None = Field(None, gt=0, lt=1)
    # auto: bf16 where this machine is faster with it; fp16 scales its gradients, for GPUs without bf16; off: float32
    amp: Literal["auto", "bf16", "fp16", "off"] = "auto"
    seed: int = 0
    workers: int = Field(0, ge=0)  # loader processes for each device
    log: tuple[Literal["wandb", "mlflow"], ...] = ()  # where metrics go too, beside metrics.jsonl and TensorBoard
    log_every: int = Field(10, gt=0)  # steps
    # Steps; None: at the end only; auto: an epoch or a tenth of the run, whichever is more.
    eval_every: Annotated[int, Field(gt=0)] | Literal["auto"] | None = None
    keep_model: Literal["best", "last"] = "last"  # the weights that become model/; of best, the last are kept beside it
    best_by: str = ""  # EVALUATION/NUMBER that says which are best; "": the usual one of the only evaluation
    patience: int | None = Field(None, gt=0)  # evaluations without a better one that end the run; None: any number
    save_every: int = Field(200, gt=0)  # steps
    save_async: bool = True  # write checkpoints while training goes on
    keep: int = Field(2, gt=0)  # newest checkpoints kept
    snapshots: tuple[int, ...] = ()  # steps after which the adapters are kept for good, as adapters/step_NNNNNN
    max_left_out: float = Field(0.01, ge=0, le=1)  # share of a data set that may be unusable before the run refuses

    @model_validator(mode="before")
    @classmethod
    def _one_stream_is_written_flat(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        flat = {name: values[name] for name in _FLAT if name in values}
        if not flat:
            return values | {"streams": _with_samples(values["streams"])} if "streams" in values else values
        if "streams" in values:
            fix = "say it in the stream that it is about"
            raise UserError(f"{next(iter(flat))!r} beside streams", where="run", fix=fix)
        return {name: value for name, value in values.items() if name not in flat} | {"streams": {MAIN: flat}}

    @model_serializer(mode="wrap")
    def _flat_again(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = dump(self)
        if tuple(self.streams) != (MAIN,):
            for stream in values["streams"].values():
                for name in _OF_SAMPLES if stream["samples"] else ():
                    del stream[name]
            return values
        own = {name: value for name, value in values["streams"][MAIN].items() if name in _FLAT}
        left = {name: value for name, value in values.items() if name not in ("streams", "draw", "one_pass")}
        return {"recipe": left.pop("recipe"), **own, **left}

    @model_validator(mode="after")
    def _streams_fit(self) -> Run:
        for name, stream in self.streams.items():
            for key, other in (("samples", stream.samples), ("trunk", stream.trunk)):
                if other and (other == name or other not in self.streams):
                    what = f"{key} of {name!r} are those of {other!r}, which is no other stream"
                    raise UserError(what, where=f"streams.{name}.{key}", fix=closest(other, {*self.streams} - {name}))
                if other and vars(self.streams[other])[key]:
                    first = vars(self.streams[other])[key]
                    what = f"{key} of {name!r} are those of {other!r}, which has them from {first!r}"
                    raise UserError(what, where=f"streams.{name}.{key}", fix=f"{key}: {first}")
            owner = self.streams.get(stream.samples)
            for key in _OF_SAMPLES if owner is not None else ():
                if vars(stream)[key] != vars(owner)[key]:
                    what = f"{key} of {name!r} differ from those of {stream.samples!r}, whose samples it learns from"
                    fix = f"say it in streams.{stream.samples}.{key}"
                    raise UserError(what, where=f"streams.{name}.{key}", fix=fix)
        together = self.one_pass or any(stream.samples for stream in self.streams.values())
        if together and self.draw == "one":
            what = "draw=one gives a step to one stream, and `samples` and `one_pass` bring several together"
            raise UserError(what, where="draw", fix="draw=every, or leave `samples` and `one_pass` out")
        if together and any(stream.pack is not None for stream in self.streams.values()):
            what = "`pack` fills the batches of one stream by size: they go through the backbone by themselves"
            raise UserError(what, where="pack", fix="leave pack out, or `samples` and `one_pass`")
        return self

    @model_validator(mode="after")
    def _adapters_are_kept(self) -> Run:
        if self.snapshots and not any(rule.mode == "lora" for rule in self.trainable):
            what = "snapshots are of adapters (LoRA), and no rule trains any"
            fix = "leave snapshots out; checkpoints of whole models are kept by keep and save_every"
            raise UserError(what, where="snapshots", fix=fix)
        odd = [step for step in self.snapshots if not 0 < step <= (self.steps or step)]
        if odd or len(set(self.snapshots)) < len(self.snapshots):
            what = f"snapshots after {list(self.snapshots)} of {self.steps} steps"
            raise UserError(what, where="snapshots", fix=f"steps from 1 to {self.steps}, each once")
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> Run:
        for name in self.streams:
            if not STREAM_NAME.fullmatch(name):
                what = f"a stream called {name!r}"
                raise UserError(what, where="streams", fix="small letters, digits and _, a letter first")
        for name, measured in self.evals.items():
            if not measured.task and len(self.streams) == 1:
                continue
            if measured.task not in self.streams:
                what = f"evaluation {name!r} is of no stream's task" + (f": {measured.task!r}" if measured.task else "")
                raise UserError(what, where=f"evals.{name}.task", fix=f"one of: {', '.join(self.streams)}")
        return self

    @model_validator(mode="after")
    def _length_and_choice_fit(self) -> Run:
        if self.steps and self.epochs is not None:
            what = f"steps={self.steps} and epochs={self.epochs:g} both say how long the run is"
            raise UserError(what, where="steps", fix="give one of them")
        # A run that is never measured has its last weights: there is nothing to choose among.
        wanted = {"keep_model": self.keep_model == "best" and bool(self.evals), "patience": self.patience is not None}
        asks = next((key for key, is_asked in wanted.items() if is_asked), "best_by" if self.best_by else None)
        if asks is not None and self.judge is None:
            what, fix = f"{asks} needs an evaluation to go by", "give data to measure on, or keep_model: last"
            if self.evals:
                what = f"{asks} needs one number to go by, and there are {len(self.evals)} evaluations"
                fix = "best_by: EVALUATION/NUMBER"
            raise UserError(what, where=asks, fix=fix)
        if self.patience is not None and self.eval_every is None:
            what = f"patience={self.patience} counts evaluations, and this run is measured at the end only"
            raise UserError(what, where="patience", fix="eval_every: auto, or a number of steps")
        return self

    @property
    def judge(self) -> Judge | None:
        """The number that the run is judged by; None: there is none, or there are several and `best_by` says nothing.

        Raises:
            UserError: `best_by` names no evaluation, or a number of which neither more nor less is better.
        """
        name, _, number = self.best_by.partition("/")
        if self.best_by and name not in self.evals:
            what = f"best_by={self.best_by}: no evaluation {name!r}"
            raise UserError(what, where="best_by", fix=closest(name, self.evals))
        along = [name for name, one in self.evals.items() if not one.at_end]
        if not self.best_by and len(along) != 1:
            return None
        name = name or along[0]
        metric = self.evals[name].metric
        number = number or metric.usual(self.evals[name].data)
        higher = metric.higher_is_better(number)
        if higher is None:
            what = f"neither more nor less of {name}/{number} is better"
            raise UserError(what, where="best_by", fix=f"best_by: {name}/{metric.usual(self.evals[name].data)}")
        return Judge(evaluation=name, number=number, higher_is_better=higher)

    @property
    def pieces(self) -> int:
        """Micro-batches in a step; 1 where that is left open."""
        return 1 if self.accumulate == "auto" else self.accumulate

    @property
    def only(self) -> Stream:
        """Its stream, where it has one.

        Raises:
            UserError: it has several.
        """
        if len(self.streams) > 1:
            what = f"this run has several tasks: {', '.join(self.streams)}"
            raise UserError(what, where="streams", fix="name one of them")
        return next(iter(self.streams.values()))

    def task_of(self, measured: Eval) -> str:
        """The name of the stream whose task an evaluation asks."""
        return measured.task or next(iter(self.streams))


def _with_samples(streams: Any) -> Any:
    """Streams as they are written, each with what it says of its samples by naming another."""
    if not isinstance(streams, dict):
        return streams
    found = {}
    for name, one in streams.items():
        named = one.get("samples") if isinstance(one, dict) else None
        if named and named not in streams:
            what = f"samples of {name!r} are those of {named!r}, which is no other stream"
            raise UserError(what, where=f"streams.{name}.samples", fix=closest(str(named), streams))
        owner = streams.get(named)
        told = {key: owner[key] for key in _OF_SAMPLES if key in owner} if isinstance(owner, dict) else {}
        found[name] = told | one if told else one
    return found


def of_one_task(run: Run, stream: str) -> Run:
    """The part of a run that is about one of its tasks, as if it had been alone."""
    evals = {name: one.model_copy(update={"task": ""}) for name, one in run.evals.items() if run.task_of(one) == stream}
    alone = run.streams[stream].model_copy(update={"samples": "", "trunk": ""})
    whole_run = {"keep_model": "last", "best_by": "", "patience": None}  # may be judged by another task
    return run.model_copy(update={"streams": {MAIN: alone}, "evals": evals, "one_pass": False, **whole_run})


def with_values(run: Run, **values: Any) -> Run:
    """The same run with other values; those of a stream (`task`, `data`, `batch`, ...) are its only one's.

    Raises:
        UserError: values of a stream, and the run has several.
    """
    own = {name: values.pop(name) for name in tuple(values) if name in Stream.model_fields}
    if own:
        (name,) = [name for name, stream in run.streams.items() if stream is run.only]
        values["streams"] = {name: run.only.model_copy(update=own)}
    return run.model_copy(update=values)


Model = typing.TypeVar("Model", bound=BaseModel)


def explain(error: ValidationError, model: type[BaseModel], where: object) -> UserError:
    """Turn pydantic's first complaint into three lines, with the closest key where one is unknown."""
    first = error.errors()[0]
    loc = first["loc"]
    flat = loc[2:] if loc[:2] == ("streams", MAIN) else loc
    path = ".".join(str(p) for p in flat)
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, loc[:-1]) | (set(_FLAT) if model is Run and len(flat) == 1 else set())
        fix = (
            closest(str(first["loc"][-1]), known) if known else "docs/reference.md has the fields of every kind of part"
        )
        return UserError(f"unknown key {path!r}", where=where, fix=fix)
    got = "" if first["type"] == "missing" else f", got {reprlib.repr(first['input'])}"
    return UserError(f"{path}: {first['msg']}{got}", where=where, fix="correct this value")


def _fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> set[str]:
    for step in loc:
        child = model.model_fields.get(str(step))
        kinds = [child.annotation] if child is not None else []
        kinds += [a for k in kinds for a in typing.get_args(k)]
        found = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        model = found[0] if found else model
    return set(model.model_fields)


def run_from_dict(values: dict[str, Any], where: object = "") -> Run:
    """Validate a plain dict (as read from YAML) into a run.

    Raises:
        UserError: an unknown key, a value out of range, an unknown kind.
    """
    return _validated(Run, values, where)


def _validated(model: type[Model], values: Any, where: object) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise explain(error, model, where) from error
    except UserError as error:  # of a kind that is not there
        place = f"{where}: {error.where}" if isinstance(where, Path) else error.where
        raise UserError(error.what, where=place, fix=error.fix) from error


class _TaskAlone(Part):
    task: TaskPart


def task_from_dict(values: dict[str, Any], where: object = "") -> TaskPart:
    """Validate the task of a run alone: none of its other parts need be there.

    Raises:
        UserError: as `run_from_dict`.
    """
    return _validated(_TaskAlone, {"task": values}, where).task


class _DataAlone(Part):
    data: DataPart


def data_from_dict(values: dict[str, Any], where: object = "") -> dict[str, DataPart]:
    """Validate the data sets of a run alone, of its streams and evaluations by their names.

    Raises:
        UserError: as `run_from_dict`; or there are none.
    """
    streams = values.get("streams") or {MAIN: values}
    told = {name: one for part in (streams, values.get("evals") or {}) for name, one in part.items()}
    data = {name: one["data"] for name, one in told.items() if isinstance(one, dict) and "data" in one}
    if not data:
        raise UserError("a run file without data", where=where, fix="`vistruct train RECIPE --dry-run` prints one")
    return {name: _validated(_DataAlone, {"data": one}, where).data for name, one in data.items()}


def read_run(path: Path) -> Run:
    """Read a `run.yaml`."""
    return run_from_dict(read_yaml(path), path)


def run_to_yaml(run: Run) -> str:
    """The YAML that `read_run` reads back to an equal run."""
    return yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict, its keys joined by points; empty ones stay as they are."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    found: dict[str, Any] = {}
    for key, value in items:
        if isinstance(value, dict | list) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found

"""A run is data: frozen parts, each a pydantic model that knows how to build its object.

A part that can be exchanged (a task, a backbone, a head, a data set) is found by its `kind`, so that a saved YAML
file is itself a valid input. Unknown keys are errors that name the closest known one.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError

from vistruct.errors import UserError, closest

# Where each exchangeable part lives. Imported only when a run asks for it, so that `--help` stays fast.
KINDS = {
    "boxes": "vistruct.data.boxes:BoxDataConfig",
    "chat": "vistruct.data.dataset:ChatDataConfig",
    "mix": "vistruct.data.chat.mix:MixDataConfig",
    "maps": "vistruct.data.maps:MapDataConfig",
    "volumes": "vistruct.data.volumes:VolumeDataConfig",
    "image_classes": "vistruct.data.image_classes:ClassDataConfig",
    "intern_vit": "vistruct.backbones.intern_vit:InternVitConfig",
    "vit_adapter": "vistruct.backbones.vit_adapter:VitAdapterConfig",
    "timm": "vistruct.backbones.timm_model:TimmConfig",
    "simple_pyramid": "vistruct.necks.simple_pyramid:SimplePyramidConfig",
    "fpn": "vistruct.necks.fpn:FpnConfig",
    "laterals": "vistruct.necks.laterals:LateralsConfig",
    "fcos": "vistruct.heads.fcos:FcosConfig",
    "retina": "vistruct.heads.retina:RetinaConfig",
    "faster_rcnn": "vistruct.heads.faster_rcnn:FasterRcnnConfig",
    "cascade_rcnn": "vistruct.heads.cascade_rcnn:CascadeRcnnConfig",
    "mask_rcnn": "vistruct.heads.mask_rcnn:MaskRcnnConfig",
    "oriented_rcnn": "vistruct.heads.oriented_rcnn:OrientedRcnnConfig",
    "oriented_fcos": "vistruct.heads.oriented_fcos:OrientedFcosConfig",
    "upernet": "vistruct.heads.upernet:UperNetConfig",
    "unet": "vistruct.heads.unet:UNetConfig",
    "linear": "vistruct.heads.linear:LinearConfig",
    "pooled": "vistruct.heads.pooled:PooledConfig",
    "detect": "vistruct.tasks.dense:DetectConfig",
    "segment": "vistruct.tasks.segment:SegmentConfig",
    "change": "vistruct.tasks.segment:SegmentConfig",
    "classify": "vistruct.tasks.classify:ClassifyConfig",
    "instruct": "vistruct.tasks.instruct:InstructConfig",
    "coco_boxes": "vistruct.metrics.coco:CocoBoxesConfig",
    "coco_masks": "vistruct.metrics.coco:CocoMasksConfig",
    "oriented_boxes": "vistruct.metrics.oriented:OrientedBoxesConfig",
    "pixels": "vistruct.metrics.pixels:PixelsConfig",
    "volumes_overlap": "vistruct.metrics.volumes:VolumesConfig",
    "classes": "vistruct.metrics.classes:ClassesConfig",
    "answers": "vistruct.metrics.answers:AnswersConfig",
    "mean_loss": "vistruct.metrics.loss:MeanLossConfig",
}


class Part(BaseModel):
    """A frozen, keyword-only piece of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def _resolve(value: Any) -> Any:
    if isinstance(value, Part) or not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if kind not in KINDS:
        raise UserError(f"no part of kind {kind!r}", fix=closest(str(kind), KINDS))
    module, _, name = KINDS[kind].partition(":")
    return getattr(importlib.import_module(module), name).model_validate(value)


AnyPart = Annotated[SerializeAsAny[Part], BeforeValidator(_resolve)]


class AdamW(Part):
    """AdamW, fused. Biases, norms and other vectors are not decayed."""

    lr: float = Field(2e-5, gt=0)  # peak
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    layer_decay: float = Field(1.0, gt=0, le=1)  # learning-rate factor from one backbone block to the one below
    fused: bool = True  # one kernel for a step; the same numbers, several times faster


class Schedule(Part):
    """Learning rate over steps as a factor of the peak."""

    shape: Literal["cosine", "poly", "step", "constant"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    warmup_from: float = Field(0.0, ge=0, le=1)  # factor at step 0
    final: float = Field(0.0, ge=0, le=1)  # factor at the last step, cosine and poly
    power: float = Field(1.0, gt=0)  # poly only; 1 is a straight line
    drops_at: tuple[int, ...] = ()  # steps at which the rate is multiplied by `drop_by`, step shape only
    drop_by: float = Field(0.1, gt=0, lt=1)


class Lora(Part):
    """Low-rank adapters on the matched linear layers (peft)."""

    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)


class Move(Part):
    """How the modules and parameters matching `pattern` train; of several matching rules the last one holds."""

    pattern: str  # of dotted names with `*`; 'backbone' also means all below it
    mode: Literal["full", "frozen", "lora"] = "full"
    lr_factor: float = Field(1.0, gt=0)
    lora: Lora | None = None


class Pack(Part):
    """Micro-batches filled by size instead of by number: each device gets the same work, and no padding."""

    tokens: int = Field(8192, gt=0)  # of one micro-batch at most, unless a single sample is longer
    tiles: int | None = Field(None, gt=0)  # of one micro-batch at most; None: as many as its tokens allow


class Eval(Part):
    """One evaluation: what on, and measured how."""

    data: AnyPart
    metric: AnyPart
    at_end: bool = False  # only after the last step: answers take their time


class Run(Part):
    """Everything that decides what a training run does; `run.yaml` is this and nothing else."""

    recipe: str = ""  # the recipe that made it, for the record
    task: AnyPart
    data: AnyPart
    evals: dict[str, Eval] = {}
    init: Path | None = None  # a backbone directory, run directory or safetensors file to start the backbone from
    start: Path | None = None  # a run or public model to go on from as a whole, heads and language model too
    move: tuple[Move, ...] = ()  # on top of "everything trains in full"
    steps: int = Field(gt=0)  # optimiser steps
    batch: int = Field(gt=0)  # samples in a step, over all devices and micro-batches
    accumulate: int = Field(1, gt=0)  # micro-batches in a step, on each device; with `pack` they make themselves
    pack: Pack | None = None  # None: micro-batches of equally many samples
    parallel: Literal["ddp", "fsdp"] = "ddp"  # among devices: every one holds the whole model, or a part of it
    optim: AdamW = AdamW()
    schedule: Schedule = Schedule()
    clip_norm: float | None = Field(1.0, gt=0)  # None: no clipping
    amp: Literal["auto", "bf16", "off"] = "auto"  # auto: bf16 where this machine is faster with it
    seed: int = 0
    workers: int = Field(0, ge=0)  # loader processes for each device
    log_every: int = Field(10, gt=0)  # steps
    eval_every: int | None = Field(None, gt=0)  # steps; None: at the end only
    save_every: int = Field(200, gt=0)  # steps
    save_async: bool = True  # write checkpoints while training goes on
    keep: int = Field(2, gt=0)  # newest checkpoints kept
    max_left_out: float = Field(0.01, ge=0, le=1)  # share of a data set that may be unusable before the run refuses


def explain(error: ValidationError, model: type[BaseModel], where: object) -> UserError:
    """Turn pydantic's first complaint into three lines, with the closest key where one is unknown."""
    first = error.errors()[0]
    path = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        return UserError(f"unknown key {path!r}", where=where, fix=closest(str(first["loc"][-1]), known))
    got = "" if first["type"] == "missing" else f", got {first['input']!r}"
    return UserError(f"{path}: {first['msg']}{got}", where=where, fix="correct this value")


def _fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> set[str]:
    for step in loc:
        child = model.model_fields.get(str(step))
        kinds = [child.annotation] if child is not None else []
        kinds += [a for k in kinds for a in getattr(k, "__args__", ())]
        found = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        model = found[0] if found else model
    return set(model.model_fields)


def run_from_dict(values: dict[str, Any], where: object = "") -> Run:
    """Validate a plain dict (as read from YAML) into a run.

    Raises:
        UserError: an unknown key, a value out of range, an unknown kind.
    """
    try:
        return Run.model_validate(values)
    except ValidationError as error:
        raise explain(error, Run, where) from error


class _TaskAlone(Part):
    task: AnyPart


def task_from_dict(values: dict[str, Any], where: object = "") -> Any:
    """Validate the task of a run alone: none of its other parts need be there.

    Raises:
        UserError: as `run_from_dict`.
    """
    try:
        return _TaskAlone.model_validate({"task": values}).task
    except ValidationError as error:
        raise explain(error, _TaskAlone, where) from error


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans, true and false alone: `amp: off` and `vrl: off` are words and not the number zero."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False|TRUE|FALSE)$"), list("tTfF")
)


def from_yaml(text: str) -> Any:
    """Values as every file of ours is read.

    Raises:
        yaml.YAMLError: no YAML.
    """
    return yaml.load(text, _Loader)


def read_run(path: Path) -> Run:
    """Read a `run.yaml`."""
    try:
        values = from_yaml(path.read_text())
    except FileNotFoundError:
        raise UserError("no such run file", where=path, fix="give the path of a run.yaml") from None
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {error}", where=path, fix="correct the file") from error
    if not isinstance(values, dict):
        raise UserError(
            "a run file holds keys and values", where=path, fix="start from `vistruct train RECIPE --dry-run`"
        )
    return run_from_dict(values, path)


def run_to_yaml(run: Run) -> str:
    """The YAML that `read_run` reads back to an equal run."""
    return yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def with_settings(run: Run, settings: list[str]) -> Run:
    """Apply `a.b=c` settings; the value is read as YAML.

    Raises:
        UserError: a path that does not exist (with the closest one), or a value that does not fit.
    """
    values = run.model_dump(mode="json")
    for setting in settings:
        path, sep, text = setting.partition("=")
        if not sep:
            raise UserError(f"--set wants a.b=c, got {setting!r}", fix=f"--set {setting}=VALUE")
        at: Any = values
        *parents, last = path.split(".")
        for depth, key in enumerate([*parents, last]):
            if isinstance(at, list) and key.isdigit() and int(key) < len(at):
                key = int(key)
            elif not isinstance(at, dict) or key not in at:
                known = list(at) if isinstance(at, dict) else []
                raise UserError(
                    f"no setting {path!r}: {'.'.join(path.split('.')[:depth]) or 'the run'} has no {key!r}",
                    where=f"--set {setting}",
                    fix=closest(str(key), [str(k) for k in known]),
                )
            if depth == len(parents):
                at[key] = from_yaml(text)
            else:
                at = at[key]
    return run_from_dict(values, "--set")

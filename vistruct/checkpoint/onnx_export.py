"""`onnx`: a detector, segmenter or classifier as one file that any ONNX runtime reads, proved on real images.

The file is written, opened by onnxruntime, and asked about images of the run's data beside the model itself, at other
sizes and several at once where it may be; only then is it there. Where torch makes a network for one size alone of it,
that is found by the same comparison, and said.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.onnx.errors import OnnxExporterError

import vistruct
from vistruct.checkpoint.load import ModelCard, copy_assets, load_model
from vistruct.checkpoint.low_rank import records_in, write_beside
from vistruct.checkpoint.onnx_compare import Apart, compare
from vistruct.checkpoint.onnx_graph import OPSET, Plan, joined, parsed, plan_of
from vistruct.checkpoint.onnx_images import variants_of
from vistruct.checkpoint.onnx_run import FILE, INSTALL, Freedom, OnnxFile, computed_by
from vistruct.checkpoint.save import fsync_dir, write_json, write_text
from vistruct.checkpoint.tensors import no_room, sha256
from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.files.owned import new_folder, refuse

ONNX_FORMATS = ("onnx",)
MOST_BYTES = 1_900_000_000  # of a file of protobuf 2 GiB at most
Beside = Callable[[Any, Any, ModelCard], str]  # the task, the same by the file, its card: in words how both measure


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written, and how it was proved."""

    path: Path
    proved: Proved
    notes: tuple[str, ...]  # what is not in the file


FREEDOMS = tuple(Freedom(batch=batch, size=size) for size in (True, False) for batch in (True, False))


@dataclass(frozen=True, kw_only=True)
class Proved:
    """How near the file is to the model."""

    apart: Apart
    images: int  # that both were asked about
    freedom: Freedom
    size_hw: tuple[int, int]  # pixels, of the first of them
    why: str = ""  # no more is left open

    def line(self) -> str:
        """For the card and the command."""
        height, width = self.size_hw
        size = "any size" if self.freedom.size else f"{width} x {height} pixels alone"
        batch = "any number of images" if self.freedom.batch else "one image"
        return f"onnxruntime beside torch on {self.images} images: {self.apart.line()}; takes {batch} of {size}"


def export_onnx(
    source: Path,
    out: Path,
    *,
    images: Path | None = None,
    lora: Path | None = None,
    beside: Beside | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Written:
    """Write a task as ONNX, compare it with the task, and put it in place.

    Args:
        source: a finished run, or the model/ directory inside one.
        out: a folder that is not there yet.
        images: a folder to prove it on; None: what the run was measured on.
        lora: adapters that are added into the weights first.
        beside: measures both, and raises where they differ; None: they are not measured.

    Raises:
        UserError: no model there, or `out` exists; a model that ONNX does not hold; the packages are missing; no image
            to prove it on; a file that does not compute the same.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        raise UserError("the packages onnx and onnxruntime are missing", where="--format onnx", fix=INSTALL) from None
    refuse(out, "--out")
    task, card = load_model(source, lora=lora)
    plan = plan_of(task)
    task.config = plan.config
    weight = sum(value.numel() * value.element_size() for value in task.state_dict().values())
    if weight > MOST_BYTES:
        what = f"weights of {weight / 1e9:.1f} GB, and a file of ONNX holds 2 at most"
        raise UserError(what, where=source, fix="a smaller backbone; or --format backbone-plain")
    every = variants_of(task, card, images)
    try:
        with new_folder(out, "--out") as partial:
            say(f"writing onnx, opset {OPSET}, float32")
            proved = prove(task, card, plan, every, partial / FILE)
            measured = () if beside is None else (beside(task, _computed(card, plan, proved, partial), card),)
            fixed = (f"no other size or number of images: {proved.why}",) if proved.why else ()
            notes = (*card.notes, *fixed, *(f"not in the file: {one}" for one in _remaining(card, plan)))
            if records_in(card.values):
                write_beside(partial, "", records_in(card.values))
            write_json(partial / "model.json", card.values | _record(plan, proved, partial))
            copy_assets(card.path, partial)
            write_text(partial / "README.md", _card(source, card, plan, (proved.line(), *measured), notes))
            fsync_dir(partial)
        fsync_dir(out.parent)
    except OSError as error:
        raise no_room(error, out) from error
    for line in (proved.line(), *measured):
        say(line)
    for note in notes:
        say(f"note: {note}")
    return Written(path=out, proved=proved, notes=notes)


def _computed(card: ModelCard, plan: Plan, proved: Proved, folder: Path) -> Any:
    """The task by the file that was written."""
    file = OnnxFile(folder / FILE, proved.freedom, proved.size_hw)
    return computed_by(plan.config.build(card.info, card.path), file)


def _record(plan: Plan, proved: Proved, folder: Path) -> dict[str, Any]:
    """What model.json says of the file, beside what it says of the model."""
    free = {"batch": proved.freedom.batch, "size": proved.freedom.size, "size_hw": list(proved.size_hw)}
    return {"task": plan.config.model_dump(mode="json"), "onnx": {"sha256": sha256(folder / FILE), **free}}


def prove(task: Any, card: ModelCard, plan: Plan, every: Sequence[Sequence[Sample]], file: Path) -> Proved:
    """The first that holds, of any size, of any number of images of one size, and of one of one size."""
    first = every[0][0].images[0]
    size_hw = (int(first.shape[-2]), int(first.shape[-1]))
    wrong: UserError | None = None
    for freedom in (one for one in FREEDOMS if not (one.batch and plan.is_sized)):
        asked = [
            samples
            for samples in every
            if (freedom.batch or len(samples) == 1)
            and (freedom.size or tuple(samples[0].images[0].shape[-2:]) == size_hw)
        ]
        try:
            _write(task, card, plan, freedom, (size_hw, first.dtype), file)
            apart = compare(task, OnnxFile(file, freedom, size_hw), asked)
        except UserError as error:
            wrong = error
            continue
        why = "" if wrong is None else wrong.what
        return Proved(apart=apart, images=sum(map(len, asked)), freedom=freedom, size_hw=size_hw, why=why)
    assert wrong is not None
    raise wrong


def _with_factors(core: nn.Module) -> None:
    """Batch norms without factors get those that change nothing: ONNX has no other ones."""
    for module in core.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)) and module.weight is None:
            module.weight = nn.Parameter(torch.ones(module.num_features))
            module.bias = nn.Parameter(torch.zeros(module.num_features))


@contextmanager
def _quiet() -> Generator[None]:
    """Nothing is printed: where torch fails it prints the whole graph, and not by way of Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, one in zip((1, 2), kept, strict=True):
            os.dup2(one, number)
            os.close(one)


def _write(
    task: Any, card: ModelCard, plan: Plan, freedom: Freedom, shown: tuple[tuple[int, int], torch.dtype], file: Path
) -> None:
    """
    Raises:
        UserError: torch has no words of ONNX for it.
    """
    import onnx

    (height, width), dtype = shown
    divisor = task.size_divisor
    number = plan.images * (2 if freedom.batch else 1)
    padded = [-(-side // divisor) * divisor for side in (height, width)]
    image = torch.randn(number, task.backbone.traits.channels, *padded, generator=torch.Generator().manual_seed(0))
    made: Any = io.BytesIO()
    _with_factors(plan.core)
    axes = freedom.axes()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad(), _quiet():
            warnings.simplefilter("ignore")  # what is fixed by tracing shows in the comparison
            torch.onnx.export(
                plan.core.eval(),  # torch gives it back as it was
                (image, torch.tensor([height, width])) if plan.is_sized else (image,),
                made,
                dynamo=False,
                opset_version=OPSET,
                input_names=["x", "size"] if plan.is_sized else ["x"],
                output_names=list(plan.names),
                dynamic_axes={"x": axes, **{name: {0: f"{name}_n", 1: f"{name}_k"} for name in plan.names}},
            )
    except (OnnxExporterError, RuntimeError) as error:
        first = str(error).splitlines()[0].split(". ")[0]
        what = f"torch cannot write this model as ONNX: {first[:200]}"
        raise UserError(what, where="--format onnx", fix="another backbone, or --format backbone-plain") from error
    pieces = (parsed(plan.before(dtype)), onnx.load_from_string(made.getvalue()), parsed(plan.behind))
    ways = (
        [("pre_x", "x"), *([("hw", "size")] if plan.is_sized else [])],
        [(name, name) for name in (*plan.names, "hw")],
    )
    model = joined(pieces, ways, plan.outputs)
    model.producer_name, model.producer_version = "vistruct", vistruct.__version__
    if not freedom.size or not freedom.batch:
        shape = model.graph.input[0].type.tensor_type.shape.dim
        if not freedom.size:
            shape[-2].dim_value, shape[-1].dim_value = height, width
        if not freedom.batch:
            shape[0].dim_value = 1
    onnx.helper.set_model_props(model, _properties(task, card, plan))
    onnx.save(model, str(file))


def _remaining(card: ModelCard, plan: Plan) -> list[str]:
    """What of a prediction is not in the file."""
    shown = card.input
    remaining = []
    if shown.intake is not None:
        remaining.append(f"bands and values of files: {shown.intake.model_dump_json(exclude_none=True)}")
    if shown.windows is not None:
        how = shown.windows
        remaining.append(f"windows of {how.size} pixels that share {how.overlap}, and joining what is found in them")
    if shown.resize is not None:
        remaining.append(f"resizing, smooth (antialiased): {_plain(shown.resize)}")
    return [*remaining, *plan.remaining]


def _plain(size: Any) -> str:
    return f"by {size:g}" if isinstance(size, float | int) else size.model_dump_json()


def _properties(task: Any, card: ModelCard, plan: Plan) -> dict[str, str]:
    """What the file says of itself, json where it is no plain text."""
    return {
        "task": task.config.kind,
        "class_names": json.dumps(list(task.traits.class_names), ensure_ascii=False),
        "mean": json.dumps(task.normalise.mean.flatten().tolist()),
        "std": json.dumps(task.normalise.std.flatten().tolist()),
        "licence": str(card.values.get("licence", "unknown")),
        "input": card.input.model_dump_json(exclude_none=True),
        "not_in_the_file": json.dumps(_remaining(card, plan), ensure_ascii=False),
        "size_divisor": str(task.size_divisor),
        "sha256_of_weights": str(card.values.get("sha256", "")),
    }


def _card(source: Path, card: ModelCard, plan: Plan, proved: Sequence[str], notes: Sequence[str]) -> str:
    """What lies beside the file, in Markdown."""
    values = card.input
    order = "RGB" if values.channels == 3 and values.intake is None else f"{values.channels} channels"
    layout = "batch, channel, row, column" if plan.images == 1 else "batch, before and after, channel, row, column"
    lines = [
        f"# {source.resolve().name}, as ONNX",
        "",
        f"- Use: `onnxruntime.InferenceSession('FOLDER/{FILE}').run(None, {{'images': pixels}})`",
        f"- Input `images`: {order}, values as they are stored (normalised inside), {layout}",
        f"- Outputs: {', '.join(f'`{name}`' for name in plan.outputs)}; classes: {', '.join(card.info.class_names)}",
        *[f"- Proved: {line}" for line in proved],
        "- Or: `vistruct predict FOLDER IMAGES`, `vistruct eval FOLDER --data DATA`, with all that is around the file",
        f"- Licence of the weights: {card.values.get('licence', 'unknown')}",
        *[f"- Note: {note}" for note in notes],
        "",
    ]
    return "\n".join(lines)

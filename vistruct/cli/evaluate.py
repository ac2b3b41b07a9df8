"""`vistruct eval`: measure a finished run again, on its own evaluation data or on other data."""

from __future__ import annotations

import dataclasses
import json as json_
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistruct.cli.groups import grouped
from vistruct.cli.lora import LoraOption, one_lora
from vistruct.cli.measured import show, show_before_and_after
from vistruct.cli.models_of_others import opened, opener_of
from vistruct.cli.output import as_json, made, note
from vistruct.cli.predict import FlipOption, LongestOption, ScaleOption
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, DESCRIBE, PixelValues, Reading, Worded
from vistruct.errors import UserError

if TYPE_CHECKING:
    from vistruct.checkpoint.load import ModelCard
    from vistruct.checkpoint.low_rank import Adapters
    from vistruct.config import Eval, Run
    from vistruct.engine.evaluate import Measured


class Coded(StrEnum):
    """What the values of predicted label maps are."""

    auto = "auto"
    labels = "labels"
    classes = "classes"


TALK = {
    "chat": "jsonl",
    "mix": "mix",
    "questions": "annotation",
}  # kinds of conversations, and what they call their file


@grouped
def command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CLIP|BLIP2|PREDICTIONS",
            help="A run directory or its model directory; a public CLIP or BLIP-2; or predictions, see below.",
        ),
    ],
    reading: Reading,
    values: PixelValues,
    worded: Worded,
    data: Annotated[Path | None, typer.Option(help="Other annotations, read as the run reads its own.")] = None,
    split: Annotated[str | None, typer.Option(help="Which part of --data: train, val, test, ...")] = None,
    ask: Annotated[
        str, typer.Option(metavar="QUESTION", help="What a model that has language is asked of images with captions.")
    ] = DESCRIBE,
    lora: LoraOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Samples to ask about, a fixed random choice.")] = None,
    max_new_tokens: Annotated[int | None, LongestOption] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples in a forward pass.")] = 4,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes.")] = 0,
    flip: FlipOption = None,
    scale: ScaleOption = None,
    patches: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE", help="Predictions: how patches are called, '{name}_{x}_{y}'; joined to whole images."
        ),
    ] = None,
    coded: Annotated[
        Coded, typer.Option(help="Predicted label maps: values as in the labels, or numbers of classes from 0.")
    ] = Coded.auto,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a trained model, on its own evaluation data or on other data; or predictions that lie in files.

    With --lora it is measured without and with the adapters, on the same images, and their difference is said with an
    interval over images.

    A CLIP's file or folder (open_clip, EVA-CLIP, transformers) is measured as it is, by zero-shot classification where
    --data have classes of images, and by image-text retrieval where they have captions.
    The folder of a BLIP-2 (transformers) is measured as it is, on questions about images and on captions.

    With --data TRUTH, predictions of any program are measured without a model: COCO results, predictions.json,
    DOTA's Task1 and Task2 files, YOLO rows with scores, a folder of masks or of label volumes, captions; or a zip.
    """
    adapters = one_lora(lora)
    others = opener_of(run, worded, ask)
    if others is None and not is_run(run):
        asked = {"--limit": limit, "--max-new-tokens": max_new_tokens, "--flip": flip, "--scale": scale, "--lora": lora}
        _score(run, data, split, reading, values, patches, coded, json, [flag for flag, one in asked.items() if one])
        return
    if patches is not None or coded != Coded.auto:
        what = "--patches and --coded are said of predictions in files"
        raise UserError(what, where=run, fix="vistruct predict RUN IMAGES --out OUT; vistruct eval OUT --data TRUTH")
    if data is None and (reading != AS_FOUND or values != AS_THEY_ARE or split is not None):
        what = "what is said of other data, and no data"
        raise UserError(what, where="--split, --classes, ...", fix=f"vistruct eval {run} --data PATH --split NAME")
    from vistruct.checkpoint.load import load_model, lora_for
    from vistruct.distributed.ranks import setup
    from vistruct.inference.kind import config_seen_in, kind_of, with_longest
    from vistruct.windows.views import views_of

    device = setup().device
    if others is None:
        task, card = load_model(run, device, or_onnx=True)
    else:
        task, card = opened(run, data, reading, values, split, others)
        task = task.to(device).eval()
    found = None if adapters is None else lora_for(task, card, adapters)  # told before it is measured without them
    views = views_of(flip or (), scale or ())
    kind = kind_of(task, card.input)
    if views is not None:
        task.config = config_seen_in(kind, task.config, views)
    if max_new_tokens is not None:
        task.config = with_longest(task.config, max_new_tokens)
    evals = list(card.run.evals.items())
    if data is not None:
        evals = on_other_data(card.run, data, kind.metrics(task), reading, values, split, ask)
    if not evals:
        raise UserError("this run has no evaluation data", where=run, fix="--data ANNOTATIONS")
    plans = [(name, one if limit is None else _at_most(one, limit)) for name, one in evals]
    names = [
        "" if data is None else name_of(data, split),
        "" if adapters is None else f"lora-{name_of(adapters, None)}",
    ]
    _measure(task, card, plans, batch, workers, found, "-".join(["eval", *filter(None, names)]), json)


def _measure(
    task: Any,
    card: ModelCard,
    plans: Sequence[tuple[str, Eval]],
    batch: int,
    workers: int,
    adapters: Adapters | None,
    name: str,
    json: bool,
) -> None:
    """Measure a model, and once more with adapters added; print and keep what was found as `name`."""
    from vistruct.checkpoint.adapters import add_adapters
    from vistruct.data.checks.learned import learned_images
    from vistruct.distributed.precision import amp_dtype
    from vistruct.distributed.ranks import setup
    from vistruct.engine.data_sets import for_classes
    from vistruct.engine.evaluate import asked_of, keep_measured, measurable, watched
    from vistruct.engine.evaluate import measure as measured_by
    from vistruct.files.owned import Owned
    from vistruct.metrics.means import partial_means
    from vistruct.study.compare import side_by_side

    device = setup().device
    amp = amp_dtype(card.run.amp, device)
    place = card.path.parent if card.path.name == "model" else card.path
    file = place / f"{name}.json"
    owned = Owned(place, "eval")
    owned.check([file])
    take = task.traits.take_classes
    datasets = [(one.data if take else for_classes(one.data, card.info)).build() for _, one in plans]
    if adapters is not None:  # an evaluation called "train" says itself that it is no test
        tests = [(of, one) for (of, _), one in zip(plans, datasets, strict=True) if of != "train"]
        found = {f"{of}: {line}" for of, one in tests if (line := learned_images(adapters.source, one))}
        for line in sorted(found):
            note(line)

    def measure(one: Eval, dataset: Any) -> Measured:
        if take is not None:
            take(dataset.info.class_names)
        return measured_by(task, one, device, batch, workers, dataset=dataset, amp=amp)

    measured = []
    told = [dataset.info.dropped for dataset in datasets]
    datasets = [measurable(task, one, dataset) for (_, one), dataset in zip(plans, datasets, strict=True)]
    for (of, one), dataset, before in zip(plans, datasets, told, strict=True):
        note(f"{of}: {asked_of(one, dataset)}")
        for reason, number in dataset.info.dropped.items():
            if reason not in before:
                note(f"{of}: {number} x {reason}")
        measured.append(measure(one, dataset))
        for line in partial_means(measured[-1].numbers):
            note(f"{of}: {line}")
    results: dict[str, dict[str, Any]] = {}
    if adapters is None:
        for (of, one), got in zip(plans, measured, strict=True):
            results[of] = results.get(of, {}) | got.numbers
            kept = place / "evaluations" / f"{of}.json"
            got = watched(kept, one.metric, got)
            for alarm in got.details.get("alarms", ()):
                note(f"{of}: {alarm}")
            if got.details:
                keep_measured(kept, vars(one.metric)["kind"], None, got)
    else:
        for line in (*adapters.notes, f"once more with {len(adapters.layers)} adapters of {adapters.source}"):
            note(line)
        add_adapters(task, adapters)
        for (of, one), dataset, got in zip(plans, datasets, measured, strict=True):
            numbers = side_by_side(vars(one.metric)["kind"], got, measure(one, dataset))
            results[of] = results.get(of, {}) | {number.name: number for number in numbers}
    as_text = {of: {k: _plain(v) for k, v in own.items()} for of, own in results.items()}
    with owned.held(), owned.making(file) as fresh:
        fresh.write_text(json_.dumps(as_text, indent=2) + "\n")
    if json:
        as_json({"evaluations": as_text, "written": file})
        return
    if adapters is None:
        show(results)
    else:
        show_before_and_after(results)
    made(file)


def _plain(value: Any) -> Any:
    """As json has it: a number that is not finite as null."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    told = value.as_json()
    return {**{new: told[old] for new, old in (("before", "a"), ("after", "b"))}, **{k: told[k] for k in _TOLD}}


_TOLD = ("difference", "interval", "over", "count")


def is_run(path: Path) -> bool:
    """Whether a path is a run or a model, finished or not; else it is taken for predictions."""
    return any((path / name).exists() for name in ("run.yaml", "model.json", "model")) or not path.exists()


def _score(
    path: Path,
    data: Path | None,
    split: str | None,
    reading: Reading,
    values: PixelValues,
    patches: str | None,
    coded: Coded,
    json: bool,
    unused: Sequence[str],
) -> None:
    """Measure predictions that lie in files, and print the numbers."""
    from vistruct.data.at_path import part_at
    from vistruct.metrics.predicted import score

    if data is None:
        what = "neither a run nor a model; and of predictions in files, no truth is given"
        raise UserError(what, where=path, fix=f"vistruct eval {path} --data TRUTH")
    if unused:
        raise UserError(f"{unused[0]} is said of a model, and these are predictions", where=path, fix="leave it out")
    found = score(path, part_at(data, reading, values, split=split), patches=patches, coded=coded.value)
    name = name_of(data, split)
    note(f"{name}: {found.metric}, predictions of {path}")
    for line in (*found.read.lines(), *found.left.lines()):
        note(line)
    if json:
        as_json({"evaluations": {name: found.numbers}, "counted": dict(found.read.counts + found.left.counts)})
    else:
        show({name: found.numbers})


def on_other_data(
    run: Run,
    path: Path,
    usual: Sequence[str],
    reading: Reading = AS_FOUND,
    values: PixelValues = AS_THEY_ARE,
    split: str | None = None,
    ask: str = DESCRIBE,
) -> list[tuple[str, Eval]]:
    """Evaluations on other annotations, cut and measured like the run's own; without random variation.

    Args:
        reading, values: what is said of these data; what is not said is as the run has it.
        split: which part; None: the split that the run itself measures on, where there is one of its name.
        usual: kinds of metrics, beside what the run itself measures.
        ask: of images with captions, where the run learned from conversations.

    Returns:
        one for each metric, all of one name.

    Raises:
        UserError: nothing at the path, or data of another kind than the run's.
    """
    from vistruct.config import Eval
    from vistruct.data.at_path import WORDS, captions_at, part_at
    from vistruct.data.maps import MapDataConfig
    from vistruct.data.questions import as_questions
    from vistruct.kinds import part_class
    from vistruct.metrics.health import HealthConfig

    own = list(run.evals.values())
    source: Any = own[0].data if own else run.only.data
    if source.kind == "images":
        known: dict[Any, Any] = {one.metric.kind: one.metric for one in own} or {"health": HealthConfig()}
        data = _plain_images(source, path, reading, values, split)
        return [(name_of(path, split), Eval(data=data, metric=metric)) for metric in known.values()]
    format = vars(source).get("format", "auto")
    if reading.format == "auto" and (":" in format or format == "caption-words"):  # these are never found by looking
        reading = dataclasses.replace(reading, format=format)
    part: Any = part_at(path, reading, values, split=split)
    wanted = "talk" if source.kind in TALK else source.kind
    if wanted == "maps" and part.kind == "boxes":
        # masks of objects can be painted
        place: dict[str, Any] = {"root": part.annotation, "images": part.images, "format": "objects"}
        part = MapDataConfig(**place, split=split, **{name: vars(part)[name] for name in _CHOICE})
    if wanted == "talk" and part.kind == "captions":
        part = as_questions(part, ask)
    if wanted == "captions" and part.kind == "image_classes":  # names and words may be either
        part = captions_at(path, reading, values, split=split)
    if ("talk" if part.kind in TALK else part.kind) != wanted:
        what = f"these are {WORDS[part.kind]}, the run was trained on {WORDS.get(source.kind, source.kind)}"
        raise UserError(what, where=path, fix="vistruct eval RUN --data PATH, with data of that kind")
    metrics: dict[str, Any] = {name: part_class(name, "metric")() for name in usual}
    for one in own:
        kind = one.metric.kind
        metrics[kind] = one.metric.model_copy(update=_ALL[kind]) if kind in _ALL else one.metric
    data = part if wanted == "talk" else _read_as(source, part, is_measured=bool(own))
    return [(name_of(path, split), Eval(data=data, metric=metric)) for metric in metrics.values()]


def _plain_images(source: Any, path: Path, reading: Reading, values: PixelValues, split: str | None) -> Any:
    """Other images without labels, each once and as large as the run sees its own."""
    from vistruct.data.at_path import any_at

    images = dataclasses.replace(reading, format="images")
    part: Any = any_at(path, images, values, split=split)
    shown = source.resize if source.augment is None else source.augment.usual or source.resize
    intake = source.intake if values == AS_THEY_ARE else part.intake
    return part.model_copy(
        update={
            "tiles": source.tiles,
            "resize": shown,
            "intake": intake,
            "axis": source.axis,
            "neighbours": source.neighbours,
        }
    )


def name_of(path: Path, split: str | None) -> str:
    """What other data are called in results."""
    return "-".join([path.resolve().stem, *([split] if split else [])])


def _read_as(source: Any, part: Any, is_measured: bool) -> Any:
    """Other data read the way a run reads its own: whole, without random variation; what is said of them decides.

    Args:
        is_measured: whether the run measures on `source`; what it learns from says nothing about what to measure on.
    """
    from vistruct.data.formats.detect import splits_of
    from vistruct.data.formats.read import format_of

    told = {name: value for name, value in vars(part).items() if value != type(part).model_fields[name].default}
    fields = set(type(source).model_fields)
    whole = {
        "split": None,
        "fraction": 1.0,
        "augment": None,
        "random_split": None,
        "lists": None,
        "empty": 1.0,
        "format": "auto",
    }
    whole |= {"images": None, "labels": None}
    whole |= {"tiles": None} if part.kind != "boxes" else {}
    whole |= {"as_written": True}
    if told.get("coding") is not None:
        whole |= {"classes": None, "others": "stop"}
    is_file = "annotation" in vars(part)
    path = part.annotation if is_file else part.root
    update = {name: value for name, value in whole.items() if name in fields}
    update["format"] = format_of(path, part.kind, part.format, part.ask())
    if part.split is None and is_measured and source.split in splits_of(path, update["format"]):
        update["split"] = source.split
    for name in ("images", "labels"):  # folders below the root, where they are called the same
        if not is_file and vars(source).get(name) is not None and (path / vars(source)[name]).is_dir():
            update[name] = vars(source)[name]
    return source.model_copy(update=update | told)


_CHOICE = ("classes", "others", "join", "drop", "missing")
# A run asks a few at its end; here all are wanted.
_ALL: dict[str, dict[str, object]] = {"answers": {"limit": None}, "grounded": {"limit": None}}


def _at_most(one: Eval, limit: int) -> Eval:
    """With fewer samples where the metric takes a part of them."""
    if "limit" not in vars(one.metric):
        return one
    return one.model_copy(update={"metric": one.metric.model_copy(update={"limit": limit})})

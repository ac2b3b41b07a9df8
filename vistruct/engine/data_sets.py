"""The data sets of a run: what it learns from, and what it is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistruct.config import Run
from vistruct.contracts import DataInfo, Dataset
from vistruct.data.account import check_left_out
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.class_pixels import with_pixel_counts
from vistruct.data.formats.maps.painted_objects import BACKGROUND
from vistruct.data.loading.streams import learners
from vistruct.data.maps import MapDataConfig
from vistruct.data.shuffled import with_shuffled_truth
from vistruct.data.statistics import with_statistics_of_pixels


def learned_from(run: Run, cache: Path) -> dict[str, Dataset]:
    """The training data of each stream, with what a task asks to know of its pixels: mean, deviation, classes."""
    found: dict[str, Dataset] = {}
    for owner, stream in run.streams.items():
        if stream.samples:
            continue
        dataset, names = _data(stream.data, cache, run.max_left_out), learners(run, owner)
        told = [run.streams[name].task.model_dump(mode="json") for name in names]
        if stream.shuffled:
            dataset = with_shuffled_truth(dataset, run.seed)
        if any("data" in (one.get("mean"), one.get("std")) for one in told):
            dataset = with_statistics_of_pixels(dataset, cache)
        if any(asks_for_counts(one) for one in told):
            dataset = with_pixel_counts(dataset, cache)
        found |= dict.fromkeys(names, dataset)
    return {name: found[name] for name in run.streams}


def asks_for_counts(task: Mapping[str, Any]) -> bool:
    """Whether a task's config, as it is written, weighs classes of pixels by how many there are."""
    loss = task.get("loss")
    return isinstance(loss, dict) and loss.get("class_weights") == "balanced"


def measured_on(run: Run, datasets: Mapping[str, Dataset], cache: Path) -> dict[str, Dataset]:
    """The data of each evaluation; what several tasks are measured on is read once."""
    read: list[tuple[Any, Dataset]] = []
    found = {}
    for name, measured in run.evals.items():
        part = for_classes(measured.data, datasets[run.task_of(measured)].info)
        dataset = next((there for one, there in read if one == part), None)
        if dataset is None:
            dataset = _data(part, cache, run.max_left_out)
            read.append((part, dataset))
        found[name] = dataset
    return found


def for_classes(part: Any, info: DataInfo) -> Any:
    """Data read with a model's classes in their order, where it does not say its own: a part of a data set need not
    have an object of every class. Objects have no background, and label maps beside them do."""
    names = info.pixel_class_names if isinstance(part, MapDataConfig) else info.class_names
    if isinstance(part, BoxDataConfig) and part.label_maps != "none" and names[:1] == (BACKGROUND,):
        names = names[1:]
    if vars(part).get("classes", ()) is not None or not names:
        return part
    return part.model_copy(update={"classes": names})


def _data(part: Any, cache: Path, max_left_out: float) -> Dataset:
    dataset = part.build(cache=cache)
    # Of conversations alone; a data set from outside has none.
    check_left_out(getattr(dataset, "accounts", ()), max_left_out)
    return dataset

"""Few-label probes in a study: what the frozen backbone of each init is worth on an annotated scene (`probe.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistruct.checkpoint.adapters import merge_adapters
from vistruct.checkpoint.weights import load_backbone
from vistruct.config import run_from_dict
from vistruct.contracts import Record
from vistruct.data.formats.read import read
from vistruct.errors import UserError
from vistruct.files.images import read_image
from vistruct.ops.seeds import derive
from vistruct.study.jobs import Job
from vistruct.study.linear import Statistics, statistics
from vistruct.study.patches import cut, object_patches, places
from vistruct.study.plan import Plan, init_digest
from vistruct.study.probe import dense_probe, label_efficiency, pooled_features, turned_probe
from vistruct.study.statistics import paired_gain
from vistruct.study.study import Probes, Study
from vistruct.study.workers import Report

PROBE = f"{__name__}:few_labels"
CROP_L2 = 3.0  # cells of one crop are much alike: fewer labels than it seems


def probe_jobs(study: Study, plan: Plan, weights: Mapping[str, tuple[str, ...]]) -> list[Job]:
    """One for each init, and each repetition of its pretraining; the architecture is that of its trials.

    Args:
        weights: digests of each init's weights.
    """
    if study.probes is None:
        return []
    runs = {(trial.init, trial.seed): trial.run for trial in reversed(plan.trials)}
    data = [init_digest(path) for path in (study.probes.scene, study.probes.elsewhere) if path is not None]
    asked = {"probes": study.probes.model_dump(mode="json"), "data": data}
    return [
        Job(
            name=name,
            call=PROBE,
            arguments={**asked, "run": runs[init, at].model_dump(mode="json"), "weights": weights[init][at]},
            cost=10 * study.probes.draws,
        )
        for init in study.inits
        for at, name in enumerate(_names(study, init))
    ]


def _names(study: Study, init: str) -> list[str]:
    many = len(study.sources(init))
    return [f"few_labels-{init}" if many == 1 else f"few_labels-{init}.{number}" for number in range(many)]


def few_labels(
    *,
    probes: dict[str, Any],
    run: dict[str, Any],
    weights: str,
    data: Sequence[str],
    results: Mapping[str, Any],
    report: Report,
) -> dict[str, Any]:
    """Probe a backbone as it is before any trial.

    Args:
        probes: of the study, as json.
        run: a trial of the init.
        weights, data: digests, so that with others the job is another one.

    Returns:
        `what` the objects are, `values`: kind of probe -> number of labels -> a value of each draw.

    Raises:
        UserError: several images, or a scene that the probes do not allow.
    """
    asked = Probes.model_validate(probes)
    backbone, pixels = _backbone(run)
    names, scene, image = _scene(asked.scene)
    report(0, 4, "patches")

    def pooled(of: Record, picture: Tensor) -> tuple[Tensor, Tensor]:
        patches, labels = object_patches(picture, of.objects.boxes_xyxy, asked.patch, seed=0)
        return pooled_features(backbone, patches, **pixels), labels

    features, labels = pooled(scene, image)
    values = {"patch": label_efficiency(features, labels, asked.patch_shots, asked.draws)}
    if asked.elsewhere is not None:
        _, other, picture = _scene(asked.elsewhere)
        reference: Statistics = statistics(pooled(other, picture)[0])
        values["standardised"] = label_efficiency(features, labels, asked.patch_shots, asked.draws, reference=reference)
    report(2, 4, "cells")
    values["dense"] = dense_probe(
        backbone, image, scene.objects.boxes_xyxy, asked.crop, asked.crop_shots, asked.draws, **pixels, l2=CROP_L2
    )
    if asked.turned_shots:
        patches = cut(image, places((image.shape[1], image.shape[2]), asked.patch), asked.patch)
        upright, turned = (pooled_features(backbone, one, **pixels) for one in (patches, patches.flip(2, 3)))
        values["turned"] = turned_probe(upright, turned, asked.turned_shots, asked.draws)
    report(4, 4)
    return {"what": names[0] if len(names) == 1 else "object", "values": values}


def found_by_probes(study: Study, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """What study.json says of the probes: values of each init, and gains paired by draw of the labels, or, where there
    are several pretrainings, by pretraining (each the mean of its draws); None: none were asked for."""
    if study.probes is None:
        return None
    of = {init: [results[name] for name in _names(study, init)] for init in study.inits}
    first = of[study.baseline][0]
    kinds = {kind: list(by) for kind, by in first["values"].items()}  # numbers of labels, as text
    values = {
        kind: {shots: {init: _values(own, kind, shots) for init, own in of.items()} for shots in known}
        for kind, known in kinds.items()
    }
    gains = []
    for kind, known in kinds.items():
        for shots in known:
            for init, against in study.pairs:
                many = study.repetitions(init, against)
                after, before = (_repeated(values[kind][shots][name], many) for name in (init, against))
                gain = paired_gain(after, before, level=study.level, draws=study.draws)
                sides = {"before": float(np.mean(before)), "after": float(np.mean(after))}
                named = {"kind": kind, "labels": shots, "init": init, "against": against}
                gains.append({**named, **sides, **gain.as_json()})
    return {"what": first["what"], "values": values, "gains": gains}


def _values(own: Sequence[Mapping[str, Any]], kind: str, shots: str) -> list[float]:
    drawn = [one["values"][kind][shots] for one in own]
    return drawn[0] if len(drawn) == 1 else [float(np.mean(values)) for values in drawn]


def _repeated(values: Sequence[float], many: int) -> Sequence[float]:
    """Of an init that was pretrained once, beside one that was several times, the mean of its draws each time."""
    return values if many in (1, len(values)) else [float(np.mean(values))] * many


def _backbone(values: dict[str, Any]) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The backbone of a run before its first step, and mean and std of the pixels that it is used to."""
    run = run_from_dict(values, "few labels")
    task: Any = run.only.task
    if task.mean == "data" or task.std == "data":
        fix = "--set task.mean=[...] --set task.std=[...], those of the pretraining"
        raise UserError("probes need mean and std of the pixels as numbers", where="task.mean", fix=fix)
    torch.manual_seed(derive(run.seed, "init"))
    backbone = task.backbone.build()
    source = run.init or run.only.start
    if source is not None:
        load_backbone(backbone, source)
    if run.adapters is not None:
        merge_adapters(backbone, run.adapters)
    return backbone, {"mean": task.mean, "std": task.std}


def _scene(annotation: Path) -> tuple[tuple[str, ...], Record, Tensor]:
    walked = read(annotation, "boxes")[0]
    if len(walked.records) != 1:
        fix = "give annotations of a single image, a large one"
        what = f"probes are of one scene, and here are {len(walked.records)} images"
        raise UserError(what, where=annotation, fix=fix)
    return walked.class_names, walked.records[0], read_image(walked.records[0].images[0])

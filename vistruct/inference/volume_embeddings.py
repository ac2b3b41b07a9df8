"""Vectors of volumes and of their slices (`volume_embeddings`), of a model that has seen slices.

embeddings.csv      volume, and the E numbers of its unit vector: the mean of those of its slices, brought to length 1
slices/case.csv     slice, counted from 0 across the axis of training, and the E numbers of its own unit vector
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vistruct.contracts import Embedded, Sample
from vistruct.errors import UserError
from vistruct.files.text import write_text
from vistruct.files.volume_files import num_channels
from vistruct.files.volume_names import channel_path, is_nifti
from vistruct.inference.classes import in_batches
from vistruct.inference.embeddings import EMBEDDINGS, tell_vectors, write_vectors
from vistruct.inference.files import own_files
from vistruct.inference.kind import Asked, EachFile, Kind, OneFile, Values
from vistruct.inference.model import Model
from vistruct.inference.pixels import open_case
from vistruct.inference.scenes import Case
from vistruct.inference.volumes import frames_of, needs_reader, paths_of, plain_name, volumes_at
from vistruct.progress import tracking
from vistruct.transforms.sizing import sized


def _look(model: Model, cases: Sequence[Case], asked: Asked) -> list[Embedded]:
    """A picture is looked at as one slice."""
    return [_found(model, case, asked) if case.files else in_batches(model, [case], asked)[0] for case in cases]


@torch.inference_mode()
def _found(model: Model, case: Case, asked: Asked) -> Embedded:
    if case.fault is not None:
        raise case.fault
    volume = open_case(model, paths_of(case))
    collate = model.task.traits.predict_collator or model.task.collator
    rows: list[Tensor] = []
    with tracking(f"  {case.name}", done=0, total=volume.num_slices, quiet=asked.quiet) as show:
        for start in range(0, volume.num_slices, asked.batch):
            samples = []
            for number in range(start, min(start + asked.batch, volume.num_slices)):
                image = volume.slice(number)
                if len(image) != model.input.channels:
                    what = f"slices of {len(image)} channels, the model takes {model.input.channels}"
                    raise UserError(what, where=case.name, fix="give volumes as they were trained on")
                sample = Sample(id=f"{case.name}@{number}", image_id=case.name, seed=0, images=[image])
                samples.append(sized(sample, model.input.resize))
            rows += [one.image for one in model.task.predict(collate(samples).to(model.device))]
            show(len(rows), "slices")
    return _of_slices(case, torch.stack(rows).float())


def _of_slices(case: Case, slices: Tensor) -> Embedded:
    """From float[S, E]; every slice counts alike."""
    whole = F.normalize(slices.double().mean(dim=0), dim=0).float()
    return Embedded(id=case.name, image_id=case.name, image=whole, texts=whole.new_zeros(0, len(whole)), slices=slices)


def _volumes_at(model: Model, sources: Sequence[Path]) -> list[Case]:
    """As those of label volumes; each volume of a file with several is a case of its own, as in training."""
    cases = []
    for case in volumes_at(model, sources):
        (file, *others) = paths_of(case)
        count = 1 if others or case.fault is not None or not is_nifti(file) else num_channels(file)
        several = [Case(pictures=(channel_path(file, at),), name=f"{case.name}/{at}") for at in range(count)]
        cases += several if count > 1 else [case]
    return cases


def _write_slices(model: Model, case: Case, found: Embedded, file: Path, asked: Asked) -> None:
    slices = found.image[None] if found.slices is None else found.slices
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["slice", *range(slices.shape[1])])
    writer.writerows([number, *(f"{value:.9g}" for value in row)] for number, row in enumerate(slices.tolist()))
    write_text(file, [text.getvalue()])


def _unpack(model: Model, case: Case, values: Values, files: Mapping[str, Path]) -> Embedded:
    rows = np.loadtxt(files["slices"], np.float32, delimiter=",", skiprows=1, ndmin=2)
    return _of_slices(case, torch.from_numpy(rows[:, 1:]))


def _pack(case: Case, found: Embedded) -> dict[str, Any]:
    return {"embedding": found.image.tolist()}


VOLUME_EMBEDDINGS = Kind(
    name="volume_embeddings",
    prediction=Embedded,
    look=_look,
    pack=_pack,
    unpack=_unpack,
    tell=partial(tell_vectors, "volumes"),
    frames=frames_of,
    view=EMBEDDINGS.view,
    cases=_volumes_at,
    check=needs_reader,
    what="volumes",
    metrics=EMBEDDINGS.metrics,
    formats=(
        EachFile(
            name="slices",
            folder="slices",
            files=partial(own_files, ".csv", plain_name),
            write=_write_slices,
            use="always",
            is_kept=True,
        ),
        OneFile(name="csv", file="embeddings.csv", write=partial(write_vectors, "volume"), use="always"),
    ),
)

"""A CLIP of others as a model that can be measured: `vistruct eval CLIP --data PATH`, without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vistruct.cli.output import note
from vistruct.cli.train import RUNS
from vistruct.data.reading import AS_USUAL, PixelValues, Reading, Worded
from vistruct.errors import UserError


def opened(
    clip: Path, data: Path | None, split: str | None, worded: Worded, reading: Reading, values: PixelValues, device: Any
) -> tuple[Any, Any]:
    """The task that these data are for, with all weights of the CLIP, and its card: of a run that learns nothing.

    Raises:
        UserError: no data, or data of another kind; a CLIP that cannot be read, or is not whole.
    """
    import torch

    from vistruct.checkpoint.clip import check_size
    from vistruct.checkpoint.load import ModelCard
    from vistruct.checkpoint.low_rank import records_beside
    from vistruct.checkpoint.whole import load_start
    from vistruct.config import MAIN
    from vistruct.data.at_path import part_at
    from vistruct.data.input import Input
    from vistruct.recipes.clip.parts import clip_at, run_of

    if data is None:
        what = "a CLIP is measured on data: classes of images, or captions"
        raise UserError(what, where=clip, fix=f"vistruct eval {clip} --data PATH")
    found, part = clip_at(clip, worded), part_at(data, reading, values, split=split)
    run = run_of("", clip, found, worded, part, part, steps=1, batch=1, lr=1e-5, seed=0)
    info = run.only.data.build().info
    place = RUNS / f"eval-{clip.resolve().stem}"
    place.mkdir(parents=True, exist_ok=True)
    of: Any = run.only.task
    with torch.device("meta"):
        task = of.build(info, place)
    check_size(sum(one.numel() for one in task.parameters()), clip)
    task = of.build(info, place)
    for line in load_start(task, clip).lines():
        note(line)
    shown = Input(resize=found.size, mean=found.mean, std=found.std)
    values_of_card = {"run": run.model_dump(mode="json"), "stream": MAIN, "adapters": list(records_beside(clip))}
    card = ModelCard(path=place, task=run.only.task, info=info, input=shown, values=values_of_card)
    return task.to(device).eval(), card


def is_clip(path: Path, worded: Worded) -> bool:
    """Whether a path is a CLIP of others.

    Raises:
        UserError: it is none, and something was said of one that no model of ours has.
    """
    from vistruct.checkpoint.clip_layouts import is_public_clip

    found = path.exists() and is_public_clip(path)
    said = [name for name, value in vars(worded).items() if value != vars(AS_USUAL)[name]]
    if said and not found:
        what = f"--{said[0]} is said of a CLIP's file or folder"
        raise UserError(what, where=path, fix=f"leave it out; of a model: vistruct train clip.zero_shot --clip {path}")
    return found

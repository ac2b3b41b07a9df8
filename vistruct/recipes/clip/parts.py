"""What the recipes of CLIP, and `vistruct eval CLIP`, share: its parts, its words, its run."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

from vistruct.checkpoint.clip import TASKS
from vistruct.checkpoint.clip_layouts import PublicClip, is_public_clip, public_clip
from vistruct.checkpoint.load import read_card
from vistruct.config import MAIN, AdamW, Eval, Part, Run, Schedule, Stream, Trainable
from vistruct.data.reading import Worded
from vistruct.errors import UserError
from vistruct.metrics.classes import ClassesConfig
from vistruct.metrics.identified import IdentifiedConfig
from vistruct.metrics.retrieval import RetrievalConfig
from vistruct.tasks.match import MatchConfig
from vistruct.tasks.names import PLACE
from vistruct.tasks.region_text import RegionTextConfig
from vistruct.tasks.zero_shot import ZeroShotConfig
from vistruct.transforms.sizing import Size
from vistruct.vlm.text_tower import open_clip

TEXT = Trainable(pattern="clip.text", mode="frozen")


def clip_at(clip: Path, worded: Worded) -> PublicClip:
    """The parts of a CLIP: of a public file or folder, or of one of our models.

    Raises:
        UserError: as `public_clip`; a model of another kind.
    """
    if is_public_clip(clip) or worded.model is not None:
        found = public_clip(clip, worded.model)
    else:
        card = read_card(clip)
        if card.task.kind not in TASKS:
            what = f"this is a model of kind {card.task.kind}, and no CLIP"
            raise UserError(what, where=clip, fix="give the file or folder of a CLIP")
        task, size = card.task, card.input.resize
        sides = size if isinstance(size, Size) else Size(height=224, width=224, middle=1.0, interpolation="bicubic")
        found = PublicClip(backbone=task.backbone, clip=task.clip, size=sides, mean=task.mean, std=task.std)
    if worded.size is None:
        return found
    return replace(found, size=found.size.model_copy(update={"height": worded.size, "width": worded.size}))


def task_for(data: Part, found: PublicClip, worded: Worded) -> ZeroShotConfig | MatchConfig | RegionTextConfig:
    """What a CLIP does with these data: it tells classes of images or of boxes apart, or matches images and captions.

    Raises:
        UserError: data of another kind; words that cannot be read.
    """
    kind = vars(data)["kind"]
    own: dict[str, Any] = {name: vars(found)[name] for name in ("backbone", "clip", "mean", "std")}
    if kind == "captions":
        return MatchConfig(**own)
    if kind not in ("image_classes", "boxes"):
        what = f"a CLIP tells classes of images or boxes apart or matches captions, and these data are of kind {kind}"
        raise UserError(what, where="--data", fix="use data with classes of images, with boxes, or with captions")
    words = {"templates": templates_of(worded.templates), "texts": texts_of(worded.texts)}
    return RegionTextConfig(**own, **words) if kind == "boxes" else ZeroShotConfig(**own, **words)


def run_of(
    name: str,
    clip: Path | None,
    found: PublicClip,
    worded: Worded,
    train: Part,
    val: Part | None,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
) -> Run:
    """A run that begins with a CLIP; its text tower stays as it is."""
    kind, size = vars(train)["kind"], found.size
    metric = {"captions": RetrievalConfig(), "boxes": IdentifiedConfig(), "image_classes": ClassesConfig()}[kind]
    shown = {"resize": Size(height=size.height, width=size.width) if kind == "boxes" else size}  # boxes stay in sight
    evals = {} if val is None else {"val": Eval(data=val.model_copy(update=shown), metric=metric)}
    data, task = train.model_copy(update=shown), task_for(train, found, worded)
    return Run(
        recipe=name,
        streams={MAIN: Stream(task=task, data=data, batch=batch, start=clip)},
        evals=evals,
        trainable=(TEXT,),
        steps=steps,
        optim=AdamW(lr=lr, weight_decay=0.05),
        schedule=Schedule(warmup_steps=min(250, steps // 10)),
        seed=seed,
        workers=2,
    )


def templates_of(said: str) -> tuple[str, ...]:
    """Templates by name, from a file of lines, or the one that is said.

    Raises:
        UserError: none of these.
    """
    named = {"openai": "OPENAI_IMAGENET_TEMPLATES", "simple": "SIMPLE_IMAGENET_TEMPLATES"}
    if said in named:
        return tuple(one(PLACE) for one in vars(open_clip())[named[said]])
    if PLACE in said:
        return (said,)
    if not Path(said).is_file():
        what = f"no such file, and no template: {said!r}"
        raise UserError(what, where="--templates", fix=f'--templates "a photo of a {PLACE}.", or openai')
    lines = [line.strip() for line in Path(said).read_text(encoding="utf-8").splitlines()]
    return tuple(line for line in lines if line)


def texts_of(said: str | None) -> dict[str, tuple[str, ...]]:
    """What classes are called in texts, by their names; {}: as their names are.

    Raises:
        UserError: no such file; a line without a text.
    """
    if said is None:
        return {}
    if said == "imagenet":
        from timm.data import ImageNetInfo

        names = open_clip().IMAGENET_CLASSNAMES
        return {wnid: (name,) for wnid, name in zip(ImageNetInfo("imagenet-1k").label_names(), names, strict=True)}
    file, found = Path(said), dict[str, tuple[str, ...]]()
    if not file.is_file():
        raise UserError(
            "no such file", where=f"--texts {said}", fix="a csv: a class and what it is called on each line"
        )
    with file.open(encoding="utf-8", newline="") as lines:
        for number, (name, *texts) in enumerate((row for row in csv.reader(lines) if row), 1):
            if not any(text.strip() for text in texts):
                what, fix = f"{name!r} is called nothing", "CLASS,TEXT; more texts behind further commas"
                raise UserError(what, where=f"{file}, line {number}", fix=fix)
            found[name] = (*found.get(name, ()), *(text.strip() for text in texts if text.strip()))
    return found

"""VT-PLUG, decoders alone: the language model stays as it is, and what draws its object tokens learns.

Run:      vistruct train vtplug.decoders --data out/instructions.jsonl --start runs/tune --units mask
Needs:    published: 8 GPUs for the size 7b. Size small: 2 CPU cores, minutes
Expect:   no figure of the published system could be had
Source:   REF-VLM, arXiv:2503.07413 (VT-PLUG), and its public configurations: the run with a
          frozen language model: 96 conversations in a step, one epoch, 2e-5; all losses count alike
Differs:  see `recipes/vtplug/parts.py`; 10,000 steps are ours, its epoch depends on the data
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vistruct.config import Run, Trainable
from vistruct.recipes.vtplug.parts import FROZEN, Size, Unit, made_tiny, stage
from vistruct.vlm.grammar import Grammar


def recipe(
    *,
    data: Path,  # conversations that point: `vistruct instruct ... --pointing`
    root: Path | None = None,  # folder that the image paths start from; None: that of the file
    val: Path | None = None,  # conversations to measure on, never trained on; None: nothing is measured
    backbone: Path | None = None,  # run, backbone directory or weights; None: random, or that of `start`
    language: Path | None = None,  # folder of a causal language model as `transformers` saves it; None: likewise
    size: Size = "7b",
    start: Path | None = None,  # a run of another stage or of vitp.pretrain, or a whole InternVL, to go on from
    units: tuple[Unit, ...] = ("box", "mask"),  # that decoders draw; of others only the words are learned
    cot: bool = True,  # answers begin with a plan: which things, which unit, how many
    command: bool = False,  # the task is said in front of every question, as the published system needs it
    regions: Literal["pooled", "published", "off"] = "pooled",  # how a region that is shown is read
    groups: bool = True,  # object tokens of a phrase stand for its objects in any order
    steps: int | None = None,  # None: 10,000, or 400 of small
    batch: int | None = None,  # conversations in a step, over all devices; None: 96, or 16 of small
    lr: float | None = None,  # None: 2e-5, or 2e-3 of small
    seed: int = 0,
) -> Run:
    """Decoders of a language model that points, which stays as it is."""
    return stage(
        "vtplug.decoders",
        data=data,
        root=root,
        val=val,
        backbone=backbone,
        language=language,
        size=size,
        start=start,
        units=units,
        grammar=Grammar(cot=cot, command=command, spelling="published" if size == "7b" else "ours"),
        regions=regions,
        groups=groups,
        trainable=(
            Trainable(pattern="language", mode="frozen"),
            Trainable(pattern="projector", mode="frozen"),
            *FROZEN,
        ),
        loss_weights={},
        lora_rank=None,
        steps=(400 if size == "small" else 10000) if steps is None else steps,
        batch=(16 if size == "small" else 96) if batch is None else batch,
        lr=(2e-3 if size == "small" else 2e-5) if lr is None else lr,
        seed=seed,
    )


def tiny() -> Run:
    """A few steps on conversations about one of the shipped scenes, measured on the other; it hardly learns."""
    return made_tiny(recipe)

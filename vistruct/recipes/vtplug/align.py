"""VT-PLUG, first stage: what a frozen backbone sees becomes words; boxes are numbers in the text.

Run:      vistruct train vtplug.align --data out/instructions.jsonl --language vicuna-7b --backbone clip.safetensors
Needs:    published: 8 GPUs for the size 7b. Size small: 2 CPU cores, minutes
Expect:   no figure of the published system could be had
Source:   REF-VLM, arXiv:2503.07413 (VT-PLUG), and its public configurations: the
          projector alone learns, 256 conversations in a step, one epoch, 3,558 steps (by the name of a checkpoint)
Differs:  see `recipes/vtplug/parts.py`; the published rate of its last state is 2e-6, of earlier ones 2e-5
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run, Trainable
from vistruct.recipes.vtplug.parts import FROZEN, Size, made_tiny, stage
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
    steps: int | None = None,  # None: 3,558, or 300 of small
    batch: int | None = None,  # conversations in a step, over all devices; None: 256, or 16 of small
    lr: float | None = None,  # None: 2e-5, or 2e-3 of small
    seed: int = 0,
) -> Run:
    """A projector that brings a frozen backbone's tokens to a frozen language model."""
    return stage(
        "vtplug.align",
        data=data,
        root=root,
        val=val,
        backbone=backbone,
        language=language,
        size=size,
        start=start,
        units=(),
        grammar=Grammar(coordinates=True),
        regions="off",
        groups=True,
        trainable=(*FROZEN, Trainable(pattern="language", mode="frozen")),
        loss_weights={},
        lora_rank=None,
        steps=(300 if size == "small" else 3558) if steps is None else steps,
        batch=(16 if size == "small" else 256) if batch is None else batch,
        lr=(2e-3 if size == "small" else 2e-5) if lr is None else lr,
        seed=seed,
    )


def tiny() -> Run:
    """A few steps on conversations about one of the shipped scenes, measured on the other; it hardly learns."""
    return made_tiny(recipe)

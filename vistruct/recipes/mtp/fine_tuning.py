"""What MTP's published fine-tuning recipes share: three backbones, the rates that go with each, and their tiny twins.

Source: the 95 fine-tuning configurations of MTP's public code (arXiv:2403.13430), which are fourteen data sets by three
    backbones by two starting points, and here that many calls: AdamW, betas 0.9 and 0.999, weight decay 0.05; a rate of
    6e-5 for RVSA and of 2e-5 for InternImage, of 1e-4 for both where boxes are found; drop path 0.3 and 0.2; layer
    decay 0.9 and 0.94; warm-up in a line from a millionth of the rate; no clipping of gradients.
Differs from all of them: the layer decay of InternImage is written there but never applied, because it looks for
    another name: its logs show one rate for every layer. Here the lower layers learn at a lower rate whatever the
    backbone; `--as-published` gives InternImage the one rate. bf16 in place of float32 where that is faster; batch norm
    of the decoders sees one device's images; an image may have any size, not `--size` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from vistruct.backbones.intern_image import SIZES, InternImageConfig
from vistruct.backbones.vit_rvsa import MTP_B, MTP_L, VitRvsaConfig
from vistruct.checkpoint.catalogue.find import entry_of
from vistruct.checkpoint.mtp_decoders import PARTS
from vistruct.config import MAIN, AdamW, Eval, Part, Run, Schedule, Stream
from vistruct.errors import UserError
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.mask_rcnn import MaskRcnnConfig
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.heads.unet import UNetConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.recipes.detect import model_at
from vistruct.recipes.small import quick
from vistruct.recipes.vitp.detection import narrow

Model = Literal["rvsa_b", "rvsa_l", "intern_xl"]
Maps = Literal["last", "blocks", "pyramid", "branches"]  # of a ViT; InternImage always gives its four

RVSA = {"rvsa_b": MTP_B, "rvsa_l": MTP_L}
NAMED: dict[str, Model] = {
    "mtp-b": "rvsa_b",
    "mtp-l": "rvsa_l",
    "mtp-xl": "intern_xl",
    "mae-b": "rvsa_b",
    "mae-l": "rvsa_l",
}
RATES: dict[Model, float] = {"rvsa_b": 6e-5, "rvsa_l": 6e-5, "intern_xl": 2e-5}  # of classes and pixels
BOX_RATES: dict[Model, float] = {"rvsa_b": 1e-4, "rvsa_l": 1e-4, "intern_xl": 1e-4}
LAYER_DECAY: dict[Model, float] = {"rvsa_b": 0.9, "rvsa_l": 0.9, "intern_xl": 0.94}


class Tiny(Protocol):
    """A few steps on made-up data, with a small backbone of the kind of `model`."""

    def __call__(self, model: Model = "rvsa_b") -> Run: ...


@dataclass(frozen=True, kw_only=True)
class Downstream:
    """One published fine-tuning, whatever the backbone and its start."""

    name: str  # of the recipe
    size: int  # pixels, both sides: of an image, a crop or a window
    split: str  # what is learned from; what it leaves out is measured
    batch: int  # images in a step, over all devices
    steps: int  # the published epochs
    rates: dict[Model, float]
    data: Callable[[Path, str, int], tuple[Part, dict[str, Eval]]]  # folder, split, size -> training data, evaluations
    task: Callable[[Model, int], Part]  # model, size
    schedule: Callable[[int], Schedule]  # steps


def recipe_for(own: Downstream) -> Callable[..., Run]:
    """The recipe of a published fine-tuning."""

    def recipe(
        *,
        data: Path,  # folder of the data set
        model: Model | None = None,  # ViT-B or ViT-L with RVSA, InternImage-XL; None: of backbone's name, or rvsa_b
        backbone: Path | None = None,  # MTP's, MAE's or InternImage's weights, a run or a backbone directory
        start: Path | None = None,  # to begin with the decoder too: a pretraining run's model/NAME, or its *_model.pth
        split: str = own.split,
        size: int = own.size,
        steps: int = own.steps,
        lr: float | None = None,  # None: the published one of the model
        seed: int = 0,
        as_published: bool = False,  # InternImage's layers all at one rate
    ) -> Run:
        """The published fine-tuning."""
        model = model_of(model, backbone)
        train, evals = own.data(data, split, size)
        decay = 1.0 if as_published and model == "intern_xl" else LAYER_DECAY[model]
        return Run(
            recipe=own.name,
            streams={MAIN: Stream(task=_begun(own.task(model, size), start), data=train, batch=own.batch, start=start)},
            evals=evals,
            init=backbone,
            steps=steps,
            optim=AdamW(lr=own.rates[model] if lr is None else lr, weight_decay=0.05, layer_decay=decay),
            schedule=own.schedule(steps),
            clip_norm=None,
            seed=seed,
            workers=4,
            save_every=1000,
        )

    return recipe


def model_of(model: Model | None, backbone: Path | None) -> Model:
    """The model that is asked for, or that public weights with a name are of; else the first.

    Raises:
        UserError: both are said, and they are not the same; the name is of none of the three.
    """
    entry = None if backbone is None else entry_of(backbone)
    if entry is None:
        return model or "rvsa_b"
    if entry.name not in NAMED:
        fix = f"--backbone {', '.join(NAMED)}; any other backbone: vistruct train detect, oriented, segment, ..."
        raise UserError(f"{entry.name} is none of MTP's three backbones", where=f"--backbone {entry.name}", fix=fix)
    if model is not None and model != NAMED[entry.name]:
        what = f"{entry.name} is for --model {NAMED[entry.name]}, not {model}"
        raise UserError(what, where=f"--model {model}", fix="leave --model out")
    return NAMED[entry.name]


def _begun(task: Any, start: Path | None) -> Part:
    """The task with the neck and head of what it starts from: the published ones may have other sizes."""
    begun = model_at(start, type(task))
    if begun is not None and begun.task.head.kind == task.head.kind:
        return task.model_copy(update={"neck": begun.task.neck, "head": begun.task.head})
    if begun is None and start is not None and isinstance(task.head, UperNetConfig):  # a file of MTP's pretraining
        return task.model_copy(update={"head": PARTS["ss"][1]})
    return task


def backbone(model: Model, *, maps: Maps, size: int, recompute: bool = False) -> Part:
    """The published backbone of a model.

    Args:
        maps: last: that of the last block; blocks: of four blocks, all at stride 16; pyramid: of four blocks at strides
            4 to 32; branches: likewise, and blocks that see everything know no relative positions.
        size: pixels, for which positions are learned; those of other sizes are interpolated.
        recompute: as published: with it a step on 800 pixels fits into 16 GB.
    """
    if model == "intern_xl":
        return SIZES["XL"].model_copy(update={"drop_path": 0.2, "recompute": recompute})
    vit = RVSA[model]
    return vit.model_copy(
        update={
            "image_size": -(-size // vit.patch) * vit.patch,
            "out_indices": vit.out_indices[-1:] if maps == "last" else vit.out_indices,
            "pyramid": "none" if maps in ("last", "blocks") else "blocks",
            "full_rel_pos": maps != "branches",
            "drop_path": 0.3,
            "recompute": recompute,
        }
    )


def step_schedule(epochs: int, drops: tuple[int, ...]) -> Callable[[int], Schedule]:
    """500 steps of warm-up, a tenth of the rate after each of these epochs; they move along with the steps."""

    def schedule(steps: int) -> Schedule:
        at = tuple(max(1, steps * epoch // epochs) for epoch in drops)
        return Schedule(shape="step", warmup_steps=min(500, steps // 2), warmup_from=1e-6, drops_at=at)

    return schedule


def cosine(epochs: int) -> Callable[[int], Schedule]:
    """Five of so many epochs of warm-up, then a cosine to 0."""
    return lambda steps: Schedule(shape="cosine", warmup_steps=steps * 5 // epochs, warmup_from=1e-6)


def tiny_for(own: Downstream, folder: Callable[[], Path], *, size: int, split: str = "train") -> Tiny:
    """The tiny twin of a recipe: the same parts on made-up data, so small that a few steps take seconds."""

    def tiny(model: Model = "rvsa_b") -> Run:
        """A few steps on made-up data in the layout of the data set; it hardly learns."""
        run = recipe_for(own)(data=folder(), model=model, split=split, size=size, steps=6)
        return quick(run, small_parts(run.only.task))

    return tiny


def small_parts(task: Any) -> dict[str, Part]:
    """Parts of the same kinds as a task's, so small that a step takes a moment."""
    parts: dict[str, Part] = {"backbone": _small(task.backbone), "head": _narrow(task.head)}
    if task.neck is not None:
        parts["neck"] = task.neck.model_copy(update={"channels": 16})
    return parts


def _small(part: Part) -> Part:
    if isinstance(part, InternImageConfig):
        return part.model_copy(update={"width": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8)})
    assert isinstance(part, VitRvsaConfig)
    out = (3,) if len(part.out_indices) == 1 else (0, 1, 2, 3)
    small = {"width": 32, "depth": 4, "heads": 2, "interval": 2, "out_indices": out, "drop_path": 0.1}
    return part.model_copy(update=small)


def _narrow(head: Part) -> Part:
    if isinstance(head, UperNetConfig):
        return head.model_copy(update={"channels": 16})
    if isinstance(head, UNetConfig):
        return head.model_copy(update={"channels": (32, 16, 16, 8)})
    return narrow(head) if isinstance(head, FasterRcnnConfig | MaskRcnnConfig | OrientedRcnnConfig) else head

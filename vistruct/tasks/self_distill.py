"""Self-distillation: a student tells from part of an image what its own moving average says of the whole.

Source: DINO (arXiv:2104.14294): views of an image are told alike, small ones by the student alone; iBOT
    (arXiv:2111.07832): hidden patches are told as the teacher tells them, which sees them; DINOv2 (arXiv:2304.07193)
    for its settings; the Gram anchor of DINOv3 (arXiv:2508.10104); KoLeo of Sablayrolles et al. (arXiv:1806.03198).
Differs: all that balances the prototypes comes from earlier steps, Sinkhorn's factors too (a round a step), and so do
    KoLeo's neighbours: the loss is a sum over images. What is hidden is pixels, which become learned ones, so that a
    convolutional stem does not see them. The anchor compares the patches that are shown, in units of how the patches of
    an image differ at the start.
Shapes: B images, G global and N local views of each, L patches of a global one of which M are hidden, K prototypes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import (
    Backbone,
    DataInfo,
    Embedded,
    Phase,
    Ratio,
    StepOutput,
    TaskTraits,
    TokenBackbone,
    Tokens,
)
from vistruct.distributed.ranks import all_reduce_sum
from vistruct.errors import UserError
from vistruct.heads.prototypes import PrototypesConfig
from vistruct.kinds import BackbonePart
from vistruct.tasks.features import backbone_for, least_divisor
from vistruct.tasks.moving import follow
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise, Statistics, with_statistics
from vistruct.tasks.queue import Queue
from vistruct.tasks.self_distill_views import ViewsBatch, ViewsCollator
from vistruct.tasks.teacher import Teacher, TeacherConfig
from vistruct.transforms.views import ViewsConfig

GLOBAL = (ViewsConfig(number=1, blur=1.0), ViewsConfig(number=1, blur=0.1, solarise=0.2))
LOCAL = (ViewsConfig(number=8, size=96, area=(0.05, 0.32)),)
LEAST_SPREAD = 1e-5  # of the patches of an image at the start, by which the anchor is divided
MOST_SHIFT = 1.0  # of the logarithm of a prototype's load, in a round of Sinkhorn's


class SelfDistillConfig(Part):
    """What is shown to whom, and what keeps the prototypes apart."""

    kind: Literal["self_distill"] = "self_distill"
    backbone: BackbonePart
    global_views: tuple[ViewsConfig, ...] = GLOBAL  # of one size; the teacher sees them whole
    local_views: tuple[ViewsConfig, ...] = LOCAL  # of one size, for the student alone; (): none
    head: PrototypesConfig = PrototypesConfig()
    shared_head: bool = True  # one head for images and patches; false: each has its own
    hidden: tuple[float, float] = (0.1, 0.5)  # least and most of a global view's patches, drawn
    hidden_chance: float = Field(0.5, ge=0, le=1)  # that a global view has hidden patches at all
    momentum: float = Field(0.992, ge=0, le=1)  # of the teacher at first; it rises to 1 as a cosine
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: tuple[float, float] = (0.04, 0.07)  # at first and in the end
    temperature_share: float = Field(0.3, ge=0, le=1)  # part of the run in which it rises
    centring: Literal["mean", "sinkhorn"] = "mean"  # of the teacher's logits, by those of earlier steps
    centre_rate: float = Field(0.1, gt=0, le=1)
    heads_first: int = Field(0, ge=0)  # steps in which the backbone stands still; with LoRA less than 1,000
    last_layer_first: int = Field(0, ge=0)  # steps in which the student's prototypes stand still
    koleo: int = Field(0, ge=0)  # class tokens of earlier steps that those of global views are kept away from; 0: none
    anchor: Path | None = None  # weights that the backbone starts from, and stays near to; None: it is free
    anchor_by: Literal["gram", "feature"] = "gram"  # similarities of patches among each other, or each patch's feature
    mean: Statistics = IMAGENET_MEAN  # of each channel in [0, 1]; data: measured on the training data
    std: Statistics = IMAGENET_STD

    @property
    def phases(self) -> tuple[Phase, ...]:
        """While the heads learn alone, the student's backbone has no backward pass."""
        if self.heads_first == 0:
            return ()
        return Phase(name="the heads alone", first_step=0), Phase(name="everything", first_step=self.heads_first)

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> SelfDistill:
        """Build for the channels of the data; nothing is kept in `assets`.

        Raises:
            UserError: a backbone without tokens; parts that do not fit each other.
        """
        for name, groups in (("global_views", self.global_views), ("local_views", self.local_views)):
            if len({one.size for one in groups}) > 1:
                fix = f"one size for all of task.{name}"
                raise UserError("views of several sizes", where=f"task.{name}", fix=fix)
            for one in groups:
                one.check(info.pixels)
        if sum(one.number for one in self.global_views) < 2:
            what = "less than two global views: nothing is told of one from another"
            raise UserError(what, where="task.global_views", fix="--set task.global_views.0.number=2")
        if not 0 <= self.hidden[0] <= self.hidden[1] < 1:
            what = f"hidden={self.hidden} is no range of shares"
            raise UserError(what, where="task.hidden", fix="--set task.hidden=[0.1,0.5]")
        return SelfDistill(with_statistics(self, info), info, backbone)


class SelfDistill(nn.Module):
    """ViewsBatch -> StepOutput in training, vectors of whole images from `predict`."""

    temperature: Tensor
    start_spread: Tensor

    def __init__(self, config: SelfDistillConfig, info: DataInfo, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config, self.channels = config, info.channels
        self.normalise = Normalise(config.mean, config.std, info.channels)
        built = backbone_for(config.backbone, info.channels, backbone)
        if not isinstance(built, TokenBackbone):
            what = f"a backbone of kind {config.backbone.kind} has no tokens"
            raise UserError(what, where="task.backbone", fix="use a plain ViT: kind intern_vit, eva_vit, or timm")
        divisor = least_divisor(built)
        for name, groups in (("global_views", config.global_views), ("local_views", config.local_views)):
            if groups and groups[0].size % divisor:
                what, near = (
                    f"views of {groups[0].size} pixels are no whole number of patches",
                    groups[0].size // divisor,
                )
                fix = f"--set task.{name}.0.size={max(1, near) * divisor}, for each of task.{name}"
                raise UserError(what, where=f"task.{name}", fix=fix)
        self.backbone = built
        self.class_head = config.head.build(built.width)
        self.patch_head = self.class_head if config.shared_head else config.head.build(built.width)
        self.hidden_pixels = nn.Parameter(torch.zeros(info.channels, built.patch, built.patch))
        parts: Any = {"backbone": self.backbone, "class_head": self.class_head, "patch_head": self.patch_head}
        self.teacher = nn.ModuleDict(copy.deepcopy(parts))
        for name in ("class", "patches"):
            self.register_buffer(f"centre_{name}", torch.zeros(config.head.number))
        self.register_buffer("temperature", torch.tensor(config.teacher_temperature[0]))
        # Of all views of earlier steps: how much their patches differ at the start, summed; and how many.
        self.register_buffer("start_spread", torch.zeros(2, dtype=torch.float64))
        self.earlier = Queue(config.koleo, built.width) if config.koleo else None
        self.sums: dict[str, Tensor] = {}  # of this step: [... + 1] each, the last one how many
        self.heads_only = self.prototypes_stand = False
        self.anchor: Teacher | None = None
        if config.anchor is not None:
            start: Any = {"mean": config.mean, "std": config.std}
            self.anchor = TeacherConfig(backbone=config.backbone, weights=config.anchor, **start).build(info, "task")

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(
            prediction="embeddings",
            terms=("class", "patches", *self._optional()),
            predict_collator=replace(self.collator, local_views=(), hidden_chance=0.0, as_it_is=True),
            before_step=self.before_step,
            after_step=self.after_step,
            still=("teacher",),
            ships="teacher.backbone",
            teachers={} if self.anchor is None else {"anchor": self.anchor},
        )

    @property
    def collator(self) -> ViewsCollator:
        own = self.config
        return ViewsCollator(
            channels=self.channels, patch=self.backbone.patch, global_views=own.global_views,
            local_views=own.local_views, hidden=own.hidden, hidden_chance=own.hidden_chance,
        )  # fmt: skip

    @torch.no_grad()
    def before_step(self, step: int, steps: int) -> None:
        """The teacher follows the student as the last step left it; before the first step it becomes that."""
        own, done = self.config, step / steps
        follow(self.teacher, self, 1 - (1 - own.momentum) * (1 + math.cos(math.pi * done)) / 2 if step else 0.0)
        low, high = own.teacher_temperature
        rising = min(1.0, done / own.temperature_share) if own.temperature_share > 0 else 1.0
        self.temperature.fill_(low + (high - low) * rising)
        self.heads_only, self.prototypes_stand = step < own.heads_first, step < own.last_layer_first
        self.sums = {}

    @torch.no_grad()
    def after_step(self) -> None:
        """The centres move by what the teacher said in this step, on all ranks; class tokens join the earlier ones."""
        for name in ("class", "patches"):
            centre = self.get_buffer(f"centre_{name}")
            told = self.sums.get(name)
            told = all_reduce_sum(centre.new_zeros(len(centre) + 1) if told is None else told)
            if told[-1] > 0:
                mean = told[:-1] / told[-1]
                if self.config.centring == "mean":
                    centre.lerp_(mean, self.config.centre_rate)
                else:
                    load = (len(mean) * mean).clamp(min=1e-9).log().clamp(-MOST_SHIFT, MOST_SHIFT)
                    centre.add_(self.config.centre_rate * self.temperature * load)
        if self.anchor is not None:
            self.start_spread += all_reduce_sum(self.sums.get("anchor", torch.zeros_like(self.start_spread)))
        if self.earlier is not None:
            self.earlier.after_step()
        self.sums = {}

    def forward(self, batch: ViewsBatch) -> StepOutput:
        """Cross-entropy of what the student says of views and of hidden patches with what the teacher says."""
        whole, is_hidden = self.normalise(batch.whole.flatten(0, 1)), batch.is_hidden.flatten(0, 1)  # [B * G, ...]
        with torch.no_grad():
            teacher: Any = self.teacher
            seen: Tokens = teacher["backbone"].tokens(whole)
            views_told = self._targets("class", teacher["class_head"](pooled(seen)))
            patches_told = self._targets("patches", teacher["patch_head"](seen.patches[is_hidden]))  # [sum of M, K]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.heads_only):
            own = self.backbone.tokens(hide(whole, is_hidden, self.hidden_pixels))
            pools = [pooled(own).unflatten(0, (len(batch), -1))]
            if batch.parts.shape[1]:
                local = self.backbone.tokens(self.normalise(batch.parts.flatten(0, 1)))
                pools.append(pooled(local).unflatten(0, (len(batch), -1)))
        stand = self.prototypes_stand
        logits = self.class_head(torch.cat(pools, dim=1), stand), self.patch_head(own.patches[is_hidden], stand)
        with torch.autocast(whole.device.type, enabled=False):
            terms = {
                "class": told_apart(views_told.unflatten(0, (len(batch), -1)), self._said(logits[0])),
                "patches": told_of_patches(patches_told, self._said(logits[1]), is_hidden),
            }
            if self.anchor is not None:
                terms["anchor"] = self._kept(self.anchor, whole, own.patches, ~is_hidden)
            if self.earlier is not None:
                terms["koleo"] = self._apart(self.earlier, F.normalize(pools[0].float().flatten(0, 1), dim=1), batch)
            spread = -(views_told * views_told.clamp(min=1e-9).log()).sum() / math.log(views_told.shape[1])
        # 1: the teacher uses all prototypes alike, 0: one of them.
        return StepOutput(terms=terms, metrics={"teacher_entropy": Ratio(total=spread, count=len(whole))})

    def units(self, batch: ViewsBatch) -> Mapping[str, float | Tensor]:
        """Images; and global views, whether anything of them is hidden or not."""
        seen = float(batch.whole.shape[0] * batch.whole.shape[1])
        return {"class": float(len(batch)), "patches": seen} | dict.fromkeys(self._optional(), seen)

    def _optional(self) -> tuple[str, ...]:
        """Terms that this task has beside the first two."""
        there = {"anchor": self.anchor is not None, "koleo": self.earlier is not None}
        return tuple(name for name, has in there.items() if has)

    def _targets(self, name: str, logits: Tensor) -> Tensor:
        """float32[N, K], sharpened shares of the prototypes; in training they are noted for the centre."""
        centre = self.get_buffer(f"centre_{name}")
        shares = ((logits - centre) / self.temperature).softmax(dim=-1)
        if self.training:
            noted = logits if self.config.centring == "mean" else shares
            noted = torch.cat([noted.sum(dim=0), noted.new_full((1,), len(noted))])
            self.sums[name] = noted if name not in self.sums else self.sums[name] + noted
        return shares

    def _said(self, logits: Tensor) -> Tensor:
        return (logits / self.config.student_temperature).log_softmax(dim=-1)

    def _kept(self, anchor: Teacher, whole: Tensor, patches: Tensor, is_shown: Tensor) -> Tensor:
        """How far shown patches are from where they started, as part of how far the patches of an image are from each
        other there, the mean of each view, summed over views; 0 in the first step, which only measures that."""
        if not anchor.is_there:
            raise RuntimeError("an anchor is asked before it was loaded: engine.teachers")
        with torch.no_grad():
            start = F.normalize(anchor.held[0].tokens(whole).patches.float(), dim=2)
        own, shown, alike = F.normalize(patches.float(), dim=2), is_shown.float(), start @ start.transpose(1, 2)
        if self.config.anchor_by == "feature":
            off, spread = 1 - (own * start).sum(dim=2), 1 - alike.mean(dim=(1, 2))
        else:
            off, spread = (own @ own.transpose(1, 2) - alike).square(), alike.flatten(1).var(dim=1, correction=0)
            shown = shown[:, :, None] * shown[:, None]
        total, views = self.start_spread.unbind()
        if self.training:
            noted = torch.stack([spread.double().sum(), views.new_tensor(len(spread))])
            self.sums["anchor"] = noted if "anchor" not in self.sums else self.sums["anchor"] + noted
        kept = ((off * shown).flatten(1).sum(dim=1) / shown.flatten(1).sum(dim=1).clamp(min=1)).sum()
        return kept * torch.where(views > 0, views / total.clamp(min=LEAST_SPREAD * views), 0).float()

    def _apart(self, earlier: Queue, tokens: Tensor, batch: ViewsBatch) -> Tensor:
        """KoLeo of class tokens float[B * G, D] against those of other images at earlier steps, summed over views."""
        each = len(tokens) // len(batch)
        owners, seeds = (one.repeat_interleave(each) for one in (batch.whose, batch.seeds))
        if self.training:
            earlier.keep(tokens, owners, seeds)
        return earlier.koleo(tokens, owners)

    def predict(self, batch: ViewsBatch) -> list[Embedded]:
        """The mean of the teacher's patches of each whole image, of length 1, on the CPU."""
        teacher: Any = self.teacher
        found = teacher["backbone"].tokens(self.normalise(batch.whole[:, 0])).patches.float().mean(dim=1)
        vectors = F.normalize(found, dim=1).cpu()
        return [
            Embedded(id=name, image_id=image, image=vector, texts=vector.new_zeros(0, len(vector)))
            for name, image, vector in zip(batch.ids, batch.image_ids, vectors, strict=True)
        ]


def told_apart(told: Tensor, said: Tensor) -> Tensor:
    """float[], cross-entropy of each view that the student sees with each other one of the image, the mean of these
    pairs summed over images.

    Args:
        told: float[B, G, K], shares of the teacher.
        said: float[B, G + N, K], logarithms of the student's shares; the first G are of the same views.
    """
    off = -torch.einsum("bgk,bvk->bgv", told, said)
    others = 1 - torch.eye(off.shape[1], off.shape[2], device=off.device)
    return (off * others).sum() / others.sum()


def told_of_patches(told: Tensor, said: Tensor, is_hidden: Tensor) -> Tensor:
    """float[], cross-entropy at hidden patches, the mean of each view summed over views.

    Args:
        told: float[M, K], shares of the teacher at the hidden patches of all views, in their order.
        said: float[M, K], logarithms of the student's.
        is_hidden: bool[V, L].
    """
    share = is_hidden / is_hidden.sum(dim=1, keepdim=True).clamp(min=1)
    return -((told * said).sum(dim=1) * share[is_hidden]).sum()


def pooled(tokens: Tokens) -> Tensor:
    """float[B, D], the class token, or the mean of the patches where there is none."""
    return tokens.patches.mean(dim=1) if tokens.class_token is None else tokens.class_token


def hide(images: Tensor, is_hidden: Tensor, pixels: Tensor) -> Tensor:
    """Normalised images float[B, C, H, W] with `pixels` float[C, p, p] in place of each hidden patch, bool[B, L]."""
    patch = pixels.shape[1]
    height, width = (side // patch for side in images.shape[2:])
    cells = is_hidden.view(len(images), 1, height, width).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return torch.where(cells, pixels.repeat(1, height, width).to(images.dtype), images)

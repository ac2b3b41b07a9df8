"""Distillation: a backbone learns the maps of frozen teachers, without labels.

Source: several teachers with a head each and standardised channels (RADIO, arXiv:2312.06709); Gram matrices of
    L2-normalised tokens (DINOv3, arXiv:2508.10104); divergence between the rows of token similarities / 0.07, as in the
    public configuration of LightlyTrain.
Differs: channels are standardised by mean and deviation of *earlier* steps, summed over ranks, so that the loss of a
    batch is the sum over its images and scaling a teacher changes nothing; in the first step they are measured and
    features teach nothing. A head starts with a norm of its own, for not every backbone ends with one.
Shapes: B images, L = h * w cells of the teacher's map, D channels of the teacher, W of the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import Backbone, DataInfo, Embedded, Sample, StepOutput, TaskTraits
from vistruct.distributed.ranks import all_reduce_sum
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart
from vistruct.ops.seeds import derive
from vistruct.tasks.features import features
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise, Statistics, stacked, with_statistics
from vistruct.tasks.teacher import TeacherConfig, spec_of
from vistruct.transforms.photometric import jitter

MEASURED = 4096  # images that a teacher's statistics are made of; then they stay
DEAD = 1e-6  # of the largest deviation; channels below it teach nothing


class LessonConfig(Part):
    """A teacher, and what is learned from it."""

    teacher: TeacherConfig
    features: Literal["mse", "cosine", "smooth_l1", "none"] = "mse"  # of each cell, standardised
    head: Literal["linear", "mlp"] = "linear"  # from the student's channels to the teacher's
    relations: Literal["gram", "kl", "none"] = "none"  # between the cells of an image
    temperature: float = Field(0.07, gt=0)  # of similarities; kl


class DistillConfig(Part):
    """The parts; images of one batch must have one size (augment.resized_crop, or data.resize)."""

    kind: Literal["distill"] = "distill"
    backbone: BackbonePart
    lessons: dict[str, LessonConfig] = Field(min_length=1)  # by a name, which is in those of the terms of the loss
    level: int = -1  # which of the backbone's maps learns
    colours: float = Field(0.0, ge=0, le=1)  # largest relative change of colour, which the backbone alone sees
    mean: Statistics = IMAGENET_MEAN  # of each channel in [0, 1]; data: measured on the training data
    std: Statistics = IMAGENET_STD

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Distill:
        """Build for the channels of the data; teachers are loaded by the engine, nothing is kept in `assets`.

        Raises:
            UserError: parts that do not fit each other; a teacher with nothing to teach.
        """
        for name, lesson in self.lessons.items():
            where = f"task.lessons.{name}"
            if not (name.isascii() and name.isidentifier()):
                raise UserError(f"{name!r} is no name", where=where, fix="letters, digits and underscores")
            if lesson.features == lesson.relations == "none":
                what = "neither features nor relations are learned from this teacher"
                raise UserError(what, where=where, fix=f"--set {where}.features=mse")
        if self.colours and info.pixels == "raw":
            what = "values in the unit of the files have no black and white between which colours could change"
            raise UserError(what, where="task.colours", fix="--set task.colours=0")
        return Distill(with_statistics(self, info), info, backbone)


@dataclass(kw_only=True)
class DistillBatch:
    """Images of one size, as teachers see them and as the student does."""

    ids: list[str]
    image_ids: list[str]
    images: Tensor  # uint8, uint16 or float32[B, C, H, W]
    plain: Tensor | None  # likewise, without changes of colour; None: `images` have none

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        plain = None if self.plain is None else self.plain.to(device, non_blocking=True)
        return replace(self, images=self.images.to(device, non_blocking=True), plain=plain)


@dataclass(frozen=True, kw_only=True)
class DistillCollator:
    """Samples -> DistillBatch. Holds no weights, so that it travels to worker processes."""

    channels: int
    divisor: int  # pixels
    colours: float

    def __call__(self, samples: list[Sample]) -> DistillBatch:
        shape = samples[0].images[0].shape
        for sample in samples:
            self._check(sample, shape)
        changed = [self._changed(sample) for sample in samples] if self.colours else samples
        return DistillBatch(
            ids=[sample.id for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            images=stacked([sample.images[0] for sample in changed], (shape[1], shape[2])),
            plain=stacked([one.images[0] for one in samples], (shape[1], shape[2])) if self.colours else None,
        )

    def _changed(self, sample: Sample) -> Sample:
        return jitter(sample, self.colours, torch.Generator().manual_seed(derive(sample.seed, "distill", "colours")))

    def _check(self, sample: Sample, shape: torch.Size) -> None:
        if len(sample.images) != 1:
            what = f"{len(sample.images)} images in a sample, where the task takes one"
            raise UserError(what, where=sample.id, fix="use data with one image each (kind: images)")
        found = sample.images[0].shape
        if found[0] != self.channels:
            what = f"an image of {found[0]} channels, the model takes {self.channels}"
            raise UserError(what, where=sample.id, fix="choose --bands")
        if found != shape:
            what = f"images of {found[2]} x {found[1]} and {shape[2]} x {shape[1]} pixels in one batch"
            raise UserError(what, where=sample.id, fix="--size N brings all to one size")
        if shape[1] % self.divisor or shape[2] % self.divisor:
            what = f"{shape[2]} x {shape[1]} pixels are no whole number of cells"
            raise UserError(what, where=sample.id, fix=f"--size N, a multiple of {self.divisor}")


class Distill(nn.Module):
    """DistillBatch -> StepOutput in training, vectors of whole images from `predict`."""

    def __init__(self, config: DistillConfig, info: DataInfo, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config, self.channels = config, info.channels
        self.normalise = Normalise(config.mean, config.std, info.channels)
        below = features(config.backbone, None, channels=info.channels, shared=backbone)
        self.backbone, self.divisor = below.backbone, below.size_divisor
        width = spec_of(below.specs, config.level, "task").channels
        self.names = tuple(config.lessons)
        self.lessons = nn.ModuleList([Lesson(one, info, width, name) for name, one in config.lessons.items()])

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(
            prediction="embeddings",
            terms=tuple(f"{term}_{name}" for name, lesson in self._lessons() for term in lesson.terms),
            predict_collator=replace(self.collator, colours=0.0),
            after_step=self.after_step,
            teachers={name: lesson.teacher for name, lesson in self._lessons()},
        )

    @property
    def collator(self) -> DistillCollator:
        return DistillCollator(channels=self.channels, divisor=self.divisor, colours=self.config.colours)

    def _lessons(self) -> list[tuple[str, Lesson]]:
        return list(zip(self.names, self.lessons, strict=True))  # ty: ignore[invalid-explicit-return]

    def after_step(self) -> None:
        """Add what this step saw of each teacher to its statistics, on all ranks alike."""
        for _, lesson in self._lessons():
            lesson.standard.after_step()

    def forward(self, batch: DistillBatch) -> StepOutput:
        """For each teacher, summed over images: the mean error of its cells, and that of how they relate."""
        own = self._map(batch).float()
        shown = batch.images if batch.plain is None else batch.plain
        terms = {f"{t}_{name}": v for name, lesson in self._lessons() for t, v in lesson(shown, own).items()}
        return StepOutput(terms=terms)

    def units(self, batch: DistillBatch) -> Mapping[str, float | Tensor]:
        """Images."""
        return dict.fromkeys(self.traits.terms, float(len(batch)))

    def _map(self, batch: DistillBatch) -> Tensor:
        return self.backbone(self.normalise(batch.images))[self.config.level]

    def predict(self, batch: DistillBatch) -> list[Embedded]:
        """The mean of the map that learns, of each whole image, of length 1, on the CPU."""
        found = F.normalize(self._map(batch).float().mean(dim=(2, 3)), dim=1).cpu()
        none = found.new_zeros(0, found.shape[1])
        return [
            Embedded(id=batch.ids[i], image_id=batch.image_ids[i], image=found[i], texts=none)
            for i in range(len(batch))
        ]


class Lesson(nn.Module):
    """Images as a teacher sees them, and the student's map float[B, W, h', w'] -> terms float[], sums over images."""

    def __init__(self, config: LessonConfig, info: DataInfo, width: int, name: str) -> None:
        super().__init__()
        self.config = config
        self.teacher = config.teacher.build(info, f"task.lessons.{name}.teacher")
        taught = self.teacher.spec.channels
        self.standard = Standard(taught)
        layers: list[nn.Module] = [nn.LayerNorm(width)]
        if config.head == "mlp":
            layers += [nn.Linear(width, taught), nn.LayerNorm(taught), nn.GELU(), nn.Linear(taught, taught)]
        else:
            layers.append(nn.Linear(width, taught))
        self.head = nn.Sequential(*layers) if config.features != "none" else None
        kinds = {"features": config.features, "relations": config.relations}
        self.terms = tuple(name for name, kind in kinds.items() if kind != "none")

    def forward(self, images: Tensor, own: Tensor) -> dict[str, Tensor]:
        taught = self.teacher(images)
        fitted = F.interpolate(own, taught.shape[2:], mode="bilinear", antialias=True)
        said, target = (cells.flatten(2).transpose(1, 2) for cells in (fitted, taught))  # [B, L, W], [B, L, D]
        terms = {}
        if self.head is not None:
            told = self.head(said).float()
            off = feature_error(told, self.standard(target), self.config.features)
            terms["features"] = off.sum() * self.standard.is_known
        if self.config.relations != "none":
            terms["relations"] = relation_error(said, target, self.config.relations, self.config.temperature).sum()
        return terms


class Standard(nn.Module):
    """float[B, L, D] -> the same with mean 0 and deviation 1 in each channel, over the images of earlier steps."""

    sums: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Of each channel the sum, then the sum of squares; then the number of cells, and of images.
        self.register_buffer("sums", torch.zeros(2 * channels + 2, dtype=torch.float64))
        self.fresh: Tensor | None = None  # the same of this step, on this rank
        self.is_settled = False  # nothing changes any more, and this process knows it

    @property
    def is_known(self) -> Tensor:
        """float[], 1 where there was an earlier step, else 0."""
        return (self.sums[-1] > 0).float()

    def forward(self, cells: Tensor) -> Tensor:
        if self.training and not self.is_settled:
            self._collect(cells)
        total, squares, (number, _) = self.sums.split([cells.shape[2], cells.shape[2], 2])
        mean = total / number.clamp_min(1)
        deviation = (squares / number.clamp_min(1) - mean.square()).clamp_min(0).sqrt()
        alive = deviation > DEAD * deviation.max()
        scale = torch.where(alive, 1 / deviation.where(alive, 1), 0)
        return (cells - mean.to(cells.dtype)) * scale.to(cells.dtype)

    @torch.no_grad()
    def _collect(self, cells: Tensor) -> None:
        flat = cells.flatten(0, 1).double()
        seen = torch.cat([flat.sum(0), flat.square().sum(0), flat.new_tensor([len(flat), len(cells)])])
        self.fresh = seen if self.fresh is None else self.fresh + seen

    @torch.no_grad()
    def after_step(self) -> None:
        """Add what this step saw, on all ranks together; from `MEASURED` images on nothing changes any more."""
        if self.is_settled:
            return
        fresh = all_reduce_sum(torch.zeros_like(self.sums) if self.fresh is None else self.fresh)
        if self.sums[-1] < MEASURED:
            self.sums += fresh
        self.is_settled = bool(self.sums[-1] >= MEASURED)
        self.fresh = None


def feature_error(told: Tensor, target: Tensor, kind: Literal["mse", "cosine", "smooth_l1", "none"]) -> Tensor:
    """float[B, L, D] each -> float[B], the mean over cells (and channels)."""
    if kind == "cosine":
        return (1 - F.cosine_similarity(told, target, dim=2)).mean(dim=1)
    error = F.smooth_l1_loss if kind == "smooth_l1" else F.mse_loss
    return error(told, target, reduction="none").mean(dim=(1, 2))


def relation_error(own: Tensor, taught: Tensor, kind: Literal["gram", "kl", "none"], temperature: float) -> Tensor:
    """Tokens float[B, L, W] and float[B, L, D] -> float[B].

    gram: squared difference of the cosines between all pairs of cells, the mean over pairs.
    kl: divergence of the student's softmax of a cell's cosines / temperature from the teacher's, the mean over cells.
    """
    with torch.autocast(own.device.type, enabled=False):  # cosines near 1 are all alike in half precision
        ours, theirs = (one @ one.transpose(1, 2) for one in (F.normalize(own, dim=2), F.normalize(taught, dim=2)))
    if kind == "gram":
        return (ours - theirs).square().mean(dim=(1, 2))
    own_logs, logs = ((one / temperature).log_softmax(dim=2) for one in (ours, theirs))
    return F.kl_div(own_logs, logs, reduction="none", log_target=True).sum(dim=2).mean(dim=1)

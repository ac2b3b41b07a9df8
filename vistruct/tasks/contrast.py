"""Contrast: two views of an image are alike, and unlike those of other images: as wholes, by places, and by regions.

Source: MoCo v2 (arXiv:2003.04297): a query from one view, its key from the other by an encoder that follows slowly, and
    a queue of earlier keys as negatives; DenseCL (arXiv:2011.09157): the same for each cell of the map, with pooled
    cells in the queue; PixPro (arXiv:2011.10043): cells are paired by where the crops lie; SCRL (arXiv:2103.06122): so
    are regions, pooled from both maps.
Differs: negatives come from earlier steps alone, so that the loss is a sum over images; vectors of the same image are
    no negatives; the heads begin with a norm and have no statistics of batches, and the slow encoder is in eval mode.
Shapes: B images, two views of S pixels, maps of g * g = L cells, R regions of all images, E numbers to a vector.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import roi_align

from vistruct.config import Part
from vistruct.contracts import Backbone, DataInfo, Embedded, Ratio, Sample, StepOutput, TaskTraits
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart
from vistruct.ops.seeds import derive
from vistruct.tasks.features import backbone_for, least_divisor
from vistruct.tasks.moving import follow
from vistruct.tasks.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalise,
    Statistics,
    stacked,
    with_statistics,
)
from vistruct.tasks.queue import Queue
from vistruct.transforms.geometry import resized
from vistruct.transforms.view_pairs import drawn_regions, in_view, partners, shown_objects
from vistruct.transforms.views import View, ViewsConfig, views

Level = Literal["view", "place", "region"]
POOLED, SAMPLING = 3, 2  # cells a side of a pooled region, points a side of each
MOST, LEAST = 65_536, 64  # vectors in a queue that is as large as the data allow


class ContrastConfig(Part):
    """What is contrasted, and with how many."""

    kind: Literal["contrast"] = "contrast"
    backbone: BackbonePart
    levels: tuple[Level, ...] = Field(("view", "place"), min_length=1)
    views: ViewsConfig = ViewsConfig(area=(0.2, 1.0))
    regions: Literal["drawn", "objects"] = "drawn"  # of level region; objects: those of the data (kind: boxes)
    num_regions: int = Field(4, gt=0)  # of an image: that are drawn, or objects at most
    hidden: int = Field(2048, gt=0)  # width of a head's hidden layer
    width: int = Field(128, gt=0)  # numbers of a vector that is contrasted
    queue: int | None = Field(
        None, gt=0
    )  # earlier vectors of each level; None: a quarter of the images, at most 65,536
    temperature: float = Field(0.2, gt=0)
    momentum: float = Field(0.999, ge=0, le=1)  # of the slow encoder, at each step
    mean: Statistics = IMAGENET_MEAN  # of each channel in [0, 1]; data: measured on the training data
    std: Statistics = IMAGENET_STD

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Contrast:
        """Build for the channels and the number of the data's images; nothing is kept in `assets`.

        Raises:
            UserError: parts that do not fit each other.
        """
        if len(set(self.levels)) < len(self.levels) or self.views.number != 2:
            what, fix = (
                "each level once, and two views of an image",
                'task.levels=["view","place"], task.views.number=2',
            )
            raise UserError(what, where="task", fix=f"--set {fix}")
        self.views.check(info.pixels)
        size = self.queue or min(MOST, max(LEAST, info.num_records // 4))
        if "region" in self.levels and self.regions == "objects" and not info.class_names:
            what = "regions are to be objects, and these data have none"
            raise UserError(what, where="task.regions", fix="use data with boxes (kind: boxes), or --regions drawn")
        config = with_statistics(self, info).model_copy(update={"queue": size})
        return Contrast(config, size, info.channels, backbone)


@dataclass(kw_only=True)
class ContrastBatch:
    """Two views of each image, or the whole image alone."""

    ids: list[str]
    image_ids: list[str]
    views: Tensor  # uint8, uint16 or float32[B, V, C, S, S]; whole images are one view
    whose: Tensor  # int64[B], a number for each image or window
    seeds: Tensor  # int64[B], of the samples
    partners: Tensor  # int64[B, L], of each cell of the first view the one in the second, row by row; -1: there is none
    regions: Tensor  # float32[R, 2, 4], xyxy of each in pixels of both views
    of_image: Tensor  # int64[R], which of the batch they are of, rising

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        moved = {name: one for name, one in vars(self).items() if isinstance(one, Tensor)}
        return replace(self, **{name: one.to(device, non_blocking=True) for name, one in moved.items()})


@dataclass(frozen=True, kw_only=True)
class ContrastCollator:
    """Samples -> ContrastBatch. Holds no weights, so that it travels to worker processes."""

    channels: int
    cut: ViewsConfig
    grid: int = 0  # cells a side of a view's map; 0: places are not paired
    regions: Literal["drawn", "objects", "none"] = "none"
    num_regions: int = 0
    whole: bool = False  # one view, of the whole image at the size of the others: to predict

    def __call__(self, samples: list[Sample]) -> ContrastBatch:
        for sample in samples:
            self._check(sample)
        side = (self.cut.size, self.cut.size)
        pairs = [] if self.whole else [views(sample, self.cut) for sample in samples]
        shown = [view.pixels for pair in pairs for view in pair] or [resized(one.images[0], side) for one in samples]
        cells = [partners(*pair, self.grid) for pair in pairs if self.grid]
        regions = [self._regions(sample, *pair) for sample, pair in zip(samples, pairs, strict=False)]
        return ContrastBatch(
            ids=[sample.id for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            views=stacked(shown, side).unflatten(0, (len(samples), -1)),
            whose=torch.tensor([derive(sample.id) for sample in samples]),
            seeds=torch.tensor([sample.seed for sample in samples]),
            partners=torch.stack(cells) if cells else torch.full((len(samples), 0), -1),
            regions=torch.cat([torch.zeros(0, 2, 4), *regions]),
            of_image=torch.tensor([n for n, own in enumerate(regions) for _ in own], dtype=torch.int64),
        )

    def _regions(self, sample: Sample, first: View, second: View) -> Tensor:
        """float32[R, 2, 4]."""
        seed = derive(sample.seed, "regions")
        if self.regions == "none":
            return torch.zeros(0, 2, 4)
        if self.regions == "drawn":
            found = drawn_regions(first, second, self.num_regions, seed)
        else:
            found = shown_objects(first, second, sample.objects.boxes_xyxy)
            order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
            found = found[order[: self.num_regions]]
        return torch.stack([in_view(view, found) for view in (first, second)], dim=1).float()

    def _check(self, sample: Sample) -> None:
        if len(sample.images) != 1:
            what = f"{len(sample.images)} images in a sample, where the task takes one"
            raise UserError(what, where=sample.id, fix="use data with one image each (kind: images)")
        if len(sample.images[0]) != self.channels:
            what = f"an image of {len(sample.images[0])} channels, the model takes {self.channels}"
            raise UserError(what, where=sample.id, fix="choose --bands")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one level compares."""

    queries: Tensor  # float32[N, E], of length 1, with their graph
    keys: Tensor  # float32[N, E], the right one of each
    owners: Tensor  # int64[N], image of each
    kept: tuple[Tensor, Tensor, Tensor]  # what later steps are compared with; as `Queue.keep` takes it


class Contrast(nn.Module):
    """ContrastBatch -> StepOutput in training, vectors of whole images from `predict`."""

    def __init__(self, config: ContrastConfig, queue: int, channels: int, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        self.normalise = Normalise(config.mean, config.std, channels)
        self.backbone: Any = backbone_for(config.backbone, channels, backbone)
        divisor, stride = least_divisor(self.backbone), self.backbone.specs[-1].stride
        if config.views.size % divisor:
            what = f"views of {config.views.size} pixels are no whole number of cells"
            raise UserError(what, where="task.views.size", fix=f"--size N, a multiple of {divisor}")
        self.grid = config.views.size // stride
        width = self.backbone.specs[-1].channels
        self.heads = nn.ModuleDict({level: head(width, config.hidden, config.width) for level in config.levels})
        self.slow = nn.ModuleDict({"backbone": copy.deepcopy(self.backbone), "heads": copy.deepcopy(self.heads)})
        self.queues = nn.ModuleDict({level: Queue(queue, config.width) for level in config.levels})

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(
            prediction="embeddings",
            terms=self.config.levels,
            predict_collator=ContrastCollator(channels=self.channels, cut=self.config.views, whole=True),
            before_step=self.before_step,
            after_step=self.after_step,
            still=("slow",),
        )

    @property
    def collator(self) -> ContrastCollator:
        config = self.config
        return ContrastCollator(
            channels=self.channels,
            cut=config.views,
            grid=self.grid if "place" in config.levels else 0,
            regions=config.regions if "region" in config.levels else "none",
            num_regions=config.num_regions,
        )

    def before_step(self, step: int, steps: int) -> None:
        """The slow encoder follows the fast one as the last step left it; before the first step it becomes that."""
        follow(self.slow, self, self.config.momentum if step else 0.0)

    def after_step(self) -> None:
        """The step's keys join the queues."""
        queues: Any = self.queues.values()
        for queue in queues:
            queue.after_step()

    def forward(self, batch: ContrastBatch) -> StepOutput:
        """InfoNCE of views, of each cell that has a partner, and of regions, against keys of earlier steps."""
        images = self.normalise(batch.views)
        fast = self.backbone(images[:, 0])[-1]
        with torch.no_grad():
            slow = self.slow["backbone"](images[:, 1])[-1]
        terms, metrics = {}, {}
        for level in self.config.levels:
            asked = {"view": self._views, "place": self._places, "region": self._regions}[level](batch, fast, slow)
            queue: Any = self.queues[level]
            total, right = queue.loss(asked.queries, asked.keys, asked.owners, self.config.temperature)
            terms[level], metrics[f"{level}_right"] = total, Ratio(total=right, count=len(asked.queries))
            if self.training:
                queue.keep(*asked.kept)
        return StepOutput(terms=terms, metrics=metrics)

    def _views(self, batch: ContrastBatch, fast: Tensor, slow: Tensor) -> Asked:
        queries = F.normalize(self.heads["view"](cells(fast).mean(dim=1)).float(), dim=1)
        keys = F.normalize(self._slowly("view", cells(slow).mean(dim=1)), dim=1)
        return Asked(queries=queries, keys=keys, owners=batch.whose, kept=(keys, batch.whose, batch.seeds))

    def _places(self, batch: ContrastBatch, fast: Tensor, slow: Tensor) -> Asked:
        image, cell = (batch.partners >= 0).nonzero(as_tuple=True)
        keys = self._slowly("place", cells(slow))  # [B, L, E]
        return Asked(
            queries=F.normalize(self.heads["place"](cells(fast)[image, cell]).float(), dim=1),
            keys=F.normalize(keys[image, batch.partners[image, cell]], dim=1),
            owners=batch.whose[image],
            kept=(F.normalize(keys.mean(dim=1), dim=1), batch.whose, batch.seeds),
        )

    def _regions(self, batch: ContrastBatch, fast: Tensor, slow: Tensor) -> Asked:
        first, second = batch.regions.unbind(dim=1)
        size, owners = self.config.views.size, batch.whose[batch.of_image]
        queries = self.heads["region"](pooled(fast, first, batch.of_image, size))
        keys = F.normalize(self._slowly("region", pooled(slow, second, batch.of_image, size)), dim=1)
        kept = (keys, owners, batch.seeds[batch.of_image])
        return Asked(queries=F.normalize(queries.float(), dim=1), keys=keys, owners=owners, kept=kept)

    @torch.no_grad()
    def _slowly(self, level: Level, vectors: Tensor) -> Tensor:
        slow: Any = self.slow["heads"]
        return slow[level](vectors).float()

    def units(self, batch: ContrastBatch) -> Mapping[str, float | Tensor]:
        """Images, cells that have a partner, regions."""
        counted = {
            "view": float(len(batch)),
            "place": (batch.partners >= 0).sum(),
            "region": float(len(batch.regions)),
        }
        return {level: counted[level] for level in self.config.levels}

    def predict(self, batch: ContrastBatch) -> list[Embedded]:
        """The mean of the cells of each whole image, of length 1, on the CPU."""
        found = F.normalize(
            cells(self.backbone(self.normalise(batch.views[:, 0]))[-1]).float().mean(dim=1), dim=1
        ).cpu()
        return [
            Embedded(id=name, image_id=image, image=vector, texts=vector.new_zeros(0, len(vector)))
            for name, image, vector in zip(batch.ids, batch.image_ids, found, strict=True)
        ]


def cells(features: Tensor) -> Tensor:
    """float[B, D, h, w] -> float[B, L, D], row by row."""
    return features.flatten(2).transpose(1, 2)


def pooled(features: Tensor, boxes: Tensor, of_image: Tensor, size: int) -> Tensor:
    """float32[R, D], the mean of the map float[B, D, g, g] within boxes float[R, 4] (xyxy, pixels of S)."""
    rois = torch.cat([of_image[:, None].to(boxes), boxes], dim=1)
    scale = features.shape[-1] / size
    return roi_align(features.float(), rois, POOLED, scale, SAMPLING, aligned=True).mean(dim=(2, 3))


def head(channels: int, hidden: int, width: int) -> nn.Sequential:
    """float[..., D] -> float[..., E], with a norm of its own before it, for not every backbone has a last one."""
    return nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, width))

"""Regions and texts in one space: what is in a box is the class whose text is nearest.

Source: CLIP's zero-shot classification (arXiv:2103.00020) of regions read from the map, as RegionCLIP
    (arXiv:2112.09106) has them; the sigmoid loss of SigLIP (arXiv:2303.15343).
Differs: texts are class names in templates, read once by a text tower that stands still: a bank for every object, so
    that the loss is a sum over objects, the same however a step was split. What pools the patches of an image pools the
    cells of a box; of a CLIP that reads its class token it is their mean.
Shapes: P boxes in all images of a batch, S cells along each side of a box, K classes -> logits float[P, K].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import roi_align

from vistruct.config import Part
from vistruct.contracts import Backbone, BoxPrediction, DataInfo, Objects, Ratio, Sample, StepOutput, TaskTraits
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart
from vistruct.ops.contrast import sigmoid_loss
from vistruct.tasks.dense import DetectBatch, DetectCollator
from vistruct.tasks.features import tokens_of
from vistruct.tasks.identify import SAMPLING, asked_of, identified
from vistruct.tasks.names import check_templates, in_words
from vistruct.tasks.pixels import Normalise
from vistruct.vlm.clip import CLIP_MEAN, CLIP_STD, ClipConfig


class RegionTextConfig(Part):
    """A CLIP, how classes are put into words, and how a box is read from its map."""

    kind: Literal["region_text"] = "region_text"
    backbone: BackbonePart
    clip: ClipConfig
    templates: tuple[str, ...] = Field(("a photo of a {}.",), min_length=1)  # each with the place of the name
    texts: dict[str, tuple[str, ...]] = Field({})  # what classes are called in them; else by name, _ as a space
    cells: int = Field(3, gt=0)  # of a box, along each side
    loss: Literal["softmax", "sigmoid"] = "softmax"  # sigmoid: of a SigLIP
    mean: tuple[float, float, float] = CLIP_MEAN  # of RGB in [0, 1]
    std: tuple[float, float, float] = CLIP_STD

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> RegionText:
        """Build for the classes of the data; a tokenizer that is not CLIP's own lies in `assets`.

        Raises:
            UserError: data of fewer than two classes; parts that do not fit each other; a template without a place.
        """
        check_templates(self.templates, "task.templates", '--templates "a photo of a {}."')
        if self.loss == "sigmoid" and not self.clip.has_bias:
            what = "the sigmoid loss needs the bias that SigLIPs have, and this CLIP has none"
            raise UserError(what, where="--loss", fix="--loss softmax")
        return RegionText(self, info.class_names, assets, backbone)


class RegionText(nn.Module):
    """DetectBatch -> StepOutput in training, the classes of the given boxes from `predict`."""

    def __init__(
        self, config: RegionTextConfig, class_names: tuple[str, ...], assets: Path, backbone: Backbone | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.class_names: tuple[str, ...] = ()
        self.take_classes(class_names)
        self.normalise = Normalise(config.mean, config.std, 3)
        self.backbone = tokens_of(config.backbone, backbone)
        self.clip = config.clip.build(self.backbone.width, assets)
        self._of_classes: tuple[tuple[str, ...], Tensor] | None = None

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(
            prediction="identified",
            terms=("regions",),
            class_names=self.class_names,
            take_classes=self.take_classes,
            still=("clip.text",),
        )

    @property
    def collator(self) -> Callable[[list[Sample]], DetectBatch]:
        return DetectCollator(size_divisor=self.backbone.patch, num_classes=len(self.class_names))

    def take_classes(self, class_names: tuple[str, ...]) -> None:
        """From now on these classes are told apart.

        Raises:
            UserError: fewer than two.
        """
        if len(class_names) < 2:
            what = f"to tell objects apart needs 2 classes, the data have {len(class_names)}"
            raise UserError(what, where="data", fix="use data with boxes (kind: boxes) of several classes")
        self.class_names = class_names

    @torch.no_grad()
    def of_classes(self) -> Tensor:
        """float[K, E], of length 1; read once, for the text tower stands still."""
        if self._of_classes is None or self._of_classes[0] != self.class_names:
            texts = in_words(self.class_names, self.config.templates, self.config.texts)
            with torch.autocast(self.clip.logit_scale.device.type, enabled=False):
                self._of_classes = self.class_names, self.clip.of_classes(texts)
        return self._of_classes[1].to(self.clip.logit_scale.device)

    def forward(self, batch: DetectBatch) -> StepOutput:
        """Cross-entropy of each object's class among all, or of each pair of an object and a class."""
        asked = asked_of(batch)
        labels = torch.cat([target.labels for target in asked])
        logits = self.logits(batch, asked)
        if self.config.loss == "softmax":
            total = F.cross_entropy(logits, labels, reduction="sum")
        else:
            is_own = F.one_hot(labels, len(self.class_names)).bool()
            total = sigmoid_loss(logits.gather(1, labels[:, None])[:, 0], logits, is_own)
        right = Ratio(total=(logits.detach().argmax(dim=1) == labels).sum(), count=len(labels))
        return StepOutput(terms={"regions": total}, metrics={"accuracy": right})

    def units(self, batch: DetectBatch) -> Mapping[str, float | Tensor]:
        """Objects of which there is one."""
        return {"regions": float(sum(map(len, asked_of(batch))))}

    def logits(self, batch: DetectBatch, asked: list[Objects[Tensor]]) -> Tensor:
        """float32[P, K] of the boxes of all images, image by image."""
        features = self.backbone.tokens(self.normalise(batch.images, batch.sizes_hw)).map
        boxes, stride = [target.boxes_xyxy for target in asked], self.backbone.patch
        cells = roi_align(features.float(), boxes, self.config.cells, 1 / stride, SAMPLING, aligned=True)
        regions = self.clip.of_cells(cells.flatten(2).transpose(1, 2))
        with torch.autocast(regions.device.type, enabled=False):
            return self.clip.logits(regions, self.of_classes())

    @torch.no_grad()
    def predict(self, batch: DetectBatch) -> list[BoxPrediction]:
        """The boxes that were given, each with the class whose text is nearest; as `identified` says.

        Raises:
            UserError: a sample was flipped or turned, so that nothing leads back to its whole image.
        """
        asked = asked_of(batch)
        return identified(batch, asked, self.logits(batch, asked).softmax(dim=1), self.class_names)

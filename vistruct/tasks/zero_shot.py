"""Zero-shot classification: classes are what texts say of them, and an image is of the class whose text is nearest.

Source: CLIP (arXiv:2103.00020), measured as open_clip and EVA-CLIP do: each class's name in every template, unit
    vectors, their mean, of length 1 again.
Differs: classes are of the data that are measured, whatever data a run was made for.
Shapes: B images, K classes -> scores float[B, K]: a softmax over the classes, with the model's own scale.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import Backbone, ClassPrediction, DataInfo, Ratio, Sample, StepOutput, TaskTraits
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart
from vistruct.ops.values import flipped
from vistruct.tasks.classify import ClassBatch, ClassCollator
from vistruct.tasks.features import tokens_of
from vistruct.tasks.names import check_templates, in_words
from vistruct.tasks.pixels import Normalise, padded_to
from vistruct.vlm.clip import CLIP_MEAN, CLIP_STD, ClipConfig
from vistruct.windows.slide import AXES
from vistruct.windows.views import Flip


class ZeroShotConfig(Part):
    """A CLIP, and how classes are put into words."""

    kind: Literal["zero_shot"] = "zero_shot"
    backbone: BackbonePart
    clip: ClipConfig
    templates: tuple[str, ...] = Field(("a photo of a {}.",), min_length=1)  # each with the place of the name
    texts: dict[str, tuple[str, ...]] = Field({})  # what classes are called in them; else by name, _ as a space
    mean: tuple[float, float, float] = CLIP_MEAN  # of RGB in [0, 1]
    std: tuple[float, float, float] = CLIP_STD
    flips: tuple[Flip, ...] = Field(("none",), min_length=1)  # views that predictions average over

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> ZeroShot:
        """Build for the classes of the data; a tokenizer that is not CLIP's own lies in `assets`.

        Raises:
            UserError: data without classes; parts that do not fit each other; a template without a place.
        """
        check_templates(self.templates, "task.templates", '--templates "a photo of a {}."')
        return ZeroShot(self, info.class_names, assets, backbone)


class ZeroShot(nn.Module):
    """ClassBatch -> StepOutput in training, scores from `predict`."""

    def __init__(
        self, config: ZeroShotConfig, class_names: tuple[str, ...], assets: Path, backbone: Backbone | None = None
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
            prediction="classes", terms=("classes",), class_names=self.class_names, take_classes=self.take_classes
        )

    @property
    def collator(self) -> Callable[[list[Sample]], ClassBatch]:
        return ClassCollator(channels=3, num_classes=len(self.class_names), multi_label=False)

    def take_classes(self, class_names: tuple[str, ...]) -> None:
        """From now on these classes are told apart.

        Raises:
            UserError: fewer than two; numbers of WordNet, of which nothing else is said.
        """
        if len(class_names) < 2:
            what = f"classes are told apart, and there are {len(class_names)}"
            raise UserError(what, where="data", fix="use data with classes of images (kind: image_classes)")
        wnid = next((name for name in class_names if re.fullmatch(r"n\d{8}", name)), None)
        if wnid is not None and wnid not in self.config.texts:
            what = f"classes are called {wnid}, ..., which no text says anything of"
            raise UserError(what, where="data", fix="--texts imagenet, or a csv of a class and what it is called")
        self.class_names = class_names

    def texts(self) -> list[list[str]]:
        """Of each class, all that is said of it."""
        return in_words(self.class_names, self.config.templates, self.config.texts)

    @torch.no_grad()
    def of_classes(self) -> Tensor:
        """float[K, E], of length 1; put into words and read once, for the text tower is not trained here."""
        if self._of_classes is None or self._of_classes[0] != self.class_names:
            is_training = self.clip.training
            with torch.autocast(self.clip.logit_scale.device.type, enabled=False):  # the same, whoever asks first
                self._of_classes = self.class_names, self.clip.eval().of_classes(self.texts())
            self.clip.train(is_training)
        return self._of_classes[1].to(self.clip.logit_scale.device)

    def forward(self, batch: ClassBatch) -> StepOutput:
        """Cross-entropy of the class; only the image's side learns.

        Raises:
            UserError: an image whose class is not known.
        """
        if not bool(batch.is_known.all()):
            name = batch.ids[int((~batch.is_known).nonzero()[0])]
            raise UserError("no class to learn from", where=name, fix="use data with classes (kind: image_classes)")
        logits, labels = self.logits(batch.images), batch.targets.argmax(dim=1)
        right = (logits.detach().argmax(dim=1) == labels).sum()
        return StepOutput(
            terms={"classes": F.cross_entropy(logits, labels, reduction="sum")},
            metrics={"accuracy": Ratio(total=right, count=len(batch))},
        )

    def units(self, batch: ClassBatch) -> Mapping[str, float | Tensor]:
        """Images."""
        return {"classes": float(len(batch))}

    def logits(self, images: Tensor) -> Tensor:
        """float[B, K] of images [B, 3, H, W] as a batch has them."""
        tokens = self.backbone.tokens(padded_to(self.normalise(images), self.backbone.patch))
        return self.clip.logits(self.clip.of_images(tokens), self.of_classes())

    def predict(self, batch: ClassBatch) -> list[ClassPrediction]:
        """One prediction for each sample, on the CPU; averaged over the views."""
        seen = [self.logits(flipped(batch.images, AXES[flip])).softmax(dim=1) for flip in self.config.flips]
        scores = torch.stack(seen).mean(dim=0).cpu()
        return [
            ClassPrediction(id=name, image_id=image, scores=row, class_names=self.class_names)
            for name, image, row in zip(batch.ids, batch.image_ids, scores, strict=True)
        ]

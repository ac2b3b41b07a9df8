"""DETR: a set of queries looks at the whole image, and each says one object, or none.

Source: Carion et al., "End-to-End Object Detection with Transformers", arXiv:2005.12872. `VISFT_DETR` is the form in
    which ViSFT (Jiang et al., arXiv:2401.10222) trains it on a frozen ViT: a narrower encoder with a task token before
    its cells, and what goes into it added to what comes out.
Differs:
    - queries begin at boxes side by side over the image, and look first at the cells around these (`anchors`; as in
      DAB-DETR, Liu et al., arXiv:2201.12329, of which nothing else is here): the first steps are not spent on finding
      out where they are;
    - queries that stand for no object and lie mostly in a crowd region take no part in the loss;
    - detections are the best pairs of query and class, of which the published code keeps one a query (`one_label`);
    - the losses are sums, and what each is divided by follows from the truth alone, so that splitting a batch changes
      nothing. All layers have the same divisor, so that those before the last add to the same terms.
Shapes: B images, L layers of the decoder, Q queries, C classes, M objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss
from torchvision.ops.boxes import clip_boxes_to_image, remove_small_boxes

from vistruct.config import Part
from vistruct.contracts import (
    BoxTarget,
    ClassLayer,
    Detections,
    FeatureSpec,
    HeadLoss,
    HeadTraits,
    Ratio,
    Selection,
    Shown,
)
from vistruct.errors import UserError
from vistruct.heads.boxes import add_images, split
from vistruct.heads.detr_layers import Decoder, Encoder, sine_positions, waves
from vistruct.heads.matching import CROWD_SHARE
from vistruct.heads.published_names import published, renamed
from vistruct.heads.set_matching import assign, class_cost, class_goals, class_loss, class_units
from vistruct.ops.values import as_numbers
from vistruct.ops.window_area import covered_share

_LAYERS = {
    "encoder.layers.{}.": "encoder.layers.{}.",
    "decoders.detection.detection_coco.": "decoder.",
    "enc2dec_proj.": "widen.",
    "pos_embed_proj.": "widen_positions.",
}
_NAMES = {
    **{f"visft_heads.transformer.{there}": own for there, own in _LAYERS.items()},
    "visft_heads.query_embeds.detection.detection_coco.": "queries.",
    "visft_heads.input_proj.": "project.",
    "visft_heads.class_embeds.": "classes.",
    "visft_heads.bbox_embeds.layers.0.": "boxes.0.",
    "visft_heads.bbox_embeds.layers.1.": "boxes.2.",
    "visft_heads.bbox_embeds.layers.2.": "boxes.4.",
}
_TASKS = "visft_heads.transformer.task_embeddings_enc.weight"  # a row for each task; detection's is the first
NUM_TASKS = 256  # rows of that table, of which no other is used


class DetrConfig(Part):
    """Layers, costs of the assignment, weights of the losses, and which detections are kept."""

    kind: Literal["detr"] = "detr"
    level: int = -1  # which of the feature maps, the finest is 0; -1: the deepest
    queries: int = Field(100, gt=0)  # objects that an image can have at most
    encoder_width: int = Field(256, gt=0, multiple_of=4)
    decoder_width: int = Field(256, gt=0, multiple_of=4)  # another one: cells and positions go through a linear layer
    encoder_layers: int = Field(6, ge=0)
    decoder_layers: int = Field(6, gt=0)
    heads: int = Field(8, gt=0)  # of each attention
    hidden: int = Field(1024, gt=0)  # units between the two linear layers of a layer
    dropout: float = Field(0.1, ge=0, lt=1)
    anchors: bool = True  # a query begins at a place of its own, and says how far from it its box is; False: DETR's own
    task_token: bool = False  # one more cell before those of the map, learned and without a position
    linear_between: bool = (
        False  # before the decoder cells and positions go through a linear layer, of equal widths too
    )
    residual: bool = False  # whether what goes into the encoder is added to what comes out
    auxiliary: bool = True  # whether layers before the last learn, too
    no_object: float = Field(0.1, ge=0)  # weight of queries that stand for no object, in the loss of classes
    class_cost: float = Field(1.0, ge=0)  # of the assignment
    l1_cost: float = Field(5.0, ge=0)
    giou_cost: float = Field(2.0, ge=0)
    class_weight: float = Field(1.0, ge=0)  # of the loss
    l1_weight: float = Field(5.0, ge=0)
    giou_weight: float = Field(2.0, ge=0)
    one_label: bool = False  # one detection a query at most, of its best class
    score_threshold: float = Field(0.05, ge=0, lt=1)  # detections below are left out
    nms_iou: float = Field(0.7, gt=0, le=1)  # by which the boxes of several views are joined; there is no other NMS
    max_detections: int = Field(100, gt=0)  # in one image

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> Detr:
        """Build on one of the levels, finest first.

        Raises:
            UserError: there is no such level, or a width that `heads` does not divide.
        """
        if not -len(specs) <= self.level < len(specs):
            fix = f"--set task.head.level=N, N from {-len(specs)} to {len(specs) - 1}"
            raise UserError(f"no feature map {self.level} among {len(specs)}", where="level", fix=fix)
        for name, width in (("encoder_width", self.encoder_width), ("decoder_width", self.decoder_width)):
            if width % self.heads:
                what = f"{self.heads} heads do not divide {name} {width}"
                raise UserError(
                    what, where="heads", fix=f"--set task.head.{name}={-(-width // self.heads) * self.heads}"
                )
        return Detr(self, specs, num_classes)


VISFT_DETR = DetrConfig(
    encoder_width=128, anchors=False, task_token=True, residual=True, one_label=True, score_threshold=0.0
)


@dataclass(frozen=True, kw_only=True)
class DetrOutput:
    """What every query says after every layer, float32 whatever the precision of the layers."""

    logits: Tensor  # float[L, B, Q, C + 1], the last of no object
    boxes: Tensor  # float[L, B, Q, 4], cxcywh in [0, 1] of the image without its padding
    sizes_hw: tuple[tuple[int, int], ...]  # of each image, pixels

    def xyxy(self, i: int) -> Tensor:
        """float[L, Q, 4]: the boxes of image `i` in pixels."""
        height, width = self.sizes_hw[i]
        boxes = self.boxes[:, i]
        return box_convert(boxes, "cxcywh", "xyxy") * as_numbers((width, height, width, height), boxes)


class Detr(nn.Module):
    """Levels list[float[B, channels, h, w]] -> DetrOutput."""

    terms = ("class", "l1", "giou")

    def __init__(self, config: DetrConfig, specs: tuple[FeatureSpec, ...], num_classes: int) -> None:
        super().__init__()
        self.config, self.stride = config, specs[config.level].stride
        narrow, wide = config.encoder_width, config.decoder_width
        self.project = nn.Conv2d(specs[config.level].channels, narrow, 1)
        sizes = (config.heads, config.hidden, config.dropout)
        self.encoder = Encoder(narrow, config.encoder_layers, *sizes, task_token=config.task_token)
        self.widen = nn.Identity() if narrow == wide else nn.Linear(narrow, wide)
        self.widen_positions = nn.Identity() if narrow == wide else nn.Linear(narrow, wide)
        self.queries = nn.Embedding(config.queries, wide)
        self.anchors = nn.Parameter(spread_boxes(config.queries).logit()) if config.anchors else None
        self.decoder = Decoder(wide, config.decoder_layers, *sizes, look_near=config.anchors)
        self.classes = nn.Linear(wide, num_classes + 1)
        last = nn.Linear(wide, 4)
        self.boxes = nn.Sequential(nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), last)
        if config.anchors:  # what is said first are the anchors
            for parameter in (self.queries.weight, *last.parameters()):
                nn.init.zeros_(parameter)

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(
            nms_iou=self.config.nms_iou,
            max_detections=self.config.max_detections,
            convert_keys=self.convert_keys,
            to_published=self.to_published,
            class_layers=(ClassLayer(name="classes", rest=1),),
            repeated_blocks=(*self.encoder.layers, *self.decoder.layers),
        )

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """ViSFT's names as this head's; what is not its own falls away, the rows of other tasks too."""
        found = renamed(self, state, _NAMES)
        if _TASKS in state and self.encoder.task_token is not None:
            found["encoder.task_token"] = state[_TASKS][:1]
        return found

    def to_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The way back, to ViSFT's names; the rows of other tasks are zero."""
        rest = {name: value for name, value in state.items() if name != "encoder.task_token"}
        found = published(rest, _NAMES)
        token = state.get("encoder.task_token")
        return found if token is None else found | {_TASKS: nn.functional.pad(token, (0, 0, 0, NUM_TASKS - 1))}

    def forward(self, features: list[Tensor], shown: Shown | None = None) -> DetrOutput:
        level = features[self.config.level]
        batch, _, height, width = level.shape
        if shown is None:
            sizes_hw = ((height * self.stride, width * self.stride),) * batch
            shown = Shown(sizes_hw=sizes_hw, padded_hw=sizes_hw[0])
        padding = shown.padding((height, width), level.device)
        queries = self.look(level, padding)
        logits, boxes = self.classes(queries).float(), self.boxes(queries).float()
        boxes = boxes if self.anchors is None else boxes + self.anchors
        return DetrOutput(logits=logits, boxes=boxes.sigmoid(), sizes_hw=tuple(shown.sizes_hw))

    def look(self, level: Tensor, padding: Tensor) -> Tensor:
        """float[B, channels, h, w] and bool[B, h, w], true at padding -> float[L, B, Q, D], the queries."""
        cells = self.project(level).flatten(2).transpose(1, 2)
        positions = sine_positions(padding, self.config.encoder_width).to(cells.dtype)
        hidden = padding.flatten(1)
        seen = self.encoder(cells, positions, hidden)[:, -cells.shape[1] :]
        memory = self.widen(seen + cells if self.config.residual else seen)
        queries = self.queries.weight
        if self.anchors is not None:
            queries = queries + waves(self.anchors.sigmoid()[:, [1, 0]], self.config.decoder_width)
        return self.decoder(queries, memory, self.widen_positions(positions), hidden)

    def loss(self, output: DetrOutput, targets: Sequence[BoxTarget]) -> HeadLoss:
        """Cross entropy of all queries, L1 distance and GIoU loss of the boxes of those that stand for an object.

        Args:
            output: of a batch of B images.
            targets: B of them; images without objects teach that there is nothing.

        Returns:
            Sums over layers. Its metric `unmatched`: the part of the objects for which no query was left.
        """
        layers = slice(None) if self.config.auxiliary else slice(-1, None)
        output = DetrOutput(logits=output.logits[layers], boxes=output.boxes[layers], sizes_hw=output.sizes_hw)
        truths = [_truth(target, size) for target, size in zip(targets, output.sizes_hw, strict=True)]
        pairs = assign([self.cost(output, i, boxes, labels) for i, (boxes, labels, _) in enumerate(truths)])
        parts = [
            self._image_loss(output, i, truth, pair) for i, (truth, pair) in enumerate(zip(truths, pairs, strict=True))
        ]
        num = [len(labels) for _, labels, _ in truths]
        left = sum(max(0, number - self.config.queries) for number in num)
        return HeadLoss(terms=add_images(parts, self.terms), metrics={"unmatched": Ratio(total=left, count=sum(num))})

    @torch.no_grad()
    def cost(self, output: DetrOutput, i: int, boxes: Tensor, labels: Tensor) -> Tensor:
        """float[L, Q, M]: what it costs that a query of image `i` stands for one of its objects.

        Args:
            boxes: float[M, 4], cxcywh relative to the image.
            labels: int64[M].
        """
        config, said = self.config, output.boxes[:, i]
        cost = config.class_cost * class_cost(output.logits[:, i], labels)
        cost += config.l1_cost * torch.cdist(said, boxes.expand(len(said), -1, -1), p=1)
        corners, goals = (box_convert(one, "cxcywh", "xyxy") for one in (said.flatten(0, 1), boxes))
        return cost - config.giou_cost * generalized_box_iou(corners, goals).view_as(cost)

    def _image_loss(
        self,
        output: DetrOutput,
        i: int,
        truth: tuple[Tensor, Tensor, Tensor],
        pair: tuple[Tensor, Tensor],
    ) -> list[Tensor]:
        config, (boxes, labels, regions), (rows, columns) = self.config, truth, pair
        logits = output.logits[:, i]
        goals = class_goals(logits, rows, labels[columns])
        loss_class = class_loss(logits, goals, config.no_object)
        if len(regions):
            share = covered_share(output.xyxy(i).detach().flatten(0, 1), regions).view_as(goals)
            loss_class = loss_class * ((goals < logits.shape[-1] - 1) | (share <= CROWD_SHARE))
        said = output.boxes[:, i].gather(1, rows[..., None].expand(-1, -1, 4))  # [L, P, 4]
        loss_l1 = (said - boxes[columns]).abs()
        corners, goal = (box_convert(one.reshape(-1, 4), "cxcywh", "xyxy") for one in (said, boxes[columns]))
        loss_giou = generalized_box_iou_loss(corners, goal, eps=1e-12)  # the area of a box is 1e-6 and less
        weighted = (
            (config.class_weight, loss_class),
            (config.l1_weight, loss_l1),
            (config.giou_weight, loss_giou),
        )
        return [weight * loss.sum() for weight, loss in weighted]

    def units(self, targets: Sequence[BoxTarget], size_hw: tuple[int, int]) -> dict[str, float]:
        """Of classes, the weights of all queries of a layer; of boxes, objects."""
        num = torch.stack([target.is_single.sum() for target in targets]).tolist()
        objects = float(sum(num))
        return {"class": class_units(num, self.config.queries, self.config.no_object), "l1": objects, "giou": objects}

    @property
    def num_levels(self) -> int:
        return 1

    @property
    def selection(self) -> Selection:
        most, threshold = self.config.max_detections, self.config.score_threshold
        return Selection(
            score_threshold=threshold, max_candidates=most, nms_iou=None, max_detections=most, is_sized=True
        )

    def dense(self, output: DetrOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """As of `DenseBoxHead`: what the last layer says, -1 for classes that are not a query's best (`one_label`)."""
        scores = output.logits[-1].softmax(-1)[..., :-1]  # [B, Q, C]
        if self.config.one_label:
            scores = torch.where(scores == scores.amax(2, keepdim=True), scores, -1.0)
        return [(scores, torch.stack([output.xyxy(i)[-1] for i in range(len(output.sizes_hw))]))]

    def decode(self, output: DetrOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """What the last layer says of each image, best first: the best pairs of query and class, or one of each query.

        Args:
            output: of a batch of B images.
            sizes_hw: B real sizes before padding, pixels; boxes are clipped to them.
        """
        ((scores, every),) = self.dense(output, sizes_hw)
        found: list[Detections] = []
        for own, said, size_hw in zip(scores, every, sizes_hw, strict=True):
            boxes = clip_boxes_to_image(said, size_hw)
            best = own.flatten().topk(min(self.config.max_detections, own.numel()))
            row, label = best.indices // own.shape[1], best.indices % own.shape[1]
            keep = (best.values > self.config.score_threshold).nonzero().squeeze(1)
            keep = keep[torch.isin(row[keep], remove_small_boxes(boxes, min_size=1e-2))]
            found.append(Detections(boxes_xyxy=boxes[row[keep]], scores=best.values[keep], labels=label[keep]))
        return found


def _truth(target: BoxTarget, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """float[M, 4] boxes, cxcywh relative to the image, int64[M] labels, and float[K, 4] regions in pixels."""
    boxes, labels, regions = split(target)
    height, width = size_hw
    relative = box_convert(boxes, "xyxy", "cxcywh") / boxes.new_tensor([width, height, width, height])
    return relative, labels, regions


def spread_boxes(num: int) -> Tensor:
    """float[num, 4], cxcywh in (0, 1): boxes side by side that cover an image."""
    rows = max(1, round(num**0.5))
    columns = -(-num // rows)
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    size = torch.full_like(x, 1 / columns)
    return torch.stack([x, y, size, torch.full_like(y, 1 / rows)], dim=-1).flatten(0, 1)[:num]

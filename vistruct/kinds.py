"""Parts of a run that can be exchanged, by role and kind: a backbone, a head, a data set, a metric.

A part is found by its `kind`: a short name of this package, or `module:Class` of any other. Its role is what it is
wanted for; a head where a backbone belongs is an error that names the backbones.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny

from vistruct.errors import UserError, closest

Role = Literal[
    "data set", "backbone", "neck", "box head", "pixel head", "class head", "caption head", "decoder", "task", "metric"
]

# Where each exchangeable part lives, by its role. Imported only when a run asks for it, so that `--help` stays fast.
KINDS: dict[Role, dict[str, str]] = {
    "data set": {
        "boxes": "vistruct.data.boxes:BoxDataConfig",
        "chat": "vistruct.data.dataset:ChatDataConfig",
        "mix": "vistruct.data.chat.mix:MixDataConfig",
        "maps": "vistruct.data.maps:MapDataConfig",
        "volumes": "vistruct.data.volumes:VolumeDataConfig",
        "image_classes": "vistruct.data.image_classes:ClassDataConfig",
        "questions": "vistruct.data.questions:QuestionsDataConfig",
        "captions": "vistruct.data.captions:CaptionDataConfig",
        "images": "vistruct.data.unlabelled:ImagesDataConfig",
        "formula": "vistruct.data.formula:FormulaDataConfig",
    },
    "backbone": {
        "intern_vit": "vistruct.backbones.intern_vit:InternVitConfig",
        "vit_adapter": "vistruct.backbones.vit_adapter:VitAdapterConfig",
        "timm": "vistruct.backbones.timm_model:TimmConfig",
        "vit_rvsa": "vistruct.backbones.vit_rvsa:VitRvsaConfig",
        "eva_vit": "vistruct.backbones.eva_vit:EvaVitConfig",
        "sam_vit": "vistruct.backbones.sam_vit:SamVitConfig",
        "intern_image": "vistruct.backbones.intern_image:InternImageConfig",
    },
    "neck": {
        "simple_pyramid": "vistruct.necks.simple_pyramid:SimplePyramidConfig",
        "fpn": "vistruct.necks.fpn:FpnConfig",
        "laterals": "vistruct.necks.laterals:LateralsConfig",
    },
    "box head": {
        "fcos": "vistruct.heads.fcos:FcosConfig",
        "retina": "vistruct.heads.retina:RetinaConfig",
        "faster_rcnn": "vistruct.heads.faster_rcnn:FasterRcnnConfig",
        "cascade_rcnn": "vistruct.heads.cascade_rcnn:CascadeRcnnConfig",
        "mask_rcnn": "vistruct.heads.mask_rcnn:MaskRcnnConfig",
        "mask2former": "vistruct.heads.mask2former:Mask2FormerConfig",
        "detr": "vistruct.heads.detr:DetrConfig",
        "oriented_rcnn": "vistruct.heads.oriented_rcnn:OrientedRcnnConfig",
        "oriented_fcos": "vistruct.heads.oriented_fcos:OrientedFcosConfig",
    },
    "pixel head": {
        "upernet": "vistruct.heads.upernet:UperNetConfig",
        "unet": "vistruct.heads.unet:UNetConfig",
        "linear": "vistruct.heads.linear:LinearConfig",
        "mask2former": "vistruct.heads.mask2former_maps:Mask2FormerMapsConfig",
    },
    "class head": {"pooled": "vistruct.heads.pooled:PooledConfig"},
    "caption head": {
        "show_attend_tell": "vistruct.heads.show_attend_tell:ShowAttendTellConfig",
        "caption_transformer": "vistruct.heads.caption_transformer:CaptionTransformerConfig",
    },
    "decoder": {
        "query_box": "vistruct.heads.query_box:QueryBoxConfig",
        "query_mask": "vistruct.heads.query_mask:QueryMaskConfig",
        "query_keypoint": "vistruct.heads.query_keypoint:QueryKeypointConfig",
        "query_point": "vistruct.heads.query_point:QueryPointConfig",
        "query_depth": "vistruct.heads.query_depth:QueryDepthConfig",
        "sam_mask": "vistruct.heads.sam_mask:SamMaskConfig",
    },
    "task": {
        "detect": "vistruct.tasks.dense:DetectConfig",
        "segment": "vistruct.tasks.segment:SegmentConfig",
        "change": "vistruct.tasks.segment:SegmentConfig",
        "panoptic": "vistruct.tasks.panoptic:PanopticConfig",
        "classify": "vistruct.tasks.classify:ClassifyConfig",
        "instruct": "vistruct.tasks.instruct:InstructConfig",
        "caption": "vistruct.tasks.caption:CaptionConfig",
        "identify": "vistruct.tasks.identify:IdentifyConfig",
        "zero_shot": "vistruct.tasks.zero_shot:ZeroShotConfig",
        "match": "vistruct.tasks.match:MatchConfig",
        "region_text": "vistruct.tasks.region_text:RegionTextConfig",
        "masked": "vistruct.tasks.masked:MaskedConfig",
        "contrast": "vistruct.tasks.contrast:ContrastConfig",
        "distill": "vistruct.tasks.distill:DistillConfig",
        "self_distill": "vistruct.tasks.self_distill:SelfDistillConfig",
        "vision_language": "vistruct.tasks.blip2:VisionLanguageConfig",
    },
    "metric": {
        "coco_boxes": "vistruct.metrics.coco:CocoBoxesConfig",
        "coco_masks": "vistruct.metrics.coco:CocoMasksConfig",
        "oriented_boxes": "vistruct.metrics.oriented:OrientedBoxesConfig",
        "pixels": "vistruct.metrics.pixels:PixelsConfig",
        "panoptic_quality": "vistruct.metrics.panoptic_quality:PanopticQualityConfig",
        "volumes_overlap": "vistruct.metrics.volumes:VolumesConfig",
        "classes": "vistruct.metrics.classes:ClassesConfig",
        "answers": "vistruct.metrics.answers:AnswersConfig",
        "grounded": "vistruct.metrics.grounded:GroundedConfig",
        "captions": "vistruct.metrics.caption_scores:CaptionsConfig",
        "text": "vistruct.metrics.texts:TextConfig",
        "identified": "vistruct.metrics.identified:IdentifiedConfig",
        "retrieval": "vistruct.metrics.retrieval:RetrievalConfig",
        "health": "vistruct.metrics.health:HealthConfig",
        "mean_loss": "vistruct.metrics.loss:MeanLossConfig",
    },
}

# What `build` of a part of each role is given.
_HEAD = ("specs", "num_classes")
_GIVEN: dict[Role, tuple[str, ...]] = {
    "data set": ("cache",),
    "backbone": (),
    "neck": ("specs",),
    "box head": _HEAD,
    "pixel head": _HEAD,
    "class head": _HEAD,
    "caption head": ("specs", "num_words"),
    "decoder": ("specs", "query_width"),
    "task": ("info", "assets", "backbone"),
    "metric": ("dataset",),
}


class Part(BaseModel):
    """A frozen, keyword-only piece of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def to_dict(self) -> dict[str, Any]:
        """For peft, which asks every model's `config` for it."""
        return self.model_dump(mode="json")


def all_kinds() -> list[str]:
    """Where every part of this package lives."""
    return [place for kinds in KINDS.values() for place in kinds.values()]


def part_class(kind: str, role: Role) -> type[Part]:
    """The config of a part: of this package by its short name, of any other by `module:Class`.

    Raises:
        UserError: no such part, or one of another role.
    """
    known = KINDS[role]
    if kind in known:
        return _imported(known[kind])
    other = next((other for other, kinds in KINDS.items() if kind in kinds), None)
    if other is not None:
        fix = f"use one of {', '.join(sorted(known))}"
        raise UserError(f"{kind!r} is a {other}, where a {role} belongs", where=role, fix=fix)
    if ":" not in kind:
        fix = f"{closest(kind, known)} (a part of your own: module:Class)"
        raise UserError(f"no {role} of kind {kind!r}", where=role, fix=fix)
    found, given = _imported(kind), ", ".join(_GIVEN[role])
    if not (isinstance(found, type) and issubclass(found, Part)):
        raise UserError(f"{kind} is no vistruct.config.Part", where=role, fix="name the config, not what it builds")
    if _kind_of(found) != kind:
        fix = f'kind: Literal["{kind}"] = "{kind}"'
        raise UserError(f"{kind} goes by kind {_kind_of(found)!r} itself", where=role, fix=fix)
    build = inspect.getattr_static(found, "build", None)
    takes = None if build is None else ", ".join(list(inspect.signature(build).parameters)[1:])
    if takes != given:
        what = "has no build" if takes is None else f"is built with ({takes})"
        raise UserError(f"{kind} {what}, a {role} with ({given})", where=role, fix=f"def build(self, {given})")
    return found


def _kind_of(part: type[Part]) -> str | None:
    return part.model_fields["kind"].default if "kind" in part.model_fields else None


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks something itself
        fix = f"install it, or set PYTHONPATH to the folder that {error.name.partition('.')[0]} is in"
        raise UserError(f"no module {error.name!r}", where=f"kind: {place}", fix=fix) from None
    if name not in vars(found):
        raise UserError(f"{module} has no {name!r}", where=f"kind: {place}", fix=closest(name, vars(found)))
    return vars(found)[name]


def _resolve(role: Role, value: Any) -> Any:
    if isinstance(value, Part):
        kind = str(_kind_of(type(value)))
        if part_class(kind, role) is not type(value):
            what = f"{type(value).__name__} goes by {kind!r}, which is another {role}"
            raise UserError(what, where=role, fix='give it a kind of its own: Literal["module:Class"]')
    elif isinstance(value, dict):
        return part_class(str(value.get("kind")), role).model_validate(value)
    return value


if TYPE_CHECKING:
    from vistruct import contracts

    class AnyPart(Protocol):
        """A part that can be exchanged; each role adds how it is built."""

        @property
        def kind(self) -> str: ...
        def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self: ...
        def model_dump(self, *, mode: str = "python") -> dict[str, Any]: ...
        def model_dump_json(self) -> str: ...

    class DataPart(AnyPart, Protocol):
        def build(self, cache: Path | None = None) -> contracts.Dataset: ...

    class BackbonePart(AnyPart, Protocol):
        def build(self) -> contracts.Backbone: ...

    class NeckPart(AnyPart, Protocol):
        def build(self, specs: tuple[contracts.FeatureSpec, ...]) -> contracts.Neck: ...

    class BoxHeadPart(AnyPart, Protocol):
        def build(self, specs: tuple[contracts.FeatureSpec, ...], num_classes: int) -> contracts.BoxHead: ...

    class PixelHeadPart(AnyPart, Protocol):
        def build(self, specs: tuple[contracts.FeatureSpec, ...], num_classes: int) -> contracts.Head: ...

    class ClassHeadPart(PixelHeadPart, Protocol): ...

    class CaptionHeadPart(AnyPart, Protocol):
        def build(self, specs: tuple[contracts.FeatureSpec, ...], num_words: int) -> contracts.CaptionHead: ...

    class DecoderPart(AnyPart, Protocol):
        def build(self, specs: tuple[contracts.FeatureSpec, ...], query_width: int) -> contracts.QueryDecoder: ...

    class TaskPart(AnyPart, Protocol):
        def build(
            self, info: contracts.DataInfo, assets: Path, backbone: contracts.Backbone | None = None
        ) -> contracts.Task: ...

    class MetricPart(AnyPart, Protocol):
        def build(self, dataset: Any) -> contracts.Metric: ...
        def usual(self, data: Any) -> str: ...  # the number to compare by, on data of this config
        def higher_is_better(self, number: str) -> bool | None: ...  # None: a count, of which neither is

else:

    def _part(role: Role) -> Any:
        return Annotated[SerializeAsAny[Part], BeforeValidator(partial(_resolve, role))]

    DataPart, BackbonePart, NeckPart = _part("data set"), _part("backbone"), _part("neck")
    BoxHeadPart, PixelHeadPart, ClassHeadPart = _part("box head"), _part("pixel head"), _part("class head")
    CaptionHeadPart, DecoderPart = _part("caption head"), _part("decoder")
    TaskPart, MetricPart = _part("task"), _part("metric")

"""The task types of instructions that point: what is given, what is answered, and how it is made of annotations.

Source: facts about VT-Instruct: the 30 combinations of visual prompt and unit that its public code realises (its own
list is not published), here in that order and under names of our own; `task` is the published name of a task command.
Differs: regions and objects are marks that point at rows (`formats.chat.objects`); all wordings are our own; what is
not there is asked for, too ("none"); key points are a unit of their own; a mask is asked for the others of its kind, as
it would give itself away; captions and expressions that a data set lacks are made of its boxes where those are sure.
Behind the 30 stand depth and points, which had no decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vistruct.data.instructions.found import (
    Pose,
    all_objects,
    class_objects,
    depth,
    expression_object,
    others_like,
    region_object,
)
from vistruct.data.instructions.material import Material, Telling
from vistruct.data.instructions.named import (
    caption,
    caption_objects,
    choice,
    reason,
    region_answer,
    region_label,
    short_answer,
)


@dataclass(frozen=True, kw_only=True)
class TaskType:
    """One combination of what is given and what is answered."""

    given: str  # image, class, expression, box, boxes, point, scribble, mask
    answer: str  # caption, text, boxes, masks, keypoints, ...
    task: str  # the published name
    needs: tuple[str, ...]  # of NEEDS, what a picture must have, unless somebody's talk is one
    says: Telling | None = None  # what somebody said of an image that it uses
    pose: Pose | None = None  # None: it cannot be made up, only carried on from somebody's talks


# What an image must have for a task type, in the words of the table that says what was not possible.
NEEDS: dict[str, Callable[[Material], bool]] = {
    "objects": lambda known: len(known.rows) > 0,
    "classes of objects": lambda known: len(known.named) > 0,
    "several classes": lambda known: len({known.names[row] for row in known.named.tolist()}) > 1,
    "masks": lambda known: len(known.with_mask) > 0,
    "key points": lambda known: len(known.with_keypoints) > 0,
    "captions, or complete annotations": lambda known: known.is_complete or len(known.known.sentences) > 0,
    "expressions, or complete annotations": lambda known: known.is_complete or len(known.known.expressions) > 0,
    "descriptions or classes": lambda known: len(known.named) > 0 or len(known.known.regions) > 0,
    "complete annotations of its classes": lambda known: known.is_complete and len(known.classes) > 0,
    "depth maps": lambda known: len(known.depths) > 0,
    "complete annotations, or classes of images": lambda known: (
        bool(known.known.image_labels) or (known.is_complete and len(known.classes) > 0)
    ),
    "conversations": lambda known: False,
}
_ALL, _CAPTIONS, _SAID = (
    "complete annotations of its classes",
    "captions, or complete annotations",
    "expressions, or complete annotations",
)
_LABELS, _FOUND = "descriptions or classes", ("grounding_detection", "grounding_segmentation")
_NAMED, _ASKED = "classes of objects", "complete annotations, or classes of images"

TASKS: dict[str, TaskType] = {
    "image-caption": TaskType(
        given="image", answer="caption", task="vqa", needs=(_CAPTIONS,), says="caption", pose=caption
    ),
    "image-answer": TaskType(given="image", answer="short answer", task="vqa", needs=(_ASKED,), pose=short_answer),
    "image-reason": TaskType(given="image", answer="answer and reason", task="vqa", needs=(_ALL,), pose=reason),
    "image-chat": TaskType(given="image", answer="chat", task="vqa", needs=("conversations",)),
    "box-text": TaskType(
        given="box", answer="text", task="vqa", needs=(_LABELS,), says="description", pose=region_label("box")
    ),
    "mask-text": TaskType(
        given="mask", answer="text", task="vqa", needs=("masks", _LABELS), says="description", pose=region_label("mask")
    ),
    "point-text": TaskType(
        given="point", answer="text", task="vqa", needs=(_LABELS,), says="description", pose=region_label("point")
    ),
    "scribble-text": TaskType(
        given="scribble", answer="text", task="vqa", needs=(_LABELS,), says="description", pose=region_label("scribble")
    ),
    "point-answer": TaskType(
        given="point", answer="short answer", task="vqa", needs=(_NAMED,), pose=region_answer("point")
    ),
    "box-answer": TaskType(given="box", answer="short answer", task="vqa", needs=(_NAMED,), pose=region_answer("box")),
    "mask-answer": TaskType(
        given="mask", answer="short answer", task="vqa", needs=("masks", _NAMED), pose=region_answer("mask")
    ),
    "image-boxes": TaskType(given="image", answer="boxes", task="detection", needs=(_ALL,), pose=all_objects("box")),
    "class-boxes": TaskType(given="class", answer="boxes", task=_FOUND[0], needs=(_ALL,), pose=class_objects("box")),
    "expression-box": TaskType(
        given="expression",
        answer="box",
        task=_FOUND[0],
        needs=("objects", _SAID),
        says="expression",
        pose=expression_object("box"),
    ),
    "caption-boxes": TaskType(
        given="image",
        answer="caption and boxes",
        task="gcg_detection",
        needs=("objects", _CAPTIONS),
        says="caption",
        pose=caption_objects("box"),
    ),
    "point-box": TaskType(
        given="point", answer="box", task=_FOUND[0], needs=("objects",), pose=region_object("point", "box")
    ),
    "scribble-box": TaskType(
        given="scribble", answer="box", task=_FOUND[0], needs=("objects",), pose=region_object("scribble", "box")
    ),
    "mask-box": TaskType(
        given="mask", answer="box", task=_FOUND[0], needs=("masks",), pose=region_object("mask", "box")
    ),
    "boxes-choice": TaskType(
        given="boxes", answer="one of the boxes", task="gcg_detection", needs=("several classes",), pose=choice("box")
    ),
    "boxes-reason": TaskType(
        given="boxes",
        answer="reason and boxes",
        task="gcg_detection",
        needs=("several classes",),
        pose=choice("box", with_reason=True),
    ),
    "image-masks": TaskType(
        given="image", answer="masks", task="segmentation", needs=("masks", _ALL), pose=all_objects("mask")
    ),
    "class-masks": TaskType(
        given="class", answer="masks", task=_FOUND[1], needs=("masks", _ALL), pose=class_objects("mask")
    ),
    "expression-mask": TaskType(
        given="expression",
        answer="mask",
        task=_FOUND[1],
        needs=("masks", _SAID),
        says="expression",
        pose=expression_object("mask"),
    ),
    "caption-masks": TaskType(
        given="image",
        answer="caption and masks",
        task="gcg_segmentation",
        needs=("masks", _CAPTIONS),
        says="caption",
        pose=caption_objects("mask"),
    ),
    "box-mask": TaskType(
        given="box", answer="mask", task=_FOUND[1], needs=("masks",), pose=region_object("box", "mask")
    ),
    "point-mask": TaskType(
        given="point", answer="mask", task=_FOUND[1], needs=("masks",), pose=region_object("point", "mask")
    ),
    "scribble-mask": TaskType(
        given="scribble", answer="mask", task=_FOUND[1], needs=("masks",), pose=region_object("scribble", "mask")
    ),
    "mask-masks": TaskType(
        given="mask",
        answer="masks of the others like it",
        task=_FOUND[1],
        needs=("masks", _ALL),
        pose=others_like("mask", "mask"),
    ),
    "image-keypoints": TaskType(
        given="class", answer="keypoints", task="detection", needs=("key points", _ALL), pose=class_objects("keypoint")
    ),
    "region-keypoints": TaskType(
        given="box",
        answer="keypoints",
        task="grounding_keypoints",
        needs=("key points",),
        pose=region_object("box", "keypoint"),
    ),
    "image-depth": TaskType(given="image", answer="depth", task="depth", needs=("depth maps",), pose=depth),
    "class-points": TaskType(
        given="class", answer="points", task=_FOUND[0], needs=(_ALL,), pose=class_objects("point")
    ),
}

"""What an ONNX file of a task computes: pixels in, boxes, label maps or classes out.

Three pieces in a row. Before the network: values to float, mean and deviation, padding to whole strides. The network as
torch writes it. Behind it what `predict` does with its numbers, as far as ONNX has words for it. The first and the last
are written out here, so that they hold for images of any size whatever torch makes of the network.

Shapes: B images of H x W pixels, padded to P x Q; K classes; N places of a level; D detections of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.contracts import DenseBoxHead, Selection, Shown
from vistruct.errors import UserError
from vistruct.ops.values import FULL_SCALE
from vistruct.tasks.classify import Classify
from vistruct.tasks.dense import Detect
from vistruct.tasks.segment import Segment

OPSET, IR = 18, 8
LEAST_SIDE = 1e-2  # pixels, of a box that still counts
TYPES = {torch.uint8: "uint8", torch.uint16: "uint16", torch.float32: "float"}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A graph in ONNX's own text, and the constants that it names."""

    text: str
    constants: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a task becomes a file."""

    config: Any  # the task's, as far as the file is it
    core: nn.Module  # float[n, C, P, Q], normalised and padded (and int64[2] if `is_sized`) -> a tuple of tensors
    names: tuple[str, ...]  # of these
    images: int  # that are looked at together
    before: Callable[[torch.dtype], Piece]  # of images of this type
    behind: Piece
    outputs: tuple[str, ...]
    is_sized: bool = False  # the core looks at one image, and is told its height and width without padding
    remaining: tuple[str, ...] = ()  # what of a prediction whoever runs the file does


class BoxCore(nn.Module):
    """Of each level float[B, N, K] scores and float[B, N, 4 or 5] boxes, one after the other."""

    def __init__(self, task: Detect) -> None:
        super().__init__()
        self.task = task
        with torch.no_grad():
            self.words = None if task.names is None else task.names(task.class_names)

    def forward(self, image: Tensor, size: Tensor | None = None) -> tuple[Tensor, ...]:
        maps, head = self.task.backbone(image), cast("Any", self.task.head)
        maps = maps if self.task.neck is None else self.task.neck(maps)
        sizes_hw: Any = () if size is None else ((size[0], size[1]),)
        padded_hw = (image.shape[-2], image.shape[-1])
        shown = None if size is None else Shown(sizes_hw=sizes_hw, padded_hw=padded_hw)
        output = head(maps, shown) if self.words is None else head(maps, shown, self.words)
        return tuple(one for level in head.dense(output, sizes_hw) for one in level)


class MapCore(nn.Module):
    """float[B, K, P, Q], the probability of every class at every pixel."""

    def __init__(self, task: Segment) -> None:
        super().__init__()
        self.task = task

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits = self.task.head(self.task.head_input(self.task.backbone(images))).float()
        whole = F.interpolate(logits, tuple(images.shape[-2:]), mode="bilinear", align_corners=False)
        return (whole.softmax(dim=1),)


class ClassCore(nn.Module):
    """float[B, K], scores."""

    def __init__(self, task: Classify) -> None:
        super().__init__()
        self.task = task

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits = self.task.logits_of(self.task.backbone(images))
        return (logits.sigmoid() if self.task.config.multi_label else logits.softmax(dim=1),)


def plan_of(task: Any) -> Plan:
    """
    Raises:
        UserError: a task, or a head, that no ONNX file of ours holds, and why.
    """
    if isinstance(task, Detect):
        return _boxes(task)
    if isinstance(task, Segment):
        return _maps(task)
    if isinstance(task, Classify):
        return _classes(task)
    what = f"a {task.config.kind!r} is not written as ONNX: that holds detect, oriented, segment, change and classify"
    raise UserError(what, where="--format onnx", fix="--format backbone-plain, its backbone alone")


def _boxes(task: Detect) -> Plan:
    head: Any = task.head
    if not isinstance(head, DenseBoxHead) or (head.selection.is_sized and task.head.traits.is_oriented):
        what = f"a head of kind {task.config.head.kind!r} reads turned proposals, or masks of what it has found"
        fix = "train with --head fcos, retina, faster_rcnn or detr; of oriented boxes --head oriented_fcos"
        raise UserError(f"{what}, which this export does not hold", where="--format onnx", fix=fix)
    names = [name for level in range(head.num_levels) for name in (f"scores_{level}", f"boxes_{level}")]
    oriented = task.head.traits.is_oriented
    selection = head.selection
    remaining = [] if task.config.views is None else ["flips and scales (task.views): the file looks once"]
    if oriented:
        remaining.insert(
            0,
            f"suppression of doubles: rows best first; of two boxes of one class whose IoU is above {selection.nms_iou}"
            f" leave out the later, then those outside the image, and keep {selection.max_detections} at most",
        )
    return Plan(
        config=task.config.model_copy(update={"views": None}),
        core=BoxCore(task),
        names=tuple(names),
        images=1,
        before=lambda dtype: _before(task, 1, dtype),
        behind=_select(head.num_levels, len(task.class_names), selection, oriented),
        outputs=("boxes", "scores", "labels") if oriented else ("boxes", "scores", "labels", "num"),
        is_sized=selection.is_sized,
        remaining=tuple(remaining),
    )


def _maps(task: Segment) -> Plan:
    remaining = ["flips and scales (task.views): the file looks once"] if task.config.views is not None else []
    text = """
    behind (float[b, k, p, q] padded, int64[2] hw) => (float[b, k, h, w] probabilities, int64[b, h, w] label_map) {
        probabilities = Slice (padded, post_corner, hw, post_last)
        label_map = ArgMax <axis = 1, keepdims = 0> (probabilities)
    }"""
    return Plan(
        config=task.config,
        core=MapCore(task),
        names=("padded",),
        images=task.num_images,
        before=lambda dtype: _before(task, task.num_images, dtype),
        behind=Piece(
            text=text,
            constants={"post_corner": np.zeros(2, np.int64), "post_last": np.array([2, 3], np.int64)},
        ),
        outputs=("probabilities", "label_map"),
        remaining=tuple(remaining),
    )


def _classes(task: Classify) -> Plan:
    text = "behind (float[b, k] padded, int64[2] hw) => (float[b, k] scores) { scores = Identity (padded) }"
    flips = task.config.flips
    return Plan(
        config=task.config,
        core=ClassCore(task),
        names=("padded",),
        images=1,
        before=lambda dtype: _before(task, 1, dtype),
        behind=Piece(text=text, constants={}),
        outputs=("scores",),
        remaining=() if flips == ("none",) else (f"the mean over the views {', '.join(flips)}: the file looks once",),
    )


def _before(task: Any, images: int, dtype: torch.dtype) -> Piece:
    """images -> `x`, normalised and padded with the mean colour, and `hw`, their height and width."""
    scale = FULL_SCALE[dtype]
    shape = "b, c, h, w" if images == 1 else f"b, {images}, c, h, w"
    channels = task.backbone.traits.channels
    text = f"""
    before ({TYPES[dtype]}[{shape}] images) => (float[n, {channels}, p, q] pre_x, int64[2] hw) {{
        pre_shape = Shape (images)
        hw = Slice (pre_shape, pre_from, pre_to)
        pre_flat = Concat <axis = 0> (pre_rows, hw)
        pre_images = Reshape (images, pre_flat)
        pre_values = Cast <to = 1> (pre_images)
        pre_centred = Sub (pre_values, pre_mean)
        pre_normal = Div (pre_centred, pre_std)
        pre_negative = Neg (hw)
        pre_more = Mod (pre_negative, pre_divisor)
        pre_pads = Concat <axis = 0> (pre_zeros, pre_more)
        pre_x = Pad (pre_normal, pre_pads)
    }}"""
    mean, std = (value.float() for value in (task.normalise.mean, task.normalise.std))
    return Piece(
        text=text,
        constants={
            "pre_from": np.array([-2], np.int64),
            "pre_to": np.array([2**31], np.int64),
            "pre_rows": np.array([-1, channels], np.int64),
            "pre_mean": (scale * mean).numpy(),
            "pre_std": (scale * std).numpy(),
            "pre_divisor": np.full(2, task.size_divisor, np.int64),
            "pre_zeros": np.zeros(6, np.int64),
        },
    )


def _select(levels: int, num_classes: int, selection: Selection, oriented: bool) -> Piece:
    """Levels of scores and boxes -> boxes, scores and labels, best first: the steps of `heads.selection`.

    Of every level the best pairs of a place and a class; of these, of horizontal boxes, what has an area inside the
    image and no better double of its class. Rows that stand for nothing have the label -1 and the score 0.
    """
    width = 5 if oriented else 4
    said = ", ".join(
        f"float[b, n{i}, {num_classes}] scores_{i}, float[b, m{i}, {width}] boxes_{i}" for i in range(levels)
    )
    lines = [line for i in range(levels) for line in _best_of_level(i, selection.by_class)]
    for name in ("score", "label", "box"):
        lines.append(f"post_{name} = Concat <axis = 1> ({', '.join(f'post_{name}_{i}' for i in range(levels))})")
    suppress = _WITH_AREA + (_ABOVE if selection.nms_iou is None else _SUPPRESS)
    lines += _ranked("post_score") if oriented else suppress + _ranked("post_kept")
    number = "" if oriented else ", int64[b] num"
    outputs = f"float[b, d, {width}] boxes, float[b, d] scores, int64[b, d] labels{number}"
    body = "\n        ".join(lines)
    constants: dict[str, np.ndarray] = {
        "post_classes": np.array(num_classes, np.int64),
        "post_class_column": np.arange(num_classes, dtype=np.int64)[None, :, None],
        "post_rows": np.array([0, -1], np.int64),
        "post_zero": np.array([0], np.int64),
        "post_one": np.array([1], np.int64),
        "post_two": np.array([2], np.int64),
        "post_four": np.array([4], np.int64),
        "post_far": np.array([2**31], np.int64),
        "post_twice": np.array([1, 0, 1, 0], np.int64),
        "post_image_class": np.array([0, 2], np.int64),
        "post_nothing": np.array(0, np.float32),
        "post_none": np.array(-1, np.int64),
        "post_least": np.array(LEAST_SIDE, np.float32),
        "post_candidates": np.array([selection.max_candidates or 2**31], np.int64),
        "post_most": np.array([selection.max_detections], np.int64),
        "post_most_ranked": np.array([2**31 if oriented else selection.max_detections], np.int64),
        "post_iou": np.array([selection.nms_iou or 1.0], np.float32),
        "post_threshold": np.array([selection.score_threshold], np.float32),
    }
    text = f"behind ({said}, int64[2] hw) => ({outputs}) {{\n        {body}\n    }}"
    return Piece(text=text, constants={name: value for name, value in constants.items() if name in text})


def _best_of_level(i: int, by_class: bool) -> list[str]:
    place = f"Identity (post_at_{i})" if by_class else f"Div (post_at_{i}, post_classes)"
    return [
        f"post_flat_{i} = Reshape (scores_{i}, post_rows)",
        f"post_shape_{i} = Shape (post_flat_{i})",
        f"post_pairs_{i} = Slice (post_shape_{i}, post_one, post_two)",
        f"post_num_{i} = Min (post_pairs_{i}, post_candidates)",
        f"post_score_{i}, post_at_{i} = TopK <axis = 1> (post_flat_{i}, post_num_{i})",
        f"post_place_{i} = {place}",
        f"post_label_{i} = Mod (post_at_{i}, post_classes)",
        f"post_index_{i} = Unsqueeze (post_place_{i}, post_two)",
        f"post_box_{i} = GatherND <batch_dims = 1> (boxes_{i}, post_index_{i})",
    ]


_WITH_AREA = [
    "post_sides = Gather <axis = 0> (hw, post_twice)",
    "post_limits = Cast <to = 1> (post_sides)",
    "post_above = Max (post_box, post_nothing)",
    "post_clipped = Min (post_above, post_limits)",
    "post_low = Slice (post_clipped, post_zero, post_two, post_two)",
    "post_high = Slice (post_clipped, post_two, post_four, post_two)",
    "post_extent = Sub (post_high, post_low)",
    "post_shorter = ReduceMin <keepdims = 0> (post_extent, post_two)",
    "post_solid = GreaterOrEqual (post_shorter, post_least)",
    "post_real = Where (post_solid, post_score, post_nothing)",
]
_ABOVE = [
    "post_is_above = Greater (post_real, post_threshold)",
    "post_kept = Where (post_is_above, post_real, post_nothing)",
]
_SUPPRESS = [
    "post_label_row = Unsqueeze (post_label, post_one)",
    "post_is_class = Equal (post_label_row, post_class_column)",
    "post_real_row = Unsqueeze (post_real, post_one)",
    "post_by_class = Where (post_is_class, post_real_row, post_nothing)",
    "post_chosen = NonMaxSuppression (post_clipped, post_by_class, post_most, post_iou, post_threshold)",
    "post_where = Gather <axis = 1> (post_chosen, post_image_class)",
    "post_good = GatherND (post_real, post_where)",
    "post_empty = Mul (post_real, post_nothing)",
    "post_kept = ScatterND (post_empty, post_where, post_good)",
]


def _ranked(score: str) -> list[str]:
    """The best rows of `score`, with their boxes and labels; of oriented boxes all that are above the threshold."""
    is_kept = score == "post_kept"
    lines = [
        f"post_all_shape = Shape ({score})",
        "post_columns = Slice (post_all_shape, post_one, post_two)",
        "post_rank_num = Min (post_columns, post_most_ranked)",
        f"post_top, post_order = TopK <axis = 1> ({score}, post_rank_num)",
        "post_order_index = Unsqueeze (post_order, post_two)",
        f"post_top_box = GatherND <batch_dims = 1> ({'post_clipped' if is_kept else 'post_box'}, post_order_index)",
        "post_top_label = GatherND <batch_dims = 1> (post_label, post_order_index)",
        f"post_there = Greater (post_top, {'post_nothing' if is_kept else 'post_threshold'})",
        "post_there_column = Unsqueeze (post_there, post_two)",
        "boxes = Where (post_there_column, post_top_box, post_nothing)",
        "scores = Where (post_there, post_top, post_nothing)",
        "labels = Where (post_there, post_top_label, post_none)",
    ]
    count = ["post_there_int = Cast <to = 7> (post_there)", "num = ReduceSum <keepdims = 0> (post_there_int, post_one)"]
    return lines + (count if is_kept else [])


def parsed(piece: Piece) -> Any:
    """An onnx.ModelProto."""
    from onnx import numpy_helper, parser

    model = parser.parse_model(f'<ir_version: {IR}, opset_import: ["" : {OPSET}]>\n{piece.text}')
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in piece.constants.items())
    return model


def joined(pieces: Sequence[Any], maps: Sequence[Sequence[tuple[str, str]]], outputs: Sequence[str]) -> Any:
    """Three models in a row; `hw` goes past the network.

    Args:
        pieces: before, network, behind.
        maps: pairs of an output and the input that it goes into, of the first join and of the second.
    """
    from onnx import compose

    before, core, behind = pieces
    said = [value.name for value in core.graph.output]
    first = compose.merge_models(before, core, io_map=list(maps[0]), outputs=[*said, "hw"])
    return compose.merge_models(first, behind, io_map=list(maps[1]), outputs=list(outputs))

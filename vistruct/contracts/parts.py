"""What the parts of a run offer each other: backbone, task, metric, data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from vistruct.contracts.boxes import BoxTarget, Detections, HeadLoss, Queries, Shown
from vistruct.contracts.predictions import Restored
from vistruct.contracts.step import Costs, Measurer, StepOutput
from vistruct.contracts.teachers import OutsideTeacher
from vistruct.contracts.truth import Sample


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """One feature map that a backbone or neck gives."""

    channels: int
    stride: int


State = dict[str, Tensor]  # a state dict: tensors by name


def _as_it_is(state: State) -> State:
    return state


def _nothing_resized(state: State) -> tuple[State, list[str]]:
    return state, []


@dataclass(frozen=True, kw_only=True)
class BackboneTraits:
    """What a backbone offers beside its maps; what it does not speak of is as most have it."""

    channels: int = 3  # of the images it takes; kernels for three colours are inflated to as many
    least_divisor: int | None = None  # pixels, of an image's sides; None: the least common multiple of the strides
    last_norm: bool = False  # whether `tokens` have one on them, which `layers` puts on when asked to
    repeated_blocks: tuple[nn.Module, ...] = ()  # gathered one by one where the model lies spread over devices
    layer_of: Callable[[str], tuple[int, int]] | None = None  # (layer of a parameter, how many); 0: embeddings
    convert_keys: Callable[[State], State] = _as_it_is  # other layouts' names to its own, without what is not its own
    match_state: Callable[[State], list[str]] = lambda state: []  # become the variant of these weights; what it changed
    resize_state: Callable[[State], tuple[State, list[str]]] = _nothing_resized  # fit what depends on sizes; which
    fresh_parts: Callable[[State], set[str]] = lambda state: set()  # names that these weights need not have
    advise: Callable[[Iterable[str]], str] = lambda missing: (
        ""
    )  # what to do where a file lacks these; "": nothing known
    to_published: Callable[[State], State] | None = None  # its names to those of a published .pth; None: none
    published_key: str = "state_dict"  # under which that file has them; "": they are all there is


@dataclass(frozen=True, kw_only=True)
class NeckTraits:
    """What a neck offers beside its maps."""

    least_divisor: int | None = None  # pixels; None: the least common multiple of its strides
    convert_keys: Callable[[State], State] = _as_it_is  # published names to its own
    to_published: Callable[[State], State] | None = None  # and back; None: its layers have none
    repeated_blocks: tuple[nn.Module, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClassLayer:
    """A layer with outputs for each class: `groups` x (K x `each` + `rest`) of them, in this order."""

    name: str  # of the module below the head, dotted
    groups: int = 1  # anchors of a cell, say
    each: int = 1  # outputs of a class
    rest: int = 0  # outputs of no class, behind those of the classes: the background


@dataclass(frozen=True, kw_only=True)
class HeadTraits:
    """What a head learns from and gives, beside what every head does."""

    is_oriented: bool = False  # learns from oriented boxes and gives them
    # Masks that it learns and gives, float: [N, m, m] over each "box", [N, h, w] over the padded "image", at any size.
    masks: Literal["none", "box", "image"] = "none"
    key_points: int = 0  # it learns so many of each object; 0: none
    nms_iou: float = 0.5  # by which the boxes of several views of an image are joined
    max_detections: int = 100  # of one image, after that
    convert_keys: Callable[[State], State] | None = None  # published names to its own; None: it reads none
    to_published: Callable[[State], State] | None = None  # and back; None: it writes none
    name_width: int | None = None  # it tells classes by vectors of their names, so wide; None: by their numbers
    class_layers: tuple[ClassLayer, ...] = ()  # what belongs to one set of classes; the rest may serve several
    repeated_blocks: tuple[nn.Module, ...] = ()


Collator = Callable[[list[Sample]], Any]  # samples -> Batch; without weights, so that it travels to workers


@dataclass(frozen=True, kw_only=True)
class TaskTraits:
    """What a task says of itself beside its verbs; its parts speak for themselves."""

    prediction: str  # kind of what `predict` gives: boxes, maps, classes, answers, `module:NAME`; "": of none
    terms: tuple[str, ...]  # names of the terms of its loss
    class_names: tuple[str, ...] = ()  # what the labels of its predictions stand for
    take_classes: Callable[[tuple[str, ...]], None] | None = None  # tell these apart from now on; None: only its own
    restore: Callable[[Any], list[Restored]] | None = None  # what it tells of a batch as for training; None: nothing
    predict_collator: Collator | None = None  # None: `predict` is given batches as they are for training
    measurer: Measurer | None = None  # says what a record costs; None: nothing is known before decoding
    predict_measurer: Measurer | None = None  # the same of what `predict_collator` makes of it
    work: Callable[[Costs], np.ndarray] | None = None  # how long samples take, in any unit; there with `measurer`
    repeated_blocks: tuple[nn.Module, ...] = ()  # of what has no traits: a language model
    uneven_calls: str = ""  # why some batches call blocks more often than others, which a spread model cannot bear
    # Told of steps done and of all, before each that it is in, and before anything is measured at step 0.
    before_step: Callable[[int, int], None] | None = None
    after_step: Callable[[], None] | None = None  # after each: statistics of earlier steps, summed over ranks by itself
    still: tuple[str, ...] = ()  # modules of it that never train: teachers
    ships: str = "backbone"  # the module whose weights become the run's backbone
    remarks: tuple[str, ...] = ()  # lines for the log about what it made of its data
    teachers: Mapping[str, OutsideTeacher] = field(default_factory=dict)  # from files; never kept or shipped


Traits = BackboneTraits | NeckTraits | HeadTraits | TaskTraits


@runtime_checkable
class Described(Protocol):
    """A module that says what it offers. Those of torch and of others say nothing."""

    @property
    def traits(self) -> Traits: ...


class Weights(Protocol):
    """What is asked of a part because it is an `nn.Module`."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...


@runtime_checkable
class Backbone(Weights, Protocol):
    """`forward(image float[B, C, H, W]) -> list[float[B, D, H/stride, W/stride]]`, one map for each of `specs`.

    The image is already normalised; position embeddings are resized to whatever comes in.
    """

    @property
    def specs(self) -> tuple[FeatureSpec, ...]: ...

    @property
    def traits(self) -> BackboneTraits: ...

    def __call__(self, image: Tensor) -> list[Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A ViT's tokens as one of its blocks left them, or with its last norm on them."""

    patches: Tensor  # float[B, L, D], row by row
    grid_hw: tuple[int, int] | None  # L = h * w; None: only some of the patches are here
    class_token: Tensor | None = None  # float[B, D]; None: it has none
    registers: Tensor | None = None  # float[B, R, D], and what else is neither class nor patch
    before_norm: Tensor  # float[B, N, D], all of them without the norm: class token, registers, patches

    @property
    def map(self) -> Tensor:
        """float[B, D, h, w]."""
        if self.grid_hw is None:
            raise ValueError("some of the patches are no map")
        cells = self.patches.transpose(1, 2)
        # Where it is traced for ONNX, unflatten would be of one size, and channels that may be any stop a batch norm.
        return cells.reshape(cells.shape[0], int(cells.shape[1]), *self.grid_hw)


@runtime_checkable
class TokenBackbone(Backbone, Protocol):
    """A plain ViT: it gives its tokens to a language model, and those of any block to whoever learns from them."""

    width: int
    patch: int  # pixels

    def tokens(self, image: Tensor, keep: Tensor | None = None) -> Tokens:
        """float[B, C, H, W] -> those of the last block; `keep` int64[B, K] chooses patches before the blocks."""
        ...

    def layers(self, image: Tensor, which: Sequence[int], norm: bool = False) -> list[Tokens]:
        """Those of some blocks, counted from 0, or from the last with -1; with the last norm on them if there is one.

        Raises:
            UserError: a block that is not there.
        """
        ...


@runtime_checkable
class UnplacedBackbone(TokenBackbone, Protocol):
    """A plain ViT that can be left in the dark about where a patch lies."""

    def unplaced_tokens(self, image: Tensor, keep: Tensor, is_unplaced: Tensor, instead: Tensor) -> Tokens:
        """As `tokens`, with float[D] in place of the positions of the kept patches that bool[B, K] says."""
        ...


class Neck(Protocol):
    """Feature maps in, feature maps out, one for each of `specs`."""

    @property
    def specs(self) -> tuple[FeatureSpec, ...]: ...

    @property
    def traits(self) -> NeckTraits: ...

    def __call__(self, maps: list[Tensor]) -> list[Tensor]: ...


class Head(Protocol):
    """Feature maps -> logits: float[B, K, h, w] of pixels, float[B, K] of image classes. The loss is the task's."""

    @property
    def traits(self) -> HeadTraits: ...

    def __call__(self, features: list[Tensor]) -> Tensor: ...


@runtime_checkable
class LearningHead(Head, Protocol):
    """A head of pixels with a loss of its own in place of the task's: one that matches what it says with what is there.

    What it gives when called are logits as of any other.
    """

    terms: tuple[str, ...]  # names of the terms of its loss

    def learn(self, features: list[Tensor], label_maps: Tensor) -> HeadLoss:
        """From the classes int16[B, H, W] of the padded batch's pixels, or IGNORED."""
        ...

    def units(self, label_maps: Tensor) -> Mapping[str, float | Tensor]:
        """How many units each term of the loss is summed over."""
        ...


class BoxHead(Protocol):
    """Feature maps -> an output of its own, from which it makes a loss, or detections."""

    terms: tuple[str, ...]  # names of the terms of its loss

    @property
    def traits(self) -> HeadTraits: ...

    def __call__(self, features: list[Tensor], shown: Shown | None = None) -> Any:
        """`shown`: what of the batch is image; None: all of it."""
        ...

    def loss(self, output: Any, targets: list[BoxTarget]) -> HeadLoss:
        """One target for each image; class indices count from 0, background is not a class."""
        ...

    def units(self, targets: list[BoxTarget], size_hw: tuple[int, int]) -> Mapping[str, float | Tensor]:
        """How many units each term of the loss is summed over; `size_hw` is that of the padded images."""
        ...

    def decode(self, output: Any, sizes_hw: list[tuple[int, int]]) -> list[Detections]:
        """Sizes of the images before padding -> what was found in each, in pixels of the padded batch."""
        ...


class QueryDecoder(Weights, Protocol):
    """Queries and feature maps -> one object for each query: its box, its mask, its key points, ..."""

    @property
    def terms(self) -> tuple[str, ...]: ...  # names of the terms of its loss

    @property
    def traits(self) -> HeadTraits: ...

    def __call__(self, queries: Queries, maps: list[Tensor], shown: Shown | None = None) -> Any:
        """`maps` of as many pictures as `queries` has rows; `shown`: what of them is image, None: all of it."""
        ...

    def loss(self, output: Any, targets: list[BoxTarget]) -> HeadLoss:
        """Of each row an object for each query, those of a group in any order, in pixels of the padded picture."""
        ...

    def units(self, targets: list[BoxTarget]) -> Mapping[str, float | Tensor]:
        """How many units each term of the loss is summed over."""
        ...

    def decode(self, output: Any, padded_hw: tuple[int, int]) -> list[Detections]:
        """Of each row one object for each query, in the order of the queries, in pixels of the padded picture.

        `scores` say how well the decoder thinks that each fits; masks are probabilities float[N, h, w] over the
        padded picture, at any resolution.
        """
        ...


class CaptionHead(Protocol):
    """Feature maps -> sentences about the image. Captions are numbers of units: start, units, end, padding."""

    terms: tuple[str, ...]  # names of the terms of its loss

    @property
    def traits(self) -> HeadTraits: ...

    def learn(self, features: list[Tensor], captions: Tensor, lengths: Tensor) -> HeadLoss:
        """int64[B, L], and int64[B] how much of each row counts, start and end too."""
        ...

    def units(self, lengths: Tensor) -> Mapping[str, float | Tensor]:
        """How many units each term of the loss is summed over."""
        ...

    def begin(self, features: list[Tensor]) -> dict[str, Tensor]:
        """What is known before the first unit: tensors whose first dimension is images."""
        ...

    def step(self, tokens: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """int64[N, t] so far, and what is known of their rows -> log-probabilities of the next unit float[N, V], and
        what is known now."""
        ...


class Task(Protocol):
    """Parts composed for one purpose: an `nn.Module` that the engine can train and ask."""

    backbone: Any  # nn.Module, Backbone; of several tasks of a run the same object
    config: Any  # the part that built it

    @property
    def traits(self) -> TaskTraits: ...

    def __call__(self, batch: Any) -> StepOutput: ...

    def units(self, batch: Any) -> Mapping[str, float | Tensor]:
        """Of each term of `StepOutput.terms`, over how many units the batch sums it: a function of the truth alone."""
        ...

    def predict(self, batch: Any) -> list[Any]:
        """Predictions in original-image pixels, one for each sample of the batch."""
        ...

    @property
    def collator(self) -> Collator:
        """For training."""
        ...


@runtime_checkable
class MapTask(Task, Protocol):
    """A task that learns from the maps of a backbone, and from nothing else of it: its images can go through the
    backbone beside those of other tasks."""

    normalise: nn.Module

    def images(self, batch: Any) -> Tensor:
        """float[N, C, H, W] that the backbone is shown, normalised and padded; N a multiple of the samples."""
        ...

    def learn(self, maps: list[Tensor], batch: Any) -> StepOutput:
        """What `forward` gives, from the backbone's maps of `images(batch)`."""
        ...


class Metric(Protocol):
    """Collects predictions against samples' truth; `compute` may be called once, at the end.

    One may also have `details() -> dict`, called after `compute`: what does not fit into single numbers (a confusion
    matrix, counts of each image), as plain json.
    """

    def update(self, predictions: Sequence[Any]) -> None: ...

    def compute(self) -> dict[str, float]: ...


@runtime_checkable
class Watching(Protocol):
    """A metric's config that watches over a run: it is measured before the first step too, and may raise alarms."""

    def alarms(self, numbers: Mapping[str, float], first: Mapping[str, float | None]) -> list[str]:
        """What is wrong, each with what to do; nothing where all is well.

        Args:
            first: the run's first measurement, or nothing.
        """
        ...

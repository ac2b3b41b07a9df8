"""What crosses a border between rooms: the dataclasses and protocols everything else is written against.

files --formats--> Record --dataset--> Sample --collator--> Batch --task--> StepOutput --engine--> step
                                                            Batch --task.predict--> Prediction --metric--> numbers
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Role = Literal["system", "user", "assistant"]
RGB = tuple[int, int, int]  # 0 to 255
IGNORED = -1  # in a label map: a pixel that is neither learned nor counted


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation; `<image>` in a user's text marks where an image goes."""

    role: Role
    text: str


def _no_boxes() -> np.ndarray:
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the annotations say of one image, of a window of it, or of a slice of a volume, before decoding anything.

    Boxes are float32[N, 4] xyxy in pixels of the window (of the image where there is no window); `labels` are
    int64[N] indices into `DataInfo.class_names`. Where objects are annotated more closely, `boxes_xyxy` are the hulls.
    """

    id: str  # unique in its data set; names the image (and window) in every message
    images: tuple[Path, ...]  # one; several for pairs (before, after), bands in files of their own, and chats
    size_hw: tuple[int, int] | None = None  # pixels, of the window if there is one; None: not known before decoding
    window_xyxy: tuple[int, int, int, int] | None = None  # the part of images[0] that this record is about
    image_id: str = ""  # the whole image's record id; equal to `id` unless this is a window
    boxes_xyxy: np.ndarray = field(default_factory=_no_boxes)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    is_crowd: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # bool[N]: many objects in one box
    is_difficult: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # bool[N]: need not be found
    quads: np.ndarray | None = None  # float32[N, 4, 2], corners (x, y) one after the other; None: horizontal boxes only
    masks: tuple[Any, ...] | None = None  # N COCO segmentations (polygons or RLE), pixels of the *whole* image
    keypoints: np.ndarray | None = None  # float32[N, K, 3]: x, y, COCO's visibility (0 not annotated, 1 hidden, 2 seen)
    label_map: Path | None = None  # raster with the class of every pixel, on the grid of images[0]
    slice: int | None = None  # of a volume: which, from 0
    image_labels: tuple[int, ...] | None = None  # classes of the image as a whole: one, or any number (multi-label)
    group: str = ""  # what must not straddle training and test: a patient, a scene, a flight; "": nothing known
    notes: Mapping[str, str] = field(default_factory=dict)  # what else a format says of the image: gsd, source, ...
    turns: tuple[Turn, ...] = ()
    families: tuple[str, ...] = ()  # of each answer, the kind of its question; empty: not known
    max_tiles: int | None = None  # of its images together; None: as the task has it

    def __post_init__(self) -> None:
        if not self.image_id:
            object.__setattr__(self, "image_id", self.id)
        for flag in ("is_crowd", "is_difficult"):
            if len(getattr(self, flag)) != len(self.labels):
                if len(getattr(self, flag)):
                    raise ValueError(f"{self.id}: {len(getattr(self, flag))} {flag} for {len(self.labels)} labels")
                object.__setattr__(self, flag, np.zeros(len(self.labels), bool))

    def keep(self, kept: np.ndarray) -> Self:
        """The same with some of its objects: bool[N] or int64[K]."""
        numbers = np.flatnonzero(kept) if kept.dtype == bool else kept
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[numbers],
            labels=self.labels[numbers],
            is_crowd=self.is_crowd[numbers],
            is_difficult=self.is_difficult[numbers],
            quads=None if self.quads is None else self.quads[numbers],
            masks=None if self.masks is None else tuple(self.masks[i] for i in numbers),
            keypoints=None if self.keypoints is None else self.keypoints[numbers],
        )


@dataclass(kw_only=True)
class Sample:
    """One decoded record. Everything random about it derives from `seed`, never from a global state."""

    id: str
    image_id: str
    seed: int
    images: list[Tensor]  # each uint8[C, H, W]; three channels are RGB
    boxes_xyxy: Tensor = field(default_factory=lambda: torch.zeros(0, 4))  # float[N, 4], pixels of images[0]
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))  # int64[N]
    is_crowd: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))  # bool[N]
    is_difficult: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))  # bool[N]
    quads: Tensor | None = None  # float[N, 4, 2], corners (x, y) one after the other; None: horizontal boxes only
    masks: Tensor | None = None  # bool[N, H, W]
    keypoints: Tensor | None = None  # float[N, K, 3]: x, y, COCO's visibility
    label_map: Tensor | None = None  # int16[H, W], the class of every pixel of images[0], or IGNORED
    image_labels: tuple[int, ...] | None = None  # classes of the image as a whole
    turns: tuple[Turn, ...] = ()
    families: tuple[str, ...] = ()
    max_tiles: int | None = None
    origin_xy: tuple[float, float] = (0.0, 0.0)  # this sample's top left corner in the whole image, pixels
    scale_xy: tuple[float, float] = (1.0, 1.0)  # sample pixels to a pixel of the whole image

    def __post_init__(self) -> None:
        if len(self.is_crowd) != len(self.labels):
            self.is_crowd = torch.zeros(len(self.labels), dtype=torch.bool)
        if len(self.is_difficult) != len(self.labels):
            self.is_difficult = torch.zeros(len(self.labels), dtype=torch.bool)

    def keep(self, kept: Tensor) -> Self:
        """The same with some of its objects: bool[N] or int64[K]."""
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[kept],
            labels=self.labels[kept],
            is_crowd=self.is_crowd[kept],
            is_difficult=self.is_difficult[kept],
            quads=None if self.quads is None else self.quads[kept],
            masks=None if self.masks is None else self.masks[kept],
            keypoints=None if self.keypoints is None else self.keypoints[kept],
        )


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What one record will cost a task, known without decoding a pixel."""

    tokens: int  # of all its rows together, before any are dropped at random
    visual: int  # of those, visual tokens
    supervised: int  # of those, tokens of answers
    tiles: int  # images that go through the backbone
    reason: str = ""  # why it cannot be trained on, or what is cut from it; "": nothing
    is_left_out: bool = False  # whether `reason` leaves it out as a whole


class Measurer(Protocol):
    """Records -> measures; a pure function that may travel to a worker process."""

    @property
    def key(self) -> str:
        """A digest of everything that decides the measures, so that they can be kept for the next start."""
        ...

    def __call__(self, record: Record, sizes_hw: Sequence[tuple[int, int]]) -> Measure:
        """`sizes_hw` are those of the record's images, in pixels."""
        ...


class Batch(Protocol):
    """Padded or packed tensors of several samples."""

    ids: list[str]

    def to(self, device: torch.device) -> Self: ...


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What one forward pass of a task is worth.

    `total` is the loss *summed* over `count` units (images, supervised tokens, matched locations), so that
    sum(total) / sum(count) over micro-batches and ranks is the loss of the whole batch however it was split.
    """

    total: Tensor  # float[], with its graph
    count: float
    metrics: Mapping[str, float | Tensor] = field(default_factory=dict)  # means over the same units, for the log

    @property
    def loss(self) -> Tensor:
        """float[], the mean; 0 where there was nothing to learn from."""
        return self.total / max(self.count, 1.0)


@dataclass(frozen=True, kw_only=True)
class MaskPatch:
    """One object's mask in a large image: only the part where it is."""

    pixels: np.ndarray  # bool[h, w]
    x: int  # of its top left pixel in the whole image
    y: int


@dataclass(frozen=True, kw_only=True)
class BoxPrediction:
    """Detections in one window or image, in pixels of the whole image, best score first."""

    id: str
    image_id: str
    boxes_xyxy: Tensor  # float[N, 4]; of an oriented detector the hulls
    scores: Tensor  # float[N], in [0, 1]
    labels: Tensor  # int64[N], indices into class_names
    class_names: tuple[str, ...]
    boxes_cxcywha: Tensor | None = None  # float[N, 5], le90; None: the detector gives horizontal boxes
    masks: tuple[MaskPatch, ...] | None = None  # N of them; None: the detector gives none
    window_xyxy: tuple[float, float, float, float] | None = None  # the part of the whole image that was looked at

    def keep(self, kept: Tensor) -> Self:
        """The same with some of its detections, in the order asked for: bool[N] or int64[K]."""
        numbers = kept.nonzero().squeeze(1) if kept.dtype == torch.bool else kept
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[numbers],
            scores=self.scores[numbers],
            labels=self.labels[numbers],
            boxes_cxcywha=None if self.boxes_cxcywha is None else self.boxes_cxcywha[numbers],
            masks=None if self.masks is None else tuple(self.masks[i] for i in numbers.tolist()),
        )


@dataclass(frozen=True, kw_only=True)
class AnswerPrediction:
    """A language model's answer about one sample."""

    id: str
    image_id: str
    question: str
    answer: str
    truth: str = ""
    family: str = ""  # the kind of question, "" where it is not known


@dataclass(frozen=True, kw_only=True)
class MapPrediction:
    """The class of every pixel of one image, window or slice, on the grid of its file."""

    id: str
    image_id: str
    label_map: Tensor  # int16[H, W], indices into class_names
    class_names: tuple[str, ...]
    confidence: Tensor | None = None  # uint8[H, W], 255 times the probability of that class; None: not asked for
    window_xyxy: tuple[int, int, int, int] | None = None  # the part of the whole image that this is; None: all of it


@dataclass(frozen=True, kw_only=True)
class ClassPrediction:
    """The class of one image, or all that apply."""

    id: str
    image_id: str
    scores: Tensor  # float[K] in [0, 1]; they sum to one, unless it is multi-label
    class_names: tuple[str, ...]
    is_multi_label: bool = False


Prediction = BoxPrediction | AnswerPrediction | MapPrediction | ClassPrediction


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """One feature map that a backbone or neck gives."""

    channels: int
    stride: int


@runtime_checkable
class Backbone(Protocol):
    """`forward(image float[B, 3, H, W]) -> list[float[B, C, H/stride, W/stride]]`, one map for each of `specs`.

    One whose config has `channels` takes as many instead of 3.

    The image is already normalised; position embeddings are resized to whatever comes in.
    """

    specs: tuple[FeatureSpec, ...]

    def __call__(self, image: Tensor) -> list[Tensor]: ...


@runtime_checkable
class TokenBackbone(Backbone, Protocol):
    """A backbone that also gives its patch tokens to a language model, row-major."""

    width: int
    patch: int

    def tokens(self, image: Tensor, keep: Tensor | None = None) -> Tensor:
        """float[B, 3, H, W] -> float[B, L, D]; `keep` int64[B, K] chooses patches before the blocks."""
        ...


class Task(Protocol):
    """Parts composed for one purpose: an `nn.Module` that the engine can train and ask."""

    backbone: Any  # nn.Module, Backbone

    def __call__(self, batch: Any) -> StepOutput: ...

    def predict(self, batch: Any) -> list[Any]:
        """Predictions in original-image pixels, one for each sample of the batch."""
        ...

    @property
    def collator(self) -> Callable[[list[Sample]], Any]:
        """Samples -> Batch; small, and able to travel to a worker process (it must not hold the weights)."""
        ...


class Metric(Protocol):
    """Collects predictions against samples' truth; `compute` may be called once, at the end.

    One may also have `details() -> dict`, called after `compute`: what does not fit into single numbers (a confusion
    matrix, counts of each image), as plain json.
    """

    def update(self, predictions: Sequence[Any]) -> None: ...

    def compute(self) -> dict[str, float]: ...


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What a task must know of its data before it is built, and what `data.json` keeps."""

    class_names: tuple[str, ...] = ()
    palette: tuple[RGB, ...] | None = None  # colour of each class, where the data set has its own
    channels: int = 3  # of each image
    reading: Mapping[str, Any] = field(default_factory=dict)  # settings that were found out, as json: intake, coding
    num_records: int = 0
    fingerprint: str = ""  # sha256 over the annotation files and the list of images with their sizes in bytes
    counts: Mapping[str, int] = field(default_factory=dict)  # objects by class, turns by family, ...
    dropped: Mapping[str, int] = field(default_factory=dict)  # what was left out or repaired, by reason
    corpus: Callable[[], Iterator[str]] | None = field(default=None, compare=False)  # texts, to train a tokenizer on


class Dataset(Protocol):
    """Records with a way to make a sample of each; `sample` is a pure function of its arguments."""

    @property
    def info(self) -> DataInfo: ...

    @property
    def records(self) -> Sequence[Record]: ...

    def __len__(self) -> int: ...

    def sample(self, index: int, seed: int) -> Sample: ...

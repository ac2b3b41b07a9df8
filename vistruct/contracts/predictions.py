"""What a model says of an image, in pixels of the whole image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from torch import Tensor

from vistruct.contracts.objects import Objects
from vistruct.contracts.truth import Form


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
    objects: Objects[Tensor]  # with their scores; masks as MaskPatch
    class_names: tuple[str, ...]
    window_xyxy: tuple[float, float, float, float] | None = None  # the part of the whole image that was looked at

    def keep(self, kept: Tensor) -> Self:
        """The same with some of its detections, in the order asked for: bool[N] or int64[K]."""
        return replace(self, objects=self.objects.keep(kept))

    def with_columns(self, **columns: Any) -> Self:
        """The same with other columns of objects in the place of its own."""
        return replace(self, objects=replace(self.objects, **columns))


@dataclass(frozen=True, kw_only=True)
class AnswerPrediction:
    """A language model's answer about one sample."""

    id: str
    image_id: str
    question: str
    answer: str
    truth: str = ""
    family: str = ""  # the kind of question, "" where it is not known
    others: tuple[str, ...] = ()  # see `Turn`
    form: Form | None = None  # see `Turn`


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """Words of an answer, and the objects they speak of."""

    text: str
    unit: str  # what is drawn of each object: box, mask, keypoint, point, depth, ...
    rows: tuple[int, ...]  # of the objects
    start: int = 0  # of the phrase in the answer's words
    end: int = 0  # behind it


@dataclass(frozen=True, kw_only=True)
class Grounded:
    """An answer with what it points at: said by a model, or the truth."""

    words: str  # without marks and without the plan
    phrases: tuple[Phrase, ...] = ()
    # Pixels of the image; `scores`: how sure. Of what is no box `boxes_xyxy` are the hulls. Masks are bool[N, H, W] or
    # MaskPatch; a depth is a float32 mask in [0, 1].
    objects: Objects[Tensor] = field(default_factory=lambda: Objects().tensors())
    plan: tuple[tuple[str, str, int], ...] = ()  # what the answer said it would name: (name, unit, how many)
    defects: tuple[str, ...] = ()  # what of the answer's form is broken, named


@dataclass(frozen=True, kw_only=True)
class GroundedPrediction:
    """A language model's answer about one sample, and the objects it points at."""

    id: str
    image_id: str
    question: str
    answer: str  # as it was written, with its marks
    found: Grounded
    truth: Grounded | None = None  # None: nobody knows
    size_hw: tuple[int, int] | None = None  # of the image, pixels; None: not said
    family: str = ""  # the kind of question, "" where it is not known
    others: tuple[str, ...] = ()  # see `Turn`
    form: Form | None = None  # see `Turn`


@dataclass(frozen=True, kw_only=True)
class CaptionPrediction:
    """What is said of one image as a whole."""

    id: str
    image_id: str
    caption: str
    log_probability: float | None = None  # of all its units together; None: nobody says
    is_finished: bool = True  # False: the limit of its length cut it


@dataclass(frozen=True, kw_only=True)
class MapPrediction:
    """The class of every pixel of one image, window or slice, on the grid of its file."""

    id: str
    image_id: str
    label_map: Tensor  # int16[H, W], indices into class_names
    class_names: tuple[str, ...]
    confidence: Tensor | None = None  # uint8[H, W], 255 times the probability of that class; None: not asked for
    probabilities: Tensor | None = None  # float32[K, H, W] of all classes; None: not asked for
    window_xyxy: tuple[int, int, int, int] | None = None  # the part of the whole image that this is; None: all of it


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One thing, or all of one class of stuff, in an image."""

    label: int  # index into class_names
    is_thing: bool
    score: float  # in [0, 1]


@dataclass(frozen=True, kw_only=True)
class PanopticPrediction:
    """Every pixel of one image as part of one segment, or of none."""

    id: str
    image_id: str
    segment_map: Tensor  # int32[H, W], 0 where nothing is said, k + 1 where segments[k] is
    segments: tuple[Segment, ...]
    class_names: tuple[str, ...]  # things first, then stuff


@dataclass(frozen=True, kw_only=True)
class VolumePrediction:
    """The class of every voxel of one volume, slice by slice."""

    id: str
    image_id: str
    label_map: Tensor  # int16[S, H, W], indices into class_names
    class_names: tuple[str, ...]
    spacing_mm: tuple[float, float, float]  # from slice to slice, row to row and column to column
    probabilities: Tensor | None = None  # float32[K, S, H, W] of all classes; None: not asked for


@dataclass(frozen=True, kw_only=True)
class ClassPrediction:
    """The class of one image, or all that apply."""

    id: str
    image_id: str
    scores: Tensor  # float[K] in [0, 1]; they sum to one, unless it is multi-label
    class_names: tuple[str, ...]
    is_multi_label: bool = False


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """One image, and what was said of it, as vectors of length 1 in one space."""

    id: str
    image_id: str
    image: Tensor  # float[E]
    texts: Tensor  # float[T, E], of its captions
    captions: tuple[str, ...] = ()
    cut: int = 0  # captions whose end was not read
    slices: Tensor | None = None  # float[S, E] of length 1, of a volume, in their order; None: it is an image


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One of several pictures of the same place, to be drawn."""

    title: str
    image: Tensor  # number[C, H, W] of any size; floats on the scale of the first panel's
    is_gone: Tensor | None = None  # bool[H, W], pixels of which nothing is shown; None: all are shown


@dataclass(frozen=True, kw_only=True)
class Restored:
    """One image, what was left of it, and what a model puts in the place of the rest: for a picture."""

    id: str
    image_id: str
    panels: tuple[Panel, ...]  # the image first
    note: str = ""  # what must be known to read them


Prediction = (
    BoxPrediction
    | AnswerPrediction
    | GroundedPrediction
    | MapPrediction
    | PanopticPrediction
    | VolumePrediction
    | ClassPrediction
    | CaptionPrediction
    | Embedded
)

"""What the parts of a run offer each other: backbone, task, metric, data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from vistruct.contracts.step import StepOutput
from vistruct.contracts.truth import RGB, Pixels, Record, Sample


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

    def units(self, batch: Any) -> Mapping[str, float | Tensor]:
        """Of each term of `StepOutput.terms`, over how many units the batch sums it: a function of the truth alone."""
        ...

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


class MetricConfig(Protocol):
    """A metric's settings, and what may be said of its numbers before one is computed."""

    kind: str

    def build(self, dataset: Any) -> Metric: ...

    def usual(self, data: Any) -> str:
        """The number that models are compared by unless told otherwise, on data of this config."""
        ...

    def higher_is_better(self, number: str) -> bool | None:
        """None: a count or a setting, of which neither is better."""
        ...


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What a task must know of its data before it is built, and what `data.json` keeps."""

    class_names: tuple[str, ...] = ()
    palette: tuple[RGB, ...] | None = None  # colour of each class, where the data set has its own
    channels: int = 3  # of each image
    pixels: Pixels = "uint8"  # of each image
    # Of each channel, measured where the task asks for it: of values from 0 to 1, or in the unit of raw ones.
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input: Mapping[str, Any] = field(default_factory=dict)  # how images are put before a model: `data.input`, as json
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
